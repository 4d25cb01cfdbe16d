//! Gates: Jobs, HTTP services and windows that must say yes.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use serin_e2e::{
    cluster::{SERIN, eventually, helm, kubectl, list},
    exposure::now,
    shop::repository,
};

use super::{assert_tidy, figures, held, node, open_shop, rollout_status};

const MINUTE: Duration = Duration::from_secs(60);

/// A Job that runs the example's image: no other is in the cluster. Its log's end is what the gate says.
fn job(environment: Value) -> Value {
    json!({"template": {"spec": {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [{
        "name": "check", "image": "serin.local/auth:v1", "imagePullPolicy": "IfNotPresent", "env": environment
    }]}}}}, "timeout": "20s"})
}

#[test]
fn a_job_that_fails_refuses_the_version_before_its_first_caller() {
    let _stage = super::beside();
    let steps = json!([{"weight": 50, "bake": "1s"}]);
    let (shop, mut load) = open_shop("gatejob", &steps, |rollout| {
        // The service ends with an error if its configuration is wrong.
        rollout["spec"]["gates"] = json!([{"name": "smoke", "at": "FirstTraffic", "job": job(json!([{"name": "SESSION_KEY", "value": "0123456789abcdef0123456789abcdef"}, {"name": "LISTEN", "value": "$(SERIN_CANARY_SERVICE) is no address"}]))}]);
    });
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    let run = shop.run_in("RolledBack", None, 2 * MINUTE).expect("RolledBack");
    println!("      {}", run["status"]["message"]);
    assert_eq!(run["status"]["reason"], "GateFailed");
    let gate = &run["status"]["gates"][0];
    assert_eq!((&gate["gate"], &gate["state"]), (&json!("smoke@first-traffic"), &json!("Failed")));
    // the run's facts came as environment, and the log's end into the status
    assert!(gate["message"].as_str().unwrap_or_default().contains("auth-canary is no address"), "{gate}");
    let seen = figures(&mut load, began, "canary");
    assert_eq!((seen.canary, seen.failed), (0, 0));
    assert_eq!(rollout_status(&shop), Some(1));
    let jobs = list(&shop.namespace, "jobs").expect("kubectl");
    assert_eq!(jobs.len(), 1, "asked once");
    assert_tidy(&shop);
}

/// An HTTP service of ours on the node's address that says yes or no, and remembers what it was told.
struct Oracle {
    url: String,
    yes: Arc<AtomicBool>,
    told: Arc<Mutex<Vec<Value>>>,
}

impl Oracle {
    fn new() -> Self {
        Self::over(None)
    }

    /// Over TLS; and the certificate, as PEM, that it is trusted by.
    fn secure() -> (Self, String) {
        let made = rcgen::generate_simple_self_signed([node()]).expect("a certificate");
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a configuration");
        (Self::over(Some(Arc::new(config))), made.cert.pem())
    }

    fn over(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let address = node();
        let listener = TcpListener::bind((address.as_str(), 0)).expect("a port");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}:{}/may-it", listener.local_addr().expect("an address").port());
        let (yes, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (says, hears) = (Arc::clone(&yes), Arc::clone(&told));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
                match &tls {
                    None => answer(stream, &says, &hears),
                    Some(tls) => {
                        let session = rustls::ServerConnection::new(Arc::clone(tls)).expect("a session");
                        answer(rustls::StreamOwned::new(session, stream), &says, &hears);
                    }
                }
            }
        });
        Self { url, yes, told }
    }
}

fn answer(mut stream: impl Read + Write, says: &AtomicBool, hears: &Mutex<Vec<Value>>) {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    let body = loop {
        let Ok(read @ 1..) = stream.read(&mut part) else { break None };
        bytes.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = text.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok());
        if body.is_some() {
            break body;
        }
    };
    hears.lock().expect("told").extend(body);
    let (status, text) = match says.load(Ordering::SeqCst) {
        true => ("200 OK", "go ahead"),
        false => ("409 Conflict", "database migration is under way"),
    };
    let length = text.len();
    let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}");
    let _ = stream.flush();
}

/// HTTPS gates are trusted by this certificate for as long as it lives.
struct Trust;

impl Trust {
    /// `certificate`: PEM.
    fn set(certificate: &str) -> Result<(), String> {
        let chart = repository().join("charts/serin").display().to_string();
        let value = format!("gates={}", json!({"hosts": [node()], "caBundle": certificate}));
        let args = ["upgrade", "serin", &chart, "-n", SERIN, "--reuse-values", "--set-json", &value];
        helm(&[&args[..], &["--wait", "--timeout", "90s"]].concat()).map(drop)
    }
    fn of(certificate: &str) -> Self {
        Self::set(certificate).expect("helm upgrade");
        Self
    }
}

impl Drop for Trust {
    fn drop(&mut self) {
        let back = Self::set("");
        assert!(back.is_ok() || std::thread::panicking(), "{back:?}");
    }
}

#[test]
fn an_http_gate_holds_until_it_says_yes_and_reaches_allowed_hosts_only() {
    let _stage = super::beside();
    let oracle = Oracle::new();
    let elsewhere = oracle.url.replace(&node(), "node.example.com");
    let steps = json!([{"weight": 20, "bake": "1s"}, {"weight": 50, "bake": "1s"}]);
    let (shop, mut load) = open_shop("gatehttp", &steps, |rollout| {
        rollout["spec"]["gates"] =
            json!([{"name": "ask", "at": "Step", "step": 2, "http": {"url": elsewhere, "retries": 0}}]);
    });
    let began = now();
    // a host that the operator does not allow is a no
    shop.release(&["VERSION=canary"]).expect("release");
    let run = shop.run_in("RolledBack", None, 2 * MINUTE).expect("RolledBack");
    let message = run["status"]["message"].as_str().unwrap_or_default();
    println!("      {message}");
    assert!(message.contains("is not among those that the operator's configuration allows"), "{message}");
    assert!(oracle.told.lock().expect("told").is_empty(), "and it was not reached");
    shop.serin(&["undo", "auth"]).expect("undo");
    shop.idle().expect("Ready");

    // one that it allows is asked
    let patch = json!({"spec": {"gates": [{"name": "ask", "at": "Step", "step": 2, "http": {"url": oracle.url, "retries": 0}, "onFailure": "Hold"}]}});
    shop.kubectl(&["patch", "rollouts.serin.dev", "auth", "--type=merge", "-p", &patch.to_string()]).expect("patched");
    shop.release(&["VERSION=second"]).expect("release");
    let first = run["metadata"]["name"].as_str().expect("a name").to_owned();
    let held = held(&shop, Some(&first), "Gate", "database migration is under way");
    assert_eq!((&held["status"]["step"], &held["status"]["weight"]["set"]), (&json!(1), &json!(20)));
    oracle.yes.store(true, Ordering::SeqCst);
    shop.run_in("Succeeded", Some(&first), 2 * MINUTE).expect("Succeeded");
    let told = oracle.told.lock().expect("told").clone();
    println!("      asked {} times, at first with {}", told.len(), told[0]);
    assert_eq!((&told[0]["gate"], &told[0]["canaryService"]), (&json!("ask@step-2"), &json!("auth-canary")));
    assert_eq!(figures(&mut load, began, "second").failed, 0);
    assert_tidy(&shop);
}

#[test]
fn an_https_gate_is_asked_only_if_its_certificate_is_trusted() {
    let _stage = super::alone();
    super::serin();
    let (oracle, certificate) = Oracle::secure();
    oracle.yes.store(true, Ordering::SeqCst);
    let (shop, mut load) = open_shop("gatehttps", &json!([{"weight": 50, "bake": "1s"}]), |rollout| {
        rollout["spec"]["gates"] =
            json!([{"name": "ask", "at": "FirstTraffic", "http": {"url": oracle.url, "retries": 0}}]);
    });
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    let run = shop.run_in("RolledBack", None, 2 * MINUTE).expect("RolledBack");
    let message = run["status"]["message"].as_str().unwrap_or_default();
    println!("      {message}");
    assert!(message.contains("UnknownIssuer"), "{message}");
    assert!(oracle.told.lock().expect("told").is_empty(), "who is not trusted is told nothing");
    shop.serin(&["undo", "auth"]).expect("undo");
    shop.idle().expect("Ready");

    let _trust = Trust::of(&certificate);
    shop.release(&["VERSION=second"]).expect("release");
    let first = run["metadata"]["name"].as_str().expect("a name").to_owned();
    let run = shop.run_in("Succeeded", Some(&first), 2 * MINUTE).expect("Succeeded");
    println!("      {}", run["status"]["gates"][0]);
    assert_eq!(oracle.told.lock().expect("told").len(), 1);
    let seen = figures(&mut load, began, "canary");
    assert_eq!((seen.failed, seen.canary), (0, 0));
    assert_tidy(&shop);
}

#[test]
fn a_closed_window_holds_a_step_and_never_a_rollback() {
    let _stage = super::beside();
    let steps = json!([{"weight": 20, "bake": "1s"}, {"weight": 50, "bake": "1s"}]);
    let (shop, mut load) = open_shop("gatewindow", &steps, |rollout| {
        let window = json!({"timeZone": "Europe/Berlin", "freeze": [{"from": "2020-01-01T00:00", "to": "2099-01-01T00:00", "why": "year's end"}]});
        rollout["spec"]["gates"] = json!([{"name": "office", "at": "Step", "step": 2, "window": window}]);
    });
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    let held = held(&shop, None, "Gate", "year's end");
    assert_eq!(held["status"]["weight"]["set"], 20);
    shop.serin(&["abort", "auth"]).expect("abort");
    shop.run_in("RolledBack", None, MINUTE).expect("RolledBack");
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    assert_tidy(&shop);
}

#[test]
fn who_may_not_create_jobs_can_not_have_one_made() {
    let _stage = super::beside();
    let (shop, _load) = open_shop("gaterights", &json!([{"weight": 50}]), |_| {});
    let account = format!("system:serviceaccount:{}:author", shop.namespace);
    shop.kubectl(&["create", "serviceaccount", "author"]).expect("an account");
    shop.kubectl(&["create", "role", "author", "--verb=get,patch,update", "--resource=rollouts.serin.dev"])
        .expect("a role");
    shop.kubectl(&[
        "create",
        "rolebinding",
        "author",
        "--role=author",
        &format!("--serviceaccount={}:author", shop.namespace),
    ])
    .expect("bound");
    let patch = json!({"spec": {"gates": [{"name": "smoke", "at": "Start", "job": job(json!([]))}]}}).to_string();
    let args =
        ["-n", &shop.namespace, "patch", "rollouts.serin.dev", "auth", "--type=merge", "-p", &patch, "--as", &account];
    let refusal = kubectl(&args).expect_err("refused");
    println!("      {refusal}");
    assert!(refusal.contains("you may not create Jobs in namespace gaterights"), "{refusal}");
    // other fields are theirs
    let other = json!({"spec": {"historyLimit": 5}}).to_string();
    kubectl(&[
        "-n",
        &shop.namespace,
        "patch",
        "rollouts.serin.dev",
        "auth",
        "--type=merge",
        "-p",
        &other,
        "--as",
        &account,
    ])
    .expect("allowed");
    // and with the right it goes
    shop.kubectl(&["create", "role", "jobs", "--verb=create", "--resource=jobs"]).expect("a role");
    shop.kubectl(&[
        "create",
        "rolebinding",
        "jobs",
        "--role=jobs",
        &format!("--serviceaccount={}:author", shop.namespace),
    ])
    .expect("bound");
    eventually("the right to be known", Duration::from_secs(10), || kubectl(&args).map(Some)).expect("allowed");
}
