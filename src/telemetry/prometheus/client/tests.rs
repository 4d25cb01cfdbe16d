//! Against real servers on this machine, each a thread that writes what it likes.

use std::net::{SocketAddr, TcpListener};

use super::super::super::query::{CounterQuery, Matcher};
use super::super::super::testing::{To, certified, http, serve};
use super::*;
use crate::tls;

const NOTHING: &str = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;

fn query() -> Query {
    let counter = "http_requests_total".to_owned();
    Query {
        requests: CounterQuery { counter, errors: Matcher::any(), only: Matcher::any(), strata: Vec::new() },
        latencies: Vec::new(),
    }
}

fn rules() -> Rules {
    Rules { deadline: Duration::from_millis(500), max_bytes: 10_000 }
}

async fn ask(url: &str, to: SocketAddr, ca: Option<&str>, credentials: &Credentials) -> Result<Answered, String> {
    let trust = tls::trusting(ca.map(str::as_bytes)).unwrap();
    let client = PrometheusClient::new(&url.parse().unwrap(), trust, To(to), rules(), Memory::default()).unwrap();
    let labels = Labels { namespace: ("namespace".to_owned(), "shop".to_owned()), pod: "pod".to_owned() };
    client.ask(&query(), &labels, &["auth-1"], credentials).await.map_err(|error| error.to_string())
}

async fn answered(answer: &str) -> Result<Answered, String> {
    let (to, _) = serve(None, answer);
    ask("http://prometheus.shop.svc", to, None, &Credentials::None).await
}

#[tokio::test]
async fn it_asks_by_a_form_and_reads_pods_and_the_servers_clock() {
    let body = r#"{"status":"success","data":{"resultType":"matrix","result":[
        {"metric":{"__name__":"http_requests_total","pod":"auth-1"},"values":[[1764115195.5,"7"],[1764115200.5,"9"]]}]}}"#;
    let (to, asked) = serve(None, &http("200 OK", "date: Wed, 26 Nov 2025 00:00:01 GMT\r\n", body));
    let url = format!("http://prometheus.shop.svc:{}/select/", to.port());
    let answer = ask(&url, to, None, &Credentials::None).await.unwrap();
    assert_eq!(answer.date, Some(1_764_115_201.0));
    let Some(PodReading::Sampled { counts, at }) = answer.pods.get("auth-1") else { panic!("{answer:?}") };
    assert_eq!((counts.requests, *at), (9, 1_764_115_200.5));
    let asked = asked.lock().unwrap()[0].clone();
    assert!(asked.starts_with("POST /select/api/v1/query HTTP/1.1"), "{asked}");
    assert!(asked.contains("query=%7B__name__%3D%7E%22http_requests_total%7Cup%22"), "{asked}");
    assert!(!asked.to_lowercase().contains("authorization"), "{asked}");
}

#[tokio::test]
async fn a_server_that_refuses_fails_or_hangs_is_named_with_what_to_do() {
    let (to, asked) = serve(None, &http("200 OK", "", NOTHING));
    let elsewhere = format!("location: http://{to}/\r\n");
    let cases = [
        (http("302 Found", &elsewhere, ""), "redirects are not followed; it points to http://127.0.0.1"),
        (http("401 Unauthorized", "", ""), "give bearerToken or basicAuth"),
        (http("404 Not Found", "", ""), "is this the address of Prometheus"),
        (http("502 Bad Gateway", "", "<html>"), "found 502 Bad Gateway; see its logs"),
        (http("503 Service Unavailable", "", "starting"), "found 503 Service Unavailable; see its logs"),
        (
            http(
                "422 Unprocessable Entity",
                "",
                r#"{"status":"error","errorType":"execution","error":"too many samples"}"#,
            ),
            "found the error execution: too many samples",
        ),
        (http("200 OK", "", "<html>hello"), "expected an answer of Prometheus' query API as JSON"),
        (format!("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{NOTHING}"), "the connection broke after"),
        (http("200 OK", "", &"x".repeat(10_001)), "expected at most 10000 bytes, found 10001"),
    ];
    for (answer, said) in cases {
        let error = answered(&answer).await.unwrap_err();
        assert!(error.starts_with("Prometheus at http://prometheus.shop.svc/: expected"), "{error}");
        assert!(error.contains(said), "expected {said:?} in: {error}");
    }
    assert_eq!(asked.lock().unwrap().len(), 0, "a redirect is not followed");

    // nobody listens; nobody answers
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = ask("http://prometheus", closed, None, &Credentials::None).await.unwrap_err();
    assert!(error.contains("could not connect: "), "{error}");
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = ask("http://prometheus", mute.local_addr().unwrap(), None, &Credentials::None).await.unwrap_err();
    assert!(error.contains("expected an answer within 500ms, found none"), "{error}");
}

#[tokio::test]
async fn credentials_go_over_a_trusted_connection_only() {
    let (ca, config) = certified("prometheus.shop.svc");
    let (to, asked) = serve(Some(config), &http("200 OK", "", NOTHING));
    let bearer = Credentials::Bearer("s3cret".to_owned());
    let basic = Credentials::Basic { username: "serin".to_owned(), password: "pass:word".to_owned() };
    for (credentials, sent) in [(&bearer, "Bearer s3cret"), (&basic, "Basic c2VyaW46cGFzczp3b3Jk")] {
        ask("https://prometheus.shop.svc", to, Some(&ca), credentials).await.unwrap();
        let last = asked.lock().unwrap().last().cloned().unwrap_or_default();
        assert!(last.contains(sent), "{last}");
        assert!(
            !format!("{credentials:?}").contains("word") && !format!("{credentials:?}").contains("s3"),
            "shown in logs"
        );
    }
    let heard = asked.lock().unwrap().len();
    // an authority that nobody named, and another's name
    let error = ask("https://prometheus.shop.svc", to, None, &bearer).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    let error = ask("https://prometheus.other.svc", to, Some(&ca), &bearer).await.unwrap_err();
    assert!(error.contains("not valid for"), "{error}");
    assert_eq!(asked.lock().unwrap().len(), heard, "nothing was sent");
}

#[tokio::test]
async fn the_past_is_asked_by_its_times() {
    let body = r#"{"status":"success","data":{"resultType":"matrix","result":[
        {"metric":{"pod":"auth-1"},"values":[[1764115195,"7"],[1764115200,"9"]]},{"metric":{},"values":[[1,"1"]]}]}}"#;
    let (to, asked) = serve(None, &http("200 OK", "", body));
    let url = format!("http://prometheus.shop.svc:{}", to.port());
    let trust = tls::trusting(None).unwrap();
    let client = PrometheusClient::new(&url.parse().unwrap(), trust, To(to), rules(), Memory::default()).unwrap();
    let labels = Labels { namespace: ("namespace".to_owned(), "shop".to_owned()), pod: "pod".to_owned() };
    let past = Past { from: 1_764_115_195_000, to: 1_764_115_204_000, step: 5000 };
    let pods = client.ask_presence(&query(), &labels, "auth", &Credentials::None, past).await.unwrap();
    assert_eq!(pods, BTreeMap::from([("auth-1".to_owned(), past.times().collect())]));
    client.ask_at(&query(), &labels, &["auth-1"], &Credentials::None, 1_764_115_200_500).await.unwrap();
    let asked = asked.lock().unwrap().clone();
    assert!(asked[0].starts_with("POST /api/v1/query_range HTTP/1.1"), "{}", asked[0]);
    assert!(asked[0].ends_with("&start=1764115195.000&end=1764115204.000&step=5.000"), "{}", asked[0]);
    assert!(asked[1].starts_with("POST /api/v1/query HTTP/1.1") && asked[1].ends_with("&time=1764115200.500"));
}
