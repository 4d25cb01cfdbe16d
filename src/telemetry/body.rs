//! The body of an answer, with a bound on bytes, time and memory.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Response;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Bodies above this are held in memory only [`BIG_AT_ONCE`] at a time, so that fifty pods with ten MiB each do not
/// take half a GiB.
const BIG_BYTES: usize = 1024 * 1024;
const BIG_AT_ONCE: usize = 4;

/// Above this many bytes a text is read on a thread of its own: a MiB takes milliseconds, and the runtime has leases to
/// renew meanwhile.
pub(super) const BLOCKING_BYTES: usize = 64 * 1024;

/// Lets few big bodies be in memory at once; all that read bodies share one.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Semaphore>);

impl Default for Memory {
    fn default() -> Memory {
        Memory(Arc::new(Semaphore::new(BIG_AT_ONCE)))
    }
}

/// Bytes that are all there.
#[derive(Debug)]
pub(super) struct Body {
    pub bytes: Vec<u8>,
    /// Held until the bytes are read.
    pub big: Option<OwnedSemaphorePermit>,
}

/// Why a body is not all there.
#[derive(Debug)]
pub(super) enum BodyError {
    /// More bytes than the limit: so many at least.
    TooLarge(usize),
    /// The deadline came first, after so many bytes.
    TooSlow(usize),
    /// The connection broke after so many bytes.
    Broken(usize, reqwest::Error),
    /// The controller is shutting down.
    GivenUp,
}

/// Reads a body until the deadline, up to the limit.
pub(super) async fn read_body(
    mut response: Response,
    limit: usize,
    deadline: Instant,
    memory: &Memory,
) -> Result<Body, BodyError> {
    let announced = response.content_length().and_then(|bytes| usize::try_from(bytes).ok());
    if let Some(found) = announced.filter(|bytes| *bytes > limit) {
        return Err(BodyError::TooLarge(found));
    }
    let mut bytes = Vec::with_capacity(announced.unwrap_or(0).min(BIG_BYTES));
    let mut big = None;
    loop {
        let chunk = match timeout_at(deadline, response.chunk()).await {
            Err(_) => return Err(BodyError::TooSlow(bytes.len())),
            Ok(Err(source)) => return Err(BodyError::Broken(bytes.len(), source)),
            Ok(Ok(None)) => return Ok(Body { bytes, big }),
            Ok(Ok(Some(chunk))) => chunk,
        };
        if bytes.len() + chunk.len() > limit {
            return Err(BodyError::TooLarge(bytes.len() + chunk.len()));
        }
        bytes.extend_from_slice(&chunk);
        if bytes.len() > BIG_BYTES && big.is_none() {
            let permit: Result<_, AcquireError> = timeout_at(deadline, Arc::clone(&memory.0).acquire_owned())
                .await
                .map_err(|_| BodyError::TooSlow(bytes.len()))?;
            big = Some(permit.map_err(|_| BodyError::GivenUp)?);
        }
    }
}

/// A client that reaches what it is told to and nothing else: a proxy or a redirect would have us count somebody else's
/// requests. Connections are kept from one round to the next.
pub(super) fn client(trust: rustls::ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(trust)
        .user_agent("serin")
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(Duration::from_secs(30))
}

/// reqwest's own message only says that sending failed; what people need lies at the bottom.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// What a stranger sends, in a message.
pub(super) fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}
