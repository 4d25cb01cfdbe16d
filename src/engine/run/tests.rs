//! Capacity: what the weight may be with the pods that are there, and what a run waits for without them. And what is told
//! on the way.

use serde_json::json;

use super::{super::snapshot::Pinned, decide, mixed_traffic_note, split_status, testing::Scene};
use crate::{
    api::{Phase, Policy, RolloutRunSpec, RolloutRunStatus, Share, Stage, WaitingReason, validate},
    engine::{Action, Arm, ArmOwner, RouteView, Snapshot, WorkloadView, reasons},
    evidence::{Lost, Mismatch, Off},
};

fn spec() -> RolloutRunSpec {
    let version = |hash: &str| json!({"hash": hash, "template": hash});
    let policy = json!({
        "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
        "routes": [{"kind": "HTTPRoute", "name": "auth"}],
        "telemetry": {"scrape": {"port": "http"}, "requests": {"counter": "http_requests_total", "errors": {"code": "5.."}}},
        "slos": [{"name": "errors", "errors": {"objective": "95%"}}],
        "steps": [{"weight": 20, "bake": "10m"}], "limits": {"readyWithin": "60s"}
    });
    let spec = json!({"rolloutRef": {"name": "auth"}, "from": version("old"), "to": version("new"), "policy": policy});
    serde_json::from_value(spec).expect("a run")
}

fn policy() -> Policy {
    validate(&spec().policy).expect("a policy")
}

fn at(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_000_000 + second).expect("a time")
}

/// Four pods of stable, the apex pinned to them, and this canary in a route that gives it `weight` %.
fn world(canary: Arm, weight: u32) -> Snapshot {
    let ready = usize::try_from(canary.ready).expect("no less than none");
    let apex = Pinned {
        name: "auth".into(),
        hash: Some("old".into()),
        ready: [("old".to_owned(), 4)].into(),
        ..Pinned::default()
    };
    let route =
        RouteView { name: "auth".into(), share: Some(Share::of(weight)), accepted: true, ..RouteView::default() };
    Snapshot {
        run: "auth-1".into(),
        workload: Some(WorkloadView {
            replicas: 4,
            paused: true,
            template: "new".into(),
            run_label: Some("auth-1".into()),
            ..WorkloadView::default()
        }),
        stable: Some(Arm { owner: ArmOwner::Workload, wanted: 4, pods: 4, ready: 4, available: 4, ..Arm::default() }),
        canary: Some(canary),
        services: vec![apex],
        canary_service: Some(ready),
        routes: vec![route],
        ..Snapshot::default()
    }
}

/// Of these pods, this many are ready and available.
fn canary(pods: i32, ready: i32, available: i32) -> Arm {
    Arm { owner: ArmOwner::Run, wanted: pods, pods, ready, available, ..Arm::default() }
}

/// A run in this phase that asked for this weight.
fn status(phase: Phase, stage: Option<Stage>, weight: u32) -> RolloutRunStatus {
    let mut status = RolloutRunStatus { phase: Some(phase), stage, step: 1, ..RolloutRunStatus::default() };
    status.weight.ask(Share::of(weight));
    status.weight.set = weight;
    status
}

#[test]
fn the_weight_grows_by_available_pods_and_shrinks_when_none_is_ready() {
    for (had, pods, wanted, waits) in [
        (0, (2, 0, 0), 0, Some(WaitingReason::Capacity)),
        // ready, and too young for minReadySeconds
        (0, (2, 2, 1), 0, Some(WaitingReason::Capacity)),
        (0, (2, 2, 2), 20, Some(WaitingReason::Route)),
        // one of two was evicted
        (20, (2, 1, 1), 20, Some(WaitingReason::Bake)),
        (20, (2, 0, 0), 0, Some(WaitingReason::Capacity)),
        // all were, and their successors are young
        (0, (2, 1, 0), 0, Some(WaitingReason::Capacity)),
    ] {
        let world = world(canary(pods.0, pods.1, pods.2), had);
        let decision = decide(&policy(), &spec(), &status(Phase::Shifting, None, had), &world, false, at(0));
        let is = (decision.status.weight.wanted, decision.status.waiting.map(|waiting| waiting.reason));
        assert_eq!(is, (wanted, waits), "from {had} with {pods:?}");
        assert_eq!(decision.actions.contains(&Action::SetWeight(Share::of(wanted))), had != wanted, "{pods:?}");
    }
}

#[test]
fn a_promotion_that_loses_all_its_pods_before_the_switch_takes_the_weight_back() {
    let before = status(Phase::Promoting, Some(Stage::Grow), 50);
    let decision = decide(&policy(), &spec(), &before, &world(canary(4, 0, 0), 50), false, at(0));
    assert_eq!(decision.status.phase, Some(Phase::Promoting));
    assert_eq!(decision.actions, [Action::SetWeight(Share::NONE)]);
    // and goes on with the switch once they are back
    let decision = decide(&policy(), &spec(), &decision.status, &world(canary(4, 4, 4), 0), false, at(5));
    assert_eq!(decision.status.stage, Some(Stage::Switch));
}

#[test]
fn only_what_is_available_is_handed_over() {
    let mut before = status(Phase::Promoting, Some(Stage::HandOver), 0);
    before.weight.set = 100;
    for (available, hands_over) in [(3, false), (4, true)] {
        let mut world = world(canary(4, 4, available), 0);
        world.services[0].hash = Some("new".into());
        world.services[0].ready = [("new".to_owned(), 4)].into();
        // It is written down before it is done.
        let decision = decide(&policy(), &spec(), &before, &world, false, at(0));
        assert_eq!(decision.status.stage == Some(Stage::Converge), hands_over, "{available} of 4");
        let then = decide(&policy(), &spec(), &decision.status, &world, false, at(1));
        assert_eq!(then.actions.contains(&Action::HandOver), hands_over, "{available} of 4");
    }
}

#[test]
fn a_quota_without_room_is_said_once_in_its_own_words_and_is_no_case_for_ready_within() {
    let words =
        "pods \"auth-new-x\" is forbidden: exceeded quota: room, requested: pods=1, used: pods=4, limited: pods=4";
    let full = Arm { blocked: Some(words.into()), no_room: Some(words.into()), ..canary(2, 0, 0) };
    let mut status = status(Phase::Preparing, None, 0);
    let mut told = Vec::new();
    for second in [0, 1, 120] {
        let decision = decide(&policy(), &spec(), &status, &world(full.clone(), 0), false, at(second));
        let waiting = decision.status.waiting.clone().expect("it waits");
        assert_eq!((decision.status.phase, waiting.reason), (Some(Phase::Preparing), WaitingReason::Quota));
        assert!(waiting.message.contains(words), "{}", waiting.message);
        told.extend(decision.notes.clone());
        status = decision.status;
    }
    let [note] = told.as_slice() else { panic!("{told:?}") };
    assert!(note.warning && note.reason == reasons::HOLDING && note.message.contains(words), "{note:?}");
    // with room its pods come, and readyWithin counts from there
    let decision = decide(&policy(), &spec(), &status, &world(canary(2, 1, 1), 0), false, at(130));
    assert_eq!(decision.status.waiting.map(|waiting| waiting.reason), Some(WaitingReason::Capacity));
    assert_eq!(decision.notes.first().map(|note| note.message.as_str()), Some("Quota is over"));
}

#[test]
fn other_callers_of_stable_are_told_once_and_not_where_the_canary_does_not_count() {
    let mut scene = Scene::with(None);
    let mismatch = Mismatch { off: Off::Less, asked: 20.0, got: 12.0, requests: 4000, evidence: 9.0, threshold: 5.3 };
    let told = |scene: &Scene| {
        let status = RolloutRunStatus { split: Some(split_status(&mismatch)), ..RolloutRunStatus::default() };
        mixed_traffic_note(&scene.view(), &status).map(|note| note.message)
    };
    let message = told(&scene).expect("a note");
    assert!(message.contains("20.0 % of the requests, but of the 4000 that were counted it had 12.0 %"), "{message}");
    scene.snapshot.traffic.lost = Some(Lost::default());
    assert_eq!(told(&scene), None);
    scene.snapshot.traffic.lost = None;
    scene.snapshot.traffic.still = Some("none of 40".to_owned());
    assert_eq!(told(&scene), None);
}
