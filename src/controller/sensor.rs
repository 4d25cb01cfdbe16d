//! A run's eyes: scrapes the arms' pods at the policy's rhythm, apart from the decisions, so that pods that hang or lie
//! never delay one.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::{
    caches::Namespace,
    look,
    observe::{Seen, arm_of},
};
use crate::{
    api::{Policy, RolloutRun, SloKind},
    evidence::{Count, Evidence, Sample, Slo, Split},
    telemetry::{
        Arm, CounterQuery, DeltaSettings, Deltas, LatencyQuery, MAX_PODS_PER_ARM, Matcher, MatcherError, PodCounts,
        PodScrape, Query, Scraper, Target, TickCounts, pick, shared_gaps,
    },
    workload::{Pod, template},
};

/// What is kept of a run's counts: enough to go on exactly after a restart.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
struct Ledger {
    evidence: Evidence,
    deltas: Deltas,
    split: Split,
}

/// The state that the scraping task and the decisions share.
struct Shared {
    ledger: Ledger,
    blind: Option<String>,
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
        let shared = Arc::new(Mutex::new(Shared { ledger, blind: Some("no counts yet".into()) }));
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
                looking.look(interval).await;
                tick();
            }
        });
        Ok(Self { shared, task })
    }

    /// What the counts say now.
    pub fn seen(&self) -> Seen {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        look::seen(&shared.ledger.evidence, &shared.ledger.split, shared.blind.clone())
    }

    /// The ledger as text.
    pub fn ledger(&self) -> Option<String> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_string(&shared.ledger).ok()
    }
}

impl Ledger {
    fn new(policy: &Policy) -> Self {
        let slos: Vec<Slo> = policy
            .slos
            .iter()
            .map(|slo| Slo {
                name: slo.name.clone(),
                objective: slo.bad_allowed,
                relative: slo.relative,
                absolute: slo.absolute,
            })
            .collect();
        let settings =
            DeltaSettings { warmup_seconds: policy.spec.limits.warmup.as_secs_f64(), ..DeltaSettings::default() };
        Self {
            evidence: Evidence::new(&slos, policy.alpha, policy.steps.len()),
            deltas: Deltas::new(settings),
            split: Split::default(),
        }
    }
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
    /// One reading of all pods, folded into the ledger.
    async fn look(&self, interval: Duration) {
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
        self.fold(&scrapes, interval, fault, gap);
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

    fn fold(&self, scrapes: &[PodScrape], interval: Duration, fault: Option<String>, gap: Option<String>) {
        let now = Timestamp::now().as_millisecond() as f64 / 1000.0;
        let status = self
            .run
            .metadata
            .name
            .as_deref()
            .and_then(|name| self.namespace.run(name))
            .and_then(|run| run.status.clone());
        let status = status.unwrap_or_default();
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let ledger = &mut shared.ledger;
        let step = usize::try_from(status.step.saturating_sub(1)).unwrap_or(0);
        ledger.evidence.begin_step(step);
        let counts = ledger.deltas.observe(now, scrapes);
        let weight = look::due_percent(&self.policy, &status);
        let total = |arm: &Option<crate::telemetry::ArmCounts>| arm.as_ref().map(|arm| arm.requests);
        ledger.split.push(total(&counts.canary), total(&counts.stable), weight, interval.as_secs_f64());
        ledger.evidence.fold(&samples(&self.policy, &counts));
        shared.blind = blind(scrapes, &counts, fault, gap);
    }
}

/// Why there are no counts to judge by.
fn blind(scrapes: &[PodScrape], counts: &TickCounts, fault: Option<String>, gap: Option<String>) -> Option<String> {
    let of = |arm| scrapes.iter().any(|scrape| scrape.arm == arm);
    let unread = counts.canary.is_none() && of(Arm::Canary) || counts.stable.is_none() && of(Arm::Stable);
    match (unread, fault) {
        (true, Some(fault)) => Some(fault),
        _ => gap,
    }
}

fn samples(policy: &Policy, counts: &TickCounts) -> Vec<Sample> {
    let mut latency = 0;
    let mut samples = Vec::new();
    for slo in &policy.slos {
        let count = |arm: &Option<crate::telemetry::ArmCounts>| match (arm, slo.kind) {
            (Some(arm), SloKind::Errors) => Count { bad: arm.errors, total: arm.requests },
            (Some(arm), SloKind::Latency { .. }) => arm
                .latencies
                .get(latency)
                .map_or(Count::default(), |count| Count { bad: count.slow, total: count.total }),
            (None, _) => Count::default(),
        };
        samples.push(Sample { canary: count(&counts.canary), stable: count(&counts.stable) });
        latency += usize::from(matches!(slo.kind, SloKind::Latency { .. }));
    }
    samples
}

/// The number of the port to scrape, from the Deployment's template.
pub(super) fn port_of(template: &serde_json::Value, policy: &Policy) -> Option<u16> {
    template::port(template, &policy.spec.telemetry.scrape.port)
}
