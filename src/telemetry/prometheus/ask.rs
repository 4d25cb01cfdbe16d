//! The question, in PromQL.

use std::collections::BTreeSet;

use super::super::query::Query;
use super::WINDOW_SECONDS;

/// By which labels a pod's series are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// The label that has the pod's namespace, and that namespace.
    pub namespace: (String, String),
    /// The label that has the pod's name.
    pub pod: String,
}

/// Asks for the raw samples of all metrics that the query reads, and for `up`, of these pods. Samples rather than an
/// instant's values, because only they tell when they were taken.
pub fn promql(query: &Query, labels: &Labels, pods: &[&str]) -> String {
    format!("{}[{WINDOW_SECONDS}s]", selector(query, labels, &any_of(pods.iter().copied())))
}

/// Asks which pods of this workload there were, whatever their version: those of a Deployment are called
/// WORKLOAD-HASH-SUFFIX.
pub fn presence(query: &Query, labels: &Labels, workload: &str) -> String {
    let pods = quoted(&format!("{}-{HASH}{{1,10}}-{HASH}{{5}}", regex::escape(workload)));
    format!("count by ({}) ({})", labels.pod, selector(query, labels, &pods))
}

/// What Kubernetes makes hashes and suffixes of.
const HASH: &str = "[bcdfghjklmnpqrstvwxz2456789]";

/// All metrics that the query reads, and `up`, of pods by a quoted regular expression.
fn selector(query: &Query, labels: &Labels, pods: &str) -> String {
    let buckets = query.latencies.iter().map(|latency| format!("{}_bucket", latency.histogram));
    let names: BTreeSet<String> = buckets.chain([query.requests.counter.clone(), "up".to_owned()]).collect();
    let (namespace_label, namespace) = &labels.namespace;
    format!(
        "{{__name__=~{},{namespace_label}={},{}=~{pods}}}",
        any_of(names.iter().map(String::as_str)),
        quoted(namespace),
        labels.pod,
    )
}

/// A quoted regular expression that matches exactly these. PromQL anchors it.
fn any_of<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    quoted(&texts.map(regex::escape).collect::<Vec<_>>().join("|"))
}

/// A string of PromQL; a backslash in it escapes.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::super::super::query::{CounterQuery, LatencyQuery, Matcher};
    use super::*;

    fn query(counter: &str) -> Query {
        let latency = |threshold_seconds| LatencyQuery {
            histogram: "http_request_duration_seconds".to_owned(),
            threshold_seconds,
            others_seconds: Vec::new(),
            only: Matcher::any(),
            strata: Vec::new(),
        };
        Query {
            requests: CounterQuery {
                counter: counter.to_owned(),
                errors: Matcher::any(),
                only: Matcher::any(),
                strata: Vec::new(),
            },
            latencies: vec![latency(0.25), latency(1.0)],
        }
    }

    fn labels() -> Labels {
        Labels { namespace: ("namespace".to_owned(), "shop".to_owned()), pod: "pod".to_owned() }
    }

    #[test]
    fn one_question_asks_for_all_metrics_of_all_pods() {
        assert_eq!(
            promql(&query("http_requests_total"), &labels(), &["auth-1", "auth.2"]),
            r#"{__name__=~"http_request_duration_seconds_bucket|http_requests_total|up",namespace="shop",pod=~"auth\\-1|auth\\.2"}[120s]"#
        );
    }

    #[test]
    fn pods_of_a_workload_are_known_by_their_names() {
        assert_eq!(
            presence(&query("http_requests_total"), &labels(), "auth.2"),
            r#"count by (pod) ({__name__=~"http_request_duration_seconds_bucket|http_requests_total|up",namespace="shop",pod=~"auth\\.2-[bcdfghjklmnpqrstvwxz2456789]{1,10}-[bcdfghjklmnpqrstvwxz2456789]{5}"})"#
        );
    }

    #[test]
    fn a_name_stays_a_name() {
        let asked = promql(&query("x\"} or vector(1) or {a=\"|.*\\"), &labels(), &["a"]);
        assert!(asked.contains(r#"|x\"\\} or vector\\(1\\) or \\{a=\"\\|\\.\\*\\\\""#), "{asked}");
    }
}
