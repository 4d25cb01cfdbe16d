//! The real binary against the real service.
#![allow(clippy::unwrap_used)]

use auth::{Config, Server};
use load::{Reader, Record};
use std::future::pending;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Starts the service on a thread that lives as long as the test process.
fn service(vars: &[(&str, &str)]) -> SocketAddr {
    let fixed = [("SESSION_KEY", "integration-test-key"), ("LISTEN", "127.0.0.1:0")];
    let vars = fixed.iter().chain(vars).map(|(name, value)| (name.into(), value.into()));
    let config = Config::from_vars(vars).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::bind(config).await.unwrap();
            sender.send(server.address()).unwrap();
            server.run(pending::<()>()).await
        })
    });
    receiver.recv().unwrap()
}

/// A path of its own for each test, away when the test is over.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("load-{name}-{}.jsonl", std::process::id())))
    }

    fn records(&self) -> Vec<Record> {
        Reader::open(&self.0).unwrap().read_new().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn command(url: &str, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load"));
    command.args(["--url", url, "--out"]).arg(out).args(more);
    command
}

fn load(address: SocketAddr, out: &Path, more: &[&str]) -> Output {
    command(&format!("http://{address}"), out, more).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn each_request_is_on_record() {
    let (address, out) = (service(&[("VERSION", "v1")]), Scratch::new("plain"));
    for more in [&["--jitter", "none"][..], &["--close"], &["--mix", "login:1"]] {
        let flags = [&["--rate", "100", "--for", "1s", "--host", "auth.example.com"], more].concat();
        let output = load(address, &out.0, &flags);
        assert!(output.status.success(), "{output:?}");
        let records = out.records();
        assert_eq!(records.len(), 100, "{more:?}");
        for record in &records {
            assert_eq!((record.status, record.version.as_deref()), (200, Some("v1")), "{record:?}");
            assert!(!record.failed(), "{record:?}");
        }
        let printed = text(&output.stdout);
        assert!(printed.contains("requests 100  failed 0"), "{printed}");
    }
}

#[test]
fn faults_are_seen() {
    let address = service(&[("FAULT_ERRORS", "50%"), ("FAULT_SEED", "4")]);
    let out = Scratch::new("faults");
    assert!(load(address, &out.0, &["--rate", "200", "--for", "1s"]).status.success());
    let records = out.records();
    let failed = records.iter().filter(|record| record.failed()).count();
    assert!(records.iter().all(|r| r.failed() == (r.status == 500)));
    // Five standard deviations.
    assert!(failed.abs_diff(100) < 36, "{failed} of {}", records.len());
}

#[test]
fn a_slow_service_gets_no_less_load() {
    let (address, out) = (service(&[("FAULT_LATENCY", "1s")]), Scratch::new("slow"));
    assert!(load(address, &out.0, &["--rate", "100", "--for", "1s"]).status.success());
    let records = out.records();
    assert_eq!(records.len(), 100);
    assert!(records.iter().all(|record| record.ms >= 1000.0 && !record.failed()));
    let times = || records.iter().map(|record| record.t);
    let spread = times().fold(f64::MIN, f64::max) - times().fold(f64::MAX, f64::min);
    // One after the other would take 100 s; the margin is for a busy machine.
    assert!((0.9..3.0).contains(&spread), "{spread}");
}

#[test]
fn the_file_is_read_live_and_a_signal_ends_in_order() {
    let (address, out) = (service(&[]), Scratch::new("live"));
    for signal in ["INT", "TERM"] {
        let _ = std::fs::remove_file(&out.0);
        let url = format!("http://{address}");
        let mut command = command(&url, &out.0, &["--rate", "100", "--for", "1h"]);
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        let started = Instant::now();
        let mut live = 0;
        let mut reader = None;
        while live < 50 {
            assert!(started.elapsed() < Duration::from_secs(20), "{live}");
            std::thread::sleep(Duration::from_millis(20));
            if reader.is_none() {
                reader = Reader::open(&out.0).ok();
            }
            live += reader.as_mut().map_or(0, |reader| reader.read_new().unwrap().len());
        }
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let (printed, records) = (text(&output.stdout), out.records().len());
        assert!(printed.starts_with(&format!("ended by SIG{signal} after")), "{printed}");
        assert!(printed.contains(&format!("requests {records}  failed 0")), "{printed}");
    }
}

#[test]
fn the_count_is_bounded() {
    let (address, out) = (service(&[]), Scratch::new("bounded"));
    let output = load(address, &out.0, &["--rate", "100", "--for", "1h", "--max-requests", "20"]);
    assert!(text(&output.stdout).starts_with("ended by --max-requests"), "{output:?}");
    assert_eq!(out.records().len(), 20);
}

#[test]
fn what_can_not_run_exits_with_1() {
    let (address, out) = (service(&[]), Scratch::new("wrong"));
    let public = command("http://192.0.2.1", &out.0, &[]).output().unwrap();
    assert_eq!(public.status.code(), Some(1));
    assert!(text(&public.stderr).contains("--allow-any"), "{public:?}");

    let refused = load(address, &out.0, &["--password", "wrong"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("check --user and --password"), "{refused:?}");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let started = Instant::now();
    let silent = load(nobody, &out.0, &["--login-within", "1s"]);
    assert_eq!(silent.status.code(), Some(1));
    assert!(text(&silent.stderr).contains("expected to log in within 1s"), "{silent:?}");
    assert!(started.elapsed() < Duration::from_secs(8));
}
