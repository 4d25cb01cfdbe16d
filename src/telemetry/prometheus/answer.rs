//! What Prometheus answers, as counts of each pod and the time at which it took them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;

use serde::Deserialize;

use super::super::body::shorten;
use super::super::exposition::{ExpositionError, Kind, Series, excerpt};
use super::super::query::{PodCounts, Query, Readings, read};
use super::ask::Labels;

/// Series of one answer; beyond it: an error, never a guess from a part.
const MAX_SERIES: usize = 20_000;

/// Labels that tell where and by whom a series was collected; all others are the pod's own.
const TARGET: [&str; 4] = ["job", "instance", "prometheus", "prometheus_replica"];

/// All series of one scrape have the same time; one that is this much older than the newest was not in the last.
const SAME_SCRAPE: f64 = 1.0;

/// A target that was not scraped for so many seconds while another of the same pod was, is gone.
const GONE: f64 = 60.0;

/// What Prometheus has of one pod. Times in seconds since 1970, on its clock.
#[derive(Debug, Clone, PartialEq)]
pub enum PodReading {
    /// Counters, and when it took them.
    Sampled { counts: PodCounts, at: f64 },
    /// No counters, and since when that is known.
    Unreadable { why: String, at: f64 },
}

/// Why an answer is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    #[error("expected an answer of Prometheus' query API as JSON, found {0}; correct `address`")]
    NotJson(String),
    #[error("expected an answer, found the error {kind}: {message}")]
    Refused { kind: String, message: String },
    #[error("expected a matrix of samples, found {0}; is this Prometheus?")]
    NotMatrix(String),
    #[error("expected at most {MAX_SERIES} series, found {0}; drop labels with many values")]
    TooManySeries(usize),
    #[error("expected one number, found {0} series: have the query add them up")]
    NotOne(usize),
    #[error("expected a share between 0 and 1, found {0}")]
    NotAShare(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer<T> {
    status: String,
    data: Option<T>,
    #[serde(default)]
    error_type: String,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Vec<Stream>,
}

/// One series with its samples, the newest last. A native histogram has none.
#[derive(Deserialize)]
struct Stream {
    metric: HashMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

/// Reads an answer. Pods of which Prometheus has nothing are not in it.
pub fn read_answer(bytes: &[u8], labels: &Labels, query: &Query) -> Result<BTreeMap<String, PodReading>, AnswerError> {
    let mut pods: BTreeMap<String, BTreeMap<String, Target>> = BTreeMap::new();
    for stream in streams(bytes)? {
        let Some((at, value)) = stream.values.last().and_then(|(at, value)| Some((*at, value.parse().ok()?))) else {
            continue;
        };
        let Some(pod) = stream.metric.get(&labels.pod) else { continue };
        let target = pods.entry(pod.clone()).or_default().entry(target_of(&stream.metric)).or_default();
        target.add(stream.metric, at, value);
    }
    Ok(pods.into_iter().map(|(pod, targets)| (pod, read_pod(targets, query))).collect())
}

/// Reads the answer to [`presence`](super::presence): at which times (milliseconds since 1970) each pod was there.
pub fn read_presence(bytes: &[u8], pod_label: &str) -> Result<BTreeMap<String, BTreeSet<i64>>, AnswerError> {
    let mut pods: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for Stream { mut metric, values } in streams(bytes)? {
        let Some(pod) = metric.remove(pod_label) else { continue };
        // A float that does not fit becomes the nearest number that does.
        pods.entry(pod).or_default().extend(values.iter().map(|(at, _)| (at * 1000.0).round() as i64));
    }
    Ok(pods)
}

fn streams(bytes: &[u8]) -> Result<Vec<Stream>, AnswerError> {
    let data: Data = data_of(bytes)?;
    if data.result_type != "matrix" {
        return Err(AnswerError::NotMatrix(shorten(&data.result_type)));
    }
    if data.result.len() > MAX_SERIES {
        return Err(AnswerError::TooManySeries(data.result.len()));
    }
    Ok(data.result)
}

fn data_of<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, AnswerError> {
    let answer: Answer<T> = serde_json::from_slice(bytes).map_err(|error| {
        let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned();
        AnswerError::NotJson(format!("`{}` ({error})", shorten(&begin)))
    })?;
    match (answer.status.as_str(), answer.data) {
        ("success", Some(data)) => Ok(data),
        _ => Err(AnswerError::Refused { kind: shorten(&answer.error_type), message: shorten(&answer.error) }),
    }
}

/// What an instant query answers: series with one value each, or one value alone.
#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "camelCase")]
enum Instant {
    Vector(Vec<Single>),
    Scalar((f64, String)),
    Matrix(serde::de::IgnoredAny),
    String(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct Single {
    value: (f64, String),
}

/// Reads one share, 0 to 1. `None`: there is no series, or it is no number, as 0/0 without requests.
pub fn read_share(bytes: &[u8]) -> Result<Option<f64>, AnswerError> {
    let text = match data_of(bytes)? {
        Instant::Scalar((_, text)) => text,
        Instant::Vector(mut series) => match (series.pop(), series.len()) {
            (None, _) => return Ok(None),
            (Some(Single { value: (_, text) }), 0) => text,
            (Some(_), others) => return Err(AnswerError::NotOne(others + 1)),
        },
        Instant::Matrix(_) | Instant::String(_) => return Err(AnswerError::NotAShare("something else".to_owned())),
    };
    match text.parse::<f64>() {
        Ok(share) if share.is_nan() => Ok(None),
        // Extrapolated rates may be a little more than all.
        Ok(share) if (0.0..=1.01).contains(&share) => Ok(Some(share.min(1.0))),
        _ => Err(AnswerError::NotAShare(shorten(&text))),
    }
}

fn target_of(metric: &HashMap<String, String>) -> String {
    TARGET.iter().map(|label| format!("{:?}", metric.get(*label))).collect()
}

/// What Prometheus collects from one place.
#[derive(Default)]
struct Target {
    /// The newest sample of all.
    newest: f64,
    up: Option<(f64, f64)>,
    metrics: HashMap<String, Vec<(f64, Series)>>,
}

impl Target {
    fn add(&mut self, mut labels: HashMap<String, String>, at: f64, value: f64) {
        self.newest = self.newest.max(at);
        let name = labels.remove("__name__").unwrap_or_default();
        if name == "up" {
            self.up = Some((at, value));
            return;
        }
        let excerpt = written(&name, &labels, value);
        self.metrics.entry(name).or_default().push((at, Series { line: None, labels, value, excerpt }));
    }

    /// The last scrape found something of what is asked for.
    fn serves(&self) -> bool {
        self.metrics.values().flatten().any(|(at, _)| self.is_last(*at))
    }

    fn is_last(&self, at: f64) -> bool {
        at >= self.newest - SAME_SCRAPE
    }

    fn is_up(&self) -> bool {
        self.up.is_some_and(|(at, up)| up == 1.0 && self.is_last(at))
    }
}

/// As PromQL would show it.
fn written(name: &str, labels: &HashMap<String, String>, value: f64) -> String {
    let mut sorted: Vec<_> = labels.iter().filter(|(label, _)| !TARGET.contains(&label.as_str())).collect();
    sorted.sort_unstable();
    let mut text = format!("{name}{{");
    for (label, value) in sorted {
        let _ = write!(text, "{label}={value:?},");
    }
    excerpt(&format!("{}}} {value}", text.trim_end_matches(',')))
}

fn read_pod(mut targets: BTreeMap<String, Target>, query: &Query) -> PodReading {
    let newest = targets.values().map(|target| target.newest).fold(0.0, f64::max);
    targets.retain(|_, target| target.newest >= newest - GONE);
    let served = targets.values().any(|target| !target.metrics.is_empty());
    let (serving, others): (Vec<Target>, Vec<Target>) = targets.into_values().partition(Target::serves);
    let serving = once(serving);
    let at = match serving.iter().map(|target| target.newest).reduce(f64::min) {
        Some(at) => at,
        // No request was counted yet, and the pod is there.
        None if !served && others.iter().any(Target::is_up) => {
            others.iter().filter(|target| target.is_up()).map(|target| target.newest).fold(0.0, f64::max)
        }
        None => {
            let why = match others.iter().all(|target| target.up.is_none()) {
                true => "its counters are gone, and there is no `up` of it",
                false if others.iter().any(Target::is_up) => "its last scrape has no counters, the one before had",
                false => "Prometheus could not scrape it (`up` is 0)",
            };
            return PodReading::Unreadable { why: why.to_owned(), at: newest };
        }
    };
    match read(&Pod(serving), query) {
        Ok(counts) => PodReading::Sampled { counts, at },
        Err(error) => PodReading::Unreadable { why: error.to_string(), at },
    }
}

/// Two ways to the same page (two jobs, two replicas of Prometheus) count once: of targets that have a series in common
/// the first by name is taken, always the same one.
fn once(targets: Vec<Target>) -> Vec<Target> {
    let mut kept: Vec<Target> = Vec::new();
    let mut known: HashSet<String> = HashSet::new();
    for target in targets {
        let own: Vec<String> = target
            .metrics
            .iter()
            .flat_map(|(name, all)| all.iter().map(move |(_, one)| own_labels(name, one)))
            .collect();
        if own.iter().any(|series| known.contains(series)) {
            continue;
        }
        known.extend(own);
        kept.push(target);
    }
    kept
}

fn own_labels(name: &str, series: &Series) -> String {
    let labels = series.labels.iter().filter(|(label, value)| !TARGET.contains(&label.as_str()) && !value.is_empty());
    let mut labels: Vec<_> = labels.collect();
    labels.sort_unstable();
    format!("{name}{labels:?}")
}

/// The last scrapes of one pod's targets.
struct Pod(Vec<Target>);

impl Readings for Pod {
    fn knows(&self, name: &str) -> bool {
        self.0.iter().any(|target| target.metrics.contains_key(name))
    }
    fn kind(&self, _: &str) -> Result<Option<Kind>, ExpositionError> {
        Ok(None)
    }
    fn series(&self, name: &str) -> Result<Vec<Series>, ExpositionError> {
        let last = |target: &Target| {
            let all = target.metrics.get(name).into_iter().flatten();
            all.filter(|(at, _)| target.is_last(*at)).map(|(_, series)| series.clone()).collect::<Vec<_>>()
        };
        Ok(self.0.iter().flat_map(last).collect())
    }
}

#[cfg(test)]
mod tests;
