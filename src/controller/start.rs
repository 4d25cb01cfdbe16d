//! Starts the controller and ends it well.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{
    Api, Client, Config,
    runtime::{
        Controller,
        controller::{Config as ControllerConfig, Error as Looked},
        events::{Recorder, Reporter},
        watcher,
    },
};
use tokio::sync::{mpsc, watch};

use super::{
    caches::Caches,
    gatekeeper::{Gatekeeper, GatekeeperError},
    hosts::AllowedHosts,
    lease::Election,
    metrics::Metrics,
    reader::Sources,
    send::{Leading, Sender},
    serve::serve,
    shell::{Shell, failed, reconcile},
};
use crate::{
    api::{ConfigKind, Rollout, names},
    engine::Latch,
    telemetry::{Memory, ScrapeSettings, Scraper, ScraperError},
};

/// How the controller runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespaces to watch; all of the cluster if empty.
    pub namespaces: Vec<String>,
    /// How templates are held.
    pub latch: Latch,
    /// Address of /healthz, /readyz and /metrics.
    pub listen: SocketAddr,
    /// Namespace of the lease.
    pub lease_namespace: String,
    /// Name of the lease.
    pub lease_name: String,
    /// Who we are in the lease: the pod's name.
    pub identity: String,
    /// Kinds of configuration that Rollouts may track.
    pub trackable: Vec<ConfigKind>,
    /// Hosts that HTTP gates may reach.
    pub gate_hosts: AllowedHosts,
    /// A file of CA certificates (PEM) that HTTPS gates are trusted by, besides those of the system.
    pub gate_ca: Option<PathBuf>,
    /// Hosts that Rollouts may name as the address of Prometheus, besides Services of their own namespace.
    pub telemetry_hosts: AllowedHosts,
    /// Secrets that Rollouts name for Prometheus may be read.
    pub telemetry_secrets: bool,
    /// Rollouts may ask Prometheus in PromQL of their own.
    pub telemetry_queries: bool,
    /// HOST:PORT of the gateway's Envoys; all addresses of the name are asked.
    pub telemetry_router: Option<String>,
}

/// Why the controller could not run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nowhere to connect to.
    #[error("no Kubernetes API server to talk to: run it in a cluster, or set KUBECONFIG: {0}")]
    Config(#[source] Box<kube::config::InferConfigError>),
    /// The client could not be made.
    #[error("could not make a Kubernetes client: {0}")]
    Client(#[source] Box<kube::Error>),
    /// The scraper could not be made.
    #[error(transparent)]
    Scraper(#[from] ScraperError),
    /// The client for HTTP gates could not be made.
    #[error("could not make a client for HTTP gates: {0}")]
    Gatekeeper(#[from] GatekeeperError),
    /// The port is taken.
    #[error("could not listen on {0}: {1}; choose another with --listen")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// Another controller leads now; this process ends so that it begins anew without memory.
    #[error("the lease was lost: another controller leads; ending to begin anew")]
    LeaseLost,
    /// Signals can't be heard.
    #[error("could not listen for signals: {0}")]
    Signal(#[source] std::io::Error),
}

/// The client all parts share: our own time limits, no hidden retries, and a name to be known by.
///
/// # Errors
/// If there is no configuration to connect by.
pub async fn client() -> Result<Client, StartError> {
    let mut config = Config::infer().await.map_err(|error| StartError::Config(Box::new(error)))?;
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(3));
    config.write_timeout = Some(Duration::from_secs(10));
    let agent = format!("{}/{}", names::MANAGER, env!("CARGO_PKG_VERSION"));
    if let Ok(value) = agent.parse() {
        config.headers.push((axum::http::header::USER_AGENT, value));
    }
    Client::try_from(config).map_err(|error| StartError::Client(Box::new(error)))
}

/// Runs until SIGTERM or SIGINT, or until the lease is lost.
///
/// # Errors
/// If it could not start, or lost the lease.
pub async fn run(settings: Settings) -> Result<(), StartError> {
    let client = client().await?;
    let metrics = Arc::new(Metrics::new());
    let (is_ready, ready) = watch::channel(false);
    let listen = settings.listen;
    let server = serve(listen, Arc::clone(&metrics), ready);
    let leading = Leading::new();
    let mut election =
        Election::new(client.clone(), &settings.lease_namespace, &settings.lease_name, &settings.identity);
    let lead = async {
        let version = loop {
            match client.apiserver_version().await {
                Ok(version) => break version,
                Err(error) => tracing::warn!(%error, "the API server does not answer; trying again"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        is_ready.send_replace(true);
        tracing::info!(identity = settings.identity, kubernetes = version.git_version, latch = ?settings.latch, "waiting for the lease");
        election.win(&leading).await;
        tracing::info!("leading");
        metrics.leads(true);
        tokio::select! {
            () = election.keep(&leading) => Err(StartError::LeaseLost),
            done = govern_all(&settings, client.clone(), Arc::clone(&metrics), leading.clone()) => done,
        }
    };
    let ended = tokio::select! {
        error = server => Err(StartError::Listen(listen, error.err().unwrap_or_else(|| std::io::Error::other("the server ended")))),
        ended = lead => ended,
        signal = terminated() => signal,
    };
    if ended.is_ok() {
        leading.end();
        election.release().await;
        tracing::info!("ended");
    }
    ended
}

async fn terminated() -> Result<(), StartError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).map_err(StartError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signal)?;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// The reconcile loops, one a namespace, or one for the cluster.
async fn govern_all(
    settings: &Settings,
    client: Client,
    metrics: Arc<Metrics>,
    leading: Leading,
) -> Result<(), StartError> {
    let reporter = Reporter { controller: names::MANAGER.into(), instance: Some(settings.identity.clone()) };
    let memory = Memory::default();
    let sources = Arc::new(Sources {
        client: client.clone(),
        scraper: Scraper::new(ScrapeSettings::default(), memory.clone())?,
        memory,
        hosts: settings.telemetry_hosts.clone(),
        secrets: settings.telemetry_secrets,
        queries: settings.telemetry_queries,
        router: settings.telemetry_router.clone(),
    });
    let trust = settings.gate_ca.as_deref();
    let gatekeeper = Arc::new(Gatekeeper::new(client.clone(), settings.gate_hosts.clone(), trust, leading.clone())?);
    let scopes = match settings.namespaces.as_slice() {
        [] => vec![Api::<Rollout>::all(client.clone())],
        some => some.iter().map(|name| Api::namespaced(client.clone(), name)).collect(),
    };
    let controllers = scopes.into_iter().map(|api| {
        let (trigger, mut triggered) = mpsc::unbounded_channel();
        let shell = Arc::new(Shell {
            caches: Caches::new(client.clone(), trigger.clone(), settings.trackable.clone()),
            sender: Sender { client: client.clone(), leading: leading.clone(), metrics: Arc::clone(&metrics) },
            recorder: Recorder::new(client.clone(), reporter.clone()),
            reporter: reporter.clone(),
            sources: Arc::clone(&sources),
            gatekeeper: Arc::clone(&gatekeeper),
            metrics: Arc::clone(&metrics),
            latch: settings.latch,
            sensors: std::sync::Mutex::default(),
            trigger,
        });
        let triggers = futures::stream::poll_fn(move |context| triggered.poll_recv(context));
        Controller::new(api, watcher::Config::default())
            .with_config(ControllerConfig::default().concurrency(16))
            .reconcile_on(triggers)
            .run(reconcile, failed, Arc::clone(&shell))
            .for_each(move |looked| {
                if let Err(Looked::ObjectNotFound(gone)) = looked {
                    shell.caches.leave(gone.namespace.as_deref().unwrap_or_default());
                }
                std::future::ready(())
            })
    });
    futures::future::join_all(controllers).await;
    Ok(())
}
