//! What the service counts about itself: business requests only, so that probes and scrapes never look like traffic.

use axum::http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;

/// What `prometheus_client` writes; Prometheus picks its parser by this.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RequestLabels {
    code: u16,
    route: &'static str,
    method: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RouteLabels {
    route: &'static str,
}

pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    duration: Family<RouteLabels, Histogram, fn() -> Histogram>,
}

impl Metrics {
    pub fn new() -> Self {
        let requests = Family::<RequestLabels, Counter>::default();
        let duration =
            Family::<RouteLabels, Histogram, fn() -> Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let mut registry = Registry::default();
        // Written as `http_requests_total`: the encoder adds the suffix of a counter.
        registry.register("http_requests", "Business requests answered", requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "Time from a business request's arrival to its answer",
            duration.clone(),
        );
        Self { registry, requests, duration }
    }

    /// Counts one answered request.
    pub fn record(&self, route: &'static str, method: &Method, code: u16, took: Duration) {
        let labels = RequestLabels { code, route, method: method_label(method) };
        self.requests.get_or_create(&labels).inc();
        self.duration.get_or_create(&RouteLabels { route }).observe(took.as_secs_f64());
    }

    /// As after a restart.
    pub fn forget(&self) {
        self.requests.clear();
        self.duration.clear();
    }

    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::with_capacity(4096);
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A method is any word that a caller sends, and a label's values must be few.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_parse::{Scrape, Value};

    #[test]
    fn the_classic_parser_reads_every_number() {
        let metrics = Metrics::new();
        metrics.record("/login", &Method::POST, 200, Duration::from_millis(20));
        metrics.record("/login", &Method::POST, 200, Duration::from_millis(300));
        metrics.record("/session", &Method::GET, 500, Duration::from_secs(7));
        let text = metrics.text().unwrap();
        let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap();

        let count = |code: &str, route: &str| {
            let sample = scrape.samples.iter().find(|s| {
                s.metric == "http_requests_total"
                    && s.labels.get("code") == Some(code)
                    && s.labels.get("route") == Some(route)
            });
            match sample.map(|s| &s.value) {
                // OpenMetrics gives the type under the name without `_total`, so a classic parser has no type for it.
                Some(Value::Counter(n) | Value::Untyped(n)) => *n,
                other => panic!("{other:?} in {text}"),
            }
        };
        assert_eq!((count("200", "/login"), count("500", "/session")), (2.0, 1.0));

        let buckets = |route: &str| {
            let sample = scrape
                .samples
                .iter()
                .find(|s| s.metric == "http_request_duration_seconds" && s.labels.get("route") == Some(route));
            match sample.map(|s| &s.value) {
                Some(Value::Histogram(counts)) => counts.iter().map(|c| (c.less_than, c.count)).collect::<Vec<_>>(),
                other => panic!("{other:?} in {text}"),
            }
        };
        let login = buckets("/login");
        assert_eq!(login.len(), BUCKETS.len() + 1);
        assert!(login.contains(&(0.025, 1.0)) && login.contains(&(0.25, 1.0)) && login.contains(&(0.5, 2.0)));
        assert!(buckets("/session").contains(&(5.0, 0.0)));
        assert!(buckets("/session").contains(&(f64::INFINITY, 1.0)));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn made_up_methods_share_a_label() {
        assert_eq!(method_label(&Method::from_bytes(b"BREW").unwrap()), "other");
    }
}
