//! What a policy would have done with a release that it had no hand in, by what Prometheus has of that time.
//!
//! The counts are the past's, so callers got what they got: weights are as they were, and not as the policy would have
//! set them. Counters become evidence on the way that a run's do; the engine is asked what it decides by counts and time
//! alone, as if pods, routes and gates were in order and approvals given at once. A canary that falls silent can't be
//! told here from one whose traffic was taken away, so it is no reason to take anything back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

use crate::{
    api::{
        Millis, Phase, Policy, QueryStatus, RolloutRef, RolloutRunSpec, RolloutRunStatus, Source, Step, Version,
        WaitingReason,
    },
    controller::{Ledger, Questions, query, seen},
    engine::{self, ByCounts, Says, Snapshot},
    evidence::{Blind, Count, PodTick, QueryReading, Tick, Verdict},
    telemetry::{
        Arm, Look, MAX_PODS_PER_ARM, MatcherError, Query, pick,
        prometheus::{Clock, Freshness, Listed, PodReading, WINDOW_SECONDS},
    },
};

/// Milliseconds before the canary's first pod in which stable is looked at: as long as Prometheus is asked back.
const BEFORE: i64 = WINDOW_SECONDS as i64 * 1000;

/// Percent: nobody knows what was due to the canary, only what it got.
const NOT_DUE: f64 = 0.0;

/// Whose counts are compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Arms {
    /// pod-template-hash of the version that served.
    pub stable: String,
    /// That of the new one; the same where the two are halves of one version's pods.
    pub canary: String,
    /// By name.
    pods: BTreeMap<String, Member>,
    /// The canary's first pod, in milliseconds since 1970.
    began: i64,
    /// From look to look, in milliseconds.
    step: i64,
}

#[derive(Clone, Debug, PartialEq)]
struct Member {
    arm: Arm,
    /// Milliseconds since 1970.
    there: BTreeSet<i64>,
}

/// Why no two versions can be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArmsError {
    /// Nothing at all.
    #[error(
        "expected counters of pods called {0}-HASH-SUFFIX, found none: see whether namespace, workload, labels and the \
         policy's metrics are called so in Prometheus, and whether it has this time"
    )]
    NoPods(String),
    /// Which is which?
    #[error(
        "expected one version, or two that came one after the other, found {0}: name two with --stable and --canary, or \
         ask for less time"
    )]
    Unclear(String),
    /// What was named is not there.
    #[error("expected pods of version {hash}, found {found}: name one of these, or ask for another time")]
    Unknown {
        /// As it was named.
        hash: String,
        /// What there is.
        found: String,
    },
    /// One after the other.
    #[error(
        "expected pods of {stable} and {canary} at the same time, found them one after the other: a policy compares two \
         versions that serve side by side"
    )]
    NotTogether {
        /// Its hash.
        stable: String,
        /// Its hash.
        canary: String,
    },
    /// No halves.
    #[error(
        "expected two pods of {0} at the same time, as its halves are compared, found one: scale it up, or ask for another time"
    )]
    OnePod(String),
}

impl Arms {
    /// From the times (milliseconds since 1970, a `step` apart) at which each pod of a workload was there: of two versions
    /// the older is stable, and the pods of a single one are halved. `named`: stable's hash and the canary's, if they are not to be
    /// guessed; twice the same halves it.
    ///
    /// # Errors
    /// If there are no pods, or it is not clear which to compare, or they were not there together.
    pub fn choose(
        there: BTreeMap<String, BTreeSet<i64>>,
        step: i64,
        workload: &str,
        named: Option<[&str; 2]>,
    ) -> Result<Self, ArmsError> {
        let of = |pod: &str| {
            let (hash, _) = pod.strip_prefix(workload)?.strip_prefix('-')?.rsplit_once('-')?;
            Some(hash.to_owned())
        };
        let there = there.into_iter().filter(|(_, there)| !there.is_empty());
        let pods: Vec<(String, String, BTreeSet<i64>)> =
            there.filter_map(|(pod, there)| Some((of(&pod)?, pod, there))).collect();
        let [stable, canary] = versions(&pods, workload, named)?;
        let halved = stable == canary;
        let mut next = [Arm::Stable, Arm::Canary].into_iter().cycle();
        let mut arm_of = |hash: &str| match () {
            () if halved && hash == stable => next.next(),
            () if hash == stable => Some(Arm::Stable),
            () if hash == canary => Some(Arm::Canary),
            () => None,
        };
        let pods: BTreeMap<String, Member> = pods
            .into_iter()
            .filter_map(|(hash, pod, there)| Some((pod, Member { arm: arm_of(&hash)?, there })))
            .collect();
        let firsts = pods.values().filter(|pod| pod.arm == Arm::Canary).filter_map(|pod| pod.there.first());
        let began = firsts.min().copied();
        let arms = Self { stable, canary, pods, began: began.unwrap_or(i64::MAX), step };
        let times: BTreeSet<i64> = arms.pods.values().flat_map(|pod| pod.there.iter().copied()).collect();
        match times.iter().any(|at| arms.are_together(*at)) {
            true => Ok(arms),
            false if halved => Err(ArmsError::OnePod(arms.stable)),
            false => Err(ArmsError::NotTogether { stable: arms.stable, canary: arms.canary }),
        }
    }

    /// They are halves of one version: a policy that takes the traffic back gives a false alarm.
    pub fn are_halves(&self) -> bool {
        self.stable == self.canary
    }

    /// At which of these times (milliseconds since 1970, in order) to look: shortly before there was a canary, and while
    /// both were there. Then for their last samples, and once more, as a tick is judged when the next one is known.
    pub fn looks(&self, times: impl Iterator<Item = i64>) -> Vec<i64> {
        let from = self.began.saturating_sub(BEFORE);
        let were_together = |at: i64| (0..=2).any(|ago| self.are_together(at.saturating_sub(ago * self.step)));
        times.filter(|at| *at >= from && (*at < self.began || were_together(*at))).collect()
    }

    /// The pods that were there, or had been at the look before: one that ends has a last sample.
    pub fn listed(&self, at: i64) -> Vec<Listed> {
        let was_there = |pod: &Member| [at, at.saturating_sub(self.step)].iter().any(|at| pod.there.contains(at));
        let listed = self.pods.iter().filter(|(_, pod)| was_there(pod)).map(|(name, pod)| Listed {
            pod: name.clone(),
            name: name.clone(),
            arm: pod.arm,
            born_before_run: pod.there.first().is_some_and(|first| {
                let is_older = pod.arm == Arm::Stable || self.are_halves();
                is_older && *first <= self.began
            }),
        });
        pick(&listed.collect::<Vec<_>>(), MAX_PODS_PER_ARM, |one| (one.arm, one.pod.as_str()))
    }

    fn are_together(&self, at: i64) -> bool {
        let has = |arm| self.pods.values().any(|pod| pod.arm == arm && pod.there.contains(&at));
        has(Arm::Stable) && has(Arm::Canary)
    }
}

/// Stable's hash and the canary's.
fn versions(
    pods: &[(String, String, BTreeSet<i64>)],
    workload: &str,
    named: Option<[&str; 2]>,
) -> Result<[String; 2], ArmsError> {
    let mut firsts: BTreeMap<&str, i64> = BTreeMap::new();
    for (hash, _, there) in pods {
        let first = there.first().copied().unwrap_or(i64::MAX);
        firsts.entry(hash).and_modify(|known| *known = first.min(*known)).or_insert(first);
    }
    let mut firsts: Vec<(i64, &str)> = firsts.into_iter().map(|(hash, first)| (first, hash)).collect();
    firsts.sort_unstable();
    let found = || {
        let said = firsts.iter().map(|(first, hash)| match Timestamp::from_millisecond(*first) {
            Ok(first) => format!("{hash} (from {first} on)"),
            Err(_) => (*hash).to_owned(),
        });
        said.collect::<Vec<_>>().join(", ")
    };
    if firsts.is_empty() {
        return Err(ArmsError::NoPods(workload.to_owned()));
    }
    if let Some(named) = named {
        let unknown = named.iter().find(|hash| !firsts.iter().any(|(_, known)| known == *hash));
        return match unknown {
            Some(hash) => Err(ArmsError::Unknown { hash: (*hash).to_owned(), found: found() }),
            None => Ok(named.map(str::to_owned)),
        };
    }
    match firsts[..] {
        [(_, only)] => Ok([only, only].map(str::to_owned)),
        [(older, stable), (newer, canary)] if older < newer => Ok([stable, canary].map(str::to_owned)),
        _ => Err(ArmsError::Unclear(found())),
    }
}

/// What a policy would have done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hindsight {
    /// When both versions had counted requests: RFC 3339.
    pub began: Timestamp,
    /// What it does, in order; the last tells how far it came.
    pub events: Vec<Event>,
    /// Requests that were counted at the canary until then.
    pub canary_requests: u64,
    /// Those of stable in the same time.
    pub stable_requests: u64,
    /// What the SLOs had come to.
    pub slos: Vec<SloSums>,
    /// What the policy's own queries had.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub queries: Vec<QueryStatus>,
}

impl Hindsight {
    /// Percent of the requests that the canary really had.
    pub fn share(&self) -> f64 {
        let all = self.canary_requests.saturating_add(self.stable_requests);
        if all == 0 { 0.0 } else { 100.0 * self.canary_requests as f64 / all as f64 }
    }
}

/// Something that a policy does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Seconds since both versions had counted requests.
    pub seconds: f64,
    /// The step, counted from 1.
    pub step: u32,
    /// Requests that were counted at the canary by then.
    pub canary_requests: u64,
    /// What it does.
    pub what: Then,
    /// Why.
    pub why: String,
}

/// What a policy does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Then {
    /// Goes on from the step.
    GoesOn,
    /// Replaces a canary pod that is bad by itself.
    ReplacesPod,
    /// Takes the traffic back.
    TakesBack,
    /// Promotes.
    Promotes,
    /// Still waits where the counts end.
    Waits,
}

/// What an SLO came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SloSums {
    /// Its name.
    pub name: String,
    /// Its verdict.
    pub verdict: Verdict,
    /// The canary's requests.
    pub canary: Count,
    /// Stable's.
    pub stable: Count,
    /// Against the canary, in nats.
    pub evidence: f64,
    /// From here on the verdict is Bad, in nats.
    pub threshold: f64,
}

/// Both versions never had requests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected requests of both versions, found {canary} of the canary and {stable} of stable{}: see whether the policy's \
     counter is called so in Prometheus, and whether both were called in this time",
    .why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default()
)]
pub struct NoCounts {
    /// Counted requests.
    pub canary: u64,
    /// Counted requests.
    pub stable: u64,
    /// What there was instead.
    pub why: Option<String>,
}

/// A policy that is tried on the past, look by look.
pub struct Trial {
    policy: Policy,
    spec: RolloutRunSpec,
    query: Query,
    ledger: Ledger,
    questions: Questions,
    freshness: Freshness,
    /// As the run would have it.
    status: RolloutRunStatus,
    /// The last look.
    at: Timestamp,
    /// Percent of the requests that the canary had in the last round.
    share: f64,
    canary_requests: u64,
    stable_requests: u64,
    /// Why nothing could be read last.
    blind: Option<Blind>,
    began: Option<Timestamp>,
    waits: Option<(WaitingReason, String)>,
    events: Vec<Event>,
}

impl Trial {
    /// `interval`: from look to look.
    ///
    /// `namespace`: of the pods, for the policy's own queries.
    ///
    /// # Errors
    /// If a pattern of the policy's telemetry is no regular expression.
    pub fn new(policy: &Policy, arms: &Arms, namespace: &str, interval: Millis) -> Result<Self, MatcherError> {
        let mut policy = policy.clone();
        match &mut policy.source {
            Source::Pods(scrape) => scrape.interval = interval,
            Source::Prometheus(prometheus) => prometheus.interval = interval,
            Source::Http(_) | Source::Router(_) => {}
        }
        // Nobody set a weight, so there is no route to compare with; and nobody is asked.
        policy.spec.routes.clear();
        policy.gates.clear();
        let version = |hash: &str| Version { hash: hash.to_owned(), ..Version::default() };
        let spec = RolloutRunSpec {
            rollout_ref: RolloutRef { name: policy.spec.workload_ref.name.clone() },
            workload_uid: None,
            from: version(&arms.stable),
            to: version(&arms.canary),
            policy: policy.spec.clone(),
            straight: false,
            paused: false,
            abort: false,
            approved: u32::MAX,
            promote: false,
            retry: false,
        };
        let status = RolloutRunStatus { phase: Some(Phase::Preparing), ..RolloutRunStatus::default() };
        let hashes = [arms.stable.as_str(), &arms.canary];
        let questions = Questions::new(namespace, &policy.spec.service, hashes, policy.source.queries());
        Ok(Self {
            query: query(&policy)?,
            ledger: Ledger::new(&policy, None),
            policy,
            spec,
            questions,
            freshness: Freshness::default(),
            status,
            at: Timestamp::UNIX_EPOCH,
            share: 0.0,
            canary_requests: 0,
            stable_requests: 0,
            blind: None,
            began: None,
            waits: None,
            events: Vec::new(),
        })
    }

    /// What to ask for at the next look.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// It took the traffic back, or promoted: there is nothing more to see.
    pub fn is_over(&self) -> bool {
        self.events.last().is_some_and(|event| matches!(event.what, Then::TakesBack | Then::Promotes))
    }

    /// The policy's own queries whose window is over by then. They are asked before the look, which [`Trial::hear`]s the answers.
    pub fn due(&mut self, at: Timestamp) -> Vec<usize> {
        let step = self.began.map(|_| self.status.step);
        self.questions.due(Duration::from_millis(at.as_millisecond().unsigned_abs()), step)
    }

    /// What is asked.
    pub fn questions(&self) -> &Questions {
        &self.questions
    }

    /// Answers to these.
    pub fn hear(&mut self, answers: Vec<QueryReading>) {
        self.ledger.hear(answers);
    }

    /// One look: the pods that were there, and what Prometheus had of them by name.
    pub fn look(&mut self, at: Timestamp, listed: &[Listed], readings: &BTreeMap<String, PodReading>) {
        if self.is_over() {
            return;
        }
        self.at = at;
        let clock = Clock {
            now: at.as_millisecond() as f64 / 1000.0,
            ahead: 0.0,
            interval: self.policy.source.interval().as_secs_f64(),
        };
        let is_shared = self.share > 0.0 && self.share < 100.0;
        match self.freshness.sift(clock, listed, readings, is_shared) {
            Look::Round(round) => {
                if self.ledger.choose(&self.policy, &round, at) {
                    self.ledger.ask(&self.policy, &mut self.query);
                    return;
                }
                let tick = self.ledger.read(&self.policy, &self.status, &round, NOT_DUE, at);
                self.count(&tick);
            }
            Look::Blind(why) => {
                let tick = self.ledger.miss(&self.status, why, at);
                self.blind.clone_from(&tick.blind);
            }
            Look::Nothing => {}
        }
        if self.began.is_none() && self.canary_requests > 0 && self.stable_requests > 0 {
            self.began = Some(at);
            self.status.phase = Some(Phase::Shifting);
            self.go_to(1);
        }
        if self.began.is_some() && !self.is_over() {
            self.decide();
        }
    }

    /// # Errors
    /// If the two versions never had requests.
    pub fn hindsight(mut self) -> Result<Hindsight, NoCounts> {
        let Some(began) = self.began else {
            let (canary, stable) = (self.canary_requests, self.stable_requests);
            let why = self.blind.map(|blind| blind.why().to_owned());
            return Err(NoCounts { canary, stable, why });
        };
        if !self.is_over() {
            let why = self.waits.take().map(|(reason, message)| format!("{reason:?}: {message}"));
            self.happens(Then::Waits, why.unwrap_or_default());
        }
        let sums = self.ledger.fold().judge().into_iter().map(|judgement| SloSums {
            name: judgement.name,
            verdict: judgement.verdict,
            canary: judgement.canary,
            stable: judgement.stable,
            evidence: judgement.evidence,
            threshold: judgement.threshold,
        });
        Ok(Hindsight {
            began,
            slos: sums.collect(),
            queries: self.ledger.fold().queries().iter().map(engine::query_status).collect(),
            events: self.events,
            canary_requests: self.canary_requests,
            stable_requests: self.stable_requests,
        })
    }

    fn count(&mut self, tick: &Tick) {
        self.blind.clone_from(&tick.blind);
        let sum = |pods: &[PodTick]| pods.iter().fold(0, |sum: u64, pod| sum.saturating_add(pod.requests));
        let [canary, stable] = [&tick.canary, &tick.stable].map(|arm| arm.as_deref().map_or(0, sum));
        // Before there was a canary, stable had all.
        if tick.canary.as_ref().is_none_or(|pods| !pods.is_empty()) {
            self.canary_requests = self.canary_requests.saturating_add(canary);
            self.stable_requests = self.stable_requests.saturating_add(stable);
        }
        let all = canary.saturating_add(stable);
        self.share = if all == 0 { 0.0 } else { 100.0 * canary as f64 / all as f64 };
    }

    fn decide(&mut self) {
        let counted = seen(self.ledger.fold());
        // The pods are taken to be in order: whether they were, Prometheus does not know.
        let ready = engine::Arm { ready: i32::MAX, available: i32::MAX, ..engine::Arm::default() };
        let snapshot = Snapshot {
            canary: Some(ready),
            traffic: counted.traffic,
            judgements: counted.judgements,
            ..Snapshot::default()
        };
        let ByCounts { says, bad_pod } = engine::by_counts(&self.policy, &self.spec, &self.status, &snapshot, self.at);
        if let (Some(bad), None) = (bad_pod, &self.status.bad_pod) {
            let why = format!("pod {} is bad by itself; from here on it does not count", bad.name);
            self.status.bad_pod = Some(bad);
            self.happens(Then::ReplacesPod, why);
        }
        match says {
            Says::Back(why) => self.happens(Then::TakesBack, why),
            Says::Waits(reason, message) => self.waits = Some((reason, message)),
            Says::GoesOn => {
                self.waits = None;
                self.go_to(self.status.step.saturating_add(1));
            }
        }
    }

    /// To this step or the first after it that is no approval, or to the promotion.
    fn go_to(&mut self, step: u32) {
        let skipped = usize::try_from(step).unwrap_or(usize::MAX).saturating_sub(1);
        let next = self.policy.steps.iter().zip(1_u32..).skip(skipped).find(|(step, _)| **step != Step::Approval);
        match next {
            Some((_, next)) => {
                if self.status.step > 0 {
                    self.happens(Then::GoesOn, format!("to step {next}"));
                }
                self.status.step = next;
                self.status.step_since = Some(Time(self.at));
                self.status.weight.wanted = self.policy.spec.share_at(next).weight;
                self.status.weight.set = self.status.weight.wanted;
            }
            None => self.happens(Then::Promotes, "all steps are done".to_owned()),
        }
    }

    fn happens(&mut self, what: Then, why: String) {
        let seconds = self.began.map_or(0.0, |began| self.at.duration_since(began).as_secs_f64());
        let (step, canary_requests) = (self.status.step, self.canary_requests);
        self.events.push(Event { seconds, step, canary_requests, what, why });
    }
}

#[cfg(test)]
mod tests;
