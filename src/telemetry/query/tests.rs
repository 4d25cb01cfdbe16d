use proptest::prelude::*;

use super::super::exposition::{Limits, parse};
use super::*;

fn query(errors: &[(&str, &str)], only: &[(&str, &str)]) -> Query {
    let matcher = |labels: &[(&str, &str)]| Matcher::new(labels.iter().copied()).unwrap();
    Query {
        requests: CounterQuery {
            counter: "http_requests_total".to_owned(),
            errors: matcher(errors),
            only: matcher(only),
            strata: Vec::new(),
        },
        latencies: vec![LatencyQuery {
            histogram: "http_request_duration_seconds".to_owned(),
            threshold_seconds: 0.25,
            others_seconds: Vec::new(),
            only: matcher(only),
            strata: Vec::new(),
        }],
    }
}

fn ask(body: &str, query: &Query) -> Result<PodCounts, QueryError> {
    read(&parse(body.as_bytes(), &Limits::default())?, query)
}

fn counts(body: &str) -> PodCounts {
    ask(body, &query(&[("code", "5..")], &[])).unwrap()
}

fn message(body: &str) -> String {
    ask(body, &query(&[("code", "5..")], &[])).unwrap_err().to_string()
}

fn histogram(buckets: &str) -> String {
    let lines = buckets.split_whitespace().map(|bucket| {
        let (bound, count) = bucket.split_once(':').unwrap();
        format!("http_request_duration_seconds_bucket{{le=\"{bound}\"}} {count}\n")
    });
    lines.collect()
}

#[test]
fn a_pod_is_read() {
    let body = r#"
# TYPE http_requests_total counter
http_requests_total{code="200",route="/login"} 90
http_requests_total{code="500",route="/login"} 7
http_requests_total{code="503",route="/session"} 3
http_requests_total{code="200",route="/healthz"} 1000
# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{route="/login",le="0.1"} 40
http_request_duration_seconds_bucket{route="/login",le="0.25"} 95
http_request_duration_seconds_bucket{route="/login",le="+Inf"} 97
http_request_duration_seconds_bucket{route="/session",le="0.25"} 0
http_request_duration_seconds_bucket{route="/session",le="+Inf"} 3
http_request_duration_seconds_bucket{route="/healthz",le="+Inf"} 1000
http_request_duration_seconds_sum 3.5
http_request_duration_seconds_count 1100
"#;
    let query = query(&[("code", "5..")], &[("route", "/login|/session")]);
    let counts = ask(body, &query).unwrap();
    assert_eq!((counts.requests, counts.errors), (100, 10));
    assert_eq!(counts.latencies, [LatencyCount { total: 100, slow: 5 }]);
    assert!(counts.present && counts.gaps.is_empty());
}

#[test]
fn several_bounds_are_read_at_once_and_the_histogram_is_there_to_choose_from() {
    let body = histogram("0.1:40 0.25:95 1:99 +Inf:100");
    let mut query = query(&[], &[]);
    query.latencies[0].others_seconds = vec![0.1, 1.0, 5.0];
    let counts = ask(&body, &query).unwrap();
    let slow = |slow| LatencyCount { total: 100, slow };
    assert_eq!(counts.latencies, [slow(5), slow(60), slow(1), LatencyCount::default()], "there is no bound 5");
    let read = &counts.histograms[0];
    assert_eq!((&read.bounds[..], &read.within[..], read.total), (&[0.1, 0.25, 1.0][..], &[40, 95, 99][..], 100));
    // Those of several pods are one, as far as their bounds are the same.
    let mut sum = read.clone();
    sum.add(read);
    sum.add(&Histogram { bounds: vec![0.1], within: vec![7], total: 9 });
    assert_eq!((&sum.within[..], sum.total), (&[80, 190, 198][..], 200));
    // No requests yet: nothing to choose from.
    assert_eq!(ask("up 1\n", &query).unwrap().histograms, [Histogram::default()]);
}

#[test]
fn patterns_are_anchored() {
    let body = "http_requests_total{code=\"500\"} 1\nhttp_requests_total{code=\"5000\"} 2\nhttp_requests_total{code=\"1500\"} 4\n";
    assert_eq!(counts(body).errors, 1);
    let alternatives = query(&[("code", "500|150")], &[]);
    assert_eq!(ask(body, &alternatives).unwrap().errors, 1);
}

#[test]
fn every_label_of_errors_has_to_match() {
    let body = "http_requests_total{code=\"500\",kind=\"a\"} 1\nhttp_requests_total{code=\"500\",kind=\"b\"} 2\n";
    let both = query(&[("code", "5.."), ("kind", "b")], &[]);
    assert_eq!(ask(body, &both).unwrap().errors, 2);
}

#[test]
fn without_labels_nothing_is_an_error_and_all_counts() {
    let counts = ask("http_requests_total 5\n", &query(&[], &[])).unwrap();
    assert_eq!((counts.requests, counts.errors), (5, 0));
}

#[test]
fn odd_patterns_are_refused() {
    let refused = |pattern: &str| Matcher::new([("code", pattern)]).unwrap_err().to_string();
    assert!(refused("5(").starts_with("label code: expected a regular expression, found `5(`"));
    // Would get round the anchors.
    assert!(refused("5)|(?:4").contains("unopened group"));
    assert!(refused("(?x)5 # (").contains("unclosed group"));
    assert!(refused(r"(\w{100}){100}").contains("make it smaller"));
    assert!(refused(&"(".repeat(100_000)).len() < 1_000_000);
    assert!(Matcher::new([("path", "(?i)/login.*")]).is_ok());
}

#[test]
fn a_fresh_pod_has_counted_nothing() {
    let fresh = counts("# only this\nprocess_start_time_seconds 1.7e9\n");
    assert_eq!((fresh.requests, fresh.errors, fresh.present), (0, 0, false));
    assert_eq!(fresh.latencies, [LatencyCount::default()]);
    assert_eq!(fresh.gaps.len(), 2);
    // Declared is present, in both dialects.
    assert!(counts("# TYPE http_requests_total counter\n").present);
    assert!(counts("# TYPE http_requests counter\n# EOF\n").present);
    // A line that is there but wrong is no zero.
    assert!(message("x 1\nhttp_requests_total{code=\"200\"} ?\n").starts_with("line 2: expected a number"));
}

#[test]
fn a_gap_on_all_pods_says_something() {
    let wrong = counts("http_requests_total_total 1\n");
    let fresh = counts("x 1\n");
    let good = counts("http_requests_total{code=\"200\"} 1\n");
    let shared = shared_gaps([&wrong, &fresh]);
    assert!(shared[0].to_string().contains("but there is http_requests_total_total; is that meant?"));
    assert_eq!(shared_gaps([&wrong, &good]).len(), 1, "only the histogram is missing on both");
    assert!(shared_gaps([]).is_empty());
}

#[test]
fn a_policy_that_sees_nothing_is_noticed() {
    let body = "http_requests_total{status=\"500\"} 1\n";
    assert!(matches!(&counts(body).gaps[0], Gap::NoErrorLabel { label, .. } if label == "code"));
    let only = ask(body, &query(&[], &[("route", "/login")])).unwrap();
    assert_eq!(only.requests, 0);
    assert!(only.gaps[0].to_string().contains("with route=~\"/login\", found only others"));
    // An absent label is an empty one, as in PromQL.
    let optional = ask(body, &query(&[], &[("route", "(/login)?")])).unwrap();
    assert_eq!(optional.requests, 1);
}

#[test]
fn what_is_no_count_is_refused() {
    for (value, found) in [
        ("NaN", "found NaN in"),
        ("-1", "found the negative -1 in"),
        ("1.5", "found the fraction 1.5 in"),
        ("+Inf", "beyond what counts exactly"),
        ("1e300", "beyond what counts exactly"),
        ("1e999", "beyond what counts exactly"),
    ] {
        let error = message(&format!("# a\nhttp_requests_total{{code=\"200\"}} {value}\n"));
        assert!(error.starts_with("line 2: expected a whole number of requests, 0 or more"), "{error}");
        assert!(error.contains(found), "{value}: {error}");
        // Only where it is needed.
        assert_eq!(counts(&format!("other {value}\nhttp_requests_total 1\n")).requests, 1);
    }
    assert_eq!(counts("http_requests_total 1.5e+03\n").requests, 1500);
    // -0 is a zero.
    assert_eq!(counts("http_requests_total -0\n").requests, 0);
}

#[test]
fn a_metric_of_another_kind_is_refused() {
    let error = message("# TYPE http_requests_total gauge\nhttp_requests_total 1\n");
    assert!(error.starts_with("expected http_requests_total to be a counter, found a gauge"), "{error}");
    let error = message("# TYPE http_request_duration_seconds summary\n");
    assert!(error.contains("to be a histogram, found a summary; a threshold needs buckets"), "{error}");
    let error = message("http_request_duration_seconds_count 5\n");
    assert!(error.contains("found a _count without any"), "{error}");
}

#[test]
fn a_threshold_between_bounds_names_the_bounds() {
    let error = message(&histogram("0.1:1 0.2:2 0.5:3 2.5:3 +Inf:4"));
    assert_eq!(
        error,
        "250ms is no bucket of http_request_duration_seconds; bounds are 100ms, 200ms, 500ms, 2.5s; choose one"
    );
    let error = message(&histogram("100:1 250:2 +Inf:4"));
    assert!(error.contains("look like milliseconds"), "{error}");
    assert!(message(&histogram("+Inf:4")).contains("bounds are +Inf only"));
}

#[test]
fn bounds_are_numbers_not_text() {
    for bound in ["0.25", "0.250", "2.5e-01", ".25", "0.25000000001"] {
        let body = histogram(&format!("+Inf:4 {bound}:3"));
        assert_eq!(counts(&body).latencies, [LatencyCount { total: 4, slow: 1 }], "{bound}");
    }
}

#[test]
fn a_histogram_with_something_missing_is_refused() {
    let error = message(&histogram("0.1:1 0.25:2"));
    assert!(error.contains("expected a bucket le=\"+Inf\", found le=\"0.25\" as the last"), "{error}");
    let error = message(&histogram("0.25:5 +Inf:2"));
    assert!(error.contains("expected le=\"+Inf\" to count all requests, found 2, less than the 5"), "{error}");
    assert!(message(&histogram("0.25:1 0.250:1 +Inf:2")).contains("expected each bound once"));
    assert!(message(&histogram("x:1 +Inf:2")).contains("expected a bound in the label le, found `x`"));
    assert!(message(&histogram("0.25:1.5 +Inf:2")).contains("found the fraction 1.5"));
    assert!(message("http_request_duration_seconds_bucket 1\n").contains("label le, found none"));
}

#[test]
fn a_policy_without_sense_is_refused() {
    let mut query = query(&[], &[]);
    query.latencies[0].only = Matcher::new([("le", "0.25")]).unwrap();
    assert!(matches!(ask("", &query), Err(QueryError::BoundInOnly { .. })));
    for threshold in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        query.latencies[0].threshold_seconds = threshold;
        assert!(matches!(ask("", &query), Err(QueryError::BadThreshold { .. })));
    }
}

// --- against a model that adds up numbers and knows nothing of text ----------------------------------------------

#[derive(Debug, Clone)]
struct Row {
    code: u16,
    route: String,
    count: u32,
    /// Requests between one bound and the next.
    fast: u32,
    middling: u32,
    slow: u32,
    style: u8,
}

fn row() -> impl Strategy<Value = Row> {
    let route = prop_oneof![r#"/a[a-z,={}"\\ \n~#]{0,6}"#, r#"[/b~,{}"\\]{0,5}"#, "\\PC{0,4}"];
    let code = prop_oneof![Just(200_u16), Just(404), Just(500), Just(503), Just(5000)];
    let small = 0..100_000_u32;
    (code, route, any::<u32>(), small.clone(), small.clone(), small, any::<u8>()).prop_map(
        |(code, route, count, fast, middling, slow, style)| Row { code, route, count, fast, middling, slow, style },
    )
}

impl Row {
    fn text(&self) -> String {
        let route = self.route.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels = match self.style % 4 {
            0 => format!("{{code=\"{}\",route=\"{route}\"", self.code),
            1 => format!("{{route=\"{route}\",code=\"{}\"", self.code),
            2 => format!(" {{ code = \"{}\" , route = \"{route}\"", self.code),
            _ => format!("{{route=\"{route}\", code=\"{}\"", self.code),
        };
        let comma = if self.style & 4 == 0 { "" } else { "," };
        let rest = match (self.style >> 3) % 4 {
            0 => "",
            1 => " 1395066363000",
            2 => " # {trace_id=\"a\"} 0.5",
            _ => "\r",
        };
        let noise = match (self.style >> 5) % 4 {
            0 => "",
            1 => "# HELP x http_requests_total{code=\"500\"} 7\n",
            2 => "noise{a=\"http_requests_total 5\"} NaN\nbroken{} ?\n",
            _ => "\n",
        };
        let (a, b) = (self.fast, self.fast + self.middling);
        let all = b + self.slow;
        let count = if self.style & 1 == 0 { format!("{}", self.count) } else { format!("{:e}", self.count) };
        let bucket = |bound: &str, count: u32| {
            format!("http_request_duration_seconds_bucket{labels},le=\"{bound}\"{comma}}} {count}{rest}\n")
        };
        let buckets = [bucket("0.1", a), bucket("0.25", b), bucket("+Inf", all)];
        format!("{noise}http_requests_total{labels}{comma}}} {count}{rest}\n{}", buckets.concat())
    }
}

proptest! {
    #[test]
    fn sums_are_those_of_a_naive_model(rows in proptest::collection::vec(row(), 1..30)) {
        let mut unique: Vec<Row> = Vec::new();
        for row in rows {
            if !unique.iter().any(|other| other.code == row.code && other.route == row.route) {
                unique.push(row);
            }
        }
        let text: String = unique.iter().map(Row::text).collect();
        let counts = ask(&text, &query(&[("code", "5..")], &[("route", "/a.*")])).unwrap();

        let taken: Vec<_> = unique.iter().filter(|row| row.route.starts_with("/a")).collect();
        let errors = taken.iter().filter(|row| (500..600).contains(&row.code));
        prop_assert_eq!(counts.requests, taken.iter().map(|row| u64::from(row.count)).sum::<u64>());
        prop_assert_eq!(counts.errors, errors.map(|row| u64::from(row.count)).sum::<u64>());
        let slow = taken.iter().map(|row| u64::from(row.slow)).sum::<u64>();
        let total = taken.iter().map(|row| u64::from(row.fast + row.middling + row.slow)).sum::<u64>();
        prop_assert_eq!(counts.latencies, [LatencyCount { total, slow }]);
    }
}

#[test]
fn values_of_a_label_are_counted_apart_as_well() {
    let body = "http_requests_total{code=\"200\",route=\"/login\"} 10\n\
                http_requests_total{code=\"500\",route=\"/login\"} 2\n\
                http_requests_total{code=\"500\",route=\"/logins\"} 30\n\
                http_requests_total{code=\"500\",route=\"/probe\"} 50\n\
                http_request_duration_seconds_bucket{route=\"/login\",le=\"0.25\"} 9\n\
                http_request_duration_seconds_bucket{route=\"/login\",le=\"+Inf\"} 12\n\
                http_request_duration_seconds_bucket{route=\"/logins\",le=\"0.25\"} 30\n\
                http_request_duration_seconds_bucket{route=\"/logins\",le=\"+Inf\"} 30\n";
    let mut query = query(&[("code", "5..")], &[("route", "/log.*")]);
    let strata = ["/login", "/probe", "/log.*"];
    let strata = strata.map(|value| Stratum { label: "route".to_owned(), value: value.to_owned() }).to_vec();
    query.requests.strata.clone_from(&strata);
    query.latencies[0].strata = strata;
    let counts = ask(body, &query).unwrap();
    let of = |requests, errors| StratumCount { requests, errors };
    // `only` holds for them, too; a value is no expression; and one that is not there is a zero, not a gap.
    assert_eq!((counts.requests, counts.errors), (42, 32));
    assert_eq!(counts.strata, [of(12, 2), of(0, 0), of(0, 0)]);
    let slow = |total, slow| LatencyCount { total, slow };
    assert_eq!(counts.latencies, [slow(42, 3), slow(12, 3), slow(0, 0), slow(0, 0)]);
    assert_eq!(counts.gaps, []);
}
