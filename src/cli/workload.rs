//! Undo and restart for a Deployment that is paused: kubectl's own refuse one.

use jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    api::Rollout,
    controller,
    workload::{Deployment, ReplicaSet, owner_of, template},
};

/// The Rollout's Deployment, and how to reach it.
struct Governed {
    deployments: Api<Deployment>,
    deployment: Deployment,
    replica_sets: Api<ReplicaSet>,
}

async fn governed(rollout: &str, namespace: Option<String>) -> Result<Governed, String> {
    let client: Client = controller::client().await.map_err(|error| error.to_string())?;
    let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let rollouts: Api<Rollout> = Api::namespaced(client.clone(), &namespace);
    let found = rollouts.get(rollout).await.map_err(|error| format!("could not read Rollout {rollout}: {error}"))?;
    let name = found.spec.workload_ref.name;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let deployment =
        deployments.get(&name).await.map_err(|error| format!("could not read Deployment {name}: {error}"))?;
    Ok(Governed { deployments, deployment, replica_sets: Api::namespaced(client, &namespace) })
}

impl Governed {
    /// Writes a template over exactly the one that was read.
    async fn write(&self, next: Value, done: &str) -> Result<(), String> {
        let name = self.deployment.name_any();
        let ops = json!([
            {"op": "test", "path": "/metadata/generation", "value": self.deployment.metadata.generation},
            {"op": "replace", "path": "/spec/template", "value": next}
        ]);
        let patch = serde_json::from_value(ops).map_err(|error| error.to_string())?;
        let params = PatchParams { field_manager: Some("kubectl-serin".into()), ..PatchParams::default() };
        let patched = self.deployments.patch(&name, &params, &Patch::Json::<()>(patch)).await;
        patched.map_err(|error| format!("could not change Deployment {name} (did it change just now?): {error}"))?;
        println!("deployment.apps/{name} {done}");
        Ok(())
    }
}

pub(super) async fn undo(rollout: String, namespace: Option<String>) -> Result<(), String> {
    let governed = governed(&rollout, namespace).await?;
    let sets = governed
        .replica_sets
        .list(&ListParams::default())
        .await
        .map_err(|error| format!("could not list ReplicaSets: {error}"))?;
    let uid = governed.deployment.metadata.uid.as_deref();
    let serving: Vec<ReplicaSet> = sets
        .items
        .into_iter()
        .filter(|set| set.spec.replicas > 0 && owner_of(set).map(|(_, uid)| uid) == uid)
        .collect();
    let [serving] = serving.as_slice() else {
        return Err(format!(
            "expected one ReplicaSet that serves, found {}: wait until the Deployment has settled",
            serving.len()
        ));
    };
    if template::same(&serving.spec.template, &governed.deployment.spec.template) {
        return Err("the Deployment's template is the one that serves already".into());
    }
    governed.write(template::without_hash(&serving.spec.template), "taken back to the version that serves").await
}

pub(super) async fn restart(rollout: String, namespace: Option<String>) -> Result<(), String> {
    let governed = governed(&rollout, namespace).await?;
    let mut next = governed.deployment.spec.template.clone();
    if !next["metadata"]["annotations"].is_object() {
        next["metadata"]["annotations"] = json!({});
    }
    next["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = json!(Timestamp::now().to_string());
    governed.write(next, "restarted").await
}
