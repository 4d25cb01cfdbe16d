//! Asks gates: Jobs and HTTP services, each in a task of its own, so that a slow one delays no decision. What was asked is
//! not remembered over a restart: a Job is found again by its name, an HTTP service is asked again.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams, PostParams},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{hosts::AllowedHosts, send::Leading};
use crate::{
    api::{Asks, HttpGate, JobGate, Policy, RolloutRun, names},
    engine::{GateAnswer, Gates},
    tls::{self, TrustError},
    workload::template,
};

/// A Job is looked at this often.
const POLL: Duration = Duration::from_secs(1);
/// Between two tries of an HTTP gate.
const PAUSE: Duration = Duration::from_secs(2);
/// The end of a Job's log, and the begin of an HTTP answer, that people get to see.
const SHOWN: usize = 500;
/// More of an HTTP answer is not read.
const MOST_READ: usize = 64 * 1024;

type Key = (String, String, u32);

/// Why gates can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum GatekeeperError {
    /// Whom to trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The HTTP client.
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

/// No proxy and no redirects: what is reached is what was allowed.
fn asker(trust: rustls::ClientConfig) -> Result<reqwest::Client, reqwest::Error> {
    let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    builder.tls_backend_preconfigured(trust).build()
}

/// Gates that were asked.
pub(super) struct Gatekeeper {
    client: Client,
    http: reqwest::Client,
    hosts: AllowedHosts,
    leading: Leading,
    asked: Arc<Mutex<HashMap<Key, Asked>>>,
}

struct Asked {
    answer: GateAnswer,
    task: Option<JoinHandle<()>>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Gatekeeper {
    /// `ca`: a file of authorities to trust besides those of the system.
    pub fn new(
        client: Client,
        hosts: AllowedHosts,
        ca: Option<&Path>,
        leading: Leading,
    ) -> Result<Self, GatekeeperError> {
        let read = |path: &Path| std::fs::read(path).map_err(|error| TrustError::File(path.to_owned(), error));
        let http = asker(tls::trusting(ca.map(read).transpose()?.as_deref())?)?;
        Ok(Self { client, http, hosts, leading, asked: Arc::default() })
    }

    /// What the gates of this run have answered.
    pub fn answers(&self, run: &str) -> Gates {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let of_run = asked.iter().filter(|((uid, ..), _)| uid == run);
        of_run.map(|((_, gate, attempt), asked)| ((gate.clone(), *attempt), asked.answer.clone())).collect()
    }

    /// The run has ended.
    pub fn forget(&self, run: &str) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).retain(|(uid, ..), _| uid != run);
    }

    /// Asks, if it is not being asked; `tell` is called when the answer is there.
    pub fn ask(
        &self,
        run: &RolloutRun,
        policy: &Policy,
        gate: &str,
        attempt: u32,
        tell: impl FnOnce() + Send + 'static,
    ) {
        let key = (run.uid().unwrap_or_default(), gate.to_owned(), attempt);
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.contains_key(&key) || !self.leading.is_leading() {
            return;
        }
        let name = gate.split('@').next().unwrap_or_default();
        let asks = policy.gates.iter().find(|known| known.name == name).map(|known| &known.asks);
        let facts = Facts::of(run, gate, attempt);
        let question = match asks {
            Some(Asks::Job(job)) => {
                Question::Job(Box::new(JobQuestion::new(&self.client, job, run, gate, attempt, &facts)))
            }
            Some(Asks::Http(http)) => Question::Http(http.clone(), facts.json(), self.hosts.clone()),
            Some(Asks::Window(_)) | None => return,
        };
        let (http, answers, of_key) = (self.http.clone(), Arc::clone(&self.asked), key.clone());
        let task = tokio::spawn(async move {
            let answer = match question {
                Question::Job(job) => job.answer().await,
                Question::Http(gate, facts, hosts) => post(&http, &gate, &facts, &hosts).await,
            };
            if let Some(asked) = answers.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&of_key) {
                asked.answer = answer;
                asked.task = None;
            }
            tell();
        });
        asked.insert(key, Asked { answer: GateAnswer::Running, task: Some(task) });
    }
}

enum Question {
    Job(Box<JobQuestion>),
    Http(HttpGate, Value, AllowedHosts),
}

/// The run's facts, as gates are told them.
struct Facts(Vec<(&'static str, Value)>);

impl Facts {
    fn of(run: &RolloutRun, gate: &str, attempt: u32) -> Self {
        let (spec, status) = (&run.spec, run.status.clone().unwrap_or_default());
        Self(vec![
            ("namespace", json!(run.namespace())),
            ("rollout", json!(spec.rollout_ref.name)),
            ("run", json!(run.name_any())),
            ("gate", json!(gate)),
            ("attempt", json!(attempt)),
            ("step", json!(status.step)),
            ("weight", json!(status.weight.set)),
            ("service", json!(spec.policy.service)),
            ("canaryService", json!(names::canary_service(&spec.policy.service))),
            ("stableHash", json!(spec.from.hash)),
            ("canaryHash", json!(spec.to.hash)),
            ("stableImages", json!(spec.from.image_list())),
            ("canaryImages", json!(spec.to.image_list())),
        ])
    }
    fn json(&self) -> Value {
        self.0.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<serde_json::Map<_, _>>().into()
    }
    /// canaryService is SERIN_CANARY_SERVICE.
    fn environment(&self) -> Vec<Value> {
        let named = self.0.iter().map(|(name, value)| {
            let mut upper = String::from("SERIN_");
            for letter in name.chars() {
                if letter.is_ascii_uppercase() {
                    upper.push('_');
                }
                upper.push(letter.to_ascii_uppercase());
            }
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            json!({"name": upper, "value": value})
        });
        named.collect()
    }
}

/// A Job of the gate's template, owned by the run. Its name says which question it is, so it is made once.
fn job(gate: &JobGate, run: &RolloutRun, key: &str, attempt: u32, facts: &Facts) -> Value {
    let mut spec = gate.template.0.get("spec").cloned().unwrap_or_else(|| json!({}));
    if spec.get("activeDeadlineSeconds").is_none() {
        spec["activeDeadlineSeconds"] = json!(gate.timeout.0.div_ceil(1000).max(1));
    }
    let pod = &mut spec["template"]["spec"];
    if pod.get("restartPolicy").is_none() {
        pod["restartPolicy"] = json!("Never");
    }
    for kind in ["initContainers", "containers"] {
        for container in pod.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
            let mut environment = facts.environment();
            environment.extend(container["env"].as_array().cloned().unwrap_or_default());
            container["env"] = Value::Array(environment);
        }
    }
    let mut labels = gate.template.0.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
    labels[names::RUN_LABEL] = json!(run.metadata.name);
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": job_name(run, key, attempt), "namespace": run.metadata.namespace, "labels": labels,
            "annotations": gate.template.0.pointer("/metadata/annotations").cloned().unwrap_or_else(|| json!({})),
            "ownerReferences": [{
                "apiVersion": names::API_VERSION, "kind": "RolloutRun", "controller": true,
                "name": run.metadata.name, "uid": run.metadata.uid
            }]
        },
        "spec": spec
    })
}

/// Names of Jobs end at 63 characters, as their pods carry them as labels.
fn job_name(run: &RolloutRun, key: &str, attempt: u32) -> String {
    let whole = format!("{}/{key}/{attempt}", run.uid().unwrap_or_default());
    let readable: String = format!("{}-{}", run.name_any(), key.replace('@', "-")).chars().take(50).collect();
    format!("{}-{}", readable.trim_end_matches('-'), template::hash(&whole, key))
}

struct JobQuestion {
    jobs: Api<Job>,
    pods: Api<Pod>,
    name: String,
    body: Value,
    timeout: Duration,
}

impl JobQuestion {
    fn new(client: &Client, gate: &JobGate, run: &RolloutRun, key: &str, attempt: u32, facts: &Facts) -> Self {
        let namespace = run.namespace().unwrap_or_default();
        Self {
            jobs: Api::namespaced(client.clone(), &namespace),
            pods: Api::namespaced(client.clone(), &namespace),
            name: job_name(run, key, attempt),
            body: job(gate, run, key, attempt, facts),
            // The Job ends itself by its deadline; this is for one that never gets a pod.
            timeout: gate.timeout.duration() + Duration::from_secs(30),
        }
    }

    async fn answer(&self) -> GateAnswer {
        let job: Job = match serde_json::from_value(self.body.clone()) {
            Ok(job) => job,
            Err(error) => return GateAnswer::Failed(format!("job.template is no Job template: {error}")),
        };
        let began = Instant::now();
        let params = PostParams { field_manager: Some(names::MANAGER.into()), ..PostParams::default() };
        loop {
            match tokio::time::timeout(Duration::from_secs(5), self.jobs.create(&params, &job)).await {
                Ok(Ok(_)) => break,
                // It was made before a restart.
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => break,
                Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                    return GateAnswer::Failed(format!("the Job can't be made: {}", status.message));
                }
                _ if began.elapsed() > self.timeout => {
                    return GateAnswer::Failed("the API server did not take the Job in time".into());
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
        loop {
            tokio::time::sleep(POLL).await;
            let read = tokio::time::timeout(Duration::from_secs(5), self.jobs.get_opt(&self.name)).await;
            match read {
                Ok(Ok(Some(job))) => match ended(&job) {
                    Some((true, _)) => return GateAnswer::Passed(self.tail().await),
                    Some((false, why)) => {
                        let tail = self.tail().await;
                        return GateAnswer::Failed(if tail.is_empty() { why } else { format!("{why}: {tail}") });
                    }
                    None => {}
                },
                Ok(Ok(None)) => return GateAnswer::Failed(format!("Job {} was deleted", self.name)),
                _ => {}
            }
            if began.elapsed() > self.timeout {
                return GateAnswer::Failed(format!("Job {} did not end in time", self.name));
            }
        }
    }

    /// The end of the newest pod's log; nothing if it can't be read.
    async fn tail(&self) -> String {
        let params = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={}", self.name));
        let read = async {
            let pods = self.pods.list(&params).await.ok()?;
            let newest = pods.items.into_iter().max_by_key(ResourceExt::creation_timestamp)?;
            let params = LogParams { tail_lines: Some(5), limit_bytes: Some(4096), ..LogParams::default() };
            self.pods.logs(&newest.name_any(), &params).await.ok()
        };
        let text = tokio::time::timeout(Duration::from_secs(5), read).await.ok().flatten().unwrap_or_default();
        let text = text.trim();
        let skipped = text.chars().count().saturating_sub(SHOWN);
        text.chars().skip(skipped).collect()
    }
}

/// It is over: well, or why not.
fn ended(job: &Job) -> Option<(bool, String)> {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut met = conditions.filter(|condition| condition.status == "True");
    met.find_map(|condition| match condition.type_.as_str() {
        "Complete" => Some((true, String::new())),
        "Failed" => Some((
            false,
            format!(
                "the Job failed ({} {})",
                condition.reason.as_deref().unwrap_or_default(),
                condition.message.as_deref().unwrap_or_default()
            ),
        )),
        _ => None,
    })
}

/// Asks an HTTP service.
async fn post(client: &reqwest::Client, gate: &HttpGate, facts: &Value, hosts: &AllowedHosts) -> GateAnswer {
    let url = match reqwest::Url::parse(&gate.url) {
        Ok(url) => url,
        Err(error) => return GateAnswer::Failed(format!("http.url {}: {error}", gate.url)),
    };
    let host = url.host_str().unwrap_or_default().to_owned();
    if !hosts.allow(&host, url.port_or_known_default().unwrap_or(0)) {
        return GateAnswer::Failed(format!(
            "host {host} is not among those that the operator's configuration allows (gates.hosts of the chart)"
        ));
    }
    let mut last = String::new();
    for attempt in 0..=gate.retries {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let ask = client.post(url.clone()).header("content-type", "application/json").body(facts.to_string());
        let answered = tokio::time::timeout(gate.timeout.duration(), async {
            let answer = ask.send().await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, begin(answer).await))
        });
        match answered.await {
            Ok(Ok((status, text))) if status.is_success() => return GateAnswer::Passed(text),
            Ok(Ok((status, _))) if status.is_redirection() => {
                last = format!("{}: redirects are not followed; give the address that it leads to", status.as_u16());
                break;
            }
            Ok(Ok((status, text))) => {
                last = format!("{} {text}", status.as_u16()).trim().to_owned();
                if !status.is_server_error() {
                    break;
                }
            }
            Ok(Err(error)) => last = format!("no answer: {}", with_sources(&error)),
            Err(_) => last = format!("no answer within {}", gate.timeout),
        }
    }
    GateAnswer::Failed(last)
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        text = format!("{text}: {next}");
        source = next.source();
    }
    text
}

/// The begin of an answer's text.
async fn begin(mut answer: reqwest::Response) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MOST_READ {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).trim().chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An HTTP server on loopback that gives each caller `answer`, over TLS if it has a configuration for it; counts them.
    fn server(
        tls: Option<rustls::ServerConfig>,
        answer: String,
    ) -> (std::net::SocketAddr, Arc<std::sync::atomic::AtomicU32>) {
        use std::io::{Read, Write};
        fn respond(mut stream: impl Read + Write, answer: &str) -> std::io::Result<()> {
            let (mut asked, mut part) = (Vec::new(), [0; 4096]);
            // The facts are a JSON object: the request is over at its end.
            while !asked.ends_with(b"}") {
                match stream.read(&mut part)? {
                    0 => return Ok(()),
                    read => asked.extend_from_slice(&part[..read]),
                }
            }
            write!(stream, "{answer}\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")?;
            stream.flush()
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let served = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let (tls, counts) = (tls.map(Arc::new), Arc::clone(&served));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A caller that trusts us not hangs up in the handshake.
                let done = match &tls {
                    None => respond(stream, &answer),
                    Some(tls) => rustls::ServerConnection::new(Arc::clone(tls))
                        .map_err(std::io::Error::other)
                        .and_then(|session| respond(rustls::StreamOwned::new(session, stream), &answer)),
                };
                counts.fetch_add(u32::from(done.is_ok()), std::sync::atomic::Ordering::SeqCst);
            }
        });
        (address, served)
    }

    /// A certificate for `name`, signed by itself; and a server's configuration with it.
    fn certified(name: &str) -> (String, rustls::ServerConfig) {
        use rustls::pki_types::PrivateKeyDer;
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a configuration");
        (made.cert.pem(), config)
    }

    async fn asked(trust: Option<&str>, url: &str) -> GateAnswer {
        let client = asker(tls::trusting(trust.map(str::as_bytes)).expect("trust")).expect("a client");
        let gate = HttpGate { url: url.to_owned(), timeout: crate::api::Millis::seconds(10), retries: 0 };
        post(&client, &gate, &json!({"run": "auth-1"}), &AllowedHosts(vec!["127.0.0.1".into()])).await
    }

    #[tokio::test]
    async fn https_is_asked_if_its_certificate_is_trusted_and_names_the_host() {
        let (ca, config) = certified("127.0.0.1");
        let (address, served) = server(Some(config), "HTTP/1.1 200 OK".into());
        let url = format!("https://{address}/may-it");
        assert_eq!(asked(Some(&ca), &url).await, GateAnswer::Passed("ok".into()));
        assert_eq!(served.load(std::sync::atomic::Ordering::SeqCst), 1);
        // an authority that nobody named
        let GateAnswer::Failed(why) = asked(None, &url).await else { panic!("expected a no") };
        assert!(why.contains("UnknownIssuer"), "{why}");
        let (other, _) = certified("127.0.0.1");
        assert!(matches!(asked(Some(&other), &url).await, GateAnswer::Failed(_)));
        // trusted, and somebody else's
        let (ca, config) = certified("checks.example.com");
        let (address, _) = server(Some(config), "HTTP/1.1 200 OK".into());
        let GateAnswer::Failed(why) = asked(Some(&ca), &format!("https://{address}/")).await else {
            panic!("expected a no")
        };
        assert!(why.contains("not valid for"), "{why}");
    }

    #[tokio::test]
    async fn a_redirect_is_a_no_and_is_not_followed() {
        let (aim, reached) = server(None, "HTTP/1.1 200 OK".into());
        assert_eq!(asked(None, &format!("http://{aim}/")).await, GateAnswer::Passed("ok".into()));
        let (address, _) = server(None, format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{aim}/"));
        let GateAnswer::Failed(why) = asked(None, &format!("http://{address}/")).await else { panic!("expected a no") };
        assert!(why.contains("redirects are not followed"), "{why}");
        assert_eq!(reached.load(std::sync::atomic::Ordering::SeqCst), 1, "by the first question only");
    }
}
