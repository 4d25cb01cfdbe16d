//! How many requests went bad because of this release?
//!
//! The canary's bad requests beyond stable's share of the same ticks, so that an outage of both costs
//! neither anything. What the canary saved before does not pay for what it breaks now: the sum never
//! goes below 0. It is an estimate with a bound, and the cap on it needs no verdict: it stops what is too
//! mild or too sudden to be judged in time.

use serde::{Deserialize, Serialize};

use super::eprocess::Phi;
use super::versus::Block;
use super::{Count, Sample};

/// Probability that the bounds are ever wrong.
const ALPHA: f64 = 0.01;
/// The bounds are tightest at about so many bad requests.
const TIGHTEST: f64 = 30.0;

/// Bad requests because of the release, of one SLO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Harm {
    /// The estimate, at least 0.
    pub failed: f64,
    /// Bounds that hold for all time with 99 %: what chance alone may have added or hidden.
    pub low: f64,
    pub high: f64,
    /// Of the last tick: what every further tick will cost at this weight.
    pub per_tick: f64,
}

impl Harm {
    /// Stop now, or the cap is exceeded by the time that the traffic is gone, `reaction` ticks from now.
    /// A sum that chance alone may have made is no harm: below the noise of a very busy service a cap
    /// can't be kept, and a healthy release is not to be stopped by it.
    pub fn exceeds(&self, cap: f64, reaction: f64) -> bool {
        self.low > 0.0 && self.failed + self.per_tick * reaction >= cap
    }

    /// Share of an error budget that the release has used up: the budget allows the share `objective` of
    /// `requests` to be bad, the requests of the SLO's whole window at the present rate.
    pub fn of_budget(&self, objective: f64, requests: f64) -> f64 {
        let budget = objective * requests;
        if budget > 0.0 { self.failed / budget } else { f64::INFINITY }
    }
}

/// From the decision on, this many seconds pass until the canary has no traffic.
pub const REACTION: f64 = 2.0;

/// The same in ticks of so many seconds, for [`Harm::exceeds`].
pub fn ticks_to_react(interval: f64) -> f64 {
    (REACTION / interval).max(1.0)
}

/// The most bad requests that a release may cost, given the share of the error budget that it may use.
/// See [`Harm::of_budget`].
pub fn cap_of_budget(share: f64, objective: f64, requests: f64) -> f64 {
    share * objective * requests
}

/// The sum so far, in 1e-6 requests, so that it comes back from any JSON as it went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meter {
    block: Block,
    failed: i64,
    /// Variance of that sum if the arms were alike.
    variance: i64,
    per_tick: i64,
}

impl Meter {
    /// `stable`: the run's sums, for times in which stable serves nothing.
    pub(super) fn push(&mut self, sample: Sample, stable: Count, phi: Phi) {
        self.block.add(sample);
        let ratio = if self.block.comparable() {
            self.block.sum.stable.ratio()
        } else if self.block.stale() {
            stable.ratio()
        } else {
            None
        };
        let Some(ratio) = ratio else { return };
        let ticks = f64::from(self.block.ticks.max(1));
        let Sample { canary, stable } = self.block.take();
        let requests = canary.total as f64;
        let excess = canary.bad as f64 - requests * ratio;
        let noise = if stable.total > 0 { requests * requests * ratio / stable.total as f64 } else { 0.0 };
        self.failed = self.failed.saturating_add(micros(excess));
        self.variance = self.variance.saturating_add(micros((canary.bad as f64 + noise) * phi.get()));
        self.per_tick = micros(excess.max(0.0) / ticks);
        if self.failed <= 0 {
            (self.failed, self.variance) = (0, 0);
        }
    }

    pub(super) fn harm(&self) -> Harm {
        let (failed, variance) = (self.failed as f64 / 1e6, self.variance as f64 / 1e6);
        // The normal mixture boundary of Robbins, two-sided (Howard et al. 2021, equation 14).
        let mixed = variance + TIGHTEST;
        let around = (mixed * (mixed / (TIGHTEST * ALPHA * ALPHA)).ln()).sqrt();
        let low = (failed - around).max(0.0);
        Harm { failed, low, high: failed + around, per_tick: self.per_tick as f64 / 1e6 }
    }
}

fn micros(requests: f64) -> i64 {
    (requests * 1e6).round() as i64
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Dice, errors, sample};
    use super::super::*;
    use super::*;

    fn metered(ticks: &[(usize, Sample)]) -> Harm {
        let (mut meter, mut stable) = (Meter::default(), Count::default());
        for &(times, tick) in ticks {
            for _ in 0..times {
                stable.add(tick.stable);
                meter.push(tick, stable, Phi::ONE);
            }
        }
        meter.harm()
    }

    #[test]
    fn harm_is_what_is_bad_beyond_stables_share() {
        // 20 ticks with 10 of 100 bad beside 1 %: 9 too many in each.
        let harm = metered(&[(20, sample(10, 100, 9, 900))]);
        assert!((harm.failed - 180.0).abs() < 1e-6 && (harm.per_tick - 9.0).abs() < 1e-6, "{harm:?}");
        assert!(harm.low > 100.0 && harm.high < 260.0, "{harm:?}");
        // An outage of both costs neither anything.
        let harm = metered(&[(20, sample(1, 100, 9, 900)), (60, sample(20, 100, 180, 900))]);
        assert_eq!((harm.failed, harm.low), (0.0, 0.0));
    }

    #[test]
    fn what_was_saved_before_does_not_pay_for_what_breaks_now() {
        let harm = metered(&[(1000, sample(0, 100, 9, 900)), (10, sample(51, 100, 9, 900))]);
        assert!((harm.failed - 500.0).abs() < 1e-6, "{harm:?}");
    }

    #[test]
    fn without_requests_at_stable_its_share_of_before_counts() {
        let harm = metered(&[(100, sample(1, 100, 9, 900)), (10, sample(51, 100, 0, 0))]);
        assert!((harm.failed - 500.0).abs() < 1e-6, "{harm:?}");
        assert_eq!(metered(&[(100, sample(9, 9, 0, 0))]).failed, 0.0, "no stable at all: nothing to go by");
    }

    #[test]
    fn a_cap_counts_what_is_still_on_its_way() {
        let harm = metered(&[(4, sample(100, 100, 0, 900))]);
        assert!(!harm.exceeds(500.0, 0.9) && harm.exceeds(500.0, 1.0));
        // And speaks of the budget: 99.9 % of 30 million requests allows 30000, 1 % of them is 300.
        assert!((cap_of_budget(0.01, 0.001, 3e7) - 300.0).abs() < 1e-9);
        assert!((harm.of_budget(0.001, 3e7) - 0.0133).abs() < 1e-4);
        assert_eq!(harm.of_budget(0.0, 3e7), f64::INFINITY);
    }

    #[test]
    fn chance_is_no_harm_however_busy_the_service() {
        // Given A/A at 1 % with 40 000 canary requests a second for ten minutes, whose sums wander by
        // some five hundred:
        let mut stopped = 0;
        let mut wandered = 0.0_f64;
        for seed in 0..40 {
            let (mut dice, mut meter, mut stable) = (Dice::new(seed + 1), Meter::default(), Count::default());
            let mut stop = false;
            for _ in 0..600 {
                let tick = dice.tick(80_000.0, 0.5, 0.01, 0.01);
                stable.add(tick.stable);
                meter.push(tick, stable, Phi::ONE);
                wandered = wandered.max(meter.harm().failed);
                stop |= meter.harm().exceeds(500.0, 2.0);
            }
            stopped += u32::from(stop);
        }
        assert!(wandered > 700.0 && stopped <= 1, "{wandered}, {stopped}");
    }

    #[test]
    fn judgements_have_it_and_odd_numbers_do_no_harm() {
        let mut evidence = Evidence::new(&[errors()], 0.01, 1);
        (0..10).for_each(|_| evidence.fold(&[sample(5, 100, 9, 900)]));
        assert!((evidence.judge()[0].harm.failed - 40.0).abs() < 1e-6);
        for odd in [sample(u64::MAX, u64::MAX, 0, 1), sample(0, 0, 9, 3), sample(9, 3, u64::MAX, u64::MAX)] {
            evidence.fold(&[odd]);
            let harm = evidence.judge()[0].harm;
            assert!([harm.failed, harm.low, harm.high, harm.per_tick].iter().all(|x| x.is_finite()), "{harm:?}");
        }
    }
}
