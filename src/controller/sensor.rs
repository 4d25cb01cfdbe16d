//! A run's eyes: scrapes the arms' pods at the policy's rhythm, apart from the decisions, so that pods that hang or lie
//! never delay one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::task::JoinHandle;

use super::{
    caches::Namespace,
    ledger::{Ledger, Reading},
    look::{self, Moved},
    observe::{Seen, arm_of},
};
use crate::{
    api::{Policy, RolloutRun, SloKind},
    record::{Inputs, Part, Recorder},
    telemetry::{
        CounterQuery, LatencyQuery, MAX_PODS_PER_ARM, Matcher, MatcherError, PodCounts, PodScrape, Query, Scraper,
        Target, pick, shared_gaps,
    },
    workload::{Pod, template},
};

/// What the scraping task and the decisions share.
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
        port: u16,
        namespace: Arc<Namespace>,
        scraper: Arc<Scraper>,
        tick: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, SensorError> {
        let query = query(policy)?;
        let saved = run.status.as_ref().and_then(|status| status.ledger.as_deref());
        let ledger = saved.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_else(|| Ledger::new(policy));
        let recorder = Recorder::new(nanoseconds(Timestamp::now()), ledger.fold());
        let shared = Arc::new(Mutex::new(Shared { ledger, recorder }));
        let looking = Looking {
            run: run.clone(),
            policy: policy.clone(),
            port,
            query,
            namespace,
            scraper,
            shared: Arc::clone(&shared),
        };
        let task = tokio::spawn(async move {
            let interval = looking.policy.spec.telemetry.scrape.interval.duration();
            let mut clock = tokio::time::interval(interval);
            clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                clock.tick().await;
                let reading = looking.look().await;
                looking.keep(&reading);
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
        let inputs =
            Inputs { at: nanoseconds(now), ending: moved.ending, ticks, before: &before, snapshot: &moved.snapshot };
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

fn query(policy: &Policy) -> Result<Query, MatcherError> {
    let telemetry = &policy.spec.telemetry;
    let requests = match (&telemetry.requests, &telemetry.latency) {
        (Some(requests), _) => CounterQuery {
            counter: requests.counter.clone(),
            errors: Matcher::new(&requests.errors)?,
            only: Matcher::new(&requests.only)?,
        },
        // Without an SLO on errors the histogram's own count tells how many requests there were.
        (None, latency) => CounterQuery {
            counter: latency.as_ref().map(|latency| format!("{}_count", latency.histogram)).unwrap_or_default(),
            errors: Matcher::new([("__no_such_label__", "never")])?,
            only: latency.as_ref().map_or_else(|| Ok(Matcher::any()), |latency| Matcher::new(&latency.only))?,
        },
    };
    let mut latencies = Vec::new();
    for slo in &policy.slos {
        if let (SloKind::Latency { threshold }, Some(latency)) = (slo.kind, &telemetry.latency) {
            latencies.push(LatencyQuery {
                histogram: latency.histogram.clone(),
                threshold_seconds: threshold.as_secs_f64(),
                only: Matcher::new(&latency.only)?,
            });
        }
    }
    Ok(Query { requests, latencies })
}

/// What the scraping task works with.
struct Looking {
    run: RolloutRun,
    policy: Policy,
    port: u16,
    query: Query,
    namespace: Arc<Namespace>,
    scraper: Arc<Scraper>,
    shared: Arc<Mutex<Shared>>,
}

impl Looking {
    /// One reading of all pods.
    async fn look(&self) -> Reading {
        let spec = &self.run.spec;
        let pods = [&spec.from.hash, &spec.to.hash].into_iter().flat_map(|hash| self.namespace.pods_with(hash));
        let pods: Vec<Arc<Pod>> =
            pods.filter(|pod| pod.status.phase == "Running" && !pod.status.pod_ip.is_empty()).collect();
        let targets = pick(&pods.iter().filter_map(|pod| self.target(pod)).collect::<Vec<_>>(), MAX_PODS_PER_ARM);
        let read = self.scraper.scrape(&targets, &self.query).await;
        let began = self.run.metadata.creation_timestamp.clone();
        let old = |uid: &str| {
            let pod = pods.iter().find(|pod| pod.metadata.uid.as_deref() == Some(uid));
            pod.is_some_and(|pod| pod.metadata.creation_timestamp < began)
        };
        let mut fault = None;
        let mut scrapes = Vec::new();
        let mut counts: Vec<PodCounts> = Vec::new();
        for (index, result) in read {
            let Some(target) = targets.get(index) else { continue };
            let read = match result {
                Ok(read) => {
                    counts.push(read.clone());
                    Some(read)
                }
                Err(error) => {
                    fault = fault.or(Some(error.to_string()));
                    None
                }
            };
            scrapes.push(PodScrape {
                pod: target.pod.clone(),
                arm: target.arm,
                born_before_run: old(&target.pod),
                counts: read,
            });
        }
        let gap = shared_gaps(&counts).first().map(ToString::to_string);
        Reading { scrapes, fault, gap }
    }

    fn target(&self, pod: &Pod) -> Option<Target> {
        Some(Target {
            pod: pod.metadata.uid.clone()?,
            arm: arm_of(pod, &self.run)?,
            ip: pod.status.pod_ip.parse().ok()?,
            port: self.port,
            path: self.policy.spec.telemetry.scrape.path.clone(),
        })
    }

    /// Puts it into the ledger, with the run's status as it is now.
    fn keep(&self, reading: &Reading) {
        let run = self.run.metadata.name.as_deref().and_then(|name| self.namespace.run(name));
        let status = run.and_then(|run| run.status.clone()).unwrap_or_default();
        let now = Timestamp::now();
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Shared { ledger, recorder } = &mut *shared;
        let tick = ledger.read(&self.policy, &status, reading, now);
        recorder.tick(nanoseconds(now), ledger.fold(), &tick);
    }
}

/// The number of the port to scrape, from the Deployment's template.
pub(super) fn port_of(template: &serde_json::Value, policy: &Policy) -> Option<u16> {
    template::port(template, &policy.spec.telemetry.scrape.port)
}
