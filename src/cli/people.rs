//! What people say to a run: small patches of its spec, which RBAC can grant apart from editing policies.

use std::path::PathBuf;

use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::files::rollouts;
use crate::{
    api::{Phase, RolloutRun, names},
    controller,
};

async fn runs(namespace: Option<String>) -> Result<Api<RolloutRun>, String> {
    let client: Client = controller::client().await.map_err(|error| error.to_string())?;
    Ok(match namespace {
        Some(namespace) => Api::namespaced(client, &namespace),
        None => Api::default_namespaced(client),
    })
}

/// The runs of a Rollout.
pub(super) async fn newest_first(api: &Api<RolloutRun>, rollout: &str) -> Result<Vec<RolloutRun>, String> {
    let params = ListParams::default().labels(&format!("{}={rollout}", names::ROLLOUT_LABEL));
    let list = api.list(&params).await.map_err(|error| format!("could not list the runs of {rollout}: {error}"))?;
    let mut runs = list.items;
    runs.sort_by_key(|run| std::cmp::Reverse((run.creation_timestamp(), run.name_any().len(), run.name_any())));
    Ok(runs)
}

/// The newest run of a Rollout.
async fn newest(api: &Api<RolloutRun>, rollout: &str) -> Result<RolloutRun, String> {
    let newest = newest_first(api, rollout).await?.into_iter().next();
    newest.ok_or_else(|| format!("Rollout {rollout} has had no run yet: deploy another version to begin one"))
}

fn phase(run: &RolloutRun) -> Phase {
    run.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

async fn under_way(api: &Api<RolloutRun>, rollout: &str) -> Result<RolloutRun, String> {
    let run = newest(api, rollout).await?;
    match phase(&run).is_terminal() {
        false => Ok(run),
        true => {
            Err(format!("expected a run of {rollout} under way, found {} which is {}", run.name_any(), phase(&run)))
        }
    }
}

async fn say(api: &Api<RolloutRun>, run: &RolloutRun, spec: Value, done: &str) -> Result<(), String> {
    let name = run.name_any();
    let params = PatchParams { field_manager: Some("kubectl-serin".into()), ..PatchParams::default() };
    let patched = api.patch(&name, &params, &Patch::Merge(json!({"spec": spec}))).await;
    patched.map_err(|error| format!("could not change RolloutRun {name}: {error}"))?;
    println!("rolloutrun.serin.dev/{name} {done}");
    Ok(())
}

pub(super) async fn pause(rollout: String, namespace: Option<String>, paused: bool) -> Result<(), String> {
    let api = runs(namespace).await?;
    let run = under_way(&api, &rollout).await?;
    say(&api, &run, json!({"paused": paused}), if paused { "paused" } else { "resumed" }).await
}

pub(super) async fn abort(rollout: String, namespace: Option<String>) -> Result<(), String> {
    let api = runs(namespace).await?;
    let run = under_way(&api, &rollout).await?;
    say(&api, &run, json!({"abort": true}), "aborted").await
}

pub(super) async fn approve(rollout: String, namespace: Option<String>) -> Result<(), String> {
    let api = runs(namespace).await?;
    let run = under_way(&api, &rollout).await?;
    let step = run.status.as_ref().map_or(0, |status| status.step);
    let asks = usize::try_from(step)
        .ok()
        .and_then(|step| run.spec.policy.steps.get(step.checked_sub(1)?))
        .is_some_and(|step| step.approval.is_some());
    if !asks {
        return Err(format!("{} is at step {step}, which asks for no approval", run.name_any()));
    }
    say(&api, &run, json!({"approved": step}), &format!("step {step} approved")).await
}

pub(super) async fn promote(rollout: String, namespace: Option<String>) -> Result<(), String> {
    let api = runs(namespace).await?;
    let run = under_way(&api, &rollout).await?;
    say(&api, &run, json!({"promote": true}), "will be promoted without what is left of its steps").await
}

pub(super) async fn retry(rollout: String, namespace: Option<String>) -> Result<(), String> {
    let api = runs(namespace).await?;
    let run = newest(&api, &rollout).await?;
    if phase(&run) != Phase::RolledBack {
        return Err(format!("expected a run that was rolled back, found {} which is {}", run.name_any(), phase(&run)));
    }
    say(&api, &run, json!({"retry": true}), "will be tried again").await
}

/// Checks the Rollouts in files as the API server and the controller would.
pub(super) fn validate_files(files: &[PathBuf]) -> Result<(), String> {
    let mut checked = 0;
    for file in files {
        checked += rollouts(file)?.len();
    }
    println!("{checked} Rollouts are valid");
    Ok(())
}
