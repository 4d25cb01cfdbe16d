//! From actions to writes. Pure: an action and the world in, writes out; no writes if it is so already.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    observe::{DEADLINE, OURS, is_borrowed, is_borrowed_by, is_of_run},
    world::{Kind, Verb, World, Write, phase_of},
};
use crate::{
    api::{ConfigKind, Phase, RolloutRun, Share, Version, names},
    engine::Action,
    traffic::{self, Originals},
    workload::{self, ConfigObject, Deployment, ReplicaSet, Stamp, hash_of, owner_of, template},
};

/// An action that can't be turned into writes because something is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action}: expected {expected}, found none (yet); trying again")]
pub struct PlanError {
    action: &'static str,
    expected: String,
}

fn missing(action: &'static str, expected: impl Into<String>) -> PlanError {
    PlanError { action, expected: expected.into() }
}

/// Writes for one action. `run` is the run that acts, if any.
///
/// # Errors
/// When an object that it needs is not there.
pub fn plan(action: &Action, world: &World, run: Option<&RolloutRun>, now: Timestamp) -> Result<Vec<Write>, PlanError> {
    let deployment = || {
        world
            .deployment
            .as_ref()
            .ok_or_else(|| missing("workload", format!("Deployment {}", world.rollout.spec.workload_ref.name)))
    };
    let run_of = || run.ok_or_else(|| missing("run", "a run"));
    let one = |write: Write| Ok(vec![write]);
    match action {
        Action::LabelWorkload => {
            let value = json!(world.rollout.metadata.name);
            one(set_label(deployment()?, names::ROLLOUT_LABEL, Some(value)))
        }
        Action::HoldWorkload => {
            let deployment = deployment()?;
            let mut ops = label_ops(deployment, names::RUN_LABEL, Some(json!(run_of()?.metadata.name)));
            // A run must not go on over a Deployment that moves by itself.
            ops.push(json!({"op": "test", "path": "/spec/paused", "value": true}));
            one(Write::patch(Kind::Deployment, &deployment.metadata, Value::Array(ops)))
        }
        Action::ReleaseWorkload => one(set_label(deployment()?, names::RUN_LABEL, None)),
        Action::UnlabelWorkload => Ok(unlabel(deployment()?)),
        Action::PauseWorkload => {
            let deployment = deployment()?;
            one(Write::patch(Kind::Deployment, &deployment.metadata, guarded(deployment, pause_ops(deployment))))
        }
        Action::UnpauseWorkload { serving } => unpause(world, deployment()?, serving),
        Action::Pin { service, hash } => {
            let service = world.service(service).ok_or_else(|| missing("pin", format!("Service {service}")))?;
            one(Write::patch(Kind::Service, &service.metadata, traffic::pin(service, hash)))
        }
        Action::Unpin { service } => {
            let service = world.service(service).filter(|service| traffic::pinned(service).is_some());
            Ok(service
                .map(|service| Write::patch(Kind::Service, &service.metadata, traffic::unpin(service)))
                .into_iter()
                .collect())
        }
        Action::EnsureCanaryService => {
            let run = run_of()?;
            let apex = world
                .service(&run.spec.policy.service)
                .ok_or_else(|| missing("canary service", format!("Service {}", run.spec.policy.service)))?;
            one(Write {
                kind: Kind::Service,
                name: names::canary_service(&run.spec.policy.service),
                verb: Verb::Create(traffic::canary(apex, run)),
            })
        }
        Action::DeleteCanaryService => {
            let service = world.canary_service(run_of()?);
            Ok(service.map(|service| Write::delete(Kind::Service, &service.metadata)).into_iter().collect())
        }
        Action::EnsureCanary { replicas } => ensure_canary(world, run_of()?, *replicas),
        Action::RemoveCanary => Ok(remove_canary(world, run_of()?)),
        Action::ReplacePod { uid } => {
            let hash = &run_of()?.spec.to.hash;
            let pod = world.pods.iter().find(|pod| pod.metadata.uid.as_ref() == Some(uid) && pod.hash() == Some(hash));
            let staying = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none());
            Ok(staying.map(|pod| Write::delete(Kind::Pod, &pod.metadata)).into_iter().collect())
        }
        Action::ReturnBorrowed => Ok(return_borrowed(world)),
        Action::AddToRoutes => Ok(set_share(world, run_of()?, None)),
        Action::SetWeight(share) => Ok(set_share(world, run_of()?, Some(*share))),
        Action::EnsurePreview => ensure_preview(world, run_of()?),
        Action::DeletePreview => {
            let route = world.preview_route(run_of()?);
            Ok(route.map(|route| Write::delete(route.kind.into(), &route.metadata)).into_iter().collect())
        }
        Action::Disown => Ok(disown(world, run_of()?)),
        Action::ClearRoutes => Ok(clear_routes(world, run_of()?)),
        Action::HandOver => {
            let run = run_of()?;
            let set = ours(world, run).ok_or_else(|| missing("hand over", "the canary's ReplicaSet"))?;
            one(Write::patch(Kind::ReplicaSet, &set.metadata, workload::hand_over(deployment()?, set)))
        }
        Action::ScaleDownOld => {
            let (run, deployment) = (run_of()?, deployment()?);
            let active = || {
                world.replica_sets.iter().filter(|set| {
                    set.spec.replicas > 0
                        && owner_of(set).is_some_and(|(_, uid)| Some(uid) == deployment.metadata.uid.as_deref())
                })
            };
            // Undone meanwhile, the version that the Deployment went back to stays.
            let wanted = active().find(|set| template::same(&set.spec.template, &deployment.spec.template));
            let kept = wanted.and_then(hash_of).unwrap_or(&run.spec.to.hash);
            let old = active().filter(|set| hash_of(set) != Some(kept));
            Ok(old.map(|set| Write::patch(Kind::ReplicaSet, &set.metadata, workload::scale(set, 0))).collect())
        }
        Action::KeepServing { serving } => Ok(keep_serving(world, deployment()?, serving)),
        Action::ReportFailure { message } => {
            one(progressing(deployment()?, "False", DEADLINE, &format!("{OURS}{message}"), now))
        }
        Action::ClearFailure => one(progressing(
            deployment()?,
            "True",
            "NewReplicaSetAvailable",
            "Serin: the earlier failure is history",
            now,
        )),
        // Not a write to the objects of the run: the gatekeeper asks.
        Action::AskGate { .. } => Ok(Vec::new()),
        Action::CopyConfiguration => copy_configuration(world, deployment()?),
        Action::StampConfiguration { stamp } => one(stamp_configuration(deployment()?, stamp)),
        Action::ForgetConfigurations => {
            Ok(world.stale_copies().map(|copy| Write::delete(copy.kind.into(), &copy.metadata)).collect())
        }
        Action::StartRun => one(start_run(world, deployment()?, now)?),
        Action::ForgetRun { run } => {
            let run = world.runs.iter().find(|other| other.metadata.name.as_ref() == Some(run));
            Ok(run.map(|run| Write::delete(Kind::RolloutRun, &run.metadata)).into_iter().collect())
        }
        Action::AddFinalizer => Ok(finalizer(world, run, true)),
        Action::RemoveFinalizer => Ok(finalizer(world, run, false)),
    }
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Any change of the spec in between makes the patch fail.
fn guarded(deployment: &Deployment, ops: Vec<Value>) -> Value {
    let test = json!({"op": "test", "path": "/metadata/generation", "value": deployment.metadata.generation});
    Value::Array(std::iter::once(test).chain(ops).collect())
}

fn label_ops(deployment: &Deployment, label: &str, value: Option<Value>) -> Vec<Value> {
    let labels = deployment.metadata.labels.as_ref();
    let there = labels.is_some_and(|labels| labels.contains_key(label));
    let path = format!("/metadata/labels/{}", escaped(label));
    match (value, labels) {
        (Some(value), Some(labels)) if !labels.is_empty() => vec![json!({"op": "add", "path": path, "value": value})],
        (Some(value), _) => vec![json!({"op": "add", "path": "/metadata/labels", "value": {label: value}})],
        (None, _) if there => vec![json!({"op": "remove", "path": path})],
        (None, _) => Vec::new(),
    }
}

fn set_label(deployment: &Deployment, label: &str, value: Option<Value>) -> Write {
    Write::patch(Kind::Deployment, &deployment.metadata, Value::Array(label_ops(deployment, label, value)))
}

/// The annotation says that the pause is the latch's, so that it is taken off where the latch becomes a policy later.
fn pause_ops(deployment: &Deployment) -> Vec<Value> {
    let none = deployment.metadata.annotations.as_ref().is_none_or(std::collections::BTreeMap::is_empty);
    let annotation = match none {
        true => json!({"op": "add", "path": "/metadata/annotations", "value": {names::LATCHED_ANNOTATION: "pause"}}),
        false => {
            json!({"op": "add", "path": format!("/metadata/annotations/{}", escaped(names::LATCHED_ANNOTATION)), "value": "pause"})
        }
    };
    vec![json!({"op": "add", "path": "/spec/paused", "value": true}), annotation]
}

fn latched_ops(deployment: &Deployment) -> Vec<Value> {
    let there = deployment.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(names::LATCHED_ANNOTATION));
    let path = format!("/metadata/annotations/{}", escaped(names::LATCHED_ANNOTATION));
    there.then(|| json!({"op": "remove", "path": path})).into_iter().collect()
}

fn unlabel(deployment: &Deployment) -> Vec<Write> {
    let labels = [names::ROLLOUT_LABEL, names::RUN_LABEL, names::CONFIGURATION_LABEL];
    let mut ops: Vec<Value> = labels.into_iter().flat_map(|label| label_ops(deployment, label, None)).collect();
    ops.extend(latched_ops(deployment));
    match ops.is_empty() {
        true => Vec::new(),
        false => vec![Write::patch(Kind::Deployment, &deployment.metadata, Value::Array(ops))],
    }
}

/// Unpauses only the very spec whose template was compared with the ReplicaSet that serves: a template written in
/// between must not slip through.
fn unpause(world: &World, deployment: &Deployment, serving: &str) -> Result<Vec<Write>, PlanError> {
    let set = world.set(serving).ok_or_else(|| missing("unpause", format!("ReplicaSet {serving}")))?;
    if !template::same(&set.spec.template, &deployment.spec.template) {
        return Ok(Vec::new());
    }
    let mut ops = vec![json!({"op": "add", "path": "/spec/paused", "value": false})];
    ops.extend(latched_ops(deployment));
    Ok(vec![Write::patch(Kind::Deployment, &deployment.metadata, guarded(deployment, ops))])
}

fn copy_configuration(world: &World, deployment: &Deployment) -> Result<Vec<Write>, PlanError> {
    let stamp = world.stamp().ok_or_else(|| missing("configuration", "data that is tracked"))?;
    let copies = stamp.missing_copies(deployment, &world.configuration).into_iter();
    let foreign = |kind: ConfigKind, name: &str| {
        let named = |object: &&ConfigObject| object.kind == kind && object.metadata.name.as_deref() == Some(name);
        world.configuration.iter().any(|object| named(&object) && object.copy_for() != Some(&stamp.digest))
    };
    let copies = copies.map(|(kind, name, body)| match foreign(kind, &name) {
        true => {
            Err(missing("configuration", format!("no {} {name} but Serin's own: delete or rename it", kind.as_str())))
        }
        false => Ok(Write { kind: kind.into(), name, verb: Verb::Create(body) }),
    });
    copies.collect()
}

/// Written over exactly the spec that was read: the annotation, and the digest as a label; the Deployment's own label says
/// that the stamp is Serin's (a label, as `kubectl rollout undo` takes the Deployment's annotations back as well).
fn stamp_configuration(deployment: &Deployment, stamp: &str) -> Write {
    let digest = Stamp::parse(stamp).map(|stamp| stamp.digest).unwrap_or_default();
    let add = |field: &str, key: &str, value: &str| {
        let at = format!("/spec/template/metadata/{field}");
        match deployment.spec.template.pointer(&format!("/metadata/{field}")).is_some_and(Value::is_object) {
            true => json!({"op": "add", "path": format!("{at}/{}", escaped(key)), "value": value}),
            false => json!({"op": "add", "path": at, "value": {key: value}}),
        }
    };
    let mut ops = vec![
        add("annotations", names::CONFIGURATION_ANNOTATION, stamp),
        add("labels", names::CONFIGURATION_LABEL, &digest),
    ];
    ops.extend(label_ops(deployment, names::CONFIGURATION_LABEL, Some(json!(digest))));
    Write::patch(Kind::Deployment, &deployment.metadata, guarded(deployment, ops))
}

/// The canary's ReplicaSet, if it is the run's.
fn ours<'a>(world: &'a World, run: &RolloutRun) -> Option<&'a ReplicaSet> {
    world.set(&run.spec.to.hash).filter(|set| is_of_run(set, run))
}

fn ensure_canary(world: &World, run: &RolloutRun, replicas: i32) -> Result<Vec<Write>, PlanError> {
    if let Some(set) = ours(world, run) {
        let differs = set.spec.replicas != replicas;
        return Ok(differs
            .then(|| Write::patch(Kind::ReplicaSet, &set.metadata, workload::scale(set, replicas)))
            .into_iter()
            .collect());
    }
    let deployment = world.deployment.as_ref().ok_or_else(|| missing("canary", "the Deployment"))?;
    if let Some(kept) = world.set(&run.spec.to.hash) {
        let in_history = owner_of(kept).is_some_and(|(_, uid)| Some(uid) == deployment.metadata.uid.as_deref());
        return match in_history && template::digest(&kept.spec.template) == run.spec.to.template {
            true => Ok(vec![Write::patch(Kind::ReplicaSet, &kept.metadata, workload::borrow(kept, run))]),
            false => Err(missing("canary", format!("no ReplicaSet of others with the hash {}", run.spec.to.hash))),
        };
    }
    if template::digest(&deployment.spec.template) != run.spec.to.template {
        return Err(missing("canary", "the template that this run releases"));
    }
    let body = workload::canary(deployment, run, replicas);
    let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(vec![Write { kind: Kind::ReplicaSet, name, verb: Verb::Create(body) }])
}

/// Pods first; the ReplicaSet when they are gone. A borrowed one stays ours at 0: a paused Deployment that is scaled up
/// from 0 would wake it.
fn remove_canary(world: &World, run: &RolloutRun) -> Vec<Write> {
    let Some(set) = ours(world, run) else { return Vec::new() };
    let pods =
        world.pods.iter().any(|pod| pod.hash() == Some(&run.spec.to.hash) && pod.metadata.deletion_timestamp.is_none());
    if set.spec.replicas > 0 {
        return vec![Write::patch(Kind::ReplicaSet, &set.metadata, workload::scale(set, 0))];
    }
    if pods || is_borrowed_by(set, run) {
        return Vec::new();
    }
    vec![Write::delete(Kind::ReplicaSet, &set.metadata)]
}

/// First the one that serves: while none has pods Kubernetes would wake the other again.
fn keep_serving(world: &World, deployment: &Deployment, serving: &str) -> Vec<Write> {
    let owned =
        |set: &&ReplicaSet| owner_of(set).is_some_and(|(_, uid)| Some(uid) == deployment.metadata.uid.as_deref());
    let Some(set) = world.set(serving).filter(owned) else { return Vec::new() };
    let of_run = |set: &ReplicaSet| set.metadata.labels.iter().any(|labels| labels.contains_key(names::RUN_LABEL));
    let others = world.replica_sets.iter().filter(owned);
    let others = others.filter(|other| hash_of(other) != Some(serving) && !of_run(other));
    let to = |set: &ReplicaSet, replicas: i32| {
        (set.spec.replicas != replicas)
            .then(|| Write::patch(Kind::ReplicaSet, &set.metadata, workload::scale(set, replicas)))
    };
    let wake = to(set, deployment.spec.replicas);
    wake.into_iter().chain(others.filter_map(|other| to(other, 0))).collect()
}

fn return_borrowed(world: &World) -> Vec<Write> {
    let runs: Vec<&str> = world.runs.iter().filter_map(|run| run.metadata.uid.as_deref()).collect();
    let ours = world
        .replica_sets
        .iter()
        .filter(|set| is_borrowed(set) && owner_of(set).is_some_and(|(_, uid)| runs.contains(&uid)));
    ours.map(|set| Write::patch(Kind::ReplicaSet, &set.metadata, workload::give_back(set))).collect()
}

/// How the routes were before the run, as its status has it.
pub(super) fn originals(run: &RolloutRun) -> Originals {
    let kept = run.status.as_ref().map(|status| &status.original_weights);
    kept.map(|kept| traffic::read_originals(kept, &run.spec.policy.routes)).unwrap_or_default()
}

/// `None` adds the canary's reference at weight 0 where there is none.
///
/// Before the first weight the routes' own weights are written into the run's status, so that they can be put back; only
/// over those that were known here, or a late cache would have them forgotten.
fn set_share(world: &World, run: &RolloutRun, share: Option<Share>) -> Vec<Write> {
    let wanted = traffic::Wanted::of(run, share.unwrap_or_default());
    let mut known = originals(run);
    let before = known.clone();
    let mut writes = Vec::new();
    for route in routes(world, run) {
        let shown = traffic::shown(route, run, &known);
        let done = match share {
            None => shown.is_some(),
            Some(share) => shown.unwrap_or_default() == share,
        };
        if done || traffic::rules_of(route, wanted.apex) == 0 {
            continue;
        }
        let (patch, originals) = traffic::set_share(route, &wanted, &known);
        known = originals;
        writes.push(Write::patch(route.kind.into(), &route.metadata, patch));
    }
    if known.len() != before.len() {
        let text = |originals: &Originals| -> serde_json::Map<String, Value> {
            originals.iter().map(|(key, value)| (key.clone(), json!(value.to_string()))).collect()
        };
        let path = "/status/originalWeights";
        let ops = json!([
            {"op": "test", "path": path, "value": text(&before)},
            {"op": "replace", "path": path, "value": text(&known)}
        ]);
        writes.insert(
            0,
            Write {
                kind: Kind::RolloutRun,
                name: run.metadata.name.clone().unwrap_or_default(),
                verb: Verb::PatchStatus(ops),
            },
        );
    }
    writes
}

fn ensure_preview(world: &World, run: &RolloutRun) -> Result<Vec<Write>, PlanError> {
    let policy = &run.spec.policy;
    let Some(host) = policy.preview_host().filter(|_| world.preview_route(run).is_none()) else {
        return Ok(Vec::new());
    };
    let route = policy.routes.first().and_then(|wanted| world.routes.iter().find(|route| route.is(wanted)));
    let route = route.ok_or_else(|| missing("preview", "the first of spec.routes"))?;
    let body = traffic::preview(route, host, run, &originals(run));
    let name = names::preview_route(&policy.service);
    Ok(vec![Write { kind: route.kind.into(), name, verb: Verb::Create(body) }])
}

fn clear_routes(world: &World, run: &RolloutRun) -> Vec<Write> {
    let apex = &run.spec.policy.service;
    let canary = names::canary_service(apex);
    let known = originals(run);
    let ours = routes(world, run).filter(|route| traffic::shown(route, run, &known).is_some());
    ours.map(|route| Write::patch(route.kind.into(), &route.metadata, traffic::clear(route, apex, &canary, &known)))
        .collect()
}

fn disown(world: &World, run: &RolloutRun) -> Vec<Write> {
    let routes = routes(world, run).map(|route| (Kind::from(route.kind), &route.metadata));
    let services = world.selecting(run).into_iter().map(|service| (Kind::Service, &service.metadata));
    let owned = routes.chain(services).filter(|(_, metadata)| traffic::is_owned(metadata));
    owned.map(|(kind, metadata)| Write::patch(kind, metadata, traffic::disown(metadata))).collect()
}

fn routes<'a>(world: &'a World, run: &'a RolloutRun) -> impl Iterator<Item = &'a traffic::Route> {
    let wanted = &run.spec.policy.routes;
    world.routes.iter().filter(|route| wanted.iter().any(|wanted| route.is(wanted)))
}

/// The condition by which `kubectl rollout status` ends.
fn progressing(deployment: &Deployment, status: &str, reason: &str, message: &str, now: Timestamp) -> Write {
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = json!({
        "type": "Progressing", "status": status, "reason": reason, "message": message.chars().take(1024).collect::<String>(),
        "lastUpdateTime": time, "lastTransitionTime": time
    });
    let at = deployment.status.conditions.iter().position(|condition| condition.kind == "Progressing");
    let ops = match at {
        Some(index) => json!([
            {"op": "test", "path": format!("/status/conditions/{index}/type"), "value": "Progressing"},
            {"op": "replace", "path": format!("/status/conditions/{index}"), "value": condition}]),
        None if deployment.status.conditions.is_empty() => {
            json!([{"op": "add", "path": "/status/conditions", "value": [condition]}])
        }
        None => json!([{"op": "add", "path": "/status/conditions/-", "value": condition}]),
    };
    Write {
        kind: Kind::Deployment,
        name: deployment.metadata.name.clone().unwrap_or_default(),
        verb: Verb::PatchStatus(ops),
    }
}

/// A run for the Deployment's template: its name is the next number, so that two controllers create one run.
fn start_run(world: &World, deployment: &Deployment, now: Timestamp) -> Result<Write, PlanError> {
    let rollout = world.rollout.metadata.name.clone().unwrap_or_default();
    // The last one's name is not given again when its record is deleted. One that has not ended is not shown yet: asked
    // for by its own name, a second one is refused.
    let last = world.rollout.status.as_ref().and_then(|status| {
        let ended = status.last_run_phase.is_some_and(|phase| phase.is_terminal());
        Some(number_in(&rollout, status.run.as_deref()?)?.saturating_sub(u64::from(!ended)))
    });
    let number = world.runs.iter().filter_map(|run| number_of(&rollout, run)).chain(last).max().unwrap_or(0) + 1;
    let name = format!("{rollout}-{number}");
    let owned = || {
        world
            .replica_sets
            .iter()
            .filter(|set| owner_of(set).is_some_and(|(_, uid)| Some(uid) == deployment.metadata.uid.as_deref()))
    };
    let revision = |set: &ReplicaSet| {
        set.metadata.annotations.as_ref().and_then(|all| all.get(names::REVISION_ANNOTATION)).cloned()
    };
    let number_of_revision = |set: &&ReplicaSet| revision(set).and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    let serving = owned().max_by_key(|set| (set.spec.replicas > 0, number_of_revision(set)));
    let serving = serving.ok_or_else(|| missing("start run", "a ReplicaSet that serves"))?;
    let digest = template::digest(&deployment.spec.template);
    let kept = owned().find(|set| template::same(&set.spec.template, &deployment.spec.template));
    let version = |set: &ReplicaSet| Version {
        hash: hash_of(set).unwrap_or_default().to_owned(),
        template: template::digest(&set.spec.template),
        revision: revision(set),
        images: template::images(&set.spec.template),
    };
    let to = kept.map(version).unwrap_or_else(|| Version {
        hash: free_hash(world, deployment, &digest, &name),
        template: digest,
        revision: None,
        images: template::images(&deployment.spec.template),
    });
    let owner = &world.rollout.metadata;
    let straight = served_lately(world, &to, serving, now);
    let mut body = json!({
        "apiVersion": names::API_VERSION, "kind": "RolloutRun",
        "metadata": {
            "name": name, "namespace": owner.namespace, "finalizers": [names::FINALIZER],
            "labels": {names::ROLLOUT_LABEL: owner.name},
            "ownerReferences": [{"apiVersion": names::API_VERSION, "kind": "Rollout", "controller": true,
                                 "blockOwnerDeletion": true, "name": owner.name, "uid": owner.uid}]
        },
        "spec": {"rolloutRef": {"name": owner.name}, "workloadUid": deployment.metadata.uid, "from": version(serving), "to": to, "policy": world.rollout.spec,
                 "paused": false, "abort": false, "approved": 0, "promote": false, "retry": false}
    });
    if straight {
        body["spec"]["straight"] = json!(true);
    }
    Ok(Write { kind: Kind::RolloutRun, name, verb: Verb::Create(body) })
}

/// A hash for a version in this run that no other ReplicaSet has, and with it a name.
fn free_hash(world: &World, deployment: &Deployment, digest: &str, run: &str) -> String {
    let workload = deployment.metadata.name.as_deref().unwrap_or_default();
    let is_free = |hash: &String| {
        let name = format!("{workload}-{hash}");
        let taken = |set: &ReplicaSet| hash_of(set) == Some(hash) || set.metadata.name.as_ref() == Some(&name);
        !world.replica_sets.iter().any(taken) && !world.other_sets.contains(&name)
    };
    let first = template::hash(digest, run);
    let others = (1..=100).map(|time| template::hash(digest, &format!("{run}/{time}")));
    std::iter::once(first.clone()).chain(others).find(is_free).unwrap_or(first)
}

/// The policy's rollbackWindow has this version in it: it was promoted lately, by the record of runs, or is one of the
/// last versions by the Deployment's history; and no run has refused it since.
fn served_lately(world: &World, to: &Version, serving: &ReplicaSet, now: Timestamp) -> bool {
    let Some(window) = &world.rollout.spec.rollback_window else { return false };
    let ended = |run: &&RolloutRun| run.spec.to.template == to.template && phase_of(run).is_terminal();
    let last =
        world.runs.iter().rev().filter(ended).find(|run| matches!(phase_of(run), Phase::Succeeded | Phase::RolledBack));
    if last.is_some_and(|run| phase_of(run) == Phase::RolledBack) {
        return false;
    }
    let promoted = last.and_then(|run| run.status.as_ref()?.finished_at.clone());
    let within = window
        .within
        .zip(promoted)
        .is_some_and(|(within, promoted)| now.duration_since(promoted.0).as_secs_f64() < within.as_secs_f64());
    let revision = |set: &ReplicaSet| {
        let annotations = set.metadata.annotations.as_ref()?;
        annotations.get(names::REVISION_ANNOTATION)?.parse::<i64>().ok()
    };
    let of_version = world.set(&to.hash).and_then(revision);
    let Some(of_version) = of_version else { return within };
    let before = revision(serving).unwrap_or(i64::MAX);
    let newer = world.replica_sets.iter().filter_map(revision).filter(|other| *other > of_version && *other < before);
    within || window.versions.is_some_and(|versions| newer.count() < usize::try_from(versions).unwrap_or(usize::MAX))
}

/// The number in a run's name.
pub(super) fn number_of(rollout: &str, run: &RolloutRun) -> Option<u64> {
    number_in(rollout, run.metadata.name.as_deref()?)
}

fn number_in(rollout: &str, run: &str) -> Option<u64> {
    run.strip_prefix(rollout)?.strip_prefix('-')?.parse().ok()
}

fn finalizer(world: &World, run: Option<&RolloutRun>, add: bool) -> Vec<Write> {
    let (kind, metadata) = match run {
        Some(run) => (Kind::RolloutRun, &run.metadata),
        None => (Kind::Rollout, &world.rollout.metadata),
    };
    let is = metadata.finalizers.clone().unwrap_or_default();
    let mut next: Vec<String> = is.iter().filter(|name| *name != names::FINALIZER).cloned().collect();
    if add {
        next.push(names::FINALIZER.to_owned());
    }
    if next == is {
        return Vec::new();
    }
    let test = match &metadata.finalizers {
        Some(is) => json!({"op": "test", "path": "/metadata/finalizers", "value": is}),
        None => json!({"op": "test", "path": "/metadata/uid", "value": metadata.uid}),
    };
    vec![Write::patch(kind, metadata, json!([test, {"op": "add", "path": "/metadata/finalizers", "value": next}]))]
}

#[cfg(test)]
mod tests {
    use super::{
        super::world::testing::{run, set, world},
        *,
    };

    fn started(world: &World) -> Value {
        match plan(&Action::StartRun, world, None, Timestamp::UNIX_EPOCH).expect("a plan").remove(0).verb {
            Verb::Create(body) => body,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hash_or_a_name_that_is_taken_is_avoided() {
        // given the hash that the first run would take
        let mut free = world();
        let hash = started(&free)["spec"]["to"]["hash"].as_str().expect("a hash").to_owned();
        // when a ReplicaSet of another template has it
        free.replica_sets.push(set(&hash, "other", 0, Some("deployment")));
        let other = started(&free)["spec"]["to"]["hash"].clone();
        assert_ne!(other, hash);
        // or a ReplicaSet that the Deployment does not select has the name
        let mut named = world();
        named.other_sets.push(format!("auth-{hash}"));
        assert_eq!(started(&named)["spec"]["to"]["hash"], other, "the next one in line");
    }

    #[test]
    fn the_name_of_a_run_that_was_deleted_is_not_given_again() {
        let mut world = world();
        let status = |phase| crate::api::RolloutStatus {
            run: Some("auth-7".into()),
            last_run_phase: Some(phase),
            ..Default::default()
        };
        world.rollout.status = Some(status(crate::api::Phase::Cancelled));
        assert_eq!(started(&world)["metadata"]["name"], "auth-8");
        // One that a late watch does not show is no deleted one: its name is taken, and no second run begins beside it.
        world.rollout.status = Some(status(crate::api::Phase::Preparing));
        assert_eq!(started(&world)["metadata"]["name"], "auth-7");
    }

    #[test]
    fn another_template_with_the_canarys_hash_is_never_borrowed() {
        let mut world = world();
        let run = run(&world);
        let ensure = Action::EnsureCanary { replicas: 1 };
        world.replica_sets.push(set("two", "other", 0, Some("deployment")));
        assert!(plan(&ensure, &world, Some(&run), Timestamp::UNIX_EPOCH).is_err());
        world.replica_sets.pop();
        world.replica_sets.push(set("two", "v2", 0, Some("deployment")));
        let writes = plan(&ensure, &world, Some(&run), Timestamp::UNIX_EPOCH).expect("it is the version's");
        assert_eq!(writes.len(), 1);
    }

    #[test]
    fn what_serves_is_woken_before_the_other_goes() {
        let mut world = world();
        world.replica_sets = vec![set("old", "v0", 2, Some("deployment")), set("one", "v1", 0, Some("deployment"))];
        let keep = Action::KeepServing { serving: "one".into() };
        let writes = plan(&keep, &world, None, Timestamp::UNIX_EPOCH).expect("a plan");
        assert_eq!(writes.iter().map(|write| write.name.as_str()).collect::<Vec<_>>(), ["auth-one", "auth-old"]);
    }

    #[test]
    fn a_canary_that_lost_its_owner_is_still_the_runs() {
        let mut world = world();
        let run = run(&world);
        for owner in [None, Some("deployment")] {
            let mut canary = set("two", "v2", 1, owner);
            canary.metadata.labels.as_mut().expect("labels").insert(names::RUN_LABEL.to_owned(), "auth-1".to_owned());
            world.replica_sets.truncate(1);
            world.replica_sets.push(canary);
            let writes = plan(&Action::RemoveCanary, &world, Some(&run), Timestamp::UNIX_EPOCH).expect("a plan");
            assert_eq!(writes.len(), 1, "{owner:?}");
        }
        // without the label it was handed over
        world.replica_sets.truncate(1);
        world.replica_sets.push(set("two", "v2", 1, Some("deployment")));
        assert_eq!(plan(&Action::RemoveCanary, &world, Some(&run), Timestamp::UNIX_EPOCH), Ok(Vec::new()));
    }
}
