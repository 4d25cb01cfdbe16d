//! Through which bounds of a histogram latency is looked at: chosen before the run, from stable alone.
//!
//! A threshold sees only what crosses it. A version whose slowest 3 % take twice as long may cross
//! nothing, or a bound far away from the SLO's. So exceedances of several bounds are compared: those at
//! which stable's distribution has its middle and its tail, and the SLO's own. Chosen before the run,
//! for bounds picked by what the canary shows would be evidence picked by its strength.

use serde::{Deserialize, Serialize};

/// The SLO's bound and the others, at most.
const MOST: usize = 8;
/// At most so many bounds beside the SLO's.
pub const MOST_OTHERS: usize = MOST - 1;
/// Fewer are filled up from the histogram's other bounds.
const LEAST: usize = 4;
/// Where to look: the lowest bound that at least this share of stable's requests keeps. The tail
/// first, for that is what thresholds overlook.
const QUANTILES: [f64; 7] = [0.99, 0.999, 0.9, 0.95, 0.5, 0.75, 0.995];
/// One request slower than a bound among so few says nothing about where the tail is.
const HISTORY: u64 = 100;

/// The bounds of one latency SLO, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TailBounds {
    slo: f64,
    others: Vec<f64>,
}

/// Why no bounds could be chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoBounds {
    #[error("expected the SLO's threshold to be a bucket bound of the histogram, found {threshold} s: choose one of {}", list(.bounds))]
    NotABound { threshold: f64, bounds: Vec<f64> },
    #[error(
        "expected one count for each of {bounds} bounds, found {counts}: read bounds and counts from the same page"
    )]
    Uneven { bounds: usize, counts: usize },
}

fn list(bounds: &[f64]) -> String {
    bounds.iter().map(|bound| format!("{bound} s")).collect::<Vec<_>>().join(", ")
}

impl TailBounds {
    /// Chooses 4 to 8 of the histogram's `bounds` (seconds, ascending, without +Inf; all of them if
    /// there are fewer). `within`: how many of stable's requests were at most so slow, for each bound;
    /// `total`: how many there were. Without enough history the bounds around the SLO's are taken.
    pub fn choose(bounds: &[f64], within: &[u64], total: u64, threshold: f64) -> Result<Self, NoBounds> {
        if bounds.len() != within.len() {
            return Err(NoBounds::Uneven { bounds: bounds.len(), counts: within.len() });
        }
        let same = |bound: &f64| (bound - threshold).abs() <= 1e-9 * threshold.abs();
        let Some(slo) = bounds.iter().position(same) else {
            return Err(NoBounds::NotABound { threshold, bounds: bounds.to_vec() });
        };
        let mut chosen = vec![slo];
        if total >= HISTORY {
            for quantile in QUANTILES {
                let enough = |within: &u64| *within as f64 >= quantile * total as f64;
                let lowest = within.iter().position(enough).unwrap_or(bounds.len() - 1);
                if !chosen.contains(&lowest) && chosen.len() < MOST {
                    chosen.push(lowest);
                }
            }
        }
        fill(&mut chosen, bounds.len());
        let mut others: Vec<usize> = chosen.into_iter().filter(|&bound| bound != slo).collect();
        others.sort_unstable();
        Ok(Self { slo: bounds[slo], others: others.into_iter().map(|bound| bounds[bound]).collect() })
    }

    /// The SLO's threshold.
    pub fn slo(&self) -> f64 {
        self.slo
    }

    /// The further bounds, ascending.
    pub fn others(&self) -> &[f64] {
        &self.others
    }
}

/// The nearest bounds beside those chosen, the slower ones first.
fn fill(chosen: &mut Vec<usize>, bounds: usize) {
    let first = chosen[0];
    for distance in 1..bounds {
        for beside in [first.checked_add(distance), first.checked_sub(distance)].into_iter().flatten() {
            if chosen.len() < LEAST && beside < bounds && !chosen.contains(&beside) {
                chosen.push(beside);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Dice, latency};
    use super::super::*;
    use super::*;

    /// As in Prometheus' client libraries.
    const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    /// Stable: half within 25 ms, 99.5 % within 250 ms, the slowest below a second.
    const WITHIN: [u64; 11] = [100, 1200, 6000, 9100, 9800, 9950, 9995, 10_000, 10_000, 10_000, 10_000];

    #[test]
    fn bounds_are_where_stables_middle_and_tail_are_and_at_the_slo() {
        let chosen = TailBounds::choose(&BOUNDS, &WITHIN, 10_000, 1.0).unwrap();
        assert_eq!(chosen.slo(), 1.0);
        assert_eq!(chosen.others(), [0.025, 0.05, 0.1, 0.25, 0.5]);
    }

    #[test]
    fn without_history_the_neighbours_of_the_slo_are_taken() {
        let chosen = TailBounds::choose(&BOUNDS, &[0; 11], 0, 0.25).unwrap();
        assert_eq!(chosen.others(), [0.1, 0.5, 1.0]);
        // The SLO at the end of the histogram, and a histogram of one bucket.
        let at_the_end = TailBounds::choose(&BOUNDS, &[0; 11], 0, 10.0).unwrap();
        assert_eq!(at_the_end.others(), [1.0, 2.5, 5.0]);
        assert_eq!(TailBounds::choose(&[0.25], &[7], 9, 0.25).unwrap().others(), [0.0_f64; 0]);
    }

    #[test]
    fn a_slow_stable_is_looked_at_where_it_ends() {
        // Everything beyond the last bound.
        let chosen = TailBounds::choose(&BOUNDS, &[0; 11], 10_000, 0.25).unwrap();
        assert_eq!(chosen.others(), [0.1, 0.5, 10.0]);
    }

    #[test]
    fn what_cannot_be_chosen_from_says_why() {
        let error = TailBounds::choose(&BOUNDS, &WITHIN, 10_000, 0.3).unwrap_err();
        assert!(error.to_string().contains("found 0.3 s: choose one of 0.005 s, 0.01 s"), "{error}");
        let error = TailBounds::choose(&BOUNDS, &WITHIN[1..], 10_000, 0.25).unwrap_err();
        assert_eq!(error, NoBounds::Uneven { bounds: 11, counts: 10 });
    }

    /// One tick of one arm: `slow` of the requests take between 250 and 500 ms, the rest is as fast as
    /// stable's. One count for the SLO's bound of 1 s, then one for each other bound.
    fn tick(dice: &mut Dice, requests: u64, slow: f64, bounds: &TailBounds) -> Vec<Count> {
        let sluggish = dice.binomial(requests, slow);
        let others = requests - sluggish;
        let over = |bound: f64, dice: &mut Dice| {
            let at = BOUNDS.iter().position(|b| *b == bound).unwrap();
            let share = 1.0 - WITHIN[at] as f64 / 10_000.0;
            let bad = dice.binomial(others, share) + if bound < 0.5 { sluggish } else { 0 };
            Count { bad, total: requests }
        };
        let mut counts = vec![over(bounds.slo(), dice)];
        counts.extend(bounds.others().iter().map(|&bound| over(bound, dice)));
        counts
    }

    fn samples(dice: &mut Dice, rate: f64, weight: f64, slow: f64, bounds: &TailBounds) -> Vec<Sample> {
        let canary = dice.poisson(rate * weight);
        let stable = dice.poisson(rate * (1.0 - weight));
        let canary = tick(dice, canary, slow, bounds);
        let stable = tick(dice, stable, 0.0, bounds);
        canary.into_iter().zip(stable).map(|(canary, stable)| Sample { canary, stable }).collect()
    }

    #[test]
    fn a_slow_tail_that_the_threshold_does_not_see_is_found() {
        // Given an SLO at 1 s, which neither version ever misses, and a canary that takes more than
        // 250 ms for 3 % of its requests:
        let bounds = TailBounds::choose(&BOUNDS, &WITHIN, 10_000, 1.0).unwrap();
        let watch = Watch::from(latency()).through_bounds(&bounds);
        let mut dice = Dice::new(11);
        let mut evidence = Evidence::watching(&[watch], 0.01, 3);
        let mut blind = Evidence::new(&[latency()], 0.01, 3);
        let seconds = (1..600).find(|_| {
            let tick = samples(&mut dice, 200.0, 0.1, 0.03, &bounds);
            blind.fold(&tick);
            evidence.fold(&tick);
            evidence.any_bad()
        });
        // Then that is found within minutes, and named; the threshold alone saw nothing.
        assert!(seconds.is_some_and(|seconds| seconds < 240), "{seconds:?}");
        assert!(!blind.any_bad());
        let judgement = evidence.judge().remove(0);
        let worst = judgement.facets.iter().max_by(|a, b| a.evidence.total_cmp(&b.evidence)).unwrap();
        assert_eq!((worst.name.as_str(), judgement.canary.bad), ("slower than 0.25 s", 0));
    }

    #[test]
    fn facets_share_one_budget() {
        // Given no tolerance and A/A, so that every facet is at its bound: ten facets alarm no more
        // often than one SLO may.
        let strict = Slo { relative: 1.0, absolute: 0.0, ..latency() };
        let bounds = TailBounds::choose(&BOUNDS, &WITHIN, 10_000, 1.0).unwrap();
        let alarms = (0..400).filter(|seed| {
            let mut dice = Dice::new(seed + 77);
            let watch = Watch::from(strict.clone()).through_bounds(&bounds);
            let mut evidence = Evidence::watching(&[watch], 0.05, 1);
            (0..100).any(|_| {
                evidence.fold(&samples(&mut dice, 60.0, 0.3, 0.0, &bounds));
                evidence.any_bad()
            })
        });
        let alarms = alarms.count();
        assert!(alarms <= 20, "{alarms} of 400");
    }
}
