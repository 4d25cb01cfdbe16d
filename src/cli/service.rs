//! A service's traffic as people write it.

use std::str::FromStr;

use clap::ValueEnum;

use crate::{
    api::{Millis, Percent, Policy, SloKind},
    forecast::Service,
};

/// Text or JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Text,
    Json,
}

/// The service as it is now.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ServiceArgs {
    /// Requests that the service gets: 200 (a second), 3/m, 500/h. Of those that telemetry counts.
    #[arg(long)]
    pub rate: Option<Rate>,
    /// Share of them that fails now, such as 0.2%. Left out: a tenth of what the objective allows.
    #[arg(long)]
    pub errors: Option<Share>,
    /// Share of them that is slower than the threshold now. Left out: a tenth of what the objective allows.
    #[arg(long)]
    pub slow: Option<Share>,
    /// Time from a decision until the canary has no traffic: the route's change, and requests under way.
    #[arg(long, default_value = "2s")]
    pub reaction: Millis,
}

impl ServiceArgs {
    /// With what was observed where nothing is said.
    pub(super) fn service(&self, policy: &Policy, observed: Option<Service>) -> Result<Service, String> {
        let rate = self.rate.map(|rate| rate.0).or(observed.map(|service| service.rate));
        let usual = |errors: bool| {
            let of_kind = policy.slos.iter().filter(|slo| (slo.kind == SloKind::Errors) == errors);
            of_kind.map(|slo| slo.bad_allowed / 10.0).reduce(f64::min).unwrap_or(0.0)
        };
        Ok(Service {
            rate: rate.ok_or(
                "expected --rate, the requests a second that the service gets, found none: give it, such as --rate 200",
            )?,
            errors: self
                .errors
                .map(|share| share.0)
                .or(observed.map(|service| service.errors))
                .unwrap_or_else(|| usual(true)),
            slow: self
                .slow
                .map(|share| share.0)
                .or(observed.map(|service| service.slow))
                .unwrap_or_else(|| usual(false)),
        })
    }
}

/// Requests a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate(pub f64);

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = text.split_once('/').unwrap_or((text, "s"));
        let seconds = match unit {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(format!("expected a rate such as 200 (a second), 3/m or 500/h, found {text:?}")),
        };
        match number.parse::<f64>() {
            Ok(number) if number > 0.0 && number <= 1e9 => Ok(Self(number / seconds)),
            _ => Err(format!("expected a rate above 0, such as 200 (a second), 3/m or 500/h, found {text:?}")),
        }
    }
}

/// A share of requests, 0..1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share(pub f64);

impl FromStr for Share {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let percent: Percent = text.parse().map_err(|error| format!("{error}"))?;
        match percent.ratio() {
            ratio if (0.0..=1.0).contains(&ratio) => Ok(Self(ratio)),
            _ => Err(format!("expected a share from 0% to 100%, found {text:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_a_second_a_minute_or_an_hour() {
        for (text, rate) in [("200", 200.0), ("0.5", 0.5), ("3/m", 0.05), ("7200/h", 2.0), ("2/s", 2.0)] {
            assert_eq!(text.parse(), Ok(Rate(rate)));
        }
        for text in ["", "0", "-1", "x", "3/d", "NaN", "inf", "1e12"] {
            let said = text.parse::<Rate>().expect_err(text);
            assert!(said.contains("such as 200") && said.contains(text), "{said}");
        }
    }

    #[test]
    fn shares_are_at_most_all() {
        assert_eq!("0.2%".parse(), Ok(Share(0.002)));
        assert!("101%".parse::<Share>().expect_err("too much").contains("from 0% to 100%"));
        assert!("0.2".parse::<Share>().expect_err("no sign").contains("such as 99.5%"));
    }
}
