//! Fetches the text from the pods, all at once, with a bound on everything: time, bytes, connections, memory.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use reqwest::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, LOCATION};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::deltas::Arm;
use super::exposition::{ExpositionError, Limits, parse};
use super::query::{PodCounts, Query, QueryError, read};
use crate::tls::{self, TrustError};

/// Scraped pods of one arm. More add cost, not certainty: requests are the sample, not pods.
pub const MAX_PODS_PER_ARM: usize = 25;

/// Above this many bytes a text is read on a thread of its own: a MiB takes milliseconds, and the runtime has leases to
/// renew meanwhile.
const BLOCKING_BYTES: usize = 64 * 1024;

/// Bodies above this are held in memory only [`BIG_AT_ONCE`] at a time, so that fifty pods with ten MiB each do not
/// take half a GiB.
const BIG_BYTES: usize = 1024 * 1024;
const BIG_AT_ONCE: usize = 4;

/// One pod's metrics endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The id that [`super::PodScrape`] uses too: the UID.
    pub pod: String,
    pub arm: Arm,
    pub ip: IpAddr,
    pub port: u16,
    /// Begins with `/`; may have a query (`/metrics?name[]=http_requests_total`).
    pub path: String,
}

/// How a round of scrapes goes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrapeSettings {
    /// From the start of one pod's scrape until its whole body is here.
    pub deadline: Duration,
    /// Scrapes under way at the same time.
    pub concurrency: usize,
    pub limits: Limits,
}

impl Default for ScrapeSettings {
    fn default() -> Self {
        ScrapeSettings {
            deadline: Duration::from_millis(800),
            concurrency: 2 * MAX_PODS_PER_ARM,
            limits: Limits::default(),
        }
    }
}

/// The HTTP client could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ScraperError {
    #[error("cannot set up the HTTP client for scraping")]
    Client(#[from] reqwest::Error),
    #[error(transparent)]
    Tls(#[from] TrustError),
}

/// One pod, once: where and why. Displays in full; the chain of sources holds what lies beneath.
#[derive(Debug)]
pub struct ScrapeError {
    pub pod: String,
    pub url: String,
    pub problem: Problem,
}

/// What went wrong with one pod.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("expected a path that begins with `/`, found `{0}`; correct `path`")]
    Path(String),
    #[error("expected metrics, could not connect: {cause}; does the pod listen on this port?")]
    Connect { cause: String, source: reqwest::Error },
    #[error("expected an answer within {0:?}, found none; the pod hangs, or a NetworkPolicy drops the connection")]
    NoAnswer(Duration),
    #[error("expected the whole text within {within:?}, found {bytes} bytes and no end; have the path answer faster")]
    TooSlow { within: Duration, bytes: usize },
    #[error("expected status 200, found {status}; {advice}")]
    Status { status: StatusCode, advice: String },
    #[error("expected plain text, found {header}: {value}; {advice}")]
    Encoding { header: HeaderName, value: String, advice: &'static str },
    #[error("expected a whole answer, the connection broke after {bytes} bytes: {cause}; did the pod just stop?")]
    Broken { bytes: usize, cause: String, source: reqwest::Error },
    #[error("expected `# EOF` at the end of OpenMetrics text, found none: the text was cut")]
    NoEof,
    #[error(transparent)]
    Text(#[from] ExpositionError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("reading the text was given up, as the controller is shutting down or the reader panicked")]
    GivenUp,
}

impl fmt::Display for ScrapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod {} at {}: {}", self.pod, self.url, self.problem)
    }
}

impl std::error::Error for ScrapeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem.source()
    }
}

/// Keeps connections to the pods from one round to the next.
#[derive(Debug, Clone)]
pub struct Scraper {
    client: Client,
    settings: ScrapeSettings,
    big: Arc<Semaphore>,
}

impl Scraper {
    pub fn new(settings: ScrapeSettings) -> Result<Scraper, ScraperError> {
        let client = Client::builder()
            .user_agent("serin")
            .http1_only()
            // A proxy or a redirect would have us count somebody else's requests.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_backend_preconfigured(tls::trusting_nobody()?)
            .retry(reqwest::retry::never())
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(Duration::from_secs(30))
            .build()?;
        Ok(Scraper { client, settings, big: Arc::new(Semaphore::new(BIG_AT_ONCE)) })
    }

    /// All targets at once, each with its own deadline; answers in the order of `targets`, with their index.
    pub async fn scrape(&self, targets: &[Target], query: &Query) -> Vec<(usize, Result<PodCounts, ScrapeError>)> {
        // Named futures in a list: a closure over borrowed targets would not be `Send` for every lifetime.
        let mut scrapes = Vec::with_capacity(targets.len());
        for (index, target) in targets.iter().enumerate() {
            scrapes.push(self.scrape_indexed(index, target, query));
        }
        // Unordered, so that a hung pod does not keep the next ones from starting.
        let mut results: Vec<_> =
            stream::iter(scrapes).buffer_unordered(self.settings.concurrency.max(1)).collect().await;
        results.sort_unstable_by_key(|(index, _)| *index);
        results
    }

    async fn scrape_indexed(
        &self,
        index: usize,
        target: &Target,
        query: &Query,
    ) -> (usize, Result<PodCounts, ScrapeError>) {
        let result = self.scrape_one(target, query).await;
        let error = |problem| ScrapeError { pod: target.pod.clone(), url: address(target), problem };
        (index, result.map_err(error))
    }

    async fn scrape_one(&self, target: &Target, query: &Query) -> Result<PodCounts, Problem> {
        let body = self.fetch(target).await?;
        if body.bytes.len() <= BLOCKING_BYTES {
            return read_body(&body.bytes, body.open_metrics, &self.settings.limits, query);
        }
        let Body { bytes, open_metrics, big } = body;
        let limits = self.settings.limits;
        let query = query.clone();
        let reading = tokio::task::spawn_blocking(move || read_body(&bytes, open_metrics, &limits, &query));
        let counts = reading.await.map_err(|_| Problem::GivenUp)?;
        drop(big);
        counts
    }

    /// Asks twice if need be: a pod may close a kept connection in the very moment we use it again, and then it is not
    /// the pod that is broken. One connection at most is kept per pod, so the second is a new one.
    async fn answer(&self, url: Url) -> Result<Response, reqwest::Error> {
        // Without this some libraries answer in protobuf or OpenMetrics.
        let accept = "text/plain;version=0.0.4,*/*;q=0.1";
        let request = || self.client.get(url.clone()).header(ACCEPT, accept);
        match request().send().await {
            Err(error) if !error.is_connect() => request().send().await,
            answer => answer,
        }
    }

    async fn fetch(&self, target: &Target) -> Result<Body<'_>, Problem> {
        let within = self.settings.deadline;
        let deadline = Instant::now() + within;
        if !target.path.starts_with('/') {
            return Err(Problem::Path(target.path.clone()));
        }
        let url = Url::parse(&address(target)).map_err(|_| Problem::Path(target.path.clone()))?;
        let mut response = match timeout_at(deadline, self.answer(url)).await {
            Err(_) => return Err(Problem::NoAnswer(within)),
            Ok(Err(source)) if source.is_connect() => {
                return Err(Problem::Connect { cause: root_cause(&source), source: source.without_url() });
            }
            Ok(Err(source)) => return Err(broken(0, source)),
            Ok(Ok(response)) => response,
        };
        if response.status() != StatusCode::OK {
            return Err(status_problem(response.status(), response.headers()));
        }
        let open_metrics = check_headers(response.headers())?;

        let limit = self.settings.limits.max_bytes;
        let too_large = |found| Problem::Text(ExpositionError::TooLarge { found, limit });
        let announced = response.content_length().and_then(|bytes| usize::try_from(bytes).ok());
        if let Some(found) = announced.filter(|bytes| *bytes > limit) {
            return Err(too_large(found));
        }
        let mut bytes = Vec::with_capacity(announced.unwrap_or(0).min(BIG_BYTES));
        let mut big = None;
        loop {
            let chunk = match timeout_at(deadline, response.chunk()).await {
                Err(_) => {
                    return Err(Problem::TooSlow { within, bytes: bytes.len() });
                }
                Ok(Err(source)) => return Err(broken(bytes.len(), source)),
                Ok(Ok(None)) => {
                    return Ok(Body { bytes, open_metrics, big });
                }
                Ok(Ok(Some(chunk))) => chunk,
            };
            if bytes.len() + chunk.len() > limit {
                return Err(too_large(bytes.len() + chunk.len()));
            }
            bytes.extend_from_slice(&chunk);
            if bytes.len() > BIG_BYTES && big.is_none() {
                let permit: Result<_, AcquireError> = timeout_at(deadline, self.big.acquire())
                    .await
                    .map_err(|_| Problem::TooSlow { within, bytes: bytes.len() })?;
                big = Some(permit.map_err(|_| Problem::GivenUp)?);
            }
        }
    }
}

struct Body<'a> {
    bytes: Vec<u8>,
    open_metrics: bool,
    /// Held until the text is read.
    big: Option<SemaphorePermit<'a>>,
}

fn read_body(bytes: &[u8], open_metrics: bool, limits: &Limits, query: &Query) -> Result<PodCounts, Problem> {
    let exposition = parse(bytes, limits)?;
    if open_metrics && !exposition.ends_with_eof() {
        return Err(Problem::NoEof);
    }
    Ok(read(&exposition, query)?)
}

fn address(target: &Target) -> String {
    // A socket address puts IPv6 in brackets.
    format!("http://{}{}", SocketAddr::new(target.ip, target.port), target.path)
}

fn status_problem(status: StatusCode, headers: &HeaderMap) -> Problem {
    let advice = match status.as_u16() {
        300..=399 => match headers.get(LOCATION).and_then(|value| value.to_str().ok()) {
            Some(location) => format!("redirects are not followed; it points to {}", shorten(location)),
            None => "redirects are not followed; correct `path`".to_owned(),
        },
        401 | 403 => "the metrics ask for credentials, which Serin has none of; open the path to it".to_owned(),
        404 => "correct `path` or `port`".to_owned(),
        429 => "the pod limits the rate; raise `interval`".to_owned(),
        _ => "see the logs of the pod".to_owned(),
    };
    Problem::Status { status, advice }
}

/// Whether the text is OpenMetrics; an error when it is no text.
fn check_headers(headers: &HeaderMap) -> Result<bool, Problem> {
    let text =
        |name: HeaderName| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).to_lowercase());
    if let Some(value) = text(CONTENT_ENCODING).filter(|value| value != "identity" && !value.is_empty()) {
        let advice = "nothing compressed was asked for; switch compression off for this path";
        return Err(Problem::Encoding { header: CONTENT_ENCODING, value: shorten(&value), advice });
    }
    let kind = text(CONTENT_TYPE).unwrap_or_default();
    if ["protobuf", "text/html", "application/json"].iter().any(|other| kind.contains(other)) {
        let advice = "is this the port and path of metrics in the Prometheus text format?";
        return Err(Problem::Encoding { header: CONTENT_TYPE, value: shorten(&kind), advice });
    }
    Ok(kind.contains("openmetrics-text"))
}

fn broken(bytes: usize, source: reqwest::Error) -> Problem {
    Problem::Broken { bytes, cause: root_cause(&source), source: source.without_url() }
}

/// reqwest's own message only says that sending failed; what people need lies at the bottom.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// What a stranger sends, in a message.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// At most `per_arm` targets of each arm, in the order given. Which ones depends on each pod's own id alone, so pods
/// that come and go hardly change it, and counters go on without gaps.
pub fn pick(targets: &[Target], per_arm: usize) -> Vec<Target> {
    let mut chosen: Vec<usize> = Vec::new();
    for arm in [Arm::Stable, Arm::Canary] {
        let mut ranked: Vec<_> = targets.iter().enumerate().filter(|(_, target)| target.arm == arm).collect();
        ranked.sort_by_key(|(_, target)| (rank(&target.pod), &target.pod));
        chosen.extend(ranked.into_iter().take(per_arm).map(|(index, _)| index));
    }
    chosen.sort_unstable();
    chosen.into_iter().filter_map(|index| targets.get(index).cloned()).collect()
}

/// FNV-1a with a final mix: the same in every build, unlike std's hasher.
fn rank(pod: &str) -> u64 {
    let hash = pod
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests;
