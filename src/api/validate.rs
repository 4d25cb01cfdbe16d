//! What a policy says, parsed once into types that can't be wrong. The API server has checked most of it already by the
//! CRD's rules; this checks it again for clusters whose CRD is older, and what CEL can't say.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    access::Access,
    gates::{GatePoint, GateSpec, HttpGate, JobGate},
    http::{HttpSource, is_by_version},
    prometheus::PrometheusSource,
    queries::QuerySpec,
    rollout::{Otherwise, RolloutSpec, Scrape, SloSpec, Strata, Telemetry},
    router::RouterSource,
    steps::{BlueGreen, Mirror, Pods, RequestMatch, StepSpec},
    values::{Millis, Pattern, Percent},
    window::ValidWindow,
};

/// A policy that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// False alarms allowed per run, a ratio.
    pub alpha: f64,
    /// In order, not empty.
    pub slos: Vec<ValidSlo>,
    /// In order, not empty; weights don't go down.
    pub steps: Vec<Step>,
    /// In the order they are asked in.
    pub gates: Vec<ValidGate>,
    /// Where counts come from.
    pub source: Source,
    /// The spec it came from: names, limits, telemetry.
    pub spec: RolloutSpec,
}

/// Where counts come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The pods themselves.
    Pods(Scrape),
    /// Prometheus.
    Prometheus(Box<PrometheusSource>),
    /// JSON over HTTP.
    Http(Box<HttpSource>),
    /// The gateway.
    Router(RouterSource),
}

impl Source {
    /// Time between two readings.
    pub fn interval(&self) -> Millis {
        match self {
            Self::Pods(scrape) => scrape.interval,
            Self::Prometheus(prometheus) => prometheus.interval,
            Self::Http(http) => http.interval,
            Self::Router(router) => router.interval,
        }
    }

    /// The policy's own queries; Prometheus alone has them.
    pub fn queries(&self) -> &[QuerySpec] {
        match self {
            Self::Prometheus(prometheus) => &prometheus.queries,
            Self::Pods(_) | Self::Http(_) | Self::Router(_) => &[],
        }
    }
}

/// A gate.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidGate {
    /// Its name.
    pub name: String,
    /// When it is asked.
    pub at: GatePoint,
    /// With [`GatePoint::Step`], which, counted from 1.
    pub step: Option<u32>,
    /// Who is asked.
    pub asks: Asks,
    /// What a no does.
    pub otherwise: Otherwise,
}

/// Who says yes or no.
#[derive(Clone, Debug, PartialEq)]
pub enum Asks {
    /// A Job.
    Job(JobGate),
    /// An HTTP service.
    Http(HttpGate),
    /// The clock.
    Window(ValidWindow),
}

/// One SLO, in ratios.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidSlo {
    /// Its name.
    pub name: String,
    /// What makes a request bad.
    pub kind: SloKind,
    /// Allowed share of bad requests.
    pub bad_allowed: f64,
    /// Factor on stable's bad share.
    pub relative: f64,
    /// Added to it.
    pub absolute: f64,
    /// Counts these requests only, by label.
    pub only: BTreeMap<String, Pattern>,
    /// Further bounds of the histogram are watched, besides.
    pub tail: bool,
    /// Values of a label that are watched on their own, besides.
    pub by: Option<Strata>,
}

impl ValidSlo {
    /// The same requests are bad by both, of the same.
    pub fn counts_as(&self, other: &Self) -> bool {
        self.kind == other.kind && self.only == other.only
    }

    /// How many parts of its requests are watched on their own.
    pub fn strata(&self) -> usize {
        self.by.as_ref().map_or(0, |by| by.values.len())
    }
}

/// What makes a request bad.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SloKind {
    /// It failed.
    Errors,
    /// It took longer than this.
    Latency {
        /// Bucket bound.
        threshold: Millis,
    },
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Let the canary have some requests for at least this long.
    Bake {
        /// Which.
        lets: Lets,
        /// At least.
        bake: Millis,
        /// Canary pods; `None`: as many as the weight needs, two at least.
        pods: Option<Pods>,
    },
    /// Ask a person.
    Approval,
}

/// Which requests a step lets the canary have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lets {
    /// This percent, 1 to 100.
    Weight(u32),
    /// Those that meet one of these; an empty list ends an earlier one.
    Match(Vec<RequestMatch>),
    /// Copies.
    Mirror(Mirror),
    /// None of the callers': those of its own Service.
    Preview(BlueGreen),
}

/// A policy that can't be run, with the field, what it should be and what it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("spec.{field}: expected {expected}, found {found}")]
pub struct Invalid {
    /// Path below spec.
    pub field: String,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub found: String,
}

fn invalid(field: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Invalid {
    Invalid { field: field.into(), expected: expected.into(), found: found.to_string() }
}

/// Checks a policy.
///
/// # Errors
/// The first field that is wrong.
pub fn validate(spec: &RolloutSpec) -> Result<Policy, Invalid> {
    if spec.workload_ref.kind != "Deployment" {
        return Err(invalid("workloadRef.kind", "Deployment", &spec.workload_ref.kind));
    }
    if let Some(route) = spec.routes.iter().find(|route| !matches!(route.kind.as_str(), "HTTPRoute" | "GRPCRoute")) {
        return Err(invalid("routes[].kind", "HTTPRoute or GRPCRoute", &route.kind));
    }
    if !(50.0..100.0).contains(&spec.confidence.0) {
        return Err(invalid("confidence", "at least 50% and below 100%", spec.confidence));
    }
    if let Some(budget) = &spec.limits.error_budget {
        if !(budget.share.0 > 0.0 && budget.share.0 <= 100.0) {
            return Err(invalid("limits.errorBudget.share", "above 0% and at most 100%", budget.share));
        }
        if budget.window < Millis::seconds(3600) {
            return Err(invalid("limits.errorBudget.window", "at least 1h", budget.window));
        }
    }
    let steps = steps(spec)?;
    Ok(Policy {
        alpha: 1.0 - spec.confidence.ratio(),
        slos: slos(spec)?,
        gates: gates(spec, steps.len())?,
        source: source(&spec.telemetry)?,
        steps,
        spec: spec.clone(),
    })
}

fn source(telemetry: &Telemetry) -> Result<Source, Invalid> {
    let one = "exactly one of scrape, prometheus, http and router";
    match (&telemetry.scrape, &telemetry.prometheus, &telemetry.http, &telemetry.router) {
        (Some(scrape), None, None, None) => Ok(Source::Pods(scrape.clone())),
        (None, Some(prometheus), None, None) => prometheus_source(prometheus),
        (None, None, Some(http), None) => http_source(http),
        (None, None, None, Some(router)) => match router.interval {
            Millis(1000..=60_000) => Ok(Source::Router(router.clone())),
            other => Err(invalid("telemetry.router.interval", "between 1s and 1m", other)),
        },
        (None, None, None, None) => Err(invalid("telemetry", one, "none")),
        _ => Err(invalid("telemetry", one, "more than one")),
    }
}

fn http_source(http: &HttpSource) -> Result<Source, Invalid> {
    let field = |name: &str| format!("telemetry.http.{name}");
    let url = &http.url;
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    if rest.is_empty() || rest.starts_with(['/', '?']) || rest.contains(['@', '#']) {
        return Err(invalid(field("url"), "http:// or https:// and a host, without user and fragment", url));
    }
    if !(1000..=60_000).contains(&http.interval.0) {
        return Err(invalid(field("interval"), "between 1s and 1m", http.interval));
    }
    let places = [("requests", Some(&http.requests)), ("errors", http.errors.as_ref()), ("slow", http.slow.as_ref())];
    for (name, place) in places {
        if let Some(place) = place.filter(|place| !is_by_version(place)) {
            return Err(invalid(field(name), "a JSON pointer with {arm} or {hash} in it", place));
        }
    }
    if let Some(place) = http.time.as_ref().filter(|place| !place.starts_with('/')) {
        return Err(invalid(field("time"), "a JSON pointer, such as /time", place));
    }
    access(&http.access, field, "url", url)?;
    Ok(Source::Http(Box::new(http.clone())))
}

fn query(query: &QuerySpec) -> Result<(), Invalid> {
    let field = |name: &str| format!("telemetry.prometheus.queries[{}].{name}", query.name);
    if !query.is_by_version() {
        return Err(invalid(field("query"), "{hash}, {pods} or {service} in it", &query.query));
    }
    if !(0.0..1.0).contains(&query.most.ratio()) {
        return Err(invalid(field("most"), "less than 100%", query.most));
    }
    if !(5_000..=600_000).contains(&query.window.0) {
        return Err(invalid(field("window"), "between 5s and 10m", query.window));
    }
    if !(1..=10).contains(&query.windows) {
        return Err(invalid(field("windows"), "1 to 10", query.windows));
    }
    Ok(())
}

/// `name`: the field that has the address.
fn access(access: &Access, field: impl Fn(&str) -> String, name: &str, address: &str) -> Result<(), Invalid> {
    if access.bearer_token.is_some() && access.basic_auth.is_some() {
        return Err(invalid(field("bearerToken"), "bearerToken or basicAuth", "both"));
    }
    if !access.is_open() && !address.starts_with("https://") {
        return Err(invalid(field(name), "https://, for tls, bearerToken and basicAuth", address));
    }
    Ok(())
}

fn prometheus_source(prometheus: &PrometheusSource) -> Result<Source, Invalid> {
    let field = |name: &str| format!("telemetry.prometheus.{name}");
    let address = &prometheus.address;
    let rest = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://")).unwrap_or_default();
    if rest.is_empty() || rest.starts_with('/') || rest.contains(['@', '?', '#']) {
        let expected = "http:// or https:// and a host, without user, query and fragment";
        return Err(invalid(field("address"), expected, address));
    }
    if !(1000..=60_000).contains(&prometheus.interval.0) {
        return Err(invalid(field("interval"), "between 1s and 1m", prometheus.interval));
    }
    for (name, label) in [("namespaceLabel", &prometheus.namespace_label), ("podLabel", &prometheus.pod_label)] {
        if !is_label(label) {
            return Err(invalid(field(name), "the name of a label", label));
        }
    }
    access(&prometheus.access, field, "address", address)?;
    prometheus.queries.iter().try_for_each(query)?;
    let mut names = BTreeSet::new();
    if let Some(twice) = prometheus.queries.iter().find(|query| !names.insert(&query.name)) {
        return Err(invalid(field("queries"), "names that differ", format!("two called {}", twice.name)));
    }
    Ok(Source::Prometheus(Box::new(prometheus.clone())))
}

fn gates(spec: &RolloutSpec, steps: usize) -> Result<Vec<ValidGate>, Invalid> {
    let mut names = BTreeSet::new();
    if let Some(twice) = spec.gates.iter().find(|gate| !names.insert(&gate.name)) {
        return Err(invalid("gates", "names that differ", format!("two called {}", twice.name)));
    }
    spec.gates.iter().map(|gate| one_gate(gate, steps)).collect()
}

fn one_gate(gate: &GateSpec, steps: usize) -> Result<ValidGate, Invalid> {
    let field = |name: &str| format!("gates[{}].{name}", gate.name);
    let step = match (gate.at, gate.step) {
        (GatePoint::Step, Some(step)) if (1..=steps).contains(&usize::try_from(step).unwrap_or(0)) => Some(step),
        (GatePoint::Step, found) => {
            let found = found.map_or("none".to_owned(), |step| step.to_string());
            return Err(invalid(field("step"), format!("a step from 1 to {steps}"), found));
        }
        (_, None) => None,
        (_, Some(step)) => return Err(invalid(field("step"), "nothing, but with at: Step", step)),
    };
    let asks = match (&gate.job, &gate.http, &gate.window) {
        (Some(job), None, None) => Asks::Job(job.clone()),
        (None, Some(http), None) => Asks::Http(http.clone()),
        (None, None, Some(window)) => Asks::Window(
            ValidWindow::new(window)
                .map_err(|(name, expected, found)| invalid(field(&format!("window.{name}")), expected, found))?,
        ),
        _ => return Err(invalid(field("job"), "exactly one of job, http and window", "another mix")),
    };
    let otherwise = match asks {
        Asks::Window(_) => Otherwise::Hold,
        _ => gate.on_failure.unwrap_or(Otherwise::Rollback),
    };
    Ok(ValidGate { name: gate.name.clone(), at: gate.at, step, asks, otherwise })
}

fn slos(spec: &RolloutSpec) -> Result<Vec<ValidSlo>, Invalid> {
    if spec.slos.is_empty() {
        return Err(invalid("slos", "at least one SLO", "none"));
    }
    let mut names = BTreeSet::new();
    for slo in &spec.slos {
        if !names.insert(&slo.name) {
            return Err(invalid("slos", "names that differ", format!("two called {}", slo.name)));
        }
    }
    spec.slos.iter().map(|slo| one_slo(spec, slo)).collect()
}

fn one_slo(spec: &RolloutSpec, slo: &SloSpec) -> Result<ValidSlo, Invalid> {
    let field = |name: &str| format!("slos[{}].{name}", slo.name);
    let (kind, objective, tolerance) = match (&slo.errors, &slo.latency) {
        (Some(errors), None) => (SloKind::Errors, errors.objective, &errors.tolerance),
        (None, Some(latency)) => {
            (SloKind::Latency { threshold: latency.threshold }, latency.objective, &latency.tolerance)
        }
        _ => return Err(invalid(field("errors"), "exactly one of errors and latency", "both or none")),
    };
    if let Some(http) = &spec.telemetry.http {
        from_http(spec, slo, http, &field)?;
    }
    if spec.telemetry.router.is_some() {
        from_router(spec, slo, &field)?;
    }
    let by_metrics = spec.telemetry.http.is_none() && spec.telemetry.router.is_none();
    match kind {
        SloKind::Errors if by_metrics && spec.telemetry.requests.is_none() => {
            return Err(invalid("telemetry.requests", "the counter of requests, for the SLO on errors", "nothing"));
        }
        SloKind::Latency { threshold } if threshold.0 == 0 => {
            return Err(invalid(field("latency.threshold"), "longer than 0", threshold));
        }
        SloKind::Latency { .. } if by_metrics && spec.telemetry.latency.is_none() => {
            return Err(invalid("telemetry.latency", "the histogram of durations, for the SLO on latency", "nothing"));
        }
        _ => {}
    }
    if !(50.0..100.0).contains(&objective.0) {
        return Err(invalid(field("objective"), "at least 50% and below 100%", objective));
    }
    if !(1.0..=10.0).contains(&tolerance.relative) {
        return Err(invalid(field("tolerance.relative"), "a factor from 1 to 10", tolerance.relative));
    }
    let Percent(absolute) = tolerance.absolute;
    if !(0.0..50.0).contains(&absolute) {
        return Err(invalid(field("tolerance.absolute"), "from 0% to below 50%", tolerance.absolute));
    }
    if let Some(by) = &slo.by {
        strata(spec, by, |name| field(&format!("by.{name}")))?;
    }
    if let Some(label) = slo.latency.iter().flat_map(|latency| latency.only.keys()).find(|label| !tells(spec, label)) {
        return Err(invalid(field("latency.only"), "labels that tell requests apart, such as route", label));
    }
    Ok(ValidSlo {
        name: slo.name.clone(),
        kind,
        bad_allowed: 1.0 - objective.ratio(),
        relative: tolerance.relative,
        absolute: tolerance.absolute.ratio(),
        only: slo.latency.as_ref().map(|latency| latency.only.clone()).unwrap_or_default(),
        tail: by_metrics && slo.latency.as_ref().is_some_and(|latency| latency.tail),
        by: slo.by.clone(),
    })
}

/// Its numbers are among those that are asked for.
fn from_http(
    spec: &RolloutSpec,
    slo: &SloSpec,
    http: &HttpSource,
    field: &impl Fn(&str) -> String,
) -> Result<(), Invalid> {
    by_label(slo, "http", field)?;
    if slo.errors.is_some() && http.errors.is_none() {
        return Err(invalid(
            "telemetry.http.errors",
            "where failed requests are counted, for the SLO on errors",
            "nothing",
        ));
    }
    if slo.latency.is_some() && http.slow.is_none() {
        return Err(invalid(
            "telemetry.http.slow",
            "where slow requests are counted, for the SLO on latency",
            "nothing",
        ));
    }
    one_on_latency(spec, "http")
}

fn by_label(slo: &SloSpec, source: &str, field: &impl Fn(&str) -> String) -> Result<(), Invalid> {
    let nothing = || format!("nothing: with telemetry.{source} no numbers are read by label");
    if slo.by.is_some() {
        return Err(invalid(field("by"), nothing(), "by"));
    }
    match slo.latency.as_ref().is_some_and(|latency| !latency.only.is_empty()) {
        true => Err(invalid(field("latency.only"), nothing(), "only")),
        false => Ok(()),
    }
}

fn one_on_latency(spec: &RolloutSpec, source: &str) -> Result<(), Invalid> {
    match spec.slos.iter().filter(|slo| slo.latency.is_some()).count() {
        0 | 1 => Ok(()),
        more => Err(invalid("slos", format!("with telemetry.{source} one SLO on latency at most"), more)),
    }
}

/// A router counts what HTTPRoutes send, by status and time.
fn from_router(spec: &RolloutSpec, slo: &SloSpec, field: &impl Fn(&str) -> String) -> Result<(), Invalid> {
    by_label(slo, "router", field)?;
    if spec.routes.is_empty() || spec.routes.iter().any(|route| route.kind != "HTTPRoute") {
        let found = spec.routes.iter().map(|route| route.kind.as_str()).collect::<Vec<_>>().join(", ");
        return Err(invalid("routes", "HTTPRoutes, with telemetry.router", format!("[{found}]")));
    }
    one_on_latency(spec, "router")
}

fn strata(spec: &RolloutSpec, by: &Strata, field: impl Fn(&str) -> String) -> Result<(), Invalid> {
    if !tells(spec, &by.label) {
        return Err(invalid(field("label"), "a label that tells requests apart, such as route", &by.label));
    }
    if !(1..=16).contains(&by.values.len()) {
        return Err(invalid(field("values"), "1 to 16 values", by.values.len()));
    }
    let mut seen = BTreeSet::new();
    match by.values.iter().find(|value| value.is_empty() || !seen.insert(*value)) {
        Some(wrong) => Err(invalid(field("values"), "values that differ and are not empty", format!("\"{wrong}\""))),
        None => Ok(()),
    }
}

/// The label may tell requests apart.
fn tells(spec: &RolloutSpec, label: &str) -> bool {
    // These tell pods apart there, not requests.
    let prometheus = spec.telemetry.prometheus.iter();
    let of_pods = prometheus.flat_map(|source| [&source.namespace_label, &source.pod_label]).any(|is| is == label);
    label != "le" && !of_pods && is_label(label)
}

fn is_label(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && !name.starts_with("__")
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn steps(spec: &RolloutSpec) -> Result<Vec<Step>, Invalid> {
    let routed = !spec.routes.is_empty();
    let most = if routed { 100 } else { 50 };
    let mut last = 0;
    let mut steps = Vec::new();
    for (index, step) in spec.steps.iter().enumerate() {
        let field = format!("steps[{index}]");
        let step = one_step(&field, step)?;
        match &step {
            Step::Bake { lets: Lets::Weight(weight), .. } => {
                if !(1..=most).contains(weight) {
                    return Err(invalid(field + ".weight", format!("from 1 to {most}"), weight));
                }
                if *weight < last {
                    return Err(invalid(field + ".weight", format!("at least {last}, the weight before"), weight));
                }
                last = *weight;
            }
            Step::Bake { .. } if !routed => {
                return Err(invalid("routes", format!("a route, for {field}"), "none"));
            }
            Step::Bake { lets: Lets::Mirror(_), .. } if steps.iter().any(is_seen_by_callers) => {
                return Err(invalid(field + ".mirror", "to come before any weight and match", "one before it"));
            }
            _ => {}
        }
        steps.push(step);
    }
    let previews = steps.iter().filter(|step| matches!(step, Step::Bake { lets: Lets::Preview(_), .. })).count();
    let others = steps.iter().filter(|step| !matches!(step, Step::Approval)).count() - previews;
    match (previews, others) {
        (0, 0) => Err(invalid("steps", "at least one step with a weight (or match, mirror, blueGreen)", "none")),
        (0, _) | (1, 0) => Ok(steps),
        _ => Err(invalid("steps", "one blueGreen with nothing but approvals beside it", "other steps")),
    }
}

/// RFC 1123 in lower case, as the Gateway API has host names.
fn is_host_name(text: &str) -> bool {
    let of_label = |letter: char| matches!(letter, 'a'..='z' | '0'..='9' | '-');
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.chars().all(of_label)
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// Callers get answers of the canary in this step.
fn is_seen_by_callers(step: &Step) -> bool {
    matches!(step, Step::Bake { lets: Lets::Weight(_) | Lets::Match(_), .. })
}

fn one_step(field: &str, step: &StepSpec) -> Result<Step, Invalid> {
    let host = step.blue_green.as_ref().and_then(|preview| preview.preview_host.as_deref());
    if let Some(host) = host.filter(|host| !is_host_name(host)) {
        let field = format!("{field}.blueGreen.previewHost");
        return Err(invalid(field, "a host name in lower case, such as preview.example.com", host));
    }
    let lets = [
        step.weight.map(Lets::Weight),
        step.matches.clone().map(Lets::Match),
        step.mirror.clone().map(Lets::Mirror),
        step.blue_green.clone().map(Lets::Preview),
    ];
    let mut lets = lets.into_iter().flatten();
    match (lets.next(), lets.next(), &step.approval) {
        (Some(lets), None, None) => Ok(Step::Bake { lets, bake: step.bake.unwrap_or_default(), pods: step.pods }),
        (None, None, Some(_)) if step.bake.is_none() && step.pods.is_none() => Ok(Step::Approval),
        _ => Err(invalid(
            field,
            "exactly one of weight, match, mirror, blueGreen (with bake) and approval",
            "another mix",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(change: impl FnOnce(&mut Value)) -> RolloutSpec {
        let mut value = json!({
            "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
            "routes": [{"kind": "HTTPRoute", "name": "auth"}],
            "telemetry": {
                "scrape": {"port": "http"},
                "requests": {"counter": "http_requests_total", "errors": {"code": "5.."}},
                "latency": {"histogram": "http_request_duration_seconds"}},
            "slos": [{"name": "errors", "errors": {"objective": "99%"}},
                     {"name": "latency", "latency": {"threshold": "250ms", "objective": "99%"}}],
            "steps": [{"weight": 5, "bake": "1m"}, {"approval": {}}, {"weight": 50}]
        });
        change(&mut value);
        serde_json::from_value(value).expect("a spec")
    }

    fn from_http(value: &mut Value, field: &str, with: Value) {
        let mut http = json!({"url": "http://counts.shop.svc/v1?a=b", "requests": "/{arm}/r", "errors": "/{arm}/e", "slow": "/{hash}"});
        http[field] = with;
        value["telemetry"] = json!({"http": http});
    }

    #[test]
    fn json_over_http_needs_no_metrics_names() {
        let policy = validate(&spec(|value| from_http(value, "time", json!("/time")))).expect("valid");
        assert_eq!(policy.source.interval(), Millis::seconds(5));
    }

    fn from_prometheus(value: &mut Value, field: &str, with: Value) {
        value["telemetry"].as_object_mut().expect("object").remove("scrape");
        value["telemetry"]["prometheus"] = json!({"address": "http://prometheus.shop.svc:9090"});
        value["telemetry"]["prometheus"][field] = with;
    }

    #[test]
    fn prometheus_is_asked_each_five_seconds_by_the_usual_labels() {
        let asked = validate(&spec(|v| from_prometheus(v, "interval", json!("5s")))).expect("valid");
        let short =
            validate(&spec(|v| from_prometheus(v, "address", json!("https://a/select/0/prometheus")))).expect("valid");
        for policy in [asked, short] {
            let Source::Prometheus(source) = policy.source else { panic!("{:?}", policy.source) };
            assert_eq!((source.interval, source.pod_label.as_str()), (Millis::seconds(5), "pod"));
            assert_eq!(source.namespace_label, "namespace");
        }
    }

    #[test]
    fn the_example_policy_is_valid_and_has_its_defaults() {
        let policy = validate(&spec(|_| {})).expect("valid");
        assert!((policy.alpha - 0.01).abs() < 1e-12);
        assert_eq!(policy.steps[1], Step::Approval);
        assert_eq!(policy.spec.limits.ready_within, Millis::seconds(600));
    }

    #[test]
    fn each_wrong_field_is_named_with_what_it_should_be() {
        type Change = fn(&mut Value);
        let cases: [(&str, Change); 33] = [
            ("spec.telemetry: expected exactly one of scrape, prometheus, http and router, found none", |v| {
                v["telemetry"].as_object_mut().expect("object").remove("scrape");
            }),
            ("spec.telemetry: expected exactly one of scrape, prometheus, http and router, found more than one", |v| {
                v["telemetry"]["prometheus"] = json!({"address": "http://prometheus"});
            }),
            ("prometheus.address: expected http:// or https://", |v| from_prometheus(v, "address", json!("ftp://a"))),
            ("prometheus.interval: expected between 1s and 1m", |v| from_prometheus(v, "interval", json!("500ms"))),
            ("prometheus.podLabel: expected the name of a label", |v| {
                from_prometheus(v, "podLabel", json!("pod-name"))
            }),
            ("prometheus.address: expected https://, for tls", |v| {
                from_prometheus(v, "bearerToken", json!({"name": "a", "key": "b"}));
            }),
            ("at most 100%", |v| v["limits"] = json!({"errorBudget": {"share": "101%"}})),
            ("at least 1h", |v| v["limits"] = json!({"errorBudget": {"share": "5%", "window": "1m"}})),
            ("weight before", |v| v["steps"] = json!([{"weight": 25}, {"weight": 5}])),
            ("from 1 to 100", |v| v["steps"] = json!([{"weight": 101}])),
            ("at least one step", |v| v["steps"] = json!([])),
            ("names that differ", |v| v["slos"][1]["name"] = json!("errors")),
            ("below 100%", |v| v["confidence"] = json!("100%")),
            ("below 100%", |v| v["slos"][0]["errors"]["objective"] = json!("100%")),
            ("from 1 to 50", |v| {
                v["routes"] = json!([]);
                v["steps"] = json!([{"weight": 60}])
            }),
            ("a host name in lower case", |v| {
                v["steps"] = json!([{"blueGreen": {"previewHost": "Preview.example.com"}}])
            }),
            ("a host name in lower case", |v| v["steps"] = json!([{"blueGreen": {"previewHost": "*.example.com"}}])),
            ("a route, for steps[0]", |v| {
                v["routes"] = json!([]);
                v["steps"] = json!([{"blueGreen": {"previewHost": "preview.example.com"}}])
            }),
            ("slos[errors].by.label: expected a label that tells requests apart", |v| {
                from_prometheus(v, "interval", json!("5s"));
                v["slos"][0]["by"] = json!({"label": "pod", "values": ["a"]});
            }),
            ("slos[latency].by.label: expected a label", |v| {
                v["slos"][1]["by"] = json!({"label": "le", "values": ["0.1"]});
            }),
            ("slos[latency].latency.only: expected labels that tell requests apart, such as route, found le", |v| {
                v["slos"][1]["latency"]["only"] = json!({"le": "0.1"});
            }),
            ("slos[latency].latency.only: expected nothing: with telemetry.http", |v| {
                from_http(v, "interval", json!("5s"));
                v["slos"][1]["latency"]["only"] = json!({"route": "/login"});
            }),
            ("slos[errors].by.values: expected values that differ and are not empty, found \"a\"", |v| {
                v["slos"][0]["by"] = json!({"label": "route", "values": ["a", "b", "a"]});
            }),
            ("telemetry.http.url: expected https://, for tls", |v| {
                from_http(v, "bearerToken", json!({"name": "a", "key": "b"}));
            }),
            ("telemetry.http.requests: expected a JSON pointer with {arm} or {hash}", |v| {
                from_http(v, "requests", json!("/requests"));
            }),
            ("telemetry.http.url: expected http:// or https://", |v| from_http(v, "url", json!("http://a@b/"))),
            ("telemetry.http.slow: expected where slow requests", |v| from_http(v, "slow", Value::Null)),
            ("slos[errors].by: expected nothing", |v| {
                from_http(v, "interval", json!("5s"));
                v["slos"][0]["by"] = json!({"label": "route", "values": ["a"]});
            }),
            ("telemetry.router.interval: expected between 1s and 1m", |v| {
                v["telemetry"] = json!({"router": {"interval": "100ms"}});
            }),
            ("routes: expected HTTPRoutes, with telemetry.router, found [GRPCRoute]", |v| {
                v["telemetry"] = json!({"router": {}});
                v["routes"][0]["kind"] = json!("GRPCRoute");
            }),
            ("slos[errors].by: expected nothing: with telemetry.router", |v| {
                v["telemetry"] = json!({"router": {}});
                v["slos"][0]["by"] = json!({"label": "route", "values": ["a"]});
            }),
            ("with telemetry.router one SLO on latency at most", |v| {
                v["telemetry"] = json!({"router": {}});
                let mut more = v["slos"][1].clone();
                more["name"] = json!("slower");
                v["slos"].as_array_mut().expect("SLOs").push(more);
            }),
            ("counter of requests", |v| {
                v["telemetry"].as_object_mut().expect("object").remove("requests");
            }),
        ];
        for (said, change) in cases {
            let error = validate(&spec(change)).expect_err(said).to_string();
            assert!(error.contains(said), "{said}: {error}");
        }
    }
}
