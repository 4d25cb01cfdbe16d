//! Logs in, sends on schedule, ends in order.

use crate::Record;
use crate::args::Plan;
use crate::client::{Answer, Client, TIMEOUT};
use crate::schedule::{Arrivals, Kind};
use crate::sink::{Sink, SinkError};
use crate::tally::Tally;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// Slipping by more than this is noted in the record.
const LATE: Duration = Duration::from_millis(50);

/// Between two tries of the first login.
const LOGIN_PAUSE: Duration = Duration::from_millis(250);

/// Sockets are bounded by the requests under way; this is plenty even when everything hangs at 1000/s.
const MOST_IN_FLIGHT: u64 = 8192;

/// Files that are no sockets, generously.
const OTHER_FILES: u64 = 64;

#[derive(Debug, Error)]
pub enum RunError {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("can't listen for signals: {0}")]
    Signals(#[from] std::io::Error),
    #[error("can't build requests: {0}")]
    Request(#[from] hyper::http::Error),
    #[error(
        "expected to log in within {within:?}, found at last: {found}; check --url, --host and that the service is up"
    )]
    NoLogin { within: Duration, found: String },
    #[error("expected {user:?} to be let in, found 401; check --user and --password")]
    Refused { user: String },
    #[error("{0} came before the first login")]
    Stopped(&'static str),
}

/// The whole run in figures.
#[derive(Debug)]
pub struct Summary {
    ended: &'static str,
    sending: Duration,
    rate: f64,
    tally: Tally,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.sending.as_secs_f64();
        let achieved = self.tally.requests() as f64 / seconds.max(f64::MIN_POSITIVE);
        writeln!(f, "ended by {} after {seconds:.1} s", self.ended)?;
        writeln!(f, "rate {achieved:.1}/s of {}/s asked for", self.rate)?;
        self.tally.fmt(f)
    }
}

pub async fn run(plan: Plan) -> Result<Summary, RunError> {
    let mut stop = signals()?;
    let client = Arc::new(Client::new(&plan)?);
    let (sink, records) = Sink::open(&plan.out)?;
    tokio::select! {
        logged_in = log_in(&client, &plan) => logged_in?,
        why = stopped(&mut stop) => return Err(RunError::Stopped(why)),
    }
    let rate = plan.rate;
    let start = Instant::now();
    let ended = send_all(plan, client, records, &sink, stopped(&mut stop)).await;
    let sending = ended.at - start;
    Ok(Summary { ended: ended.why, sending, rate, tally: sink.finish()? })
}

/// The name of the signal that came, once one has.
fn signals() -> Result<watch::Receiver<Option<&'static str>>, std::io::Error> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let why = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        sender.send_replace(Some(why));
        // Kept, so that receivers see the value and not the end.
        sender.closed().await;
    });
    Ok(receiver)
}

async fn stopped(signals: &mut watch::Receiver<Option<&'static str>>) -> &'static str {
    match signals.wait_for(Option::is_some).await {
        Ok(why) => (*why).unwrap_or("a signal"),
        Err(_) => std::future::pending().await,
    }
}

async fn log_in(client: &Client, plan: &Plan) -> Result<(), RunError> {
    let deadline = Instant::now() + plan.login_within;
    loop {
        let answer = client.send(Kind::Login, None).await;
        match (answer.status, answer.error) {
            (200, None) => return Ok(()),
            (401, _) => {
                return Err(RunError::Refused { user: plan.user.clone() });
            }
            (status, error) if Instant::now() + LOGIN_PAUSE >= deadline => {
                let found = error.unwrap_or_else(|| format!("status {status}"));
                return Err(RunError::NoLogin { within: plan.login_within, found });
            }
            // The route may not be ready yet.
            _ => sleep(LOGIN_PAUSE).await,
        }
    }
}

struct SendingEnded {
    at: Instant,
    why: &'static str,
}

/// Sends until the time is over, the count is reached, `stop` or a failed sink; then waits for the answers.
async fn send_all(
    plan: Plan,
    client: Arc<Client>,
    records: Sender<Record>,
    sink: &Sink,
    stop: impl Future<Output = &'static str>,
) -> SendingEnded {
    let Plan { mut dice, mix, lasting, max_requests, users, .. } = plan;
    let room = room(plan.keep.unwrap_or(0));
    let in_flight = Arc::new(Semaphore::new(room as usize));
    let start = Instant::now();
    let mut arrivals = Arrivals::new(plan.rate, plan.jitter, dice.fork());
    let mut sent = 0;
    tokio::pin!(stop);
    let why = loop {
        let Some(due) = arrivals.next().filter(|due| *due < lasting) else {
            // The last gap belongs to the time asked for.
            tokio::select! {
                () = sleep_until(start + lasting) => break "time",
                why = &mut stop => break why,
            }
        };
        if sent == max_requests {
            break "--max-requests";
        }
        let due = start + due;
        tokio::select! {
            biased;
            why = &mut stop => break why,
            () = sleep_until(due) => {}
        }
        if sink.has_ended() {
            break "a failed write";
        }
        sent += 1;
        let kind = mix.draw(&mut dice);
        let user = users.map(|users| (sent % u64::from(users)) as u16);
        match in_flight.clone().try_acquire_owned() {
            Ok(permit) => {
                let (client, records) = (client.clone(), records.clone());
                tokio::spawn(async move {
                    note(&records, due, user, client.send(kind, user)).await;
                    drop(permit);
                });
            }
            // Said as what it is, or the service would be blamed for it.
            Err(_) => {
                let error = Some(format!("not sent: {room} requests under way already"));
                note(&records, due, user, async { Answer { error, ..Answer::default() } }).await;
            }
        }
    };
    let at = Instant::now();
    // Each request ends within its timeout; the margin is for a busy machine.
    let all = in_flight.acquire_many(room);
    let _ = tokio::time::timeout(TIMEOUT + Duration::from_secs(1), all).await;
    SendingEnded { at, why }
}

/// How many requests may be under way at once, after raising the limit of open files as far as allowed.
fn room(keep: u16) -> u32 {
    let wanted = MOST_IN_FLIGHT + u64::from(keep) + OTHER_FILES;
    let files = rlimit::increase_nofile_limit(wanted).unwrap_or(1024);
    let room = files.saturating_sub(u64::from(keep) + OTHER_FILES);
    room.clamp(1, MOST_IN_FLIGHT) as u32
}

/// Times an exchange and hands it to the sink.
async fn note(records: &Sender<Record>, due: Instant, user: Option<u16>, exchange: impl Future<Output = Answer>) {
    let t = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let sent = Instant::now();
    let Answer { status, version, error } = exchange.await;
    let ms = thousandths(sent.elapsed().as_secs_f64() * 1000.0);
    let late = sent.saturating_duration_since(due) > LATE;
    // A sink that has failed is noticed by the sender of the next request.
    let _ = records.send(Record { t: thousandths(t.as_secs_f64()), ms, status, version, error, user, late });
}

fn thousandths(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}
