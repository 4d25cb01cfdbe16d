//! A run in the middle of its step, for the tests of the stages.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::view::View;
use crate::{
    api::{Phase, Policy, RolloutRunSpec, RolloutRunStatus, validate},
    engine::{Arm, Snapshot, Traffic},
    evidence::{Evidence, Slo, Suspect},
};

/// What a decision is made of.
pub(super) struct Scene {
    pub policy: Policy,
    pub spec: RolloutRunSpec,
    pub before: RolloutRunStatus,
    pub snapshot: Snapshot,
}

impl Scene {
    /// At 50 %, with two canary pods; the SLO suspects this.
    pub fn with(suspect: Option<Suspect>) -> Self {
        let policy = serde_json::json!({
            "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
            "routes": [{"kind": "HTTPRoute", "name": "auth"}],
            "telemetry": {
                "scrape": {"port": "http"},
                "requests": {"counter": "http_requests_total", "errors": {"code": "5.."}}},
            "slos": [{"name": "errors", "errors": {"objective": "99%"}}],
            "steps": [{"weight": 50, "bake": "1m"}]
        });
        let policy = validate(&serde_json::from_value(policy).expect("a spec")).expect("valid");
        let spec = serde_json::json!({"rolloutRef": {"name": "auth"}, "from": {"hash": "a"}, "to": {"hash": "b"},
            "policy": policy.spec});
        let slo = Slo { name: "errors".into(), objective: 0.01, relative: 1.5, absolute: 0.001 };
        let mut judgements = Evidence::new(&[slo], 0.01, 1).judge();
        judgements[0].suspect = suspect;
        let uids = BTreeMap::from([("1", "auth-x"), ("2", "auth-y")].map(|(uid, name)| (uid.into(), name.into())));
        let canary = Some(Arm { ready: 2, available: 2, uids, ..Arm::default() });
        let traffic = Traffic { rate: Some(1.0), ..Traffic::default() };
        Self {
            spec: serde_json::from_value(spec).expect("a run"),
            policy,
            before: RolloutRunStatus { phase: Some(Phase::Shifting), step: 1, ..RolloutRunStatus::default() },
            snapshot: Snapshot { canary, judgements, traffic, ..Snapshot::default() },
        }
    }

    pub fn view(&self) -> View<'_> {
        let (policy, spec, before, snapshot) = (&self.policy, &self.spec, &self.before, &self.snapshot);
        View { policy, spec, before, snapshot, ending: false, now: Timestamp::UNIX_EPOCH }
    }
}
