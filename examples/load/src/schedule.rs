//! When requests are due and what they ask for. Pure: the dice are passed in.

use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;

/// How the times between requests are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Jitter {
    /// Evenly spaced.
    None,
    /// Independent callers: exponentially distributed gaps with the same mean.
    Poisson,
}

/// Endless times since the start at which requests are due.
pub struct Arrivals {
    rate: f64,
    jitter: Jitter,
    dice: fastrand::Rng,
    sent: u64,
    at: f64,
}

impl Arrivals {
    /// `rate` per second, more than 0.
    pub fn new(rate: f64, jitter: Jitter, dice: fastrand::Rng) -> Self {
        Self { rate, jitter, dice, sent: 0, at: 0.0 }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.at = match self.jitter {
            // From the count, not by adding up gaps: no error accumulates.
            Jitter::None => self.sent as f64 / self.rate,
            // 1 - f64() is never 0.
            Jitter::Poisson => self.at - (1.0 - self.dice.f64()).ln() / self.rate,
        };
        self.sent += 1;
        Some(Duration::from_secs_f64(self.at))
    }
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Login,
    Session,
}

/// How often each kind is sent, relative to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    login: u32,
    session: u32,
}

#[derive(Debug, Error)]
#[error("expected weights such as login:1,session:9, at least one of them more than 0")]
pub struct MixError;

impl Mix {
    pub fn draw(&self, dice: &mut fastrand::Rng) -> Kind {
        let all = u64::from(self.login) + u64::from(self.session);
        if dice.u64(..all) < u64::from(self.login) { Kind::Login } else { Kind::Session }
    }
}

impl FromStr for Mix {
    type Err = MixError;

    fn from_str(text: &str) -> Result<Self, MixError> {
        let mut mix = Self { login: 0, session: 0 };
        for part in text.split(',') {
            let (name, weight) = part.trim().split_once(':').ok_or(MixError)?;
            let weight = weight.parse().map_err(|_| MixError)?;
            match name {
                "login" => mix.login = weight,
                "session" => mix.session = weight,
                _ => return Err(MixError),
            }
        }
        if mix.login == 0 && mix.session == 0 { Err(MixError) } else { Ok(mix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(rate: f64, jitter: Jitter) -> Arrivals {
        Arrivals::new(rate, jitter, fastrand::Rng::with_seed(3))
    }

    #[test]
    fn even_arrivals_are_even_for_ever() {
        let times: Vec<Duration> = arrivals(200.0, Jitter::None).take(3).collect();
        assert_eq!(times, [0, 5, 10].map(Duration::from_millis));
        let far = arrivals(3.0, Jitter::None).nth(3_000_000).unwrap();
        assert_eq!(far, Duration::from_secs(1_000_000));
    }

    #[test]
    fn poisson_arrivals_have_the_mean_and_the_spread() {
        let times: Vec<f64> = arrivals(100.0, Jitter::Poisson).take(100_000).map(|t| t.as_secs_f64()).collect();
        assert!(times.is_sorted());
        let mean = times[times.len() - 1] / times.len() as f64;
        assert!((mean - 0.01).abs() < 0.0002, "{mean}");
        // Of exponential gaps 1 - 1/e are shorter than the mean.
        let short = times.windows(2).filter(|pair| pair[1] - pair[0] < 0.01).count();
        assert!(short.abs_diff(63_212) < 800, "{short}");
    }

    #[test]
    fn the_mix_is_drawn_by_weight() {
        let mix: Mix = "login:1,session:9".parse().unwrap();
        let mut dice = fastrand::Rng::with_seed(5);
        let logins = (0..100_000).filter(|_| mix.draw(&mut dice) == Kind::Login).count();
        assert!(logins.abs_diff(10_000) < 480, "{logins}");
        let only: Mix = "session:1".parse().unwrap();
        assert!((0..1000).all(|_| only.draw(&mut dice) == Kind::Session));
        for text in ["", "login", "login:0", "login:-1", "logout:1", "login:1,", "login:0,session:0"] {
            assert!(text.parse::<Mix>().is_err(), "{text}");
        }
    }
}
