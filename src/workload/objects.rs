//! Deployments, ReplicaSets and Pods, as far as Serin looks at them.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{apps::v1 as apps, core::v1 as core},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::Resource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// apps/v1 Deployment.
#[derive(Resource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[resource(inherit = "apps::Deployment")]
pub struct Deployment {
    #[serde(default)]
    pub metadata: ObjectMeta,
    pub spec: DeploymentSpec,
    #[serde(default)]
    pub status: DeploymentStatus,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentSpec {
    #[serde(default = "one")]
    pub replicas: i32,
    #[serde(default)]
    pub paused: bool,
    pub selector: LabelSelector,
    pub template: Value,
    #[serde(default)]
    pub min_ready_seconds: i32,
    #[serde(default = "ten")]
    pub revision_history_limit: i32,
    #[serde(default)]
    pub strategy: Value,
}

fn one() -> i32 {
    1
}
fn ten() -> i32 {
    10
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    pub observed_generation: i64,
    pub replicas: i32,
    pub updated_replicas: i32,
    pub available_replicas: i32,
    pub conditions: Vec<StatusCondition>,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusCondition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Time>,
}

/// A label selector; kept whole.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Value>,
}

/// apps/v1 ReplicaSet.
#[derive(Resource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[resource(inherit = "apps::ReplicaSet")]
pub struct ReplicaSet {
    #[serde(default)]
    pub metadata: ObjectMeta,
    pub spec: ReplicaSetSpec,
    #[serde(default)]
    pub status: ReplicaSetStatus,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaSetSpec {
    #[serde(default = "one")]
    pub replicas: i32,
    #[serde(default)]
    pub template: Value,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetStatus {
    pub replicas: i32,
    pub available_replicas: i32,
    pub conditions: Vec<StatusCondition>,
}

/// v1 Pod.
#[derive(Resource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[resource(inherit = "core::Pod")]
pub struct Pod {
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: PodSpec,
    #[serde(default)]
    pub status: PodStatus,
}

/// Nothing of a pod's spec is needed: ports are read from the template.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct PodSpec {}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    pub phase: String,
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    pub conditions: Vec<StatusCondition>,
    pub init_container_statuses: Vec<ContainerStatus>,
    pub container_statuses: Vec<ContainerStatus>,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    pub name: String,
    pub restart_count: u32,
    pub state: ContainerState,
}

/// What keeps a container from running.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct ContainerState {
    #[serde(skip_serializing_if = "Value::is_null")]
    pub waiting: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub terminated: Value,
}

/// What containers wait for before they start, by the kubelet's words.
const WAITS_AS_USUAL: [&str; 2] = ["ContainerCreating", "PodInitializing"];

impl ContainerState {
    /// An init container is done.
    fn has_ended_well(&self) -> bool {
        self.terminated.get("exitCode").and_then(Value::as_i64) == Some(0)
    }
}

impl Pod {
    /// Ready and not going.
    pub fn is_ready(&self) -> bool {
        self.metadata.deletion_timestamp.is_none()
            && self.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
    }
    /// Its pod-template-hash.
    pub fn hash(&self) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(crate::api::names::HASH_LABEL).map(String::as_str)
    }
    /// Restarts of all its containers; one that is down right now counts as the restart that it will be.
    pub fn restarts(&self) -> u32 {
        let down =
            |status: &ContainerStatus| u32::from(!status.state.terminated.is_null() && self.status.phase == "Running");
        self.status.container_statuses.iter().map(|status| status.restart_count + down(status)).sum()
    }
    /// Why a container does not start, in Kubernetes' words.
    pub fn blocked(&self) -> Option<String> {
        let init = self.status.init_container_statuses.iter().filter(|status| !status.state.has_ended_well());
        init.chain(&self.status.container_statuses).find_map(|status| {
            let state = if status.state.waiting.is_null() { &status.state.terminated } else { &status.state.waiting };
            let reason = state.get("reason")?.as_str().filter(|reason| !WAITS_AS_USUAL.contains(reason))?;
            let message = state.get("message").and_then(Value::as_str).unwrap_or_default();
            Some(format!("container {}: {reason} {message}", status.name).trim_end().to_owned())
        })
    }
}

impl LabelSelector {
    /// Selects a pod with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|expression| meets(expression, labels))
    }
}

fn meets(expression: &Value, labels: &BTreeMap<String, String>) -> bool {
    let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
    let label = labels.get(text("key"));
    let listed = || {
        let values = expression.get("values").and_then(Value::as_array);
        values.is_some_and(|values| values.iter().any(|value| value.as_str() == label.map(String::as_str)))
    };
    match text("operator") {
        "In" => label.is_some() && listed(),
        "NotIn" => label.is_none() || !listed(),
        "Exists" => label.is_some(),
        "DoesNotExist" => label.is_none(),
        _ => false,
    }
}
