//! Preparing and Shifting: make the canary, then walk the steps. Capacity before traffic.

use super::{
    super::{Action, reasons},
    Move, blame,
    gates::{self, Point},
    outlook, promote,
    retreat::Retreat,
    rollback,
    view::{INTRODUCED, View},
};
use crate::{
    api::{Advance, Lets, Millis, Otherwise, Phase, Share, Step, WaitingReason},
    evidence::{Blind, Count, Judgement, Off, QueryRule, Verdict, Windowed, Windows},
};

/// A contested canary keeps its pods for so many seconds after its weight is gone: a controller that has just come to
/// lead may know of the contest before its cache shows the weight.
const CONTEST_SETTLES: f64 = 5.0;

/// The next move on the way up.
pub(super) fn next(view: &View<'_>) -> Move {
    if let Some(held) = contested(view).or_else(|| blocked_at_start(view)) {
        return held;
    }
    match view.phase() {
        Phase::Preparing => prepare(view),
        _ => walk(view),
    }
}

/// Somebody else keeps changing route or pin. The safe place is theirs without our canary behind it.
fn contested(view: &View<'_>) -> Option<Move> {
    if !view.is_contested() {
        return None;
    }
    let who = view.snapshot.routes.iter().filter_map(|route| route.changed_by.as_deref());
    let who = who.chain(view.snapshot.services.iter().filter_map(|service| service.changed_by.as_deref())).next();
    let retreat = match view.shows(Share::NONE) {
        true if view.snapshot.preview.is_none()
            && view.routes_accepted()
            && view.waited_for(WaitingReason::RouteContested) >= CONTEST_SETTLES =>
        {
            view.canary_of(0)
        }
        // The gateway may still send requests there.
        true => Vec::new(),
        false => view.weights(Share::NONE),
    };
    let mut held = Move::stay(view).act(view.end_preview()).act(retreat).wait(
        WaitingReason::RouteContested,
        format!(
            "{} keeps changing the route or the Service during the run; let it ignore the route's rules and the \
             Service's selector (README, GitOps). The canary has no traffic meanwhile; goes on when it is quiet for 5 minutes",
            who.unwrap_or("somebody")
        ),
    );
    held.wanted = Share::NONE;
    Some(held)
}

/// Before there is a canary, what must be mended is waited for.
fn blocked_at_start(view: &View<'_>) -> Option<Move> {
    let trouble = view.snapshot.troubles.first()?;
    (view.phase() == Phase::Preparing)
        .then(|| Move::stay(view).wait(WaitingReason::Blocked, format!("{}: {}", trouble.reason, trouble.message)))
}

/// Pin, then the canary's objects, then its pods.
fn prepare(view: &View<'_>) -> Move {
    let workload = view.workload();
    let mut stay = Move::stay(view);
    stay = stay.act(view.hold());
    if workload.is_some_and(|workload| workload.failure_reported) {
        stay = stay.act([Action::ClearFailure]);
    }
    if view.canary_is_ours() {
        // Whatever it waits for: a canary that stands is no direct caller's.
        stay = stay.act(view.pins(&view.spec.from.hash));
    }
    if view.spec.paused {
        return stay.wait(WaitingReason::Paused, "paused by a person (spec.paused) before the canary was made");
    }
    if workload.is_some_and(|workload| workload.replicas == 0) {
        return stay.wait(
            WaitingReason::Blocked,
            "the Deployment is scaled to 0: there is no traffic to judge by; scale it up",
        );
    }
    stay = match gates::ask(view, Point::Start, stay) {
        Ok(stay) => stay,
        Err(instead) => return *instead,
    };
    if !view.canary_is_ours() {
        stay = stay.act(view.pins(&view.spec.from.hash));
    }
    if view.routed() {
        if !view.pinned_to(&view.spec.from.hash) {
            return stay.wait(WaitingReason::Capacity, "pinning the Service to the stable version");
        }
        if view.snapshot.canary_service.is_none() {
            stay = stay.act([Action::EnsureCanaryService]);
        }
    }
    let pods = view.step_pods(1);
    stay = stay.act(view.canary_of(pods));
    if view.canary_available() < pods {
        return stay.wait_for_pods(view, pods);
    }
    if view.routed() {
        stay = stay.act((!view.introduced()).then_some(Action::AddToRoutes));
        // At a gate it was introduced before.
        let at_gate = view.before.waiting.as_ref().is_some_and(|waiting| waiting.reason == WaitingReason::Gate);
        let settled = at_gate || view.waited_for(WaitingReason::Route) >= INTRODUCED;
        if !view.introduced() || !view.routes_accepted() || !settled {
            return stay.wait(WaitingReason::Route, "introducing the canary to the gateway, at weight 0");
        }
        stay = stay.act(view.show_preview(1));
        if let Some(pending) = view.preview_is_pending(1) {
            return stay.wait(WaitingReason::Route, pending);
        }
    }
    let stay = match gates::ask(view, Point::FirstTraffic, stay) {
        Ok(stay) => stay,
        Err(instead) => return *instead,
    };
    if view.spec.straight {
        let message = "this version served lately (rollbackWindow): it goes straight through, without the steps";
        return promote::start(view, stay.note(false, reasons::STEPS_SKIPPED, message));
    }
    let stay = match gates::ask(view, Point::Step(1), stay) {
        Ok(stay) => stay,
        Err(instead) => return *instead,
    };
    let mut go = stay.note(false, reasons::STEP_STARTED, step_words(view, 1));
    go.phase = Phase::Shifting;
    go.step = 1;
    go
}

/// At a step: capacity, weight, bake, and on.
fn walk(view: &View<'_>) -> Move {
    let before = view.before;
    let step = before.step.max(1);
    let target = view.step_share(step);
    let pods = view.step_pods(step);
    let (ready, enough) = (view.canary_ready(), view.canary_available() >= pods);
    let mut stay = Move::stay(view);
    stay.step = step;
    stay = stay.act(view.hold());
    if view.routed() && view.snapshot.canary_service.is_none() {
        stay = stay.act([Action::EnsureCanaryService]);
    }
    stay = stay.act(view.pins(&view.spec.from.hash));
    if view.routed() || !view.spec.paused {
        stay = stay.act(view.canary_of(pods));
    }
    let had = before.weight.share();
    let reached = had == target && !target.is_none();
    stay.wanted = match () {
        () if ready == 0 => Share::NONE,
        () if view.routed() && !view.pinned_to(&view.spec.from.hash) => had.least(target),
        () if reached || enough && !view.spec.paused => target,
        () => had.least(target),
    };
    let wanted = stay.wanted;
    if view.routed() && !wanted.is_none() && !view.gateway_knows() {
        return introduce_again(view, stay);
    }
    stay = stay.act(view.weights(wanted));
    let small = target.is_none() && !enough;
    if wanted != target || small {
        return match view.spec.paused && ready > 0 {
            true => {
                stay.wait(WaitingReason::Paused, format!("paused by a person (spec.paused) on the way to {target}"))
            }
            false => stay.wait_for_pods(view, pods),
        };
    }
    if let Some(trouble) = view.has_no_room_for(target).filter(|_| !view.shows(target)) {
        return stay.wait(WaitingReason::Blocked, format!("{}: {}", trouble.reason, trouble.message));
    }
    if view.routed() && (!view.shows(target) || !view.routes_accepted()) {
        return stay.wait(
            WaitingReason::Route,
            format!("waiting for the gateway to accept {target}: {}", view.route_message()),
        );
    }
    if !view.routed() && !enough {
        return match view.spec.paused {
            // The share of pods is the weight, which a pause holds.
            true => stay.wait(WaitingReason::Paused, "paused by a person (spec.paused)"),
            false => stay.wait_for_pods(view, pods),
        };
    }
    stay = stay.act(view.show_preview(step));
    if let Some(pending) = view.preview_is_pending(step) {
        return stay.wait(WaitingReason::Route, pending);
    }
    if before.step_since.is_none() {
        stay = stay.note(false, reasons::WEIGHT_SET, reached_words(view, target));
    }
    if view.spec.promote {
        let message = format!(
            "asked for by a person (spec.promote) at step {step} of {}: what is left is skipped",
            view.policy.steps.len()
        );
        return promote::start(view, stay.note(true, reasons::STEPS_SKIPPED, message));
    }
    if let Some(line) = outlook::line(view, step) {
        stay = stay.note(false, reasons::FORECAST, line);
    }
    bake(view, stay, step)
}

/// Somebody took the canary, or the whole route, away in mid-run.
pub(super) fn introduce_again(view: &View<'_>, stay: Move) -> Move {
    stay.act((!view.introduced()).then_some(Action::AddToRoutes))
        .wait(WaitingReason::Introduction, "introducing the canary to the gateway again, at weight 0")
}

fn reached_words(view: &View<'_>, share: Share) -> String {
    match share {
        Share { weight, matching: None, mirror: None } if weight > 0 => {
            format!("the canary gets {weight} % of the requests")
        }
        Share { mirror: Some(step), .. } => match view.step(step) {
            Some(Step::Bake { lets: Lets::Mirror(mirror), .. }) => format!(
                "the canary gets copies of {} % of the requests; each copy is a second request to what lies behind it",
                mirror.percent
            ),
            _ => share.to_string(),
        },
        Share { weight, matching: Some(_), .. } => {
            format!("the canary gets {weight} % of the requests, and all that match")
        }
        _ => "the canary stands at full size; its own Service has it, callers don't".to_owned(),
    }
}

/// At the step's weight: what keeps the run here, or on to the next.
pub(super) fn bake(view: &View<'_>, stay: Move, step: u32) -> Move {
    if view.spec.paused {
        return stay.wait(WaitingReason::Paused, "paused by a person (spec.paused)");
    }
    if let Some(trouble) = view.snapshot.troubles.first() {
        return stay.wait(WaitingReason::Blocked, format!("{}: {}", trouble.reason, trouble.message));
    }
    let elapsed = view.before.step_since.as_ref().map_or(0.0, |since| view.seconds_since(since));
    let waiting = match view.step(step) {
        Some(Step::Approval) if view.spec.approved < step => Some((
            WaitingReason::Approval,
            format!("step {step} asks for approval: kubectl serin approve {}", view.spec.rollout_ref.name),
        )),
        Some(Step::Approval) => None,
        Some(Step::Bake { lets, bake, .. }) => why_not_yet(view, elapsed, lets, *bake),
        None => None,
    };
    let Some((reason, message)) = waiting else { return on(view, stay, step) };
    let limits = &view.policy.spec.limits;
    let timeout = limits.step_timeout;
    if !matches!(reason, WaitingReason::Approval | WaitingReason::Bake)
        && elapsed - view.before.step_excused > timeout.as_secs_f64()
    {
        let inconclusive = matches!(
            reason,
            WaitingReason::FewRequests | WaitingReason::NoData | WaitingReason::StaleData | WaitingReason::SilentArm
        );
        let (otherwise, field) = match inconclusive {
            true => (limits.on_inconclusive, "onInconclusive"),
            false => (limits.on_timeout, "onTimeout"),
        };
        if otherwise == Otherwise::Rollback {
            let message = format!("step {step} took longer than {timeout} (limits.{field} is Rollback): {message}");
            return rollback::start(view, Retreat::refuse(reasons::STEP_TIMEOUT, message));
        }
        return stay.wait(
            WaitingReason::StepTimeout,
            format!("step {step} takes longer than {timeout} (limits.stepTimeout): {message}"),
        );
    }
    stay.wait(reason, message)
}

fn why_not_yet(view: &View<'_>, elapsed: f64, lets: &Lets, bake: Millis) -> Option<(WaitingReason, String)> {
    let judgements = &view.snapshot.judgements;
    if let Some(fault) = judgements.iter().find(|judgement| judgement.shared_fault) {
        return Some((
            WaitingReason::SharedFault,
            format!(
                "SLO {}: both versions are bad, which is not the new version's fault; goes on when it is over",
                fault.name
            ),
        ));
    }
    let queries = || view.snapshot.traffic.queries.iter();
    if let Some(query) = queries().find(|query| query.judge() == Windowed::SharedFault) {
        let message = format!("query {}: both versions are bad; goes on when it is over", query.rule().name);
        return Some((WaitingReason::SharedFault, message));
    }
    let held = || blame::hold(view).or_else(|| replacement(view)).or_else(|| still(view));
    if let Some(held) = held().or_else(|| split(view)).or_else(|| lost(view)) {
        return Some(held);
    }
    if elapsed < bake.as_secs_f64() && !is_proven(view, lets) {
        return Some((
            WaitingReason::Bake,
            format!("baking at {} for {bake} at least", words(lets, view.step_share(view.before.step).weight)),
        ));
    }
    // Those who match may be few, and of a preview's callers nothing is known: here no bad verdict is enough.
    if matches!(lets, Lets::Match(_) | Lets::Preview(_)) {
        return None;
    }
    if let Some(blind) = blind(view) {
        return Some(blind);
    }
    let Some(few) = judgements.iter().find(|judgement| judgement.verdict != Verdict::Good) else {
        return queries().find_map(asked);
    };
    if few.judged >= few.needed {
        let message = format!(
            "SLO {}: the canary looks worse than stable, and that is not proven yet (evidence {:.1}, threshold {:.1})",
            few.name, few.evidence, few.threshold
        );
        return Some((WaitingReason::Suspicion, message));
    }
    if few.needed > few.judged.saturating_mul(1000).max(1_000_000) {
        let message = format!(
            "SLO {}: beside a stable version as bad as this no number of requests would show a regression",
            few.name
        );
        return Some((WaitingReason::FewRequests, message));
    }
    Some((
        WaitingReason::FewRequests,
        format!(
            "SLO {}: {} requests of the canary could be judged in this step; {} are needed to see a bad share of {:.1} % with {:.0} % probability",
            few.name,
            few.judged,
            few.needed,
            100.0 * few.effect,
            100.0 * few.power
        ),
    ))
}

/// There is nothing to judge by.
fn blind(view: &View<'_>) -> Option<(WaitingReason, String)> {
    match &view.snapshot.traffic.blind {
        Some(Blind::NoData(why)) => return Some((WaitingReason::NoData, why.clone())),
        Some(Blind::Stale { stale }) => return Some((WaitingReason::StaleData, stale.clone())),
        None => {}
    }
    let judgements = &view.snapshot.judgements;
    if judgements.is_empty() {
        return Some((WaitingReason::NoData, "no counts yet".to_owned()));
    }
    let Judgement { name, step, .. } = judgements.iter().find(|judgement| judgement.verdict == Verdict::NoData)?;
    Some(match step.stable.total {
        0 => (WaitingReason::NoData, format!("SLO {name}: neither version got requests in this step")),
        stable => (
            WaitingReason::SilentArm,
            format!("SLO {name}: the canary got no requests in this step, and stable got {stable}"),
        ),
    })
}

/// Without one version's counts there is nothing to compare, and no share to check.
fn still(view: &View<'_>) -> Option<(WaitingReason, String)> {
    let why = view.snapshot.traffic.still.as_ref()?;
    Some((WaitingReason::SilentArm, why.clone()))
}

/// A query that keeps a step from going on.
fn asked(query: &Windows) -> Option<(WaitingReason, String)> {
    let QueryRule { name, most, windows } = query.rule();
    match query.judge() {
        // The others are told before.
        Windowed::Good | Windowed::Bad | Windowed::SharedFault => None,
        Windowed::Pending => Some((WaitingReason::Bake, format!("query {name}: its first window is not over"))),
        Windowed::NoData(why) => Some((WaitingReason::NoData, format!("query {name}: {why}"))),
        Windowed::Over(over) => {
            let message = format!(
                "query {name}: the canary is above {:.1} % in {over} windows in a row; {windows} refuse it",
                f64::from(*most) / 1e4
            );
            Some((WaitingReason::Suspicion, message))
        }
    }
}

/// The pod that replaces a bad one.
fn replacement(view: &View<'_>) -> Option<(WaitingReason, String)> {
    view.before.bad_pod.as_ref()?;
    let pods = view.step_pods(view.before.step);
    (view.canary_available() < pods).then(|| view.short_of(pods))
}

/// More callers than meant get the canary.
fn split(view: &View<'_>) -> Option<(WaitingReason, String)> {
    let off = view.snapshot.traffic.mismatch.as_ref().filter(|mismatch| mismatch.off == Off::More)?;
    let message = format!(
        "the route gives the canary {:.1} % of the requests, but of {} that were counted it got {:.1} %: look for another \
         route or Service that sends requests to it",
        off.asked, off.requests, off.got
    );
    Some((WaitingReason::SplitMismatch, message))
}

/// The canary's pods don't count all that they get: a pod that crashes, or closes a connection, reports no error.
fn lost(view: &View<'_>) -> Option<(WaitingReason, String)> {
    let lost = view.snapshot.traffic.lost.as_ref()?;
    let percent = |count: Count| 100.0 * count.ratio().unwrap_or(0.0);
    let message = format!(
        "of {} requests that the gateway sent to the canary its pods did not count {:.1} % at least (stable's: {:.1} %), so what \
         they count says little: look whether pods crash or close connections, or count less than the old version did; the \
         gateway saw about {:.0} of them fail because of this release, and {} take it back (limits.failedRequests)",
        lost.canary.total,
        percent(lost.canary),
        percent(lost.stable),
        lost.harm.failed,
        view.policy.spec.limits.failed_requests
    );
    Some((WaitingReason::RequestsLost, message))
}

/// The canary is proven not to be worse, and the policy goes on by that: no need to bake.
fn is_proven(view: &View<'_>, lets: &Lets) -> bool {
    let judgements = &view.snapshot.judgements;
    view.policy.spec.advance == Advance::OnEvidence
        && matches!(lets, Lets::Weight(_) | Lets::Mirror(_))
        && view.snapshot.traffic.blind.is_none()
        && !judgements.is_empty()
        && judgements.iter().all(|judgement| judgement.not_inferior && judgement.verdict == Verdict::Good)
        && view.snapshot.traffic.queries.iter().all(|query| query.judge() == Windowed::Good)
}

/// The next step, or the promotion.
fn on(view: &View<'_>, mut stay: Move, step: u32) -> Move {
    let is_last = usize::try_from(step).is_ok_and(|done| done >= view.policy.steps.len());
    stay = match gates::ask(view, if is_last { Point::Promotion } else { Point::Step(step + 1) }, stay) {
        Ok(stay) => stay,
        Err(instead) => return *instead,
    };
    if is_last {
        return promote::start(view, stay);
    }
    stay.step = step + 1;
    stay.note(false, reasons::STEP_STARTED, step_words(view, step + 1))
}

fn step_words(view: &View<'_>, step: u32) -> String {
    let all = view.policy.steps.len();
    let index = usize::try_from(step).unwrap_or(1).saturating_sub(1);
    match view.policy.steps.get(index) {
        Some(Step::Bake { lets: Lets::Weight(weight), bake, .. }) => {
            format!("step {step} of {all}: weight {weight}, bake {bake}")
        }
        Some(Step::Bake { lets, bake, .. }) => {
            format!("step {step} of {all}: {}, bake {bake}", words(lets, view.step_share(step).weight))
        }
        _ => format!("step {step} of {all}: approval"),
    }
}

/// What a step lets the canary have, in words.
fn words(lets: &Lets, weight: u32) -> String {
    match lets {
        Lets::Weight(weight) => format!("{weight} %"),
        Lets::Match(_) => format!("{weight} % and requests that match"),
        Lets::Mirror(mirror) => format!("copies of {} % of the requests", mirror.percent),
        Lets::Preview(_) => "a preview of full size".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{retreat, testing::Scene},
        *,
    };
    use crate::{
        api::BadPod,
        evidence::{Fold, Harm, Lost, Mismatch, QueryReading, Sample, Tick},
    };

    fn held(scene: &Scene) -> Option<(WaitingReason, String)> {
        why_not_yet(&scene.view(), 0.0, &Lets::Weight(50), Millis::seconds(60))
    }

    #[test]
    fn a_canary_that_gets_more_than_its_weight_is_held_with_the_numbers() {
        let mut scene = Scene::with(None);
        let off = |off, got| Mismatch { off, asked: 5.0, got, requests: 4000, evidence: 9.0, threshold: 5.3 };
        scene.snapshot.traffic.mismatch = Some(off(Off::More, 8.0));
        let (reason, message) = held(&scene).expect("a hold");
        assert_eq!(reason, WaitingReason::SplitMismatch);
        assert!(message.contains("5.0 % of the requests, but of 4000 that were counted it got 8.0 %"), "{message}");
        // Less is no broken split: stable has other callers.
        scene.snapshot.traffic.mismatch = Some(off(Off::Less, 3.0));
        assert_eq!(held(&scene).map(|(reason, _)| reason), Some(WaitingReason::Bake));
    }

    #[test]
    fn each_lack_of_evidence_has_a_name_of_its_own() {
        // Given a step whose bake is over:
        let held = |change: &dyn Fn(&mut Scene)| {
            let mut scene = Scene::with(None);
            change(&mut scene);
            why_not_yet(&scene.view(), 60.0, &Lets::Weight(50), Millis::seconds(60)).map(|(reason, _)| reason)
        };
        let counted = |verdict, canary, stable| {
            move |scene: &mut Scene| {
                let judgement = &mut scene.snapshot.judgements[0];
                let count = |total| Count { bad: 0, total };
                judgement.verdict = verdict;
                judgement.step = Sample { canary: count(canary), stable: count(stable) };
                (judgement.judged, judgement.needed) = (canary, 1000);
            }
        };
        let blind = |why: Blind| move |scene: &mut Scene| scene.snapshot.traffic.blind = Some(why.clone());
        assert_eq!(held(&blind("refused".into())), Some(WaitingReason::NoData));
        assert_eq!(held(&blind(Blind::stale("a minute old"))), Some(WaitingReason::StaleData));
        assert_eq!(held(&|scene| scene.snapshot.judgements.clear()), Some(WaitingReason::NoData));
        assert_eq!(held(&counted(Verdict::NoData, 0, 0)), Some(WaitingReason::NoData));
        assert_eq!(held(&counted(Verdict::NoData, 0, 9)), Some(WaitingReason::SilentArm));
        assert_eq!(held(&counted(Verdict::Undecided, 9, 9)), Some(WaitingReason::FewRequests));
        assert_eq!(held(&counted(Verdict::Good, 1000, 9)), None);
        // A canary that seems to get all is not blamed on the route where stable counts nothing.
        let silent = |scene: &mut Scene| {
            scene.snapshot.traffic.still = Some("none of 40".to_owned());
            let mismatch =
                Mismatch { off: Off::More, asked: 5.0, got: 100.0, requests: 40, evidence: 9.0, threshold: 5.3 };
            scene.snapshot.traffic.mismatch = Some(mismatch);
        };
        assert_eq!(held(&silent), Some(WaitingReason::SilentArm));
    }

    #[test]
    fn a_canary_that_loses_requests_is_held_with_the_numbers() {
        let mut scene = Scene::with(None);
        let count = |bad, total| Count { bad, total };
        let (canary, stable) = (count(100, 800), count(8, 4000));
        let harm = Harm { failed: 98.4, ..Harm::default() };
        scene.snapshot.traffic.lost = Some(Lost { canary, stable, evidence: 9.0, threshold: 4.6, harm });
        let (reason, message) = held(&scene).expect("a hold");
        assert_eq!(reason, WaitingReason::RequestsLost);
        assert!(message.contains("of 800 requests that the gateway sent"), "{message}");
        assert!(message.contains("did not count 12.5 % at least (stable's: 0.2 %)"), "{message}");
        assert!(
            message.contains("saw about 98 of them fail because of this release, and 500 take it back"),
            "{message}"
        );
    }

    #[test]
    fn a_query_holds_a_step_until_a_good_window_and_refuses_after_too_many_bad_ones() {
        let reading = |canary, stable, fault: Option<&str>| QueryReading {
            canary,
            stable,
            fault: fault.map(str::to_owned),
            ..QueryReading::default()
        };
        let (mut scene, mut before) = (Scene::with(None), Fold::new(&[], 0.01, 1));
        for judgement in &mut scene.snapshot.judgements {
            judgement.verdict = Verdict::Good;
        }
        before = before.asking([QueryRule { name: "checkout".into(), most: 20_000, windows: 2 }]);
        let mut after = |scene: &mut Scene, reading: Option<QueryReading>| {
            before.fold(&Tick { queries: reading.into_iter().collect(), ..Tick::default() });
            scene.snapshot.traffic.queries = before.queries().to_vec();
            why_not_yet(&scene.view(), 100.0, &Lets::Weight(50), Millis::seconds(60))
        };
        let (reason, message) = after(&mut scene, None).expect("a hold");
        assert_eq!((reason, message.as_str()), (WaitingReason::Bake, "query checkout: its first window is not over"));
        assert_eq!(after(&mut scene, Some(reading(Some(0), Some(0), None))), None);
        let (reason, message) = after(&mut scene, Some(reading(None, None, Some("a parse error")))).expect("a hold");
        assert_eq!((reason, message.as_str()), (WaitingReason::NoData, "query checkout: a parse error"));
        let held = after(&mut scene, Some(reading(Some(90_000), Some(80_000), None))).expect("a hold");
        assert_eq!(held.0, WaitingReason::SharedFault);
        let (reason, message) = after(&mut scene, Some(reading(Some(50_000), Some(0), None))).expect("a hold");
        assert!(
            reason == WaitingReason::Suspicion && message.contains("in 1 windows in a row; 2 refuse it"),
            "{message}"
        );
        after(&mut scene, Some(reading(Some(60_000), Some(1_000), None)));
        let refused = retreat::verdict(&scene.view()).map(|retreat| retreat.message).unwrap_or_default();
        assert!(refused.contains("above 2.0 % in 2 windows in a row"), "{refused}");
        assert!(refused.contains("in the last: canary 6.0 %, stable 0.1 %"), "{refused}");
    }

    #[test]
    fn a_step_goes_on_only_once_the_replacement_of_a_bad_pod_is_ready() {
        let mut scene = Scene::with(None);
        scene.before.bad_pod = Some(BadPod { name: "auth-z".into(), uid: "gone".into() });
        scene.snapshot.canary_service = Some(0);
        assert_eq!(held(&scene).map(|(reason, _)| reason), Some(WaitingReason::Capacity));
        scene.snapshot.canary_service = Some(2);
        assert_eq!(held(&scene).map(|(reason, _)| reason), Some(WaitingReason::Bake));
    }
}
