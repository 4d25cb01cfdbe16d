//! What a run's record tells: `why`, `replay` and `report`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use kube::{Api, Client, ResourceExt, api::ListParams};
use serde::{Deserialize, Serialize};

use crate::{
    api::{Policy, RolloutRecord, RolloutRun, names, validate},
    controller,
    record::{Made, Segment, reckoning, replay, report, story},
};

/// More time than this between two parts is a gap worth telling, in seconds.
const GAP: f64 = 5.0;

/// Which record is read.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// Name of the RolloutRun, such as auth-7.
    #[arg(required_unless_present = "file")]
    run: Option<String>,
    /// Its namespace; the kubeconfig's if left out.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Read a record that `report --json` wrote, instead of a cluster's.
    #[arg(short, long, conflicts_with_all = ["run", "namespace"])]
    file: Option<PathBuf>,
}

/// A run and its record, as they are exported.
#[derive(Serialize, Deserialize)]
pub(super) struct Export {
    pub run: RolloutRun,
    records: Vec<RolloutRecord>,
}

/// A record, replayed.
struct Told {
    policy: Policy,
    made: Vec<Made>,
    ticks: usize,
    versions: Vec<String>,
    /// What is missing, in words.
    gaps: Vec<String>,
}

async fn read(source: Source) -> Result<Export, String> {
    if let Some(file) = source.file {
        return of_file(&file);
    }
    let client = controller::client().await.map_err(|error| error.to_string())?;
    let namespace = source.namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    of_cluster(&client, &namespace, &source.run.unwrap_or_default()).await
}

/// What `report --json` wrote.
pub(super) fn of_file(file: &Path) -> Result<Export, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let expected = "expected what `serin report RUN --json` wrote";
    serde_json::from_str(&text).map_err(|error| format!("{}: {expected}: {error}", file.display()))
}

/// A run of the cluster, with what there is of its record.
pub(super) async fn of_cluster(client: &Client, namespace: &str, name: &str) -> Result<Export, String> {
    let runs: Api<RolloutRun> = Api::namespaced(client.clone(), namespace);
    let run = runs.get(name).await.map_err(|error| {
        format!("RolloutRun {name} in namespace {namespace}: {error}; `kubectl get rolloutruns` lists what there is")
    })?;
    let api: Api<RolloutRecord> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().labels(&format!("{}={name}", names::RUN_LABEL));
    let list = api.list(&params).await.map_err(|error| format!("could not list the record of {name}: {error}"))?;
    Ok(Export { run, records: list.items })
}

/// The record in order, read.
pub(super) fn segments(mut export: Export) -> Result<Vec<Segment>, String> {
    if export.records.is_empty() {
        return Err(format!(
            "{} has no record: it ended before anything was written, or another version of Serin ran it",
            export.run.name_any()
        ));
    }
    export.records.sort_by_key(|record| (record.spec.since, record.spec.number));
    let part = |record: &RolloutRecord| {
        Segment::read(&record.spec.data.0).map_err(|error| format!("{}: {error}", record.name_any()))
    };
    export.records.iter().map(part).collect()
}

fn tell(export: Export) -> Result<(RolloutRun, Told), String> {
    let name = export.run.name_any();
    let policy = validate(&export.run.spec.policy).map_err(|error| format!("the policy of {name}: {error}"))?;
    let run = export.run.clone();
    let mut told = Told { policy, made: Vec::new(), ticks: 0, versions: Vec::new(), gaps: Vec::new() };
    for segment in segments(export)? {
        let replay = replay(&told.policy, &run.spec, segment).map_err(|error| format!("{name}: {error}"))?;
        told.ticks += replay.ticks.len();
        if !told.versions.contains(&replay.version) {
            told.versions.push(replay.version.clone());
        }
        if let (Some(last), Some(first)) = (told.made.last(), replay.made.first()) {
            let seconds = first.at.duration_since(last.at).as_secs_f64();
            if seconds > GAP {
                told.gaps.push(format!("{seconds:.0} s from {:.0} on are not in the record.", last.at));
            }
        }
        told.made.extend(replay.made);
    }
    Ok((run, told))
}

/// The run's story in plain words.
pub(super) async fn why(source: Source) -> Result<(), String> {
    let (run, told) = tell(read(source).await?)?;
    for line in story(&run.spec, &told.made) {
        println!("{:.0}  {}", line.at, line.text);
    }
    println!();
    for line in reckoning(&told.policy, &told.made) {
        println!("{line}");
    }
    for gap in &told.gaps {
        println!("{gap}");
    }
    Ok(())
}

/// Makes every decision again, and says whether they are the same.
pub(super) async fn again(source: Source) -> Result<(), String> {
    let (run, told) = tell(read(source).await?)?;
    let name = run.name_any();
    let (looks, ticks) = (told.made.len(), told.ticks);
    let Some(other) = told.made.iter().find(|made| !made.same) else {
        println!("{name}: {looks} decisions over {ticks} ticks made again, all of them the same to the byte");
        for gap in &told.gaps {
            println!("{gap}");
        }
        return Ok(());
    };
    let count = told.made.iter().filter(|made| !made.same).count();
    let status = serde_json::to_string(&other.decision.status).unwrap_or_default();
    let mut text = format!(
        "{name}: {count} of {looks} decisions are not what was decided then; the first at {}: now it is {status}",
        other.at
    );
    let version = env!("CARGO_PKG_VERSION");
    if told.versions.iter().any(|wrote| wrote != version) {
        text += &format!(" (made by version {}, this is {version})", told.versions.join(" and "));
    }
    Err(text)
}

/// Writes the run as a page, or as JSON.
pub(super) async fn page(source: Source, output: Option<PathBuf>, json: bool) -> Result<(), String> {
    let export = read(source).await?;
    let name = export.run.name_any();
    let text = if json {
        serde_json::to_string_pretty(&export).map_err(|error| format!("{name} as JSON: {error}"))?
    } else {
        let (run, told) = tell(export)?;
        report(&run, &told.policy, &told.made, &told.gaps)
    };
    let file = output.unwrap_or_else(|| PathBuf::from(format!("{name}.{}", if json { "json" } else { "html" })));
    if file.as_os_str() == "-" {
        println!("{text}");
        return Ok(());
    }
    fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}
