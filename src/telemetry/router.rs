//! Counts of the gateway's Envoys: what each of them says of one Service, as versions' numbers since the run began. Pure;
//! their pages are read as pods' are.
//!
//! Envoy's counters (`/stats/prometheus`): `envoy_cluster_upstream_rq` by `envoy_response_code` has every request, also
//! those for which no pod answered (503) or not in time (504); `envoy_cluster_upstream_rq_time` is a histogram in
//! milliseconds of those that a pod answered. Contour names the clusters of a route NAMESPACE_SERVICE_PORT. Where a cluster
//! is a rule with all its Services (Envoy Gateway), they are told apart by pods: `envoy_cluster_endpoint_rq_success` and
//! `_rq_error` (5xx, and no answer) by `envoy_endpoint_address`, if Envoy counts endpoints one by one
//! (`per_endpoint_stats`). Of their times it knows nothing.

use std::{collections::BTreeMap, net::IpAddr};

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::{
    http::{Answer, Numbers},
    query::{CounterQuery, LatencyQuery, Matcher, MatcherError, PodCounts, Query},
};

const REQUESTS: &str = "envoy_cluster_upstream_rq";
const SUCCESSES: &str = "envoy_cluster_endpoint_rq_success";
const FAILURES: &str = "envoy_cluster_endpoint_rq_error";
const DURATIONS: &str = "envoy_cluster_upstream_rq_time";

/// What to read of an Envoy's page for one Service. `threshold`: seconds, a bound of Envoy's buckets.
///
/// # Errors
/// If a name is no name of a Service.
pub fn query(namespace: &str, service: &str, threshold: Option<f64>) -> Result<Query, MatcherError> {
    let only = Matcher::new([("envoy_cluster_name", format!("{namespace}_{}_[^_]+", regex::escape(service)))])?;
    let latency = |threshold: f64| LatencyQuery {
        histogram: DURATIONS.to_owned(),
        threshold_seconds: threshold * 1000.0,
        others_seconds: Vec::new(),
        only: only.clone(),
        strata: Vec::new(),
    };
    let requests = CounterQuery {
        counter: REQUESTS.to_owned(),
        errors: Matcher::new([("envoy_response_code", "5..")])?,
        only: only.clone(),
        strata: Vec::new(),
    };
    Ok(Query { latencies: threshold.map(latency).into_iter().collect(), requests })
}

/// What to read of an Envoy's page for one pod: what went well, and what did not.
///
/// # Errors
/// Never: an address is a sound pattern.
pub fn pod_queries(pod: IpAddr) -> Result<[Query; 2], MatcherError> {
    let address = format!("\\[?{}\\]?:[0-9]+", regex::escape(&pod.to_string()));
    let only = Matcher::new([("envoy_endpoint_address", address)])?;
    let nothing = Matcher::new([("__no_such_label__", "never")])?;
    Ok([SUCCESSES, FAILURES].map(|counter| Query {
        requests: CounterQuery {
            counter: counter.to_owned(),
            errors: nothing.clone(),
            only: only.clone(),
            strata: Vec::new(),
        },
        latencies: Vec::new(),
    }))
}

/// What one Envoy has of one pod, by [`pod_queries`].
pub fn pod_numbers(successes: &PodCounts, failures: &PodCounts) -> Numbers {
    let requests = successes.requests.saturating_add(failures.requests);
    Numbers { requests, errors: failures.requests, ..Numbers::default() }
}

/// The page of an Envoy with counters of these Services and pods only.
pub fn path(namespace: &str, services: [&str; 2], pods: &[IpAddr]) -> String {
    let [one, other] = services.map(regex::escape);
    // In the name of a counter a colon is an underscore.
    let pods: Vec<String> = pods.iter().map(|pod| regex::escape(&pod.to_string().replace(':', "_"))).collect();
    let pods = pods.join("|");
    let filter = format!(
        "^cluster\\.({namespace}_({one}|{other})_[^_.]+\\.upstream_rq_(time|[0-9]+)|\
         .+\\.endpoint\\.\\[?({pods})\\]?_[0-9]+\\.rq_(success|error))$"
    );
    let mut url = Url::parse("http://envoy/stats/prometheus?usedonly").unwrap_or_else(|_| unreachable!("it is a URL"));
    url.query_pairs_mut().append_pair("filter", &filter);
    format!("{}?{}", url.path(), url.query().unwrap_or_default())
}

/// What one Envoy has of one Service.
pub fn numbers(counts: &PodCounts) -> Numbers {
    let latency = counts.latencies.first().copied().unwrap_or_default();
    Numbers { requests: counts.requests, errors: counts.errors, timed: latency.total, slow: latency.slow }
}

/// Sums over Envoys that come, go and begin anew.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accounts {
    /// Stable's and the canary's, as each Envoy had them last, or had them of one pod.
    last: BTreeMap<String, [Numbers; 2]>,
    sums: [Numbers; 2],
}

impl Accounts {
    /// One reading of all Envoys, each by a name of its own.
    pub fn add(&mut self, envoys: &[(String, [Numbers; 2])]) -> Answer {
        let before = std::mem::take(&mut self.last);
        for (envoy, now) in envoys {
            let before = before.get(envoy).copied().unwrap_or_default();
            let last = [0, 1].map(|arm| {
                let (last, new) = new_of(before[arm], now[arm]);
                self.sums[arm] = plus(self.sums[arm], new);
                last
            });
            self.last.insert(envoy.clone(), last);
        }
        let [stable, canary] = self.sums;
        Answer { stable, canary, time: None }
    }
}

/// What an Envoy's numbers of a version are taken for from now on, and what is new in them. What comes into sight is not: an
/// Envoy has its history, and counters of a cluster that was taken out of it may be back with what they had counted when
/// it is put in again. Requests that go down have begun anew. Nothing else tells that: Envoy's histograms are approximate,
/// and of a bucket some requests may be taken back.
fn new_of(before: Numbers, now: Numbers) -> (Numbers, Numbers) {
    if before.requests == 0 {
        return (now, Numbers::default());
    }
    if now.requests < before.requests {
        return (now, now);
    }
    let highest = Numbers {
        requests: now.requests,
        errors: now.errors.max(before.errors),
        timed: now.timed.max(before.timed),
        slow: now.slow.max(before.slow),
    };
    (highest, less(highest, before))
}

/// What is new since then.
pub fn less(now: Numbers, before: Numbers) -> Numbers {
    Numbers {
        requests: now.requests.saturating_sub(before.requests),
        errors: now.errors.saturating_sub(before.errors),
        timed: now.timed.saturating_sub(before.timed),
        slow: now.slow.saturating_sub(before.slow),
    }
}

fn plus(sum: Numbers, more: Numbers) -> Numbers {
    Numbers {
        requests: sum.requests.saturating_add(more.requests),
        errors: sum.errors.saturating_add(more.errors),
        timed: sum.timed.saturating_add(more.timed),
        slow: sum.slow.saturating_add(more.slow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Limits, parse, read};

    const PAGE: &str = "\
# TYPE envoy_cluster_upstream_rq counter
envoy_cluster_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"shop_auth_80\"} 90
envoy_cluster_upstream_rq{envoy_response_code=\"503\",envoy_cluster_name=\"shop_auth_80\"} 10
envoy_cluster_upstream_rq{envoy_response_code=\"404\",envoy_cluster_name=\"shop_auth_8080\"} 5
envoy_cluster_upstream_rq{envoy_response_code=\"504\",envoy_cluster_name=\"shop_auth-canary_80\"} 3
envoy_cluster_upstream_rq{envoy_response_code=\"500\",envoy_cluster_name=\"other_auth_80\"} 77
# TYPE envoy_cluster_upstream_rq_time histogram
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"shop_auth_80\",le=\"250\"} 80
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"shop_auth_80\",le=\"500\"} 90
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"shop_auth_80\",le=\"+Inf\"} 91
envoy_cluster_upstream_rq_time_sum{envoy_cluster_name=\"shop_auth_80\"} 1234.5
envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"shop_auth_80\"} 91
";

    fn of(service: &str) -> Numbers {
        let page = parse(PAGE.as_bytes(), &Limits::default()).expect("a page");
        numbers(&read(&page, &query("shop", service, Some(0.25)).expect("a query")).expect("counts"))
    }

    #[test]
    fn an_envoy_counts_each_service_of_each_namespace_by_itself() {
        assert_eq!(of("auth"), Numbers { requests: 105, errors: 10, timed: 91, slow: 11 });
        assert_eq!(of("auth-canary"), Numbers { requests: 3, errors: 3, timed: 0, slow: 0 });
        assert_eq!(of("aut"), Numbers::default());
        let path = path("shop", ["auth", "auth-canary"], &["10.0.0.7".parse().expect("an address")]);
        assert!(path.starts_with("/stats/prometheus?usedonly&filter=%5Ecluster%5C.%28shop_%28auth%7Cauth"), "{path}");
        assert!(path.contains("endpoint%5C.%5C%5B%3F%2810%5C.0%5C.0%5C.7%29%5C%5D%3F_"), "{path}");
    }

    #[test]
    fn an_envoy_that_counts_endpoints_tells_pods_apart() {
        let page = b"\
# TYPE envoy_cluster_endpoint_rq_error counter
envoy_cluster_endpoint_rq_error{envoy_cluster_name=\"httproute/shop/auth/rule/0\",envoy_endpoint_address=\"10.0.0.7:8080\"} 4
envoy_cluster_endpoint_rq_error{envoy_cluster_name=\"httproute/shop/auth/rule/0\",envoy_endpoint_address=\"10.0.0.70:8080\"} 50
# TYPE envoy_cluster_endpoint_rq_success counter
envoy_cluster_endpoint_rq_success{envoy_cluster_name=\"httproute/shop/auth/rule/0\",envoy_endpoint_address=\"10.0.0.7:8080\"} 90
envoy_cluster_endpoint_rq_success{envoy_cluster_name=\"httproute/shop/auth/rule/1\",envoy_endpoint_address=\"10.0.0.7:8080\"} 6
envoy_cluster_endpoint_rq_success{envoy_cluster_name=\"httproute/shop/auth/rule/0\",envoy_endpoint_address=\"[fd00::7]:8080\"} 3
";
        let page = parse(page, &Limits::default()).expect("a page");
        let of = |pod: &str| {
            let [successes, failures] = pod_queries(pod.parse().expect("an address")).expect("queries");
            pod_numbers(&read(&page, &successes).expect("counts"), &read(&page, &failures).expect("counts"))
        };
        let is = |requests, errors| Numbers { requests, errors, ..Numbers::default() };
        assert_eq!((of("10.0.0.7"), of("10.0.0.70"), of("10.0.0.8")), (is(100, 4), is(50, 50), is(0, 0)));
        assert_eq!(of("fd00::7"), is(3, 0));
    }

    #[test]
    fn what_was_counted_before_is_not_new_and_envoys_may_come_go_and_begin_anew() {
        let at = |last: u8| format!("10.0.0.{last}");
        let is = |requests, errors| Numbers { requests, errors, timed: 0, slow: 0 };
        let mut accounts = Accounts::default();
        let mut sums = |envoys: &[(String, [Numbers; 2])]| {
            let answer = accounts.add(envoys);
            [answer.stable, answer.canary].map(|numbers| (numbers.requests, numbers.errors))
        };
        // Given an Envoy with the history of an earlier run:
        assert_eq!(sums(&[(at(1), [is(1000, 5), is(70, 30)])]), [(0, 0), (0, 0)]);
        assert_eq!(sums(&[(at(1), [is(1100, 6), is(75, 30)])]), [(100, 1), (5, 0)]);
        // When another comes, it has a history, too:
        assert_eq!(sums(&[(at(1), [is(1150, 6), is(75, 30)]), (at(2), [is(40, 2), is(4, 1)])]), [(150, 1), (5, 0)]);
        // When the first begins anew, and the canary's cluster of the second does:
        assert_eq!(sums(&[(at(1), [is(7, 1), is(0, 0)]), (at(2), [is(40, 2), is(1, 0)])]), [(157, 2), (6, 0)]);
        // When one is gone, what it has counted stays, and so it does when a cluster is:
        assert_eq!(sums(&[(at(2), [is(50, 2), is(0, 0)])]), [(167, 2), (6, 0)]);
        // When that is back with what it had:
        assert_eq!(sums(&[(at(2), [is(50, 2), is(900, 90)])]), [(167, 2), (6, 0)]);
        assert_eq!(sums(&[(at(2), [is(50, 2), is(910, 91)])]), [(167, 2), (16, 1)]);
    }

    #[test]
    fn a_bucket_that_takes_some_back_is_no_new_beginning() {
        let is = |requests, timed, slow| Numbers { requests, errors: 0, timed, slow };
        let mut accounts = Accounts::default();
        let mut sum = |canary| accounts.add(&[("10.0.0.1".to_owned(), [is(1, 0, 0), canary])]).canary;
        assert_eq!(sum(is(1000, 1000, 100)), Numbers::default());
        assert_eq!(sum(is(1100, 1090, 120)), is(100, 90, 20));
        // When two are taken back, and come again:
        assert_eq!(sum(is(1110, 1090, 118)), is(110, 90, 20));
        assert_eq!(sum(is(1120, 1110, 125)), is(120, 110, 25));
    }
}
