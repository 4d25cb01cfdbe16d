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

/// Route and apex to stable. Late in a promotion the route points at the apex, so the apex goes first.
fn divert_actions(view: &View<'_>, stay: Move) -> Move {
    if !view.routed() {
        // One that the Deployment has is the Deployment's to scale.
        return stay.act(view.canary_is_ours().then(|| view.canary_of(0)).into_iter().flatten());
    }
    let pins = view.pins(&view.spec.from.hash);
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
    let pinned = view.snapshot.services.is_empty() || view.pinned_to(&view.spec.from.hash);
    let accepted = view.routes_accepted() && view.snapshot.preview.is_none() || view.stage_age() >= ACCEPT_AT_MOST;
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
    if gone && !view.canary_has_endpoints() {
        return stay.at_stage(Stage::Withdraw);
    }
    let remove = (!gone).then_some(Action::RemoveCanary);
    stay.act(remove).wait(WaitingReason::Workload, "the canary's pods go away")
}

fn withdraw(view: &View<'_>, stay: Move) -> Move {
    if view.route_is_clear() && (view.routes_accepted() || view.stage_age() >= ACCEPT_AT_MOST) {
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
    let told = format!("stable {} serves; {message}", view.spec.from.hash);
    let mut done = stay.note(warning, reason, told);
    done.phase = outcome.into();
    done
}
