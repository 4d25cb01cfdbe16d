//! Is an arm over its objective, now?
//!
//! Two CUSUM detectors (Page 1954) of the Poisson log likelihood ratio "factor x objective" against
//! "objective": S = max(0, S + bad ln f - (f - 1) q total). A CUSUM looks back exactly as far as the
//! trouble lasts: it sees an outage of a busy service within one tick, and a mild excess of a quiet
//! one after minutes, which no window of fixed length does both. S is capped, so it forgets a
//! finished outage after about 1/(2q) good requests (fast) or 5/q (slow): 50 and 500 for 99 %.

use serde::{Deserialize, Serialize};

use super::Count;
use super::eprocess::Nats;

/// Evidence in nats from which an arm counts as burning. Two or three bad requests out of nowhere.
const BURNING: f64 = 2.0;
const CAP: f64 = BURNING + 1.0;
/// An outage: well over the objective. The detector drifts upwards from 1.8 times the objective.
const FAST: f64 = 3.0;
/// An arm that misses its objective slightly but always, from 1.1 times the objective.
const SLOW: f64 = 1.2;
/// An objective of "nothing may be bad" would never forget.
const LEAST_OBJECTIVE: f64 = 1e-6;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Burn {
    fast: Nats,
    slow: Nats,
}

impl Burn {
    pub(super) fn new() -> Self {
        Self { fast: Nats::ZERO, slow: Nats::ZERO }
    }

    pub(super) fn push(&mut self, count: Count, objective: f64) {
        let allowed = objective.max(LEAST_OBJECTIVE) * count.total as f64;
        let bad = count.bad.min(count.total) as f64;
        let next = |now: Nats, factor: f64| {
            let sum = now.get() + bad * factor.ln() - (factor - 1.0) * allowed;
            Nats::new(sum.clamp(0.0, CAP))
        };
        self.fast = next(self.fast, FAST);
        self.slow = next(self.slow, SLOW);
    }

    /// Well over the objective.
    pub(super) fn outage(&self) -> bool {
        self.fast.get() >= BURNING
    }

    /// Over the objective, be it slightly.
    pub(super) fn any(&self) -> bool {
        self.outage() || self.slow.get() >= BURNING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(bad: u64, total: u64) -> Count {
        Count { bad, total }
    }

    #[test]
    fn an_outage_of_a_busy_arm_is_seen_in_its_first_tick_and_forgotten_soon_after() {
        let mut burn = Burn::new();
        burn.push(count(1, 190), 0.01);
        assert!(!burn.any());
        burn.push(count(38, 190), 0.01);
        assert!(burn.outage());
        for _ in 0..60 {
            burn.push(count(38, 190), 0.01);
        }
        burn.push(count(0, 190), 0.01);
        assert!(!burn.outage());
        for _ in 0..3 {
            burn.push(count(0, 190), 0.01);
        }
        assert!(!burn.any());
    }

    #[test]
    fn an_arm_that_is_always_a_little_over_is_seen_in_the_end() {
        let mut burn = Burn::new();
        for _ in 0..200 {
            burn.push(count(3, 200), 0.01);
        }
        assert!(burn.any() && !burn.outage());
    }

    #[test]
    fn an_arm_within_its_objective_does_not_burn() {
        let mut burn = Burn::new();
        for tick in 0..1000 {
            burn.push(count(u64::from(tick % 4 == 0) * 3, 100), 0.01);
            assert!(!burn.any());
        }
    }
}
