//! The routes, and the layers around them.

use crate::config::Config;
use crate::faults::{Change, Live};
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::page::{self, Past};
use crate::token::Signer;
use crate::users::Users;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use std::future::pending;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};
use tokio::sync::watch;

const LOGIN: &str = "/login";
const SESSION: &str = "/session";
const LARGEST_BODY: usize = 16 * 1024;

/// What all requests share.
pub struct App {
    version: HeaderValue,
    users: Users,
    signer: Signer,
    metrics: Metrics,
    page: Mutex<Past>,
    faults: Live,
    draining: AtomicBool,
    was_ready: watch::Sender<bool>,
}

impl App {
    pub fn new(config: &Config) -> Self {
        Self {
            version: config.version_header.clone(),
            users: config.users.clone(),
            signer: Signer::new(&config.session_key.0, config.session_ttl),
            metrics: Metrics::new(),
            page: Mutex::default(),
            faults: Live::new(config.faults, config.seed),
            draining: AtomicBool::new(false),
            was_ready: watch::Sender::new(false),
        }
    }

    /// From now on readiness fails and callers are asked to go elsewhere.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Returns once a readiness probe has been answered with yes.
    pub async fn until_ready_once(&self) {
        // Only fails when the sender is gone, and `self` holds it.
        let _ = self.was_ready.subscribe().wait_for(|ready| *ready).await;
    }
}

/// The service's own port.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route(LOGIN, post(login))
        .route(SESSION, get(session))
        .route_layer(from_fn_with_state(app.clone(), misbehave))
        .route_layer(from_fn_with_state(app.clone(), measure))
        // Routes from here on are neither measured nor broken.
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "expected /login or /session, found another path") })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(from_fn_with_state(app.clone(), hang_all))
        .layer(from_fn_with_state(app.clone(), mark))
        .with_state(app)
}

/// The port that changes faults at run time.
pub fn control_router(app: Arc<App>) -> Router {
    Router::new().route("/faults", post(change_faults).get(list_faults)).with_state(app)
}

#[derive(Deserialize)]
struct Login {
    user: String,
    password: String,
}

async fn login(State(app): State<Arc<App>>, body: Result<Json<Login>, JsonRejection>) -> Response {
    let Json(login) = match body {
        Ok(login) => login,
        Err(rejection) => return problem(rejection.status(), &rejection.body_text()),
    };
    if !app.users.accepts(&login.user, &login.password) {
        return problem(StatusCode::UNAUTHORIZED, "unknown user or wrong password");
    }
    Json(json!({"token": app.signer.sign(&login.user, unix_seconds())})).into_response()
}

async fn session(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let Some(token) = bearer else {
        return problem(StatusCode::UNAUTHORIZED, "expected the header Authorization: Bearer TOKEN");
    };
    match app.signer.check(token, unix_seconds()) {
        Ok(user) => Json(json!({"user": user})).into_response(),
        Err(error) => problem(StatusCode::UNAUTHORIZED, &error.to_string()),
    }
}

async fn readyz(State(app): State<Arc<App>>) -> Response {
    if app.is_draining() {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "stopping");
    }
    if app.faults.now().never_ready {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "not ready (fault)");
    }
    app.was_ready.send_replace(true);
    "ok".into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let page = app.faults.now().metrics;
    let mut past = app.page.lock().unwrap_or_else(PoisonError::into_inner);
    let text = past.text(page, || app.metrics.forget(), || app.metrics.text());
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page::body(page, &text)).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn change_faults(State(app): State<Arc<App>>, body: Bytes) -> Response {
    // Whatever the content type says: kubectl's raw requests name none.
    let changed = match Json::<Change>::from_bytes(&body) {
        Ok(Json(change)) => app.faults.change(&change).map_err(|error| error.to_string()),
        Err(rejection) => Err(rejection.body_text()),
    };
    match changed {
        Ok(faults) => Json(json!({"faults": faults.summary()})).into_response(),
        Err(error) => problem(StatusCode::BAD_REQUEST, &error),
    }
}

async fn list_faults(State(app): State<Arc<App>>) -> Response {
    Json(json!({"faults": app.faults.now().summary()})).into_response()
}

/// Counts and times what business routes answer, faults included.
async fn measure(State(app): State<Arc<App>>, path: MatchedPath, request: Request, next: Next) -> Response {
    // Labels are constants, so nobody can grow their number by asking.
    let route = if path.as_str() == LOGIN { LOGIN } else { SESSION };
    let method = request.method().clone();
    let arrived = Instant::now();
    let response = next.run(request).await;
    app.metrics.record(route, &method, response.status().as_u16(), arrived.elapsed());
    response
}

/// The faults of business routes.
async fn misbehave(State(app): State<Arc<App>>, path: MatchedPath, request: Request, next: Next) -> Response {
    let fate = app.faults.draw();
    if fate.hang {
        return pending().await;
    }
    if fate.drop {
        // Unwinds the connection's task, and says nothing.
        resume_unwind(Box::new("dropped (fault)"));
    }
    if !fate.wait.is_zero() {
        tokio::time::sleep(fate.wait).await;
    }
    if fate.error || fate.login_error && path.as_str() == LOGIN {
        return problem(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong (fault)");
    }
    next.run(request).await
}

/// The fault that silences every route, probes too, after the first readiness probe was content.
async fn hang_all(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if app.faults.now().hang_all && *app.was_ready.borrow() {
        return pending().await;
    }
    next.run(request).await
}

/// What every answer carries: the version and, when stopping, the request to come back on another connection.
async fn mark(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert("x-version", app.version.clone());
    if app.is_draining() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn problem(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({"error": error}))).into_response()
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
