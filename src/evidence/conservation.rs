//! Do the pods count what the router sent them?
//!
//! A pod that crashes takes the counts of its last requests with it, and one that hangs never counts
//! them: neither reports an error. The router knows. So requests that it sent and that no pod counted
//! are compared between the arms like bad requests: what both lose, by the way they are counted, is
//! nobody's fault. And what stable's pods counted beyond what the router sent came by another way: the
//! arms then serve different mixes.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::eprocess::{Bet, Phi};
use super::versus::Versus;
use super::{Count, Sample};

/// At most this share of healthy runs is ever told of losses.
const ALPHA: f64 = 0.01;
/// The canary loses more than 1.5 x stable's share + 1 %.
const LOSES: Bet = Bet::Worse { relative: 1.5, absolute: 0.01 };
/// Requests under way, and readings that are not taken at the same instant, are given so many ticks.
const GRACE_TICKS: usize = 5;
/// Stable has other callers: so many requests and such a share that the router did not send.
const DIRECT_REQUESTS: u64 = 100;
const DIRECT_SHARE: f64 = 0.05;

/// Requests of both arms in one tick, from one point of view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub canary: u64,
    pub stable: u64,
}

/// The canary loses requests: a reason to hold, for its counts can't be trusted to show its errors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lost {
    /// Of all requests that the router sent to the canary, how many its pods never counted.
    pub canary: Count,
    /// The same of stable.
    pub stable: Count,
    /// ln E in nats, and from where on it is told.
    pub evidence: f64,
    pub threshold: f64,
}

/// One arm's requests so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    router: u64,
    pods: u64,
    /// The router's last ticks, which the pods need not have counted yet.
    under_way: VecDeque<u64>,
    /// Requests given up as lost.
    lost: u64,
}

impl Account {
    /// Returns the tick whose time is up, and how many more requests are lost.
    fn push(&mut self, router: u64, pods: u64) -> Count {
        self.pods = self.pods.saturating_add(pods);
        self.under_way.push_back(router);
        if self.under_way.len() <= GRACE_TICKS {
            return Count::default();
        }
        let total = self.under_way.pop_front().unwrap_or(0);
        self.router = self.router.saturating_add(total);
        let bad = self.router.saturating_sub(self.pods).saturating_sub(self.lost).min(total);
        self.lost = self.lost.saturating_add(bad);
        Count { bad, total }
    }

    fn lost(&self) -> Count {
        Count { bad: self.lost, total: self.router }
    }
}

/// The router's counts against the pods'; bounded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conservation {
    canary: Account,
    stable: Account,
    versus: Versus,
}

impl Default for Conservation {
    fn default() -> Self {
        let mut versus = Versus::new(LOSES);
        versus.restart(LOSES);
        Self { canary: Account::default(), stable: Account::default(), versus }
    }
}

impl Conservation {
    /// One tick in which both points of view were read.
    pub fn push(&mut self, router: Totals, pods: Totals) {
        let canary = self.canary.push(router.canary, pods.canary);
        let stable = self.stable.push(router.stable, pods.stable);
        self.versus.play(LOSES, Sample { canary, stable }, Phi::ONE, &mut None);
    }

    /// The canary's pods lose requests that stable's don't.
    pub fn lost(&self) -> Option<Lost> {
        let (evidence, threshold) = (self.versus.ln_e(0.0), -ALPHA.ln());
        (evidence >= threshold).then(|| Lost {
            canary: self.canary.lost(),
            stable: self.stable.lost(),
            evidence,
            threshold,
        })
    }

    /// Stable's requests, and how many of them (`bad`) came by another way than the router, if that is
    /// worth telling.
    pub fn direct(&self) -> Option<Count> {
        let Account { router, pods, under_way, .. } = &self.stable;
        let sent = router.saturating_add(under_way.iter().fold(0_u64, |sum, tick| sum.saturating_add(*tick)));
        let direct = Count { bad: pods.saturating_sub(sent), total: *pods };
        let share = direct.ratio().unwrap_or(0.0);
        (direct.bad >= DIRECT_REQUESTS && share >= DIRECT_SHARE).then_some(direct)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Dice;
    use super::*;

    fn totals(canary: u64, stable: u64) -> Totals {
        Totals { canary, stable }
    }

    /// Two minutes at 200 requests a second, a tenth to the canary, of which `kept` are counted; the
    /// pods are read `late` ticks after the router.
    fn watched(kept: f64, late: usize, direct: u64) -> Conservation {
        let (mut dice, mut conservation) = (Dice::new(4), Conservation::default());
        let mut under_way = VecDeque::from(vec![Totals::default(); late]);
        for _ in 0..120 {
            let sent = totals(dice.poisson(20.0), dice.poisson(180.0));
            let counted = totals(dice.binomial(sent.canary, kept), sent.stable + dice.poisson(direct as f64));
            under_way.push_back(counted);
            conservation.push(sent, under_way.pop_front().unwrap());
        }
        conservation
    }

    #[test]
    fn requests_that_no_pod_counted_are_told() {
        let lost = watched(0.8, 0, 0).lost().unwrap();
        let share = lost.canary.ratio().unwrap();
        assert!((0.12..0.25).contains(&share) && lost.stable.bad == 0, "{lost:?}");
    }

    #[test]
    fn what_is_late_is_not_lost() {
        for late in 0..=GRACE_TICKS {
            assert_eq!(watched(1.0, late, 0).lost(), None, "{late}");
        }
        // Not even when a weight goes from 5 to 50 with the pods three ticks late.
        let (mut conservation, mut under_way) = (Conservation::default(), VecDeque::from(vec![Totals::default(); 3]));
        for tick in 0..200 {
            let sent = if tick < 100 { totals(50, 950) } else { totals(500, 500) };
            under_way.push_back(sent);
            conservation.push(sent, under_way.pop_front().unwrap());
        }
        assert_eq!(conservation.lost(), None);
    }

    #[test]
    fn what_both_arms_lose_is_nobodys_fault() {
        let (mut dice, mut conservation) = (Dice::new(9), Conservation::default());
        for _ in 0..300 {
            let sent = totals(dice.poisson(20.0), dice.poisson(180.0));
            let kept = totals(dice.binomial(sent.canary, 0.9), dice.binomial(sent.stable, 0.9));
            conservation.push(sent, kept);
        }
        assert_eq!(conservation.lost(), None);
        assert!(conservation.stable.lost > 3000);
    }

    #[test]
    fn callers_that_go_round_the_router_are_told() {
        assert_eq!(watched(1.0, 0, 0).direct(), None);
        assert_eq!(watched(1.0, 0, 3).direct(), None, "a probe now and then is no traffic");
        let direct = watched(1.0, 0, 60).direct().unwrap();
        assert!((0.2..0.3).contains(&direct.ratio().unwrap()), "{direct:?}");
    }

    #[test]
    fn it_goes_on_after_a_restart_and_odd_numbers_do_no_harm() {
        let mut conservation = Conservation::default();
        for tick in 0..200 {
            let most = if tick % 50 == 49 { u64::MAX } else { tick };
            conservation.push(totals(most, tick), totals(tick, most));
            let written = serde_json::to_string(&conservation).unwrap();
            assert!(written.len() < 2000, "{} bytes", written.len());
            assert_eq!(serde_json::from_str::<Conservation>(&written).unwrap(), conservation);
        }
        assert!(conservation.lost().is_none_or(|lost| lost.evidence.is_finite()));
    }
}
