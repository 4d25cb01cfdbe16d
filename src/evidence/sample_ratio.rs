//! Does the canary get the share of requests that the route says?
//!
//! A sequential test for a sample ratio mismatch: the Dirichlet-multinomial e-process of Lindon and
//! Malek (see `multinomial`) against the nearest share that is tolerated. For whatever tolerated share
//! is the true one, that is at most the e-process against this share, so the bound holds. Each weight
//! begins anew, and the k-th has the part 1/(k(k+1)) of the budget: weights may change any number of
//! times.
//!
//! For requests that a router sends one by one. Where connections are balanced (a Service without a
//! route) a share of pods is no share of requests, and there is nothing to check.

use serde::{Deserialize, Serialize};

use super::multinomial::{ln_likelihood, ln_marginal};

/// At most this share of healthy runs is ever told of a mismatch.
const ALPHA: f64 = 0.01;
/// Odds of the canary between what was asked, divided and multiplied by this, are as asked: 5 % may be
/// 4.0 to 6.2 %, 50 % may be 44 to 56 %.
const TOLERATED: f64 = 1.25;
/// How many requests the prior is worth (as in Lindon and Malek's examples).
const CONCENTRATION: f64 = 100.0;
/// After a change of the weight requests under way, and routers that hear of it late, are given so long.
const SETTLE_SECONDS: f64 = 5.0;
/// Readings that are further apart than this are of pods at different times (Prometheus scrapes one after another), so one
/// arm may be ahead of the other by so much: then the counts of as many times that are waited for.
const STAGGERED_SECONDS: f64 = 1.5;
const STAGGERED_TIMES: u64 = 10;
/// What the arms got lately fades by a sixteenth with each tick.
const FADE: u64 = 16;

/// Which way it is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Off {
    /// The canary gets more than asked: the split is broken, and more users than meant are at risk.
    More,
    /// The canary gets less. By the pods' own counts: other callers reach stable without the route, so
    /// that the arms serve different mixes. By the router's counts: the split is broken.
    Less,
}

/// The canary's share is not what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mismatch {
    pub off: Off,
    /// Percent of requests that the route gives the canary.
    pub asked: f64,
    /// Percent that it got since this weight was set.
    pub got: f64,
    /// Requests of both arms in that time.
    pub requests: u64,
    /// ln E in nats, and from where on there is a mismatch.
    pub evidence: f64,
    pub threshold: f64,
}

/// Requests of both arms; bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleRatio {
    /// The weight in thousandths of a percent, and how many there were, this one included.
    weight: u32,
    weights: u64,
    /// Since it was set.
    millis: u64,
    /// The longest time between two readings since then, where that is long.
    #[serde(default)]
    staggered: u64,
    canary: u64,
    stable: u64,
    /// In thousandths, older ones fading.
    lately: (u64, u64),
}

impl SampleRatio {
    /// One tick in which both arms were read: their requests, and the canary's weight in percent as the
    /// accepted route has it.
    pub fn push(&mut self, canary: u64, stable: u64, set_weight: f64, tick_seconds: f64) {
        let weight = (set_weight.clamp(0.0, 100.0) * 1000.0).round() as u32;
        if weight != self.weight || self.weights == 0 {
            self.begin(weight);
            return;
        }
        let seconds = if tick_seconds.is_nan() { 0.0 } else { tick_seconds.clamp(0.0, 3600.0) };
        let millis = (seconds * 1000.0).round() as u64;
        self.millis = self.millis.saturating_add(millis);
        if seconds > STAGGERED_SECONDS {
            self.staggered = self.staggered.max(millis);
        }
        if (self.millis as f64) < SETTLE_SECONDS * 1000.0 {
            return;
        }
        self.canary = self.canary.saturating_add(canary);
        self.stable = self.stable.saturating_add(stable);
        let fade = |old: u64, new: u64| (old - old / FADE).saturating_add(new.saturating_mul(1000));
        self.lately = (fade(self.lately.0, canary), fade(self.lately.1, stable));
        // Mended: what was found before is over.
        if self.mismatch().is_some() && self.tolerates(self.lately.0 as f64, self.lately.1 as f64) {
            self.begin(weight);
        }
    }

    fn begin(&mut self, weight: u32) {
        *self = Self { weight, weights: self.weights.saturating_add(1), ..Self::default() };
    }

    /// Shares of the canary that are as asked; `None` where one arm is to get everything.
    fn tolerated(&self) -> Option<(f64, f64)> {
        let odds = f64::from(self.weight) / f64::from(100_000_u32.saturating_sub(self.weight));
        let share = |odds: f64| odds / (1.0 + odds);
        (odds > 0.0 && odds.is_finite()).then(|| (share(odds / TOLERATED), share(odds * TOLERATED)))
    }

    fn tolerates(&self, canary: f64, stable: f64) -> bool {
        let got = canary / (canary + stable);
        self.tolerated().is_some_and(|(low, high)| (low..=high).contains(&got))
    }

    /// The split is not what was asked for: a reason to hold and to tell, not to roll back.
    pub fn mismatch(&self) -> Option<Mismatch> {
        let (low, high) = self.tolerated()?;
        let settled = (SETTLE_SECONDS * 1000.0) as u64;
        if self.millis < settled.saturating_add(self.staggered.saturating_mul(STAGGERED_TIMES)) {
            return None;
        }
        let counts = [self.canary as f64, self.stable as f64];
        let requests = counts[0] + counts[1];
        if requests <= 0.0 {
            return None;
        }
        let (asked, got) = (f64::from(self.weight) / 100_000.0, counts[0] / requests);
        let nearest = got.clamp(low, high);
        let prior = [asked * CONCENTRATION, (1.0 - asked) * CONCENTRATION];
        let evidence = ln_marginal(&counts, &prior) - ln_likelihood(&counts, &[nearest, 1.0 - nearest]);
        let number = self.weights.max(1) as f64;
        let threshold = (number * (number + 1.0) / ALPHA).ln();
        (evidence >= threshold).then(|| Mismatch {
            off: if got > asked { Off::More } else { Off::Less },
            asked: 100.0 * asked,
            got: 100.0 * got,
            requests: self.canary.saturating_add(self.stable),
            evidence,
            threshold,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Dice;
    use super::*;

    /// Seconds until a mismatch is told, at 200 requests a second.
    fn told(seed: u64, asked: f64, got: f64) -> Option<(u32, Mismatch)> {
        let (mut dice, mut split) = (Dice::new(seed + 1), SampleRatio::default());
        (1..600).find_map(|second| {
            split.push(dice.poisson(2.0 * got), dice.poisson(2.0 * (100.0 - got)), asked, 1.0);
            split.mismatch().map(|mismatch| (second, mismatch))
        })
    }

    #[test]
    fn pods_that_are_read_one_after_another_are_not_taken_for_a_wrong_split() {
        // Given readings each 2 s of what Prometheus scrapes each 5 s, the canary's pods 4 s before stable's:
        let told = |got: f64| {
            let mut split = SampleRatio::default();
            (1..200_u32).find_map(|reading| {
                let scraped =
                    |offset: u32| u64::from((2 * reading + offset) / 5 - (2 * reading + offset - 2) / 5) * 1000;
                let (canary, stable) = (scraped(4) as f64 * got, scraped(0) as f64 * (1.0 - got));
                split.push(canary as u64, stable as u64, 20.0, if scraped(0) > 0 { 5.0 } else { 2.0 });
                split.mismatch().map(|_| 2 * reading)
            })
        };
        // Then the first of them say nothing; and what is wrong is told within two minutes.
        assert_eq!(told(0.2), None);
        assert!(told(0.4).is_some_and(|seconds| seconds < 120), "{:?}", told(0.4));
    }

    #[test]
    fn eight_percent_instead_of_five_are_found_within_a_minute() {
        for seed in 0..50 {
            let (seconds, mismatch) = told(seed, 5.0, 8.0).unwrap();
            assert!(seconds <= 60, "{seconds}");
            assert_eq!((mismatch.off, mismatch.asked), (Off::More, 5.0));
            assert!(mismatch.got > 6.2 && mismatch.evidence >= mismatch.threshold, "{mismatch:?}");
        }
        let (seconds, mismatch) = told(1, 50.0, 25.0).unwrap();
        assert!(seconds <= 20 && mismatch.off == Off::Less, "{seconds}");
    }

    #[test]
    fn a_split_as_asked_is_hardly_ever_blamed_whatever_the_weights_do() {
        // Given shares at the very edge of what is tolerated, and a weight that changes each minute:
        let told = (0..300).filter(|seed| {
            let (mut dice, mut split) = (Dice::new(seed + 1), SampleRatio::default());
            (0..600).any(|second| {
                let asked: f64 = [5.0, 10.0, 25.0, 50.0, 25.0][second / 60 % 5];
                let odds = asked / (100.0 - asked) * if seed % 2 == 0 { TOLERATED } else { 1.0 / TOLERATED };
                let got = odds / (1.0 + odds);
                // Requests under way when the weight changes still go by the old one.
                let got = if second % 60 < 3 { 0.3 } else { got };
                split.push(dice.poisson(200.0 * got), dice.poisson(200.0 * (1.0 - got)), asked, 1.0);
                split.mismatch().is_some()
            })
        });
        let told = told.count();
        assert!(told <= 3, "{told} of 300");
    }

    #[test]
    fn a_split_that_is_mended_is_no_longer_blamed() {
        let mut split = SampleRatio::default();
        (0..300).for_each(|_| split.push(40, 160, 5.0, 1.0));
        assert!(split.mismatch().is_some());
        (0..100).for_each(|_| split.push(10, 190, 5.0, 1.0));
        assert_eq!(split.mismatch(), None);
    }

    #[test]
    fn where_nothing_is_split_nothing_is_checked_and_odd_numbers_do_no_harm() {
        for weight in [0.0, 100.0, f64::NAN, -1.0, 1000.0] {
            let mut split = SampleRatio::default();
            (0..100).for_each(|_| split.push(100, 100, weight, 1.0));
            assert_eq!(split.mismatch(), None);
        }
        let mut split = SampleRatio::default();
        for seconds in [1.0, f64::NAN, f64::INFINITY, -1.0] {
            split.push(u64::MAX, u64::MAX, 50.0, seconds);
            split.push(0, u64::MAX, 50.0, seconds);
        }
        assert!(split.mismatch().is_none_or(|mismatch| mismatch.evidence.is_finite()));
        let written = serde_json::to_string(&split).unwrap();
        assert_eq!(serde_json::from_str::<SampleRatio>(&written).unwrap(), split);
    }
}
