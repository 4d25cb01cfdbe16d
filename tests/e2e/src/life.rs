//! What happens to a workload besides releases: autoscalers, evictions, budgets, quotas.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    Result,
    cluster::{eventually, get, kubectl, kubectl_with, list},
    shop::Shop,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A HorizontalPodAutoscaler of the Deployment. Kubernetes' own controller scales it, by the bounds alone, which it heeds
/// without any metrics; KEDA makes such an object, too.
pub struct Autoscaler<'a> {
    shop: &'a Shop,
}

impl<'a> Autoscaler<'a> {
    /// Makes it, with this size as both bounds.
    pub fn new(shop: &'a Shop, size: i64) -> Result<Self> {
        let autoscaler = Self { shop };
        autoscaler.bounds(size)?;
        Ok(autoscaler)
    }

    fn bounds(&self, size: i64) -> Result<()> {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
        let autoscaler = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "auth"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "auth"},
                "minReplicas": size, "maxReplicas": size, "metrics": [cpu]
            }
        });
        self.shop.apply(&autoscaler.to_string()).map(drop)
    }

    /// Changes both bounds, and waits until the autoscaler has scaled the Deployment.
    pub fn to(&self, size: i64) -> Result<()> {
        self.bounds(size)?;
        eventually(&format!("the autoscaler to make it {size}"), MINUTE, || {
            let deployment = get(&self.shop.namespace, "deployment", "auth")?.unwrap_or_default();
            Ok((deployment["spec"]["replicas"] == size).then_some(()))
        })
    }
}

/// A PodDisruptionBudget over the pods of both versions that lets one go at a time.
pub fn budget(shop: &Shop) -> Result<()> {
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "auth"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "auth"}}}
    });
    shop.apply(&budget.to_string()).map(drop)
}

/// Evicts a pod; an error if its budget does not let it go now.
pub fn evict(shop: &Shop, pod: &str) -> Result<()> {
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": shop.namespace}});
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", shop.namespace);
    kubectl_with(&["create", "--raw", &path, "-f", "-"], &eviction.to_string()).map(drop)
}

/// Every pod that is there now, of both versions, one after the other, each as soon as the [`budget`] lets it go.
pub fn evict_each(shop: &Shop) -> Result<()> {
    let names = shop.kubectl(&["get", "pods", "-l", "app=auth", "-o", "name"])?;
    for pod in names.lines().filter_map(|name| name.strip_prefix("pod/")) {
        eventually(&format!("{pod} to be evicted"), MINUTE, || match evict(shop, pod) {
            // The run has gone on meanwhile, and needs this pod no more.
            Err(error) if error.contains("NotFound") => Ok(Some(())),
            evicted => evicted.map(Some),
        })?;
    }
    Ok(())
}

/// `kubectl drain` of the only node, at work; the node takes pods again with this value's end.
pub struct Drain {
    child: Child,
    node: String,
}

impl Drain {
    /// Of the shops' pods.
    pub fn begin() -> Result<Self> {
        let nodes = list("", "nodes")?;
        let node =
            nodes.first().and_then(|node| node["metadata"]["name"].as_str()).ok_or("a cluster without a node")?;
        let args = ["drain", node, "--pod-selector=app=auth", "--ignore-daemonsets", "--timeout=120s"];
        let child = Command::new("kubectl").args(args).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.map_err(|error| format!("kubectl drain: {error}"))?;
        Ok(Self { child, node: node.to_owned() })
    }

    /// The node takes pods again.
    pub fn uncordon(&self) -> Result<()> {
        kubectl(&["uncordon", &self.node]).map(drop)
    }

    /// Waits until it has evicted all.
    pub fn end(mut self) -> Result<()> {
        let ended = self.child.wait().map_err(|error| format!("kubectl drain: {error}"))?;
        if ended.success() { Ok(()) } else { Err(format!("kubectl drain: {ended}")) }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let uncordoned = self.uncordon();
        assert!(uncordoned.is_ok() || std::thread::panicking(), "{uncordoned:?}");
    }
}

/// A ResourceQuota for this many pods of the namespace, once it is in force.
pub fn quota(shop: &Shop, pods: i64) -> Result<()> {
    let hard = json!({"pods": pods.to_string()});
    let quota =
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "room"}, "spec": {"hard": hard}});
    shop.apply(&quota.to_string())?;
    eventually("the quota in force", MINUTE, || {
        let quota = get(&shop.namespace, "resourcequota", "room")?.unwrap_or_default();
        let status: &Value = &quota["status"];
        Ok((status["hard"] == hard && status["used"]["pods"].is_string()).then_some(()))
    })
}
