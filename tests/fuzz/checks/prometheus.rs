//! Prometheus' answer: any bytes are read or refused, and no pod has more errors than requests.

use std::sync::LazyLock;

use serin::telemetry::{
    CounterQuery, LatencyQuery, Matcher, Query, Stratum,
    prometheus::{Labels, PodReading, read_answer, read_presence, read_share},
};

static ASKED: LazyLock<(Labels, Query)> = LazyLock::new(|| {
    let only = Matcher::new([("route", "/login|/session")]).expect("a matcher");
    let query = Query {
        requests: CounterQuery {
            counter: "http_requests_total".into(),
            errors: Matcher::new([("code", "5..")]).expect("a matcher"),
            only: only.clone(),
            strata: vec![Stratum { label: "route".into(), value: "/login".into() }],
        },
        latencies: vec![LatencyQuery {
            histogram: "h".into(),
            threshold_seconds: 0.25,
            others_seconds: vec![0.5],
            only,
            strata: Vec::new(),
        }],
    };
    (Labels { namespace: ("namespace".into(), "shop".into()), pod: "pod".into() }, query)
});

pub fn check(answer: &[u8]) {
    if let Ok(Some(share)) = read_share(answer) {
        assert!((0.0..=1.0).contains(&share), "{share}");
    }
    let (labels, query) = &*ASKED;
    if let Ok(pods) = read_presence(answer, &labels.pod) {
        assert!(pods.values().map(std::collections::BTreeSet::len).sum::<usize>() <= answer.len(), "{pods:?}");
    }
    let Ok(pods) = read_answer(answer, labels, query) else { return };
    for reading in pods.values() {
        let PodReading::Sampled { counts, .. } = reading else { continue };
        assert!(counts.errors <= counts.requests, "{counts:?}");
        assert!(counts.latencies.iter().all(|latency| latency.slow <= latency.total), "{counts:?}");
    }
}
