//! The record of a run: any bytes are read or refused, and what is read replays, with evidence from anywhere, without a
//! word but an error. Even first bytes are read as they are, others as the text that a segment deflates.

use std::{io::Write, sync::LazyLock};

use flate2::{Compression, write::DeflateEncoder};
use serin::{
    api::{Policy, RolloutRunSpec, validate},
    record::{Segment, replay, report, story},
};

static RUN: LazyLock<(RolloutRunSpec, Policy)> = LazyLock::new(|| {
    let version =
        |hash: &str| serde_json::json!({"hash": hash, "template": hash, "images": {"auth": format!("auth:{hash}")}});
    let spec = serde_json::json!({
        "rolloutRef": {"name": "auth"}, "from": version("old"), "to": version("new"),
        "policy": {
            "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
            "routes": [{"kind": "HTTPRoute", "name": "auth"}],
            "telemetry": {"scrape": {"port": "http"}, "requests": {"counter": "http_requests_total", "errors": {"code": "5.."}}},
            "slos": [{"name": "errors", "errors": {"objective": "99%"}}],
            "steps": [{"weight": 5, "bake": "20s"}, {"weight": 50, "bake": "20s"}]
        }
    });
    let spec: RolloutRunSpec = serde_json::from_value(spec).expect("a spec");
    let policy = validate(&spec.policy).expect("valid");
    (spec, policy)
});

pub fn check(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let deflated = match first % 2 {
        0 => rest.to_vec(),
        _ => {
            let mut deflating = DeflateEncoder::new(Vec::new(), Compression::fast());
            deflating.write_all(rest).expect("a vector takes all");
            deflating.finish().expect("a vector takes all")
        }
    };
    let Ok(segment) = Segment::read(&deflated) else { return };
    let (spec, policy) = &*RUN;
    let Ok(replayed) = replay(policy, spec, segment) else { return };
    story(spec, &replayed.made);
    let mut run = serin::api::RolloutRun::new("auth-1", spec.clone());
    run.status = replayed.made.last().map(|made| made.decision.status.clone());
    report(&run, policy, &replayed.made, &[]);
}
