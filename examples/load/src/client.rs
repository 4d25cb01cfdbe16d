//! Sends one request and says how it was answered.

use crate::args::Plan;
use crate::schedule::Kind;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, COOKIE, HOST, HeaderValue, SET_COOKIE};
use hyper::http::uri::PathAndQuery;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// A request without an answer by then has failed.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Shorter than the idle timeouts of usual gateways, so that it is us who close.
const KEEP_IDLE: Duration = Duration::from_secs(20);

const LARGEST_ANSWER: usize = 64 * 1024;
const LONGEST_VERSION: usize = 64;

/// How a request was answered, in the terms of a [`crate::Record`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub version: Option<String>,
    pub error: Option<String>,
}

pub struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
    login: Uri,
    session: Uri,
    headers: HeaderMap,
    user: String,
    credentials: Bytes,
    /// Each user's cookies by name.
    jars: Vec<Jar>,
    /// `Bearer ...` of the latest login.
    bearer: Mutex<Option<HeaderValue>>,
}

#[derive(Deserialize)]
struct LoggedIn {
    token: String,
}

#[derive(Deserialize)]
struct Session {
    user: String,
}

impl Client {
    pub fn new(plan: &Plan) -> Result<Self, hyper::http::Error> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, plan.host.clone());
        headers.extend(plan.headers.iter().cloned());
        if plan.keep.is_none() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let credentials = serde_json::json!({"user": plan.user, "password": plan.password}).to_string();
        Ok(Self {
            pool: pool(plan.keep),
            login: uri(plan, PathAndQuery::from_static("/login"))?,
            session: uri(plan, PathAndQuery::from_static("/session"))?,
            headers,
            user: plan.user.clone(),
            credentials: credentials.into(),
            jars: (0..plan.users.unwrap_or(0)).map(|_| Mutex::default()).collect(),
            bearer: Mutex::new(None),
        })
    }

    /// Sends one request; a login's token serves all later requests.
    pub async fn send(&self, kind: Kind, user: Option<u16>) -> Answer {
        match timeout(TIMEOUT, self.exchange(kind, user)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer { error: Some(error), ..Answer::default() },
            Err(_) => {
                let error = Some(format!("no answer within {} s", TIMEOUT.as_secs()));
                Answer { error, ..Answer::default() }
            }
        }
    }

    async fn exchange(&self, kind: Kind, user: Option<u16>) -> Result<Answer, String> {
        let jar = user.and_then(|user| self.jars.get(usize::from(user)));
        let mut request = self.request(kind);
        if let Some(cookies) = jar.and_then(kept) {
            request.headers_mut().insert(COOKIE, cookies);
        }
        let response = self.pool.request(request).await.map_err(|e| chain(&e))?;
        if let Some(jar) = jar {
            keep(jar, &response);
        }
        let (status, version) = (response.status(), version(&response));
        let body = Limited::new(response.into_body(), LARGEST_ANSWER);
        let body = body.collect().await.map_err(|e| chain(&*e))?.to_bytes();
        let error = if status == StatusCode::OK { self.check(kind, &body).err() } else { None };
        Ok(Answer { status: status.as_u16(), version, error })
    }

    fn request(&self, kind: Kind) -> Request<Full<Bytes>> {
        let (method, uri, body) = match kind {
            Kind::Login => (Method::POST, &self.login, self.credentials.clone()),
            Kind::Session => (Method::GET, &self.session, Bytes::new()),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        let mut headers = self.headers.clone();
        match kind {
            Kind::Login => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
            Kind::Session => {
                let bearer = self.bearer.lock().unwrap_or_else(PoisonError::into_inner).clone();
                bearer.map(|bearer| headers.insert(AUTHORIZATION, bearer));
            }
        }
        *request.headers_mut() = headers;
        request
    }

    /// Looks into a 200: a gateway's or a broken version's page is not an answer.
    fn check(&self, kind: Kind, body: &[u8]) -> Result<(), String> {
        match kind {
            Kind::Login => {
                let LoggedIn { token } =
                    serde_json::from_slice(body).map_err(|_| "200, but expected {\"token\"}".to_owned())?;
                let bearer = HeaderValue::from_str(&format!("Bearer {token}"))
                    .map_err(|_| "200, but the token is not fit for a header".to_owned())?;
                *self.bearer.lock().unwrap_or_else(PoisonError::into_inner) = Some(bearer);
            }
            Kind::Session => {
                let Session { user } =
                    serde_json::from_slice(body).map_err(|_| "200, but expected {\"user\"}".to_owned())?;
                if user != self.user {
                    return Err("200, but for another user".to_owned());
                }
            }
        }
        Ok(())
    }
}

type Jar = Mutex<BTreeMap<String, String>>;

/// The header of a user's cookies.
fn kept(jar: &Jar) -> Option<HeaderValue> {
    let jar = jar.lock().unwrap_or_else(PoisonError::into_inner);
    let pairs: Vec<String> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
    HeaderValue::from_str(&pairs.join("; ")).ok().filter(|value| !value.is_empty())
}

/// Names and values only: all paths are one host's, and a test is over before a cookie is.
fn keep<B>(jar: &Jar, response: &Response<B>) {
    for set in response.headers().get_all(SET_COOKIE) {
        let pair = set.to_str().ok().and_then(|text| text.split(';').next()?.split_once('='));
        if let Some((name, value)) = pair {
            let mut jar = jar.lock().unwrap_or_else(PoisonError::into_inner);
            jar.insert(name.trim().to_owned(), value.trim().to_owned());
        }
    }
}

fn pool(keep: Option<u16>) -> Pool<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(TIMEOUT));
    Pool::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(KEEP_IDLE)
        .pool_max_idle_per_host(usize::from(keep.unwrap_or(0)))
        .build(connector)
}

/// The address that was checked, not the name, so that nothing is resolved again.
fn uri(plan: &Plan, path: PathAndQuery) -> Result<Uri, hyper::http::Error> {
    Uri::builder().scheme("http").authority(plan.target.address.to_string()).path_and_query(path).build()
}

fn version<B>(response: &Response<B>) -> Option<String> {
    let value = response.headers().get("x-version")?.to_str().ok()?;
    Some(value.chars().take(LONGEST_VERSION).collect())
}

/// An error with its causes, each once: the interesting one ("Connection refused") is the last.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
