//! The command line: `serin controller` in the cluster, `kubectl serin ...` for people.

mod backtest;
mod crds;
mod files;
mod people;
mod plan;
mod range;
mod record;
mod restore;
mod service;
mod simulate;
mod table;
mod workload;

use std::{net::SocketAddr, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    api::ConfigKind,
    controller::{self, Settings},
    engine::Latch,
};

/// Canary releases for Kubernetes: shifts traffic by evidence and takes it back in seconds.
#[derive(Debug, Parser)]
#[command(name = "serin", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the CustomResourceDefinitions as YAML, or write them to a folder.
    Crds {
        /// Write one file a kind into this folder.
        #[arg(long)]
        write: Option<std::path::PathBuf>,
    },
    /// Check Rollouts in YAML files without a cluster.
    Validate {
        /// Files with one or more documents.
        #[arg(required = true)]
        files: Vec<std::path::PathBuf>,
    },
    /// Tell what a policy sees and costs before a release: per step, for typical regressions, beside a faster and a safer
    /// policy.
    Plan(plan::PlanArgs),
    /// Try a policy against modelled traffic and faults: false alarms, time to detection, failed requests.
    Simulate(simulate::SimulateArgs),
    /// Run the controller (in a cluster; the chart does it).
    Controller(ControllerArgs),
    /// Put every Deployment back as it was found (the chart does it before it is uninstalled).
    Restore {
        /// Namespaces to restore, comma separated; all if left out.
        #[arg(long, env = "SERIN_NAMESPACES", value_delimiter = ',')]
        namespaces: Vec<String>,
        /// Wait at most this many seconds for traffic to be back at stable.
        #[arg(long, default_value_t = 120)]
        timeout: u64,
    },
    /// Hold the run of a Rollout at its weight.
    Pause(Target),
    /// Let a paused run go on.
    Resume(Target),
    /// Take the traffic back and end the run.
    Abort(Target),
    /// Approve the step that the run waits at.
    Approve(Target),
    /// Promote the run at once, without what is left of its steps. A bad verdict still takes the traffic back.
    Promote {
        #[command(flatten)]
        target: Target,
        /// Now: there is no other way to promote by hand.
        #[arg(long, required = true)]
        now: bool,
    },
    /// Try a refused version again.
    Retry(Target),
    /// Take the Deployment's template back to the version that serves (kubectl rollout undo refuses a paused one).
    Undo(Target),
    /// Tell why a run went as it did, in plain words with numbers.
    Why(record::Source),
    /// Make a run's decisions again from its record; fails if one of them is another.
    Replay(record::Source),
    /// Tell what a policy would have done in runs that are over, or with a release that Prometheus counted: what it would
    /// have taken back, and when.
    Backtest(backtest::BacktestArgs),
    /// Write a run as one HTML page with charts, or as JSON.
    Report {
        #[command(flatten)]
        source: record::Source,
        /// Into this file; `-` is standard output. RUN.html or RUN.json if left out.
        #[arg(short, long)]
        output: Option<std::path::PathBuf>,
        /// The run and its record as JSON, which `--file` reads.
        #[arg(long)]
        json: bool,
    },
    /// Release the same version with new pods (kubectl rollout restart refuses a paused Deployment).
    Restart(Target),
}

/// A Rollout.
#[derive(Debug, clap::Args)]
struct Target {
    /// Name of the Rollout.
    rollout: String,
    /// Its namespace; the kubeconfig's if left out.
    #[arg(short, long)]
    namespace: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LatchArg {
    /// The chart's admission policy pauses a Deployment in the request that changes its template.
    Policy,
    /// The Deployment stays paused between runs (before Kubernetes 1.36).
    Pause,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ConfigurationArg {
    ConfigMap,
    Secret,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, clap::Args)]
struct ControllerArgs {
    /// Namespaces to watch, comma separated; all if left out.
    #[arg(long, env = "SERIN_NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// What keeps a new template from moving by itself.
    #[arg(long, env = "SERIN_LATCH", value_enum, default_value = "policy")]
    latch: LatchArg,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, env = "SERIN_LISTEN", default_value = "[::]:8080")]
    listen: SocketAddr,
    /// Namespace of the leader's lease: the controller's own.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    lease_namespace: String,
    /// Name of the leader's lease.
    #[arg(long, env = "SERIN_LEASE", default_value = "serin")]
    lease_name: String,
    /// Who this controller is in the lease: its pod's name.
    #[arg(long, env = "POD_NAME", default_value = "serin")]
    identity: String,
    /// Kinds of configuration that Rollouts may track, comma separated: config-map, secret. None if left out.
    #[arg(long, env = "SERIN_CONFIGURATION", value_enum, value_delimiter = ',')]
    configuration: Vec<ConfigurationArg>,
    /// Hosts that HTTP gates may reach, comma separated: NAME or *.DOMAIN, each with :PORT or without. None if left out.
    #[arg(long, env = "SERIN_GATE_HOSTS", value_delimiter = ',')]
    gate_hosts: Vec<String>,
    /// File of CA certificates (PEM) to trust HTTPS gates by, besides those of the system.
    #[arg(long, env = "SERIN_GATE_CA")]
    gate_ca: Option<std::path::PathBuf>,
    /// Hosts that Rollouts may name as the address of Prometheus or of JSON, comma separated, as for gates; Services of the Rollout's
    /// own namespace may be named without.
    #[arg(long, env = "SERIN_TELEMETRY_HOSTS", value_delimiter = ',')]
    telemetry_hosts: Vec<String>,
    /// Read Secrets that Rollouts name for Prometheus. Only where an admission policy sees to it that their authors may
    /// read them (the chart has it).
    #[arg(long, env = "SERIN_TELEMETRY_SECRETS")]
    telemetry_secrets: bool,
    /// Ask Prometheus what Rollouts want to know in PromQL of their own. Only where all authors may see all that Prometheus
    /// has, or it keeps namespaces apart itself.
    #[arg(long, env = "SERIN_TELEMETRY_QUERIES")]
    telemetry_queries: bool,
    /// HOST:PORT at which the gateway's Envoys show their counters, for telemetry.router of Rollouts. All addresses of the
    /// name are asked.
    #[arg(long, env = "SERIN_TELEMETRY_ROUTER")]
    telemetry_router: Option<String>,
    /// Format of the logs.
    #[arg(long, env = "SERIN_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// What is logged, as tracing's filters have it.
    #[arg(long, env = "SERIN_LOG", default_value = "info")]
    log: String,
}

/// Picks the command and runs it.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Crds { write } => crds::print(write.as_deref()).map_err(|error| error.to_string()),
        Command::Validate { files } => people::validate_files(&files),
        Command::Plan(args) => plan::plan(&args),
        Command::Simulate(args) => simulate::simulate(&args),
        Command::Controller(args) => controller(args),
        Command::Restore { namespaces, timeout } => on_runtime(restore::restore(namespaces, timeout)),
        Command::Pause(target) => on_runtime(people::pause(target.rollout, target.namespace, true)),
        Command::Resume(target) => on_runtime(people::pause(target.rollout, target.namespace, false)),
        Command::Abort(target) => on_runtime(people::abort(target.rollout, target.namespace)),
        Command::Approve(target) => on_runtime(people::approve(target.rollout, target.namespace)),
        Command::Promote { target, now: _ } => on_runtime(people::promote(target.rollout, target.namespace)),
        Command::Why(source) => on_runtime(record::why(source)),
        Command::Replay(source) => on_runtime(record::again(source)),
        Command::Backtest(args) => on_runtime(backtest::run(args)),
        Command::Report { source, output, json } => on_runtime(record::page(source, output, json)),
        Command::Undo(target) => on_runtime(workload::undo(target.rollout, target.namespace)),
        Command::Restart(target) => on_runtime(workload::restart(target.rollout, target.namespace)),
        Command::Retry(target) => on_runtime(people::retry(target.rollout, target.namespace)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("serin: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Two threads are plenty: the work is waiting.
fn on_runtime<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| format!("could not start: {error}"))?.block_on(work)
}

fn hosts(listed: Vec<String>) -> controller::AllowedHosts {
    controller::AllowedHosts(listed.into_iter().filter(|host| !host.is_empty()).collect())
}

fn controller(args: ControllerArgs) -> Result<(), String> {
    let filter =
        tracing_subscriber::EnvFilter::try_new(&args.log).map_err(|error| format!("--log {}: {error}", args.log))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    match args.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    let settings = Settings {
        namespaces: args.namespaces.into_iter().filter(|name| !name.is_empty()).collect(),
        latch: match args.latch {
            LatchArg::Policy => Latch::Policy,
            LatchArg::Pause => Latch::Pause,
        },
        listen: args.listen,
        lease_namespace: args.lease_namespace,
        lease_name: args.lease_name,
        identity: args.identity,
        trackable: args
            .configuration
            .iter()
            .map(|kind| match kind {
                ConfigurationArg::ConfigMap => ConfigKind::ConfigMap,
                ConfigurationArg::Secret => ConfigKind::Secret,
            })
            .collect(),
        gate_ca: args.gate_ca,
        gate_hosts: hosts(args.gate_hosts),
        telemetry_hosts: hosts(args.telemetry_hosts),
        telemetry_secrets: args.telemetry_secrets,
        telemetry_queries: args.telemetry_queries,
        telemetry_router: args.telemetry_router,
    };
    on_runtime(async { controller::run(settings).await.map_err(|error| error.to_string()) })
}
