//! Flags as people write them, then as a plan that can be carried out.

use crate::schedule::{Jitter, Mix};
use crate::target::{Target, TargetError};
use hyper::header::{HeaderName, HeaderValue};
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Sends HTTP requests to the demo service at a constant rate and writes one JSON line for each.
///
/// Open loop: requests are sent when they are due, also while earlier ones are unanswered. Stops early on SIGINT or SIGTERM and prints
/// a summary. Exit code 0 unless it could not run; failed requests are a result, not an error.
#[derive(Debug, clap::Parser)]
#[command(version)]
pub struct Args {
    /// http://ADDRESS:PORT of the gateway or Service; loopback, private or benchmark addresses
    #[arg(long)]
    url: String,
    /// The Host header, if it is not the URL's
    #[arg(long)]
    host: Option<String>,
    /// Requests per second, at most 10000
    #[arg(long, default_value_t = 50.0, value_parser = rate)]
    rate: f64,
    /// How long to send, such as 60s or 5m, at most 24h
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = lasting)]
    lasting: Duration,
    /// The file to write, one JSON line for each request
    #[arg(long)]
    out: PathBuf,
    /// Idle connections to keep for later requests
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// A new connection for each request, so that kube-proxy balances every one of them
    #[arg(long, conflicts_with = "connections")]
    close: bool,
    /// Weights of POST /login and GET /session
    #[arg(long, default_value = "login:1,session:9")]
    mix: Mix,
    /// Stop after that many requests
    #[arg(long, default_value_t = 200_000)]
    max_requests: u64,
    /// How the times between requests are spread
    #[arg(long, value_enum, default_value_t = Jitter::None)]
    jitter: Jitter,
    /// Seed of mix and jitter; left out: a different one each time
    #[arg(long)]
    seed: Option<u64>,
    /// Users that take turns, each with cookies of its own, as browsers keep them
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    users: Option<u16>,
    /// A header of every request, as NAME:VALUE; may be given more than once
    #[arg(long, value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    #[arg(long, default_value = "alice")]
    user: String,
    #[arg(long, default_value = "wonderland")]
    password: String,
    /// How long to keep trying the first login
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = lasting)]
    login_within: Duration,
    /// Send to public addresses too
    #[arg(long)]
    allow_any: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (0.01..=10_000.0).contains(rate))
        .ok_or_else(|| "expected requests per second, from 0.01 to 10000".to_owned())
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let parsed = text.split_once(':').and_then(|(name, value)| Some((name.parse().ok()?, value.trim().parse().ok()?)));
    parsed.ok_or_else(|| "expected NAME:VALUE".to_owned())
}

fn lasting(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|lasting| *lasting <= Duration::from_secs(24 * 3600))
        .ok_or_else(|| "expected a duration such as 60s or 5m, at most 24h".to_owned())
}

#[derive(Debug, Error)]
pub enum PlanError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("--host: expected a host name, found {0:?}")]
    Host(String),
}

/// What to send where: nothing in it can be wrong any more.
#[derive(Debug)]
pub struct Plan {
    pub target: Target,
    pub host: HeaderValue,
    pub rate: f64,
    pub lasting: Duration,
    pub out: PathBuf,
    /// Idle connections to keep; none: a new connection for each request.
    pub keep: Option<u16>,
    pub mix: Mix,
    pub max_requests: u64,
    pub jitter: Jitter,
    pub dice: fastrand::Rng,
    /// Users that keep cookies; none: nobody keeps any.
    pub users: Option<u16>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub user: String,
    pub password: String,
    pub login_within: Duration,
}

impl Plan {
    pub async fn new(args: Args) -> Result<Self, PlanError> {
        let target = Target::find(&args.url, args.allow_any).await?;
        let host = args.host.unwrap_or_else(|| target.authority.to_string());
        Ok(Self {
            host: HeaderValue::from_str(&host).map_err(|_| PlanError::Host(host))?,
            target,
            rate: args.rate,
            lasting: args.lasting,
            out: args.out,
            keep: (!args.close).then_some(args.connections),
            mix: args.mix,
            max_requests: args.max_requests,
            jitter: args.jitter,
            dice: args.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed),
            users: args.users,
            headers: args.header,
            user: args.user,
            password: args.password,
            login_within: args.login_within,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn parse(more: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["load", "--url", "http://10.0.0.1", "--out", "f"].iter().chain(more))
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        assert!(parse(&["--rate", "200", "--for", "5m", "--jitter", "poisson", "--close"]).is_ok());
        for wrong in [
            ["--rate", "0"],
            ["--rate", "NaN"],
            ["--rate", "10001"],
            ["--for", "25h"],
            ["--for", "60"],
            ["--connections", "0"],
            ["--mix", "login:0"],
            ["--jitter", "some"],
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }
}
