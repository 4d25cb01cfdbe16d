//! The environment, parsed once into values that can't be wrong.

use crate::faults::{Faults, Share};
use crate::page::Page;
use crate::users::Users;
use axum::http::HeaderValue;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;
use thiserror::Error;

/// Signing keys shorter than this are refused.
const SHORTEST_KEY: usize = 16;

/// The faults that the environment may name; any other `FAULT_*` is a typing error that would silently test nothing.
const FAULT_NAMES: [&str; 13] = [
    "FAULT_CONTROL",
    "FAULT_CRASH",
    "FAULT_DROP",
    "FAULT_ERRORS",
    "FAULT_HANG",
    "FAULT_HANG_ALL",
    "FAULT_LATENCY",
    "FAULT_LATENCY_SHARE",
    "FAULT_LOGIN_ERRORS",
    "FAULT_METRICS",
    "FAULT_NEVER_READY",
    "FAULT_REFUSE",
    "FAULT_SEED",
];

#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("{name}: expected {expected}, found {found:?}")]
    Invalid { name: String, expected: String, found: String },
    #[error("{name}: expected {expected}, found nothing; set it in the environment")]
    Missing { name: &'static str, expected: String },
}

/// Bytes that no debug output shows.
#[derive(Clone)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What the service was told to be.
#[derive(Clone, Debug)]
pub struct Config {
    pub version: String,
    pub version_header: HeaderValue,
    pub listen: SocketAddr,
    /// Where `POST /faults` listens, if anywhere.
    pub control: Option<SocketAddr>,
    pub session_key: Secret,
    pub session_ttl: Duration,
    pub drain: Duration,
    pub users: Users,
    pub faults: Faults,
    /// Exit 1 this long after the start; zero: before listening.
    pub crash: Option<Duration>,
    /// Close the listener some seconds after having been ready once.
    pub refuse: bool,
    /// Seed of the faults' dice; left out: a different one each time.
    pub seed: Option<u64>,
}

impl Config {
    /// Reads the variables of a process (`std::env::vars_os()`).
    pub fn from_vars(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        // Foreign variables may be anything; lossy text makes ours invalid and leaves the others alone.
        let vars = Vars(
            vars.into_iter()
                .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
                .collect(),
        );
        vars.refuse_unknown_faults()?;
        let version = vars.text("VERSION").unwrap_or("dev").to_owned();
        let session_key = vars.session_key()?;
        Ok(Self {
            version_header: HeaderValue::from_str(&version)
                .map_err(|_| invalid("VERSION", "text fit for a header", &version))?,
            version,
            listen: vars.address("LISTEN", "0.0.0.0:8080")?,
            control: match vars.flag("FAULT_CONTROL")? {
                true => Some(vars.address("CONTROL_LISTEN", "0.0.0.0:8081")?),
                false => None,
            },
            session_ttl: vars.duration("SESSION_TTL")?.unwrap_or(Duration::from_secs(3600)),
            drain: vars.duration("DRAIN")?.unwrap_or(Duration::from_secs(3)),
            users: vars.users(&session_key.0)?,
            session_key,
            faults: vars.faults()?,
            crash: vars.crash()?,
            refuse: vars.flag("FAULT_REFUSE")?,
            seed: vars.seed()?,
        })
    }

    /// The faults that are on, as the environment spells them, for the start line.
    pub fn faults_summary(&self) -> Vec<String> {
        let mut on = self.faults.summary();
        if let Some(after) = self.crash {
            on.push(format!("crash after {}", humantime::format_duration(after)));
        }
        if self.refuse {
            on.push("refuse".to_owned());
        }
        on
    }
}

fn invalid(name: &str, expected: &str, found: &str) -> ConfigError {
    ConfigError::Invalid { name: name.to_owned(), expected: expected.to_owned(), found: found.to_owned() }
}

/// The raw variables, with one reader for each type. An empty value counts as left out.
struct Vars(BTreeMap<String, String>);

impl Vars {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn refuse_unknown_faults(&self) -> Result<(), ConfigError> {
        let unknown = self.0.keys().find(|name| name.starts_with("FAULT_") && !FAULT_NAMES.contains(&name.as_str()));
        match unknown {
            Some(name) => Err(invalid("environment", &format!("one of {}", FAULT_NAMES.join(", ")), name)),
            None => Ok(()),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, ConfigError> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(invalid(name, "true or false", other)),
        }
    }

    fn duration(&self, name: &str) -> Result<Option<Duration>, ConfigError> {
        self.text(name)
            .map(|text| {
                humantime::parse_duration(text).map_err(|_| invalid(name, "a duration such as 400ms or 5s", text))
            })
            .transpose()
    }

    fn share(&self, name: &str) -> Result<Option<Share>, ConfigError> {
        self.text(name).map(|text| text.parse().map_err(|_| invalid(name, Share::EXPECTED, text))).transpose()
    }

    fn page(&self, name: &str) -> Result<Option<Page>, ConfigError> {
        self.text(name).map(|text| text.parse().map_err(|_| invalid(name, Page::EXPECTED, text))).transpose()
    }

    fn address(&self, name: &str, default: &str) -> Result<SocketAddr, ConfigError> {
        let text = self.text(name).unwrap_or(default);
        text.parse().map_err(|_| invalid(name, "an address and port such as 0.0.0.0:8080", text))
    }

    fn session_key(&self) -> Result<Secret, ConfigError> {
        let expected = format!("a secret of at least {SHORTEST_KEY} bytes, the same for all replicas");
        match self.text("SESSION_KEY") {
            None => Err(ConfigError::Missing { name: "SESSION_KEY", expected }),
            // The key itself stays out of the log.
            Some(key) if key.len() < SHORTEST_KEY => {
                Err(invalid("SESSION_KEY", &expected, &format!("({} bytes)", key.len())))
            }
            Some(key) => Ok(Secret(key.as_bytes().to_vec())),
        }
    }

    fn users(&self, key: &[u8]) -> Result<Users, ConfigError> {
        let text = self.text("USERS").unwrap_or("alice:wonderland");
        Users::parse(text, key)
            .map_err(|problem| invalid("USERS", "NAME:PASSWORD pairs with commas between them", &problem))
    }

    fn faults(&self) -> Result<Faults, ConfigError> {
        let latency = self.duration("FAULT_LATENCY")?;
        let latency_share = self.share("FAULT_LATENCY_SHARE")?;
        if let (None, Some(_)) = (latency, latency_share) {
            let expected = "a duration, since FAULT_LATENCY_SHARE is set".to_owned();
            return Err(ConfigError::Missing { name: "FAULT_LATENCY", expected });
        }
        Ok(Faults {
            errors: self.share("FAULT_ERRORS")?.unwrap_or(Share::NONE),
            login_errors: self.share("FAULT_LOGIN_ERRORS")?.unwrap_or(Share::NONE),
            drop: self.share("FAULT_DROP")?.unwrap_or(Share::NONE),
            latency: latency.unwrap_or_default(),
            latency_share: latency_share.unwrap_or(Share::ALL),
            never_ready: self.flag("FAULT_NEVER_READY")?,
            hang: self.flag("FAULT_HANG")?,
            hang_all: self.flag("FAULT_HANG_ALL")?,
            metrics: self.page("FAULT_METRICS")?.unwrap_or_default(),
        })
    }

    fn crash(&self) -> Result<Option<Duration>, ConfigError> {
        let Some(text) = self.text("FAULT_CRASH") else {
            return Ok(None);
        };
        if text == "start" {
            return Ok(Some(Duration::ZERO));
        }
        text.strip_prefix("after ")
            .and_then(|rest| humantime::parse_duration(rest).ok())
            .map(Some)
            .ok_or_else(|| invalid("FAULT_CRASH", "\"start\" or \"after 5s\"", text))
    }

    fn seed(&self) -> Result<Option<u64>, ConfigError> {
        self.text("FAULT_SEED")
            .map(|text| text.parse().map_err(|_| invalid("FAULT_SEED", "a whole number from 0", text)))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: (&str, &str) = ("SESSION_KEY", "0123456789abcdef");

    fn parse(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_vars([KEY].iter().chain(vars).map(|(k, v)| (k.into(), v.into())))
    }

    #[test]
    fn defaults_have_no_fault() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.faults, Faults::default());
        assert_eq!(config.faults_summary(), Vec::<String>::new());
        assert_eq!(config.listen.port(), 8080);
        assert_eq!(config.drain, Duration::from_secs(3));
        assert!(config.control.is_none() && config.crash.is_none() && !config.refuse);
        assert!(config.users.accepts("alice", "wonderland"));
    }

    #[test]
    fn faults_are_read() {
        let config = parse(&[
            ("FAULT_ERRORS", "20%"),
            ("FAULT_LATENCY", "400ms"),
            ("FAULT_LATENCY_SHARE", "30%"),
            ("FAULT_CRASH", "after 5s"),
            ("FAULT_REFUSE", "true"),
            ("FAULT_METRICS", "cut"),
            ("FAULT_CONTROL", "true"),
            ("FAULT_HANG", "false"),
        ])
        .unwrap();
        assert_eq!(config.faults.errors, "20%".parse().unwrap());
        assert_eq!(config.faults.latency, Duration::from_millis(400));
        assert_eq!(config.faults.latency_share, "30%".parse().unwrap());
        assert_eq!(config.crash, Some(Duration::from_secs(5)));
        assert!(config.refuse && !config.faults.hang);
        assert_eq!(config.faults.metrics, Page::Cut);
        assert_eq!(config.control.map(|address| address.port()), Some(8081));
        assert_eq!(parse(&[("FAULT_CRASH", "start")]).unwrap().crash, Some(Duration::ZERO));
        assert_eq!(parse(&[("FAULT_LATENCY", "1s")]).unwrap().faults.latency_share, Share::ALL);
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (name, value, says) in [
            ("FAULT_ERRORS", "0.2", "FAULT_ERRORS: expected a share such as 20% or 0.5%, found \"0.2\""),
            ("FAULT_LATENCY", "400", "FAULT_LATENCY: expected a duration such as 400ms or 5s, found \"400\""),
            ("FAULT_CRASH", "5s", "FAULT_CRASH: expected \"start\" or \"after 5s\", found \"5s\""),
            ("FAULT_HANG", "yes", "FAULT_HANG: expected true or false, found \"yes\""),
            (
                "FAULT_METRICS",
                "none",
                "FAULT_METRICS: expected right, cut, huge, endless, binary, nan, negative, misread, frozen or forgetful, found \"none\"",
            ),
            ("FAULT_SEED", "x", "FAULT_SEED: expected a whole number from 0, found \"x\""),
            ("LISTEN", "8080", "LISTEN: expected an address and port such as 0.0.0.0:8080, found \"8080\""),
            ("VERSION", "v\n2", "VERSION: expected text fit for a header, found \"v\\n2\""),
        ] {
            assert_eq!(parse(&[(name, value)]).unwrap_err().to_string(), says);
        }
        let typo = parse(&[("FAULT_ERROR", "20%")]).unwrap_err().to_string();
        assert!(typo.contains("one of FAULT_CONTROL") && typo.ends_with("found \"FAULT_ERROR\""), "{typo}");
        let alone = parse(&[("FAULT_LATENCY_SHARE", "20%")]).unwrap_err().to_string();
        assert!(alone.starts_with("FAULT_LATENCY: expected a duration"), "{alone}");
    }

    #[test]
    fn a_key_is_needed_and_never_printed() {
        let missing = Config::from_vars([]).unwrap_err().to_string();
        assert!(missing.starts_with("SESSION_KEY: expected a secret of at least 16 bytes"), "{missing}");
        let short = Config::from_vars([("SESSION_KEY".into(), "hush".into())]).unwrap_err().to_string();
        assert!(short.ends_with("found \"(4 bytes)\"") && !short.contains("hush"), "{short}");
    }
}
