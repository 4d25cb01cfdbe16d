//! Asks, with a bound on time and bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, LOCATION};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::time::{Instant, timeout_at};

use super::super::body::{BLOCKING_BYTES, Body, BodyError, Memory, client, read_body, root_cause, shorten};
use super::super::credentials::Credentials;
use super::super::query::Query;
use super::answer::{AnswerError, PodReading, read_answer, read_presence, read_share};
use super::ask::{Labels, presence, promql};

/// Who may be asked, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// From the question to the end of the answer.
    pub deadline: Duration,
    /// Bytes of an answer.
    pub max_bytes: usize,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { deadline: Duration::from_secs(5), max_bytes: 8 * 1024 * 1024 }
    }
}

/// Why Prometheus has not answered.
#[derive(Debug, thiserror::Error)]
#[error("Prometheus at {address}: {problem}")]
pub struct AskError {
    /// As the policy has it.
    pub address: String,
    pub problem: Problem,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("could not connect: {0}")]
    Connect(String),
    #[error("expected an answer within {0:?}, found none")]
    NoAnswer(Duration),
    #[error("expected the whole answer within {within:?}, found {bytes} bytes and no end")]
    TooSlow { within: Duration, bytes: usize },
    #[error("expected at most {limit} bytes, found {found} or more; drop labels with many values")]
    TooLarge { found: usize, limit: usize },
    #[error("expected status 200, found {status}; {advice}")]
    Status { status: StatusCode, advice: String },
    #[error("expected a whole answer, the connection broke after {bytes} bytes: {cause}")]
    Broken { bytes: usize, cause: String },
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("reading the answer was given up, as the controller is shutting down or the reader panicked")]
    GivenUp,
}

impl Problem {
    /// The credentials are not, or no longer, what is asked for.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Problem::Status { status, .. } if [401, 403].contains(&status.as_u16()))
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// By name; pods of which Prometheus has nothing are not in it.
    pub pods: BTreeMap<String, PodReading>,
    /// Its clock, in seconds since 1970, if it told it. Whole seconds.
    pub date: Option<f64>,
}

/// Times of the past, evenly spaced. In milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    pub from: i64,
    pub to: i64,
    /// From one to the next, above 0.
    pub step: i64,
}

impl Past {
    /// All of them.
    pub fn times(self) -> impl Iterator<Item = i64> {
        (0..).map_while(move |number: i64| {
            let at = number.checked_mul(self.step.max(1))?.checked_add(self.from)?;
            (at <= self.to).then_some(at)
        })
    }
}

/// Leads names where the system's resolver does.
#[derive(Debug, Clone, Copy)]
pub struct SystemNames;

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?.collect::<Vec<_>>();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// One Prometheus, asked for one namespace. Keeps its connection from one question to the next.
#[derive(Debug)]
pub struct PrometheusClient {
    client: Client,
    address: String,
    url: Url,
    rules: Rules,
    memory: Memory,
}

impl PrometheusClient {
    /// `resolve` has the last word on where a name leads to.
    pub fn new(
        address: &Url,
        trust: rustls::ClientConfig,
        resolve: impl Resolve + 'static,
        rules: Rules,
        memory: Memory,
    ) -> Result<PrometheusClient, reqwest::Error> {
        let mut url = address.clone();
        url.set_path(&format!("{}/api/v1/", address.path().trim_end_matches('/')));
        let client = client(trust).dns_resolver(std::sync::Arc::new(resolve)).build()?;
        Ok(PrometheusClient { client, address: address.to_string(), url, rules, memory })
    }

    /// Asks what there is of these pods, by name.
    pub async fn ask(
        &self,
        query: &Query,
        labels: &Labels,
        pods: &[&str],
        credentials: &Credentials,
    ) -> Result<Answered, AskError> {
        self.samples(query, labels, pods, credentials, None).await
    }

    /// The same of the past: `at` is in milliseconds since 1970.
    pub async fn ask_at(
        &self,
        query: &Query,
        labels: &Labels,
        pods: &[&str],
        credentials: &Credentials,
        at: i64,
    ) -> Result<Answered, AskError> {
        self.samples(query, labels, pods, credentials, Some(at)).await
    }

    /// At which of these times (milliseconds since 1970) each pod of a workload was there, by name.
    pub async fn ask_presence(
        &self,
        query: &Query,
        labels: &Labels,
        workload: &str,
        credentials: &Credentials,
        Past { from, to, step }: Past,
    ) -> Result<BTreeMap<String, BTreeSet<i64>>, AskError> {
        let question = [
            ("query", presence(query, labels, workload)),
            ("start", seconds(from)),
            ("end", seconds(to)),
            ("step", seconds(step)),
        ];
        let pod_label = labels.pod.clone();
        let read = move |bytes: &[u8]| read_presence(bytes, &pod_label);
        let (pods, _) = self.told("query_range", &question, credentials, read).await?;
        Ok(pods)
    }

    async fn samples(
        &self,
        query: &Query,
        labels: &Labels,
        pods: &[&str],
        credentials: &Credentials,
        at: Option<i64>,
    ) -> Result<Answered, AskError> {
        let question = instant(promql(query, labels, pods), at);
        let (labels, query) = (labels.clone(), query.clone());
        let read = move |bytes: &[u8]| read_answer(bytes, &labels, &query);
        let (pods, date) = self.told("query", &question, credentials, read).await?;
        Ok(Answered { pods, date })
    }

    /// Asks for one share, 0 to 1, in PromQL; `at` a time of the past in milliseconds since 1970, or now. `None`: it has no
    /// number.
    pub async fn ask_share(
        &self,
        question: &str,
        credentials: &Credentials,
        at: Option<i64>,
    ) -> Result<Option<f64>, AskError> {
        let question = instant(question.to_owned(), at);
        let (share, _) = self.told("query", &question, credentials, read_share).await?;
        Ok(share)
    }

    async fn told<T: Send + 'static>(
        &self,
        api: &str,
        question: &[(&str, String)],
        credentials: &Credentials,
        read: impl FnOnce(&[u8]) -> Result<T, AnswerError> + Send + 'static,
    ) -> Result<(T, Option<f64>), AskError> {
        let asked = self.asked(api, question, credentials, read).await;
        asked.map_err(|problem| AskError { address: self.address.clone(), problem })
    }

    async fn asked<T: Send + 'static>(
        &self,
        api: &str,
        question: &[(&str, String)],
        credentials: &Credentials,
        read: impl FnOnce(&[u8]) -> Result<T, AnswerError> + Send + 'static,
    ) -> Result<(T, Option<f64>), Problem> {
        let within = self.rules.deadline;
        let deadline = Instant::now() + within;
        let response = match timeout_at(deadline, self.send(api, question, credentials)).await {
            Err(_) => return Err(Problem::NoAnswer(within)),
            Ok(Err(source)) if source.is_connect() => return Err(Problem::Connect(root_cause(&source))),
            Ok(Err(source)) => return Err(Problem::Broken { bytes: 0, cause: root_cause(&source) }),
            Ok(Ok(response)) => response,
        };
        let (status, date) = (response.status(), date_of(response.headers()));
        // These explain themselves in JSON.
        if ![200, 400, 422, 503].contains(&status.as_u16()) {
            return Err(Problem::Status { status, advice: advice(status, response.headers()) });
        }
        let limit = self.rules.max_bytes;
        let body = read_body(response, limit, deadline, &self.memory).await.map_err(|error| match error {
            BodyError::TooLarge(found) => Problem::TooLarge { found, limit },
            BodyError::TooSlow(bytes) => Problem::TooSlow { within, bytes },
            BodyError::Broken(bytes, source) => Problem::Broken { bytes, cause: root_cause(&source) },
            BodyError::GivenUp => Problem::GivenUp,
        })?;
        match read_by(body, read).await? {
            Err(AnswerError::NotJson(_)) if status != StatusCode::OK => {
                Err(Problem::Status { status, advice: "see its logs".to_owned() })
            }
            told => Ok((told?, date)),
        }
    }

    /// Asks twice if need be: the server may close a kept connection in the very moment we use it again.
    async fn send(
        &self,
        api: &str,
        question: &[(&str, String)],
        credentials: &Credentials,
    ) -> Result<Response, reqwest::Error> {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{api}", self.url.path()));
        let mut form = url.clone();
        form.query_pairs_mut().clear().extend_pairs(question);
        let body = form.query().unwrap_or_default().to_owned();
        let request = || {
            let request = self.client.post(url.clone());
            let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body.clone());
            credentials.put_into(request)
        };
        match request().send().await {
            Err(error) if !error.is_connect() => request().send().await,
            answer => answer,
        }
    }
}

/// The form of a question about one moment: `at` in milliseconds since 1970, or now.
fn instant(query: String, at: Option<i64>) -> Vec<(&'static str, String)> {
    [("query", query)].into_iter().chain(at.map(|at| ("time", seconds(at)))).collect()
}

/// As Prometheus takes times and steps.
fn seconds(millis: i64) -> String {
    format!("{:.3}", millis as f64 / 1000.0)
}

async fn read_by<T: Send + 'static>(
    Body { bytes, big }: Body,
    read: impl FnOnce(&[u8]) -> Result<T, AnswerError> + Send + 'static,
) -> Result<Result<T, AnswerError>, Problem> {
    if bytes.len() <= BLOCKING_BYTES {
        return Ok(read(&bytes));
    }
    let reading = tokio::task::spawn_blocking(move || read(&bytes)).await;
    drop(big);
    reading.map_err(|_| Problem::GivenUp)
}

fn advice(status: StatusCode, headers: &HeaderMap) -> String {
    match status.as_u16() {
        300..=399 => match headers.get(LOCATION).and_then(|value| value.to_str().ok()) {
            Some(location) => format!("redirects are not followed; it points to {}", shorten(location)),
            None => "redirects are not followed; correct `address`".to_owned(),
        },
        401 | 403 => "give bearerToken or basicAuth, or correct the Secret".to_owned(),
        404 => "is this the address of Prometheus, with the path before /api?".to_owned(),
        429 => "it limits the rate; raise `interval`".to_owned(),
        _ => "see its logs".to_owned(),
    }
}

fn date_of(headers: &HeaderMap) -> Option<f64> {
    let text = headers.get(DATE)?.to_str().ok()?;
    let date = DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(date.as_second() as f64)
}

#[cfg(test)]
mod tests;
