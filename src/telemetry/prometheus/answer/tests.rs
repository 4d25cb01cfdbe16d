use serde_json::{Value, json};

use super::super::super::query::{CounterQuery, Gap, LatencyQuery, Matcher};
use super::*;

fn query() -> Query {
    let only = Matcher::new([("route", "/login")]).unwrap();
    Query {
        requests: CounterQuery {
            counter: "http_requests_total".to_owned(),
            errors: Matcher::new([("code", "5..")]).unwrap(),
            only: only.clone(),
            strata: Vec::new(),
        },
        latencies: vec![LatencyQuery {
            others_seconds: Vec::new(),
            histogram: "h".to_owned(),
            threshold_seconds: 0.25,
            only,
            strata: Vec::new(),
        }],
    }
}

fn labels() -> Labels {
    Labels { namespace: ("namespace".to_owned(), "shop".to_owned()), pod: "pod".to_owned() }
}

/// One series of pod `auth-1`: `own` labels, the target's job, and samples, each at a time.
fn series(name: &str, job: &str, own: Value, samples: &[(f64, &str)]) -> Value {
    let mut metric =
        json!({"__name__": name, "namespace": "shop", "pod": "auth-1", "job": job, "instance": "10.0.0.1:8080"});
    for (label, value) in own.as_object().unwrap() {
        metric[label] = value.clone();
    }
    json!({"metric": metric, "values": samples})
}

fn requests(job: &str, code: &str, at: f64, count: &str) -> Value {
    series("http_requests_total", job, json!({"code": code, "route": "/login"}), &[(at - 5.0, "1"), (at, count)])
}

fn up(job: &str, at: f64, value: &str) -> Value {
    series("up", job, json!({}), &[(at, value)])
}

fn answer(all: &[Value]) -> Vec<u8> {
    json!({"status": "success", "data": {"resultType": "matrix", "result": all}}).to_string().into_bytes()
}

fn read_one(all: &[Value]) -> PodReading {
    read_answer(&answer(all), &labels(), &query()).unwrap().remove("auth-1").unwrap()
}

fn sampled(reading: PodReading) -> (u64, u64, f64) {
    match reading {
        PodReading::Sampled { counts, at } => (counts.requests, counts.errors, at),
        PodReading::Unreadable { why, .. } => panic!("{why}"),
    }
}

#[test]
fn a_pods_series_are_summed_up_as_of_its_own_page() {
    let bucket = |le, count| series("h_bucket", "a", json!({"le": le, "route": "/login"}), &[(10.0, count)]);
    let probe = series("http_requests_total", "a", json!({"code": "200", "route": "/healthz"}), &[(10.0, "999")]);
    let all = [
        requests("a", "200", 10.0, "90"),
        requests("a", "500", 10.0, "7"),
        requests("a", "503", 10.0, "3"),
        probe,
        bucket("0.25", "95"),
        bucket("+Inf", "1e+02"),
        up("a", 10.0, "1"),
    ];
    let PodReading::Sampled { counts, at } = read_one(&all) else { panic!("unreadable") };
    assert_eq!((counts.requests, counts.errors, at), (100, 10, 10.0));
    assert_eq!((counts.latencies[0].total, counts.latencies[0].slow), (100, 5));
    assert!(counts.present && counts.gaps.is_empty(), "{:?}", counts.gaps);
}

#[test]
fn two_jobs_that_scrape_the_same_pod_count_once() {
    let both = [requests("a", "200", 10.0, "90"), requests("b", "200", 12.0, "95"), requests("b", "500", 12.0, "1")];
    assert_eq!(sampled(read_one(&both)), (90, 0, 10.0));
    // two containers that count apart are two parts of the pod
    let container = |job, name, count| {
        series(
            "http_requests_total",
            job,
            json!({"container": name, "code": "200", "route": "/login"}),
            &[(10.0, count)],
        )
    };
    assert_eq!(sampled(read_one(&[container("a", "one", "5"), container("b", "two", "7")])), (12, 0, 10.0));
    // a job that ended long ago does not hold the other back
    let moved = [requests("a", "200", 10.0, "90"), requests("b", "200", 100.0, "95")];
    assert_eq!(sampled(read_one(&moved)), (95, 0, 100.0));
}

#[test]
fn a_series_that_the_last_scrape_had_not_does_not_count() {
    // the container restarted: its errors are gone
    let all = [requests("a", "200", 20.0, "4"), requests("a", "500", 15.0, "7"), up("a", 20.0, "1")];
    assert_eq!(sampled(read_one(&all)), (4, 0, 20.0));
}

#[test]
fn a_pod_that_is_up_without_requests_counts_zero() {
    let PodReading::Sampled { counts, at } = read_one(&[up("a", 10.0, "1")]) else { panic!("unreadable") };
    assert_eq!((counts.requests, counts.present, at), (0, false, 10.0));
    assert!(matches!(counts.gaps[0], Gap::NoMetric { .. }));
}

#[test]
fn a_pod_that_could_not_be_scraped_is_unreadable_and_never_zero() {
    let failed = [requests("a", "200", 10.0, "90"), up("a", 15.0, "0")];
    let PodReading::Unreadable { why, at } = read_one(&failed) else { panic!("read") };
    assert_eq!((why.as_str(), at), ("Prometheus could not scrape it (`up` is 0)", 15.0));
    // nor if another port of it is up
    let sidecar = [requests("a", "200", 10.0, "90"), up("a", 15.0, "0"), up("sidecar", 15.0, "1")];
    assert!(matches!(read_one(&sidecar), PodReading::Unreadable { .. }));
    // nor if its counters are no counters
    let PodReading::Unreadable { why, .. } = read_one(&[requests("a", "200", 10.0, "0.5")]) else { panic!("read") };
    assert!(why.contains("expected a whole number of requests, 0 or more, found the fraction 0.5 in `http_requests_total{code=\"200\""), "{why}");
}

#[test]
fn what_is_no_answer_says_what_it_is() {
    let said = |bytes: &[u8]| read_answer(bytes, &labels(), &query()).unwrap_err().to_string();
    assert!(said(b"<html>login</html>").contains("found `<html>login</html>`"));
    let refused = said(br#"{"status":"error","errorType":"execution","error":"query timed out"}"#);
    assert!(refused.contains("found the error execution: query timed out"), "{refused}");
    let vector = said(br#"{"status":"success","data":{"resultType":"vector","result":[]}}"#);
    assert!(vector.contains("expected a matrix of samples, found vector"), "{vector}");
    assert!(said(br#"{"status":"success"}"#).contains("found the error"), "without data");
    let many: Vec<Value> = (0..=MAX_SERIES).map(|_| json!({"metric": {}, "values": []})).collect();
    assert!(said(&answer(&many)).contains("at most 20000 series"));
    assert_eq!(read_answer(&answer(&[]), &labels(), &query()), Ok(BTreeMap::new()));
    // a native histogram has no samples, and a series without the label is nobody's
    let odd = [json!({"metric": {"pod": "auth-1"}, "histograms": []}), json!({"metric": {}, "values": [[1.0, "1"]]})];
    assert_eq!(read_answer(&answer(&odd), &labels(), &query()), Ok(BTreeMap::new()));
}

#[test]
fn a_share_is_one_number_or_none() {
    let vector = |result: &str| {
        read_share(format!(r#"{{"status":"success","data":{{"resultType":"vector","result":{result}}}}}"#).as_bytes())
    };
    assert_eq!(vector(r#"[{"metric":{},"value":[1764115200.5,"0.25"]}]"#), Ok(Some(0.25)));
    assert_eq!(vector(r#"[{"metric":{},"value":[1764115200.5,"1.004"]}]"#), Ok(Some(1.0)), "extrapolated");
    assert_eq!(vector(r#"[{"metric":{},"value":[1764115200.5,"NaN"]}]"#), Ok(None), "0/0");
    assert_eq!(vector("[]"), Ok(None));
    let scalar = br#"{"status":"success","data":{"resultType":"scalar","result":[1764115200.5,"0.5"]}}"#;
    assert_eq!(read_share(scalar), Ok(Some(0.5)));
    // what is none
    for (result, words) in [
        (
            r#"[{"metric":{},"value":[1,"0.1"]},{"metric":{"a":"b"},"value":[1,"0.2"]}]"#,
            "found 2 series: have the query add",
        ),
        (r#"[{"metric":{},"value":[1,"7"]}]"#, "a share between 0 and 1, found 7"),
        (r#"[{"metric":{},"value":[1,"-0.1"]}]"#, "found -0.1"),
        (r#"[{"metric":{},"value":[1,"+Inf"]}]"#, "found +Inf"),
    ] {
        let error = vector(result).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let matrix = br#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
    assert!(read_share(matrix).unwrap_err().to_string().contains("found something else"));
    let refused = br#"{"status":"error","errorType":"bad_data","error":"parse error: unexpected end"}"#;
    assert!(read_share(refused).unwrap_err().to_string().contains("bad_data: parse error"));
    assert!(matches!(read_share(b"<html>"), Err(AnswerError::NotJson(_))));
}
