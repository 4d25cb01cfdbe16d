//! Promotion: everything to the canary, then the Deployment takes its ReplicaSet as its own.
//!
//! Until the handover (Converge), stable stays at full size and the way back is open. Nothing here is left to a clock alone: each
//! stage ends on what is seen, and the waits that could last forever are bounded.

use super::{
    super::{Action, ArmOwner, reasons},
    Move,
    gates::{self, Point},
    shift,
    view::View,
};
use crate::api::{Lets, Millis, Outcome, Phase, Share, Stage, Step, WaitingReason};

/// Requests under way on the route's old path get at least this many seconds.
const SETTLE: f64 = 5.0;
/// Stable's counters stand still this many seconds: it has no callers left.
const QUIET: f64 = 2.0;
/// Waits for quiet at most this many seconds: a caller with an endless connection must not stop the release.
const QUIET_AT_MOST: f64 = 30.0;
/// The Deployment controller gets this many seconds to scale the old ReplicaSet down before we do.
const TAKE_OVER: f64 = 10.0;

/// All steps are done.
pub(super) fn start(view: &View<'_>, stay: Move) -> Move {
    let message = match view.spec.promote || view.spec.straight {
        true => format!("promoting {}", view.spec.to.hash),
        false => format!("all {} steps are done: promoting {}", view.policy.steps.len(), view.spec.to.hash),
    };
    let mut go = stay.at_stage(Stage::Grow).note(false, reasons::PROMOTING, message);
    go.phase = Phase::Promoting;
    go.waiting = None;
    go
}

/// The next move of the promotion.
pub(super) fn next(view: &View<'_>) -> Move {
    let stage = view.before.stage.unwrap_or(Stage::Grow);
    let stay = Move::stay(view);
    let next = match stage {
        Stage::Grow => return grow(view, stay),
        Stage::Switch => return switch(view, stay),
        Stage::Repin => return repin(view, stay),
        Stage::Return => give_back(view, stay),
        Stage::Quiet => quiet(view, stay),
        Stage::Unroute => unroute(view, stay),
        Stage::Keep => keep(view, stay),
        Stage::HandOver => hand_over(view, stay),
        Stage::Converge => converge(view, stay),
        _ => return tidy(view, stay),
    };
    // Callers have what was previewed. Last: nothing else waits for it.
    next.act(view.end_preview())
}

/// Before the handover the canary follows the Deployment's size.
fn full_size(view: &View<'_>, stay: Move) -> Move {
    stay.act(view.canary_of(view.replicas().max(1)))
}

fn grow(view: &View<'_>, stay: Move) -> Move {
    let pods = view.replicas().max(1);
    let mut stay = full_size(view, stay.act(view.pins(&view.spec.from.hash)));
    if view.routed() {
        // All canary pods may go just now: the next weight is that of the switch.
        stay.wanted = if view.canary_ready() == 0 { Share::NONE } else { view.before.weight.share() };
        let wanted = stay.wanted;
        stay = stay.act(view.weights(wanted));
    }
    if view.spec.paused {
        return stay.wait(WaitingReason::Paused, "paused by a person (spec.paused) before the promotion");
    }
    if view.canary_available() < pods {
        return stay.wait_for_pods(view, pods);
    }
    stay.at_stage(if view.routed() { Stage::Switch } else { Stage::HandOver })
}

fn switch(view: &View<'_>, stay: Move) -> Move {
    let mut stay = full_size(view, stay.act(view.pins(&view.spec.from.hash)));
    if !view.gateway_knows() {
        return shift::introduce_again(view, stay);
    }
    stay.wanted = Share::of(100);
    stay = stay.act(view.weights(Share::of(100)));
    if view.set_weight() == 100 && view.shows(Share::of(100)) && view.routes_accepted() {
        return stay.at_stage(Stage::Repin);
    }
    stay.wait(WaitingReason::Route, format!("waiting for the gateway to accept weight 100: {}", view.route_message()))
}

fn repin(view: &View<'_>, stay: Move) -> Move {
    let to = &view.spec.to.hash;
    let stay = full_size(view, stay).act(view.weights(Share::of(100))).act(view.pins(to));
    if view.pinned_to(to) && view.apex_serves_only(to) {
        return stay.at_stage(Stage::Return);
    }
    stay.wait(WaitingReason::Workload, "waiting for the Service's endpoints to be the new version's")
}

fn give_back(view: &View<'_>, stay: Move) -> Move {
    let to = &view.spec.to.hash;
    let mut stay = full_size(view, stay).act(view.pins(to));
    // The route may go back to the apex only while the apex is the new version.
    if !(view.pinned_to(to) && view.apex_serves_only(to)) {
        return stay.wait(WaitingReason::Workload, "waiting for the Service's endpoints to be the new version's");
    }
    stay = stay.act(view.weights(Share::NONE));
    if view.shows(Share::NONE) && view.routes_accepted() {
        return stay.at_stage(Stage::Quiet);
    }
    stay.wait(
        WaitingReason::Route,
        format!("waiting for the gateway to go back to the Service: {}", view.route_message()),
    )
}

fn quiet(view: &View<'_>, stay: Move) -> Move {
    let stay = full_size(view, stay).act(view.pins(&view.spec.to.hash)).act(view.weights(Share::NONE));
    let age = view.stage_age();
    let still = view.snapshot.traffic.blind.is_none() && view.snapshot.traffic.stable_idle >= QUIET;
    if age >= SETTLE && still {
        return stay.at_stage(Stage::Unroute);
    }
    if age >= QUIET_AT_MOST {
        let message =
            format!("the old version still gets requests after {QUIET_AT_MOST} s (long connections?); going on");
        return stay.at_stage(Stage::Unroute).note(true, reasons::PROMOTING, message);
    }
    stay.wait(WaitingReason::Drain, "the old version finishes its requests")
}

fn unroute(view: &View<'_>, stay: Move) -> Move {
    let stay = full_size(view, stay).act(view.pins(&view.spec.to.hash));
    if view.route_is_clear() && view.routes_accepted() {
        let pods = view.replicas();
        let next = if keep_old_for(view).0 > 0 { Stage::Keep } else { Stage::HandOver };
        return match view.canary_available() >= pods {
            true => stay.at_stage(next),
            false => stay.wait_for_pods(view, pods),
        };
    }
    let clear = (!view.route_is_clear()).then_some(Action::ClearRoutes);
    stay.act(clear).wait(WaitingReason::Route, format!("taking the canary out of the route: {}", view.route_message()))
}

/// How long the old version is kept warm.
fn keep_old_for(view: &View<'_>) -> Millis {
    let preview = view.policy.steps.iter().find_map(|step| match step {
        Step::Bake { lets: Lets::Preview(preview), .. } => Some(preview.keep_old_for),
        _ => None,
    });
    preview.unwrap_or_default()
}

/// Both versions stand at full size, the new one serves: an abort pins the Service back, and that is all.
fn keep(view: &View<'_>, stay: Move) -> Move {
    let stay = full_size(view, stay).act(view.pins(&view.spec.to.hash));
    let keep = keep_old_for(view);
    if view.spec.promote || view.stage_age() >= keep.as_secs_f64() {
        return stay.at_stage(Stage::HandOver);
    }
    let rollout = &view.spec.rollout_ref.name;
    stay.wait(
        WaitingReason::KeptForReturn,
        format!(
            "the new version serves; the old one is kept for {keep}: kubectl serin abort {rollout} goes back at once"
        ),
    )
}

fn hand_over(view: &View<'_>, stay: Move) -> Move {
    let to = &view.spec.to.hash;
    let stay = stay.act(view.pins(to));
    match view.canary().map(|arm| arm.owner) {
        Some(ArmOwner::Run | ArmOwner::Borrowed) => {
            let replicas = view.replicas().max(1);
            if view.canary().is_some_and(|arm| arm.wanted != replicas || arm.ready.min(arm.available) < replicas) {
                // The Deployment was scaled, or lost pods, just now: it takes over at once what is saturated, and would
                // scale both versions in proportion else.
                return full_size(view, stay).wait_for_pods(view, replicas);
            }
            // Written down before it is done: a late cache shows the ReplicaSet as the run's for a while after it.
            stay.at_stage(Stage::Converge)
        }
        _ => stay.at_stage(Stage::Converge),
    }
}

fn converge(view: &View<'_>, stay: Move) -> Move {
    let to = &view.spec.to.hash;
    let Some(workload) = view.workload() else { return stay.at_stage(Stage::Tidy) };
    let is_released = workload.template_hashes.contains(to);
    // With another template by now the Deployment may keep either version: callers get what is there.
    let stay = stay.act(if is_released { view.pins(to) } else { view.unpins() });
    match view.canary().map(|arm| arm.owner) {
        Some(ArmOwner::Run | ArmOwner::Borrowed) => {
            // The Deployment may have been scaled just now: it takes over at once what has its size.
            return full_size(view, stay)
                .act([Action::HandOver])
                .wait(WaitingReason::Workload, "handing the ReplicaSet to the Deployment");
        }
        Some(ArmOwner::Nobody) => {
            return stay.wait(WaitingReason::Workload, "waiting for the Deployment to take the ReplicaSet");
        }
        Some(ArmOwner::Workload) | None => {}
    }
    if workload.active.len() > 1 || is_released && !workload.active.is_empty() && !workload.active.contains_key(to) {
        let stay = stay.act((view.stage_age() >= TAKE_OVER).then_some(Action::ScaleDownOld));
        return stay.wait(WaitingReason::Workload, "the Deployment scales the old version down");
    }
    // A newer template waits for its own run: the Deployment stays paused then.
    if !is_released {
        return handed_over(view, stay);
    }
    if workload.paused && workload.latched_by_policy {
        return stay
            .act([Action::UnpauseWorkload { serving: to.clone() }])
            .wait(WaitingReason::Workload, "unpausing the Deployment");
    }
    if !workload.settled {
        return stay.wait(WaitingReason::Workload, "the Deployment settles");
    }
    handed_over(view, stay)
}

fn handed_over(view: &View<'_>, stay: Move) -> Move {
    let message = format!("the Deployment took ReplicaSet {} as its own", view.spec.to.hash);
    stay.at_stage(Stage::Tidy).note(false, reasons::HANDED_OVER, message)
}

/// The Deployment went back to another version while it took this one over.
fn is_undone(view: &View<'_>) -> bool {
    view.workload()
        .is_some_and(|workload| !workload.active.is_empty() && !workload.active.contains_key(&view.spec.to.hash))
}

fn tidy(view: &View<'_>, stay: Move) -> Move {
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
    if view.holds_workload() {
        actions.push(Action::ReleaseWorkload);
    }
    if !actions.is_empty() {
        return stay.act(actions);
    }
    let stay = match gates::ask(view, Point::Promoted, stay) {
        Ok(stay) => stay,
        Err(instead) => return *instead,
    };
    if is_undone(view) {
        let message = format!("undone while it was handed over: {} serves", view.spec.from.image_list());
        let mut done = stay.note(false, reasons::CANCELLED, &message).say(message);
        done.outcome = Some((Outcome::Cancelled, reasons::CANCELLED));
        done.phase = Phase::Cancelled;
        return done;
    }
    let message = format!("{} serves", view.spec.to.image_list());
    let mut done = stay.note(false, reasons::PROMOTED, &message).say(message);
    done.phase = Phase::Succeeded;
    done
}
