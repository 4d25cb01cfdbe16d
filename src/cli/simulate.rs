//! `serin simulate`: a policy against modelled traffic and faults.

use std::{
    fmt::Write as _,
    path::PathBuf,
    str::FromStr,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde::Serialize;

use super::{
    files,
    service::{self, Output, ServiceArgs},
    table::table,
};
use crate::{
    api::{Millis, Policy},
    forecast::{
        Dice, End, Fault, FaultKind, Kind, Onset, Quantile, Release, Service, Share, Simulation, Traffic, Why, course,
        percent, quantile, rate_words, requests, time,
    },
};

/// Two threads are plenty: somebody else works on this machine, too.
const THREADS: usize = 2;
/// Whoever waits longer than this hears how far it is.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(super) struct SimulateArgs {
    /// A YAML file with a Rollout.
    file: PathBuf,
    #[command(flatten)]
    service: ServiceArgs,
    /// How requests come.
    #[arg(long, value_enum, default_value = "constant")]
    traffic: TrafficArg,
    /// What breaks, as KIND=SHARE@WHEN/LENGTH: errors=5%@step2, slow=20%@90s, outage=20%@step1/60s. KIND is errors or
    /// slow, of the canary alone, or outage, errors of both versions; WHEN a step or the time since the first one began
    /// (left out: step1); without /LENGTH it is for good. Can be given several times; without any the versions are alike.
    #[arg(long = "fault")]
    faults: Vec<FaultArg>,
    /// How many releases.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    runs: u64,
    /// The same seed gives the same releases.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How it is written.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TrafficArg {
    /// Always the same.
    Constant,
    /// Requests and bad shares rise and fall by 80 %, each in its own rhythm.
    Waves,
    /// Twice an hour something makes both versions 20 times as bad for 5 to 60 seconds.
    Outages,
}

impl TrafficArg {
    fn words(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Waves => "wavy",
            Self::Outages => "outage-ridden",
        }
    }
}

impl From<TrafficArg> for Traffic {
    fn from(traffic: TrafficArg) -> Self {
        match traffic {
            TrafficArg::Constant => Self::Constant,
            TrafficArg::Waves => Self::Waves,
            TrafficArg::Outages => Self::Outages,
        }
    }
}

/// A fault as people write it.
#[derive(Clone, Debug, PartialEq)]
struct FaultArg {
    text: String,
    fault: Fault,
}

impl FromStr for FaultArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |expected: &str, found: &str| format!("expected {expected}, found {found:?} in {text:?}");
        let (kind, rest) = text.split_once('=').ok_or_else(|| wrong("KIND=SHARE, such as errors=5%@step2", text))?;
        let kind = match kind {
            "errors" => FaultKind::Errors,
            "slow" => FaultKind::Slow,
            "outage" => FaultKind::Outage,
            other => return Err(wrong("errors, slow or outage", other)),
        };
        let (rest, lasts) = match rest.split_once('/') {
            Some((rest, lasts)) => (rest, Some(lasts)),
            None => (rest, None),
        };
        let (share, at) = rest.split_once('@').unwrap_or((rest, "step1"));
        let share: service::Share = share.parse().map_err(|error| format!("{error} in {text:?}"))?;
        let at = match at.strip_prefix("step") {
            Some(step) => match step.parse() {
                Ok(step @ 1..=50) => Onset::Step(step),
                _ => return Err(wrong("a step such as step2", at)),
            },
            None => {
                Onset::After(at.parse::<Millis>().map_err(|_| wrong("step2 or a time such as 90s", at))?.as_secs_f64())
            }
        };
        let lasts = match lasts.map(str::parse::<Millis>) {
            None => None,
            Some(Ok(lasts)) => Some(lasts.as_secs_f64()),
            Some(Err(error)) => return Err(format!("{error} in {text:?}")),
        };
        Ok(Self { text: text.to_owned(), fault: Fault { kind, share: share.0, at, lasts } })
    }
}

/// What came out.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    runs: u64,
    seed: u64,
    /// Rolled back while the canary was no worse than stable: false alarms.
    rolled_back_healthy: Known,
    /// Rolled back once it was worse; `None` without a fault of the canary.
    found: Option<Known>,
    /// Of those found: seconds from the fault to the decision.
    detection: Option<[Quantile; 2]>,
    /// Of those broken: callers' requests that failed because of it.
    failed: Option<[Quantile; 2]>,
    promoted: Known,
    /// Of those promoted: seconds from the first step to the end of the last.
    promoted_after: Option<[Quantile; 2]>,
    /// A day after the bake of a step.
    held: Known,
    /// Why they were rolled back.
    verdicts: u64,
    failed_requests: u64,
    timeouts: u64,
}

/// A share with its 95 % interval (Clopper and Pearson).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Known {
    #[serde(flatten)]
    share: Share,
    interval: (f64, f64),
}

impl Known {
    fn of(results: impl IntoIterator<Item = bool>) -> Self {
        let share = Share::of(results);
        Self { share, interval: share.interval() }
    }
}

pub(super) fn simulate(args: &SimulateArgs) -> Result<(), String> {
    let (rollout, policy) = files::rollout(&args.file)?;
    let service = args.service.service(&policy, None)?;
    check(&policy, &service, &args.faults)?;
    let faults: Vec<Fault> = args.faults.iter().map(|fault| fault.fault).collect();
    let simulation =
        Simulation::new(&policy, service, args.traffic.into(), &faults, args.service.reaction.as_secs_f64());
    let outcome = outcome(&releases(&simulation, args.seed, args.runs), args.seed);
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&outcome).map_err(|error| error.to_string())?),
        Output::Text => {
            let name = rollout.metadata.name.unwrap_or_default();
            print!("{}", text(&name, &policy, service, args, &outcome));
        }
    }
    Ok(())
}

fn check(policy: &Policy, service: &Service, faults: &[FaultArg]) -> Result<(), String> {
    if !course(policy, service).iter().any(|stretch| stretch.kind.asks_evidence()) {
        return Err(
            "spec.steps: expected a weight or a mirror, found none: nothing is judged by requests before it".into()
        );
    }
    for FaultArg { text, fault } in faults {
        if let Onset::Step(step) = fault.at
            && course(policy, service).get(step.saturating_sub(1) as usize).is_none_or(|at| at.kind == Kind::Approval)
        {
            return Err(format!(
                "--fault {text}: expected one of the {} steps that is no approval, found step {step}",
                policy.steps.len()
            ));
        }
    }
    Ok(())
}

/// All of them, in order, whoever was faster.
fn releases(simulation: &Simulation, seed: u64, runs: u64) -> Vec<Release> {
    let next = AtomicU64::new(0);
    let (done, came) = mpsc::channel();
    let began = Instant::now();
    let mut told = began;
    let mut all: Vec<(u64, Release)> = Vec::new();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let (next, done) = (&next, done.clone());
            scope.spawn(move || {
                let runs =
                    std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed)).take_while(|run| *run < runs);
                for run in runs {
                    // Seeds of neighbours must not meet each other's runs.
                    let mut dice = Dice::new(seed.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(run));
                    if done.send((run, simulation.release(&mut dice))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        for one in came {
            all.push(one);
            if told.elapsed() >= PATIENCE {
                told = Instant::now();
                eprintln!(
                    "simulated {} of {runs} releases in {}",
                    all.len(),
                    time(began.elapsed().as_secs_f64().round())
                );
            }
        }
    });
    all.sort_by_key(|(run, _)| *run);
    all.into_iter().map(|(_, release)| release).collect()
}

fn outcome(releases: &[Release], seed: u64) -> Outcome {
    let rolled_back = |release: &Release| matches!(release.end, End::RolledBack(_));
    let share = |is: &dyn Fn(&Release) -> bool| Known::of(releases.iter().map(is));
    let both = |all: Vec<f64>| Some([quantile(all.clone(), 0.5)?, quantile(all, 0.9)?]);
    let broken: Vec<&Release> = releases.iter().filter(|release| release.broken_at.is_some()).collect();
    let found = broken.iter().filter(|release| rolled_back(release));
    let after = found.filter_map(|release| Some(release.seconds - release.broken_at?)).collect();
    let why = |why| releases.iter().filter(|release| release.end == End::RolledBack(why)).count() as u64;
    let promoted = releases.iter().filter(|release| release.end == End::Promoted);
    Outcome {
        runs: releases.len() as u64,
        seed,
        rolled_back_healthy: share(&|release| rolled_back(release) && release.broken_at.is_none()),
        found: (!broken.is_empty()).then(|| Known::of(broken.iter().map(|release| rolled_back(release)))),
        detection: both(after),
        failed: both(broken.iter().map(|release| release.failed as f64).collect()),
        promoted: share(&|release| release.end == End::Promoted),
        promoted_after: both(promoted.map(|release| release.seconds).collect()),
        held: share(&|release| matches!(release.end, End::Held(_))),
        verdicts: why(Why::Verdict),
        failed_requests: why(Why::FailedRequests),
        timeouts: why(Why::Timeout),
    }
}

fn text(name: &str, policy: &Policy, service: Service, args: &SimulateArgs, outcome: &Outcome) -> String {
    let mut text = String::new();
    let faults = match args.faults.as_slice() {
        [] => "both versions alike".to_owned(),
        some => some.iter().map(|fault| fault.text.as_str()).collect::<Vec<_>>().join(", "),
    };
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "{} simulated releases of Rollout {name} (seed {}): {}, {} errors, {} slow, {} traffic; {faults}\n",
        requests(outcome.runs as f64),
        outcome.seed,
        rate_words(service.rate),
        percent(service.errors),
        percent(service.slow),
        args.traffic.words()
    );
    let range = |both: Option<[Quantile; 2]>, words: &dyn Fn(f64) -> String, most: &str| {
        let one = |known: Quantile| format!("{} [{}, {}]", words(known.value), words(known.low), words(known.high));
        both.map_or("none".to_owned(), |[half, most_of]| {
            format!("median {}; 9 of 10 {most} {}", one(half), one(most_of))
        })
    };
    let seconds = |seconds: f64| if seconds.is_finite() { time(seconds) } else { "?".to_owned() };
    let number = |number: f64| if number.is_finite() { requests(number) } else { "?".to_owned() };
    let mut rows = vec![[
        "rolled back though no worse".to_owned(),
        format!("{}, {} declared", outcome.rolled_back_healthy.share, percent(policy.alpha)),
    ]];
    if let Some(found) = outcome.found {
        rows.push(["bad version found".to_owned(), found.share.to_string()]);
        rows.push(["found after".to_owned(), range(outcome.detection, &seconds, "within")]);
        rows.push(["requests failed because of it".to_owned(), range(outcome.failed, &number, "at most")]);
    }
    rows.push(["promoted".to_owned(), outcome.promoted.share.to_string()]);
    if outcome.promoted_after.is_some() {
        rows.push(["promoted after".to_owned(), range(outcome.promoted_after, &seconds, "within")]);
    }
    rows.push(["held for more than a day".to_owned(), outcome.held.share.to_string()]);
    rows.push([
        "why rolled back".to_owned(),
        format!(
            "{} by a verdict, {} by limits.failedRequests, {} by a time limit",
            outcome.verdicts, outcome.failed_requests, outcome.timeouts
        ),
    ]);
    let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
    text.push_str(&table(&[], &rows));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn simulated(faults: &[&str], traffic: Traffic, runs: u64) -> Outcome {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/auth/manifests/rollout.yaml");
        let (_, policy) = files::rollout(&file).expect("the example");
        let faults: Vec<Fault> = faults.iter().map(|text| text.parse::<FaultArg>().expect("a fault").fault).collect();
        let service = Service { rate: 200.0, errors: 0.002, slow: 0.002 };
        let simulation = Simulation::new(&policy, service, traffic, &faults, 2.0);
        outcome(&releases(&simulation, 7, runs), 7)
    }

    #[test]
    fn equal_versions_are_promoted_after_their_bakes() {
        let outcome = simulated(&[], Traffic::Constant, 12);
        assert_eq!((outcome.promoted.share.hits, outcome.found, outcome.failed), (12, None, None));
        let [half, _] = outcome.promoted_after.expect("some");
        assert!((300.0..=310.0).contains(&half.value), "{half:?}");
    }

    #[test]
    fn a_fault_is_found_in_its_step_and_the_same_seed_tells_the_same() {
        let outcome = simulated(&["errors=20%@step2"], Traffic::Constant, 20);
        assert_eq!(outcome.found.map(|known| known.share.hits), Some(20));
        let [half, _] = outcome.detection.expect("some");
        assert!((1.0..=4.0).contains(&half.value), "{half:?}");
        let [failed, _] = outcome.failed.expect("some");
        // 10 a second, until it is found and two seconds more.
        assert!((30.0..=70.0).contains(&failed.value), "{failed:?}");
        assert_eq!(outcome, simulated(&["errors=20%@step2"], Traffic::Constant, 20));
    }

    #[test]
    fn an_outage_of_both_rolls_nobody_back() {
        let outcome = simulated(&["outage=20%@30s/60s"], Traffic::Waves, 8);
        assert_eq!((outcome.verdicts, outcome.promoted.share.hits), (0, 8), "{outcome:?}");
    }

    #[test]
    fn a_fault_that_is_none_is_refused_with_what_it_should_be() {
        for (text, expected) in [
            ("errors", "KIND=SHARE"),
            ("crash=5%", "errors, slow or outage"),
            ("errors=5", "such as 99.5%"),
            ("errors=5%@2", "step2 or a time such as 90s"),
            ("errors=5%@step0", "a step such as step2"),
            ("errors=5%@step1/long", "a duration such as"),
        ] {
            let said = text.parse::<FaultArg>().expect_err(text);
            assert!(said.contains(expected) && said.contains(text), "{said}");
        }
    }
}
