//! A pod's metrics page: any bytes are read or refused, and what is read is no more than the pod can have counted.

use std::sync::LazyLock;

use serin::telemetry::{CounterQuery, LatencyQuery, Limits, Matcher, Query, Stratum, parse, read};

static QUERY: LazyLock<Query> = LazyLock::new(|| {
    let only = Matcher::new([("route", "/login|/session")]).expect("a matcher");
    let login = Stratum { label: "route".into(), value: "/login".into() };
    Query {
        requests: CounterQuery {
            counter: "http_requests_total".into(),
            errors: Matcher::new([("code", "5..")]).expect("a matcher"),
            only: only.clone(),
            strata: vec![login.clone()],
        },
        latencies: vec![LatencyQuery {
            histogram: "http_request_duration_seconds".into(),
            threshold_seconds: 0.25,
            others_seconds: vec![0.1, 0.5],
            only,
            strata: vec![login],
        }],
    }
});

pub fn check(page: &[u8]) {
    let Ok(exposition) = parse(page, &Limits::default()) else { return };
    let Ok(counts) = read(&exposition, &QUERY) else { return };
    assert!(counts.errors <= counts.requests, "{counts:?}");
    assert!(counts.strata.iter().all(|part| part.errors <= part.requests), "{counts:?}");
    assert!(counts.latencies.iter().all(|latency| latency.slow <= latency.total), "{counts:?}");
}
