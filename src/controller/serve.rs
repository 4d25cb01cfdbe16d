//! /healthz, /readyz and /metrics.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};

use super::metrics::Metrics;

/// Serves until the process ends.
pub(super) async fn serve(
    listen: SocketAddr,
    metrics: Arc<Metrics>,
    ready: tokio::sync::watch::Receiver<bool>,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state((metrics, ready));
    let listener = tokio::net::TcpListener::bind(listen).await?;
    axum::serve(listener, app).await
}

type Shared = (Arc<Metrics>, tokio::sync::watch::Receiver<bool>);

/// Ready to lead, or leading: the API server has answered.
async fn readyz(State((_, ready)): State<Shared>) -> impl IntoResponse {
    match *ready.borrow() {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the API server has not answered yet"),
    }
}

async fn metrics_text(State((metrics, _)): State<Shared>) -> impl IntoResponse {
    match metrics.text() {
        Ok(text) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            error.to_string(),
        ),
    }
}
