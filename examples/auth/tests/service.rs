//! The real service as a process of its own, talked to over TCP.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const KEY: &str = "integration-test-key";

/// A request unanswered for so long hangs.
const SILENCE: Duration = Duration::from_secs(2);

/// A running service; killed when dropped.
struct Service {
    child: Child,
    stdout: BufReader<ChildStdout>,
    address: SocketAddr,
    control: Option<SocketAddr>,
}

fn command(vars: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_auth"));
    command.env_clear().env("SESSION_KEY", KEY).env("LISTEN", "127.0.0.1:0");
    command.env("CONTROL_LISTEN", "127.0.0.1:0").envs(vars.iter().copied());
    command
}

impl Service {
    fn start(vars: &[(&str, &str)]) -> Self {
        let mut child = command(vars).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let started: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(started["msg"], "started");
        let address = |name: &str| started[name].as_str().map(|text| text.parse().unwrap());
        Self { child, stdout, address: address("listen").unwrap(), control: address("control") }
    }

    fn get(&self, path: &str) -> Answer {
        call(self.address, "GET", path, "", "").unwrap()
    }

    fn log_in(&self, password: &str) -> Answer {
        let body = format!(r#"{{"user":"alice","password":"{password}"}}"#);
        post(self.address, "/login", &body)
    }

    fn token(&self) -> String {
        let answer = self.log_in("wonderland");
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str::<serde_json::Value>(&answer.body).unwrap()["token"].as_str().unwrap().to_owned()
    }

    fn session(&self, token: &str) -> Answer {
        call(self.address, "GET", "/session", &format!("Authorization: Bearer {token}\r\n"), "").unwrap()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for the end; the exit status and what was printed after the start line.
    fn wait(&mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn has(&self, header: &str) -> bool {
        self.head.lines().any(|line| line == header)
    }
}

fn post(address: SocketAddr, path: &str, body: &str) -> Answer {
    call(address, "POST", path, "content-type: application/json\r\n", body).unwrap()
}

fn call(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SILENCE))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other("closed without an answer"))?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Ok(Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

#[test]
fn versions_accept_each_others_sessions() {
    let (v1, v2) = (Service::start(&[("VERSION", "v1")]), Service::start(&[("VERSION", "v2")]));
    let answer = v2.session(&v1.token());
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"user":"alice"}"#));
    assert!(answer.has("x-version: v2"));
    assert_eq!(v1.session(&v2.token()).status, 200);
}

#[test]
fn every_answer_names_the_version() {
    let service = Service::start(&[("VERSION", "v7")]);
    for (answer, status) in [
        (service.log_in("wrong"), 401),
        (service.session("nonsense"), 401),
        (service.get("/session"), 401),
        (service.get("/login"), 405),
        (post(service.address, "/login", "{"), 400),
        (service.get("/nothing"), 404),
        (service.get("/healthz"), 200),
        (service.get("/readyz"), 200),
        (service.get("/metrics"), 200),
    ] {
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.has("x-version: v7"), "{answer:?}");
    }
}

#[test]
fn only_business_requests_are_counted() {
    let service = Service::start(&[]);
    let token = service.token();
    service.session(&token);
    service.session("wrong");
    service.get("/readyz");
    service.get("/nothing");
    service.get("/metrics");
    let answer = service.get("/metrics");
    assert!(answer.has("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{answer:?}");
    let mut counts: Vec<&str> = answer.body.lines().filter(|line| line.starts_with("http_requests_total")).collect();
    counts.sort_unstable();
    assert_eq!(
        counts,
        [
            r#"http_requests_total{code="200",route="/login",method="POST"} 1"#,
            r#"http_requests_total{code="200",route="/session",method="GET"} 1"#,
            r#"http_requests_total{code="401",route="/session",method="GET"} 1"#,
        ]
    );
    assert!(answer.body.contains(r#"http_request_duration_seconds_count{route="/session"} 2"#), "{answer:?}");
}

#[test]
fn stopping_drains_and_finishes_what_is_under_way() {
    let vars = [("DRAIN", "800ms"), ("FAULT_LATENCY", "1300ms")];
    for signal in ["TERM", "INT"] {
        let mut service = Service::start(&vars);
        let address = service.address;
        assert_eq!(service.get("/readyz").status, 200);
        // Answered only after the listener has closed.
        let slow = std::thread::spawn(move || call(address, "GET", "/session", "", ""));
        std::thread::sleep(Duration::from_millis(100));
        service.signal(signal);
        std::thread::sleep(Duration::from_millis(100));
        let draining = service.get("/readyz");
        assert_eq!(draining.status, 503);
        assert!(draining.has("connection: close"), "{draining:?}");
        assert_eq!(service.get("/healthz").status, 200, "still serving");
        assert_eq!(slow.join().unwrap().unwrap().status, 401, "finished, if without a token");
        let (status, printed) = service.wait();
        assert_eq!(status.code(), Some(0));
        assert!(printed.contains(r#""unfinished_in_time":false"#), "{printed}");
        assert!(printed.contains(signal), "{printed}");
        assert!(TcpStream::connect(address).is_err());
    }
}

#[test]
fn errors_and_their_end_at_run_time() {
    let service = Service::start(&[("FAULT_ERRORS", "100%"), ("FAULT_CONTROL", "true")]);
    let control = service.control.unwrap();
    let broken = service.log_in("wonderland");
    assert_eq!(broken.status, 500);
    assert!(broken.has("x-version: dev"));
    assert_eq!(service.get("/readyz").status, 200, "probes know nothing of it");

    assert_eq!(post(control, "/faults", r#"{"errors":"0%"}"#).status, 200);
    assert_eq!(service.log_in("wonderland").status, 200);

    let wrong = post(control, "/faults", r#"{"errors":"some"}"#);
    assert_eq!(wrong.status, 400);
    assert!(wrong.body.contains("expected a share such as 20%"), "{wrong:?}");
    assert_eq!(post(control, "/faults", r#"{"error":"1%"}"#).status, 400);
    assert_eq!(service.log_in("wonderland").status, 200, "a refused change changes nothing");
}

#[test]
fn metrics_are_broken_and_right_again_at_run_time() {
    let service = Service::start(&[("FAULT_METRICS", "cut"), ("FAULT_CONTROL", "true")]);
    let control = service.control.unwrap();
    service.token();
    assert!(!service.get("/metrics").body.ends_with('\n'));

    assert_eq!(post(control, "/faults", r#"{"metrics":"negative"}"#).status, 200);
    let negative = r#"http_requests_total{code="200",route="/login",method="POST"} -1"#;
    assert!(service.get("/metrics").body.contains(negative));

    assert_eq!(post(control, "/faults", r#"{"metrics":"endless"}"#).status, 200);
    let mut stream = TcpStream::connect(service.address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let more = BufReader::new(stream).lines().map(Result::unwrap).filter(|line| line == "# and so on").take(3);
    assert_eq!(more.count(), 3);

    assert_eq!(post(control, "/faults", r#"{"metrics":"right"}"#).status, 200);
    assert!(service.get("/metrics").body.ends_with("# EOF\n"));
    assert_eq!(service.log_in("wonderland").status, 200, "requests know nothing of it");
}

#[test]
fn no_control_unless_asked_for() {
    let service = Service::start(&[]);
    assert!(service.control.is_none());
    assert_eq!(post(service.address, "/faults", "{}").status, 404);
}

#[test]
fn hanging_spares_the_probes() {
    let service = Service::start(&[("FAULT_HANG", "true")]);
    assert!(call(service.address, "GET", "/session", "", "").is_err());
    assert_eq!(service.get("/readyz").status, 200);
    assert_eq!(service.get("/metrics").status, 200);
}

#[test]
fn dropping_answers_nothing_and_counts_nothing() {
    let service = Service::start(&[("FAULT_DROP", "100%")]);
    assert!(call(service.address, "GET", "/session", "", "").is_err());
    assert_eq!(service.get("/readyz").status, 200);
    let page = service.get("/metrics").body;
    assert!(!page.lines().any(|line| line.starts_with("http_requests_total{")), "{page}");
}

#[test]
fn hanging_as_a_whole_begins_once_ready() {
    let service = Service::start(&[("FAULT_HANG_ALL", "true")]);
    assert_eq!(service.log_in("wonderland").status, 200);
    assert_eq!(service.get("/readyz").status, 200);
    std::thread::scope(|scope| {
        for path in ["/session", "/readyz", "/healthz", "/metrics"] {
            let address = service.address;
            scope.spawn(move || assert!(call(address, "GET", path, "", "").is_err(), "{path}"));
        }
    });
}

#[test]
fn refusing_begins_three_seconds_after_ready() {
    let mut service = Service::start(&[("FAULT_REFUSE", "true"), ("DRAIN", "0s")]);
    assert_eq!(service.get("/readyz").status, 200);
    let ready = Instant::now();
    while TcpStream::connect(service.address).is_ok() {
        assert!(ready.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(ready.elapsed() > Duration::from_millis(2900), "{:?}", ready.elapsed());
    assert!(service.child.try_wait().unwrap().is_none(), "the process lives");
    service.signal("TERM");
    assert_eq!(service.wait().0.code(), Some(0));
}

#[test]
fn never_ready_serves_all_the_same() {
    let service = Service::start(&[("FAULT_NEVER_READY", "true")]);
    assert_eq!(service.get("/readyz").status, 503);
    assert_eq!(service.get("/healthz").status, 200);
    assert_eq!(service.log_in("wonderland").status, 200);
}

#[test]
fn crashing_exits_with_1() {
    let mut service = Service::start(&[("FAULT_CRASH", "after 300ms")]);
    assert_eq!(service.get("/readyz").status, 200);
    assert_eq!(service.wait().0.code(), Some(1));
    assert_eq!(command(&[("FAULT_CRASH", "start")]).output().unwrap().status.code(), Some(1));
}

#[test]
fn a_wrong_value_is_one_clear_line() {
    let output = command(&[("FAULT_LATENCY", "slow")]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "auth: FAULT_LATENCY: expected a duration such as 400ms or 5s, found \"slow\"\n"
    );
}
