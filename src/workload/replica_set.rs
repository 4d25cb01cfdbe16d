//! The canary's ReplicaSet: made new, or borrowed from the Deployment's history.

use serde_json::{Value, json};

use super::objects::{Deployment, ReplicaSet};
use crate::api::{RolloutRun, names};

/// Its pod-template-hash.
pub fn hash_of(set: &ReplicaSet) -> Option<&str> {
    set.metadata.labels.as_ref()?.get(names::HASH_LABEL).map(String::as_str)
}

/// Kind and uid of its controller.
pub fn owner_of(set: &ReplicaSet) -> Option<(&str, &str)> {
    let owners = set.metadata.owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| (owner.kind.as_str(), owner.uid.as_str()))
}

fn owner_reference(run: &RolloutRun) -> Value {
    json!({
        "apiVersion": names::API_VERSION, "kind": "RolloutRun", "controller": true, "blockOwnerDeletion": true,
        "name": run.metadata.name, "uid": run.metadata.uid
    })
}

/// A new ReplicaSet of the Deployment's template, owned by the run, so that the Deployment does not adopt it yet.
pub fn canary(deployment: &Deployment, run: &RolloutRun, replicas: i32) -> Value {
    let hash = &run.spec.to.hash;
    let mut template = deployment.spec.template.clone();
    template["metadata"]["labels"][names::HASH_LABEL] = json!(hash);
    let mut selector = deployment.spec.selector.clone();
    selector.match_labels.insert(names::HASH_LABEL.to_owned(), hash.clone());
    let mut labels = template["metadata"]["labels"].clone();
    labels[names::RUN_LABEL] = json!(run.metadata.name);
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default()),
            "namespace": deployment.metadata.namespace, "labels": labels,
            "ownerReferences": [owner_reference(run)]
        },
        "spec": {"replicas": replicas, "minReadySeconds": deployment.spec.min_ready_seconds, "selector": selector, "template": template}
    })
}

/// Takes a kept ReplicaSet of the Deployment over for the run: in one patch, against exactly the owner that was seen.
pub fn borrow(set: &ReplicaSet, run: &RolloutRun) -> Value {
    json!([
        as_owned(set),
        {"op": "add", "path": "/metadata/ownerReferences", "value": [owner_reference(run)]},
        {"op": "add", "path": "/metadata/labels/serin.dev~1run", "value": run.metadata.name}
    ])
}

/// Scales a ReplicaSet that has exactly this owner still.
pub fn scale(set: &ReplicaSet, replicas: i32) -> Value {
    json!([
        as_owned(set),
        {"op": "replace", "path": "/spec/replicas", "value": replicas}
    ])
}

/// It has the owners that were read. Of one without, where nothing can be tested (RFC 6902), all else is as read, too.
pub(super) fn as_owned(set: &ReplicaSet) -> Value {
    match &set.metadata.owner_references {
        Some(owners) => json!({"op": "test", "path": "/metadata/ownerReferences", "value": owners}),
        None => json!({"op": "test", "path": "/metadata/resourceVersion", "value": set.metadata.resource_version}),
    }
}
