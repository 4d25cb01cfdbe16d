//! Counts as JSON over HTTP: one question, one answer with numbers for both versions.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{
    body::{BodyError, Memory, client, read_body, root_cause, shorten},
    credentials::Credentials,
    deltas::{Arm, PodScrape},
    query::{LatencyCount, PodCounts},
    round::{Look, Round},
};
use crate::evidence::Blind;

/// From the question to the end of the answer.
const WITHIN: Duration = Duration::from_secs(5);
/// Bytes of an answer: some thousand versions' numbers.
const MAX_BYTES: usize = 256 * 1024;
/// Numbers may be older than three intervals by so many seconds, and newer than our clock by so many.
const LATE: f64 = 15.0;
const AHEAD: f64 = 60.0;
/// A number above is in milliseconds: as seconds it is the year 5138.
const IN_MILLISECONDS: f64 = 1e11;
/// Above this a float no longer counts one by one.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// JSON pointers, with `{arm}` and `{hash}` in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    pub requests: String,
    pub errors: Option<String>,
    pub slow: Option<String>,
    pub time: Option<String>,
}

/// A version's numbers, since whenever. 0 where nothing is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Numbers {
    #[serde(skip_serializing_if = "is_zero")]
    pub requests: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub errors: u64,
    /// Requests whose time is known, and how many of them were slow.
    #[serde(skip_serializing_if = "is_zero")]
    pub timed: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub slow: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's way")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    pub stable: Numbers,
    pub canary: Numbers,
    /// When they were taken, in seconds since 1970.
    pub time: Option<f64>,
}

/// Why there are no numbers.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("could not connect: {0}")]
    Connect(String),
    #[error("expected an answer within {WITHIN:?}, found none, or no end of it")]
    TooSlow,
    #[error("expected at most {MAX_BYTES} bytes, found more: ask for less, by the query of the url")]
    TooLarge,
    #[error("expected status 200, found {0}: give bearerToken or basicAuth, or correct the Secret")]
    Refused(StatusCode),
    #[error("expected status 200, found {0} (redirects are not followed)")]
    Status(StatusCode),
    #[error("expected a whole answer, the connection broke: {0}")]
    Broken(String),
    #[error("expected JSON, found something else: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error(
        "expected a number at {stable} or {canary}, found none at either: correct telemetry.http, or send a request"
    )]
    Nowhere { stable: String, canary: String },
    #[error("expected a whole number of requests, 0 or more, at {place}, found {found}")]
    NotANumber { place: String, found: String },
    #[error("expected at most as many at {place} as requests, found {found} of {requests}")]
    MoreThanAll { place: String, found: u64, requests: u64 },
    #[error("expected seconds or milliseconds since 1970, or RFC 3339, at {place}, found {found}")]
    NotATime { place: String, found: String },
}

/// Reads an answer; `hashes`: stable's and the canary's pod-template-hash.
///
/// # Errors
/// If it does not say what is asked for. A number that is there for one version only is 0 for the other: it has had no
/// requests yet.
pub fn read(body: &[u8], places: &Places, hashes: [&str; 2]) -> Result<Answer, HttpError> {
    let value: Value = serde_json::from_slice(body)?;
    let requests = both(&value, &places.requests, hashes)?;
    let part = |place: &Option<String>| -> Result<[u64; 2], HttpError> {
        let Some(place) = place else { return Ok([0, 0]) };
        let found = both(&value, place, hashes)?;
        match found.into_iter().zip(requests).find(|(part, all)| part > all) {
            Some((found, requests)) => Err(HttpError::MoreThanAll { place: place.clone(), found, requests }),
            None => Ok(found),
        }
    };
    let (errors, slow) = (part(&places.errors)?, part(&places.slow)?);
    let of =
        |arm: usize| Numbers { requests: requests[arm], errors: errors[arm], timed: requests[arm], slow: slow[arm] };
    let time = places.time.as_ref().map(|place| time(&value, place)).transpose()?;
    Ok(Answer { stable: of(0), canary: of(1), time })
}

/// Stable's number and the canary's.
fn both(value: &Value, place: &str, [stable, canary]: [&str; 2]) -> Result<[u64; 2], HttpError> {
    let at = |arm: &str, hash: &str| place.replace("{arm}", arm).replace("{hash}", hash);
    let places = [at("stable", stable), at("canary", canary)];
    let found = [number(value, &places[0])?, number(value, &places[1])?];
    if found == [None, None] {
        let [stable, canary] = places;
        return Err(HttpError::Nowhere { stable, canary });
    }
    Ok(found.map(Option::unwrap_or_default))
}

fn number(value: &Value, place: &str) -> Result<Option<u64>, HttpError> {
    let Some(found) = value.pointer(place).filter(|found| !found.is_null()) else { return Ok(None) };
    let whole = found.as_u64().or_else(|| {
        let float = found.as_f64().filter(|float| (0.0..=EXACT).contains(float) && float.fract() == 0.0)?;
        Some(float as u64)
    });
    let wrong = || HttpError::NotANumber { place: place.to_owned(), found: shorten(&found.to_string()) };
    whole.map(Some).ok_or_else(wrong)
}

fn time(value: &Value, place: &str) -> Result<f64, HttpError> {
    let found = value.pointer(place).unwrap_or(&Value::Null);
    let seconds = match found {
        Value::String(text) => text.parse::<Timestamp>().ok().map(|time| time.as_millisecond() as f64 / 1000.0),
        _ => found.as_f64().map(|number| if number > IN_MILLISECONDS { number / 1000.0 } else { number }),
    };
    let wrong = || HttpError::NotATime { place: place.to_owned(), found: shorten(&found.to_string()) };
    seconds.ok_or_else(wrong)
}

/// What was read before: only numbers that go on are counts.
#[derive(Debug, Default)]
pub struct Course {
    last: Option<(Answer, f64)>,
    /// How often they began anew.
    anew: u32,
}

/// One answer, and what it is for. Times in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub now: f64,
    pub interval: f64,
    pub answer: Answer,
    /// The arm has pods: stable, canary.
    pub has_pods: [bool; 2],
    /// There is an SLO on latency.
    pub latency: bool,
}

impl Course {
    /// What an answer adds to the one before.
    pub fn sift(&mut self, reading: &Reading) -> Look {
        let Reading { now, interval, answer, .. } = *reading;
        let taken = answer.time.unwrap_or(now);
        if taken > now + AHEAD {
            let why = format!("the numbers are said to be taken {:.0} s from now: set its clock", taken - now);
            return Look::Blind(why.into());
        }
        if now - taken > 3.0 * interval + LATE {
            return Look::Blind(Blind::stale(format!("the newest numbers are {:.0} s old", now - taken)));
        }
        let before = self.last.replace((answer, taken));
        match before {
            Some((_, before)) if answer.time.is_some() && taken <= before => {
                self.last = Some((answer, before));
                if taken == before { Look::Nothing } else { Look::Blind(Blind::stale("its time runs backwards")) }
            }
            Some((before, _)) if let Some(why) = fell(&before, &answer) => {
                self.anew += 1;
                Look::Blind(why.into())
            }
            before => Look::Round(self.round(reading, before.map(|(_, taken)| taken), taken)),
        }
    }

    fn round(&self, reading: &Reading, before: Option<f64>, taken: f64) -> Round {
        let Reading { answer, has_pods, latency, interval, .. } = reading;
        let pod = |(arm, name, numbers): (Arm, &str, Numbers)| PodScrape {
            pod: format!("{name}-{}", self.anew),
            arm,
            // What was counted before the first answer is no evidence.
            born_before_run: true,
            counts: Some(PodCounts {
                requests: numbers.requests,
                errors: numbers.errors,
                latencies: latency
                    .then_some(LatencyCount { total: numbers.timed, slow: numbers.slow })
                    .into_iter()
                    .collect(),
                present: true,
                ..PodCounts::default()
            }),
        };
        let arms = [(Arm::Stable, "stable", answer.stable), (Arm::Canary, "canary", answer.canary)];
        let pods = arms.into_iter().zip(has_pods).filter(|(_, has)| **has).map(|(arm, _)| pod(arm)).collect();
        Round {
            pods,
            seconds: before.map_or(*interval, |before| taken - before),
            since: before.unwrap_or(f64::NEG_INFINITY),
            fault: None,
            gap: None,
            sampled: false,
            router: None,
        }
    }
}

/// Numbers that go down are no counts since whenever; after a restart of whoever counts they begin anew.
fn fell(before: &Answer, now: &Answer) -> Option<String> {
    let pairs = [("stable", before.stable, now.stable), ("the canary", before.canary, now.canary)];
    let fell = |(arm, before, now): (&str, Numbers, Numbers)| {
        let parts = [
            ("requests", before.requests, now.requests),
            ("errors", before.errors, now.errors),
            ("slow requests", before.slow, now.slow),
        ];
        let (what, was, is) = parts.into_iter().find(|(_, was, is)| is < was)?;
        Some(format!(
            "{what} of {arm} went down from {was} to {is}, so they begin anew (a count since whenever is needed, not one of \
             the last minutes)"
        ))
    };
    pairs.into_iter().find_map(fell)
}

/// Asks one address. Keeps its connection from one question to the next.
#[derive(Debug)]
pub struct HttpCounts {
    client: Client,
    url: Url,
    memory: Memory,
}

impl HttpCounts {
    /// `resolve` has the last word on where a name leads to.
    ///
    /// # Errors
    /// If the client can't be made.
    pub fn new(
        url: Url,
        trust: rustls::ClientConfig,
        resolve: impl reqwest::dns::Resolve + 'static,
        memory: Memory,
    ) -> Result<Self, reqwest::Error> {
        let client = client(trust).dns_resolver(Arc::new(resolve)).build()?;
        Ok(Self { client, url, memory })
    }

    /// Asks, and reads the answer.
    ///
    /// # Errors
    /// If there is none, or not what is asked for.
    pub async fn ask(
        &self,
        places: &Places,
        hashes: [&str; 2],
        credentials: &Credentials,
    ) -> Result<Answer, HttpError> {
        let deadline = Instant::now() + WITHIN;
        let question = credentials.put_into(self.client.get(self.url.clone()));
        let response = match timeout_at(deadline, question.send()).await {
            Err(_) => return Err(HttpError::TooSlow),
            Ok(Err(source)) if source.is_connect() => return Err(HttpError::Connect(root_cause(&source))),
            Ok(Err(source)) => return Err(HttpError::Broken(root_cause(&source))),
            Ok(Ok(response)) => response,
        };
        match response.status() {
            StatusCode::OK => {}
            refused @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => return Err(HttpError::Refused(refused)),
            other => return Err(HttpError::Status(other)),
        }
        let body = read_body(response, MAX_BYTES, deadline, &self.memory).await.map_err(|error| match error {
            BodyError::TooLarge(_) => HttpError::TooLarge,
            BodyError::TooSlow(_) | BodyError::GivenUp => HttpError::TooSlow,
            BodyError::Broken(_, source) => HttpError::Broken(root_cause(&source)),
        })?;
        read(&body.bytes, places, hashes)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::testing::{To, certified, http, serve};
    use super::*;
    use crate::tls;

    fn places() -> Places {
        let place = |what: &str| format!("/versions/{{hash}}/{what}");
        Places {
            requests: place("requests"),
            errors: Some(place("errors")),
            slow: None,
            time: Some("/time".to_owned()),
        }
    }

    fn said(body: &str) -> Result<Answer, String> {
        read(body.as_bytes(), &places(), ["old", "new"]).map_err(|error| error.to_string())
    }

    fn numbers(requests: u64, errors: u64) -> Numbers {
        Numbers { requests, errors, timed: requests, slow: 0 }
    }

    #[test]
    fn both_versions_numbers_are_read_and_one_without_requests_has_none() {
        let body =
            r#"{"time": 1764000000, "versions": {"old": {"requests": 900, "errors": 2.0}, "new": {"requests": 0}}}"#;
        let answer = said(body).unwrap();
        assert_eq!(
            (answer.stable, answer.canary, answer.time),
            (numbers(900, 2), numbers(0, 0), Some(1_764_000_000.0))
        );
        // the canary is not there at all yet, and times are written in many ways
        for time in ["1764000000500", "\"2025-11-24T16:00:00.5Z\"", "1764000000.5"] {
            let body = format!(r#"{{"time": {time}, "versions": {{"old": {{"requests": 5, "errors": 0}}}}}}"#);
            assert_eq!(said(&body).unwrap().time, Some(1_764_000_000.5), "{time}");
        }
        let by_arm = Places { requests: "/{arm}".into(), errors: None, slow: Some("/slow/{arm}".into()), time: None };
        let body = br#"{"stable": 7, "canary": 3, "slow": {"canary": 1}}"#;
        let answer = read(body, &by_arm, ["old", "new"]).unwrap();
        assert_eq!((answer.stable.requests, answer.canary.slow, answer.time), (7, 1, None));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let of =
            |errors: &str| format!(r#"{{"time": 1, "versions": {{"old": {{"requests": 5, "errors": {errors}}}}}}}"#);
        for (body, words) in [
            ("<html>".to_owned(), "expected JSON"),
            ("{}".to_owned(), "a number at /versions/old/requests or /versions/new/requests, found none"),
            (of("\"2\""), "0 or more, at /versions/old/errors, found \"2\""),
            (of("-1"), "found -1"),
            (of("0.5"), "found 0.5"),
            (of("1e300"), "found 1e"),
            (of("6"), "found 6 of 5"),
            (of("null"), "a number at /versions/old/errors or"),
            (of("1").replace("\"time\": 1", "\"time\": \"now\""), "RFC 3339, at /time, found \"now\""),
        ] {
            let error = said(&body).unwrap_err();
            assert!(error.contains(words), "{body}: {error}");
        }
        assert!(said(&"[".repeat(100_000)).is_err(), "deep, and no stack overflows");
    }

    fn reading(now: f64, time: Option<f64>, stable: Numbers, canary: Numbers) -> Reading {
        let answer = Answer { stable, canary, time };
        Reading { now, interval: 5.0, answer, has_pods: [true, true], latency: false }
    }

    fn requests(look: Look) -> Vec<(String, u64)> {
        let Look::Round(round) = look else { panic!("{look:?}") };
        round.pods.into_iter().map(|pod| (pod.pod, pod.counts.unwrap_or_default().requests)).collect()
    }

    #[test]
    fn numbers_that_go_on_are_counts_and_those_that_begin_anew_are_a_hold_and_history() {
        let mut course = Course::default();
        let mut look =
            |now, stable, canary| course.sift(&reading(now, Some(now - 1.0), numbers(stable, 0), numbers(canary, 0)));
        let pods = |generation: u32, stable, canary| {
            vec![(format!("stable-{generation}"), stable), (format!("canary-{generation}"), canary)]
        };
        assert_eq!(requests(look(10.0, 100, 0)), pods(0, 100, 0));
        let Look::Round(round) = look(16.0, 150, 8) else { panic!("a round") };
        assert_eq!((round.seconds, round.since), (6.0, 9.0));
        // whoever counts has begun anew
        let Look::Blind(why) = look(21.0, 20, 1) else { panic!("a hold") };
        assert!(why.why().contains("requests of stable went down from 150 to 20"), "{why:?}");
        assert_eq!(requests(look(26.0, 60, 4)), pods(1, 60, 4));
    }

    #[test]
    fn old_numbers_are_no_news_and_very_old_ones_none_at_all() {
        let mut course = Course::default();
        let mut look = |now, time| course.sift(&reading(now, time, numbers(1, 0), numbers(1, 0)));
        assert!(matches!(look(100.0, Some(98.0)), Look::Round(_)));
        assert_eq!(look(105.0, Some(98.0)), Look::Nothing);
        assert_eq!(look(129.0, Some(98.0)), Look::Blind(Blind::stale("the newest numbers are 31 s old")));
        assert!(matches!(look(130.0, Some(200.0)), Look::Blind(why) if why.why().contains("70 s from now")));
        assert!(matches!(look(131.0, Some(130.0)), Look::Round(_)));
        assert!(matches!(look(132.0, Some(129.0)), Look::Blind(Blind::Stale { stale }) if stale.contains("backwards")));
        // without a time of its own each answer is as new as itself
        assert!(matches!(look(140.0, None), Look::Round(_)));
    }

    #[test]
    fn an_arm_without_pods_has_no_counts() {
        let mut course = Course::default();
        let reading = reading(1.0, None, numbers(9, 1), numbers(0, 0));
        let only_stable = Reading { has_pods: [true, false], latency: true, ..reading };
        let Look::Round(round) = course.sift(&only_stable) else { panic!("a round") };
        let counts = round.pods[0].counts.clone().unwrap_or_default();
        assert_eq!((round.pods.len(), counts.latencies.len(), counts.errors), (1, 1, 1));
    }

    #[tokio::test]
    async fn credentials_go_over_a_trusted_connection_and_a_refusal_says_what_to_do() {
        let (ca, config) = certified("counts.shop.svc");
        let body = r#"{"time": 1764000000, "versions": {"old": {"requests": 5, "errors": 1}}}"#;
        let (to, asked) = serve(Some(config), &http("200 OK", "", body));
        let ask = async |url: &str, ca: Option<&str>, to: SocketAddr, credentials: &Credentials| {
            let trust = tls::trusting(ca.map(str::as_bytes)).unwrap();
            let counts = HttpCounts::new(url.parse().unwrap(), trust, To(to), Memory::default()).unwrap();
            counts.ask(&places(), ["old", "new"], credentials).await.map_err(|error| error.to_string())
        };
        let bearer = Credentials::Bearer("s3cret".to_owned());
        let basic = Credentials::Basic { username: "serin".to_owned(), password: "pass:word".to_owned() };
        for (credentials, sent) in [(&bearer, "Bearer s3cret"), (&basic, "Basic c2VyaW46cGFzczp3b3Jk")] {
            let answer = ask("https://counts.shop.svc/v1?of=auth", Some(&ca), to, credentials).await.unwrap();
            assert_eq!(answer.stable, numbers(5, 1));
            let last = asked.lock().unwrap().last().cloned().unwrap_or_default();
            assert!(last.starts_with("GET /v1?of=auth HTTP/1.1") && last.contains(sent), "{last}");
        }
        // an authority that nobody named
        let heard = asked.lock().unwrap().len();
        let error = ask("https://counts.shop.svc/", None, to, &bearer).await.unwrap_err();
        assert!(error.contains("UnknownIssuer"), "{error}");
        assert_eq!(asked.lock().unwrap().len(), heard, "nothing was sent");
        // refused
        let (to, _) = serve(None, &http("401 Unauthorized", "", ""));
        let error = ask("http://counts.shop.svc/", None, to, &Credentials::None).await.unwrap_err();
        assert!(
            error.contains("found 401 Unauthorized: give bearerToken or basicAuth, or correct the Secret"),
            "{error}"
        );
    }
}
