//! From what the pods answered to what is known of a run. Pure: time comes in as a parameter.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    api::{Policy, RolloutRunStatus, SloKind},
    evidence::{Count, Fold, PodTick, Slo, Tick, Watch},
    telemetry::{Arm, ArmCounts, DeltaSettings, Deltas, LatencyCount, PodDelta, Round, TickCounts},
};

/// What is kept of a run's counts: enough to go on exactly after a restart.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(super) struct Ledger {
    deltas: Deltas,
    fold: Fold,
}

impl Ledger {
    pub fn new(policy: &Policy) -> Self {
        let settings =
            DeltaSettings { warmup_seconds: policy.spec.limits.warmup.as_secs_f64(), ..DeltaSettings::default() };
        Self { deltas: Deltas::new(settings), fold: Fold::new(&watches(policy), policy.alpha, policy.steps.len()) }
    }

    /// A round of readings, the run's status at that time, and the percent that was due to the canary while what is new was
    /// counted. Returns the tick that it made.
    pub fn read(
        &mut self,
        policy: &Policy,
        status: &RolloutRunStatus,
        round: &Round,
        due: f64,
        now: Timestamp,
    ) -> Tick {
        let at = now.as_millisecond();
        let counts = self.deltas.observe(at as f64 / 1000.0, &round.pods);
        let pods = |arm: Option<&ArmCounts>| arm.map(|arm| arm.pods.iter().map(|pod| pod_tick(policy, pod)).collect());
        let tick = Tick {
            at,
            interval: thousandths(round.seconds),
            step: status.step.saturating_sub(1),
            due: thousandths(due),
            canary: pods(counts.canary.as_ref()),
            stable: pods(counts.stable.as_ref()),
            blind: blind(round, &counts),
        };
        self.fold.fold(&tick);
        tick
    }

    /// Nothing could be read, and why. Returns the tick that it made: one without counts.
    pub fn miss(&mut self, status: &RolloutRunStatus, why: String, now: Timestamp) -> Tick {
        let tick =
            Tick { at: now.as_millisecond(), step: status.step.saturating_sub(1), blind: Some(why), ..Tick::default() };
        self.fold.fold(&tick);
        tick
    }

    pub fn fold(&self) -> &Fold {
        &self.fold
    }
}

/// A policy's SLOs as the evidence needs them.
pub fn watches(policy: &Policy) -> Vec<Watch> {
    let slo = |slo: &crate::api::ValidSlo| Slo {
        name: slo.name.clone(),
        objective: slo.bad_allowed,
        relative: slo.relative,
        absolute: slo.absolute,
    };
    policy.slos.iter().map(|valid| slo(valid).into()).collect()
}

/// Percent, or seconds, in thousandths.
pub fn thousandths(number: f64) -> u32 {
    // A float that does not fit becomes the nearest number that does.
    (number * 1000.0).round() as u32
}

/// A pod's counts in the order of the SLOs.
fn pod_tick(policy: &Policy, pod: &PodDelta) -> PodTick {
    let mut latencies = pod.latencies.iter();
    let mut count = |kind| match kind {
        SloKind::Errors => Count { bad: pod.errors, total: pod.requests },
        SloKind::Latency { .. } => {
            let LatencyCount { total, slow } = latencies.next().copied().unwrap_or_default();
            Count { bad: slow, total }
        }
    };
    let counts = policy.slos.iter().map(|slo| count(slo.kind)).collect();
    PodTick { pod: pod.pod.clone(), requests: pod.requests, counts }
}

/// Why there are no counts to judge by.
fn blind(round: &Round, counts: &TickCounts) -> Option<String> {
    let of = |arm| round.pods.iter().any(|scrape| scrape.arm == arm);
    let unread = counts.canary.is_none() && of(Arm::Canary) || counts.stable.is_none() && of(Arm::Stable);
    match (unread, &round.fault) {
        (true, Some(fault)) => Some(fault.clone()),
        _ => round.gap.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Phase, validate},
        evidence::Verdict,
        telemetry::{PodCounts, PodScrape},
    };

    fn policy() -> Policy {
        let spec = serde_json::json!({
            "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
            "routes": [{"kind": "HTTPRoute", "name": "auth"}],
            "telemetry": {
                "scrape": {"port": "http"},
                "requests": {"counter": "http_requests_total", "errors": {"code": "5.."}},
                "latency": {"histogram": "http_request_duration_seconds"}},
            "slos": [{"name": "latency", "latency": {"threshold": "250ms", "objective": "99%"}},
                     {"name": "errors", "errors": {"objective": "99%"}}],
            "limits": {"warmup": "0s"},
            "steps": [{"weight": 5, "bake": "1m"}, {"weight": 50}]
        });
        validate(&serde_json::from_value(spec).expect("a spec")).expect("valid")
    }

    fn scrape(pod: &str, arm: Arm, requests: u64, errors: u64, slow: u64) -> PodScrape {
        let latencies = vec![LatencyCount { total: requests, slow }];
        let counts = PodCounts { requests, errors, latencies, present: true, gaps: Vec::new() };
        PodScrape { pod: pod.to_owned(), arm, born_before_run: arm == Arm::Stable, counts: Some(counts) }
    }

    fn round(pods: Vec<PodScrape>) -> Round {
        Round { pods, seconds: 1.0, since: f64::INFINITY, fault: None, gap: None }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("in range")
    }

    #[test]
    fn a_reading_becomes_a_tick_with_each_pods_counts_in_the_order_of_the_slos() {
        // Given a run at its first step, with its weight in the route:
        let (policy, mut ledger) = (policy(), Ledger::new(&policy()));
        let mut status = RolloutRunStatus {
            phase: Some(Phase::Shifting),
            step: 1,
            confirmed: Some(5),
            ..RolloutRunStatus::default()
        };
        (status.weight.wanted, status.weight.set) = (5, 5);
        let first = round(vec![scrape("s", Arm::Stable, 1000, 10, 30)]);
        ledger.read(&policy, &status, &first, look::due_percent(&policy, &status), at(0));
        // When both arms were read again:
        let scrapes = vec![scrape("s", Arm::Stable, 1190, 11, 34), scrape("c", Arm::Canary, 10, 2, 1)];
        let tick = ledger.read(&policy, &status, &round(scrapes), look::due_percent(&policy, &status), at(1));
        // Then:
        let counts = |slow, errors, total| vec![Count { bad: slow, total }, Count { bad: errors, total }];
        assert_eq!(tick.canary.unwrap(), [PodTick { pod: "c".into(), requests: 10, counts: counts(1, 2, 10) }]);
        assert_eq!(tick.stable.unwrap(), [PodTick { pod: "s".into(), requests: 190, counts: counts(4, 1, 190) }]);
        assert_eq!((tick.step, tick.due, tick.interval, tick.blind), (0, 5_000, 1_000, None));
        assert_eq!(ledger.fold().split().seen(), Some(5.0));
    }

    #[test]
    fn a_saved_ledger_goes_on_and_one_of_another_shape_is_refused() {
        let (policy, mut ledger) = (policy(), Ledger::new(&policy()));
        let status = RolloutRunStatus { phase: Some(Phase::Shifting), step: 1, ..RolloutRunStatus::default() };
        let mut loaded = ledger.clone();
        for second in 0..60 {
            let requests = u64::try_from(second).unwrap() * 20;
            let scrapes = vec![
                scrape("s", Arm::Stable, 10 * requests, 0, 0),
                scrape("c", Arm::Canary, requests, requests / 2, 0),
            ];
            let round = round(scrapes);
            let saved = serde_json::to_string(&loaded).unwrap();
            loaded = serde_json::from_str(&saved).unwrap();
            assert_eq!(
                loaded.read(&policy, &status, &round, 5.0, at(second)),
                ledger.read(&policy, &status, &round, 5.0, at(second))
            );
        }
        assert_eq!(serde_json::to_string(&loaded).unwrap(), serde_json::to_string(&ledger).unwrap());
        assert_eq!(ledger.fold().judge()[1].verdict, Verdict::Bad);
        assert!(serde_json::from_str::<Ledger>(r#"{"evidence": {}, "deltas": {}, "split": {}}"#).is_err());
    }

    #[test]
    fn what_could_not_be_read_says_why() {
        let (policy, mut ledger) = (policy(), Ledger::new(&policy()));
        let mut round = round(vec![scrape("s", Arm::Stable, 1, 0, 0)]);
        round.pods.push(PodScrape { counts: None, ..scrape("c", Arm::Canary, 0, 0, 0) });
        round.fault = Some("c refuses connections".into());
        round.gap = Some("no such metric".into());
        let status = RolloutRunStatus::default();
        let tick = ledger.read(&policy, &status, &round, 5.0, at(0));
        assert_eq!((tick.canary, tick.blind), (None, Some("c refuses connections".into())));
        // One of two pods is enough to go by.
        round.pods.push(scrape("d", Arm::Canary, 0, 0, 0));
        assert_eq!(ledger.read(&policy, &status, &round, 5.0, at(1)).blind, Some("no such metric".into()));
        // Nothing at all is no zero.
        let tick = ledger.miss(&status, "Prometheus is away".into(), at(2));
        assert_eq!((tick.canary, tick.stable, tick.blind), (None, None, Some("Prometheus is away".into())));
        assert_eq!(ledger.fold().blind(), Some("Prometheus is away"));
    }
}
