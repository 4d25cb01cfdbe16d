//! Sends writes to the API server: each with a timeout, a counter, and only while we lead.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kube::{
    Api, Client,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams, Preconditions,
        PropagationPolicy,
    },
};
use serde_json::Value;

use super::{
    caches::{Pending, Wrote, version},
    metrics::Metrics,
    world::{Kind, Verb, Write},
};
use crate::api::names;

/// An API write that takes longer than this has failed; it may have been done all the same.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Until when we may write, in milliseconds since the process began; the lease moves it on.
#[derive(Clone, Debug)]
pub(super) struct Leading {
    began: Instant,
    until: Arc<AtomicU64>,
}

impl Leading {
    pub fn new() -> Self {
        Self { began: Instant::now(), until: Arc::new(AtomicU64::new(0)) }
    }
    pub fn extend(&self, until: Instant) {
        let millis = until.saturating_duration_since(self.began).as_millis();
        self.until.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
    pub fn end(&self) {
        self.until.store(0, Ordering::SeqCst);
    }
    pub fn is_leading(&self) -> bool {
        self.began.elapsed().as_millis() < u128::from(self.until.load(Ordering::SeqCst))
    }
}

/// A write that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("{verb} {kind} {name}: what was read has changed meanwhile; looking again")]
    Conflict { verb: &'static str, kind: &'static str, name: String },
    #[error("{verb} {kind} {name}: expected an answer within {} s, got none; looking again", TIMEOUT.as_secs())]
    Timeout { verb: &'static str, kind: &'static str, name: String },
    #[error("{verb} {kind} {name}: not sent, another controller may lead")]
    NotLeading { verb: &'static str, kind: &'static str, name: String },
    #[error("{verb} {kind} {name}: {source}")]
    Refused { verb: &'static str, kind: &'static str, name: String, source: Box<kube::Error> },
    #[error("{verb} {kind} {name}: not a JSON patch: {source}")]
    Patch { verb: &'static str, kind: &'static str, name: String, source: serde_json::Error },
}

impl SendError {
    /// Looking again will do; nothing to tell people.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::NotLeading { .. })
    }
}

/// Sends writes of one namespace.
pub(super) struct Sender {
    pub client: Client,
    pub leading: Leading,
    pub metrics: Arc<Metrics>,
}

fn resource(kind: Kind) -> ApiResource {
    let (group, version) = match kind {
        Kind::Rollout | Kind::RolloutRun => (names::GROUP, names::VERSION),
        Kind::Deployment | Kind::ReplicaSet => ("apps", "v1"),
        Kind::Pod | Kind::Service | Kind::ConfigMap | Kind::Secret => ("", "v1"),
        Kind::HttpRoute | Kind::GrpcRoute => ("gateway.networking.k8s.io", "v1"),
    };
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind.as_str()))
}

impl Sender {
    /// Sends one write and says what the caches should show after it.
    pub async fn send(&self, namespace: &str, write: &Write) -> Result<Pending, SendError> {
        let (verb, kind, name) = (write.verb(), write.kind.as_str(), write.name.clone());
        if !self.leading.is_leading() {
            return Err(SendError::NotLeading { verb, kind, name });
        }
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource(write.kind));
        let result = match tokio::time::timeout(TIMEOUT, self.attempt(&api, write)).await {
            Ok(result) => result,
            Err(_) => Err(SendError::Timeout { verb, kind, name }),
        };
        let outcome = match &result {
            Ok(_) => "ok",
            Err(error) if error.is_conflict() => "conflict",
            Err(_) => "error",
        };
        self.metrics.wrote(kind, verb, outcome);
        tracing::debug!(namespace, kind, name = write.name, verb, outcome, "write");
        result
    }

    async fn attempt(&self, api: &Api<DynamicObject>, write: &Write) -> Result<Pending, SendError> {
        let failed = |error: kube::Error| classify(write, error);
        let patch = |ops: &Value| -> Result<Patch<()>, SendError> {
            let patch = serde_json::from_value(ops.clone()).map_err(|source| SendError::Patch {
                verb: write.verb(),
                kind: write.kind.as_str(),
                name: write.name.clone(),
                source,
            })?;
            Ok(Patch::Json(patch))
        };
        let params = PatchParams { field_manager: Some(names::MANAGER.into()), ..PatchParams::default() };
        let object = match &write.verb {
            Verb::Create(body) => {
                let object: DynamicObject = serde_json::from_value(body.clone()).map_err(|source| {
                    SendError::Patch { verb: write.verb(), kind: write.kind.as_str(), name: write.name.clone(), source }
                })?;
                let params = PostParams { field_manager: Some(names::MANAGER.into()), ..PostParams::default() };
                api.create(&params, &object).await.map_err(failed)?
            }
            Verb::Patch(ops) => api.patch(&write.name, &params, &patch(ops)?).await.map_err(failed)?,
            Verb::PatchStatus(ops) => api.patch_status(&write.name, &params, &patch(ops)?).await.map_err(failed)?,
            Verb::Delete { uid } => {
                let params = DeleteParams {
                    propagation_policy: Some(PropagationPolicy::Background),
                    preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }),
                    ..DeleteParams::default()
                };
                match api.delete(&write.name, &params).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    Err(error) => return Err(failed(error)),
                }
                return Ok(pending(write, Wrote::Gone { uid: uid.clone() }));
            }
        };
        Ok(pending(write, Wrote::Version(version(object.metadata.resource_version.as_deref()))))
    }
}

fn pending(write: &Write, wrote: Wrote) -> Pending {
    Pending { kind: write.kind, name: write.name.clone(), wrote, at: Instant::now(), patience: write.patience() }
}

/// A JSON patch whose `test` or path does not hold any more comes back as 422 without details; objects that changed or
/// went as 409 and 404.
fn classify(write: &Write, error: kube::Error) -> SendError {
    let (verb, kind, name) = (write.verb(), write.kind.as_str(), write.name.clone());
    match &error {
        kube::Error::Api(status)
            if status.code == 409
                || (status.code == 404 && !matches!(write.verb, Verb::Create(_)))
                || (status.code == 422 && status.message.starts_with("the server rejected our request")) =>
        {
            SendError::Conflict { verb, kind, name }
        }
        _ => SendError::Refused { verb, kind, name, source: Box::new(error) },
    }
}
