//! From counters of pods that come, go and restart to what each arm did since the last tick.
//!
//! Pure: time comes in as a parameter. What is kept can be saved and loaded (serde), so a restarted controller counts on
//! from where it was.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::query::{LatencyCount, PodCounts, StratumCount};

/// Which version a pod serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Arm {
    Stable,
    Canary,
}

/// One pod in one tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodScrape {
    /// Unique over time: the UID, not the name (a StatefulSet gives names twice).
    pub pod: String,
    pub arm: Arm,
    /// The pod is older than the run, so its counters hold history that is no evidence.
    pub born_before_run: bool,
    /// `None`: unreadable this time.
    pub counts: Option<PodCounts>,
}

/// What both arms did since the last tick. `None`: the arm has pods, but none could be read. An arm without pods did
/// nothing: zeros.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TickCounts {
    pub canary: Option<ArmCounts>,
    pub stable: Option<ArmCounts>,
}

/// What one arm did since the last tick.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArmCounts {
    /// Those that were read.
    pub pods: Vec<PodDelta>,
    pub pods_unreadable: u32,
    /// Pods whose counters shrank. In tick after tick: the pod answers from several processes that count apart.
    pub resets: u32,
}

/// What one pod did since the last tick.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodDelta {
    /// As in [`PodScrape::pod`].
    pub pod: String,
    pub requests: u64,
    /// At most `requests`.
    pub errors: u64,
    /// In the order of the query.
    #[serde(default)]
    pub strata: Vec<StratumCount>,
    /// In the order of the query. Zeros while the pod warms up.
    pub latencies: Vec<LatencyCount>,
}

/// Both in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DeltaSettings {
    /// From a pod's first request on, its latency is left out this long.
    pub warmup_seconds: f64,
    /// A pod that is gone is remembered this long. Long, because a pod that left the sample (not the cluster) and comes
    /// back forgotten would bring its whole history.
    pub forget_after_seconds: f64,
}

impl Default for DeltaSettings {
    fn default() -> Self {
        DeltaSettings { warmup_seconds: 10.0, forget_after_seconds: 3600.0 }
    }
}

/// Pods that are gone and still remembered; beyond it the ones gone longest are forgotten early.
const MAX_GONE: usize = 500;

/// Last counters of each pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deltas {
    settings: DeltaSettings,
    /// The first tick is over: pods that come now are new.
    started: bool,
    pods: BTreeMap<String, Pod>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Pod {
    arm: Arm,
    /// Its counters hold history from before we watched.
    has_history: bool,
    /// `None`: never read so far.
    last: Option<Counters>,
    /// When `last` was read, in seconds.
    read_at: f64,
    /// When the pod last was on the list, in seconds.
    listed_at: f64,
    warm: Warm,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Counters {
    requests: u64,
    errors: u64,
    #[serde(default)]
    strata: Vec<StratumCount>,
    latencies: Vec<LatencyCount>,
}

/// In seconds on the clock of `observe`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Warm {
    NoRequestYet,
    Since(f64),
    /// Was serving long before.
    Always,
}

impl Deltas {
    pub fn new(settings: DeltaSettings) -> Deltas {
        Deltas { settings, started: false, pods: BTreeMap::new() }
    }

    /// One tick: all pods of both arms, readable or not. `now_seconds` is any clock that runs on over restarts.
    pub fn observe(&mut self, now_seconds: f64, scrapes: &[PodScrape]) -> TickCounts {
        let mut stable = ArmCounts::default();
        let mut canary = ArmCounts::default();
        let mut listed = HashSet::new();
        for scrape in scrapes.iter().filter(|scrape| listed.insert(scrape.pod.as_str())) {
            let tally = match scrape.arm {
                Arm::Stable => &mut stable,
                Arm::Canary => &mut canary,
            };
            self.observe_pod(now_seconds, scrape, tally);
        }
        self.forget(now_seconds, &listed);
        self.started = true;
        TickCounts { canary: canary.if_read(), stable: stable.if_read() }
    }

    /// Of which arms a pod that was there at the last tick is not in these scrapes: `[stable, canary]`.
    pub fn ended(&self, scrapes: &[PodScrape]) -> [bool; 2] {
        let last = self.pods.values().map(|pod| pod.listed_at).fold(f64::NEG_INFINITY, f64::max);
        let is_gone = |id: &str| scrapes.iter().all(|scrape| scrape.pod != id);
        let ended = |arm| self.pods.iter().any(|(id, pod)| pod.arm == arm && pod.listed_at >= last && is_gone(id));
        [ended(Arm::Stable), ended(Arm::Canary)]
    }

    fn observe_pod(&mut self, now: f64, scrape: &PodScrape, tally: &mut ArmCounts) {
        // There at the first tick, readable or not, is old enough to have history.
        let has_history = scrape.born_before_run || !self.started;
        let fresh = || Pod {
            arm: scrape.arm,
            has_history,
            last: None,
            read_at: now,
            listed_at: now,
            warm: if scrape.born_before_run { Warm::Always } else { Warm::NoRequestYet },
        };
        let pod = self.pods.entry(scrape.pod.clone()).or_insert_with(fresh);
        if pod.arm != scrape.arm {
            // What it did for the other arm is no evidence for this one.
            *pod = Pod { has_history: true, ..fresh() };
        }
        pod.listed_at = now;
        match &scrape.counts {
            Some(counts) => {
                let delta = pod.read(now, &scrape.pod, counts, self.settings.warmup_seconds, &mut tally.resets);
                tally.pods.push(delta);
            }
            None => tally.pods_unreadable += 1,
        }
    }

    fn forget(&mut self, now: f64, listed: &HashSet<&str>) {
        let keep_for = self.settings.forget_after_seconds;
        self.pods.retain(|id, pod| listed.contains(id.as_str()) || now - pod.listed_at < keep_for);
        let gone = self.pods.iter().filter(|(id, _)| !listed.contains(id.as_str()));
        let mut gone: Vec<_> = gone.map(|(id, pod)| (pod.listed_at, id.clone())).collect();
        gone.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        for (_, id) in gone.into_iter().skip(MAX_GONE) {
            self.pods.remove(&id);
        }
    }
}

impl Pod {
    fn read(&mut self, now: f64, pod: &str, counts: &PodCounts, warmup: f64, resets: &mut u32) -> PodDelta {
        let seen = Counters {
            requests: counts.requests,
            errors: counts.errors,
            strata: counts.strata.clone(),
            latencies: counts.latencies.clone(),
        };
        let (from, from_zero) = match self.last.take() {
            Some(last) if seen.fell_below(&last) => {
                // Another process: cold again, and all that it counted is new.
                *resets += 1;
                self.warm = Warm::NoRequestYet;
                (seen.zero(), true)
            }
            // Another query: nothing to compare with.
            Some(last) if last.shape() != seen.shape() => (seen.clone(), false),
            Some(last) => (last, false),
            None if self.has_history => (seen.clone(), false),
            None => (seen.zero(), true),
        };
        let (mut delta, reached) = seen.since(from);
        if self.warm == Warm::NoRequestYet && seen.has_served() {
            self.warm = Warm::Since(now);
        }
        // The delta spans the time since the last reading, all of which has to be warm.
        let warm = match self.warm {
            _ if warmup <= 0.0 => true,
            Warm::Always => true,
            Warm::Since(first) => !from_zero && self.read_at - first >= warmup,
            Warm::NoRequestYet => false,
        };
        if !warm {
            delta.latencies.fill(LatencyCount::default());
        }
        self.last = Some(reached);
        self.read_at = now;
        let Counters { requests, errors, strata, latencies } = delta;
        PodDelta { pod: pod.to_owned(), requests, errors, strata, latencies }
    }
}

impl Counters {
    fn zero(&self) -> Counters {
        Counters {
            requests: 0,
            errors: 0,
            strata: vec![StratumCount::default(); self.strata.len()],
            latencies: vec![LatencyCount::default(); self.latencies.len()],
        }
    }

    /// How much of each was asked for.
    fn shape(&self) -> (usize, usize) {
        (self.strata.len(), self.latencies.len())
    }

    fn has_served(&self) -> bool {
        self.requests > 0 || self.latencies.iter().any(|latency| latency.total > 0)
    }

    /// Whether one of the pod's own counters shrank. `slow` is none of them but a difference of two, read one after the
    /// other while requests go on: it may dip by one or two in a pod that never restarted, and taking that for a
    /// restart would count its whole history.
    fn fell_below(&self, last: &Counters) -> bool {
        let good = |counters: &Counters| counters.requests.saturating_sub(counters.errors);
        let fast = |latency: &LatencyCount| latency.total.saturating_sub(latency.slow);
        self.errors < last.errors
            || good(self) < good(last)
            || self
                .latencies
                .iter()
                .zip(&last.latencies)
                .any(|(now, last)| now.total < last.total || fast(now) < fast(last))
    }

    /// What was added, and the counters up to which it is accounted for: where `slow` dipped, what was counted too early
    /// is not counted again.
    fn since(&self, from: Counters) -> (Counters, Counters) {
        let mut delta = self.zero();
        let mut reached = self.clone();
        delta.requests = self.requests.saturating_sub(from.requests);
        delta.errors = self.errors.saturating_sub(from.errors);
        // A label's series that begins anew within a pod that goes on is as good as silent.
        for (delta, (now, from)) in delta.strata.iter_mut().zip(self.strata.iter().zip(&from.strata)) {
            let requests = now.requests.saturating_sub(from.requests);
            *delta = StratumCount { requests, errors: now.errors.saturating_sub(from.errors).min(requests) };
        }
        for (at, (now, from)) in self.latencies.iter().zip(&from.latencies).enumerate() {
            let total = now.total.saturating_sub(from.total);
            let slow = now.slow.saturating_sub(from.slow).min(total);
            delta.latencies[at] = LatencyCount { total, slow };
            reached.latencies[at].slow = from.slow.saturating_add(slow);
        }
        (delta, reached)
    }
}

impl ArmCounts {
    /// `None`: the arm has pods, but none could be read.
    fn if_read(self) -> Option<Self> {
        let blind = self.pods.is_empty() && self.pods_unreadable > 0;
        (!blind).then_some(self)
    }
}

#[cfg(test)]
mod tests;
