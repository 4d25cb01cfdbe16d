//! Which weight was in force, for counts that come late.

use std::collections::VecDeque;

/// Weights of the last so many seconds are known.
const KEPT: f64 = 300.0;

/// The canary's weight as each look found it.
#[derive(Debug, Default)]
pub(super) struct Weights(VecDeque<(f64, f64)>);

impl Weights {
    /// It is this weight (percent) at this time (seconds).
    pub fn note(&mut self, now: f64, weight: f64) {
        self.0.push_back((now, weight));
        while self.0.get(1).is_some_and(|(at, _)| *at <= now - KEPT) {
            self.0.pop_front();
        }
    }

    /// The least that was in force since then; 0 where that is not known. What was counted under less can't be held
    /// against the canary by more.
    pub fn least_since(&self, since: f64) -> f64 {
        let Some(first) = self.0.iter().rposition(|(at, _)| *at <= since) else { return 0.0 };
        self.0.iter().skip(first).map(|(_, weight)| *weight).fold(f64::INFINITY, f64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_judged_by_the_least_weight_in_force_while_they_were_made() {
        let mut weights = Weights::default();
        assert_eq!(weights.least_since(0.0), 0.0, "nobody knows");
        for (at, weight) in [(10.0, 0.0), (15.0, 20.0), (20.0, 20.0), (25.0, 50.0)] {
            weights.note(at, weight);
        }
        assert_eq!(weights.least_since(f64::INFINITY), 50.0, "what is new is judged by what is now");
        assert_eq!(weights.least_since(16.0), 20.0);
        assert_eq!(weights.least_since(14.0), 0.0, "set in between");
        assert_eq!(weights.least_since(9.0), 0.0, "before the first look");
        weights.note(30.0, 0.0);
        assert_eq!(weights.least_since(26.0), 0.0, "taken back in between");
        assert_eq!(weights.least_since(f64::NEG_INFINITY), 0.0);
    }

    #[test]
    fn it_stays_small() {
        let mut weights = Weights::default();
        for second in 0..10_000 {
            weights.note(f64::from(second), 5.0);
        }
        assert!(weights.0.len() < 310, "{}", weights.0.len());
        assert_eq!(weights.least_since(9_800.0), 5.0);
    }
}
