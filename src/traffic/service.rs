//! The apex and the canary's Service.

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::objects::Service;
use crate::api::{RolloutRun, names};

/// The hash that the Service is pinned to.
pub fn pinned(service: &Service) -> Option<&str> {
    service.spec.selector.get(names::HASH_LABEL).map(String::as_str)
}

/// Lets the Service select one arm only.
pub fn pin(service: &Service, hash: &str) -> Value {
    json!([
        as_read(service),
        {"op": "add", "path": "/spec/selector/pod-template-hash", "value": hash}
    ])
}

/// Lets the Service select what its owner wrote.
pub fn unpin(service: &Service) -> Value {
    json!([
        as_read(service),
        {"op": "remove", "path": "/spec/selector/pod-template-hash"}
    ])
}

/// All of it, for the selector alone does not tell: a late write of an earlier run would take the next one's pin off.
fn as_read(service: &Service) -> Value {
    json!({"op": "test", "path": "/metadata/resourceVersion", "value": service.metadata.resource_version})
}

/// What the run makes for its traffic goes with it.
pub(super) fn owner(run: &RolloutRun) -> Value {
    json!({
        "apiVersion": names::API_VERSION, "kind": "RolloutRun", "controller": true,
        "name": run.metadata.name, "uid": run.metadata.uid
    })
}

/// The canary's Service: the apex's ports, the canary's pods; it goes with the run.
pub fn canary(apex: &Service, run: &RolloutRun) -> Value {
    let ports: Vec<Value> = apex.spec.ports.iter().map(without_node_port).collect();
    let mut selector = apex.spec.selector.clone();
    selector.insert(names::HASH_LABEL.to_owned(), run.spec.to.hash.clone());
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": names::canary_service(apex.metadata.name.as_deref().unwrap_or_default()),
            "namespace": apex.metadata.namespace,
            "labels": {names::RUN_LABEL: run.metadata.name},
            "ownerReferences": [owner(run)]
        },
        "spec": {"type": "ClusterIP", "ports": ports, "selector": selector}
    })
}

fn without_node_port(port: &Value) -> Value {
    let mut port = port.clone();
    if let Some(fields) = port.as_object_mut() {
        fields.remove("nodePort");
    }
    port
}

/// Ready endpoints of a Service by pod-template-hash; `hash_of` knows a pod's by its name.
pub fn ready_by_hash<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    hash_of: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, usize> {
    let mut ready = BTreeMap::new();
    let mut counted = std::collections::BTreeSet::new();
    for endpoint in slices.flat_map(|slice| slice.endpoints.iter()) {
        let is_ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
        let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref());
        // A pod appears in one slice per address family and port set.
        if let (true, Some(pod)) = (is_ready, pod)
            && counted.insert(pod.to_owned())
            && let Some(hash) = hash_of(pod)
        {
            *ready.entry(hash).or_insert(0) += 1;
        }
    }
    ready
}
