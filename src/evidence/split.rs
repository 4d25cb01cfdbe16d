//! Where the requests went: the canary's share as it is, and an arm that has fallen silent.
//!
//! Total requests only. A canary that hangs or refuses connections counts no requests, so no error
//! ratio will ever give it away.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// The share is taken over so many seconds.
const WINDOW_SECONDS: f64 = 10.0;
const WINDOW_TICKS: usize = 64;
/// A tick that claims to be longer was a gap, not an observation.
const LONGEST_TICK: f64 = 30.0;
/// Silent: no request for so long ...
const SILENT_SECONDS: f64 = 5.0;
/// ... or, where nobody could read the canary's counters ...
const UNREADABLE_SECONDS: f64 = 10.0;
/// ... while so many were to be expected. (By chance none of 20: e^-20.)
const EXPECTED: f64 = 20.0;
/// An arm that has answered this share of what was expected, as the router saw it, does answer.
const ANSWERING: f64 = 0.5;
/// What the canary got of its due is remembered for about 20 ticks with requests.
const FADE: f64 = 0.95;

/// How long each arm's request counter has stood still, in seconds. Only what was read counts: a
/// counter that nobody could read may have moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmSeconds {
    pub canary: f64,
    pub stable: f64,
}

/// An arm gets nothing although it should.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Silent {
    /// For how long.
    pub seconds: f64,
    /// Requests it should have had in that time, judging by the other arm's.
    pub expected: f64,
    /// Its counters could not be read (else: they were read, and stood still).
    pub unreadable: bool,
    /// Requests that the router sent it in that time and saw answered, where that is known.
    pub answered: u64,
}

impl Silent {
    /// It answers, as far as the router can see, and only its counters stand still.
    pub fn is_answering(&self) -> bool {
        self.answered as f64 >= ANSWERING * self.expected
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Tick {
    canary: u64,
    stable: u64,
    seconds: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Spell {
    seconds: f64,
    /// Requests that the weight promised the arm, by those of the other one.
    due: f64,
}

impl Spell {
    fn add(&mut self, seconds: f64, due: f64) {
        self.seconds = kept(self.seconds + seconds);
        self.due = kept(self.due + due);
    }
}

/// Rounded to 1e-6, so that it comes back from any JSON as it went.
fn kept(sum: f64) -> f64 {
    (sum.clamp(0.0, 1e9) * 1e6).round() / 1e6
}

/// Seconds of a tick, as far as they are an observation.
fn sane(tick_seconds: f64) -> f64 {
    if tick_seconds.is_nan() { 0.0 } else { tick_seconds.clamp(0.0, LONGEST_TICK) }
}

/// Both arms are due requests. At 100 % stable is due none, so neither says what the other is due.
fn is_shared(weight: f64) -> bool {
    weight > 0.0 && weight < 100.0
}

/// A sliding window over the ticks of a run. Bounded: at most 64 ticks and a few sums.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Split {
    window: VecDeque<Tick>,
    idle: ArmSeconds,
    /// Since the canary's last request: ticks that were read, and ticks in which only stable was.
    zero: Spell,
    unread: Spell,
    /// What the router saw the canary answer meanwhile.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    answered: u64,
    /// Since stable's last request: ticks that were read.
    #[serde(default)]
    stable_zero: Spell,
    /// Requests the canary had while it served, and those due to it then; older ones fade.
    had: f64,
    due: f64,
}

impl Split {
    /// One tick. Totals are requests in this tick, `None`: the arm could not be read. `set_weight`:
    /// the canary's weight in percent as the route has it.
    pub fn push(&mut self, canary_total: Option<u64>, stable_total: Option<u64>, set_weight: f64, tick_seconds: f64) {
        let seconds = sane(tick_seconds);
        if let (Some(canary), Some(stable)) = (canary_total, stable_total) {
            self.window.push_back(Tick { canary, stable, seconds });
            self.trim();
        }
        let still = |idle: f64, total| match total {
            Some(0) => kept(idle + seconds),
            Some(_) | None => 0.0,
        };
        self.idle =
            ArmSeconds { canary: still(self.idle.canary, canary_total), stable: still(self.idle.stable, stable_total) };
        self.listen(canary_total, stable_total, set_weight, seconds);
        if !is_shared(set_weight) || stable_total.is_some_and(|total| total > 0) {
            self.stable_zero = Spell::default();
        }
    }

    /// The same tick, as the router saw it: requests that it sent to the canary, and that did not fail.
    pub fn listen_to_router(&mut self, answered: u64) {
        if self.idle.canary > 0.0 {
            self.answered = self.answered.saturating_add(answered);
        }
    }

    /// The same tick, where both were read and requests are shared by weight alone: those that are sent to the canary
    /// by what they are say nothing of stable.
    pub fn listen_to_stable(&mut self, canary: u64, stable: u64, asked: f64, tick_seconds: f64) {
        if canary > 0 && stable == 0 && is_shared(asked) {
            self.stable_zero.add(sane(tick_seconds), canary as f64 * (100.0 - asked) / asked);
        }
    }

    fn listen(&mut self, canary: Option<u64>, stable: Option<u64>, weight: f64, seconds: f64) {
        let shared = is_shared(weight);
        let due = match stable {
            Some(stable) if shared => Some(stable as f64 * weight / (100.0 - weight)),
            _ => None,
        };
        if let (Some(total @ 1..), Some(due)) = (canary, due) {
            self.had = kept(self.had * FADE + total as f64);
            self.due = kept(self.due * FADE + self.zero.due + due);
        }
        if !shared || canary.is_some_and(|total| total > 0) {
            (self.zero, self.unread, self.answered) = (Spell::default(), Spell::default(), 0);
        } else if let Some(due) = due {
            // Time in which stable's counters stand still, too, says nothing: what comes of it in one piece at its end is
            // not yet read at the canary, perhaps.
            let seconds = if due > 0.0 { seconds } else { 0.0 };
            match canary {
                Some(_) => self.zero.add(seconds, due),
                None => self.unread.add(seconds, due),
            }
        }
    }

    /// Callers that go round the route reach only stable and inflate what the canary seems to be
    /// due. What it got of that while it served is what it can be expected to get.
    fn usual(&self) -> f64 {
        if self.due > 0.0 { (self.had / self.due).min(1.0) } else { 1.0 }
    }

    fn trim(&mut self) {
        let mut seconds: f64 = self.window.iter().map(|tick| tick.seconds).sum();
        while let Some(first) = self.window.front() {
            let rest = seconds - first.seconds;
            if rest < WINDOW_SECONDS && self.window.len() <= WINDOW_TICKS {
                break;
            }
            seconds = rest;
            self.window.pop_front();
        }
    }

    /// Percent of the requests of the last 10 seconds that the canary got; `None` without requests.
    pub fn seen(&self) -> Option<f64> {
        let sum = |total: fn(&Tick) -> u64| self.window.iter().map(|t| total(t) as f64).sum();
        let (canary, stable): (f64, f64) = (sum(|t| t.canary), sum(|t| t.stable));
        let all = canary + stable;
        (all > 0.0).then(|| 100.0 * canary / all)
    }

    /// Is the canary silent while it should serve? Careful: no single request in at least 5 seconds
    /// in which at least 20 were due; 10 seconds where its counters could not be read.
    pub fn silent(&self) -> Option<Silent> {
        let expected = |spell: Spell| spell.due * self.usual();
        let long = |spell: Spell, least: f64| spell.seconds >= least && expected(spell) >= EXPECTED;
        let both = Spell { seconds: self.zero.seconds + self.unread.seconds, due: self.zero.due + self.unread.due };
        let (spell, unreadable) = if long(self.zero, SILENT_SECONDS) {
            (self.zero, false)
        } else if long(both, UNREADABLE_SECONDS) {
            (both, self.unread.seconds > 0.0)
        } else {
            return None;
        };
        Some(Silent { seconds: spell.seconds, expected: expected(spell), unreadable, answered: self.answered })
    }

    /// Is stable silent while it should serve? As careful. (Of one that can't be read nothing is known.)
    pub fn stable_silent(&self) -> Option<Silent> {
        let Spell { seconds, due } = self.stable_zero;
        let is_long = seconds >= SILENT_SECONDS && due >= EXPECTED;
        is_long.then_some(Silent { seconds, expected: due, unreadable: false, answered: 0 })
    }

    /// How long each arm's request counter has stood still.
    pub fn idle_for(&self) -> ArmSeconds {
        self.idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(split: &mut Split, n: usize, canary: Option<u64>, stable: Option<u64>, weight: f64) {
        for _ in 0..n {
            split.push(canary, stable, weight, 1.0);
            if let (Some(canary), Some(stable)) = (canary, stable) {
                split.listen_to_stable(canary, stable, weight, 1.0);
            }
        }
    }

    #[test]
    fn the_share_is_that_of_the_last_ten_seconds() {
        let mut split = Split::default();
        assert_eq!(split.seen(), None);
        ticks(&mut split, 100, Some(5), Some(95), 5.0);
        assert_eq!(split.seen(), Some(5.0));
        ticks(&mut split, 10, Some(50), Some(50), 50.0);
        assert_eq!(split.seen(), Some(50.0));
        ticks(&mut split, 20, Some(0), Some(0), 50.0);
        assert_eq!(split.seen(), None);
        assert!(split.window.len() <= 10);
    }

    #[test]
    fn a_canary_that_hangs_is_silent_after_five_seconds() {
        let mut split = Split::default();
        ticks(&mut split, 20, Some(10), Some(190), 5.0);
        ticks(&mut split, 4, Some(0), Some(190), 5.0);
        assert_eq!(split.silent(), None);
        ticks(&mut split, 1, Some(0), Some(190), 5.0);
        let silent = split.silent();
        assert!(silent.is_some_and(|s| s.seconds >= 5.0 && s.expected > 49.0 && !s.unreadable));
        // One request and it is alive.
        ticks(&mut split, 1, Some(1), Some(190), 5.0);
        assert_eq!(split.silent(), None);
    }

    #[test]
    fn counters_that_stood_still_and_go_on_at_stable_first_say_nothing_of_the_canary() {
        let mut split = Split::default();
        ticks(&mut split, 20, Some(40), Some(160), 20.0);
        ticks(&mut split, 15, Some(0), Some(0), 20.0);
        ticks(&mut split, 1, Some(0), Some(16 * 160), 20.0);
        assert_eq!(split.silent(), None);
        ticks(&mut split, 4, Some(0), Some(160), 20.0);
        assert!(
            split.silent().is_some_and(|silent| silent.seconds <= 5.0),
            "but if it goes on to count none, it is silent"
        );
    }

    #[test]
    fn a_canary_nobody_can_read_is_given_ten_seconds() {
        let mut split = Split::default();
        ticks(&mut split, 9, None, Some(190), 5.0);
        assert_eq!(split.silent(), None);
        ticks(&mut split, 1, None, Some(190), 5.0);
        assert!(split.silent().is_some_and(|s| s.unreadable));
    }

    #[test]
    fn when_nothing_can_be_read_nothing_is_said() {
        let mut split = Split::default();
        ticks(&mut split, 100, None, None, 5.0);
        assert_eq!(split.silent(), None);
        ticks(&mut split, 100, Some(0), None, 5.0);
        assert_eq!(split.silent(), None);
    }

    #[test]
    fn without_weight_or_without_traffic_silence_is_no_fault() {
        let mut split = Split::default();
        ticks(&mut split, 100, Some(0), Some(190), 0.0);
        assert_eq!(split.silent(), None);
        ticks(&mut split, 100, Some(0), Some(0), 50.0);
        assert_eq!(split.silent(), None);
        ticks(&mut split, 100, Some(0), Some(10), 100.0);
        assert_eq!(split.silent(), None);
        // The seconds count from the moment the weight was set.
        ticks(&mut split, 4, Some(0), Some(190), 50.0);
        assert_eq!(split.silent(), None);
    }

    #[test]
    fn a_stable_version_that_counts_none_of_its_share_is_silent_too() {
        let mut split = Split::default();
        ticks(&mut split, 10, Some(2), Some(8), 20.0);
        // Given counters that stand still, and 8 requests due a second:
        ticks(&mut split, 4, Some(2), Some(0), 20.0);
        assert_eq!(split.stable_silent(), None);
        ticks(&mut split, 1, Some(2), Some(0), 20.0);
        let silent = split.stable_silent();
        assert!(silent.is_some_and(|silent| silent.seconds >= 5.0 && (silent.expected - 40.0).abs() < 1e-6));
        // Nobody asks, nobody can read it: that proves nothing, and ends nothing either.
        ticks(&mut split, 9, Some(0), Some(0), 20.0);
        ticks(&mut split, 9, Some(2), None, 20.0);
        assert_eq!(split.stable_silent(), silent);
        // One request is enough; at 100 % none is due; and few may be missing by chance.
        ticks(&mut split, 1, Some(2), Some(1), 20.0);
        assert_eq!(split.stable_silent(), None);
        ticks(&mut split, 60, Some(10), Some(0), 100.0);
        assert_eq!(split.stable_silent(), None);
        ticks(&mut split, 19, Some(1), Some(0), 50.0);
        assert_eq!(split.stable_silent(), None);
    }

    #[test]
    fn a_canary_that_the_router_sees_answer_only_does_not_count() {
        let seconds = |split: &mut Split, n: usize, stable: u64, answered: u64| {
            for _ in 0..n {
                ticks(split, 1, Some(0), Some(stable), 20.0);
                split.listen_to_router(answered);
            }
        };
        let is_answering = |split: &Split| split.silent().map(|silent| silent.is_answering());
        // Given counters that stand still at both, and go on at stable, with all that came meanwhile:
        let mut split = Split::default();
        ticks(&mut split, 20, Some(40), Some(160), 20.0);
        split.listen_to_router(1_000_000);
        seconds(&mut split, 15, 0, 40);
        seconds(&mut split, 1, 16 * 160, 40);
        seconds(&mut split, 5, 160, 38);
        assert_eq!(is_answering(&split), Some(true));
        // When it hangs, what it has answered is soon too little:
        seconds(&mut split, 25, 160, 0);
        assert_eq!(is_answering(&split), Some(false));
        // Nor do answers of an earlier silence count.
        ticks(&mut split, 1, Some(40), Some(160), 20.0);
        split.listen_to_router(1_000_000);
        seconds(&mut split, 5, 160, 1);
        assert_eq!(is_answering(&split), Some(false));
    }

    #[test]
    fn callers_that_go_round_the_route_do_not_make_the_canary_silent() {
        // Nine of ten callers reach stable directly: the canary gets a tenth of what is due.
        let mut split = Split::default();
        ticks(&mut split, 50, Some(1), Some(199), 5.0);
        ticks(&mut split, 10, Some(0), Some(199), 5.0);
        assert_eq!(split.silent(), None);
    }

    #[test]
    fn a_counter_has_stood_still_only_as_long_as_somebody_looked() {
        let mut split = Split::default();
        ticks(&mut split, 3, Some(0), Some(7), 50.0);
        assert_eq!(split.idle_for().canary, 3.0);
        assert_eq!(split.idle_for().stable, 0.0);
        ticks(&mut split, 1, None, Some(0), 50.0);
        assert_eq!(split.idle_for().canary, 0.0);
        assert_eq!(split.idle_for().stable, 1.0);
    }

    #[test]
    fn odd_numbers_do_no_harm() {
        let mut split = Split::default();
        for weight in [f64::NAN, f64::INFINITY, -3.0, 100.0, 99.999_999] {
            for seconds in [f64::NAN, -1.0, f64::INFINITY, 0.0] {
                split.push(Some(u64::MAX), Some(u64::MAX), weight, seconds);
                split.push(Some(0), Some(u64::MAX), weight, seconds);
            }
        }
        assert!(split.seen().is_some_and(f64::is_finite));
        assert!(split.idle_for().canary.is_finite());
        for _ in 0..10_000 {
            split.push(Some(1), Some(1), 50.0, 0.0);
        }
        assert!(split.window.len() <= WINDOW_TICKS);
    }
}
