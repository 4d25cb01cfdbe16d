//! The saved evidence of a run, which the next leader goes on from: any text is read or refused, and what is read goes on
//! with counts as they come, is written down, and comes back as it was.

use std::{net::IpAddr, sync::LazyLock};

use jiff::Timestamp;
use serin::{
    api::{Phase, Policy, RolloutRunStatus, validate},
    controller::Ledger,
    evidence::QueryReading,
    telemetry::{Arm, LatencyCount, PodCounts, PodScrape, Round, http::Numbers},
};

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let spec = serde_json::json!({
        "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
        "routes": [{"kind": "HTTPRoute", "name": "auth"}],
        "telemetry": {
            "scrape": {"port": "http"}, "requests": {"counter": "http_requests_total", "errors": {"code": "5.."}},
            "latency": {"histogram": "http_request_duration_seconds"}},
        "slos": [{"name": "latency", "latency": {"threshold": "250ms", "objective": "99%"}},
                 {"name": "errors", "errors": {"objective": "99%"}}],
        "steps": [{"weight": 5, "bake": "20s"}, {"weight": 50, "bake": "20s"}]
    });
    validate(&serde_json::from_value(spec).expect("a spec")).expect("valid")
});

fn sent(requests: u64) -> Numbers {
    Numbers { requests, ..Numbers::default() }
}

/// Both arms, with so many requests a second since the begin.
fn round(second: u64) -> Round {
    let pod = |pod: &str, arm, rate: u64| PodScrape {
        pod: pod.into(),
        arm,
        born_before_run: arm == Arm::Stable,
        counts: Some(PodCounts {
            requests: rate * second,
            errors: second / 3,
            latencies: vec![LatencyCount { total: rate * second, slow: second / 2 }],
            present: true,
            ..PodCounts::default()
        }),
    };
    Round {
        pods: vec![pod("s", Arm::Stable, 190), pod("c", Arm::Canary, 10)],
        seconds: 1.0,
        since: f64::INFINITY,
        fault: None,
        gap: None,
        sampled: false,
        router: Some(vec![(IpAddr::from([10, 0, 0, 1]), [190, 10].map(|rate| sent(rate * second)))]),
    }
}

pub fn check(text: &[u8]) {
    let Ok(mut ledger) = serde_json::from_slice::<Ledger>(text) else { return };
    let policy = &*POLICY;
    let status = RolloutRunStatus { phase: Some(Phase::Shifting), step: 1, ..RolloutRunStatus::default() };
    for second in 0..12 {
        let now = Timestamp::from_second(1_764_000_100 + second).expect("in range");
        let round = round(second.unsigned_abs());
        ledger.choose(policy, &round, now);
        ledger.hear(vec![QueryReading { canary: Some(20_001), stable: Some(0), ..QueryReading::default() }]);
        ledger.read(policy, &status, &round, 5.0, now);
    }
    ledger.miss(&status, "away".into(), Timestamp::UNIX_EPOCH);
    ledger.fold().judge();
    let written = serde_json::to_string(&ledger).expect("JSON");
    let again: Ledger = serde_json::from_str(&written).expect("what was written is read");
    assert_eq!(serde_json::to_string(&again).expect("JSON"), written);
}
