//! A run's eyes: reads the arms' pods at the policy's rhythm, apart from the decisions, so that pods that hang or lie
//! never delay one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::task::JoinHandle;

use super::{
    caches::Namespace,
    ledger::Ledger,
    look::{self, Moved},
    observe::{Seen, arm_of},
    reader::{Member, Reader, seconds},
    weights::Weights,
};
use crate::{
    api::{Policy, RolloutRun, RolloutRunStatus, SloKind, Strata, ValidSlo},
    record::{Inputs, Part, Recorder},
    telemetry::{CounterQuery, LatencyQuery, Look, Matcher, MatcherError, Query, Stratum},
};

/// What the reading task and the decisions share.
struct Shared {
    ledger: Ledger,
    recorder: Recorder,
}

/// Ends with the run.
pub(super) struct Sensor {
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

impl Drop for Sensor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The policy's telemetry can't be turned into queries.
#[derive(Debug, thiserror::Error)]
pub(super) enum SensorError {
    #[error("telemetry: {0}")]
    Matcher(#[from] MatcherError),
}

impl Sensor {
    /// Goes on from the run's saved ledger, or begins anew; `tick` is called after each reading.
    pub fn start(
        run: &RolloutRun,
        policy: &Policy,
        reader: Reader,
        namespace: Arc<Namespace>,
        tick: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, SensorError> {
        let mut query = query(policy)?;
        let saved = run.status.as_ref().and_then(|status| status.ledger.as_deref());
        let saved: Option<Ledger> = saved.and_then(|text| serde_json::from_str(text).ok());
        let ledger = saved.unwrap_or_else(|| Ledger::new(policy, namespace.learnt_before(run).as_deref()));
        ledger.ask(policy, &mut query);
        let recorder = Recorder::new(nanoseconds(Timestamp::now()), ledger.fold());
        let shared = Arc::new(Mutex::new(Shared { ledger, recorder }));
        let mut looking = Looking {
            run: run.clone(),
            policy: policy.clone(),
            query,
            namespace,
            reader,
            weights: Weights::default(),
            shared: Arc::clone(&shared),
        };
        let task = tokio::spawn(async move {
            let mut clock = tokio::time::interval(looking.policy.source.interval().duration());
            clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                clock.tick().await;
                looking.look().await;
                tick();
            }
        });
        Ok(Self { shared, task })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the counts say now, and how many ticks that rests on.
    pub fn seen(&self) -> (Seen, u64) {
        let shared = self.shared();
        (look::seen(shared.ledger.fold()), shared.recorder.ticks())
    }

    /// The ledger as text.
    pub fn ledger(&self) -> Option<String> {
        serde_json::to_string(&self.shared().ledger).ok()
    }

    /// Takes a decision down. `ticks` is what [`Sensor::seen`] said when it was made.
    pub fn record(&self, run: &RolloutRun, moved: &Moved, ticks: u64, now: Timestamp) {
        let before = run.status.clone().unwrap_or_default();
        let (at, ending, snapshot) = (nanoseconds(now), moved.ending, &moved.snapshot);
        let inputs = Inputs { at, ending, ticks, spec: &run.spec, before: &before, snapshot };
        self.shared().recorder.look(&inputs, &moved.decision);
    }

    /// What of the record is to be saved.
    pub fn parts(&self) -> Vec<Part> {
        self.shared().recorder.take()
    }
}

/// Since 1970; until the year 2262.
fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

/// What the pods' counters are asked for.
///
/// # Errors
/// If a pattern of the policy's telemetry is no regular expression.
pub fn query(policy: &Policy) -> Result<Query, MatcherError> {
    let telemetry = &policy.spec.telemetry;
    let on_errors = policy.slos.iter().filter(|slo| matches!(slo.kind, SloKind::Errors));
    let of_errors = on_errors.flat_map(strata).collect();
    let requests = match (&telemetry.requests, &telemetry.latency) {
        (Some(requests), _) => CounterQuery {
            counter: requests.counter.clone(),
            errors: Matcher::new(&requests.errors)?,
            only: Matcher::new(&requests.only)?,
            strata: of_errors,
        },
        // Without an SLO on errors the histogram's own count tells how many requests there were.
        (None, latency) => CounterQuery {
            counter: latency.as_ref().map(|latency| format!("{}_count", latency.histogram)).unwrap_or_default(),
            errors: Matcher::new([("__no_such_label__", "never")])?,
            only: latency.as_ref().map_or_else(|| Ok(Matcher::any()), |latency| Matcher::new(&latency.only))?,
            strata: of_errors,
        },
    };
    let mut latencies = Vec::new();
    for slo in &policy.slos {
        if let (SloKind::Latency { threshold }, Some(latency)) = (slo.kind, &telemetry.latency) {
            latencies.push(LatencyQuery {
                histogram: latency.histogram.clone(),
                threshold_seconds: threshold.as_secs_f64(),
                others_seconds: Vec::new(),
                only: Matcher::new(latency.only.iter().chain(&slo.only))?,
                strata: strata(slo).collect(),
            });
        }
    }
    Ok(Query { requests, latencies })
}

/// The parts of an SLO's requests that are watched on their own.
fn strata(slo: &ValidSlo) -> impl Iterator<Item = Stratum> {
    let of = |by: &Strata| {
        let label = by.label.clone();
        by.values.clone().into_iter().map(move |value| Stratum { label: label.clone(), value })
    };
    slo.by.as_ref().map(of).into_iter().flatten()
}

/// What the reading task works with.
struct Looking {
    run: RolloutRun,
    policy: Policy,
    query: Query,
    namespace: Arc<Namespace>,
    reader: Reader,
    weights: Weights,
    shared: Arc<Mutex<Shared>>,
}

impl Looking {
    /// One reading of all pods, put into the ledger with the run's status as it is then.
    async fn look(&mut self) {
        let weight = self.note_weight(&self.status());
        let members = self.members();
        let is_shared = weight > 0.0 && weight < 100.0;
        let look = self.reader.look(&members, &self.query, is_shared).await;
        let step = is_shared.then(|| self.status().step);
        let answers = self.reader.ask(&members, step).await;
        let status = self.status();
        self.note_weight(&status);
        let now = Timestamp::now();
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Shared { ledger, recorder } = &mut *shared;
        ledger.hear(answers);
        let tick = match look {
            Look::Round(round) => {
                if ledger.choose(&self.policy, &round, now) {
                    // From the next round on the bounds that this one led to are asked for, too.
                    ledger.ask(&self.policy, &mut self.query);
                    return recorder.begin_anew(nanoseconds(now), ledger.fold());
                }
                let due = self.weights.least_since(round.since);
                ledger.read(&self.policy, &status, &round, due, now)
            }
            Look::Blind(why) => ledger.miss(&status, why, now),
            Look::Nothing => return,
        };
        recorder.tick(nanoseconds(now), ledger.fold(), &tick);
    }

    /// Pods that run.
    fn members(&self) -> Vec<Member> {
        let spec = &self.run.spec;
        let began = &self.run.metadata.creation_timestamp;
        let pods = [&spec.from.hash, &spec.to.hash].into_iter().flat_map(|hash| self.namespace.pods_with(hash));
        let pods = pods.filter(|pod| pod.status.phase == "Running" && !pod.status.pod_ip.is_empty());
        let member = |pod: Arc<crate::workload::Pod>| {
            Some(Member {
                uid: pod.metadata.uid.clone()?,
                arm: arm_of(&pod, &self.run)?,
                born_before_run: pod.metadata.creation_timestamp < *began,
                pod,
            })
        };
        pods.filter_map(member).collect()
    }

    fn status(&self) -> RolloutRunStatus {
        let run = self.run.metadata.name.as_deref().and_then(|name| self.namespace.run(name));
        run.and_then(|run| run.status.clone()).unwrap_or_default()
    }

    /// The canary's weight now.
    fn note_weight(&mut self, status: &RolloutRunStatus) -> f64 {
        let weight = look::due_percent(&self.policy, status);
        self.weights.note(seconds(Timestamp::now()), weight);
        weight
    }
}
