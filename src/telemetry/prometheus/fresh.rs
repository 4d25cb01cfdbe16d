//! Is it new? Prometheus answers with what it has, however old: a source that stopped scraping, lags behind or repeats
//! itself looks like a service without requests and without errors. So counts go on only when both arms have samples
//! that were not there before; else it is said what is missing.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::deltas::{Arm, PodScrape};
use super::super::query::shared_gaps;
use super::super::round::{Look, Round};
use super::WINDOW_SECONDS;
use super::answer::PodReading;
use crate::evidence::Blind;

/// Samples come at most this much apart.
const RAREST: f64 = 60.0;
/// Stable's requests stand still for at least so many seconds ...
const STILL_SECONDS: f64 = 15.0;
/// ... in which at least so many were due by its own rate: the source lies, or the callers are gone.
const STILL_DUE: f64 = 20.0;
/// Weight of the newest round in what is usual.
const NEWEST: f64 = 0.3;
/// Prometheus tells its time in whole seconds.
const CLOCK: f64 = 1.0;

/// One pod of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Unique over time: the UID.
    pub pod: String,
    /// As Prometheus knows it.
    pub name: String,
    pub arm: Arm,
    /// As in [`PodScrape`].
    pub born_before_run: bool,
}

/// Seconds, on our clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clock {
    pub now: f64,
    /// Our clock less the source's.
    pub ahead: f64,
    /// Time between two looks.
    pub interval: f64,
}

/// What was seen of a pod. On the source's clock.
#[derive(Debug, Clone)]
struct Known {
    at: f64,
    requests: u64,
    counted: bool,
}

/// Remembers from look to look what was seen.
#[derive(Debug)]
pub struct Freshness {
    pods: HashMap<String, Known>,
    /// When the last round was, or the first look; on our clock.
    last_round: Option<f64>,
    /// Time of the last round's samples, on the source's clock.
    last_at: Option<f64>,
    /// Seconds from round to round.
    usual: f64,
    /// Stable's requests a second, while they move.
    rate: f64,
    still: f64,
}

impl Default for Freshness {
    fn default() -> Freshness {
        Freshness { pods: HashMap::new(), last_round: None, last_at: None, usual: RAREST, rate: 0.0, still: 0.0 }
    }
}

/// One pod of this look.
struct Seen<'a> {
    listed: &'a Listed,
    reading: Option<&'a PodReading>,
    known: Option<&'a Known>,
}

impl Seen<'_> {
    fn at(&self) -> Option<f64> {
        self.reading.map(|reading| match reading {
            PodReading::Sampled { at, .. } | PodReading::Unreadable { at, .. } => *at,
        })
    }

    fn is_new(&self) -> bool {
        self.at().is_some_and(|at| self.known.is_none_or(|known| at > known.at))
    }

    fn is_sampled(&self) -> bool {
        match self.reading {
            // Counters that were there and are not: another target of the pod answered, or nobody asked its new process
            // yet. A zero would be taken for a restart.
            Some(PodReading::Sampled { counts, .. }) => {
                counts.present || !self.known.is_some_and(|known| known.counted)
            }
            _ => false,
        }
    }

    fn why(&self) -> Option<String> {
        match self.reading {
            Some(PodReading::Unreadable { why, .. }) => Some(format!("pod {}: {why}", self.listed.name)),
            _ => None,
        }
    }
}

impl Freshness {
    /// One look: all pods of both arms, and what Prometheus has of them by name. `is_shared`: both arms are due requests.
    pub fn sift(
        &mut self,
        clock: Clock,
        listed: &[Listed],
        readings: &BTreeMap<String, PodReading>,
        is_shared: bool,
    ) -> Look {
        let ids: HashSet<&str> = listed.iter().map(|one| one.pod.as_str()).collect();
        self.pods.retain(|pod, _| ids.contains(pod.as_str()));
        let pods = &self.pods;
        let seen = listed.iter().map(|listed| Seen {
            listed,
            reading: readings.get(&listed.name),
            known: pods.get(&listed.pod),
        });
        let seen: Vec<Seen<'_>> = seen.collect();
        let arms = [Arm::Stable, Arm::Canary].map(|arm| seen.iter().filter(|one| one.listed.arm == arm).collect());
        let arms: Vec<Vec<&Seen<'_>>> = arms.into_iter().filter(|arm: &Vec<_>| !arm.is_empty()).collect();
        if !arms.is_empty() && arms.iter().all(|arm| is_fresh(arm)) {
            let round = self.round(clock, &seen, &arms, is_shared);
            for one in &round.known {
                self.pods.insert(one.0.clone(), one.1.clone());
            }
            self.note(clock, &round, is_shared);
            return Look::Round(round.round);
        }
        let blind = self.why_not(clock, &arms);
        self.last_round.get_or_insert(clock.now);
        blind.map_or(Look::Nothing, Look::Blind)
    }

    fn why_not(&self, clock: Clock, arms: &[Vec<&Seen<'_>>]) -> Option<Blind> {
        if let Some(arm) = arms.iter().find(|arm| arm.iter().all(|one| one.reading.is_none())) {
            let names: Vec<&str> = arm.iter().map(|one| one.listed.name.as_str()).take(3).collect();
            let more = if arm.len() > names.len() { ", ..." } else { "" };
            let why = format!(
                "Prometheus has no sample of {}'s pods ({}{more}) of the last {WINDOW_SECONDS} s: does it scrape them, and \
                 do namespaceLabel and podLabel name its labels?",
                word(arm),
                names.join(", ")
            );
            return Some(why.into());
        }
        let unread = arms.iter().find(|arm| !arm.iter().any(|one| one.is_sampled()));
        if let Some(why) = unread.and_then(|arm| arm.iter().find_map(|one| one.why())) {
            return Some(why.into());
        }
        let since = clock.now - self.last_round.unwrap_or(clock.now);
        let stale = arms.iter().find(|arm| !is_fresh(arm))?;
        (since > 2.0 * (self.usual + clock.interval)).then(|| {
            Blind::stale(format!(
                "Prometheus has nothing new of {}'s pods for {since:.0} s: it does not scrape them any more, or lags behind",
                word(stale)
            ))
        })
    }

    fn round(&self, clock: Clock, seen: &[Seen<'_>], arms: &[Vec<&Seen<'_>>], is_shared: bool) -> Sifted {
        let newest =
            |arm: &Vec<&Seen<'_>>| arm.iter().filter(|one| is_taken(one)).filter_map(|one| one.at()).reduce(f64::max);
        let at = arms.iter().filter_map(newest).reduce(f64::min).unwrap_or(0.0);
        let seconds = self.last_at.map_or(clock.interval, |last| (at - last).clamp(0.0, RAREST));
        let before = seen.iter().filter(|one| is_taken(one)).filter_map(|one| one.known).map(|known| known.at);
        let since = before.reduce(f64::min).map_or(f64::NEG_INFINITY, |oldest| oldest + clock.ahead - CLOCK);
        let mut known = Vec::new();
        let mut pods = Vec::new();
        let mut counted = Vec::new();
        let mut moved = 0;
        for one in seen {
            let Listed { pod, arm, born_before_run, .. } = one.listed;
            let counts = match one.reading {
                Some(PodReading::Sampled { counts, at }) if is_taken(one) => {
                    let before = one.known.map_or(counts.requests, |known| known.requests);
                    moved += if *arm == Arm::Stable { counts.requests.saturating_sub(before) } else { 0 };
                    known.push((pod.clone(), Known { at: *at, requests: counts.requests, counted: counts.present }));
                    counted.push(counts.clone());
                    Some(counts.clone())
                }
                _ => None,
            };
            pods.push(PodScrape { pod: pod.clone(), arm: *arm, born_before_run: *born_before_run, counts });
        }
        let gap = shared_gaps(&counted).first().map(|gap| gap.to_string().into());
        let still = if moved == 0 && is_shared { self.still + seconds } else { 0.0 };
        let gap = gap.or_else(|| {
            let due = still * self.rate;
            (still >= STILL_SECONDS && due >= STILL_DUE).then(|| {
                Blind::stale(format!(
                    "stable's requests stand still for {still:.0} s in Prometheus, while about {due:.0} were due: its \
                     counters are frozen, or the callers are gone"
                ))
            })
        });
        Sifted {
            round: Round { pods, seconds, since, fault: None, gap, sampled: false, router: None },
            known,
            at,
            moved,
        }
    }

    fn note(&mut self, clock: Clock, sifted: &Sifted, is_shared: bool) {
        let spacing = self.last_at.and(self.last_round).map(|last| clock.now - last);
        if let Some(spacing) = spacing {
            let smooth = (1.0 - NEWEST) * self.usual + NEWEST * spacing;
            self.usual = spacing.max(smooth).min(RAREST);
        }
        let seconds = sifted.round.seconds;
        if sifted.moved > 0 && seconds > 0.0 && self.last_at.is_some() {
            let rate = sifted.moved as f64 / seconds;
            self.rate = if self.rate > 0.0 { (1.0 - NEWEST) * self.rate + NEWEST * rate } else { rate };
        }
        self.still = if sifted.moved == 0 && is_shared { self.still + seconds } else { 0.0 };
        self.last_round = Some(clock.now);
        self.last_at = Some(sifted.at);
    }
}

struct Sifted {
    round: Round,
    known: Vec<(String, Known)>,
    /// Time of its samples, on the source's clock.
    at: f64,
    /// Stable's requests.
    moved: u64,
}

fn is_taken(one: &Seen<'_>) -> bool {
    one.is_sampled() && one.is_new()
}

/// The arm has new counters. That Prometheus could not scrape it is no count: one scrape that failed would make a canary
/// silent for a whole interval.
fn is_fresh(arm: &[&Seen<'_>]) -> bool {
    arm.iter().any(|one| is_taken(one))
}

fn word(arm: &[&Seen<'_>]) -> &'static str {
    match arm.first().map(|one| one.listed.arm) {
        Some(Arm::Canary) => "the canary",
        _ => "stable",
    }
}

#[cfg(test)]
mod tests;
