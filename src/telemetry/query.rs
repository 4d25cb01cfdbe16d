//! What a policy wants to know of a pod, picked from its text: requests, errors, slow requests.
//!
//! All are counters since the start of the process; `deltas` takes the differences.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::exposition::{ExpositionError, Kind, Series};

/// What to read from each pod.
#[derive(Debug, Clone)]
pub struct Query {
    pub requests: CounterQuery,
    /// In the order in which [`PodCounts::latencies`] answers.
    pub latencies: Vec<LatencyQuery>,
}

/// Requests, and which of them are errors.
#[derive(Debug, Clone)]
pub struct CounterQuery {
    /// The exact name in the text (`http_requests_total`).
    pub counter: String,
    /// A request is an error when each of these labels matches. No labels: nothing is an error.
    pub errors: Matcher,
    /// Series that count at all; leaves out probes and the like. No labels: all.
    pub only: Matcher,
    /// Parts of them that are asked of apart.
    pub strata: Vec<Stratum>,
}

/// Requests with this value of a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stratum {
    pub label: String,
    pub value: String,
}

impl Stratum {
    fn has(&self, series: &Series) -> bool {
        series.label(&self.label) == self.value
    }
}

/// How many requests took longer than a threshold.
#[derive(Debug, Clone)]
pub struct LatencyQuery {
    /// The histogram's name, without `_bucket`.
    pub histogram: String,
    /// In seconds, and a bound of the histogram: what lies between two bounds cannot be told apart.
    pub threshold_seconds: f64,
    /// Further bounds of the histogram, in seconds, of which the same is asked.
    pub others_seconds: Vec<f64>,
    /// Series that count at all. No labels: all.
    pub only: Matcher,
    /// Parts of them of which the threshold is asked apart.
    pub strata: Vec<Stratum>,
}

/// What one pod has counted since its process began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodCounts {
    pub requests: u64,
    /// Those of `requests` that are errors.
    pub errors: u64,
    /// For each of [`CounterQuery::strata`].
    pub strata: Vec<StratumCount>,
    /// For each [`LatencyQuery`], in their order, that of its threshold, those of its further bounds, and those of its strata.
    pub latencies: Vec<LatencyCount>,
    /// For each [`LatencyQuery`] the histogram as it is; empty where it can't be had.
    pub histograms: Vec<Histogram>,
    /// Whether the pod has the request counter at all. A fresh pod has none before its first request, so a 0 that is
    /// not present is an honest 0; absent on *all* pods it is a wrong name, and no data.
    pub present: bool,
    /// What could not be seen, in order. One pod alone proves nothing; see [`shared_gaps`].
    pub gaps: Vec<Gap>,
}

/// Requests of one [`Stratum`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StratumCount {
    pub requests: u64,
    /// Those of `requests` that are errors.
    pub errors: u64,
}

/// Requests of one histogram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyCount {
    pub total: u64,
    /// Those of `total` above the threshold.
    pub slow: u64,
}

impl LatencyCount {
    fn add(&mut self, other: Self) {
        self.total = self.total.saturating_add(other.total);
        self.slow = self.slow.saturating_add(other.slow);
    }
}

/// A classic histogram, all label sets together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// In seconds, ascending, without +Inf.
    pub bounds: Vec<f64>,
    /// For each bound the requests that took at most so long.
    pub within: Vec<u64>,
    pub total: u64,
}

// A bound is never NaN.
impl Eq for Histogram {}

impl Histogram {
    /// Adds one with the same bounds; another can't be added and is left out.
    pub fn add(&mut self, other: &Self) {
        if self.bounds.is_empty() {
            self.clone_from(other);
        } else if self.bounds.len() == other.bounds.len()
            && self.bounds.iter().zip(&other.bounds).all(|(a, b)| same(*a, *b))
        {
            self.within.iter_mut().zip(&other.within).for_each(|(sum, one)| *sum = sum.saturating_add(*one));
            self.total = self.total.saturating_add(other.total);
        }
    }

    /// Of one label set; `None` if a bucket is no whole number of requests.
    fn of(group: &[(f64, &Series)]) -> Option<Self> {
        let mut histogram = Self::default();
        for (bound, series) in group {
            let count = whole(series).ok()?;
            if bound.is_finite() {
                histogram.bounds.push(*bound);
                histogram.within.push(count);
            }
            histogram.total = count;
        }
        Some(histogram)
    }
}

/// A zero that may be an honest one or a wrong policy: only the other pods can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gap {
    /// No series and no `# TYPE` of this name. `like`: a name in the text that may be meant.
    NoMetric { metric: String, like: Option<String> },
    /// The metric has series, but `only` takes none.
    NothingMatches { metric: String, only: String },
    /// Requests are counted, but none of the series has this label of `errors`, so no error can be seen.
    NoErrorLabel { metric: String, label: String },
}

impl Gap {
    /// The names alike to a missing one may differ from pod to pod.
    fn is_same(&self, other: &Gap) -> bool {
        match (self, other) {
            (Gap::NoMetric { metric, .. }, Gap::NoMetric { metric: other, .. }) => metric == other,
            _ => self == other,
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gap::NoMetric { metric, like: None } => {
                write!(f, "expected a metric {metric}, found none; check its name and the path, or send a request")
            }
            Gap::NoMetric { metric, like: Some(like) } => {
                write!(f, "expected a metric {metric}, found none, but there is {like}; is that meant?")
            }
            Gap::NothingMatches { metric, only } => {
                write!(f, "expected series of {metric} with {only}, found only others; check `only`")
            }
            Gap::NoErrorLabel { metric, label } => {
                write!(f, "expected a label {label} at {metric} to tell errors by, found none; check `errors`")
            }
        }
    }
}

/// The gaps that *all* these pods have: those say something about the policy, and belong before people.
pub fn shared_gaps<'a>(pods: impl IntoIterator<Item = &'a PodCounts>) -> Vec<Gap> {
    let mut pods = pods.into_iter();
    let mut shared = pods.next().map(|pod| pod.gaps.clone()).unwrap_or_default();
    for pod in pods {
        shared.retain(|gap| pod.gaps.iter().any(|other| gap.is_same(other)));
    }
    shared
}

/// Label -> anchored regex, all of which have to match. A label that is not there is matched as an empty one.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    labels: Vec<(String, Regex, String)>,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("label {label}: expected a regular expression, found `{pattern}`: {source}; {advice}")]
pub struct MatcherError {
    pub label: String,
    pub pattern: String,
    advice: &'static str,
    source: regex::Error,
}

/// Bytes that a compiled regex may take: `5..` takes a few hundred, `(\w{100}){100}` would take all there are.
const REGEX_BYTES: usize = 256 * 1024;

impl Matcher {
    /// Compiles the patterns, each anchored at both ends; `.` matches a newline too, as in Prometheus.
    pub fn new<L, P>(labels: impl IntoIterator<Item = (L, P)>) -> Result<Matcher, MatcherError>
    where
        L: Into<String>,
        P: Into<String>,
    {
        let compile = |label: String, pattern: String| {
            // On its own first: `a)|(?:b` would escape from the anchors.
            let regex = limited(&pattern).and_then(|_| limited(&format!("^(?s:{pattern})$")));
            match regex {
                Ok(regex) => Ok((label, regex, pattern)),
                Err(source) => {
                    let advice = match source {
                        regex::Error::CompiledTooBig(_) => "make it smaller",
                        _ => "see docs.rs/regex for the syntax",
                    };
                    Err(MatcherError { label, pattern, advice, source })
                }
            }
        };
        let labels = labels.into_iter().map(|(label, pattern)| compile(label.into(), pattern.into()));
        Ok(Matcher { labels: labels.collect::<Result<_, _>>()? })
    }

    /// Matches everything.
    pub fn any() -> Matcher {
        Matcher::default()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    fn matches(&self, series: &Series) -> bool {
        self.labels.iter().all(|(label, regex, _)| regex.is_match(series.label(label)))
    }

    fn names(&self, wanted: &str) -> bool {
        self.labels.iter().any(|(label, _, _)| label == wanted)
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (label, _, pattern)) in self.labels.iter().enumerate() {
            write!(f, "{}{label}=~\"{pattern}\"", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

fn limited(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(REGEX_BYTES).dfa_size_limit(REGEX_BYTES).nest_limit(50).build()
}

/// Why a text that is sound does not answer the query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error(transparent)]
    Exposition(#[from] ExpositionError),
    #[error("expected {metric} to be a {expected}, found a {found}; {advice}")]
    WrongKind { metric: String, expected: &'static str, found: &'static str, advice: &'static str },
    #[error("{threshold} is no bucket of {histogram}; bounds are {bounds}; choose one{hint}")]
    NoSuchBucket { threshold: String, histogram: String, bounds: String, hint: &'static str },
    #[error("expected a threshold above 0 and below infinity for {histogram}, found {found}; choose one of its bounds")]
    BadThreshold { histogram: String, found: String },
    #[error("`only` of {histogram} names the label le, which is the bound of a bucket; choose it by the threshold")]
    BoundInOnly { histogram: String },
}

/// One pod's metrics, wherever they come from: its own text, or what Prometheus has of it.
pub trait Readings {
    /// Whether there is anything of this name, also a mere declaration.
    fn knows(&self, name: &str) -> bool;
    /// The declared type, if there is a declaration.
    fn kind(&self, name: &str) -> Result<Option<Kind>, ExpositionError>;
    /// All series of this exact name (`x_bucket`, not `x`), empty when there are none.
    fn series(&self, name: &str) -> Result<Vec<Series>, ExpositionError>;
}

/// Reads one pod's metrics. An error means that the pod is unreadable this time, never that it counted nothing.
pub fn read(readings: &impl Readings, query: &Query) -> Result<PodCounts, QueryError> {
    let mut counts = PodCounts::default();
    read_requests(readings, &query.requests, &mut counts)?;
    for latency in &query.latencies {
        let (slow, histogram) = read_latency(readings, latency, &mut counts.gaps)?;
        counts.latencies.extend(slow);
        counts.histograms.push(histogram);
    }
    Ok(counts)
}

fn read_requests(readings: &impl Readings, query: &CounterQuery, counts: &mut PodCounts) -> Result<(), QueryError> {
    let metric = &query.counter;
    // OpenMetrics declares `http_requests` and counts in `http_requests_total`.
    let declared = match metric.strip_suffix("_total") {
        Some(family) => readings.kind(family)? == Some(Kind::Counter),
        None => false,
    };
    match readings.kind(metric)? {
        None | Some(Kind::Counter | Kind::Untyped) => {}
        Some(found) => {
            let advice = match found {
                Kind::Histogram | Kind::Summary => "its requests are counted in the metric with _count at the end",
                _ => "name one that only goes up",
            };
            return Err(wrong_kind(metric, "counter", found, advice));
        }
    }
    let series = readings.series(metric)?;
    counts.present = !series.is_empty() || readings.knows(metric) || declared;
    if !counts.present {
        counts.gaps.push(no_metric(readings, metric));
    }
    let mut taken = 0;
    counts.strata = vec![StratumCount::default(); query.strata.len()];
    for one in series.iter().filter(|one| query.only.matches(one)) {
        let requests = whole(one)?;
        let errors = if !query.errors.is_empty() && query.errors.matches(one) { requests } else { 0 };
        counts.requests = counts.requests.saturating_add(requests);
        counts.errors = counts.errors.saturating_add(errors);
        // A value that a pod has not seen yet is an honest zero.
        for (_, sum) in query.strata.iter().zip(&mut counts.strata).filter(|(stratum, _)| stratum.has(one)) {
            sum.requests = sum.requests.saturating_add(requests);
            sum.errors = sum.errors.saturating_add(errors);
        }
        taken += 1;
    }
    if taken == 0 && !series.is_empty() {
        counts.gaps.push(Gap::NothingMatches { metric: metric.clone(), only: query.only.to_string() });
    }
    if taken > 0 {
        let missing = query.errors.labels.iter().filter(|(label, regex, _)| {
            // A pattern that an absent label matches is not in want of the label.
            !regex.is_match("") && series.iter().all(|one| one.label(label).is_empty())
        });
        counts
            .gaps
            .extend(missing.map(|(label, _, _)| Gap::NoErrorLabel { metric: metric.clone(), label: label.clone() }));
    }
    Ok(())
}

fn read_latency(
    readings: &impl Readings,
    query: &LatencyQuery,
    gaps: &mut Vec<Gap>,
) -> Result<(Vec<LatencyCount>, Histogram), QueryError> {
    let histogram = &query.histogram;
    let bounds = 1 + query.others_seconds.len();
    let mut sums = vec![LatencyCount::default(); bounds + query.strata.len()];
    let mut whole = Histogram::default();
    if !(query.threshold_seconds.is_finite() && query.threshold_seconds > 0.0) {
        let found = query.threshold_seconds.to_string();
        return Err(QueryError::BadThreshold { histogram: histogram.clone(), found });
    }
    if query.only.names("le") {
        return Err(QueryError::BoundInOnly { histogram: histogram.clone() });
    }
    match readings.kind(histogram)? {
        None | Some(Kind::Histogram | Kind::Untyped) => {}
        Some(found) => {
            let advice = "a threshold needs buckets; have the library write a histogram";
            return Err(wrong_kind(histogram, "histogram", found, advice));
        }
    }
    let buckets = readings.series(&format!("{histogram}_bucket"))?;
    if buckets.is_empty() {
        if readings.knows(&format!("{histogram}_count")) {
            let advice = "switch its (classic) buckets on";
            return Err(QueryError::WrongKind {
                metric: histogram.clone(),
                expected: "histogram with buckets",
                found: "_count without any",
                advice,
            });
        }
        if !readings.knows(histogram) {
            gaps.push(no_metric(readings, histogram));
        }
        return Ok((sums, whole));
    }

    let mut groups: BTreeMap<_, Vec<(f64, &Series)>> = BTreeMap::new();
    for bucket in buckets.iter().filter(|bucket| query.only.matches(bucket)) {
        groups.entry(labels_but_bound(&bucket.labels)).or_default().push((bound(bucket)?, bucket));
    }
    if groups.is_empty() {
        gaps.push(Gap::NothingMatches { metric: histogram.clone(), only: query.only.to_string() });
    }
    for group in groups.values_mut() {
        group.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let counts = read_group(query, group)?;
        let (of_bounds, of_strata) = sums.split_at_mut(bounds);
        of_bounds.iter_mut().zip(&counts).for_each(|(sum, count)| sum.add(*count));
        if let (Some(own), Some((_, series))) = (counts.first(), group.first()) {
            let parts = query.strata.iter().zip(of_strata).filter(|(stratum, _)| stratum.has(series));
            parts.for_each(|(_, sum)| sum.add(*own));
        }
        if let Some(one) = Histogram::of(group) {
            whole.add(&one);
        }
    }
    Ok((sums, whole))
}

/// The buckets of one label set, sorted by bound: the count of the threshold, then those of the further bounds.
fn read_group(query: &LatencyQuery, group: &[(f64, &Series)]) -> Result<Vec<LatencyCount>, QueryError> {
    for pair in group.windows(2) {
        if let [(a, _), (b, twice)] = pair
            && a == b
        {
            let advice = "two collectors write the same histogram; it would be counted twice";
            return Err(twice.fault("each bound once", format!("le=\"{}\" again", twice.label("le")), advice).into());
        }
    }
    let (all, total) = match group.last() {
        Some((bound, series)) if *bound == f64::INFINITY => (*series, whole(series)?),
        Some((_, series)) => {
            let found = format!("le=\"{}\" as the last", series.label("le"));
            return Err(series
                .fault("a bucket le=\"+Inf\"", found, "every histogram has one; is the text whole?")
                .into());
        }
        None => return Ok(Vec::new()),
    };
    let slower_than = |seconds: f64| {
        let Some((_, series)) = group.iter().find(|(bound, _)| same(*bound, seconds)) else { return Ok(None) };
        let fast = whole(series)?;
        match total.checked_sub(fast) {
            Some(slow) => Ok(Some(LatencyCount { total, slow })),
            None => {
                let found = format!("{total}, less than the {fast} of le=\"{}\"", series.label("le"));
                let advice = "buckets are cumulative: each counts all faster requests too";
                Err(QueryError::from(all.fault("le=\"+Inf\" to count all requests", found, advice)))
            }
        }
    };
    let Some(own) = slower_than(query.threshold_seconds)? else { return Err(no_such_bucket(query, group)) };
    let mut counts = vec![own];
    for bound in &query.others_seconds {
        // A label set without this bound says nothing about it.
        counts.push(slower_than(*bound)?.unwrap_or_default());
    }
    Ok(counts)
}

fn no_such_bucket(query: &LatencyQuery, group: &[(f64, &Series)]) -> QueryError {
    let threshold = query.threshold_seconds;
    let finite = || group.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite());
    let hint = match finite().any(|bound| same(bound, threshold * 1000.0)) {
        true => " (they look like milliseconds; Prometheus histograms, and Serin, count in seconds)",
        false => "",
    };
    const SHOWN: usize = 40;
    let mut bounds: Vec<_> = finite().take(SHOWN).map(human).collect();
    match finite().count() {
        0 => bounds.push("+Inf only".to_owned()),
        all if all > SHOWN => bounds.push(format!("and {} more", all - SHOWN)),
        _ => {}
    }
    QueryError::NoSuchBucket {
        threshold: human(threshold),
        histogram: query.histogram.clone(),
        bounds: bounds.join(", "),
        hint,
    }
}

fn labels_but_bound(labels: &HashMap<String, String>) -> Vec<(&str, &str)> {
    // An empty label is no label.
    let others = labels.iter().filter(|(key, value)| *key != "le" && !value.is_empty());
    let mut others: Vec<_> = others.map(|(key, value)| (key.as_str(), value.as_str())).collect();
    others.sort_unstable();
    others
}

fn bound(bucket: &Series) -> Result<f64, QueryError> {
    let text = bucket.label("le");
    match text.parse::<f64>() {
        Ok(bound) if !bound.is_nan() => Ok(bound),
        _ => {
            let found = if text.is_empty() { "none".to_owned() } else { format!("`{text}`") };
            Err(bucket.fault("a bound in the label le", found, "correct what writes this histogram").into())
        }
    }
}

/// Bounds are written by programs that know them as f32, f64 or decimals.
fn same(a: f64, b: f64) -> bool {
    a.is_finite() && (a - b).abs() <= 1e-6 * b.abs()
}

/// A count, exactly. Above 2^53 a float counts in steps, and differences would be invented.
fn whole(series: &Series) -> Result<u64, QueryError> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let value = series.value;
    if (0.0..=EXACT).contains(&value) && value.fract() == 0.0 {
        return Ok(value as u64);
    }
    let found = match value {
        value if value.is_nan() => "NaN".to_owned(),
        value if value < 0.0 => format!("the negative {value}"),
        value if value > EXACT => format!("{value}, beyond what counts exactly"),
        value => format!("the fraction {value}"),
    };
    Err(series.fault("a whole number of requests, 0 or more", found, "name a counter of requests").into())
}

fn wrong_kind(metric: &str, expected: &'static str, found: Kind, advice: &'static str) -> QueryError {
    QueryError::WrongKind { metric: metric.to_owned(), expected, found: found.name(), advice }
}

fn no_metric(readings: &impl Readings, metric: &str) -> Gap {
    let mut candidates = vec![format!("{metric}_total")];
    candidates
        .extend(["_total", "_bucket", "_count"].iter().filter_map(|end| metric.strip_suffix(end)).map(str::to_owned));
    candidates.extend(["_seconds", "_milliseconds"].iter().map(|unit| format!("{metric}{unit}")));
    let known = |name: &String| readings.knows(name) || readings.knows(&format!("{name}_bucket"));
    Gap::NoMetric { metric: metric.to_owned(), like: candidates.into_iter().find(known) }
}

/// Seconds as people write them: `250ms`, `2.5s`.
fn human(seconds: f64) -> String {
    let short = |number: f64| (number * 1e6).round() / 1e6;
    match seconds.abs() < 1.0 {
        true => format!("{}ms", short(seconds * 1000.0)),
        false => format!("{}s", short(seconds)),
    }
}

#[cfg(test)]
mod tests;
