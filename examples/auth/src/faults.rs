//! What goes wrong, and how often. Pure, but for the dice.

use crate::page::Page;
use serde::Deserialize;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;

/// A share of requests, from 0 to 1, written as a percentage.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    pub const NONE: Share = Share(0.0);
    pub const ALL: Share = Share(1.0);
    pub const EXPECTED: &str = "a share such as 20% or 0.5%";
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("expected {expected}, found \"{found}\"", expected = Share::EXPECTED)]
pub struct ShareError {
    found: String,
}

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        text.strip_suffix('%')
            // Only what people write: `f64` would also take "1e2", "inf" or "-0".
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
            .and_then(|digits| digits.parse::<f64>().ok())
            .filter(|percent| *percent <= 100.0)
            .map(|percent| Share(percent / 100.0))
            .ok_or_else(|| ShareError { found: text.to_owned() })
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Rounded, since 0.07 * 100 is not quite 7.
        write!(f, "{}%", (self.0 * 1e8).round() / 1e6)
    }
}

/// The faults that may change while the service runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// Business requests answered 500.
    pub errors: Share,
    /// Logins answered 500, besides.
    pub login_errors: Share,
    /// Business requests whose connection is closed in place of an answer, and which nobody counts.
    pub drop: Share,
    /// Added to [`latency_share`](Self::latency_share) of business requests.
    pub latency: Duration,
    pub latency_share: Share,
    /// Readiness never succeeds.
    pub never_ready: bool,
    /// Business requests are accepted and never answered.
    pub hang: bool,
    /// After having been ready once, nothing is answered any more.
    pub hang_all: bool,
    /// What `/metrics` answers with.
    pub metrics: Page,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            errors: Share::NONE,
            login_errors: Share::NONE,
            drop: Share::NONE,
            latency: Duration::ZERO,
            latency_share: Share::ALL,
            never_ready: false,
            hang: false,
            hang_all: false,
            metrics: Page::Right,
        }
    }
}

impl Faults {
    /// Those that are on, in words.
    pub fn summary(&self) -> Vec<String> {
        let mut on = Vec::new();
        if self.errors > Share::NONE {
            on.push(format!("errors {}", self.errors));
        }
        if self.login_errors > Share::NONE {
            on.push(format!("errors of logins {}", self.login_errors));
        }
        if self.drop > Share::NONE {
            on.push(format!("drop {}", self.drop));
        }
        if !self.latency.is_zero() && self.latency_share > Share::NONE {
            let latency = humantime::format_duration(self.latency);
            on.push(format!("latency {latency} for {}", self.latency_share));
        }
        let flags = [(self.never_ready, "never ready"), (self.hang, "hang"), (self.hang_all, "hang all")];
        on.extend(flags.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned()));
        if self.metrics != Page::Right {
            on.push(format!("metrics {}", self.metrics));
        }
        on
    }
}

/// A change at run time, as `POST /faults` takes it. What it does not name stays as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    errors: Option<String>,
    login_errors: Option<String>,
    drop: Option<String>,
    latency: Option<String>,
    latency_share: Option<String>,
    never_ready: Option<bool>,
    hang: Option<bool>,
    hang_all: Option<bool>,
    metrics: Option<String>,
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("{name}: expected {expected}, found \"{found}\"")]
pub struct ChangeError {
    name: &'static str,
    expected: &'static str,
    found: String,
}

impl Change {
    /// The faults after this change; on an error nothing changes.
    pub fn apply(&self, before: Faults) -> Result<Faults, ChangeError> {
        Ok(Faults {
            errors: parse_or("errors", Share::EXPECTED, self.errors.as_deref(), before.errors, |text| {
                text.parse().ok()
            })?,
            login_errors: parse_or(
                "login_errors",
                Share::EXPECTED,
                self.login_errors.as_deref(),
                before.login_errors,
                |text| text.parse().ok(),
            )?,
            drop: parse_or("drop", Share::EXPECTED, self.drop.as_deref(), before.drop, |text| text.parse().ok())?,
            latency: parse_or(
                "latency",
                "a duration such as 400ms or 5s",
                self.latency.as_deref(),
                before.latency,
                |text| humantime::parse_duration(text).ok(),
            )?,
            latency_share: parse_or(
                "latency_share",
                Share::EXPECTED,
                self.latency_share.as_deref(),
                before.latency_share,
                |text| text.parse().ok(),
            )?,
            never_ready: self.never_ready.unwrap_or(before.never_ready),
            hang: self.hang.unwrap_or(before.hang),
            hang_all: self.hang_all.unwrap_or(before.hang_all),
            metrics: parse_or("metrics", Page::EXPECTED, self.metrics.as_deref(), before.metrics, |text| {
                text.parse().ok()
            })?,
        })
    }
}

fn parse_or<T>(
    name: &'static str,
    expected: &'static str,
    text: Option<&str>,
    before: T,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, ChangeError> {
    match text {
        None => Ok(before),
        Some(text) => parse(text).ok_or_else(|| ChangeError { name, expected, found: text.to_owned() }),
    }
}

/// What a business request meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    pub wait: Duration,
    pub error: bool,
    /// If it is a login.
    pub login_error: bool,
    pub drop: bool,
    pub hang: bool,
}

/// Draws the fate of a request.
pub fn draw(faults: &Faults, dice: &mut fastrand::Rng) -> Fate {
    // All are always thrown, so that one fault's sequence doesn't depend on another being on.
    let [slow, error, login_error, drop] =
        [faults.latency_share, faults.errors, faults.login_errors, faults.drop].map(|share| dice.f64() < share.0);
    Fate { wait: if slow { faults.latency } else { Duration::ZERO }, error, login_error, drop, hang: faults.hang }
}

/// The faults in force, and the dice.
pub struct Live(Mutex<(Faults, fastrand::Rng)>);

impl Live {
    pub fn new(faults: Faults, seed: Option<u64>) -> Self {
        let dice = seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self(Mutex::new((faults, dice)))
    }

    pub fn now(&self) -> Faults {
        self.lock().0
    }

    pub fn draw(&self) -> Fate {
        let (faults, dice) = &mut *self.lock();
        draw(faults, dice)
    }

    pub fn change(&self, change: &Change) -> Result<Faults, ChangeError> {
        let mut live = self.lock();
        live.0 = change.apply(live.0)?;
        Ok(live.0)
    }

    fn lock(&self) -> MutexGuard<'_, (Faults, fastrand::Rng)> {
        // Nothing panics while holding it, and plain values can't be left half-written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages() {
        for (text, share) in [("0%", 0.0), ("1%", 0.01), ("0.5%", 0.005), ("20%", 0.2), ("100%", 1.0)] {
            assert_eq!(text.parse(), Ok(Share(share)), "{text}");
            assert_eq!(Share(share).to_string(), text);
        }
        for text in ["", "%", "20", "0.2", "101%", "-1%", "1e1%", "inf%", "NaN%", "20 %", ".%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_share_drawn_is_the_share_asked_for() {
        let faults = Faults {
            errors: Share(0.2),
            latency: Duration::from_millis(400),
            latency_share: Share(0.3),
            ..Faults::default()
        };
        let mut dice = fastrand::Rng::with_seed(7);
        let fates: Vec<Fate> = (0..100_000).map(|_| draw(&faults, &mut dice)).collect();
        let errors = fates.iter().filter(|fate| fate.error).count();
        let slow = fates.iter().filter(|fate| !fate.wait.is_zero()).count();
        // Five standard deviations.
        assert!(errors.abs_diff(20_000) < 640, "{errors}");
        assert!(slow.abs_diff(30_000) < 730, "{slow}");
        let mut again = fastrand::Rng::with_seed(7);
        assert!(fates.iter().all(|fate| *fate == draw(&faults, &mut again)), "a seed repeats");
    }

    #[test]
    fn none_is_never_and_all_is_always() {
        let mut dice = fastrand::Rng::with_seed(1);
        let all = Faults { errors: Share::ALL, ..Faults::default() };
        for _ in 0..10_000 {
            assert_eq!(draw(&Faults::default(), &mut dice), Fate::default());
            assert!(draw(&all, &mut dice).error);
        }
    }

    #[test]
    fn a_change_leaves_the_rest_alone() {
        let before = Faults { hang: true, ..Faults::default() };
        let change: Change = serde_json::from_str(r#"{"errors": "20%"}"#).unwrap();
        let after = change.apply(before).unwrap();
        assert_eq!(after, Faults { errors: Share(0.2), ..before });
        let end: Change = serde_json::from_str(r#"{"errors": "0%", "hang": false}"#).unwrap();
        assert_eq!(end.apply(after).unwrap(), Faults::default());
        let cut: Change = serde_json::from_str(r#"{"metrics": "cut"}"#).unwrap();
        assert_eq!(cut.apply(before).unwrap(), Faults { metrics: Page::Cut, ..before });
        let wrong: Change = serde_json::from_str(r#"{"latency": "slow"}"#).unwrap();
        let says = wrong.apply(before).unwrap_err().to_string();
        assert_eq!(says, "latency: expected a duration such as 400ms or 5s, found \"slow\"");
        assert!(serde_json::from_str::<Change>(r#"{"crash": "start"}"#).is_err());
    }

    #[test]
    fn the_summary_names_what_is_on() {
        assert_eq!(Faults::default().summary(), Vec::<String>::new());
        let faults = Faults {
            errors: Share(0.01),
            latency: Duration::from_millis(400),
            latency_share: Share(0.3),
            hang_all: true,
            metrics: Page::Nan,
            ..Faults::default()
        };
        assert_eq!(faults.summary(), ["errors 1%", "latency 400ms for 30%", "hang all", "metrics nan"]);
    }
}
