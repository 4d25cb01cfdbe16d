//! A check of the judge: the controller is broken on purpose, in small ways, and each must be noticed by the promise it
//! breaks.

use serde_json::{Value, json};
use serin::{
    api::{Phase, RolloutRun, RolloutRunStatus, Share, Stage, names::CONFIGURATION_LABEL},
    controller::{Kind as Written, Verb, World, Write, phase_of},
    engine::Action,
    evidence::Verdict,
};

use super::{
    check,
    model::{
        people::Deed,
        sabotage::Sabotage,
        server::Kind,
        sim::{Setting, Sim, preview_steps},
    },
};

/// A run that does not end is noticed after so many milliseconds.
const AT_MOST: i64 = 200_000;

struct Mutation {
    name: &'static str,
    noticed_by: &'static str,
    worlds: fn(u64) -> Setting,
    sabotage: Sabotage,
}

fn release(word: &str) -> Vec<(i64, Deed)> {
    vec![(15_000, Deed::Release(format!("auth:v2-{word}")))]
}

fn good(seed: u64) -> Setting {
    Setting { seed, deeds: release("good"), ..Setting::calm() }
}

fn bad(seed: u64) -> Setting {
    Setting { seed, deeds: release("bad"), ..Setting::calm() }
}

/// Pods, endpoints and gateways take their time.
fn slow(seed: u64) -> Setting {
    let deeds = [release("good"), vec![(60_000, Deed::Rest)]].concat();
    Setting { seed, lag: true, deeds, ..Setting::calm() }
}

fn aborted(seed: u64) -> Setting {
    Setting { deeds: [release("good"), vec![(22_000, Deed::Abort)]].concat(), ..good(seed) }
}

fn undone(seed: u64) -> Setting {
    Setting { deeds: [release("good"), vec![(22_000, Deed::Undo)]].concat(), ..good(seed) }
}

fn previewed(seed: u64) -> Setting {
    Setting { steps: preview_steps(), ..good(seed) }
}

fn crashing_controller(seed: u64) -> Setting {
    Setting { crashes: 0.02, ..good(seed) }
}

fn two_controllers(seed: u64) -> Setting {
    Setting { rival: Some(10_000), ..slow(seed) }
}

/// Somebody edits the route's rules all the time.
fn edited(seed: u64) -> Setting {
    let edits = (0..40).map(|time| (15_500 + 500 * time, Deed::EditRules(format!("/v{time}"))));
    Setting { lag: true, deeds: release("good").into_iter().chain(edits).collect(), ..good(seed) }
}

/// A refused edit of the ConfigMap; and pods that are made anew while the bad one is refused.
fn configured(seed: u64) -> Setting {
    let edits = [(15_000, "good 1"), (60_000, "bad 2"), (120_000, "good 3")];
    let edits = edits.map(|(at, words)| (at, Deed::Configure(words.into())));
    Setting { seed, tracks: true, deeds: edits.into_iter().chain([(90_000, Deed::Drain)]).collect(), ..Setting::calm() }
}

/// Something happens a while after a run has come to a place.
fn at(place: &'static str, happens: &[Deed], seed: u64) -> Setting {
    Setting { at_place: happens.iter().map(|deed| (place, 2_500, deed.clone())).collect(), ..good(seed) }
}

type Of<'a> = Option<(&'a RolloutRun, &'a RolloutRunStatus)>;

fn is_in(of: Of<'_>, phase: Phase) -> bool {
    of.is_some_and(|(_, status)| status.phase == Some(phase))
}

fn leave_out(actions: &mut Vec<Action>, left_out: impl Fn(&Action) -> bool) {
    actions.retain(|action| !left_out(action));
}

fn weight_of(action: &mut Action) -> Option<&mut u32> {
    match action {
        Action::SetWeight(share) => Some(&mut share.weight),
        _ => None,
    }
}

fn set_weight(weight: u32) -> Action {
    Action::SetWeight(Share::of(weight))
}

/// The operations of a patch.
fn ops(write: &mut Write) -> Option<&mut Vec<Value>> {
    match &mut write.verb {
        Verb::Patch(ops) | Verb::PatchStatus(ops) => ops.as_array_mut(),
        _ => None,
    }
}

/// Every canary pod looks ready, and in the endpoints of the canary's Service.
fn all_ready(world: &mut World) {
    let Some(run) = world.active() else { return };
    let (hash, apex) = (run.spec.to.hash.clone(), run.spec.policy.service.clone());
    let mut endpoints = Vec::new();
    for pod in world.pods.iter_mut().filter(|pod| pod.hash() == Some(&hash)) {
        let condition = json!({"type": "Ready", "status": "True", "reason": "", "message": ""});
        pod.status.conditions = vec![serde_json::from_value(condition).expect("a condition")];
        let name = &pod.metadata.name;
        endpoints.push(json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "targetRef": {"name": name}}));
    }
    for set in world.replica_sets.iter_mut().filter(|set| serin::workload::hash_of(set) == Some(&hash)) {
        set.status.available_replicas = set.spec.replicas;
    }
    let service = format!("{apex}-canary");
    let slice = json!({
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints
    });
    world.endpoint_slices.push(serde_json::from_value(slice).expect("a slice"));
}

/// The Services look pinned to stable, and are not.
fn as_if_pinned(world: &mut World) {
    let Some(run) = world.active() else { return };
    let from = run.spec.from.hash.clone();
    for service in world.services.iter_mut().filter(|service| service.metadata.name.as_deref() == Some("auth")) {
        service.spec.selector.insert("pod-template-hash".into(), from.clone());
    }
}

const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "traffic before the canary's endpoints",
        noticed_by: "I1",
        worlds: slow,
        sabotage: Sabotage { world: |world, _| all_ready(world), ..Sabotage::NONE },
    },
    Mutation {
        name: "the canary goes before its traffic",
        noticed_by: "I1",
        worlds: aborted,
        sabotage: Sabotage {
            actions: |actions, of| {
                if is_in(of, Phase::RollingBack) {
                    actions.insert(0, Action::EnsureCanary { replicas: 0 });
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "the canary's weight is added to stable's",
        noticed_by: "I1",
        worlds: good,
        sabotage: Sabotage {
            write: |write, _| {
                let route = write.kind == Written::HttpRoute;
                for op in ops(write).into_iter().flatten().filter(|op| route && op["op"] == "replace") {
                    if op["value"][0]["backendRefs"].as_array().is_some_and(|refs| refs.len() == 2) {
                        op["value"][0]["backendRefs"][0]["weight"] = json!(100);
                    }
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "the retreat leaves the weight",
        noticed_by: "I2",
        worlds: bad,
        sabotage: Sabotage {
            actions: |actions, of| {
                if is_in(of, Phase::RollingBack) {
                    leave_out(actions, |action| matches!(action, Action::SetWeight(_) | Action::ClearRoutes));
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "weight again after a Bad verdict",
        noticed_by: "I2",
        worlds: bad,
        sabotage: Sabotage {
            actions: |actions, of| {
                if of.is_some_and(|(_, status)| {
                    status.phase == Some(Phase::RollingBack) && status.stage == Some(Stage::Drain)
                }) {
                    actions.push(set_weight(20));
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "an abort is ignored",
        noticed_by: "I2",
        worlds: |seed| Setting { steps: json!([{"weight": 20, "bake": "60s"}]), ..aborted(seed) },
        sabotage: Sabotage {
            world: |world, _| world.runs.iter_mut().for_each(|run| run.spec.abort = false),
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "pinned to the canary before there is one",
        noticed_by: "I3",
        worlds: good,
        sabotage: Sabotage {
            actions: |actions, of| {
                for action in actions {
                    if let (Action::Pin { hash, .. }, Some((run, _))) = (action, of) {
                        hash.clone_from(&run.spec.to.hash);
                    }
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "pinned to a wrong hash",
        noticed_by: "I3",
        worlds: good,
        sabotage: Sabotage {
            actions: |actions, _| {
                for action in actions {
                    if let Action::Pin { hash, .. } = action {
                        hash.push('x');
                    }
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "handed over at the first step",
        noticed_by: "I2",
        worlds: good,
        sabotage: Sabotage {
            actions: |actions, of| {
                if is_in(of, Phase::Shifting) {
                    actions.push(Action::HandOver);
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "unpaused in the middle of a run",
        noticed_by: "I3",
        worlds: good,
        sabotage: Sabotage {
            actions: |actions, of| {
                if let Some((run, _)) = of.filter(|_| is_in(of, Phase::Shifting)) {
                    actions.push(Action::UnpauseWorkload { serving: run.spec.to.hash.clone() });
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "20 % more than the step's weight",
        noticed_by: "I4",
        worlds: good,
        sabotage: Sabotage {
            actions: |actions, _| {
                for weight in actions.iter_mut().filter_map(weight_of).filter(|weight| **weight > 0) {
                    *weight = (*weight + 20).min(100);
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "everything to the canary at the first step",
        noticed_by: "I4",
        worlds: good,
        sabotage: Sabotage {
            actions: |actions, of| {
                if is_in(of, Phase::Shifting) {
                    actions.iter_mut().filter_map(weight_of).for_each(|weight| *weight = 100);
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "the pin is forgotten",
        noticed_by: "I4",
        worlds: good,
        sabotage: Sabotage { world: |world, _| as_if_pinned(world), ..Sabotage::NONE },
    },
    Mutation {
        name: "the preview's host leads to stable, too",
        noticed_by: "I4",
        worlds: previewed,
        sabotage: Sabotage {
            write: |write, _| {
                if let (Written::HttpRoute, Verb::Create(body)) = (write.kind, &mut write.verb) {
                    let stable = json!({"name": "auth", "port": 80, "weight": 1});
                    body["spec"]["rules"][0]["backendRefs"].as_array_mut().expect("backends").push(stable);
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "the preview outlives a retreat",
        noticed_by: "I2",
        worlds: |seed| Setting { steps: preview_steps(), ..aborted(seed) },
        sabotage: Sabotage {
            actions: |actions, _| leave_out(actions, |action| *action == Action::DeletePreview),
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "decisions depend on how often one has looked",
        noticed_by: "I5",
        worlds: good,
        sabotage: Sabotage {
            seen: |seen, looks| seen.judgements.iter_mut().for_each(|judgement| judgement.evidence += looks as f64),
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "done before all is tidied up",
        noticed_by: "I6",
        worlds: good,
        sabotage: Sabotage {
            status: |status| {
                if status.phase == Some(Phase::Promoting) && status.stage == Some(Stage::Tidy) {
                    status.phase = Some(Phase::Succeeded);
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "the run keeps its finalizer",
        noticed_by: "I6",
        worlds: good,
        sabotage: Sabotage {
            write: |write, _| {
                if let (Written::RolloutRun, Verb::Patch(ops)) = (write.kind, &mut write.verb) {
                    *ops = json!([]);
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "the route's weights are not put back",
        noticed_by: "I6",
        worlds: good,
        sabotage: Sabotage {
            write: |write, _| {
                if let (Written::HttpRoute, Verb::Patch(ops)) = (write.kind, &mut write.verb)
                    && ops[1]["value"][0]["backendRefs"].as_array().is_some_and(|refs| refs.len() == 1)
                {
                    ops[1]["value"][0]["backendRefs"][0]["weight"] = json!(50);
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "a status with the time in it",
        noticed_by: "I7",
        worlds: good,
        sabotage: Sabotage {
            rollout_status: |status, now| status.message = Some(format!("looked at {now}")),
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "Bad verdicts are ignored",
        noticed_by: "I8",
        worlds: bad,
        sabotage: Sabotage {
            seen: |seen, _| seen.judgements.iter_mut().for_each(|judgement| judgement.verdict = Verdict::Good),
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "a controller that starts anew gives the run up",
        noticed_by: "I8",
        worlds: crashing_controller,
        sabotage: Sabotage {
            world: |world, looks| {
                if looks == 0 {
                    world.runs.iter_mut().for_each(|run| run.spec.abort = true);
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "not unpaused after an undo",
        noticed_by: "I8",
        worlds: undone,
        sabotage: Sabotage {
            actions: |actions, _| leave_out(actions, |action| matches!(action, Action::UnpauseWorkload { .. })),
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "a change of the configuration is no version",
        noticed_by: "I8",
        worlds: configured,
        sabotage: Sabotage {
            actions: |actions, _| leave_out(actions, |action| matches!(action, Action::StampConfiguration { .. })),
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "stamped without copies",
        noticed_by: "I8",
        worlds: configured,
        sabotage: Sabotage {
            actions: |actions, _| leave_out(actions, |action| *action == Action::CopyConfiguration),
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "copies that serve are forgotten",
        noticed_by: "I8",
        worlds: configured,
        sabotage: Sabotage {
            world: |world, _| {
                for copy in world.configuration.iter_mut().filter(|object| object.copy_for().is_some()) {
                    copy.metadata.labels.get_or_insert_default().insert(CONFIGURATION_LABEL.into(), "old".into());
                }
            },
            actions: |actions, of| {
                if of.is_none() {
                    actions.insert(0, Action::ForgetConfigurations);
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "patches of the route without their tests",
        noticed_by: "I9",
        worlds: edited,
        sabotage: Sabotage {
            write: |write, _| {
                if let (Written::HttpRoute, Some(ops)) = (write.kind, ops(write)) {
                    ops.retain(|op| op["op"] != "test");
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "a status is written over a newer one",
        noticed_by: "I10",
        worlds: |seed| Setting { rival: Some(15_500), ..slow(seed) },
        sabotage: Sabotage {
            write: |write, _| {
                if let (Written::RolloutRun, Verb::PatchStatus(ops)) = (write.kind, &mut write.verb) {
                    ops.as_array_mut().expect("operations").retain(|op| op["op"] != "test");
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "each controller names its runs in its own way",
        noticed_by: "I10",
        worlds: two_controllers,
        sabotage: Sabotage {
            write: |write, by| {
                if let (Written::RolloutRun, Verb::Create(body)) = (write.kind, &mut write.verb) {
                    write.name = format!("auth-{}", by.len());
                    body["metadata"]["name"] = json!(write.name);
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "a canary that lost its pods keeps its weight",
        noticed_by: "I1",
        worlds: |seed| Setting {
            // Nobody makes room while the weight should be taken back.
            deeds: [release("good"), vec![(120_000, Deed::Rest)]].concat(),
            ..at("Shifting", &[Deed::Quota(1), Deed::Drain], seed)
        },
        sabotage: Sabotage {
            actions: |actions, of| {
                if is_in(of, Phase::Shifting) {
                    leave_out(actions, |action| matches!(action, Action::SetWeight(share) if share.is_none()));
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "a run that is deleted goes at once",
        noticed_by: "I1",
        worlds: |seed| at("Shifting", &[Deed::DeleteRun], seed),
        sabotage: Sabotage {
            actions: |actions, of| {
                if of.is_some_and(|(run, _)| run.metadata.deletion_timestamp.is_some()) {
                    actions.insert(0, Action::RemoveFinalizer);
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "a Rollout that is deleted goes before its runs",
        noticed_by: "liveness",
        worlds: |seed| at("Shifting", &[Deed::DeleteRollout], seed),
        sabotage: Sabotage {
            world: |world, _| {
                if world.rollout.metadata.deletion_timestamp.is_some() {
                    world.runs.iter_mut().for_each(|run| run.metadata.finalizers = None);
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "a Service that was made anew is not pinned",
        noticed_by: "I4",
        worlds: |seed| Setting {
            steps: json!([{"weight": 20, "bake": "60s"}]),
            ..at("Shifting", &[Deed::DeleteService, Deed::CreateService], seed)
        },
        sabotage: Sabotage {
            world: |world, _| {
                if world.active().is_some_and(|run| phase_of(run) == Phase::Shifting) {
                    as_if_pinned(world);
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "a route that was made anew stays without the canary",
        noticed_by: "liveness",
        worlds: |seed| at("Shifting", &[Deed::DeleteRoute, Deed::CreateRoute], seed),
        sabotage: Sabotage {
            actions: |actions, of| {
                if is_in(of, Phase::Shifting) {
                    leave_out(actions, |action| *action == Action::AddToRoutes);
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "late in a promotion the canary does not follow the Deployment's size",
        noticed_by: "I8",
        worlds: |seed| at("Quiet", &[Deed::Scale(6)], seed),
        sabotage: Sabotage {
            actions: |actions, of| {
                if of.is_some_and(|(_, status)| status.stage >= Some(Stage::Quiet)) {
                    leave_out(actions, |action| matches!(action, Action::EnsureCanary { .. }));
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "the canary has no minReadySeconds",
        noticed_by: "I9",
        worlds: |seed| Setting { min_ready: 5, ..good(seed) },
        sabotage: Sabotage {
            write: |write, _| {
                if let (Written::ReplicaSet, Verb::Create(body)) = (write.kind, &mut write.verb) {
                    body["spec"]["minReadySeconds"] = json!(0);
                }
            },
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "refused without a word of the image that can't be pulled",
        noticed_by: "told",
        worlds: |seed| Setting { deeds: release("unpullable"), ..good(seed) },
        sabotage: Sabotage {
            world: |world, _| world.pods.iter_mut().for_each(|pod| pod.status.container_statuses.clear()),
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "the Deployment never gets the new version",
        noticed_by: "liveness",
        worlds: good,
        sabotage: Sabotage {
            actions: |actions, _| leave_out(actions, |action| *action == Action::HandOver),
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "the pin is never taken off",
        noticed_by: "liveness",
        worlds: good,
        sabotage: Sabotage {
            actions: |actions, _| leave_out(actions, |action| matches!(action, Action::Unpin { .. })),
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "the preview's route is left",
        noticed_by: "liveness",
        worlds: previewed,
        sabotage: Sabotage {
            actions: |actions, _| leave_out(actions, |action| *action == Action::DeletePreview),
            ..Sabotage::NONE
        },
    },
    Mutation {
        name: "the canary's Service is left",
        noticed_by: "liveness",
        worlds: bad,
        sabotage: Sabotage {
            actions: |actions, _| leave_out(actions, |action| *action == Action::DeleteCanaryService),
            ..Sabotage::NONE
        },
    },
];

/// At most so many worlds are tried for each.
const WORLDS: u64 = 40;

/// The first world in which the promise is seen broken; else what else was noticed.
fn noticed(mutation: &Mutation) -> Result<(u64, String), Vec<String>> {
    let mut others = Vec::new();
    for seed in 0..WORLDS {
        let mut sim = Sim::new((mutation.worlds)(seed));
        sim.controllers[0].sabotage = Some(mutation.sabotage);
        match check(&mut sim, AT_MOST) {
            Err(said) if said.starts_with(&format!("{}:", mutation.noticed_by)) => return Ok((seed, said)),
            Err(said) => others.push(said),
            Ok(()) => {}
        }
    }
    Err(others)
}

#[test]
fn every_breakage_is_noticed_by_the_promise_it_breaks() {
    let mut missed = Vec::new();
    for mutation in MUTATIONS {
        let (name, by) = (mutation.name, mutation.noticed_by);
        match noticed(mutation) {
            Ok((world, said)) => println!("{by:>8} | {name} | world {world}: {said}"),
            Err(others) => missed.push(format!("{name}: expected {by}, noticed in {WORLDS} worlds: {others:#?}")),
        }
    }
    println!("{} of {} noticed", MUTATIONS.len() - missed.len(), MUTATIONS.len());
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// The same worlds without a breakage: what is noticed is the breakage.
#[test]
fn nothing_broken_is_noticed_as_nothing() {
    for worlds in
        [good, bad, slow, aborted, undone, previewed, crashing_controller, two_controllers, edited, configured]
    {
        for seed in 0..3 {
            let mut sim = Sim::new(worlds(seed));
            assert_eq!(check(&mut sim, super::AT_MOST), Ok(()), "{:?}", sim.setting);
        }
    }
}

#[test]
fn every_promise_has_its_breakage() {
    for promise in ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I10", "liveness", "told"] {
        assert!(MUTATIONS.iter().any(|mutation| mutation.noticed_by == promise), "{promise}");
    }
    assert!(MUTATIONS.len() >= 35);
}

/// What would be seen if this patch were ours.
fn tampered(kind: Kind, ops: &Value) -> String {
    let mut sim = Sim::new(Setting::calm());
    (0..100).for_each(|_| sim.step());
    sim.server.patch(kind, "auth", ops, "serin", false).expect("a valid patch");
    check(&mut sim, 100_000).expect_err("the checks notice")
}

#[test]
fn an_apex_pinned_to_nobody_is_noticed() {
    let said =
        tampered(Kind::Service, &json!([{"op": "add", "path": "/spec/selector/pod-template-hash", "value": "nobody"}]));
    assert!(said.starts_with("I3"), "{said}");
}

#[test]
fn weight_on_no_endpoints_is_noticed() {
    let refs = json!([{"name": "auth", "port": 80, "weight": 50}, {"name": "auth-canary", "port": 80, "weight": 50}]);
    let said = tampered(Kind::Route, &json!([{"op": "add", "path": "/spec/rules/0/backendRefs", "value": refs}]));
    assert!(said.starts_with("I1"), "{said}");
}
