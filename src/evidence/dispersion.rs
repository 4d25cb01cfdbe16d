//! Do bad requests come alone?
//!
//! The tests take requests to fail independently. They don't: a connection that breaks takes twenty
//! requests with it, a full pool a second of one pod's requests. Counted as twenty independent failures
//! that convicts a healthy canary. How far off the assumption is shows at stable: the Fano factor of its
//! pods' counts, their variance over blocks of time beside what independent requests would have. All
//! counts are then divided by it in the exponent of each likelihood ratio (see [`Phi`]).
//!
//! Learnt from stable only, best from before the run: what the canary shows must not soften the test of
//! the canary. Pods are compared with each other within a block, so what hits all pods alike, a daily
//! wave or an outage, is no dispersion: the comparison of the arms is not misled by it either.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Count;
use super::eprocess::Phi;

/// Blocks of 1, 5 and 10 minutes: what fails together within seconds shows in the first, a bad quarter
/// of an hour of one pod in the last only.
const BLOCK_MILLIS: [u64; 3] = [60_000, 300_000, 600_000];
/// A tick that claims to be longer was a gap, not an observation.
const LONGEST_TICK: f64 = 60.0;
/// So many degrees of freedom of independent requests are taken as seen beforehand: a few minutes of
/// history say little.
const PRIOR: f64 = 20.0;
/// Older history is worth half when so many degrees of freedom were seen.
const FULL: f64 = 2000.0;
/// Pods counted in one block; churn beyond it is left out.
const MOST_PODS: usize = 64;

/// Of what an earlier run has learnt so many degrees of freedom count at most, for each length: some hours of its own
/// outweigh it, so that one bad day does not stay for ever.
const CARRIED: [f64; 3] = [400.0, 100.0, 60.0];

/// Sums are kept in whole parts of 1e-6, so that they come back from any JSON as they went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Micros(u64);

impl Micros {
    fn add(&mut self, x: f64) {
        self.0 = self.0.saturating_add((x.clamp(0.0, 1e9) * 1e6).round() as u64);
    }

    fn get(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

/// Blocks of one length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Blocks {
    millis: u64,
    pods: BTreeMap<String, Count>,
    /// Pearson's statistic of the blocks so far, and its degrees of freedom.
    squares: Micros,
    freedom: Micros,
}

impl Blocks {
    fn push(&mut self, millis: u64, length: u64, pods: &[(&str, Count)]) {
        for &(pod, count) in pods {
            if let Some(sum) = self.pods.get_mut(pod) {
                sum.add(count);
            } else if count.total > 0 && self.pods.len() < MOST_PODS {
                self.pods.insert(pod.to_owned(), count);
            }
        }
        self.millis = self.millis.saturating_add(millis);
        if self.millis >= length {
            self.close();
        }
    }

    fn close(&mut self) {
        self.millis = 0;
        let pods = std::mem::take(&mut self.pods);
        let mut all = Count::default();
        pods.values().for_each(|pod| all.add(*pod));
        let Some(ratio) = all.ratio() else { return };
        // One bad request can't come together with another; nor if all are bad. The fewer there are,
        // the less a block says.
        if all.bad < 2 || all.bad >= all.total || pods.len() < 2 {
            return;
        }
        let worth = 1.0 - 1.0 / all.bad as f64;
        let square = |pod: &Count| {
            let expected = pod.total as f64 * ratio;
            (pod.bad as f64 - expected).powi(2) / (expected * (1.0 - ratio))
        };
        self.squares.add(worth * pods.values().filter(|pod| pod.total > 0).map(square).sum::<f64>());
        self.freedom.add(worth * (pods.len() - 1) as f64);
        if self.freedom.get() >= FULL {
            self.squares.0 /= 2;
            self.freedom.0 /= 2;
        }
    }

    fn fano(&self) -> f64 {
        (self.squares.get() + PRIOR) / (self.freedom.get() + PRIOR)
    }
}

/// What is known about one SLO's dispersion at stable. To be kept from run to run; bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispersion {
    blocks: [Blocks; 3],
}

/// What one run has learnt for the next: for each length of blocks Pearson's statistic and its degrees of freedom, both
/// in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Learnt([(Micros, Micros); 3]);

impl Dispersion {
    /// To be kept.
    pub fn learnt(&self) -> Learnt {
        Learnt(self.blocks.each_ref().map(|blocks| (blocks.squares, blocks.freedom)))
    }

    /// Goes on from what an earlier run has learnt.
    pub fn after(learnt: &Learnt) -> Self {
        let carried = |(most, (squares, freedom)): (f64, (Micros, Micros))| {
            let share = most / freedom.get().max(most);
            let [squares, freedom] = [squares, freedom].map(|sum| Micros((sum.0 as f64 * share) as u64));
            Blocks { squares, freedom, ..Blocks::default() }
        };
        let mut learnt = CARRIED.into_iter().zip(learnt.0).map(carried);
        Self { blocks: std::array::from_fn(|_| learnt.next().unwrap_or_default()) }
    }

    /// One tick of stable's pods: what each of them did in these seconds.
    pub fn push(&mut self, tick_seconds: f64, pods: &[(&str, Count)]) {
        let seconds = if tick_seconds.is_nan() { 0.0 } else { tick_seconds.clamp(0.0, LONGEST_TICK) };
        let millis = (seconds * 1000.0).round() as u64;
        for (blocks, length) in self.blocks.iter_mut().zip(BLOCK_MILLIS) {
            blocks.push(millis, length, pods);
        }
    }

    /// The largest Fano factor of the three block lengths, at least 1: independent requests, or a
    /// stable with a single pod, which has nothing to be compared with.
    pub fn phi(&self) -> Phi {
        Phi::new(self.blocks.iter().map(Blocks::fano).fold(1.0, f64::max))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Dice;
    use super::*;

    /// Half an hour of five pods; each bad event takes `together` requests with it.
    fn learnt(seed: u64, minutes: u64, together: u64, ratio: impl Fn(u64) -> f64) -> f64 {
        let (mut dice, mut dispersion) = (Dice::new(seed), Dispersion::default());
        for second in 0..60 * minutes {
            let pods = ["a", "b", "c", "d", "e"].map(|pod| {
                let total = dice.poisson(40.0);
                let bad = dice.poisson(total as f64 * ratio(second) / together as f64) * together;
                (pod, Count { bad: bad.min(total), total })
            });
            dispersion.push(1.0, &pods);
        }
        dispersion.phi().get()
    }

    #[test]
    fn independent_requests_have_none() {
        for seed in 1..=10 {
            let phi = learnt(seed, 30, 1, |_| 0.01);
            assert!((1.0..1.6).contains(&phi), "{phi}");
        }
    }

    #[test]
    fn requests_that_fail_five_at_a_time_have_a_factor_of_about_five() {
        for seed in 1..=10 {
            let phi = learnt(seed, 60, 5, |_| 0.01);
            assert!((3.8..8.0).contains(&phi), "{phi}");
        }
    }

    #[test]
    fn what_hits_all_pods_alike_is_no_dispersion() {
        // Given outages at which all pods are twenty times as bad, and a wave:
        let phi = learnt(3, 30, 1, |second| if second % 300 < 20 { 0.2 } else { 0.01 });
        assert!(phi < 1.6, "{phi}");
    }

    #[test]
    fn a_few_minutes_say_little_and_one_pod_says_nothing() {
        assert_eq!(Dispersion::default().phi().get(), 1.0);
        assert!(learnt(1, 2, 5, |_| 0.01) < 3.0);
        let mut alone = Dispersion::default();
        for second in 0..3600 {
            alone.push(1.0, &[("only", Count { bad: if second % 60 < 2 { 30 } else { 0 }, total: 100 })]);
        }
        assert_eq!(alone.phi().get(), 1.0);
    }

    #[test]
    fn the_next_run_begins_with_what_one_has_learnt_and_unlearns_it_in_some_hours() {
        // Given hours in which requests fail five at a time:
        let (mut dice, mut before) = (Dice::new(5), Dispersion::default());
        let mut hours = |dispersion: &mut Dispersion, hours: u64, together: u64| {
            for _ in 0..3600 * hours {
                let pods = ["a", "b", "c", "d", "e"].map(|pod| {
                    let total = dice.poisson(40.0);
                    let bad = dice.poisson(total as f64 * 0.01 / together as f64) * together;
                    (pod, Count { bad: bad.min(total), total })
                });
                dispersion.push(1.0, &pods);
            }
        };
        hours(&mut before, 3, 5);
        // When another run begins:
        let text = serde_json::to_string(&before.learnt()).unwrap();
        let mut next = Dispersion::after(&serde_json::from_str(&text).unwrap());
        // Then it knows at once:
        let ratio = next.phi().get() / before.phi().get();
        assert!((0.85..1.15).contains(&ratio), "{:?} {:?}", next.phi(), before.phi());
        assert!(text.len() < 100, "{text}");
        // And when they fail one by one from now on, it learns that, too.
        hours(&mut next, 4, 1);
        assert!(next.phi().get() < 0.7 * before.phi().get(), "{:?}", next.phi());
        assert!(Dispersion::after(&Learnt([(Micros(u64::MAX), Micros(0)); 3])).phi().get().is_finite());
    }

    #[test]
    fn it_is_bounded_goes_on_after_a_restart_and_takes_odd_input() {
        let mut dispersion = Dispersion::default();
        for tick in 0..20_000_u64 {
            let name = format!("pod-{}", tick / 3);
            dispersion.push(1.0, &[(&name, Count { bad: 3, total: 40 }), ("b", Count { bad: 0, total: 40 })]);
            if tick % 777 == 0 {
                let written = serde_json::to_string(&dispersion).unwrap();
                assert!(written.len() < 12_000, "{} bytes", written.len());
                assert_eq!(serde_json::from_str::<Dispersion>(&written).unwrap(), dispersion);
            }
        }
        assert!(dispersion.blocks.iter().all(|blocks| blocks.freedom.get() <= FULL));
        for seconds in [f64::NAN, -1.0, f64::INFINITY] {
            dispersion.push(seconds, &[("a", Count { bad: u64::MAX, total: 1 }), ("b", Count::default())]);
        }
        assert!(dispersion.phi().get().is_finite());
    }
}
