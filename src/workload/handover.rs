//! The handover: an orphaned ReplicaSet whose template equals the Deployment's is adopted by its controller at once, and
//! a saturated one makes it scale the old ReplicaSets to 0, even while the Deployment is paused.

use serde_json::{Value, json};

use super::{
    objects::{Deployment, ReplicaSet},
    replica_set::as_owned,
};
use crate::api::names;

/// Orphans the canary's ReplicaSet with the annotations by which the Deployment controller knows it as saturated
/// (deployment_util.go: IsSaturated compares desired-replicas with spec.replicas).
pub fn hand_over(deployment: &Deployment, set: &ReplicaSet) -> Value {
    let replicas = deployment.spec.replicas;
    let mut ops = release(set);
    if set.metadata.annotations.as_ref().is_none_or(std::collections::BTreeMap::is_empty) {
        ops.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    ops.push(annotation("deployment.kubernetes.io~1desired-replicas", replicas));
    ops.push(annotation("deployment.kubernetes.io~1max-replicas", replicas + max_surge(deployment)));
    Value::Array(ops)
}

/// Gives a borrowed ReplicaSet back: the Deployment adopts it again.
pub fn give_back(set: &ReplicaSet) -> Value {
    Value::Array(release(set))
}

fn release(set: &ReplicaSet) -> Vec<Value> {
    let mut ops = vec![as_owned(set)];
    if set.metadata.owner_references.is_some() {
        ops.push(json!({"op": "remove", "path": "/metadata/ownerReferences"}));
    }
    if set.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(names::RUN_LABEL)) {
        ops.push(json!({"op": "remove", "path": "/metadata/labels/serin.dev~1run"}));
    }
    ops
}

fn annotation(name: &str, value: i32) -> Value {
    json!({"op": "add", "path": format!("/metadata/annotations/{name}"), "value": value.to_string()})
}

/// Pods above the wanted number that the strategy allows; a percent is rounded up, as Kubernetes does.
fn max_surge(deployment: &Deployment) -> i32 {
    let surge = deployment.spec.strategy.pointer("/rollingUpdate/maxSurge");
    match surge {
        Some(Value::Number(number)) => number.as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
        Some(Value::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(25);
            i32::try_from((i64::from(deployment.spec.replicas) * percent + 99) / 100).unwrap_or(0)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surge_is_counted_as_kubernetes_does() {
        for (surge, replicas, pods) in
            [(json!("25%"), 4, 1), (json!("25%"), 5, 2), (json!(3), 10, 3), (Value::Null, 4, 0)]
        {
            let mut deployment = Deployment::default();
            deployment.spec.replicas = replicas;
            deployment.spec.strategy = json!({"rollingUpdate": {"maxSurge": surge}});
            assert_eq!(max_surge(&deployment), pods, "{surge} of {replicas}");
        }
    }
}
