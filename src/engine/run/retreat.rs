//! Is there a reason to take the traffic back? Looks only at: asked to, newer template, a Bad verdict, harm, silence,
//! crashes, `readyWithin`. Whether Prometheus, the policy or stable's pods are in order does not matter here.

use super::{
    super::{Arm, reasons},
    view::View,
};
use crate::{
    api::{Outcome, Phase, SloKind, Stage, WaitingReason},
    evidence::{Harm, Judgement, Lost, QueryRule, Test, Verdict, Windowed, Windows, cap_of_budget, ticks_to_react},
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
    asked(view).or_else(|| template_moved(view)).or_else(|| by_counts(view)).or_else(|| pods(view))
}

/// What was counted speaks for it.
pub(super) fn by_counts(view: &View<'_>) -> Option<Retreat> {
    verdict(view).or_else(|| harm(view))
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

/// The new version is proven to be bad.
pub(super) fn verdict(view: &View<'_>) -> Option<Retreat> {
    let bad = view.snapshot.judgements.iter().find(|judgement| judgement.verdict == Verdict::Bad).map(bad_words);
    let by_query =
        || view.snapshot.traffic.queries.iter().find(|query| query.judge() == Windowed::Bad).map(query_words);
    refuse(reasons::SLO_VIOLATED, bad.or_else(by_query)?)
}

fn query_words(query: &Windows) -> String {
    let QueryRule { name, most, windows } = query.rule();
    let share = |share: Option<f64>| share.map_or("no number".to_owned(), |share| format!("{:.1} %", 100.0 * share));
    let [canary, stable] = query.shares();
    format!(
        "query {name}: the canary was above {:.1} % in {windows} windows in a row, and stable was not; in the last: canary {}, \
         stable {}",
        f64::from(*most) / 1e4,
        share(canary),
        share(stable)
    )
}

/// Facets of an SLO that a message speaks of.
const FACETS_TOLD: usize = 3;

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
    let facets = judgement
        .facets
        .iter()
        .filter(|facet| facet.worse)
        .map(|facet| format!("; {}: canary {}, stable {}", facet.name, share(facet.canary), share(facet.stable)));
    format!(
        "SLO {}: the canary {test}: canary {}, stable {}{}; evidence {:.1}, threshold {:.1}",
        judgement.name,
        share(judgement.canary),
        share(judgement.stable),
        facets.take(FACETS_TOLD).collect::<String>(),
        judgement.evidence,
        judgement.threshold
    )
}

fn harm(view: &View<'_>) -> Option<Retreat> {
    let limits = &view.policy.spec.limits;
    let ticks = ticks_to_react(view.policy.source.interval().as_secs_f64());
    let over = |cap: f64| move |judgement: &&Judgement| judgement.harm.exceeds(cap, ticks);
    let judgements = &view.snapshot.judgements;
    let most = limits.failed_requests as f64;
    if let Some(judgement) = judgements.iter().find(over(most)) {
        let message = format!("{}; limits.failedRequests is {most:.0}", harm_words(judgement));
        return refuse(reasons::FAILED_REQUESTS, message);
    }
    let lost = view.snapshot.traffic.lost.as_ref();
    if let Some(lost) = lost.filter(|lost| lost.harm.exceeds(most, ticks)) {
        let message = format!("{}; limits.failedRequests is {most:.0}", lost_words(lost));
        return refuse(reasons::FAILED_REQUESTS, message);
    }
    if let (Some(budget), Some(rate)) = (&limits.error_budget, view.snapshot.traffic.rate) {
        let requests = rate * budget.window.as_secs_f64();
        for (judgement, slo) in judgements.iter().zip(&view.policy.slos) {
            let cap = cap_of_budget(budget.share.ratio(), slo.bad_allowed, requests);
            // What is lost has failed, so it is of the budget for errors.
            let lost = lost.filter(|lost| slo.kind == SloKind::Errors && lost.harm.exceeds(cap, ticks));
            let words = over(cap)(&judgement).then(|| harm_words(judgement)).or_else(|| lost.map(lost_words));
            if let Some(words) = words {
                let message = format!(
                    "{words}; {} of the error budget of {} are {cap:.0} at {rate:.1} requests a second (limits.errorBudget)",
                    budget.share, budget.window
                );
                return refuse(reasons::ERROR_BUDGET, message);
            }
        }
    }
    match &view.snapshot.traffic.silent {
        Some(why) if view.phase() == Phase::Shifting => refuse(reasons::SILENT_ARM, why),
        _ => None,
    }
}

fn harm_words(judgement: &Judgement) -> String {
    format!("SLO {}: {} went bad because of this release", judgement.name, about(&judgement.harm))
}

fn lost_words(lost: &Lost) -> String {
    format!(
        "{} were lost because of this release: the gateway saw them fail at the canary, and its pods never counted them",
        about(&lost.harm)
    )
}

fn about(harm: &Harm) -> String {
    format!("about {:.0} requests (with 99 %: {:.0} to {:.0})", harm.failed, harm.low, harm.high)
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

#[cfg(test)]
mod tests {
    use super::{super::testing::Scene, *};
    use crate::api::{ErrorBudget, Millis, Percent};

    /// The reason of the retreat for this harm, and what is said.
    fn retreat(failed: f64, low: f64, per_tick: f64, change: impl Fn(&mut Scene)) -> Option<(&'static str, String)> {
        let mut scene = Scene::with(None);
        scene.snapshot.judgements[0].harm = Harm { failed, low, high: failed + 50.0, per_tick };
        change(&mut scene);
        harm_of(&scene)
    }

    fn harm_of(scene: &Scene) -> Option<(&'static str, String)> {
        harm(&scene.view()).map(|retreat| (retreat.reason, retreat.message))
    }

    #[test]
    fn failed_requests_that_are_no_chance_take_the_traffic_back_before_the_cap_is_passed() {
        // The cap is 500.
        assert!(retreat(450.0, 300.0, 10.0, |_| {}).is_none());
        assert!(retreat(600.0, 0.0, 0.0, |_| {}).is_none(), "chance alone may have done it");
        let (reason, message) = retreat(450.0, 300.0, 30.0, |_| {}).expect("50 more until the traffic is gone");
        assert_eq!(reason, reasons::FAILED_REQUESTS);
        assert!(message.contains("about 450 requests (with 99 %: 300 to 500)"), "{message}");
    }

    #[test]
    fn so_do_requests_that_the_canarys_pods_never_counted() {
        let mut scene = Scene::with(None);
        let mut lost = |failed| {
            let harm = Harm { failed, low: 300.0, high: 600.0, per_tick: 20.0 };
            scene.snapshot.traffic.lost = Some(Lost { harm, ..Lost::default() });
            harm_of(&scene)
        };
        assert!(lost(400.0).is_none());
        let (reason, message) = lost(480.0).expect("40 more until the traffic is gone");
        assert_eq!(reason, reasons::FAILED_REQUESTS);
        assert!(message.contains("about 480 requests (with 99 %: 300 to 600) were lost"), "{message}");
    }

    #[test]
    fn so_does_a_share_of_the_error_budget() {
        // Given 5 % of the budget of 1 % of the requests of 30 days, one a second: 1,296 requests.
        let budget = |scene: &mut Scene| {
            let (share, window) = (Percent(5.0), Millis::seconds(30 * 86_400));
            scene.policy.spec.limits.error_budget = Some(ErrorBudget { share, window });
            scene.policy.spec.limits.failed_requests = 1_000_000;
        };
        assert!(retreat(1200.0, 900.0, 0.0, budget).is_none());
        let (reason, message) = retreat(1300.0, 900.0, 0.0, budget).expect("above it");
        assert_eq!(reason, reasons::ERROR_BUDGET);
        assert!(message.contains("5% of the error budget of 30d are 1296 at 1.0 requests a second"), "{message}");
        // What was lost counts, too.
        let lose = |scene: &mut Scene| {
            budget(scene);
            let harm = Harm { failed: 1300.0, low: 900.0, high: 1400.0, per_tick: 0.0 };
            scene.snapshot.traffic.lost = Some(Lost { harm, ..Lost::default() });
        };
        let (reason, message) = retreat(0.0, 0.0, 0.0, lose).expect("above it");
        assert_eq!(reason, reasons::ERROR_BUDGET);
        assert!(message.contains("were lost") && message.contains("of the error budget of 30d"), "{message}");
        // Without any rate there is no budget to go by.
        assert!(
            retreat(1300.0, 900.0, 0.0, |scene| {
                budget(scene);
                scene.snapshot.traffic.rate = None;
            })
            .is_none()
        );
    }
}
