//! What an SLO is looked at through: its own counts, and facets of them.
//!
//! A regression may hide in the sum: a slow tail that the threshold does not divide, a tenant among
//! hundreds. Each facet is an e-process of its own against stable, with the SLO's tolerance; the mean
//! of all by weights fixed before the run is one e-process again. So the SLO keeps its share of the
//! false-alarm budget however many facets it has, and however they depend on each other: a facet of
//! weight w costs ln(1/w) nats more to be convicted by.

use serde::{Deserialize, Serialize};

use super::{Slo, TailBounds};

/// Shares are kept in whole parts of 1e-9, so that they come back from any JSON as they went.
const PARTS: f64 = 1e9;
/// What facets leave to the SLO's own counts at least.
const OWN: f64 = 0.01;

/// Share of an SLO's evidence that its strata have together.
const BY_STRATA: f64 = 0.5;

/// A part of an SLO's requests, or another threshold for them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facet {
    /// Such as "slower than 0.5 s" or "tenant=a".
    pub name: String,
    /// Its share of the SLO's evidence, 0..1.
    pub weight: f64,
}

/// An SLO and its facets. What their weights leave belongs to the SLO's own counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Watch {
    pub(super) slo: Slo,
    pub(super) facets: Vec<Facet>,
}

impl From<Slo> for Watch {
    /// Its own counts only.
    fn from(slo: Slo) -> Self {
        Self { slo, facets: Vec::new() }
    }
}

impl Watch {
    /// A latency SLO that is looked at through further bounds of its histogram, too, all with the same
    /// weight. The samples of a tick follow in the order of [`TailBounds::others`].
    #[must_use]
    pub fn through_bounds(self, bounds: &TailBounds) -> Self {
        self.through_bounds_named(bounds.others().iter().map(|bound| (Self::slower_than(*bound), 1.0)).collect())
    }

    /// The same, by what the bounds are called; their weights are equal.
    #[must_use]
    pub fn through_bounds_named(self, names: Vec<(String, f64)>) -> Self {
        let share = names.len() as f64 / (names.len() + 1) as f64;
        self.through(names, share)
    }

    /// How the name of a further bound begins.
    pub const SLOWER_THAN: &str = "slower than ";

    /// What a bound in seconds is called.
    pub fn slower_than(bound: f64) -> String {
        format!("{}{bound} s", Self::SLOWER_THAN)
    }

    /// An SLO that is looked at per label value, too: half of the weight is left where it was, the
    /// other half is shared out by `shares`, for instance each value's share of stable's requests (any
    /// scale). Values that come up later belong into a stratum for the rest, which the caller names.
    #[must_use]
    pub fn through_strata(self, shares: &[(String, f64)]) -> Self {
        self.through(shares.to_vec(), BY_STRATA)
    }

    /// Adds facets that have `all` of the weight together, taken in proportion from what is there.
    fn through(mut self, parts: Vec<(String, f64)>, all: f64) -> Self {
        let sum: f64 = parts.iter().map(|(_, part)| sound(*part)).sum();
        if sum <= 0.0 {
            return self;
        }
        for facet in &mut self.facets {
            facet.weight *= 1.0 - all;
        }
        let facet = |(name, part): (String, f64)| Facet { name, weight: sound(part) / sum * all };
        self.facets.extend(parts.into_iter().map(facet));
        self
    }

    /// The share of the evidence that its own counts have, above 0 and up to 1.
    pub fn own(&self) -> f64 {
        1.0 - self.sane().facets.iter().map(|facet| facet.weight).sum::<f64>()
    }

    /// The facets' names, in the order in which a tick's samples follow the SLO's own.
    pub fn facets(&self) -> impl Iterator<Item = &str> {
        self.facets.iter().map(|facet| facet.name.as_str())
    }

    pub(super) fn sane(&self) -> Self {
        let sum: f64 = self.facets.iter().map(|facet| sound(facet.weight)).sum();
        let scale = if sum > 1.0 - OWN { (1.0 - OWN) / sum } else { 1.0 };
        let weight = |facet: &Facet| (sound(facet.weight) * scale * PARTS).floor() / PARTS;
        let facets = self.facets.iter().map(|facet| Facet { name: facet.name.clone(), weight: weight(facet) });
        Self { slo: self.slo.sane(), facets: facets.collect() }
    }
}

fn sound(weight: f64) -> f64 {
    if weight.is_finite() { weight.max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Dice, errors, sample};
    use super::super::*;

    fn shares(strata: &[(&str, f64)]) -> Vec<(String, f64)> {
        strata.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect()
    }

    #[test]
    fn evidence_is_the_mean_by_weights() {
        // Given half of the weight for the whole, 3/8 and 1/8 for two tenants:
        let strata = shares(&[("tenant=a", 300.0), ("tenant=b", 100.0)]);
        let mut evidence = Evidence::watching(&[Watch::from(errors()).through_strata(&strata)], 0.01, 1);
        let mut apart = [(); 3].map(|()| Evidence::new(&[errors()], 0.01, 1));
        for _ in 0..5 {
            let tick = [sample(1, 100, 1, 900), sample(0, 80, 1, 700), sample(1, 20, 0, 200)];
            evidence.fold(&tick);
            for (alone, sample) in apart.iter_mut().zip(tick) {
                alone.fold(&[sample]);
            }
        }
        let ln_e = apart.map(|alone| alone.judge().remove(0).evidence);
        let judgement = evidence.judge().remove(0);
        let mean = ln_e[0].exp() / 2.0 + ln_e[1].exp() * 3.0 / 8.0 + ln_e[2].exp() / 8.0;
        assert!((judgement.evidence - mean.ln()).abs() < 1e-6, "{judgement:?}");
        assert!((judgement.facets[1].evidence - ln_e[2]).abs() < 1e-6, "{judgement:?}");
    }

    #[test]
    fn a_tenant_that_fails_is_found_in_a_sum_that_looks_healthy_and_is_named() {
        // Given one of 21 tenants, with 1 % of the requests, of which a third fails at the canary; in
        // the sum that is 0.3 % more, hardly more than what is tolerated:
        let mut names = vec![("tenant=small".to_owned(), 1.0)];
        names.extend((0..20).map(|tenant| (format!("tenant={tenant}"), 4.95)));
        let mut dice = Dice::new(5);
        let mut tick = || {
            let mut all = vec![Sample::default()];
            all.push(dice.tick(10.0, 0.25, 0.33, 0.002));
            all.extend((0..20).map(|_| dice.tick(49.5, 0.25, 0.002, 0.002)));
            all[0] = all.iter().fold(Sample::default(), |mut sum, tenant| {
                sum.add(*tenant);
                sum
            });
            all
        };
        let mut evidence = Evidence::watching(&[Watch::from(errors()).through_strata(&names)], 0.01, 1);
        let mut blind = Evidence::new(&[errors()], 0.01, 1);
        let seconds = (1..300).find(|_| {
            let tick = tick();
            blind.fold(&tick);
            evidence.fold(&tick);
            evidence.any_bad()
        });
        assert!(seconds.is_some_and(|seconds| seconds < 60), "{seconds:?}");
        assert!(!blind.any_bad());
        let judgement = evidence.judge().remove(0);
        let worse: Vec<&str> = judgement.facets.iter().filter(|f| f.worse).map(|f| f.name.as_str()).collect();
        assert_eq!(worse, ["tenant=small"]);
    }

    #[test]
    fn strata_share_one_budget() {
        // Given no tolerance and A/A over 30 tenants: alarms are no more frequent than for one SLO.
        let strict = Slo { relative: 1.0, absolute: 0.0, ..errors() };
        let names: Vec<_> = (0..30).map(|tenant| (format!("tenant={tenant}"), 1.0)).collect();
        let alarms = (0..300).filter(|seed| {
            let mut dice = Dice::new(seed + 900);
            let watch = Watch::from(strict.clone()).through_strata(&names);
            let mut evidence = Evidence::watching(&[watch], 0.05, 1);
            (0..60).any(|_| {
                let mut tick = vec![Sample::default()];
                tick.extend((0..30).map(|_| dice.tick(10.0, 0.3, 0.02, 0.02)));
                tick[0] = tick.iter().fold(Sample::default(), |mut sum, tenant| {
                    sum.add(*tenant);
                    sum
                });
                evidence.fold(&tick);
                evidence.any_bad()
            })
        });
        let alarms = alarms.count();
        assert!(alarms <= 15, "{alarms} of 300");
    }

    #[test]
    fn bounds_and_strata_go_together_and_odd_weights_do_no_harm() {
        let bounds = TailBounds::choose(&[0.1, 0.25, 0.5], &[0; 3], 0, 0.25).unwrap();
        let watch = Watch::from(errors()).through_bounds(&bounds).through_strata(&shares(&[("a", 1.0), ("b", 1.0)]));
        assert_eq!(watch.facets().collect::<Vec<_>>(), ["slower than 0.1 s", "slower than 0.5 s", "a", "b"]);
        let weights: Vec<f64> = watch.facets.iter().map(|facet| facet.weight).collect();
        for (weight, want) in weights.iter().zip([1.0 / 6.0, 1.0 / 6.0, 0.25, 0.25]) {
            assert!((weight - want).abs() < 1e-9, "{weights:?}");
        }
        for odd in [shares(&[("a", f64::NAN), ("b", -1.0)]), shares(&[("a", f64::INFINITY)]), Vec::new()] {
            let mut evidence = Evidence::watching(&[Watch::from(errors()).through_strata(&odd)], 0.01, 1);
            evidence.fold(&[sample(3, 10, 0, 10), sample(3, 10, 0, 10)]);
            evidence.fold(&[]);
            assert!(evidence.judge()[0].evidence.is_finite());
        }
    }
}
