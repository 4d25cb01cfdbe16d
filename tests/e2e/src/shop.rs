//! A namespace with the example service `auth` in it, ready to be released.

use std::{path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::{
    Result,
    cluster::{eventually, get, kubectl, kubectl_with, list},
    traffic::beside_us,
};

/// Label of the namespaces that are made here, and may be deleted.
const OURS: &str = "serin-e2e";

/// The namespace; it is deleted with this value.
pub struct Shop {
    /// Its name.
    pub namespace: String,
    /// Host name of its route.
    pub host: String,
}

impl Drop for Shop {
    fn drop(&mut self) {
        // Rollouts first: their finalizer puts the Deployment back while its objects still stand.
        let _ = kubectl(&["-n", &self.namespace, "delete", "rollouts.serin.dev", "--all", "--timeout=60s"]);
        let _ = kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
    }
}

/// Folder of the repository.
pub fn repository() -> PathBuf {
    let here = std::env::var_os("SERIN_REPOSITORY").map(PathBuf::from);
    here.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.."))
}

impl Shop {
    /// Makes it: Deployment, Service and HTTPRoute as in examples/auth, running version v1. An earlier shop of this name
    /// is replaced; a namespace that is none of ours is an error.
    pub fn open(namespace: &str) -> Result<Self> {
        if let Some(found) = get("", "namespace", namespace)? {
            if found["metadata"]["labels"][OURS].is_null() {
                return Err(format!(
                    "expected no namespace {namespace}, found one that is not ours: rename or delete it"
                ));
            }
            kubectl(&["delete", "namespace", namespace, "--timeout=60s"])?;
        }
        let made =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {OURS: ""}}});
        kubectl_with(&["create", "-f", "-"], &made.to_string())?;
        let shop = Self { namespace: namespace.to_owned(), host: format!("{namespace}.example.com") };
        for manifest in ["deployment", "service", "httproute"] {
            let file = repository().join(format!("examples/auth/manifests/{manifest}.yaml"));
            let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            shop.apply(&text.replace("auth.example.com", &shop.host))?;
        }
        shop.kubectl(&["set", "env", "deployment/auth", "FAULT_CONTROL=true"])?;
        shop.kubectl(&["rollout", "status", "deployment/auth", "--timeout=90s"])?;
        Ok(shop)
    }

    /// Runs kubectl in the namespace.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["-n", self.namespace.as_str()];
        all.extend(args);
        kubectl(&all)
    }

    /// Runs `serin` (kubectl's plugin) in the namespace.
    pub fn serin(&self, args: &[&str]) -> Result<String> {
        let program = beside_us("serin")?;
        let output = Command::new(program).args(args).args(["--namespace", &self.namespace]).output();
        let output = output.map_err(|error| format!("serin: {error}"))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    /// Applies YAML or JSON.
    pub fn apply(&self, text: &str) -> Result<String> {
        kubectl_with(&["-n", &self.namespace, "apply", "-f", "-"], text)
    }

    /// The example's Rollout with these steps and short times, changed by `change`.
    pub fn rollout(&self, steps: &Value, change: impl FnOnce(&mut Value)) -> Result<Value> {
        let mut rollout = json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": "auth"},
            "spec": {
                "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
                "routes": [{"kind": "HTTPRoute", "name": "auth"}],
                "telemetry": {
                    "scrape": {"port": "http", "interval": "1s"},
                    "requests": {"counter": "http_requests_total", "errors": {"code": "5.."}, "only": {"route": "/login|/session"}},
                    "latency": {"histogram": "http_request_duration_seconds"}},
                "slos": [
                    {"name": "errors", "errors": {"objective": "99%", "tolerance": {"relative": 1.5, "absolute": "0.1%"}}},
                    {"name": "latency", "latency": {"threshold": "250ms", "objective": "99%", "tolerance": {"relative": 1.5, "absolute": "0.5%"}}}],
                "confidence": "99%", "steps": steps,
                "limits": {"readyWithin": "60s", "warmup": "2s"}
            }
        });
        change(&mut rollout);
        self.apply(&rollout.to_string())?;
        Ok(rollout)
    }

    /// Waits until the Rollout looks after the Deployment.
    pub fn idle(&self) -> Result<()> {
        self.kubectl(&["wait", "rollouts.serin.dev/auth", "--for=condition=Ready", "--timeout=60s"]).map(drop)
    }

    /// Releases: environment of the container, `NAME=value` or `NAME-`.
    pub fn release(&self, environment: &[&str]) -> Result<()> {
        let mut args = vec!["set", "env", "deployment/auth"];
        args.extend(environment);
        self.kubectl(&args).map(drop)
    }

    /// Releases a version whose pods take 6 seconds to be ready: environment as in a manifest.
    pub fn release_slowly(&self, environment: &Value) -> Result<()> {
        let container = json!({"name": "auth", "env": environment, "readinessProbe": {"initialDelaySeconds": 6}});
        let patch = json!({"spec": {"template": {"spec": {"containers": [container]}}}}).to_string();
        self.kubectl(&["patch", "deployment", "auth", "--patch", &patch]).map(drop)
    }

    /// Switches faults of all running pods, through the API server.
    pub fn faults(&self, faults: &Value) -> Result<()> {
        for pod in list(&self.namespace, "pods")? {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if pod["metadata"]["deletionTimestamp"].is_string() {
                continue;
            }
            self.faults_of(&name, faults)?;
        }
        Ok(())
    }

    /// Switches faults of one pod.
    pub fn faults_of(&self, pod: &str, faults: &Value) -> Result<()> {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:8081/proxy/faults", self.namespace);
        kubectl_with(&["create", "--raw", &path, "-f", "-"], &faults.to_string()).map(drop)
    }

    /// The newest run.
    pub fn run(&self) -> Result<Option<Value>> {
        let Some(rollout) = get(&self.namespace, "rollouts.serin.dev", "auth")? else { return Ok(None) };
        match rollout["status"]["run"].as_str() {
            Some(name) => get(&self.namespace, "rolloutruns.serin.dev", name),
            None => Ok(None),
        }
    }

    /// Waits until the newest run, later than `after`, is in this phase.
    pub fn run_in(&self, phase: &str, after: Option<&str>, within: Duration) -> Result<Value> {
        eventually(&format!("a run in phase {phase}"), within, || {
            let run = self.run()?;
            Ok(run.filter(|run| run["metadata"]["name"].as_str() != after && run["status"]["phase"] == phase))
        })
    }

    /// ReplicaSets with pods wanted.
    pub fn active_sets(&self) -> Result<Vec<String>> {
        let sets = list(&self.namespace, "replicasets")?;
        let active = sets.iter().filter(|set| set["spec"]["replicas"].as_i64() > Some(0));
        Ok(active.filter_map(|set| set["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }

    /// Nothing of a run is left: no pin, no canary Service, no canary reference, nothing held. What is left, in words.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        if let Some(service) = get(&self.namespace, "service", "auth")?
            && !service["spec"]["selector"]["pod-template-hash"].is_null()
        {
            left.push("the Service is pinned".to_owned());
        }
        if get(&self.namespace, "service", "auth-canary")?.is_some() {
            left.push("the canary's Service is there".to_owned());
        }
        if get(&self.namespace, "httproute", "auth-preview")?.is_some() {
            left.push("the preview's route is there".to_owned());
        }
        if let Some(route) = get(&self.namespace, "httproute", "auth")?
            && route.to_string().contains("\"auth-canary\"")
        {
            left.push("the route names the canary".to_owned());
        }
        for run in list(&self.namespace, "rolloutruns.serin.dev")? {
            let name = run["metadata"]["name"].as_str().unwrap_or_default();
            let uid = &run["metadata"]["uid"];
            if run["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty()) {
                left.push(format!("run {name} has its finalizer"));
            }
            for set in list(&self.namespace, "replicasets")? {
                if set["metadata"]["ownerReferences"][0]["uid"] == *uid && set["spec"]["replicas"].as_i64() > Some(0) {
                    left.push(format!("run {name} has a ReplicaSet"));
                }
            }
        }
        Ok(left)
    }
}
