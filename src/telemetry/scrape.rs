//! Fetches the text from the pods, all at once, with a bound on everything: time, bytes, connections, memory.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::{StreamExt, stream};
use reqwest::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, LOCATION};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::time::{Instant, timeout_at};

use super::body::{BLOCKING_BYTES, Body, BodyError, Memory, client, read_body, root_cause, shorten};
use super::deltas::Arm;
use super::exposition::{ExpositionError, Limits, parse};
use super::query::{PodCounts, Query, QueryError, read};
use crate::tls::{self, TrustError};

/// Scraped pods of one arm. More add cost, not certainty: requests are the sample, not pods.
pub const MAX_PODS_PER_ARM: usize = 25;

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
    memory: Memory,
}

impl Scraper {
    pub fn new(settings: ScrapeSettings, memory: Memory) -> Result<Scraper, ScraperError> {
        Ok(Scraper { client: client(tls::trusting_nobody()?).build()?, settings, memory })
    }

    /// All targets at once, each with its own deadline; answers in the order of `targets`, with their index.
    pub async fn scrape(&self, targets: &[Target], query: &Query) -> Vec<(usize, Result<PodCounts, ScrapeError>)> {
        let first = |counts: Vec<PodCounts>| counts.into_iter().next().unwrap_or_default();
        let scraped = self.scrape_for(targets, std::slice::from_ref(query)).await;
        scraped.into_iter().map(|(index, result)| (index, result.map(first))).collect()
    }

    /// The same with what each of several queries reads of a page.
    pub async fn scrape_for(
        &self,
        targets: &[Target],
        queries: &[Query],
    ) -> Vec<(usize, Result<Vec<PodCounts>, ScrapeError>)> {
        // Named futures in a list: a closure over borrowed targets would not be `Send` for every lifetime.
        let mut scrapes = Vec::with_capacity(targets.len());
        for (index, target) in targets.iter().enumerate() {
            scrapes.push(self.scrape_indexed(index, target, queries));
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
        queries: &[Query],
    ) -> (usize, Result<Vec<PodCounts>, ScrapeError>) {
        let result = self.scrape_one(target, queries).await;
        let error = |problem| ScrapeError { pod: target.pod.clone(), url: address(target), problem };
        (index, result.map_err(error))
    }

    async fn scrape_one(&self, target: &Target, queries: &[Query]) -> Result<Vec<PodCounts>, Problem> {
        let (Body { bytes, big }, open_metrics) = self.fetch(target).await?;
        if bytes.len() <= BLOCKING_BYTES {
            return read_text(&bytes, open_metrics, &self.settings.limits, queries);
        }
        let limits = self.settings.limits;
        let queries = queries.to_vec();
        let reading = tokio::task::spawn_blocking(move || read_text(&bytes, open_metrics, &limits, &queries));
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

    /// The body, and whether it is OpenMetrics.
    async fn fetch(&self, target: &Target) -> Result<(Body, bool), Problem> {
        let within = self.settings.deadline;
        let deadline = Instant::now() + within;
        if !target.path.starts_with('/') {
            return Err(Problem::Path(target.path.clone()));
        }
        let url = Url::parse(&address(target)).map_err(|_| Problem::Path(target.path.clone()))?;
        let response = match timeout_at(deadline, self.answer(url)).await {
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
        let body = read_body(response, limit, deadline, &self.memory).await.map_err(|error| match error {
            BodyError::TooLarge(found) => Problem::Text(ExpositionError::TooLarge { found, limit }),
            BodyError::TooSlow(bytes) => Problem::TooSlow { within, bytes },
            BodyError::Broken(bytes, source) => broken(bytes, source),
            BodyError::GivenUp => Problem::GivenUp,
        })?;
        Ok((body, open_metrics))
    }
}

fn read_text(bytes: &[u8], open_metrics: bool, limits: &Limits, queries: &[Query]) -> Result<Vec<PodCounts>, Problem> {
    let exposition = parse(bytes, limits)?;
    if open_metrics && !exposition.ends_with_eof() {
        return Err(Problem::NoEof);
    }
    queries.iter().map(|query| Ok(read(&exposition, query)?)).collect()
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

/// At most `per_arm` pods of each arm, in the order given; `key` tells a pod's arm and id. Which ones depends on each
/// pod's own id alone, so pods that come and go hardly change it, and counters go on without gaps.
pub fn pick<T: Clone>(pods: &[T], per_arm: usize, key: impl Fn(&T) -> (Arm, &str)) -> Vec<T> {
    let mut chosen: Vec<usize> = Vec::new();
    for arm in [Arm::Stable, Arm::Canary] {
        let mut ranked: Vec<_> = pods.iter().map(&key).enumerate().filter(|(_, (of, _))| *of == arm).collect();
        ranked.sort_by_key(|(_, (_, pod))| (rank(pod), *pod));
        chosen.extend(ranked.into_iter().take(per_arm).map(|(index, _)| index));
    }
    chosen.sort_unstable();
    chosen.into_iter().filter_map(|index| pods.get(index).cloned()).collect()
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
