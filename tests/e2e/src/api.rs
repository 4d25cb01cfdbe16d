//! The API server, asked directly: a kubectl for each look takes more of a small machine than all that is looked at.

use std::{sync::LazyLock, time::Duration};

use kube::{Client, Config};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::Result;

/// As long as anybody waits for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

static SERVER: LazyLock<Result<Server>> = LazyLock::new(Server::connect);

struct Server {
    runtime: Runtime,
    client: Client,
}

impl Server {
    /// By KUBECONFIG, as kubectl does.
    fn connect() -> Result<Self> {
        let runtime = Runtime::new().map_err(|error| error.to_string())?;
        let client = runtime.block_on(async {
            let mut config = Config::infer().await.map_err(|error| format!("KUBECONFIG: {error}"))?;
            (config.connect_timeout, config.read_timeout) = (Some(PATIENCE), Some(PATIENCE));
            Client::try_from(config).map_err(|error| error.to_string())
        })?;
        Ok(Self { runtime, client })
    }

    fn get(&self, path: &str) -> std::result::Result<Option<Value>, kube::Error> {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        match self.runtime.block_on(self.client.request(request)) {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.reason == "NotFound" => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What is at a path; `None` if nothing is.
pub fn get(path: &str) -> Result<Option<Value>> {
    let server = SERVER.as_ref().map_err(Clone::clone)?;
    let said = |error: kube::Error| format!("GET {path}: {error}");
    match server.get(path) {
        // A connection that was kept may have been closed meanwhile.
        Err(error) if !matches!(error, kube::Error::Api(_)) => server.get(path).map_err(said),
        answer => answer.map_err(said),
    }
}

/// Where a kind is, by the names that kubectl takes.
pub fn path(namespace: &str, kind: &str) -> Result<String> {
    let (group, plural) = match kind {
        "configmaps" | "events" | "namespaces" | "nodes" | "pods" | "services" => ("api/v1", kind),
        "namespace" => ("api/v1", "namespaces"),
        "pod" => ("api/v1", "pods"),
        "resourcequota" => ("api/v1", "resourcequotas"),
        "service" => ("api/v1", "services"),
        "deployment" => ("apis/apps/v1", "deployments"),
        "replicaset" | "replicasets" => ("apis/apps/v1", "replicasets"),
        "jobs" => ("apis/batch/v1", "jobs"),
        "lease" => ("apis/coordination.k8s.io/v1", "leases"),
        "poddisruptionbudget" => ("apis/policy/v1", "poddisruptionbudgets"),
        "crd" => ("apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
        "mutatingadmissionpolicies.admissionregistration.k8s.io" => {
            ("apis/admissionregistration.k8s.io/v1", "mutatingadmissionpolicies")
        }
        "httproute" => ("apis/gateway.networking.k8s.io/v1", "httproutes"),
        "grpcroute" => ("apis/gateway.networking.k8s.io/v1", "grpcroutes"),
        _ => match kind.strip_suffix(".serin.dev") {
            Some(plural) => ("apis/serin.dev/v1alpha1", plural),
            None => return Err(format!("expected a kind that tests/e2e/src/api.rs knows, found {kind}: add it there")),
        },
    };
    Ok(match namespace {
        "" => format!("/{group}/{plural}"),
        namespace => format!("/{group}/namespaces/{namespace}/{plural}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_the_names_that_kubectl_takes() {
        assert_eq!(path("shop", "pod").as_deref(), Ok("/api/v1/namespaces/shop/pods"));
        assert_eq!(
            path("shop", "rollouts.serin.dev").as_deref(),
            Ok("/apis/serin.dev/v1alpha1/namespaces/shop/rollouts")
        );
        assert_eq!(path("", "nodes").as_deref(), Ok("/api/v1/nodes"));
        assert!(path("shop", "cheese").is_err_and(|error| error.contains("found cheese")));
    }
}
