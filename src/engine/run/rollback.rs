//! Rollback: traffic first and at once, then pods, then whatever else is ours.

use super::{
    super::{Action, ArmOwner, reasons},
    Move,
    gates::{self, Point},
    retreat::Retreat,
    view::View,
};
use crate::api::{Outcome, Phase, Share, Stage, WaitingReason};

/// A canary that got nothing for this many seconds has finished.
const IDLE: f64 = 1.0;
/// Requests under way get at most this many seconds; pods end gracefully after it all the same.
const DRAIN_AT_MOST: f64 = 15.0;
/// Who calls the preview's host name gets at least this many seconds after its route is gone: no gateway says when it has
/// heard of that.
const PREVIEW_SETTLES: f64 = 5.0;
/// A gateway that accepts nothing for this many seconds does not keep a refused version alive.
const ACCEPT_AT_MOST: f64 = 60.0;
/// A watch may show this many seconds late that the canary is in the route.
const SHOWN_LATE: f64 = 5.0;

/// Take the traffic back, now.
pub(super) fn start(view: &View<'_>, retreat: Retreat) -> Move {
    let warning = retreat.outcome == Outcome::RolledBack;
    let mut go = divert_actions(view, Move::stay(view))
        .at_stage(Stage::Divert)
        .note(warning, reasons::ROLLING_BACK, format!("{}: {}", retreat.reason, retreat.message))
        .say(format!("{}: {}", retreat.reason, retreat.message));
    go = go.act(view.end_preview());
    go.phase = Phase::RollingBack;
    go.outcome = Some((retreat.outcome, retreat.reason));
    go.wanted = Share::NONE;
    go
}

/// The next move of the rollback.
pub(super) fn next(view: &View<'_>) -> Move {
    let mut stay = Move::stay(view).say(view.before.message.clone().unwrap_or_default());
    stay.wanted = Share::NONE;
    let next = match view.before.stage.unwrap_or(Stage::Divert) {
        Stage::Drain => drain(view, stay),
        Stage::ScaleAway => scale_away(view, stay),
        Stage::Withdraw => withdraw(view, stay),
        Stage::Tidy => return tidy(view, stay),
        _ => divert(view, stay),
    };
    // Last: nothing else waits for it.
    next.act(view.end_preview())
}

/// Route and apex to stable (or what serves in its place). Late in a promotion the route points at the apex, so the apex goes first.
fn divert_actions(view: &View<'_>, stay: Move) -> Move {
    if !view.routed() {
        // One that the Deployment has is the Deployment's to scale.
        return stay.act(view.canary_is_ours().then(|| view.canary_of(0)).into_iter().flatten());
    }
    let pins = view.pins(view.home());
    if view.pinned_to(&view.spec.to.hash) {
        stay.act(pins).act(view.weights(Share::NONE))
    } else {
        stay.act(view.weights(Share::NONE)).act(pins)
    }
}

fn divert(view: &View<'_>, stay: Move) -> Move {
    let stay = divert_actions(view, stay);
    if !view.routed() {
        return stay.at_stage(Stage::ScaleAway);
    }
    let away = view.snapshot.routes.iter().all(|route| route.share.unwrap_or_default().is_none());
    let pinned = view.snapshot.services.is_empty() || view.pinned_to(view.home());
    let accepted = view.routes_let_go() && view.snapshot.preview.is_none() || view.stage_age() >= ACCEPT_AT_MOST;
    if away && pinned && accepted {
        return stay.at_stage(Stage::Drain);
    }
    stay.wait(
        WaitingReason::Route,
        format!("waiting for the gateway to take the canary's weight away: {}", view.route_message()),
    )
}

fn drain(view: &View<'_>, stay: Move) -> Move {
    let stay = divert_actions(view, stay);
    let age = view.stage_age();
    let traffic = &view.snapshot.traffic;
    let settled = if view.policy.spec.preview_host().is_some() { PREVIEW_SETTLES } else { IDLE };
    let hidden = view.snapshot.preview.is_none() && age >= settled;
    let idle = traffic.blind.is_none() && traffic.canary_idle >= IDLE && hidden;
    if idle || age >= DRAIN_AT_MOST || view.canary().is_none_or(|arm| arm.ready == 0) {
        return stay.at_stage(Stage::ScaleAway);
    }
    stay.wait(WaitingReason::Drain, "the canary finishes its requests")
}

fn scale_away(view: &View<'_>, stay: Move) -> Move {
    let stay = match view.routed() {
        true => divert_actions(view, stay),
        false => stay,
    };
    let keep = view.policy.spec.limits.keep_canary_for.as_secs_f64();
    let refused = view.before.outcome == Some(Outcome::RolledBack) && !view.ending;
    if view.routed() && refused && view.stage_age() < keep {
        return stay.wait(
            WaitingReason::KeptForDebugging,
            "the canary's pods are kept without traffic (limits.keepCanaryFor)",
        );
    }
    let gone = match view.canary() {
        None => true,
        Some(arm) if arm.owner == ArmOwner::Borrowed => arm.wanted == 0 && arm.pods == 0,
        Some(arm) => matches!(arm.owner, ArmOwner::Workload | ArmOwner::Nobody),
    };
    // Without a Deployment nobody scales what was handed over: its pods are its owner's matter.
    let left = view.canary().is_some_and(|arm| arm.owner == ArmOwner::Nobody);
    if gone && (left || !view.canary_has_endpoints()) {
        return stay.at_stage(Stage::Withdraw);
    }
    let remove = (!gone).then_some(Action::RemoveCanary);
    stay.act(remove).wait(WaitingReason::Workload, "the canary's pods go away")
}

fn withdraw(view: &View<'_>, stay: Move) -> Move {
    // The run has put the canary into a route (it keeps the weights from before that), and has not seen it there since.
    let seen = view.before.waiting.as_ref().is_some_and(|waiting| waiting.reason == WaitingReason::Route);
    let introduced = !view.before.original_weights.is_empty();
    if view.route_is_clear() && introduced && !seen && view.stage_age() < SHOWN_LATE {
        return stay;
    }
    if view.route_is_clear() && (view.routes_let_go() || view.stage_age() >= ACCEPT_AT_MOST) {
        return stay.at_stage(Stage::Tidy);
    }
    let clear = (!view.route_is_clear()).then_some(Action::ClearRoutes);
    stay.act(clear).wait(WaitingReason::Route, format!("taking the canary out of the route: {}", view.route_message()))
}

fn tidy(view: &View<'_>, stay: Move) -> Move {
    let outcome = view.before.outcome.unwrap_or(Outcome::RolledBack);
    let mut actions = view.unpins();
    if !view.route_is_clear() {
        // Where the route was judged by a cache that was late.
        actions.push(Action::ClearRoutes);
    }
    if actions.is_empty() {
        actions.extend(view.disown());
    }
    actions.extend(view.end_preview());
    if view.snapshot.canary_service.is_some() && view.snapshot.preview.is_none() {
        actions.push(Action::DeleteCanaryService);
    }
    let message = view.before.message.clone().unwrap_or_default();
    let untold = view.workload().is_some_and(|workload| !workload.failure_reported);
    if outcome == Outcome::RolledBack && untold {
        actions.push(Action::ReportFailure { message: message.clone() });
    }
    if !actions.is_empty() {
        return stay.act(actions);
    }
    let stay = match outcome {
        Outcome::RolledBack if !view.ending => match gates::ask(view, Point::RolledBack, stay) {
            Ok(stay) => stay,
            Err(instead) => return *instead,
        },
        _ => stay,
    };
    let (warning, reason) = match outcome {
        Outcome::RolledBack => (true, reasons::ROLLED_BACK),
        Outcome::Superseded => (false, reasons::SUPERSEDED),
        Outcome::Cancelled => (false, reasons::CANCELLED),
    };
    let told = match view.workload() {
        Some(_) => format!("stable {} serves; {message}", view.spec.from.hash),
        None => message,
    };
    let mut done = stay.note(warning, reason, told);
    done.phase = outcome.into();
    done
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{
        super::super::{Action, Pinned, RouteView, Snapshot, WorkloadView, testing},
        *,
    };
    use crate::api::{RolloutRunSpec, RolloutRunStatus, validate};

    fn spec() -> RolloutRunSpec {
        let policy = testing::rollout().spec;
        let value = serde_json::json!({"rolloutRef": {"name": "auth"}, "from": {"hash": "one", "template": "v1"},
            "to": {"hash": "two", "template": "v2"}, "policy": policy});
        serde_json::from_value(value).expect("a run")
    }

    fn at(phase: Phase, stage: Option<Stage>) -> RolloutRunStatus {
        let outcome = stage.map(|_| Outcome::Cancelled);
        RolloutRunStatus { phase: Some(phase), stage, outcome, ..RolloutRunStatus::default() }
    }

    fn decided(before: &RolloutRunStatus, snapshot: &Snapshot) -> super::super::Decision {
        let spec = spec();
        let policy = validate(&spec.policy).expect("a policy");
        super::super::decide(&policy, &spec, before, snapshot, false, Timestamp::UNIX_EPOCH)
    }

    fn pinned(hash: &str) -> Vec<Pinned> {
        vec![Pinned { name: "auth".into(), hash: Some(hash.into()), ..Pinned::default() }]
    }

    #[test]
    fn of_a_deployment_made_anew_what_serves_gets_the_traffic() {
        let anew = WorkloadView {
            made_anew: true,
            active: [("three".to_owned(), 2)].into(),
            newest: Some("three".into()),
            ..WorkloadView::default()
        };
        let snapshot = Snapshot { workload: Some(anew.clone()), services: pinned("one"), ..Snapshot::default() };
        let decision = decided(&at(Phase::Shifting, None), &snapshot);
        assert_eq!(decision.status.outcome, Some(Outcome::Cancelled));
        assert!(decision.status.message.is_some_and(|said| said.contains("made anew")));
        assert!(decision.actions.contains(&Action::Pin { service: "auth".into(), hash: "three".into() }));
        // as long as the old pods stand, orphaned and adopted, they serve on
        let adopted = WorkloadView { active: [("one".to_owned(), 2), ("three".to_owned(), 1)].into(), ..anew };
        let snapshot = Snapshot { workload: Some(adopted), services: pinned("one"), ..Snapshot::default() };
        let decision = decided(&at(Phase::Shifting, None), &snapshot);
        assert!(!decision.actions.iter().any(|action| matches!(action, Action::Pin { .. })), "{:?}", decision.actions);
    }

    #[test]
    fn a_route_that_is_gone_keeps_nobody_waiting_and_one_that_is_there_does() {
        let snapshot = |routes: Vec<RouteView>| Snapshot { services: pinned("one"), routes, ..Snapshot::default() };
        let before = at(Phase::RollingBack, Some(Stage::Divert));
        assert_eq!(decided(&before, &snapshot(Vec::new())).status.stage, Some(Stage::Drain));
        let unheard = RouteView { name: "auth".into(), ..RouteView::default() };
        assert_eq!(decided(&before, &snapshot(vec![unheard])).status.stage, Some(Stage::Divert));
    }

    #[test]
    fn what_a_late_watch_has_not_shown_is_waited_for() {
        let stage = |before: &RolloutRunStatus, share| {
            let route = RouteView { name: "auth".into(), accepted: true, share, ..RouteView::default() };
            let snapshot = Snapshot { services: pinned("one"), routes: vec![route], ..Snapshot::default() };
            let decision = decided(before, &snapshot);
            (decision.status.stage, decision.actions.contains(&Action::ClearRoutes), decision.status)
        };
        let since =
            |second| Timestamp::from_second(second).ok().map(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time);
        let mut before = at(Phase::RollingBack, Some(Stage::Withdraw));
        before.stage_since = since(0);
        // a canary that was never put into the route
        assert_eq!(stage(&before, None).0, Some(Stage::Tidy));
        // one that was, and is not shown there yet
        before.original_weights = [("auth".to_owned(), "1".to_owned())].into();
        assert_eq!(stage(&before, None).0, Some(Stage::Withdraw));
        // once it is shown it is taken out, and then there is nothing to wait for
        let (is, cleared, after) = stage(&before, Some(Share::NONE));
        assert_eq!((is, cleared), (Some(Stage::Withdraw), true));
        assert_eq!(stage(&after, None).0, Some(Stage::Tidy));
        // and one that somebody else has taken out is not waited for long
        before.stage_since = since(-5);
        assert_eq!(stage(&before, None).0, Some(Stage::Tidy));
    }

    #[test]
    fn a_service_that_was_turned_elsewhere_is_let_go_before_the_end() {
        let mut snapshot = Snapshot { strays: vec!["auth".into()], ..Snapshot::default() };
        let before = at(Phase::RollingBack, Some(Stage::Tidy));
        let decision = decided(&before, &snapshot);
        assert_eq!(decision.actions, [Action::Unpin { service: "auth".into() }]);
        assert_eq!(decision.status.phase, Some(Phase::RollingBack));
        snapshot.strays.clear();
        assert_eq!(decided(&before, &snapshot).status.phase, Some(Phase::Cancelled));
    }

    #[test]
    fn a_pin_of_a_newer_run_is_left_to_it() {
        // given a run that is at its end, by a late cache, and a Service that is pinned
        let unpins = |holder: Option<&str>| {
            let workload = WorkloadView { run_label: holder.map(str::to_owned), ..WorkloadView::default() };
            let services = pinned("one");
            let run = "auth-9".to_owned();
            let snapshot = Snapshot { run, workload: Some(workload), services, ..Snapshot::default() };
            let decision = decided(&at(Phase::RollingBack, Some(Stage::Tidy)), &snapshot);
            decision.actions.contains(&Action::Unpin { service: "auth".into() })
        };
        // then it is unpinned, but where a newer one has the Deployment
        assert_eq!([Some("auth-9"), Some("auth-8"), None, Some("auth-10")].map(unpins), [true, true, true, false]);
    }

    #[test]
    fn stable_is_woken_where_kubernetes_woke_another_but_not_for_a_deployment_that_moves() {
        let workload = WorkloadView {
            replicas: 2,
            paused: true,
            template: "v2".into(),
            active: [("zero".to_owned(), 2)].into(),
            ..WorkloadView::default()
        };
        let keep = Action::KeepServing { serving: "one".into() };
        let wakes = |workload: &WorkloadView| {
            let snapshot = Snapshot { workload: Some(workload.clone()), ..Snapshot::default() };
            decided(&at(Phase::Shifting, None), &snapshot).actions.contains(&keep)
        };
        assert!(wakes(&workload));
        assert!(!wakes(&WorkloadView { paused: false, ..workload.clone() }));
        assert!(!wakes(&WorkloadView { active: [("one".to_owned(), 2)].into(), ..workload }));
    }
}
