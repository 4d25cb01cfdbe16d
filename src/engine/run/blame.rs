//! One bad canary pod: it is named, replaced once, and no reason to refuse the version.

use super::{
    super::{Action, reasons},
    Move,
    view::View,
};
use crate::{
    api::{BadPod, Phase, Stage, WaitingReason},
    evidence::{Judgement, Suspect},
};

/// The pod that is bad by itself, and by which SLO.
fn named<'a>(view: &'a View<'_>) -> Option<(&'a Judgement, &'a str)> {
    view.snapshot.judgements.iter().find_map(|judgement| match &judgement.suspect {
        Some(Suspect::Pod(uid)) => Some((judgement, uid.as_str())),
        _ => None,
    })
}

/// Without it another canary pod answers: its version was scaled down since it was told apart, perhaps.
fn has_another(view: &View<'_>) -> bool {
    view.canary().is_some_and(|arm| arm.ready > 1)
}

/// The name of a canary pod that is still there.
fn name_of<'a>(view: &'a View<'_>, uid: &str) -> Option<&'a str> {
    view.canary()?.uids.get(uid).map(String::as_str)
}

fn how_replaced(view: &View<'_>, uid: &str) -> &'static str {
    match name_of(view, uid).is_some() && !has_another(view) {
        true => "it is replaced as soon as another canary pod is ready",
        false => "it is being replaced",
    }
}

/// Adds to a move that a bad pod is replaced: the first one of the run, until it is gone.
pub(super) fn replace(view: &View<'_>, next: Move) -> Move {
    let handed_over = next.phase == Phase::Promoting && next.stage >= Some(Stage::HandOver);
    if !matches!(next.phase, Phase::Shifting | Phase::Promoting) || handed_over {
        return next;
    }
    let replace = |next: Move, uid: &str| match has_another(view) {
        true => next.act([Action::ReplacePod { uid: uid.to_owned() }]),
        false => next,
    };
    if let Some(bad) = &view.before.bad_pod {
        return if name_of(view, &bad.uid).is_some() { replace(next, &bad.uid) } else { next };
    }
    let Some((judgement, uid)) = named(view) else { return next };
    // One that is gone already needs no replacement, but what it did is to be left out all the same.
    let name = name_of(view, uid).unwrap_or(uid).to_owned();
    let message = format!(
        "SLO {}: canary pod {name} is bad by itself, the other canary pods are not (evidence {:.1}, threshold {:.1}); it is \
         replaced, once, and what it did no longer counts",
        judgement.name, judgement.evidence, judgement.threshold
    );
    let mut next = replace(next, uid).note(true, reasons::BAD_POD, message);
    next.bad_pod = Some(BadPod { name, uid: uid.to_owned() });
    next
}

/// Why the step waits: a pod is being replaced, or it is not clear who is to blame.
pub(super) fn hold(view: &View<'_>) -> Option<(WaitingReason, String)> {
    let judgements = &view.snapshot.judgements;
    if let Some((judgement, uid)) = named(view) {
        let name = view.before.bad_pod.as_ref().map(|bad| bad.name.as_str()).or_else(|| name_of(view, uid));
        let message = format!(
            "SLO {}: canary pod {} is bad by itself; {}",
            judgement.name,
            name.unwrap_or(uid),
            how_replaced(view, uid)
        );
        return Some((WaitingReason::BadPod, message));
    }
    if let Some(bad) = view.before.bad_pod.as_ref().filter(|bad| name_of(view, &bad.uid).is_some()) {
        let message = format!("canary pod {} was bad by itself; {}", bad.name, how_replaced(view, &bad.uid));
        return Some((WaitingReason::BadPod, message));
    }
    let unclear = judgements.iter().find(|judgement| judgement.suspect == Some(Suspect::Unclear))?;
    let message = format!(
        "SLO {}: the canary is worse than stable (evidence {:.1}, threshold {:.1}); whether that is the version or one of \
         its pods is not clear yet",
        unclear.name, unclear.evidence, unclear.threshold
    );
    Some((WaitingReason::Suspicion, message))
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Scene, *};
    use crate::api::Share;

    fn replaced(scene: &Scene) -> Move {
        replace(&scene.view(), Move::stay(&scene.view()))
    }

    fn bad() -> Option<BadPod> {
        Some(BadPod { name: "auth-x".into(), uid: "1".into() })
    }

    #[test]
    fn a_pod_that_is_bad_by_itself_is_named_and_replaced() {
        let scene = Scene::with(Some(Suspect::Pod("1".into())));
        let next = replaced(&scene);
        assert_eq!(next.actions, [Action::ReplacePod { uid: "1".into() }]);
        assert_eq!(next.bad_pod, bad());
        assert!(next.notes[0].warning && next.notes[0].message.contains("auth-x is bad by itself"), "{:?}", next.notes);
        let (reason, message) = hold(&scene.view()).expect("a hold");
        assert!(reason == WaitingReason::BadPod && message.contains("auth-x"), "{message}");
    }

    #[test]
    fn it_is_deleted_until_it_is_gone_and_no_other_after_it() {
        // Given one that was named, whose deletion may have failed:
        let mut scene = Scene::with(None);
        scene.before.bad_pod = bad();
        assert_eq!(replaced(&scene).actions, [Action::ReplacePod { uid: "1".into() }]);
        assert_eq!(hold(&scene.view()).map(|(reason, _)| reason), Some(WaitingReason::BadPod));
        // When it is gone:
        scene.snapshot.canary.as_mut().expect("a canary").uids.remove("1");
        assert!(replaced(&scene).actions.is_empty() && hold(&scene.view()).is_none());
        // Then nothing is deleted any more, whoever is suspected.
        scene.snapshot.judgements[0].suspect = Some(Suspect::Pod("2".into()));
        assert!(replaced(&scene).actions.is_empty() && replaced(&scene).notes.is_empty());
    }

    #[test]
    fn the_only_ready_pod_waits_for_another() {
        let mut scene = Scene::with(Some(Suspect::Pod("1".into())));
        scene.snapshot.canary.as_mut().expect("a canary").ready = 1;
        assert!(replaced(&scene).actions.is_empty());
        let (_, message) = hold(&scene.view()).expect("a hold");
        assert!(message.contains("it is replaced as soon as another canary pod is ready"), "{message}");
    }

    #[test]
    fn nobody_is_replaced_on_the_way_back_or_after_the_handover() {
        let scene = Scene::with(Some(Suspect::Pod("1".into())));
        let stages = [(Phase::RollingBack, Some(Stage::Divert)), (Phase::Promoting, Some(Stage::HandOver))];
        for (phase, stage) in stages {
            let next = Move { phase, stage, wanted: Share::NONE, ..Move::stay(&scene.view()) };
            assert!(replace(&scene.view(), next).actions.is_empty(), "{phase}");
        }
    }

    #[test]
    fn while_it_is_not_clear_who_is_to_blame_the_run_holds() {
        let scene = Scene::with(Some(Suspect::Unclear));
        assert!(replaced(&scene).actions.is_empty());
        assert_eq!(hold(&scene.view()).map(|(reason, _)| reason), Some(WaitingReason::Suspicion));
        assert!(hold(&Scene::with(None).view()).is_none());
    }
}
