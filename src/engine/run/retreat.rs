//! Is there a reason to take the traffic back? Looks only at: asked to, newer template, a Bad verdict, harm, silence,
//! crashes, `readyWithin`. Whether Prometheus, the policy or stable's pods are in order does not matter here.

use super::{
    super::{Arm, reasons},
    view::View,
};
use crate::{
    api::{Outcome, Phase, Stage, WaitingReason},
    evidence::{Judgement, Test, Verdict},
};

/// Why, and what the run ends as.
pub(super) struct Retreat {
    pub outcome: Outcome,
    pub reason: &'static str,
    pub message: String,
}

impl Retreat {
    /// The new version is refused.
    pub fn refuse(reason: &'static str, message: impl Into<String>) -> Self {
        Self { outcome: Outcome::RolledBack, reason, message: message.into() }
    }
}

fn refuse(reason: &'static str, message: impl Into<String>) -> Option<Retreat> {
    Some(Retreat::refuse(reason, message))
}

/// The first reason there is. From the handover on there is no way back: whose the ReplicaSet is, a late cache may tell
/// wrongly then, and stable may have no pods any more. (Without the Deployment nobody takes it.)
pub(super) fn reason(view: &View<'_>) -> Option<Retreat> {
    let handed_over = view.before.stage >= Some(Stage::Converge) && view.phase() == Phase::Promoting;
    let may = matches!(view.phase(), Phase::Preparing | Phase::Shifting | Phase::Promoting);
    if !may || handed_over && !(view.canary_is_ours() && view.workload().is_none()) {
        return None;
    }
    asked(view).or_else(|| template_moved(view)).or_else(|| verdict(view)).or_else(|| harm(view)).or_else(|| pods(view))
}

fn asked(view: &View<'_>) -> Option<Retreat> {
    if view.ending {
        let message = "the Rollout or its run was deleted".to_owned();
        return Some(Retreat { outcome: Outcome::Cancelled, reason: reasons::ROLLOUT_DELETED, message });
    }
    if view.workload().is_none() {
        let message = match view.snapshot.workload.as_ref().is_some_and(|workload| workload.made_anew) {
            true => "the Deployment was deleted and made anew",
            false => "the Deployment was deleted",
        };
        let message = message.to_owned();
        return Some(Retreat { outcome: Outcome::Cancelled, reason: reasons::WORKLOAD_MISSING, message });
    }
    view.spec.abort.then(|| refuse(reasons::ABORTED, "a person aborted the run (spec.abort)")).flatten()
}

/// The Deployment's template is no longer the one that this run releases.
fn template_moved(view: &View<'_>) -> Option<Retreat> {
    let workload = view.workload()?;
    let is = |version: &crate::api::Version| {
        workload.template == version.template || workload.template_hashes.contains(&version.hash)
    };
    if is(&view.spec.to) {
        None
    } else if is(&view.spec.from) {
        let message = "the Deployment's template is the stable version's again".to_owned();
        Some(Retreat { outcome: Outcome::Cancelled, reason: reasons::CANCELLED, message })
    } else {
        let message = "the Deployment has a newer template".to_owned();
        Some(Retreat { outcome: Outcome::Superseded, reason: reasons::SUPERSEDED, message })
    }
}

fn verdict(view: &View<'_>) -> Option<Retreat> {
    let bad = view.snapshot.judgements.iter().find(|judgement| judgement.verdict == Verdict::Bad)?;
    refuse(reasons::SLO_VIOLATED, bad_words(bad))
}

/// A Bad verdict with its numbers.
fn bad_words(judgement: &Judgement) -> String {
    let share = |count: crate::evidence::Count| match count.total {
        0 => "no requests".to_owned(),
        total => format!("{} of {total} requests bad ({:.1} %)", count.bad, 100.0 * count.bad as f64 / total as f64),
    };
    let test = match judgement.test {
        Test::VersusStable => "is worse than stable",
        Test::Objective => "misses the objective",
    };
    format!(
        "SLO {}: the canary {test}: canary {}, stable {}; evidence {:.1}, threshold {:.1}",
        judgement.name,
        share(judgement.canary),
        share(judgement.stable),
        judgement.evidence,
        judgement.threshold
    )
}

fn harm(view: &View<'_>) -> Option<Retreat> {
    let most = view.policy.spec.limits.failed_requests as f64;
    let failed = view.snapshot.traffic.excess_failed;
    if failed >= most {
        return refuse(
            reasons::FAILED_REQUESTS,
            format!(
                "about {failed:.0} requests failed in excess of stable's share; limits.failedRequests is {most:.0}"
            ),
        );
    }
    match &view.snapshot.traffic.silent {
        Some(why) if view.phase() == Phase::Shifting => refuse(reasons::SILENT_ARM, why),
        _ => None,
    }
}

fn pods(view: &View<'_>) -> Option<Retreat> {
    let limits = &view.policy.spec.limits;
    if let Some(canary) = view.canary() {
        let stable_since =
            view.snapshot.stable.as_ref().map_or(0, |stable| {
                stable.restarts.saturating_sub(view.before.stable_restarts.unwrap_or(stable.restarts))
            });
        if canary.restarts >= limits.restarts && stable_since < limits.restarts {
            return refuse(
                reasons::CRASHING,
                format!(
                    "the canary's containers restarted {} times (limits.restarts is {}), stable's {stable_since} times{}",
                    canary.restarts,
                    limits.restarts,
                    why_blocked(canary)
                ),
            );
        }
    }
    let waited = view.waited_for(WaitingReason::Capacity);
    if !view.spec.paused && waited >= limits.ready_within.as_secs_f64() {
        let blocked = view.canary().map(why_blocked).unwrap_or_default();
        return refuse(
            reasons::NEVER_READY,
            format!("canary pods were not ready within {} (limits.readyWithin){blocked}", limits.ready_within),
        );
    }
    if view.phase() == Phase::Promoting && view.before.stage >= Some(Stage::Switch) && canary_is_lost(view) {
        return refuse(reasons::CANARY_LOST, "no canary pod is ready any more");
    }
    None
}

/// Once direct callers are on the canary, its pods tell: a controller that has just come to lead may know the run's stage
/// before its cache shows the apex's new endpoints.
fn canary_is_lost(view: &View<'_>) -> bool {
    match view.before.stage >= Some(Stage::Return) {
        true => view.canary().is_none_or(|arm| arm.ready == 0),
        false => view.canary_ready() == 0,
    }
}

fn why_blocked(arm: &Arm) -> String {
    arm.blocked.as_ref().map(|why| format!(": {why}")).unwrap_or_default()
}
