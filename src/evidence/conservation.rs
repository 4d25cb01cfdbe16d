//! Do the pods count what the router sent them?
//!
//! A pod that crashes takes the counts of its last requests with it, and one that closes connections never counts
//! them: neither reports an error. The router knows. So requests that it sent and that no pod counted
//! are compared between the arms like bad requests: what both lose, by the way they are counted, is
//! nobody's fault.
//!
//! Not every request that no pod counted went bad: pods whose counters stand still serve as before. Those of them that the
//! router saw fail did. How many of these are due to the release is harm like any other (see `harm`), and a cap on
//! harm stops it, too. What pods count after all, later, is no longer lost.
//!
//! While stable's pods count less than half of what the router sent them, their counters stand still, or are late, and the
//! canary's may be, too: what was sent meanwhile is looked at when they go on.
//!
//! Where stable's pods count more than the router sent, by callers of their own, what they lose can't be told; so nothing
//! is then.

use serde::{Deserialize, Serialize};

use super::eprocess::{Bet, Phi};
use super::harm::{Harm, Meter};
use super::versus::Versus;
use super::{Count, Sample};

/// At most this share of healthy runs is ever told of losses.
const ALPHA: f64 = 0.01;
/// The canary loses more than 1.5 x stable's share + 2 %.
const LOSES: Bet = Bet::Worse { relative: 1.5, absolute: 0.02 };
/// Pods that show late what they have counted (a cache of the metrics, Prometheus) are so many ticks late at most, in
/// thousandths. What is missing beyond that is lost.
const LATEST: u64 = 3_000;
/// From this share of stable's requests on that the router did not send, stable has other callers.
const DIRECT_SHARE: f64 = 0.02;

/// What the router sent to one arm since it was read last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    pub requests: u64,
    /// Those of them that the router saw fail: 5xx, or no answer.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub failed: u64,
    /// A pod of the arm has ended since, or was not read: what it counted last, nobody knows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

impl Sent {
    fn add(&mut self, more: Self) {
        self.requests = self.requests.saturating_add(more.requests);
        self.failed = self.failed.saturating_add(more.failed);
        self.unknown |= more.unknown;
    }
}

/// The router's counts of one tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Router {
    pub canary: Sent,
    pub stable: Sent,
}

/// The canary loses requests: a reason to hold, for its counts can't be trusted to show its errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lost {
    /// Of all requests that the router sent to the canary, how many its pods never counted.
    pub canary: Count,
    /// The same of stable.
    pub stable: Count,
    /// ln E in nats, and from where on it is told.
    pub evidence: f64,
    pub threshold: f64,
    /// Requests that no pod counted, that the router saw fail, and that failed because of the release.
    #[serde(default)]
    pub harm: Harm,
}

/// One arm's requests since its books were opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    router: u64,
    /// Of these the router saw so many fail.
    failed: u64,
    pods: u64,
    /// Ticks with requests.
    ticks: u64,
    /// The most that the router sent in a tick. Both are not read in the same instant, nor is what a pod counted last before
    /// it ends: so much is forgiven.
    most: u64,
    lost: u64,
    /// So much was missing besides when the loss was found, and forgiven.
    spared: u64,
    /// As many of the lost ones as the router saw fail.
    broken: u64,
    /// All that was looked at, and how much of it was lost, in earlier books too; and how much failed.
    told: Count,
    told_broken: u64,
}

/// A tick of one arm as it is settled.
#[derive(Clone, Copy, Debug, Default)]
struct Settled {
    lost: Count,
    broken: Count,
    /// What was lost is not: the pods have counted it after all.
    is_made_up: bool,
}

impl Account {
    /// What was sent and counted in so many ticks.
    fn push(&mut self, sent: Sent, pods: u64, ticks: u64) {
        self.most = self.most.max(sent.requests.div_ceil(ticks.max(1)));
        if sent.unknown {
            *self = Self { most: self.most, told: self.told, told_broken: self.told_broken, ..Self::default() };
            return;
        }
        if self.router == 0 && sent.requests == 0 {
            // Of an arm that comes into sight the router tells no history, so the pods' is none, either.
            return;
        }
        self.router = self.router.saturating_add(sent.requests);
        self.failed = self.failed.saturating_add(sent.failed.min(sent.requests));
        self.pods = self.pods.saturating_add(pods);
        self.ticks = self.ticks.saturating_add(if sent.requests > 0 { ticks } else { 0 });
    }

    fn missing(&self) -> u64 {
        self.router.saturating_sub(self.pods)
    }

    /// What is missing, in thousandths of an average tick.
    fn late(&self) -> u64 {
        let average = self.router / self.ticks.max(1);
        (self.missing().saturating_mul(1000) / average.max(1)).min(LATEST)
    }

    /// How many more of this tick's requests are lost, where pods are so late, and how many of these have failed.
    fn settle(&mut self, sent: Sent, late: u64) -> Settled {
        if sent.unknown {
            return Settled::default();
        }
        if self.lost > 0 && self.missing() <= self.spared {
            self.make_up();
            return Settled { is_made_up: true, ..Settled::default() };
        }
        let forgiven = self.forgiven(late);
        let lost = self.missing().saturating_sub(forgiven);
        let more = lost.saturating_sub(self.lost).min(sent.requests);
        if more > 0 {
            (self.lost, self.spared) = (self.lost.saturating_add(more), forgiven);
        }
        let broken = self.lost.min(self.failed);
        let more_broken = broken.saturating_sub(self.broken).min(sent.requests);
        self.broken = self.broken.saturating_add(more_broken);
        let [lost, broken] = [more, more_broken].map(|bad| Count { bad, total: sent.requests });
        self.told.add(lost);
        self.told_broken = self.told_broken.saturating_add(broken.bad);
        Settled { lost, broken, is_made_up: false }
    }

    /// The pods have counted what was missing.
    fn make_up(&mut self) {
        self.told.bad = self.told.bad.saturating_sub(self.lost);
        self.told_broken = self.told_broken.saturating_sub(self.broken);
        (self.lost, self.spared, self.broken) = (0, 0, 0);
    }

    fn forgiven(&self, late: u64) -> u64 {
        self.most.saturating_add(self.most.saturating_mul(late) / 1000)
    }

    /// What is missing and failed, and was forgiven.
    fn forgiven_broken(&self) -> u64 {
        self.missing().min(self.failed).saturating_sub(self.broken)
    }

    /// All that was looked at, and how much of it failed.
    fn broken(&self) -> Count {
        Count { bad: self.told_broken, total: self.told.total }
    }

    /// The share of its requests that the router did not send.
    fn direct(&self) -> f64 {
        let more = self.pods.saturating_sub(self.router).saturating_sub(self.most);
        Count { bad: more, total: self.pods }.ratio().unwrap_or(0.0)
    }
}

/// The router's counts against the pods'; bounded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conservation {
    canary: Account,
    stable: Account,
    /// Not yet looked at: what the router sent, what the pods counted (canary, stable), in how many ticks.
    #[serde(default)]
    sent: Router,
    since: (u64, u64),
    #[serde(default)]
    ticks: u64,
    /// How late stable's pods were at most, in thousandths of a tick. The canary's may be as late.
    late: u64,
    versus: Versus,
    #[serde(default)]
    harm: Meter,
}

impl Default for Conservation {
    fn default() -> Self {
        let (canary, stable) = (Account::default(), Account::default());
        Self {
            canary,
            stable,
            sent: Router::default(),
            since: (0, 0),
            ticks: 0,
            late: 0,
            versus: begun(),
            harm: Meter::default(),
        }
    }
}

fn begun() -> Versus {
    let mut versus = Versus::new(LOSES);
    versus.restart(LOSES);
    versus
}

impl Conservation {
    /// What the pods counted in so many ticks, and what the router did, where both points of view were read in full. (After
    /// a gap, many ticks' requests are no busy tick: they would forgive their arm more than the other, for ever.)
    pub fn push(&mut self, router: Option<Router>, canary: u64, stable: u64, ticks: u64) {
        self.ticks = self.ticks.saturating_add(ticks);
        self.since = (self.since.0.saturating_add(canary), self.since.1.saturating_add(stable));
        let Some(Router { canary, stable }) = router else { return };
        self.sent.canary.add(canary);
        self.sent.stable.add(stable);
        if self.since.1.saturating_mul(2) < self.sent.stable.requests {
            return;
        }
        let Router { canary, stable } = std::mem::take(&mut self.sent);
        let (since, ticks) = (std::mem::take(&mut self.since), std::mem::take(&mut self.ticks));
        self.canary.push(canary, since.0, ticks);
        self.stable.push(stable, since.1, ticks);
        self.late = self.late.max(self.stable.late());
        let [canary, stable] = [self.canary.settle(canary, self.late), self.stable.settle(stable, self.late)];
        if canary.is_made_up {
            (self.versus, self.harm) = (begun(), Meter::default());
        }
        let lost = Sample { canary: canary.lost, stable: stable.lost };
        self.versus.play(LOSES, lost, Phi::ONE, &mut None);
        let broken = Sample { canary: canary.broken, stable: stable.broken };
        self.harm.push(broken, self.stable.broken(), Phi::ONE);
    }

    /// The canary's pods lose requests that stable's don't.
    pub fn lost(&self) -> Option<Lost> {
        let (evidence, threshold) = (self.versus.ln_e(0.0), -ALPHA.ln());
        let is_told = evidence >= threshold && self.stable.direct() < DIRECT_SHARE;
        // Where some are lost, those that were forgiven are so, too, most likely: a cap is not to be passed by them.
        let (harm, also) = (self.harm.harm(), self.canary.forgiven_broken() as f64);
        let harm = Harm { failed: harm.failed + also, high: harm.high + also, ..harm };
        is_told.then_some(Lost { canary: self.canary.told, stable: self.stable.told, evidence, threshold, harm })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::super::testing::Dice;
    use super::*;

    /// Requests of which the router saw none fail.
    fn sent(requests: u64) -> Sent {
        Sent { requests, ..Sent::default() }
    }

    fn router(canary: u64, stable: u64) -> Option<Router> {
        Some(Router { canary: sent(canary), stable: sent(stable) })
    }

    /// 200 requests a second, a tenth to the canary.
    struct Traffic {
        dice: Dice,
        conservation: Conservation,
        /// Shares of each arm's requests that its pods count.
        kept: [f64; 2],
        /// So many requests a second that reach stable without the router.
        direct: f64,
        /// What the pods have counted and nobody has read: they are read so many ticks after the router.
        unread: VecDeque<(u64, u64)>,
        /// The router sees those fail that no pod counts. (Else the pods answer them, and do not count.)
        fails: bool,
    }

    impl Traffic {
        fn new(kept: [f64; 2], late: usize) -> Self {
            let conservation = Conservation::default();
            let unread = VecDeque::from(vec![(0, 0); late]);
            Self { dice: Dice::new(4), conservation, kept, direct: 0.0, unread, fails: true }
        }

        fn second(&mut self, change: impl Fn(&mut Option<Router>)) {
            let (canary, stable) = (self.dice.poisson(20.0), self.dice.poisson(180.0));
            let direct = self.dice.poisson(self.direct);
            let counted = (self.dice.binomial(canary, self.kept[0]), self.dice.binomial(stable, self.kept[1]) + direct);
            self.unread.push_back(counted);
            let mut router = router(canary, stable);
            if let Some(router) = router.as_mut().filter(|_| self.fails) {
                router.canary.failed = canary - counted.0;
                router.stable.failed = stable - (counted.1 - direct);
            }
            change(&mut router);
            let (canary, stable) = self.unread.pop_front().unwrap();
            self.conservation.push(router, canary, stable, 1);
        }

        fn seconds(mut self, seconds: usize) -> Self {
            (0..seconds).for_each(|_| self.second(|_| {}));
            self
        }

        fn lost(&self) -> Option<Lost> {
            self.conservation.lost()
        }
    }

    #[test]
    fn requests_that_no_pod_counted_are_told() {
        let traffic = Traffic::new([0.8, 1.0], 0).seconds(120);
        let lost = traffic.lost().unwrap();
        let share = lost.canary.ratio().unwrap();
        assert!((0.12..0.25).contains(&share) && lost.stable.bad == 0, "{lost:?}");
        // and how many: all of the 480 or so, the tick that is forgiven included
        let gone = traffic.conservation.canary.missing();
        assert!((450..520).contains(&gone) && lost.canary.bad < gone, "{gone}: {lost:?}");
        assert!((lost.harm.failed - gone as f64).abs() < 10.0 && lost.harm.low > 200.0, "{lost:?}");
        // where the callers got their answers all the same, nothing was harmed
        let uncounted = Traffic { fails: false, ..Traffic::new([0.8, 1.0], 0) }.seconds(120);
        assert_eq!(uncounted.lost().map(|lost| (lost.canary, lost.harm.failed)), Some((lost.canary, 0.0)));
        // and soon: one tick is forgiven, and 4 of 20 requests are lost in each
        assert!(Traffic::new([0.8, 1.0], 0).seconds(12).lost().is_some());
    }

    #[test]
    fn what_is_late_is_not_lost() {
        for late in 0..=2 {
            assert_eq!(Traffic::new([1.0, 1.0], late).seconds(120).lost(), None, "{late}");
        }
        // Not even when a weight goes from 5 to 50 with the pods two ticks late, or all callers stop.
        let (mut conservation, mut unread) = (Conservation::default(), VecDeque::from(vec![(0, 0); 2]));
        for tick in 0..300 {
            let sent = match tick {
                0..100 => (50, 950),
                100..200 => (500, 500),
                _ => (0, 0),
            };
            unread.push_back(sent);
            let (canary, stable) = unread.pop_front().unwrap();
            conservation.push(router(sent.0, sent.1), canary, stable, 1);
        }
        assert_eq!((conservation.lost(), conservation.canary.told.bad), (None, 0));
    }

    #[test]
    fn pods_that_are_read_late_in_a_tick_and_callers_that_stop_are_no_loss() {
        // Given pods whose first reading has a fifth of a tick that the router's has not:
        let mut conservation = Conservation::default();
        for tick in 0..60 {
            let sent = if tick < 6 { (50, 950) } else { (0, 0) };
            let counted = if tick == 0 { (40, 760) } else { sent };
            conservation.push(router(sent.0, sent.1), counted.0, counted.1, 1);
        }
        assert_eq!((conservation.lost(), conservation.canary.lost), (None, 0));
    }

    #[test]
    fn what_pods_counted_before_the_router_had_a_number_makes_up_for_no_loss() {
        let mut conservation = Conservation::default();
        // Given a canary that comes into the router's sight with what it has had:
        conservation.push(router(0, 950), 50, 950, 1);
        // When it loses a fifth, with one tick forgiven:
        (0..10).for_each(|_| conservation.push(router(50, 950), 40, 950, 1));
        assert_eq!(conservation.canary.lost, 50);
        assert!(conservation.lost().is_some());
    }

    #[test]
    fn counters_that_stand_still_lose_nothing_once_they_go_on() {
        // Given a canary's pods that serve and show what they had for 20 s:
        let mut traffic = Traffic { fails: false, ..Traffic::new([1.0, 1.0], 0) }.seconds(30);
        let read = std::mem::replace(&mut traffic.kept[0], 0.0);
        let before = traffic.conservation.canary.router;
        let mut traffic = traffic.seconds(20);
        let lost = traffic.lost().expect("nobody knows what becomes of them");
        assert!(lost.canary.bad > 300 && lost.harm.failed == 0.0, "{lost:?}");
        // When they go on, with all that came meanwhile:
        traffic.kept[0] = read;
        traffic.unread.push_front((traffic.conservation.canary.router - before, 180));
        let mut traffic = traffic.seconds(60);
        assert_eq!((traffic.lost(), traffic.conservation.canary.told.bad), (None, 0));
        // Then what is lost later is found again.
        traffic.kept[0] = 0.8;
        assert!(traffic.seconds(60).lost().is_some());
    }

    #[test]
    fn counters_that_stand_still_everywhere_are_no_loss_of_the_canary() {
        // Given a time before the canary had its first request, with five seconds in which nobody read, before the canary had its first request:
        let mut conservation = Conservation::default();
        (0..10).for_each(|_| conservation.push(router(0, 200), 0, 200, 1));
        conservation.push(router(0, 1000), 0, 1000, 5);
        (0..10).for_each(|_| conservation.push(router(40, 160), 40, 160, 1));
        // When the counters of all pods stand still:
        for _ in 0..30 {
            conservation.push(router(40, 160), 0, 0, 1);
            assert_eq!(conservation.lost(), None);
        }
    }

    #[test]
    fn what_both_arms_lose_is_nobodys_fault() {
        let traffic = Traffic::new([0.9, 0.9], 0).seconds(300);
        assert_eq!(traffic.lost(), None);
        assert!(traffic.conservation.stable.lost > 3000);
        assert_eq!(traffic.conservation.harm.harm().low, 0.0);
    }

    #[test]
    fn what_a_pod_that_ends_takes_with_it_is_forgiven_and_a_loss_is_found_after_it() {
        // Given a canary of which a pod ends every ten seconds, with all that the arm had in that second:
        let mut traffic = Traffic::new([1.0, 1.0], 0);
        for second in 0..200 {
            let ends = second % 10 == 9;
            traffic.kept[0] = if ends { 0.0 } else { 1.0 };
            traffic.second(|router| router.iter_mut().for_each(|router| router.canary.unknown = ends));
        }
        assert_eq!((traffic.lost(), traffic.conservation.canary.told.bad), (None, 0));
        // When it loses requests by itself:
        traffic.kept[0] = 0.7;
        assert!(traffic.seconds(60).lost().is_some());
    }

    #[test]
    fn ticks_without_the_router_are_made_up_for_by_the_next_one() {
        let mut traffic = Traffic::new([1.0, 1.0], 0);
        let mut behind = (0, 0);
        for second in 0..200_u32 {
            let unread = std::cell::Cell::new((0, 0));
            traffic.second(|router| {
                let Some(Router { canary, stable }) = router else { return };
                canary.requests += behind.0;
                stable.requests += behind.1;
                if second % 4 != 3 {
                    unread.set((canary.requests, stable.requests));
                    *router = None;
                }
            });
            behind = unread.get();
        }
        assert_eq!((traffic.lost(), traffic.conservation.stable.lost), (None, 0));
        assert!(traffic.conservation.stable.told.total > 25_000);
    }

    #[test]
    fn where_stable_has_callers_of_its_own_nothing_is_told() {
        // Given pods that count four of five requests, and at stable as many of its own:
        let mut traffic = Traffic::new([0.8, 0.8], 0);
        traffic.direct = 45.0;
        let traffic = traffic.seconds(300);
        assert!(traffic.conservation.versus.ln_e(0.0) > 4.7, "it looks like a loss");
        assert_eq!(traffic.lost(), None);
        // A probe now and then is no caller.
        let mut traffic = Traffic::new([0.8, 1.0], 0);
        traffic.direct = 1.0;
        assert!(traffic.seconds(120).lost().is_some());
    }

    #[test]
    fn it_goes_on_after_a_restart_and_odd_numbers_do_no_harm() {
        let mut conservation = Conservation::default();
        for tick in 0..200 {
            let most = if tick % 50 == 49 { u64::MAX } else { tick };
            conservation.push(router(most, tick).filter(|_| tick % 3 > 0), tick, most, 1);
            let written = serde_json::to_string(&conservation).unwrap();
            assert!(written.len() < 2000, "{} bytes", written.len());
            assert_eq!(serde_json::from_str::<Conservation>(&written).unwrap(), conservation);
        }
        assert!(conservation.lost().is_none_or(|lost| lost.evidence.is_finite()));
    }
}
