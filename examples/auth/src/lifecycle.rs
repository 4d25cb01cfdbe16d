//! Starting, stopping, and the faults that end or silence the whole process.

use crate::config::Config;
use crate::http::{App, control_router, router};
use axum::Router;
use axum::serve::ListenerExt;
use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How long requests under way may take after the listener has closed. With the default drain this stays well under the 15 s that
/// the Deployment grants.
const FINISH: Duration = Duration::from_secs(8);

/// How long a service that will refuse connections is ready before.
const REFUSE_AFTER: Duration = Duration::from_secs(3);

#[derive(Debug, Error)]
#[error("expected a free address to listen on, found {address} ({source}); set {variable} to another one")]
pub struct BindError {
    address: SocketAddr,
    variable: &'static str,
    source: io::Error,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended<W> {
    /// As asked, for the reason `why`; `unfinished`: requests were still under way when the time was over.
    Stopped {
        why: W,
        unfinished: bool,
    },
    Crashed,
}

/// The service, listening but not yet answering.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    address: SocketAddr,
    control: Option<(TcpListener, SocketAddr)>,
    drain: Duration,
    crash: Option<Duration>,
    refuse: bool,
}

impl Server {
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let (listener, address) = bind(config.listen, "LISTEN").await?;
        let control = match config.control {
            Some(wanted) => Some(bind(wanted, "CONTROL_LISTEN").await?),
            None => None,
        };
        Ok(Self {
            app: Arc::new(App::new(&config)),
            listener,
            address,
            control,
            drain: config.drain,
            crash: config.crash,
            refuse: config.refuse,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control.as_ref().map(|(_, address)| *address)
    }

    /// Serves until `stop`, then drains: readiness fails and connections are handed back while callers learn of it, then what is under
    /// way is finished.
    pub async fn run<W>(self, stop: impl Future<Output = W>) -> Ended<W> {
        let (close, closed) = watch::channel(false);
        let serving = serve(self.listener, router(self.app.clone()), closed.clone());
        let control = self.control.map(|(listener, _)| serve(listener, control_router(self.app.clone()), closed));
        let why = tokio::select! {
            why = stop => why,
            () = crash(self.crash) => return Ended::Crashed,
            () = refuse(self.refuse, &self.app, &close) => unreachable!("refusing goes on for ever"),
        };
        self.app.start_draining();
        sleep(self.drain).await;
        close.send_replace(true);
        let unfinished = timeout(FINISH, serving).await.is_err();
        if let Some(control) = control {
            control.abort();
        }
        Ended::Stopped { why, unfinished }
    }
}

async fn bind(address: SocketAddr, variable: &'static str) -> Result<(TcpListener, SocketAddr), BindError> {
    let failed = |source| BindError { address, variable, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Serves in the background until `closed`, then lets the listener go and finishes what is under way.
fn serve(listener: TcpListener, router: Router, mut closed: watch::Receiver<bool>) -> JoinHandle<()> {
    // Answers are small: Nagle would only hold them back. A socket that can't be set serves all the same.
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let until = async move {
        // An error means that the sender is gone, which ends the serving too.
        let _ = closed.wait_for(|closed| *closed).await;
    };
    tokio::spawn(async move {
        // Never fails: accepting is tried again for ever.
        let _ = axum::serve(listener, router).with_graceful_shutdown(until).await;
    })
}

async fn crash(after: Option<Duration>) {
    match after {
        Some(after) => sleep(after).await,
        None => pending().await,
    }
}

/// The fault that closes the listener, and with it every idle connection, while the process lives on.
async fn refuse(on: bool, app: &App, close: &watch::Sender<bool>) {
    if on {
        app.until_ready_once().await;
        sleep(REFUSE_AFTER).await;
        close.send_replace(true);
    }
    pending().await
}
