//! `serin backtest`: a policy over runs that are over.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};

use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde_json::json;

use super::{
    files, people, range,
    record::{Export, of_cluster, of_file, segments},
    service::Output,
    table::table,
};
use crate::{
    api::{Rollout, RolloutSpec, validate},
    controller,
    forecast::{requests, time},
    record::{Backtest, Departure, What, backtest},
};

#[derive(Debug, clap::Args)]
pub(super) struct BacktestArgs {
    /// The policy: a YAML file with a Rollout, or the name of one in the cluster.
    policy: String,
    /// Runs of the cluster, such as auth-7; all with a record that the Rollout has if neither these nor files are given.
    #[arg(short, long, conflicts_with = "prometheus")]
    run: Vec<String>,
    /// Records that `report --json` wrote.
    #[arg(short, long, conflicts_with = "prometheus")]
    file: Vec<PathBuf>,
    /// Namespace of Rollout and runs; the kubeconfig's if left out.
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    range: range::RangeArgs,
    /// How it is written.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// A run, or why it can't be told.
#[derive(Serialize)]
struct Row {
    run: String,
    #[serde(flatten)]
    told: Told,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Told {
    Backtest(Backtest),
    Error(String),
}

pub(super) async fn run(args: BacktestArgs) -> Result<(), String> {
    if args.range.is_meant() {
        return range::run(&args.range, &args.policy, args.namespace.as_deref(), args.output).await;
    }
    let (name, spec, exports) = gathered(&args).await?;
    validate(&spec).map_err(|error| error.to_string())?;
    if exports.is_empty() {
        return Err(format!("Rollout {name} has no runs with a record: name some with --run, or give --file"));
    }
    let all = exports.len();
    let mut rows = Vec::new();
    for (at, export) in exports.into_iter().enumerate() {
        tell_progress("run", at, all);
        let run = export.run.name_any();
        let told = of(export, &spec).map_or_else(Told::Error, Told::Backtest);
        rows.push(Row { run, told });
    }
    tell_progress("run", all, all);
    match args.output {
        Output::Json => println!(
            "{}",
            serde_json::to_string_pretty(&json!({"policy": name, "runs": rows})).map_err(|error| error.to_string())?
        ),
        Output::Text => print!("{}", text(&rows)),
    }
    Ok(())
}

/// On a terminal: replaying a hundred long runs takes a minute.
pub(super) fn tell_progress(what: &str, done: usize, all: usize) {
    let mut to = std::io::stderr();
    if to.is_terminal() {
        let _ = write!(
            to,
            "\r{}",
            if done < all { format!("{what} {} of {all} ", done + 1) } else { " ".repeat(30) + "\r" }
        );
    }
}

/// The policy with its name, and the runs that it is tried on, oldest first.
async fn gathered(args: &BacktestArgs) -> Result<(String, RolloutSpec, Vec<Export>), String> {
    let mut exports = args.file.iter().map(|file| of_file(file)).collect::<Result<Vec<_>, _>>()?;
    let by_file = if files::is_file(&args.policy) { Some(files::rollout(Path::new(&args.policy))?.0) } else { None };
    if let (Some(rollout), false) = (&by_file, args.file.is_empty() || !args.run.is_empty()) {
        return Ok((rollout.name_any(), rollout.spec.clone(), exports));
    }
    let client: Client = controller::client().await.map_err(|error| error.to_string())?;
    let namespace = args.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let rollout = match by_file {
        Some(rollout) => rollout,
        None => named(&client, &namespace, &args.policy).await?,
    };
    let mut runs = args.run.clone();
    if runs.is_empty() && exports.is_empty() {
        let all = people::newest_first(&Api::namespaced(client.clone(), &namespace), &rollout.name_any()).await?;
        runs = all.iter().rev().map(ResourceExt::name_any).collect();
    }
    for run in runs {
        exports.push(of_cluster(&client, &namespace, &run).await?);
    }
    Ok((rollout.name_any(), rollout.spec, exports))
}

/// A Rollout of the cluster.
pub(super) async fn named(client: &Client, namespace: &str, name: &str) -> Result<Rollout, String> {
    let rollouts: Api<Rollout> = Api::namespaced(client.clone(), namespace);
    let found = rollouts.get(name).await;
    found.map_err(|error| format!("could not read Rollout {name} in {namespace}: {error}"))
}

fn of(export: Export, other: &RolloutSpec) -> Result<Backtest, String> {
    let recorded = validate(&export.run.spec.policy).map_err(|error| format!("the run's own policy: {error}"))?;
    let spec = export.run.spec.clone();
    backtest(&spec, &recorded, other, segments(export)?).map_err(|error| error.to_string())
}

fn text(rows: &[Row]) -> String {
    let mut cells = vec![["RUN", "WAS", "AFTER", "CANARY REQUESTS", "THIS POLICY"].map(str::to_owned).to_vec()];
    for Row { run, told } in rows {
        match told {
            Told::Error(error) => {
                cells.push(vec![run.clone(), String::new(), String::new(), String::new(), error.clone()])
            }
            Told::Backtest(Backtest { recorded, departures }) => {
                let was = [
                    run.clone(),
                    recorded.phase.to_string(),
                    time(recorded.seconds),
                    requests(recorded.canary_requests as f64),
                ];
                let same = vec!["decides the same".to_owned()];
                let says: Vec<String> = departures.iter().map(words).collect();
                let mut first = was.to_vec();
                for line in if says.is_empty() { same } else { says } {
                    first.resize(4, String::new());
                    first.push(line);
                    cells.push(std::mem::take(&mut first));
                }
            }
        }
    }
    let count = |wanted: &dyn Fn(&Backtest) -> bool| {
        rows.iter().filter(|row| matches!(&row.told, Told::Backtest(told) if wanted(told))).count()
    };
    let has = |what: What| move |told: &Backtest| told.departures.iter().any(|departure| departure.what == what);
    format!(
        "{}\nRuns: {}. Decided the same: {}; taken back that was left, or sooner: {}; left that was taken back: {}; held longer: {}.\n",
        table(&[], &cells),
        rows.len(),
        count(&|told| told.departures.is_empty()),
        count(&has(What::TakesBack)),
        count(&has(What::Leaves)),
        count(&has(What::Holds)),
    )
}

fn words(departure: &Departure) -> String {
    let Departure { seconds, step, canary_requests, what, why } = departure;
    let does = match what {
        What::TakesBack => "takes the traffic back",
        What::Leaves => "does not take it back by then",
        What::Holds => "holds",
        What::GoesOn => "goes on",
    };
    format!(
        "{does} after {} in step {step}, {} canary requests: {why}",
        time(*seconds),
        requests(*canary_requests as f64)
    )
}
