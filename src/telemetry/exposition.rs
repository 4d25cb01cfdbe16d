//! The text that a pod's `/metrics` answers with, checked and then read by `prometheus-parse`.
//!
//! That crate drops or misreads what it does not know (names with `:`, `foo{}`, label values with `,` `=` `}` or
//! escapes, ...) and says nothing, and a line dropped here is a failed request not seen. So every line is lexed strictly
//! first; the lines that somebody asks for go to the crate in a form that it can only read one way, with stand-ins for
//! label values that it would misread, and its answer has to have the shape that the check found.
//!
//! Lines of metrics that nobody asks for may be odd; text that cannot be trusted as a whole (cut, binary, an open quote)
//! fails as a whole.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use super::query::Readings;

/// What is taken from one pod. Beyond it: an error, never a guess from a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one body.
    pub max_bytes: usize,
    /// Sample lines of one body, and names of metrics in it.
    pub max_series: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_bytes: 10 * 1024 * 1024, max_series: 50_000 }
    }
}

/// Labels of one line; more is no metric but an accident.
const MAX_LABELS: usize = 128;

/// Begins a stand-in for a label name or value that `prometheus-parse` would misread.
const STAND_IN: char = '~';

const FORMAT: &str = "see prometheus.io/docs/instrumenting/exposition_formats";

/// Why a text is not read. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpositionError {
    #[error(
        "expected at most {limit} bytes of metrics, found {found} or more; have the pod expose fewer series, or point \
         the scrape at a path that has only the request metrics"
    )]
    TooLarge { found: usize, limit: usize },
    #[error(
        "expected at most {limit} series or names, found more (line {line} is one too many); drop labels with many \
         values, or point the scrape at a path that has only the request metrics"
    )]
    TooManySeries { limit: usize, line: usize },
    #[error(
        "line {line}: expected a newline at the end of the text, found `{excerpt}` and then nothing: the text was cut, \
         or what writes it leaves out the last newline, which the format demands"
    )]
    Cut { line: usize, excerpt: String },
    #[error("line {line}: expected UTF-8 text, found byte 0x{byte:02x}; {advice}")]
    NotText { line: usize, byte: u8, advice: &'static str },
    #[error(
        "line {line}: expected metrics in the Prometheus text format, found `{excerpt}`; is this the port and path of \
         the metrics?"
    )]
    NotMetrics { line: usize, excerpt: String },
    #[error("line {line}: expected {expected}, found {found} in `{excerpt}`; {advice}")]
    Line { line: usize, expected: &'static str, found: String, excerpt: String, advice: &'static str },
    #[error("expected {expected}, found {found} in `{excerpt}`; {advice}")]
    Series { expected: &'static str, found: String, excerpt: String, advice: &'static str },
}

/// What a `# TYPE` line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    /// `untyped` or `unknown`: may be anything.
    Untyped,
    /// A type that this reader has no use for (`info`, `stateset`, `gaugehistogram`, ...).
    Other,
}

impl Kind {
    fn parse(word: &str) -> Kind {
        match word {
            "counter" => Kind::Counter,
            "gauge" => Kind::Gauge,
            "histogram" => Kind::Histogram,
            "summary" => Kind::Summary,
            "untyped" | "unknown" => Kind::Untyped,
            _ => Kind::Other,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
            Kind::Untyped => "untyped",
            Kind::Other => "type that is no counter or histogram",
        }
    }
}

/// One series, read. A label that is not there is the same as an empty one, as in PromQL.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Where it stands in a text; `None`: it comes from elsewhere.
    pub line: Option<usize>,
    pub labels: HashMap<String, String>,
    pub value: f64,
    /// As it stands, shortened, for messages.
    pub excerpt: String,
}

impl Series {
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// An error about this series.
    pub fn fault(&self, expected: &'static str, found: String, advice: &'static str) -> ExpositionError {
        let excerpt = self.excerpt.clone();
        match self.line {
            Some(line) => ExpositionError::Line { line, expected, found, excerpt, advice },
            None => ExpositionError::Series { expected, found, excerpt, advice },
        }
    }
}

#[derive(Debug, Default)]
struct Metric<'a> {
    /// Line number and text of each well-formed sample.
    lines: Vec<(usize, &'a str)>,
    kind: Option<Kind>,
    declared: bool,
    /// A second `# TYPE` that says something else.
    conflict: Option<ExpositionError>,
    /// The first line that is wrong about this metric; it counts once somebody asks for the metric.
    fault: Option<ExpositionError>,
}

/// A text that is whole and in the format, indexed by metric name. Lines are read when asked for.
#[derive(Debug)]
pub struct Exposition<'a> {
    metrics: HashMap<Cow<'a, str>, Metric<'a>>,
    ends_with_eof: bool,
}

/// Checks the whole text: size, encoding, last newline, the grammar of each line.
pub fn parse<'a>(body: &'a [u8], limits: &Limits) -> Result<Exposition<'a>, ExpositionError> {
    if body.len() > limits.max_bytes {
        return Err(ExpositionError::TooLarge { found: body.len(), limit: limits.max_bytes });
    }
    let text = as_text(body)?;
    let mut exposition = Exposition { metrics: HashMap::new(), ends_with_eof: false };
    let mut labels = Vec::new();
    let mut samples = 0;
    let mut first_fault = None;
    for (at, line) in text.split('\n').enumerate() {
        let number = at + 1;
        // CRLF is not in the format, but harmless.
        let line = line.strip_suffix('\r').unwrap_or(line).trim_matches(BLANK);
        if line.is_empty() {
            continue;
        }
        exposition.ends_with_eof = line == "# EOF";
        if line.starts_with('#') {
            exposition.declare(number, line);
            // Names alone take memory, too, and more of it than the text has.
            if exposition.metrics.len() > limits.max_series {
                return Err(ExpositionError::TooManySeries { limit: limits.max_series, line: number });
            }
            continue;
        }
        samples += 1;
        if samples > limits.max_series {
            return Err(ExpositionError::TooManySeries { limit: limits.max_series, line: number });
        }
        match lex(line, &mut labels) {
            Ok(sample) => exposition.metrics.entry(sample.name).or_default().lines.push((number, line)),
            Err(Fault { name: Some(name), problem, poisons: false }) => {
                let fault = problem.at(number, line);
                first_fault.get_or_insert((number, line));
                exposition.metrics.entry(name).or_default().fault.get_or_insert(fault);
            }
            Err(Fault { name: None, .. }) => {
                return Err(ExpositionError::NotMetrics { line: number, excerpt: excerpt(line) });
            }
            Err(Fault { problem, .. }) => return Err(problem.at(number, line)),
        }
    }
    // `OK` or `Not found` has the looks of a metric name; a text without one sound line is no metrics at all.
    if let Some((line, text)) = first_fault
        && exposition.metrics.values().all(|metric| metric.lines.is_empty() && !metric.declared)
    {
        return Err(ExpositionError::NotMetrics { line, excerpt: excerpt(text) });
    }
    Ok(exposition)
}

impl<'a> Exposition<'a> {
    /// Whether the last line is `# EOF`: in OpenMetrics the only sign that nothing is missing.
    pub fn ends_with_eof(&self) -> bool {
        self.ends_with_eof
    }

    fn declare(&mut self, number: usize, line: &'a str) {
        let Some(rest) = line.strip_prefix('#').filter(|rest| rest.starts_with(BLANK)) else {
            return;
        };
        let (keyword, rest) = split_word(rest);
        if keyword != "TYPE" && keyword != "HELP" {
            return;
        }
        let rest = rest.trim_start_matches(BLANK);
        let (name, rest) = if rest.starts_with('"') {
            match quoted(rest) {
                Some((raw, rest)) => (unescape(raw), rest),
                None => return,
            }
        } else {
            let (name, rest) = split_word(rest);
            (Cow::Borrowed(name), rest)
        };
        if name.is_empty() {
            return;
        }
        let metric = self.metrics.entry(name).or_default();
        metric.declared = true;
        if keyword == "TYPE" {
            let kind = Kind::parse(split_word(rest).0);
            match metric.kind {
                Some(first) if first != kind => {
                    let problem = Problem {
                        expected: "one type for a metric",
                        found: format!("a second one, {}, after {}", kind.name(), first.name()),
                        advice: "two libraries write the same metric; rename one",
                    };
                    metric.conflict.get_or_insert(problem.at(number, line));
                }
                _ => metric.kind = Some(kind),
            }
        }
    }
}

impl Readings for Exposition<'_> {
    /// Whether the text knows this name: by a series, sound or not, or by `# TYPE` or `# HELP`.
    fn knows(&self, name: &str) -> bool {
        self.metrics.contains_key(name)
    }

    /// The type that the text declares for this name, wherever the `# TYPE` line stands.
    fn kind(&self, name: &str) -> Result<Option<Kind>, ExpositionError> {
        match self.metrics.get(name) {
            Some(Metric { conflict: Some(conflict), .. }) => Err(conflict.clone()),
            Some(metric) => Ok(metric.kind),
            None => Ok(None),
        }
    }

    /// All series of this exact name (`x_bucket`, not `x`), empty when there are none.
    fn series(&self, name: &str) -> Result<Vec<Series>, ExpositionError> {
        let Some(metric) = self.metrics.get(name) else {
            return Ok(Vec::new());
        };
        match &metric.fault {
            Some(fault) => Err(fault.clone()),
            None => read_lines(&metric.lines),
        }
    }
}

fn as_text(body: &[u8]) -> Result<&str, ExpositionError> {
    let line_of = |at: usize| 1 + body[..at].iter().filter(|&&byte| byte == b'\n').count();
    if body.starts_with(&[0x1f, 0x8b]) {
        let advice = "this is gzip, though nothing compressed was asked for; switch compression off for this path";
        return Err(ExpositionError::NotText { line: 1, byte: 0x1f, advice });
    }
    let advice = "this is not the Prometheus text format; is this the port and path of the metrics?";
    if let Some(at) = body.iter().position(|&byte| byte == 0) {
        return Err(ExpositionError::NotText { line: line_of(at), byte: 0, advice });
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        let at = error.valid_up_to();
        ExpositionError::NotText { line: line_of(at), byte: body.get(at).copied().unwrap_or(0), advice }
    })?;
    // Some tools write a byte order mark; it would become part of the first name.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let last = text.rsplit('\n').next().unwrap_or(text);
    // Without the newline, `1234` may be the beginning of `123456`. `# EOF` needs none.
    if !last.is_empty() && last != "# EOF" {
        return Err(ExpositionError::Cut { line: line_of(body.len()), excerpt: excerpt(last) });
    }
    Ok(text)
}

// --- the strict check of one line ---------------------------------------------------------------------------------

const BLANK: [char; 2] = [' ', '\t'];

struct Sample<'a> {
    name: Cow<'a, str>,
    value: &'a str,
}

type Label<'a> = (Cow<'a, str>, Cow<'a, str>);

#[derive(Debug)]
struct Problem {
    expected: &'static str,
    found: String,
    advice: &'static str,
}

impl Problem {
    fn at(self, line: usize, text: &str) -> ExpositionError {
        let Problem { expected, found, advice } = self;
        ExpositionError::Line { line, expected, found, excerpt: excerpt(text), advice }
    }
}

#[derive(Debug)]
struct Fault<'a> {
    /// Whose line it is, as far as that could be read.
    name: Option<Cow<'a, str>>,
    problem: Problem,
    /// The lines that follow cannot be trusted either.
    poisons: bool,
}

/// One trimmed line: `name{label="value",...} number [timestamp] [# exemplar]`, or `{"name",label="value",...} ...`.
fn lex<'a>(line: &'a str, labels: &mut Vec<Label<'a>>) -> Result<Sample<'a>, Fault<'a>> {
    labels.clear();
    let end = line.find(|c: char| !is_name_char(c)).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let mut name = match name.starts_with(|c: char| c.is_ascii_digit()) {
        false if !name.is_empty() => Some(Cow::Borrowed(name)),
        _ => None,
    };
    if name.is_none() && !line.starts_with('{') {
        return Err(Fault { name, problem: expected("a metric name", line, FORMAT), poisons: false });
    }
    let labelled = rest.trim_start_matches(BLANK).strip_prefix('{');
    let rest = match labelled {
        Some(inside) => match lex_labels(inside, &mut name, labels) {
            Ok(rest) => rest,
            Err((problem, poisons)) => {
                return Err(Fault { name, problem, poisons });
            }
        },
        None => rest,
    };
    let fail = |name, problem| Err(Fault { name, problem, poisons: false });
    let Some(metric) = name.clone() else {
        return fail(name, expected("a quoted metric name between the braces", line, FORMAT));
    };
    if labelled.is_none() && !rest.starts_with(BLANK) {
        return fail(name, expected("a blank or `{` after the metric name", rest, FORMAT));
    }
    let (value, rest) = split_word(rest);
    if !is_number(value) {
        return fail(name, expected("a number", value, "correct what writes this value"));
    }
    let rest = rest.trim_start_matches(BLANK);
    if !rest.is_empty() && !rest.starts_with('#') {
        let (timestamp, rest) = split_word(rest);
        let rest = rest.trim_start_matches(BLANK);
        if !is_number(timestamp) || !(rest.is_empty() || rest.starts_with('#')) {
            let found = if is_number(timestamp) { rest } else { timestamp };
            return fail(name, expected("nothing but a timestamp after the number", found, FORMAT));
        }
    }
    Ok(Sample { name: metric, value })
}

/// What stands behind `{`, up to and with `}`; the rest of the line comes back. The flag: an open quote, so the next
/// lines may be the rest of a label value and look like anything.
fn lex_labels<'a>(
    inside: &'a str,
    name: &mut Option<Cow<'a, str>>,
    labels: &mut Vec<Label<'a>>,
) -> Result<&'a str, (Problem, bool)> {
    let open = |rest: &str| {
        let advice = "a newline or quote inside a label value has to be written \\n or \\\"";
        (expected("a closing quote", rest, advice), true)
    };
    let mut rest = inside.trim_start_matches(BLANK);
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok(rest);
        }
        let key = if rest.starts_with('"') {
            let (raw, after) = quoted(rest).ok_or_else(|| open(rest))?;
            rest = after;
            unescape(raw)
        } else {
            let end = rest.find(|c: char| !is_name_char(c) || c == ':').unwrap_or(rest.len());
            let (key, after) = rest.split_at(end);
            if key.is_empty() || key.starts_with(|c: char| c.is_ascii_digit()) {
                return Err((expected("a label name or `}`", rest, FORMAT), false));
            }
            rest = after;
            Cow::Borrowed(key)
        };
        rest = rest.trim_start_matches(BLANK);
        if let Some(after) = rest.strip_prefix('=') {
            let after = after.trim_start_matches(BLANK);
            if !after.starts_with('"') {
                return Err((expected("a label value in double quotes", after, FORMAT), false));
            }
            let (raw, after) = quoted(after).ok_or_else(|| open(after))?;
            if labels.iter().any(|(known, _)| *known == key) {
                return Err((expected("each label once", &key, "a label set is ambiguous otherwise"), false));
            }
            if labels.len() == MAX_LABELS {
                return Err((expected("at most 128 labels", &key, "drop labels from this metric"), false));
            }
            labels.push((key, unescape(raw)));
            rest = after;
        } else if name.is_none() && labels.is_empty() && inside.trim_start_matches(BLANK).starts_with('"') {
            *name = Some(key);
        } else {
            return Err((expected("`=` after a label name", rest, FORMAT), false));
        }
        rest = rest.trim_start_matches(BLANK);
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start_matches(BLANK),
            None if rest.starts_with('}') => {}
            None => return Err((expected("`,` or `}` after a label", rest, FORMAT), false)),
        }
    }
}

fn expected(expected: &'static str, found: &str, advice: &'static str) -> Problem {
    let found = if found.is_empty() { "the end of the line".to_owned() } else { format!("`{}`", excerpt(found)) };
    Problem { expected, found, advice }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Skips blanks, then takes what stands before the next blank.
fn split_word(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches(BLANK);
    text.split_at(text.find(BLANK).unwrap_or(text.len()))
}

/// A quoted string at the start of `text`: what is between the quotes, still escaped, and what follows.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix('"')?;
    let mut escaped = false;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some((&inside[..at], &inside[at + 1..])),
            _ => {}
        }
    }
    None
}

/// `\\`, `\"` and `\n`; another character keeps its backslash, as Prometheus and OpenMetrics have it.
fn unescape(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return Cow::Borrowed(raw);
    }
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => text.push('\n'),
            ('\\', Some(next @ ('\\' | '"'))) => text.push(next),
            ('\\', Some(next)) => text.extend(['\\', next]),
            (c, _) => text.push(c),
        }
    }
    Cow::Owned(text)
}

/// Go's decimal floats, which the format is defined by. Hexadecimal and `1_000` are refused, as in Prometheus.
fn is_number(word: &str) -> bool {
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    if ["inf", "infinity", "nan"].iter().any(|special| unsigned.eq_ignore_ascii_case(special)) {
        return true;
    }
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent))
}

/// The line in a message: short, on one line, no control characters.
pub(super) fn excerpt(text: &str) -> String {
    const CHARS: usize = 100;
    let mut short = String::new();
    for c in text.chars().take(CHARS) {
        match c {
            '\n' => short.push_str("\\n"),
            c if c.is_control() => short.push('\u{fffd}'),
            c => short.push(c),
        }
    }
    if text.chars().nth(CHARS).is_some() {
        short.push_str("...");
    }
    short
}

// --- reading, by prometheus-parse ---------------------------------------------------------------------------------

/// Hands checked lines to the crate. No `# TYPE` goes along, so each line comes back as one sample, in order, and its
/// grouping of buckets (which loses those it saw before the type) is not used.
fn read_lines(lines: &[(usize, &str)]) -> Result<Vec<Series>, ExpositionError> {
    let mut stand_ins = Vec::new();
    let mut labels = Vec::new();
    let mut rewritten = Vec::with_capacity(lines.len());
    for &(number, line) in lines {
        let sample = lex(line, &mut labels).map_err(|fault| fault.problem.at(number, line))?;
        rewritten.push((rewrite(&sample, &labels, &mut stand_ins), labels.len()));
    }
    let scrape = prometheus_parse::Scrape::parse(rewritten.iter().map(|(line, _)| Ok(line.clone())));
    let samples = scrape.map(|scrape| scrape.samples).unwrap_or_default();

    let mut seen = HashSet::with_capacity(lines.len());
    let mut all = Vec::with_capacity(lines.len());
    let mut samples = samples.into_iter();
    for (&(number, line), (_, wanted)) in lines.iter().zip(&rewritten) {
        let series = samples.next().and_then(|sample| restore(number, line, &sample, &stand_ins));
        let Some(series) = series.filter(|series| series.labels.len() == *wanted) else {
            let advice = "the check and the reader differ on this line; please report it to Serin";
            return Err(expected("a line that is read as it was checked", line, advice).at(number, line));
        };
        let mut key: Vec<_> = series.labels.iter().filter(|(_, value)| !value.is_empty()).collect();
        key.sort_unstable();
        if !seen.insert(format!("{key:?}")) {
            let advice = "two collectors write the same series; it would be counted twice";
            return Err(expected("each series once", "it again", advice).at(number, line));
        }
        all.push(series);
    }
    Ok(all)
}

/// The line as the crate reads it right: one blank before the number, no timestamp, no exemplar, no empty braces, and
/// a stand-in for each text that it would cut, drop or leave escaped.
fn rewrite(sample: &Sample<'_>, labels: &[Label<'_>], stand_ins: &mut Vec<String>) -> String {
    let mut plain = |text: &str, is_plain: bool| match is_plain {
        true => text.to_owned(),
        false => {
            stand_ins.push(text.to_owned());
            format!("{STAND_IN}{}", stand_ins.len() - 1)
        }
    };
    // The name needs no way back: all lines of one call have the same.
    let mut line = if is_word(&sample.name) { sample.name.clone().into_owned() } else { "_".to_owned() };
    for (at, (key, value)) in labels.iter().enumerate() {
        let key = plain(key, is_word(key));
        let value = plain(value, is_plain_value(value));
        let _ = write!(line, "{}{key}=\"{value}\"", if at == 0 { '{' } else { ',' });
    }
    let _ = write!(line, "{} {}", if labels.is_empty() { "" } else { "}" }, sample.value);
    line
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_plain_value(text: &str) -> bool {
    !text.starts_with(STAND_IN)
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=' | b'}' | b'"' | b'\\'))
}

fn restore(line: usize, text: &str, sample: &prometheus_parse::Sample, stand_ins: &[String]) -> Option<Series> {
    let prometheus_parse::Value::Untyped(value) = sample.value else {
        return None;
    };
    let full = |text: &String| match text.strip_prefix(STAND_IN) {
        Some(index) => stand_ins.get(index.parse::<usize>().ok()?).cloned(),
        None => Some(text.clone()),
    };
    let mut labels = HashMap::with_capacity(sample.labels.len());
    for (key, value) in sample.labels.iter() {
        labels.insert(full(key)?, full(value)?);
    }
    Some(Series { line: Some(line), labels, value, excerpt: excerpt(text) })
}

#[cfg(test)]
mod tests;
