//! Looks after a workload between runs: the latch, the start of a run, the record, the conditions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use jiff::Timestamp;

use super::{Action, Note, Trouble, WorkloadView, reasons};
use crate::api::{
    Condition, Invalid, Phase, RefusedVersion, Rollout, RolloutRunStatus, RolloutStatus, StableVersion, names,
};

/// What keeps a new template from moving by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latch {
    /// The chart's admission policy pauses the Deployment in the request that changes its template.
    Policy,
    /// There is no such policy here: the Deployment stays paused between runs.
    Pause,
}

/// What [`govern`] looks at.
#[derive(Clone, Debug)]
pub struct Governed<'a> {
    /// The policy's object.
    pub rollout: &'a Rollout,
    /// What is wrong with its spec.
    pub invalid: Option<&'a Invalid>,
    /// How templates are held.
    pub latch: Latch,
    /// The Deployment.
    pub workload: Option<&'a WorkloadView>,
    /// What a person must mend.
    pub troubles: &'a [Trouble],
    /// The newest run.
    pub last: Option<LastRun<'a>>,
    /// Names of finished runs, oldest first, the newest left out.
    pub finished: &'a [String],
    /// Some run still has Serin's finalizer.
    pub holds_runs: bool,
}

/// The newest run.
#[derive(Clone, Debug)]
pub struct LastRun<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its status.
    pub status: &'a RolloutRunStatus,
    /// Digest of the template that it releases.
    pub template: &'a str,
    /// Hash of its ReplicaSet.
    pub hash: &'a str,
    /// A person asked to try it again.
    pub retry: bool,
    /// Number of its steps.
    pub steps: usize,
    /// It still owns a ReplicaSet of the Deployment's history.
    pub holds_borrowed: bool,
    /// A person deletes its record.
    pub deleted: bool,
    /// The Deployment was made anew since it began.
    pub of_another: bool,
}

/// What is to be done for a Rollout.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Governance {
    /// The status to write down.
    pub status: RolloutStatus,
    /// To be done in order.
    pub actions: Vec<Action>,
    /// To be told.
    pub notes: Vec<Note>,
}

/// What is going on, for phase, message and conditions.
struct Standing {
    phase: String,
    message: String,
    ready: bool,
    reconciling: bool,
    stalled: bool,
    reason: &'static str,
}

impl Standing {
    fn stalled(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            phase: "Blocked".into(),
            message: message.into(),
            ready: false,
            reconciling: false,
            stalled: true,
            reason,
        }
    }
    fn reconciling(phase: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { phase: phase.into(), message: message.into(), ready: false, reconciling: true, stalled: false, reason }
    }
}

/// Decides what a Rollout needs besides its run.
pub fn govern(governed: &Governed<'_>, now: Timestamp) -> Governance {
    let (standing, actions) =
        if governed.rollout.metadata.deletion_timestamp.is_some() { let_go(governed) } else { look_after(governed) };
    let status = next_status(governed, &standing, now);
    let notes = told(governed, &standing, actions.contains(&Action::RemoveFinalizer));
    Governance { status, actions, notes }
}

/// The Rollout is being deleted: the workload is put back as it was found.
fn let_go(governed: &Governed<'_>) -> (Standing, Vec<Action>) {
    let standing =
        Standing::reconciling("Deleting", reasons::ROLLOUT_DELETED, "waiting for the traffic to be back at stable");
    // Without the Rollout nobody would look at its runs again.
    if governed.holds_runs {
        return (standing, Vec::new());
    }
    let mut actions = Vec::new();
    if let Some(workload) = governed.workload {
        if governed.last.as_ref().is_some_and(|run| run.holds_borrowed) {
            actions.push(Action::ReturnBorrowed);
        }
        if workload.failure_reported {
            actions.push(Action::ClearFailure);
        }
        if let (true, Some(serving)) = (workload.paused && held_by_us(governed, workload), serving_template(workload)) {
            actions.push(Action::UnpauseWorkload { serving });
        }
        if is_ours(governed, workload) {
            actions.push(Action::UnlabelWorkload);
        }
    }
    actions.push(Action::RemoveFinalizer);
    (standing, actions)
}

fn look_after(governed: &Governed<'_>) -> (Standing, Vec<Action>) {
    if governed
        .rollout
        .metadata
        .finalizers
        .as_ref()
        .is_none_or(|all| !all.iter().any(|f| f == crate::api::names::FINALIZER))
    {
        let standing = Standing::reconciling("Idle", reasons::WORKLOAD_SETTLING, "taking the workload over");
        return (standing, vec![Action::AddFinalizer]);
    }
    if let Some(run) = &governed.last
        && !run.status.phase.unwrap_or_default().is_terminal()
    {
        // A template written meanwhile must be held.
        let anew = governed.workload.filter(|workload| {
            run.of_another && !workload.deleting && !is_ours(governed, workload) && taken(governed).is_none()
        });
        let mut actions: Vec<Action> = anew.map(|_| Action::LabelWorkload).into_iter().collect();
        actions.extend(restamp(governed));
        return (under_way(run), actions);
    }
    let mut actions: Vec<Action> = forgotten(governed).into_iter().collect();
    if let Some(invalid) = governed.invalid {
        return (Standing::stalled(reasons::INVALID_POLICY, invalid.to_string()), actions);
    }
    let Some(workload) = governed.workload else {
        let name = &governed.rollout.spec.workload_ref.name;
        let message = format!(
            "expected Deployment {name} in this namespace, found none: create it, or correct spec.workloadRef.name"
        );
        return (Standing::stalled(reasons::WORKLOAD_MISSING, message), actions);
    };
    if workload.deleting {
        let name = &governed.rollout.spec.workload_ref.name;
        let message =
            format!("Deployment {name} is being deleted: make it anew once it is gone, or delete this Rollout");
        return (Standing::stalled(reasons::WORKLOAD_MISSING, message), actions);
    }
    if let Some(taken) = taken(governed) {
        return (Standing::stalled(taken.reason, taken.message.clone()), actions);
    }
    if !is_ours(governed, workload) {
        actions.push(Action::LabelWorkload);
    }
    let stamping = restamp(governed);
    let is_new = stamping.iter().any(|action| matches!(action, Action::StampConfiguration { .. }));
    actions.extend(stamping);
    if is_new {
        let message = "the ConfigMaps or Secrets that the template names have changed: holding it as a new version";
        return (Standing::reconciling("Preparing", reasons::CONFIGURATION_CHANGED, message), actions);
    }
    let woken = woken(governed, workload);
    let is_woken = woken.is_some();
    actions.extend(woken);
    let standing = match serving_template(workload) {
        _ if is_woken && refusal(governed, workload).is_none() => Standing::reconciling(
            "Settling",
            reasons::WORKLOAD_SETTLING,
            "scaled up from 0, the Deployment began with another version than the one that served: putting it right",
        ),
        Some(serving) if !is_woken => at_rest(governed, workload, serving, &mut actions),
        _ => with_other_template(governed, workload, &mut actions),
    };
    (standing, actions)
}

/// The tracked data is no longer what the template is stamped with: copies first, as pods of the stamp need them. A
/// template that somebody took back to older data is left so until the data changes again; one that Serin itself stamped
/// with older data, by a leader whose cache was late, is not.
fn restamp(governed: &Governed<'_>) -> Vec<Action> {
    let Some((workload, configuration)) =
        governed.workload.and_then(|workload| Some((workload, workload.configuration.as_ref()?)))
    else {
        return Vec::new();
    };
    // Where nothing holds the template yet, or it is not at rest, a change of it would move by itself.
    let at_rest = workload.settled && serving_template(workload).is_some();
    let may = is_ours(governed, workload) && (workload.paused || at_rest) && !workload.deleting;
    if !may || untracked(governed) {
        return Vec::new();
    }
    let is_new = configuration.is.as_ref() != Some(&configuration.wanted);
    let by_others = configuration.is.is_some() && !configuration.is_ours;
    let taken_back = by_others && known(governed) == Some(&configuration.digest);
    let mut actions = Vec::new();
    if is_new && !taken_back || !is_new && !configuration.copied {
        actions.push(Action::CopyConfiguration);
    }
    if is_new && !taken_back {
        actions.push(Action::StampConfiguration { stamp: configuration.wanted.clone() });
    }
    actions
}

/// The digest that was held last.
fn known<'a>(governed: &'a Governed<'_>) -> Option<&'a String> {
    governed.rollout.status.as_ref()?.configuration.as_ref()
}

fn untracked(governed: &Governed<'_>) -> bool {
    governed.troubles.iter().any(|trouble| trouble.reason == reasons::CONFIGURATION_UNREADABLE)
}

fn taken<'a>(governed: &'a Governed<'_>) -> Option<&'a Trouble> {
    governed.troubles.iter().find(|trouble| trouble.reason == reasons::WORKLOAD_TAKEN)
}

/// Scaled up from 0 while it is held, the Deployment has woken another ReplicaSet than the one that served. Once pods of
/// it are ready it is left alone: then it is what serves.
fn woken(governed: &Governed<'_>, workload: &WorkloadView) -> Option<Action> {
    let served = governed.rollout.status.as_ref()?.stable.as_ref()?;
    let held = workload.paused && held_by_us(governed, workload);
    let unreleased = serving_template(workload).is_none() || refusal(governed, workload).is_some();
    let another = workload.active.keys().any(|hash| *hash != served.hash);
    let asleep = workload.replicas > 0 && workload.ready == 0;
    (held && unreleased && another && asleep).then(|| Action::KeepServing { serving: served.hash.clone() })
}

/// The template is the one that serves.
fn at_rest(governed: &Governed<'_>, workload: &WorkloadView, serving: String, actions: &mut Vec<Action>) -> Standing {
    if governed.last.as_ref().is_some_and(|run| run.holds_borrowed) {
        actions.push(Action::ReturnBorrowed);
    }
    if workload.failure_reported {
        actions.push(Action::ClearFailure);
    }
    match governed.latch {
        Latch::Policy if workload.paused && held_by_us(governed, workload) => {
            actions.push(Action::UnpauseWorkload { serving });
        }
        Latch::Pause if !workload.paused && workload.settled => actions.push(Action::PauseWorkload),
        _ => {}
    }
    if workload.run_label.is_some() {
        actions.push(Action::ReleaseWorkload);
    }
    let configuration = workload.configuration.as_ref();
    if configuration.is_some_and(|configuration| configuration.stale) {
        actions.push(Action::ForgetConfigurations);
    }
    if let Some(trouble) = governed.troubles.first() {
        return Standing::stalled(trouble.reason, trouble.message.clone());
    }
    Standing {
        phase: "Idle".into(),
        message: match configuration.is_some_and(|it| it.is.is_some() && it.is.as_ref() != Some(&it.wanted)) {
            true => format!(
                "{} serves, with older data than its ConfigMaps and Secrets have: it was taken back",
                workload.images
            ),
            false => format!("{} serves", workload.images),
        },
        ready: true,
        reconciling: false,
        stalled: false,
        reason: reasons::SERVING,
    }
}

/// The template is another than the one that serves: a release, a refused one, or not ours to hold.
fn with_other_template(governed: &Governed<'_>, workload: &WorkloadView, actions: &mut Vec<Action>) -> Standing {
    if !workload.paused {
        return Standing::reconciling(
            "Settling",
            reasons::WORKLOAD_SETTLING,
            "the Deployment is at work on a change that was not held; waiting for it to settle",
        );
    }
    if workload.active.len() != 1 && workload.replicas > 0 {
        return Standing::reconciling(
            "Settling",
            reasons::WORKLOAD_SETTLING,
            format!(
                "expected one ReplicaSet that serves, found {}; waiting for the Deployment to settle (kubectl rollout resume, or scale the old ones down)",
                workload.active.len()
            ),
        );
    }
    if let Some(Refusal { why, again }) = refusal(governed, workload) {
        if !workload.failure_reported {
            actions.push(Action::ReportFailure { message: why.clone() });
        }
        return Standing {
            phase: "Refused".into(),
            message: format!(
                "{why}. Deploy another version, or: kubectl serin undo|{again} {}",
                governed.rollout.metadata.name.as_deref().unwrap_or_default()
            ),
            ready: false,
            reconciling: false,
            stalled: true,
            reason: reasons::ROLLED_BACK,
        };
    }
    if let Some(trouble) = governed.troubles.first() {
        return Standing::stalled(trouble.reason, trouble.message.clone());
    }
    if governed.rollout.spec.suspend {
        return Standing {
            phase: "Suspended".into(),
            message: "a new version is there and is held: spec.suspend is true; set it to false to release it".into(),
            ready: false,
            reconciling: false,
            stalled: false,
            reason: reasons::SUSPENDED,
        };
    }
    if let Some(run) = &governed.last
        && run.holds_borrowed
    {
        actions.push(Action::ReturnBorrowed);
    }
    actions.push(Action::StartRun);
    Standing::reconciling("Preparing", reasons::RUN_UNDER_WAY, "a new version is there: starting a run")
}

/// Why the Deployment's template is not tried, and what tries it again.
struct Refusal {
    why: String,
    again: &'static str,
}

/// A run has refused exactly this template, and nobody asked to try it again; or a person has deleted its run.
fn refusal(governed: &Governed<'_>, workload: &WorkloadView) -> Option<Refusal> {
    let last = governed.last.as_ref();
    if let Some(run) = last.filter(|run| refused(run, workload)) {
        let again = if run.deleted { "restart" } else { "retry" };
        return Some(Refusal { why: why_refused(run), again });
    }
    // The record of a run that is gone.
    let record = governed.rollout.status.as_ref()?.refused.as_ref()?;
    let gone = last.is_none_or(|run| run.name != record.run);
    (gone && record.template == workload.template).then(|| Refusal { why: record.message.clone(), again: "restart" })
}

fn refused(run: &LastRun<'_>, workload: &WorkloadView) -> bool {
    let same = run.template == workload.template
        || run.holds_borrowed && workload.template_hashes.iter().any(|hash| hash == run.hash);
    let phase = run.status.phase.unwrap_or_default();
    same && !run.retry && (phase == Phase::RolledBack || run.deleted && phase != Phase::Succeeded)
}

fn why_refused(run: &LastRun<'_>) -> String {
    match run.status.phase.unwrap_or_default() {
        Phase::RolledBack => run.status.message.clone().unwrap_or_default(),
        _ => format!("run {} was deleted before its end", run.name),
    }
}

/// Hash of the ReplicaSet that serves, if its template is the Deployment's.
fn serving_template(workload: &WorkloadView) -> Option<String> {
    let serving = match workload.active.keys().next() {
        Some(hash) if workload.active.len() == 1 => Some(hash),
        None => workload.newest.as_ref(),
        Some(_) => None,
    };
    serving.filter(|hash| workload.template_hashes.contains(hash)).cloned()
}

/// Paused by the latch or by us, not by a person between runs.
fn held_by_us(governed: &Governed<'_>, workload: &WorkloadView) -> bool {
    workload.latched || governed.latch == Latch::Pause || workload.run_label.is_some()
}

fn is_ours(governed: &Governed<'_>, workload: &WorkloadView) -> bool {
    workload.rollout_label.is_some() && workload.rollout_label == governed.rollout.metadata.name
}

fn under_way(run: &LastRun<'_>) -> Standing {
    let phase = run.status.phase.unwrap_or_default();
    let message = run.status.message.clone().unwrap_or_else(|| "starting".to_owned());
    Standing::reconciling(phase.to_string(), reasons::RUN_UNDER_WAY, message)
}

/// The oldest finished run beyond the history limit.
fn forgotten(governed: &Governed<'_>) -> Option<Action> {
    let limit = usize::try_from(governed.rollout.spec.history_limit).unwrap_or(usize::MAX);
    let too_many = governed.finished.len() + 1 > limit.max(1);
    too_many.then(|| governed.finished.first().map(|run| Action::ForgetRun { run: run.clone() })).flatten()
}

fn next_status(governed: &Governed<'_>, standing: &Standing, now: Timestamp) -> RolloutStatus {
    let before = governed.rollout.status.clone().unwrap_or_default();
    let generation = governed.rollout.metadata.generation;
    let active = governed.last.as_ref().filter(|run| !run.status.phase.unwrap_or_default().is_terminal());
    let stable = match governed.workload {
        Some(workload) if workload.active.len() == 1 => workload.active.keys().next().cloned(),
        _ => None,
    };
    let stable = match (&before.stable, stable, serving_template_of(governed)) {
        (_, Some(hash), true) => Some(StableVersion {
            hash,
            images: governed.workload.map(|workload| workload.images.clone()).unwrap_or_default(),
        }),
        (before, _, _) => before.clone(),
    };
    let condition = |kind: &str, on: bool| {
        let status = if on { "True" } else { "False" };
        let old = before.conditions.iter().find(|condition| condition.kind == kind && condition.status == status);
        Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: standing.reason.to_owned(),
            message: standing.message.clone(),
            last_transition_time: old.map_or(Time(now), |condition| condition.last_transition_time.clone()),
            observed_generation: generation,
        }
    };
    let refused = governed.workload.filter(|workload| serving_template(workload).is_none() || standing.stalled);
    let refused = refused.and_then(|workload| record_refusal(governed, workload, before.refused.as_ref()));
    let run = last_name(governed.last.as_ref().map(|run| run.name.to_owned()), before.run);
    // One that a late cache does not show has still the phase that is known of it.
    let shown = governed.last.as_ref().filter(|last| run.as_deref() == Some(last.name));
    let last_run_phase = shown.map(|last| last.status.phase.unwrap_or_default()).or(before.last_run_phase);
    RolloutStatus {
        refused,
        observed_generation: generation,
        phase: Some(standing.phase.clone()),
        step: active.map(|run| format!("{}/{}", run.status.step, run.steps)),
        weight: active.map(|run| run.status.weight),
        message: Some(standing.message.clone()),
        run,
        last_run_phase,
        stable,
        configuration: held_configuration(governed).or(before.configuration),
        slos: active.map(|run| run.status.slos.clone()).unwrap_or_default(),
        conditions: vec![
            condition("Ready", standing.ready),
            condition("Reconciling", standing.reconciling),
            condition("Stalled", standing.stalled),
        ],
    }
}

/// The newest run's name, also once its record was deleted: the next one has a greater number.
fn last_name(is: Option<String>, before: Option<String>) -> Option<String> {
    is.into_iter().chain(before).max_by(|a, b| names::order(a).cmp(&names::order(b)))
}

/// Digest of the data, once the template is stamped with it.
fn held_configuration(governed: &Governed<'_>) -> Option<String> {
    let configuration = governed.workload?.configuration.as_ref()?;
    (configuration.is.as_ref() == Some(&configuration.wanted)).then(|| configuration.digest.clone())
}

/// What is to be known of a refusal when the run's record is gone.
fn record_refusal(
    governed: &Governed<'_>,
    workload: &WorkloadView,
    before: Option<&RefusedVersion>,
) -> Option<RefusedVersion> {
    match &governed.last {
        Some(run) if refused(run, workload) => Some(RefusedVersion {
            template: workload.template.clone(),
            run: run.name.to_owned(),
            message: why_refused(run),
        }),
        // It is tried, or was tried, again.
        Some(run) if run.template == workload.template && before.is_some_and(|known| known.run == run.name) => None,
        Some(run) if run.template == workload.template && !run.status.phase.unwrap_or_default().is_terminal() => None,
        _ => before.filter(|known| known.template == workload.template).cloned(),
    }
}

fn serving_template_of(governed: &Governed<'_>) -> bool {
    governed.workload.and_then(serving_template).is_some()
}

/// What stalls is told once, when it begins.
fn told(governed: &Governed<'_>, standing: &Standing, letting_go: bool) -> Vec<Note> {
    let before = governed.rollout.status.as_ref();
    let was = before.and_then(|status| {
        status.conditions.iter().find(|condition| condition.kind == "Stalled" && condition.status == "True")
    });
    let new = standing.stalled
        && standing.reason != reasons::ROLLED_BACK
        && was.is_none_or(|condition| condition.reason != standing.reason);
    let deleting_held = letting_go
        && governed.rollout.metadata.finalizers.iter().flatten().any(|name| name == crate::api::names::FINALIZER)
        && governed.workload.is_some_and(|workload| workload.paused && serving_template(workload).is_none());
    let mut notes = Vec::new();
    if new {
        notes.push(Note { warning: true, reason: standing.reason, message: standing.message.clone() });
    }
    if deleting_held {
        notes.push(Note {
            warning: true,
            reason: reasons::ROLLOUT_DELETED,
            message: "the Deployment stays paused: its template was not released. kubectl rollout resume releases it"
                .into(),
        });
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ConfigurationView;
    use serde_json::json;

    fn rollout(known: Option<&str>) -> Rollout {
        let mut value = json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
            "metadata": {"name": "auth", "finalizers": [crate::api::names::FINALIZER]},
            "spec": {
                "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
                "telemetry": {"scrape": {"port": "http"}, "requests": {"counter": "c", "errors": {"code": "5.."}}},
                "slos": [{"name": "errors", "errors": {"objective": "99%"}}], "steps": [{"weight": 50}]}
        });
        if let Some(known) = known {
            value["status"] = json!({"configuration": known});
        }
        serde_json::from_value(value).expect("a Rollout")
    }

    /// One that serves, with data that is stamped as `is`; the data of now is "new".
    fn workload(is: Option<&str>) -> WorkloadView {
        let configuration = ConfigurationView {
            wanted: "auth new ConfigMap/settings".into(),
            digest: "new".into(),
            is: is.map(|digest| format!("auth {digest} ConfigMap/settings")),
            is_ours: false,
            copied: true,
            stale: false,
        };
        WorkloadView {
            replicas: 2,
            rollout_label: Some("auth".into()),
            template_hashes: vec!["one".into()],
            active: [("one".to_owned(), 2)].into(),
            settled: true,
            configuration: Some(configuration),
            ..WorkloadView::default()
        }
    }

    fn actions(rollout: &Rollout, workload: &WorkloadView, troubles: &[Trouble]) -> Governance {
        let governed = Governed {
            rollout,
            invalid: None,
            latch: Latch::Policy,
            workload: Some(workload),
            troubles,
            last: None,
            finished: &[],
            holds_runs: false,
        };
        govern(&governed, Timestamp::UNIX_EPOCH)
    }

    fn stamping() -> Vec<Action> {
        let stamp = "auth new ConfigMap/settings".to_owned();
        vec![Action::CopyConfiguration, Action::StampConfiguration { stamp }]
    }

    #[test]
    fn new_data_is_copied_and_then_stamped() {
        for (is, known) in [(None, None), (Some("old"), None), (Some("old"), Some("old")), (None, Some("new"))] {
            let governance = actions(&rollout(known), &workload(is), &[]);
            assert_eq!(governance.actions, stamping(), "{is:?} {known:?}");
            assert!(
                governance
                    .status
                    .conditions
                    .iter()
                    .all(|condition| condition.kind != "Ready" || condition.status == "False")
            );
        }
    }

    #[test]
    fn what_is_stamped_is_remembered_and_left_alone() {
        let governance = actions(&rollout(None), &workload(Some("new")), &[]);
        assert_eq!(governance.actions, []);
        assert_eq!(governance.status.configuration.as_deref(), Some("new"));
        let mut lost = workload(Some("new"));
        lost.configuration.as_mut().expect("tracked").copied = false;
        assert_eq!(actions(&rollout(Some("new")), &lost, &[]).actions, [Action::CopyConfiguration]);
    }

    #[test]
    fn a_template_that_was_taken_back_keeps_its_data_until_the_next_edit() {
        let governance = actions(&rollout(Some("new")), &workload(Some("old")), &[]);
        assert_eq!(governance.actions, []);
        assert!(governance.status.message.is_some_and(|message| message.contains("taken back")));
        assert_eq!(governance.status.configuration.as_deref(), Some("new"), "and that is not forgotten");
        assert_eq!(actions(&rollout(Some("another")), &workload(Some("old")), &[]).actions, stamping());
    }

    #[test]
    fn what_a_late_leader_stamped_with_older_data_was_taken_back_by_nobody() {
        let mut late = workload(Some("old"));
        late.configuration.as_mut().expect("tracked").is_ours = true;
        assert_eq!(actions(&rollout(Some("new")), &late, &[]).actions, stamping());
    }

    #[test]
    fn nothing_is_stamped_that_could_move_by_itself() {
        let unsettled = WorkloadView { settled: false, ..workload(None) };
        let somebody_elses = WorkloadView { rollout_label: None, ..workload(None) };
        let unreadable = [Trouble { reason: reasons::CONFIGURATION_UNREADABLE, message: String::new() }];
        let none: &[Trouble] = &[];
        for (workload, troubles) in [(unsettled, none), (somebody_elses, none), (workload(None), &unreadable)] {
            let governance = actions(&rollout(None), &workload, troubles);
            assert!(!governance.actions.iter().any(|action| matches!(action, Action::StampConfiguration { .. })));
        }
        let held = WorkloadView { paused: true, latched: true, settled: false, ..workload(Some("old")) };
        assert_eq!(actions(&rollout(None), &held, &[]).actions, stamping());
    }
}

#[cfg(test)]
mod refusals {
    use super::*;

    fn rollout(refused: Option<RefusedVersion>) -> Rollout {
        let mut rollout = crate::engine::testing::rollout();
        rollout.metadata.finalizers = Some(vec![crate::api::names::FINALIZER.to_owned()]);
        let stable = Some(StableVersion { hash: "one".into(), ..StableVersion::default() });
        rollout.status = Some(RolloutStatus { refused, stable, ..RolloutStatus::default() });
        rollout
    }

    /// `one` serves, the template is another.
    fn held() -> WorkloadView {
        WorkloadView {
            replicas: 2,
            paused: true,
            latched: true,
            rollout_label: Some("auth".into()),
            template: "v2".into(),
            active: [("one".to_owned(), 2)].into(),
            newest: Some("one".into()),
            ready: 2,
            ..WorkloadView::default()
        }
    }

    fn of(rollout: &Rollout, workload: &WorkloadView, last: Option<LastRun<'_>>) -> Governance {
        let governed = Governed {
            rollout,
            invalid: None,
            latch: Latch::Policy,
            workload: Some(workload),
            troubles: &[],
            last,
            finished: &[],
            holds_runs: false,
        };
        govern(&governed, Timestamp::UNIX_EPOCH)
    }

    fn last<'a>(status: &'a RolloutRunStatus, deleted: bool) -> LastRun<'a> {
        LastRun {
            name: "auth-1",
            status,
            template: "v2",
            hash: "two",
            retry: false,
            steps: 1,
            holds_borrowed: false,
            deleted,
            of_another: false,
        }
    }

    #[test]
    fn a_refusal_is_known_when_its_record_is_gone() {
        // given a refusal
        let refused = RolloutRunStatus {
            phase: Some(Phase::RolledBack),
            message: Some("too slow".into()),
            ..RolloutRunStatus::default()
        };
        let before = rollout(None);
        let status = of(&before, &held(), Some(last(&refused, false))).status;
        assert_eq!(status.refused.as_ref().map(|known| known.message.as_str()), Some("too slow"));

        // when the run is deleted, then nothing begins
        let after = Rollout { status: Some(status), ..before };
        let governance = of(&after, &held(), None);
        assert_eq!(governance.actions, [Action::ReportFailure { message: "too slow".into() }]);
        assert_eq!(governance.status.phase.as_deref(), Some("Refused"));
        assert!(governance.status.message.is_some_and(|said| said.contains("undo|restart auth")));

        // but another template is another version
        let governance = of(&after, &WorkloadView { template: "v3".into(), ..held() }, None);
        assert_eq!((governance.actions, governance.status.refused), (vec![Action::StartRun], None));
    }

    #[test]
    fn a_run_that_a_person_deletes_is_not_begun_again() {
        let cancelled = RolloutRunStatus { phase: Some(Phase::Cancelled), ..RolloutRunStatus::default() };
        let reported = WorkloadView { failure_reported: true, ..held() };
        let governance = of(&rollout(None), &reported, Some(last(&cancelled, true)));
        assert_eq!(governance.actions, []);
        assert_eq!(governance.status.refused.map(|known| known.run), Some("auth-1".to_owned()));
        // one that ended so by itself is no refusal
        let governance = of(&rollout(None), &held(), Some(last(&cancelled, false)));
        assert_eq!(governance.actions, [Action::StartRun]);
    }

    #[test]
    fn the_number_of_a_deleted_run_is_remembered() {
        let name = |is: Option<&str>, before: &str| last_name(is.map(str::to_owned), Some(before.to_owned()));
        assert_eq!(name(Some("auth-9"), "auth-10").as_deref(), Some("auth-10"));
        assert_eq!(name(Some("auth-11"), "auth-10").as_deref(), Some("auth-11"));
        assert_eq!(name(None, "auth-10").as_deref(), Some("auth-10"));
    }

    #[test]
    fn a_deployment_that_is_being_deleted_is_left_alone() {
        let governance = of(&rollout(None), &WorkloadView { deleting: true, ..held() }, None);
        assert_eq!(governance.actions, []);
        assert!(governance.status.message.is_some_and(|said| said.contains("is being deleted")));
    }

    #[test]
    fn scaled_up_from_zero_what_served_is_woken_and_no_other() {
        let woken = WorkloadView { active: [("zero".to_owned(), 2)].into(), ready: 0, ..held() };
        let keep = Action::KeepServing { serving: "one".into() };
        assert!(of(&rollout(None), &woken, None).actions.contains(&keep));
        // the refused version itself
        let known = RefusedVersion { template: "v2".into(), run: "auth-1".into(), message: "bad".into() };
        let refused = WorkloadView { template_hashes: vec!["zero".into()], failure_reported: true, ..woken.clone() };
        let governance = of(&rollout(Some(known)), &refused, None);
        assert_eq!((governance.actions, governance.status.phase.as_deref()), (vec![keep.clone()], Some("Refused")));
        // what has ready pods serves; what nobody holds moves by itself
        for left in [WorkloadView { ready: 1, ..woken.clone() }, WorkloadView { paused: false, ..woken }] {
            assert!(!of(&rollout(None), &left, None).actions.contains(&keep));
        }
    }
}
