//! From objects to the engine's plain values. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{plan::originals, world::World};
use crate::{
    api::{ConfigKind, RolloutRun, RolloutSpec, Share, names},
    engine::{
        Arm, ArmOwner, ConfigurationView, Gates, Latch, Pinned, PreviewView, RouteView, Snapshot, Traffic, Trouble,
        WorkloadView, reasons,
    },
    evidence::Judgement,
    traffic::{self, Service},
    workload::{Deployment, Pod, ReplicaSet, Stamp, hash_of, owner_of, template},
};

/// Reason of the condition that makes `kubectl rollout status` fail.
pub(super) const DEADLINE: &str = "ProgressDeadlineExceeded";
/// Stands in for the name of a run to come where room is asked for.
const RUN_TO_COME: &str = "a-run-to-come";
/// Begins its message when it is ours.
pub(super) const OURS: &str = "Serin: ";
/// In the API server's words when a ResourceQuota has no room for a pod.
const OVER_QUOTA: &str = "exceeded quota";

/// What the counts say, put beside the objects.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Rates and silence.
    pub traffic: Traffic,
    /// Verdicts.
    pub judgements: Vec<Judgement>,
    /// What gates have answered.
    pub gates: Gates,
}

/// One look at a run.
pub fn observe(world: &World, run: &RolloutRun, seen: &Seen) -> Snapshot {
    let canary_service =
        world.canary_service(run).map(|service| ready(world, service).get(&run.spec.to.hash).copied().unwrap_or(0));
    let wanted = &run.spec.policy.routes;
    let known = originals(run);
    let routes = wanted.iter().filter_map(|wanted| world.routes.iter().find(|route| route.is(wanted)));
    let routes = routes.map(|route| {
        let verdict = traffic::accepted(route);
        RouteView {
            name: format!("{} {}", route.kind.as_str(), route.metadata.name.as_deref().unwrap_or_default()),
            share: declared_as_none(route, &known, traffic::shown(route, run, &known)),
            accepted: verdict.is_ok(),
            message: verdict.err().unwrap_or_default(),
            owned: traffic::is_owned(&route.metadata),
            changed_by: traffic::changed_by(&route.metadata),
        }
    });
    Snapshot {
        run: run.metadata.name.clone().unwrap_or_default(),
        workload: governed_workload(world)
            .map(|workload| WorkloadView { made_anew: is_of_another(world, run), ..workload }),
        stable: arm(world, &run.spec.from.hash, run),
        canary: arm(world, &run.spec.to.hash, run),
        services: world.selecting(run).into_iter().map(|service| pinned(world, service)).collect(),
        strays: world.strays(run).into_iter().filter_map(|service| service.metadata.name.clone()).collect(),
        canary_service,
        routes: routes.collect(),
        preview: world.preview_route(run).map(|route| {
            let verdict = traffic::accepted(route);
            PreviewView { accepted: verdict.is_ok(), message: verdict.err().unwrap_or_default() }
        }),
        traffic: seen.traffic.clone(),
        judgements: seen.judgements.clone(),
        gates: seen.gates.clone(),
        troubles: troubles(world, Some(run)),
    }
}

/// A pre-declared canary reference at weight 0 is how its owner wrote the route: nothing of ours is in it.
fn declared_as_none(route: &traffic::Route, known: &traffic::Originals, share: Option<Share>) -> Option<Share> {
    share.filter(|share| !(traffic::is_declared(route, known) && share.is_none()))
}

/// The Deployment.
pub fn governed_workload(world: &World) -> Option<WorkloadView> {
    let deployment = world.deployment.as_ref()?;
    let label = |name: &str| deployment.metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned();
    let latched = deployment.metadata.annotations.as_ref().and_then(|all| all.get(names::LATCHED_ANNOTATION));
    let generation = deployment.metadata.generation.unwrap_or(0);
    let observed = deployment.status.observed_generation >= generation;
    let replicas = deployment.spec.replicas;
    let status = &deployment.status;
    let owned: Vec<&ReplicaSet> = world.replica_sets.iter().filter(|set| owned_by(set, deployment)).collect();
    let revision = |set: &ReplicaSet| -> i64 {
        let annotations = set.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(names::REVISION_ANNOTATION)).and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let same = |set: &&ReplicaSet| template::same(&set.spec.template, &deployment.spec.template);
    Some(WorkloadView {
        replicas,
        paused: deployment.spec.paused,
        latched: latched.is_some(),
        latched_by_policy: latched.is_some_and(|by| by == "true"),
        rollout_label: label(names::ROLLOUT_LABEL),
        run_label: label(names::RUN_LABEL),
        template: template::digest(&deployment.spec.template),
        template_hashes: world.replica_sets.iter().filter(same).filter_map(hash_of).map(str::to_owned).collect(),
        active: owned
            .iter()
            .filter(|set| set.spec.replicas > 0)
            .filter_map(|set| Some((hash_of(set)?.to_owned(), set.spec.replicas)))
            .collect(),
        newest: owned.iter().max_by_key(|set| revision(set)).and_then(|set| hash_of(set)).map(str::to_owned),
        settled: observed
            && status.updated_replicas == replicas
            && status.replicas == replicas
            && status.available_replicas == replicas,
        failure_reported: failure(deployment),
        images: template::images(&deployment.spec.template).into_values().collect::<Vec<_>>().join(", "),
        ready: world
            .pods
            .iter()
            .filter(|pod| pod.is_ready() && owned.iter().any(|set| hash_of(set) == pod.hash()))
            .count(),
        deleting: deployment.metadata.deletion_timestamp.is_some(),
        configuration: configuration(world, deployment),
        made_anew: false,
    })
}

fn configuration(world: &World, deployment: &Deployment) -> Option<ConfigurationView> {
    let stamp = world.stamp()?;
    let is = Stamp::read(&deployment.spec.template);
    let ours = deployment.metadata.labels.as_ref().and_then(|labels| labels.get(names::CONFIGURATION_LABEL));
    Some(ConfigurationView {
        wanted: stamp.to_string(),
        digest: stamp.digest.clone(),
        is: is.as_ref().map(ToString::to_string),
        is_ours: is.is_some_and(|stamp| ours == Some(&stamp.digest)),
        copied: stamp.missing_copies(deployment, &world.configuration).is_empty(),
        stale: world.stale_copies().next().is_some(),
    })
}

/// The run began with another Deployment of the same name.
pub(super) fn is_of_another(world: &World, run: &RolloutRun) -> bool {
    let is = world.deployment.as_ref().and_then(|deployment| deployment.metadata.uid.as_ref());
    run.spec.workload_uid.as_ref().zip(is).is_some_and(|(was, is)| was != is)
}

fn failure(deployment: &Deployment) -> bool {
    deployment.status.conditions.iter().any(|condition| {
        condition.kind == "Progressing" && condition.reason == DEADLINE && condition.message.starts_with(OURS)
    })
}

fn owned_by(set: &ReplicaSet, deployment: &Deployment) -> bool {
    owner_of(set).is_some_and(|(_, uid)| Some(uid) == deployment.metadata.uid.as_deref())
}

/// Pods and ReplicaSet of one version.
fn arm(world: &World, hash: &str, run: &RolloutRun) -> Option<Arm> {
    let set = world.set(hash)?;
    let owner = match owner_of(set) {
        _ if is_of_run(set, run) => match is_borrowed_by(set, run) {
            true => ArmOwner::Borrowed,
            false => ArmOwner::Run,
        },
        Some((_, uid)) if world.deployment.as_ref().is_some_and(|d| d.metadata.uid.as_deref() == Some(uid)) => {
            ArmOwner::Workload
        }
        _ => ArmOwner::Nobody,
    };
    let pods: Vec<&Pod> = world.pods.iter().filter(|pod| pod.hash() == Some(hash)).collect();
    let staying = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let count = |pods: usize| i32::try_from(pods).unwrap_or(i32::MAX);
    let failure =
        set.status.conditions.iter().find(|condition| condition.kind == "ReplicaFailure" && condition.status == "True");
    Some(Arm {
        owner,
        wanted: set.spec.replicas,
        pods: count(staying.clone().count()),
        ready: count(pods.iter().filter(|pod| pod.is_ready()).count()),
        available: set.status.available_replicas,
        uids: staying.filter_map(|pod| pod.metadata.uid.clone().zip(pod.metadata.name.clone())).collect(),
        restarts: pods.iter().map(|pod| pod.restarts()).sum(),
        blocked: failure
            .map(|condition| condition.message.clone())
            .or_else(|| pods.iter().find_map(|pod| pod.blocked().or_else(|| unscheduled(pod)))),
        no_room: failure.map(|condition| &condition.message).filter(|why| why.contains(OVER_QUOTA)).cloned(),
    })
}

/// It had a revision of the Deployment before: it came from its history.
pub(super) fn is_borrowed(set: &ReplicaSet) -> bool {
    set.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(names::REVISION_ANNOTATION))
}

/// Its controller is this run.
pub(super) fn is_owned_by(set: &ReplicaSet, run: &RolloutRun) -> bool {
    owner_of(set).is_some_and(|(_, uid)| Some(uid) == run.metadata.uid.as_deref())
}

/// The run made it, or borrowed it. Its label says so too: a deletion of the run that orphans what it owns takes the
/// reference to the owner off. Both are taken off by the handover, and by a return.
pub(super) fn is_of_run(set: &ReplicaSet, run: &RolloutRun) -> bool {
    let labelled = || {
        let label = set.metadata.labels.as_ref().and_then(|labels| labels.get(names::RUN_LABEL));
        label.is_some() && label == run.metadata.name.as_ref()
    };
    match owner_of(set) {
        Some((kind, _)) => is_owned_by(set, run) || kind == "Deployment" && labelled(),
        None => labelled(),
    }
}

/// It came from the Deployment's history. Of one that lost its owner the Deployment's mark says nothing: it has been
/// adopted, perhaps.
pub(super) fn is_borrowed_by(set: &ReplicaSet, run: &RolloutRun) -> bool {
    is_borrowed(set) && (is_owned_by(set, run) || run.spec.to.revision.is_some())
}

fn unscheduled(pod: &Pod) -> Option<String> {
    let condition = pod
        .status
        .conditions
        .iter()
        .find(|condition| condition.kind == "PodScheduled" && condition.status == "False")?;
    Some(condition.message.clone())
}

/// Which arm of the run a pod belongs to.
pub fn arm_of(pod: &Pod, run: &RolloutRun) -> Option<crate::telemetry::Arm> {
    match pod.hash()? {
        hash if hash == run.spec.from.hash => Some(crate::telemetry::Arm::Stable),
        hash if hash == run.spec.to.hash => Some(crate::telemetry::Arm::Canary),
        _ => None,
    }
}

fn pinned(world: &World, service: &Service) -> Pinned {
    Pinned {
        name: service.metadata.name.clone().unwrap_or_default(),
        hash: traffic::pinned(service).map(str::to_owned),
        ready: ready(world, service),
        owned: traffic::is_owned(&service.metadata),
        changed_by: traffic::changed_by(&service.metadata),
    }
}

fn ready(world: &World, service: &Service) -> BTreeMap<String, usize> {
    let of_service = |slice: &&EndpointSlice| {
        let labels = slice.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get("kubernetes.io/service-name")) == service.metadata.name.as_ref()
    };
    traffic::ready_by_hash(world.endpoint_slices.iter().filter(of_service), |name| {
        let pod = world.pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(name))?;
        pod.hash().map(str::to_owned)
    })
}

/// What a person must mend before, or during, a run.
pub fn troubles(world: &World, run: Option<&RolloutRun>) -> Vec<Trouble> {
    let spec = run.map_or(&world.rollout.spec, |run| &run.spec.policy);
    let Some(deployment) = &world.deployment else { return Vec::new() };
    let mut troubles = Vec::new();
    let mut say = |reason, message: String| troubles.push(Trouble { reason, message });
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let mine = world.rollout.metadata.name.as_deref();
    let other = world.others.iter().find(|other| {
        other.metadata.name.as_deref() != mine
            && other.spec.workload_ref == spec.workload_ref
            && (other.metadata.creation_timestamp.clone(), other.metadata.name.clone())
                < (world.rollout.metadata.creation_timestamp.clone(), world.rollout.metadata.name.clone())
    });
    if let Some(other) = other {
        let other = other.metadata.name.as_deref().unwrap_or_default();
        say(
            reasons::WORKLOAD_TAKEN,
            format!("Deployment {name} is governed by Rollout {other}, which is older: delete one of the two"),
        );
    }
    if deployment.spec.revision_history_limit == 0 {
        say(
            reasons::NO_REVISION_HISTORY,
            format!(
                "Deployment {name} has revisionHistoryLimit 0, so there is nothing to go back to: set it to 1 or more"
            ),
        );
    }
    if deployment.spec.strategy["type"] == "Recreate" {
        say(
            reasons::RECREATE_STRATEGY,
            format!(
                "Deployment {name} has strategy Recreate, so two versions must not run at once, and with a canary they do: \
                 set spec.strategy.type to RollingUpdate, or release it without Serin"
            ),
        );
    }
    let labels = template::labels(&deployment.spec.template);
    match world.services.iter().find(|service| service.metadata.name.as_ref() == Some(&spec.service)) {
        None => say(
            reasons::SERVICE_MISSING,
            format!(
                "expected Service {} in this namespace, found none: create it, or correct spec.service",
                spec.service
            ),
        ),
        Some(service) if service.spec.cluster_ip == "None" => {
            say(
                reasons::SERVICE_HEADLESS,
                format!(
                    "Service {} is headless (clusterIP: None), so its callers choose pods themselves: use a Service with a cluster IP",
                    spec.service
                ),
            );
        }
        Some(service) => {
            let wrong = service
                .spec
                .selector
                .iter()
                .find(|(key, value)| *key != names::HASH_LABEL && labels.get(*key) != Some(value));
            if let Some((key, value)) = wrong {
                say(
                    reasons::SERVICE_MISMATCH,
                    format!(
                        "Service {} selects {key}={value}, but the pods of Deployment {name} have {}: correct one of the two",
                        spec.service,
                        labels.get(key).map_or("no such label".to_owned(), |is| format!("{key}={is}"))
                    ),
                );
            } else if service.spec.selector.is_empty() {
                say(
                    reasons::SERVICE_MISMATCH,
                    format!(
                        "Service {} has no selector: give it the labels of the pods of Deployment {name}",
                        spec.service
                    ),
                );
            }
        }
    }
    for wanted in &spec.routes {
        match world.routes.iter().find(|route| route.is(wanted)) {
            None => say(
                reasons::ROUTE_MISSING,
                format!(
                    "expected {} {} in this namespace, found none: create it, or correct spec.routes",
                    wanted.kind, wanted.name
                ),
            ),
            Some(route) if traffic::rules_of(route, &spec.service) == 0 => {
                say(
                    reasons::ROUTE_MISMATCH,
                    format!(
                        "{} {} has no rule whose backendRefs name Service {}: add one, or correct spec.routes or spec.service",
                        wanted.kind, wanted.name, spec.service
                    ),
                );
            }
            // Before the next run it is asked for once this one is over.
            Some(_) if run.is_none() && world.active().is_some() => {}
            Some(route) => {
                let name = run.and_then(|run| run.metadata.name.as_deref()).unwrap_or(RUN_TO_COME);
                let known = run.map(originals).unwrap_or_default();
                if let Err(no_room) = traffic::room(route, spec, name, &known) {
                    say(reasons::ROUTE_FULL, format!("{} {}: {no_room}", wanted.kind, wanted.name));
                }
            }
        }
    }
    if let Some(message) = preview_taken(world, spec) {
        say(reasons::PREVIEW_TAKEN, message);
    }
    let tracked = spec.configuration.iter().flat_map(|configuration| &configuration.track);
    if let Some(kind) = tracked.copied().find(|kind| !world.trackable.contains(kind)) {
        let (kind, value) = match kind {
            ConfigKind::ConfigMap => ("ConfigMaps", "configuration.configMaps"),
            ConfigKind::Secret => ("Secrets", "configuration.secrets"),
        };
        say(
            reasons::CONFIGURATION_UNREADABLE,
            format!(
                "spec.configuration tracks {kind}, and this Serin may not: set {value} of its chart (Kubernetes 1.36 or later), or leave them out"
            ),
        );
    }
    if let Some(port) = spec.telemetry.scrape.as_ref().map(|scrape| &scrape.port)
        && template::port(&deployment.spec.template, port).is_none()
    {
        let found = template::port_names(&deployment.spec.template).join(", ");
        say(
            reasons::METRICS_PORT_MISSING,
            format!(
                "no container port of Deployment {name} is called {port} (found: {}): name the port, or correct spec.telemetry.scrape.port",
                if found.is_empty() { "none with a name" } else { &found }
            ),
        );
    }
    if let Some(run) = run {
        troubles.extend(taken_sets(world, run, name));
    }
    troubles
}

/// Another route stands where the preview's is to be.
fn preview_taken(world: &World, spec: &RolloutSpec) -> Option<String> {
    let host = spec.preview_host()?;
    let kind = &spec.routes.first()?.kind;
    let name = names::preview_route(&spec.service);
    let mut others = world.routes.iter().filter(|route| {
        let labels = route.metadata.labels.as_ref();
        labels.is_none_or(|labels| !labels.contains_key(names::RUN_LABEL))
    });
    let taken = others.find(|route| {
        traffic::has_host(route, host) || route.kind.as_str() == kind && route.metadata.name.as_ref() == Some(&name)
    })?;
    let (kind, other) = (taken.kind.as_str(), taken.metadata.name.as_deref().unwrap_or_default());
    Some(match traffic::has_host(taken, host) {
        true => format!(
            "{kind} {other} has the host name {host}, which is to be the preview's alone: choose another previewHost, or take \
             it out of that route"
        ),
        false => {
            format!("{kind} {other} has the name that the preview's route needs: rename it, or leave out previewHost")
        }
    })
}

/// ReplicaSets that are in the place of the run's canary: they have its hash and another template, or its name.
fn taken_sets(world: &World, run: &RolloutRun, deployment: &str) -> Option<Trouble> {
    let hash = &run.spec.to.hash;
    let name_of = |set: &ReplicaSet| set.metadata.name.clone().unwrap_or_default();
    let other = world.replica_sets.iter().find(|set| {
        hash_of(set) == Some(hash)
            && !is_of_run(set, run)
            && template::digest(&set.spec.template) != run.spec.to.template
    });
    let ours = format!("{deployment}-{hash}");
    let message = match other {
        Some(set) => format!(
            "ReplicaSet {} has the label pod-template-hash={hash} of this run's canary, and another template: take the label off, or delete it",
            name_of(set)
        ),
        None if world.set(hash).is_none() && world.other_sets.contains(&ours) => {
            format!("ReplicaSet {ours} is there and is not this run's canary: delete it")
        }
        None => return None,
    };
    let message = format!("{message}; or abort the run, the next one takes another name");
    Some(Trouble { reason: reasons::REPLICA_SET_TAKEN, message })
}

/// How the chart has set the latch up.
impl std::str::FromStr for Latch {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "policy" => Ok(Self::Policy),
            "pause" => Ok(Self::Pause),
            other => Err(format!("expected policy or pause, found {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::world::testing::{run, set, world},
        *,
    };

    #[test]
    fn a_deployment_made_anew_is_another_one() {
        let mut world = world();
        let run = run(&world);
        let made_anew =
            |world: &World| observe(world, &run, &Seen::default()).workload.map(|workload| workload.made_anew);
        assert_eq!(made_anew(&world), Some(false));
        if let Some(deployment) = &mut world.deployment {
            deployment.metadata.uid = Some("another".into());
        }
        assert_eq!(made_anew(&world), Some(true));
        world.deployment = None;
        assert_eq!(made_anew(&world), None);
    }

    #[test]
    fn a_set_in_the_canarys_place_is_named() {
        let mut world = world();
        let run = run(&world);
        let said = |world: &World| {
            let all = troubles(world, Some(&run));
            all.into_iter().find(|trouble| trouble.reason == reasons::REPLICA_SET_TAKEN).map(|trouble| trouble.message)
        };
        assert_eq!(said(&world), None);
        world.other_sets.push("auth-two".into());
        assert!(said(&world).is_some_and(|said| said.contains("ReplicaSet auth-two is there")));
        world.other_sets.clear();
        world.replica_sets.push(set("two", "other", 0, Some("deployment")));
        assert!(said(&world).is_some_and(|said| said.contains("auth-two has the label pod-template-hash=two")));
        // the version's own, from the Deployment's history, is borrowed
        world.replica_sets.pop();
        world.replica_sets.push(set("two", "v2", 0, Some("deployment")));
        assert_eq!(said(&world), None);
    }
}
