//! Serin's own metrics, for `/metrics`.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::api::{RolloutRun, RolloutRunStatus};
use std::sync::atomic::AtomicU64;

type Float = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRollout {
    namespace: String,
    rollout: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPhase {
    namespace: String,
    rollout: String,
    phase: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSlo {
    namespace: String,
    rollout: String,
    slo: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWrite {
    kind: &'static str,
    verb: &'static str,
    outcome: &'static str,
}

/// All metrics, in a registry of their own.
pub(super) struct Metrics {
    registry: Registry,
    wanted: Family<OfRollout, Gauge>,
    set: Family<OfRollout, Gauge>,
    seen: Family<OfRollout, Float>,
    phase: Family<OfPhase, Gauge>,
    evidence: Family<OfSlo, Float>,
    threshold: Family<OfSlo, Float>,
    verdict_bad: Family<OfSlo, Gauge>,
    reconcile: Histogram,
    reconcile_errors: Counter,
    writes: Family<OfWrite, Counter>,
    leading: Gauge,
}

const PHASES: [&str; 8] =
    ["Preparing", "Shifting", "Promoting", "RollingBack", "Succeeded", "RolledBack", "Superseded", "Cancelled"];

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("serin");
        macro_rules! register {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let buckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
        let reconcile = Histogram::new(buckets);
        registry.register_with_unit(
            "reconcile_duration",
            "Time of one look at a Rollout",
            Unit::Seconds,
            reconcile.clone(),
        );
        Self {
            wanted: register!(
                "weight_wanted_percent",
                "Percent of requests that the canary shall get",
                Family::default()
            ),
            set: register!("weight_set_percent", "Percent in the route that its gateway accepted", Family::default()),
            seen: register!(
                "weight_seen_percent",
                "Percent of requests that the canary got, as counted",
                Family::default()
            ),
            phase: register!("run_phase", "1 for the phase of the newest run", Family::default()),
            evidence: register!(
                "slo_evidence",
                "Natural logarithm of the evidence that the canary is worse",
                Family::default()
            ),
            threshold: register!("slo_threshold", "At this much evidence the verdict is Bad", Family::default()),
            verdict_bad: register!("slo_bad", "1 if the verdict is Bad", Family::default()),
            reconcile,
            reconcile_errors: register!(
                "reconcile_errors",
                "Looks at a Rollout that ended in an error",
                Counter::default()
            ),
            writes: register!("api_writes", "Writes to the API server", Family::default()),
            leading: register!("leading", "1 while this controller leads", Gauge::default()),
            registry,
        }
    }

    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub fn wrote(&self, kind: &'static str, verb: &'static str, outcome: &'static str) {
        self.writes.get_or_create(&OfWrite { kind, verb, outcome }).inc();
    }

    pub fn reconciled(&self, time: Duration, failed: bool) {
        self.reconcile.observe(time.as_secs_f64());
        if failed {
            self.reconcile_errors.inc();
        }
    }

    pub fn leads(&self, leads: bool) {
        self.leading.set(i64::from(leads));
    }

    /// What is, of a run.
    pub fn run(&self, run: &RolloutRun, status: &RolloutRunStatus) {
        let namespace = run.metadata.namespace.clone().unwrap_or_default();
        let rollout = run.spec.rollout_ref.name.clone();
        let of = OfRollout { namespace: namespace.clone(), rollout: rollout.clone() };
        self.wanted.get_or_create(&of).set(i64::from(status.weight.wanted));
        self.set.get_or_create(&of).set(i64::from(status.weight.set));
        match status.weight.seen {
            Some(seen) => {
                self.seen.get_or_create(&of).set(seen);
            }
            None => {
                self.seen.remove(&of);
            }
        }
        let is = status.phase.unwrap_or_default().to_string();
        for phase in PHASES {
            let of = OfPhase { namespace: namespace.clone(), rollout: rollout.clone(), phase: phase.to_owned() };
            self.phase.get_or_create(&of).set(i64::from(phase == is));
        }
        for slo in &status.slos {
            let of = OfSlo { namespace: namespace.clone(), rollout: rollout.clone(), slo: slo.name.clone() };
            self.evidence.get_or_create(&of).set(slo.evidence);
            self.threshold.get_or_create(&of).set(slo.threshold);
            self.verdict_bad.get_or_create(&of).set(i64::from(slo.verdict == "Bad"));
        }
    }

    /// A Rollout is gone: so are its figures.
    pub fn forget(&self, namespace: &str, rollout: &str, slos: &[String]) {
        let of = OfRollout { namespace: namespace.to_owned(), rollout: rollout.to_owned() };
        self.wanted.remove(&of);
        self.set.remove(&of);
        self.seen.remove(&of);
        for phase in PHASES {
            self.phase.remove(&OfPhase {
                namespace: namespace.to_owned(),
                rollout: rollout.to_owned(),
                phase: phase.to_owned(),
            });
        }
        for slo in slos {
            let of = OfSlo { namespace: namespace.to_owned(), rollout: rollout.to_owned(), slo: slo.clone() };
            self.evidence.remove(&of);
            self.threshold.remove(&of);
            self.verdict_bad.remove(&of);
        }
    }
}
