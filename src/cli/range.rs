//! `serin backtest --prometheus`: a policy over a release that Prometheus counted, whoever made it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use jiff::Timestamp;
use kube::{Client, ResourceExt};
use reqwest::Url;
use serde::Serialize;

use super::{
    backtest::{named, tell_progress},
    files,
    service::Output,
    table::{Side, table},
};
use crate::{
    api::{Millis, Policy, QueryStatus, Rollout, Source, validate},
    controller::{self, PodNames},
    evidence::Count,
    forecast::{percent, requests, time},
    record::{Arms, Event, Hindsight, SloSums, Then, Trial},
    telemetry::{
        Credentials, Memory,
        prometheus::{AskError, Labels, Past, PrometheusClient, Rules, SystemNames},
    },
    tls,
};

/// More questions than this are a strain on somebody's Prometheus.
const MOST_LOOKS: i64 = 5000;
/// Few Prometheus scrape more often.
const LEAST_INTERVAL: Millis = Millis::seconds(5);
/// Prometheus may have to read the past from its disk.
const RULES: Rules = Rules { deadline: Duration::from_secs(30), max_bytes: 32 * 1024 * 1024 };

#[derive(Debug, clap::Args)]
pub(super) struct RangeArgs {
    /// Try the policy on what this Prometheus counted of a release, whoever made it, or on two halves of the pods if there
    /// is one version only: http:// or https://, with the path before /api if need be.
    #[arg(long, value_name = "URL", requires = "from")]
    prometheus: Option<String>,
    /// Begin of the time to look at: RFC 3339, or so long ago (2h).
    #[arg(long, value_name = "TIME", requires = "prometheus")]
    from: Option<Moment>,
    /// Its end, likewise; now if left out.
    #[arg(long, value_name = "TIME", requires = "prometheus")]
    to: Option<Moment>,
    /// pod-template-hash of the version that served; the older of two if left out.
    #[arg(long, value_name = "HASH", requires_all = ["prometheus", "canary"])]
    stable: Option<String>,
    /// That of the new version; the same twice compares two halves of its pods.
    #[arg(long, value_name = "HASH", requires_all = ["prometheus", "stable"])]
    canary: Option<String>,
    /// Name of the Deployment; the policy's if left out.
    #[arg(long, value_name = "NAME", requires = "prometheus")]
    workload: Option<String>,
    /// Prometheus' label with the pod's namespace; the policy's, or "namespace", if left out.
    #[arg(long, value_name = "LABEL", requires = "prometheus")]
    namespace_label: Option<String>,
    /// Prometheus' label with the pod's name; the policy's, or "pod", if left out.
    #[arg(long, value_name = "LABEL", requires = "prometheus")]
    pod_label: Option<String>,
    /// File with a bearer token that Prometheus asks for.
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    token_file: Option<PathBuf>,
    /// File with USER:PASSWORD that Prometheus asks for.
    #[arg(long, value_name = "FILE", requires = "prometheus", conflicts_with = "token_file")]
    user_file: Option<PathBuf>,
    /// File with certificates (PEM) of authorities to trust with https://, besides those of this machine.
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    ca_file: Option<PathBuf>,
}

impl RangeArgs {
    /// Prometheus is to be asked.
    pub(super) fn is_meant(&self) -> bool {
        self.prometheus.is_some()
    }
}

/// A time as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    At(Timestamp),
    Ago(Millis),
}

impl Moment {
    /// In milliseconds since 1970, whole seconds.
    fn millis(self, now: Timestamp) -> i64 {
        let at = match self {
            Self::At(at) => at.as_millisecond(),
            Self::Ago(ago) => now.as_millisecond().saturating_sub(i64::try_from(ago.0).unwrap_or(i64::MAX)),
        };
        at.div_euclid(1000).saturating_mul(1000)
    }
}

impl FromStr for Moment {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ago) = text.parse() {
            return Ok(Self::Ago(ago));
        }
        text.parse().map(Self::At).map_err(|_| {
            format!("expected a time such as 2026-01-31T10:00:00Z, or a duration ago such as 2h, found {text:?}")
        })
    }
}

/// What is asked, and of whom.
struct Question {
    name: String,
    policy: Policy,
    labels: Labels,
    workload: String,
    named: Option<[String; 2]>,
    past: Past,
    interval: Millis,
    address: Url,
    credentials: Credentials,
    trust: rustls::ClientConfig,
}

/// What it came to.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    policy: String,
    namespace: String,
    from: Timestamp,
    to: Timestamp,
    interval: Millis,
    stable: String,
    canary: String,
    /// They are halves of one version.
    halves: bool,
    /// Percent of the requests that the canary had.
    share: f64,
    #[serde(skip)]
    steps: usize,
    #[serde(flatten)]
    hindsight: Hindsight,
}

pub(super) async fn run(args: &RangeArgs, policy: &str, namespace: Option<&str>, output: Output) -> Result<(), String> {
    let (rollout, namespace) = rollout(policy, namespace).await?;
    let question = question(args, &rollout, namespace, Timestamp::now())?;
    let report = ask(&question).await?;
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?),
        Output::Text => print!("{}", text(&report)),
    }
    Ok(())
}

/// The policy, and the namespace of its pods.
async fn rollout(target: &str, namespace: Option<&str>) -> Result<(Rollout, String), String> {
    if files::is_file(target) {
        let (rollout, _) = files::rollout(Path::new(target))?;
        let namespace = namespace.map(str::to_owned).or_else(|| rollout.namespace());
        let namespace = namespace.ok_or_else(|| {
            format!("expected a namespace in {target} or by --namespace, found none: give the pods' namespace")
        })?;
        return Ok((rollout, namespace));
    }
    let client: Client = controller::client().await.map_err(|error| error.to_string())?;
    let namespace = namespace.unwrap_or_else(|| client.default_namespace()).to_owned();
    Ok((named(&client, &namespace, target).await?, namespace))
}

fn question(args: &RangeArgs, rollout: &Rollout, namespace: String, now: Timestamp) -> Result<Question, String> {
    let policy = validate(&rollout.spec).map_err(|error| error.to_string())?;
    let (namespace_label, pod_label) = match &policy.source {
        Source::Pods(_) => ("namespace", "pod"),
        Source::Prometheus(source) => (source.namespace_label.as_str(), source.pod_label.as_str()),
        Source::Http(_) => return Err(no_pods("telemetry.http")),
        Source::Router(_) => return Err(no_pods("telemetry.router")),
    };
    let or = |given: &Option<String>, other: &str| given.clone().unwrap_or_else(|| other.to_owned());
    let labels = Labels {
        namespace: (or(&args.namespace_label, namespace_label), namespace),
        pod: or(&args.pod_label, pod_label),
    };
    let interval = policy.source.interval().max(LEAST_INTERVAL);
    let address = or(&args.prometheus, "");
    let address = address_of(&address)?;
    Ok(Question {
        name: rollout.name_any(),
        workload: or(&args.workload, &policy.spec.workload_ref.name),
        named: args.stable.clone().zip(args.canary.clone()).map(|(stable, canary)| [stable, canary]),
        past: past(args, interval, now)?,
        credentials: credentials(args, &address)?,
        trust: trust(args.ca_file.as_deref())?,
        interval,
        labels,
        address,
        policy,
    })
}

fn no_pods(found: &str) -> String {
    format!(
        "expected a policy with telemetry.scrape or telemetry.prometheus, found {found}: its counts are not those of pods, \
         which Prometheus is asked for"
    )
}

fn address_of(address: &str) -> Result<Url, String> {
    let wrong = |found: &str| {
        format!(
            "--prometheus {address}: expected http:// or https:// and a host, such as http://localhost:9090, {found}"
        )
    };
    let url = Url::parse(address).map_err(|error| wrong(&format!("found none ({error})")))?;
    match ["http", "https"].contains(&url.scheme()) && url.has_host() {
        true => Ok(url),
        false => Err(wrong(&format!("found {}", url.scheme()))),
    }
}

fn past(args: &RangeArgs, interval: Millis, now: Timestamp) -> Result<Past, String> {
    let millis = |moment: Option<Moment>| moment.unwrap_or(Moment::Ago(Millis(0))).millis(now);
    let past =
        Past { from: millis(args.from), to: millis(args.to), step: i64::try_from(interval.0).unwrap_or(i64::MAX) };
    if past.from >= past.to {
        let [from, to] = [past.from, past.to].map(words_of);
        return Err(format!("expected --from before --to, found {from} and {to}"));
    }
    let looks = past.to.saturating_sub(past.from) / past.step.max(1) + 1;
    if looks > MOST_LOOKS {
        return Err(format!(
            "expected at most {MOST_LOOKS} looks, found {looks}, one each {interval} from {} to {}: ask for less time, or give \
             the policy's telemetry a longer interval",
            words_of(past.from),
            words_of(past.to)
        ));
    }
    Ok(past)
}

fn words_of(millis: i64) -> String {
    Timestamp::from_millisecond(millis).map_or_else(|_| format!("{millis} ms"), |at| at.to_string())
}

/// They go where nobody reads along: by TLS, or to this machine.
fn credentials(args: &RangeArgs, address: &Url) -> Result<Credentials, String> {
    if let Some(file) = &args.token_file {
        return match secret("--token-file", file, address)? {
            token if token.is_empty() => {
                Err(format!("--token-file {}: expected a token, found nothing", file.display()))
            }
            token => Ok(Credentials::Bearer(token)),
        };
    }
    let Some(file) = &args.user_file else { return Ok(Credentials::None) };
    match secret("--user-file", file, address)?.split_once(':') {
        Some((username, password)) => {
            Ok(Credentials::Basic { username: username.to_owned(), password: password.to_owned() })
        }
        None => Err(format!("--user-file {}: expected USER:PASSWORD, found no colon", file.display())),
    }
}

/// What is in a file, if it may be said to this address.
fn secret(flag: &str, file: &Path, address: &Url) -> Result<String, String> {
    let here = ["localhost", "127.0.0.1", "[::1]"].contains(&address.host_str().unwrap_or_default());
    if address.scheme() != "https" && !here {
        return Err(format!(
            "{flag}: expected an address with https://, found {address}: a secret would be read on its way"
        ));
    }
    let text = fs::read_to_string(file).map_err(|error| format!("{flag} {}: {error}", file.display()))?;
    Ok(text.trim().to_owned())
}

fn trust(file: Option<&Path>) -> Result<rustls::ClientConfig, String> {
    let pem = file.map(|file| fs::read(file).map_err(|error| format!("--ca-file {}: {error}", file.display())));
    tls::trusting(pem.transpose()?.as_deref()).map_err(|error| match file {
        Some(file) => format!("--ca-file {}: {error}", file.display()),
        None => error.to_string(),
    })
}

async fn ask(question: &Question) -> Result<Report, String> {
    let Question { name, policy, labels, workload, named, past, interval, address, credentials, trust } = question;
    let client = PrometheusClient::new(address, trust.clone(), SystemNames, RULES, Memory::default())
        .map_err(|error| format!("Prometheus can't be asked: {error}"))?;
    let within = |why: &dyn std::fmt::Display| {
        let (from, to) = (words_of(past.from), words_of(past.to));
        format!("{workload} in namespace {}, {from} to {to}: {why}", labels.namespace.1)
    };
    let first = controller::query(policy).map_err(|error| format!("telemetry: {error}"))?;
    let there =
        client.ask_presence(&first, labels, workload, credentials, *past).await.map_err(|error| said(&error))?;
    let hashes = named.as_ref().map(|[stable, canary]| [stable.as_str(), canary.as_str()]);
    let arms = Arms::choose(there, past.step, workload, hashes).map_err(|error| within(&error))?;
    let mut trial =
        Trial::new(policy, &arms, &labels.namespace.1, *interval).map_err(|error| format!("telemetry: {error}"))?;
    let looks = arms.looks(past.times());
    for (done, at) in looks.iter().enumerate() {
        tell_progress("look", done, looks.len());
        let listed = arms.listed(*at);
        let names: Vec<&str> = listed.iter().map(|one| one.name.as_str()).collect();
        if names.is_empty() {
            continue;
        }
        let answered = client.ask_at(trial.query(), labels, &names, credentials, *at).await;
        let answered = answered.map_err(|error| said(&error))?;
        let now = Timestamp::from_millisecond(*at).map_err(|error| error.to_string())?;
        let due = trial.due(now);
        if !due.is_empty() {
            let pods: PodNames = listed.iter().map(|one| (one.arm, one.name.clone())).collect();
            let answers = trial.questions().ask(due, &pods, &client, credentials, Some(*at)).await;
            trial.hear(answers);
        }
        trial.look(now, &listed, &answered.pods);
        if trial.is_over() {
            break;
        }
    }
    tell_progress("look", looks.len(), looks.len());
    let hindsight = trial.hindsight().map_err(|error| within(&error))?;
    let moment = |millis| Timestamp::from_millisecond(millis).map_err(|error| error.to_string());
    Ok(Report {
        policy: name.clone(),
        namespace: labels.namespace.1.clone(),
        from: moment(past.from)?,
        to: moment(past.to)?,
        interval: *interval,
        halves: arms.are_halves(),
        stable: arms.stable,
        canary: arms.canary,
        share: hindsight.share(),
        steps: policy.steps.len(),
        hindsight,
    })
}

/// Of the command line rather than of a policy.
fn said(error: &AskError) -> String {
    match error.problem.is_refusal() {
        true => format!(
            "Prometheus at {}: expected to be let in, was refused: give --token-file or --user-file with what it takes",
            error.address
        ),
        false => error.to_string(),
    }
}

fn text(report: &Report) -> String {
    let Report { policy, namespace, stable, canary, halves, share, steps, hindsight, .. } = report;
    let began = hindsight.began;
    let mut text = match halves {
        true => {
            format!("Policy {policy}, two halves of the pods of version {canary} in {namespace}, from {began} on.\n\n")
        }
        false => format!(
            "Policy {policy}, version {canary} against {stable} in {namespace}, from {began} on; the new one had {} of the \
             requests.\n\n",
            percent(share / 100.0)
        ),
    };
    let mut cells = vec![["AFTER", "STEP", "CANARY REQUESTS", "THIS POLICY"].map(str::to_owned).to_vec()];
    for event in &hindsight.events {
        let Event { seconds, step, canary_requests, .. } = event;
        cells.push(vec![
            time(*seconds),
            format!("{step}/{steps}"),
            requests(*canary_requests as f64),
            words(event, *halves),
        ]);
    }
    text.push_str(&table(&[Side::Right, Side::Left, Side::Right], &cells));
    let head = ["SLO", "VERDICT", "CANARY BAD", "STABLE BAD", "EVIDENCE"].map(str::to_owned).to_vec();
    let rows = hindsight.slos.iter().map(|SloSums { name, verdict, canary, stable, evidence, threshold }| {
        // Nobody wants to read of -0.0.
        let evidence = (evidence * 10.0).round() / 10.0 + 0.0;
        let against = format!("{evidence:.1} of {threshold:.1}");
        vec![name.clone(), format!("{verdict:?}"), share_of(*canary), share_of(*stable), against]
    });
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    // Writing to a String does not fail.
    let _ = write!(text, "\n{}", table(&[], &rows));
    if !hindsight.queries.is_empty() {
        let _ = write!(text, "\n{}", queries(&hindsight.queries));
    }
    let _ = write!(
        text,
        "\nWeights are as they were, not as this policy would have set them. Pods, routes and gates are taken to be in \
         order, approvals to be given at once.\n"
    );
    text
}

/// What the policy's own queries had in their last windows.
fn queries(queries: &[QueryStatus]) -> String {
    let head = ["QUERY", "VERDICT", "CANARY", "STABLE"].map(str::to_owned).to_vec();
    let share = |percents: Option<f64>| percents.map_or("none".to_owned(), |percents| percent(percents / 100.0));
    let rows = queries.iter().map(|QueryStatus { name, verdict, canary, stable }| {
        vec![name.clone(), verdict.clone(), share(*canary), share(*stable)]
    });
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    table(&[], &rows)
}

fn words(Event { what, why, .. }: &Event, halves: bool) -> String {
    match what {
        Then::GoesOn => format!("goes on {why}"),
        Then::ReplacesPod => format!("replaces a pod: {why}"),
        Then::TakesBack if halves => format!("takes the traffic back, a false alarm: {why}"),
        Then::TakesBack => format!("takes the traffic back: {why}"),
        Then::Promotes => format!("promotes: {why}"),
        Then::Waits => format!("still waits when the counts end: {why}"),
    }
}

fn share_of(count: Count) -> String {
    let ratio = count.ratio().map_or("none".to_owned(), percent);
    format!("{ratio} of {}", requests(count.total as f64))
}

#[cfg(test)]
mod tests;
