//! Looks after a workload between runs: the latch, the start of a run, the record, the conditions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use jiff::Timestamp;

use super::{Action, Note, Trouble, WorkloadView, reasons};
use crate::api::{Condition, Invalid, Phase, Rollout, RolloutRunStatus, RolloutStatus, StableVersion};

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
        return (under_way(run), Vec::new());
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
    if let Some(taken) = governed.troubles.iter().find(|trouble| trouble.reason == reasons::WORKLOAD_TAKEN) {
        return (Standing::stalled(taken.reason, taken.message.clone()), actions);
    }
    if !is_ours(governed, workload) {
        actions.push(Action::LabelWorkload);
    }
    let standing = match serving_template(workload) {
        Some(serving) => at_rest(governed, workload, serving, &mut actions),
        None => with_other_template(governed, workload, &mut actions),
    };
    (standing, actions)
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
    if let Some(trouble) = governed.troubles.first() {
        return Standing::stalled(trouble.reason, trouble.message.clone());
    }
    Standing {
        phase: "Idle".into(),
        message: format!("{} serves", workload.images),
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
    if let Some(run) = governed.last.as_ref().filter(|run| refused(run, workload)) {
        let why = run.status.message.as_deref().unwrap_or_default();
        return Standing {
            phase: "Refused".into(),
            message: format!(
                "{why}. Deploy another version, or: kubectl serin undo|retry {}",
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

/// The last run refused exactly this template, and nobody asked to try it again.
fn refused(run: &LastRun<'_>, workload: &WorkloadView) -> bool {
    let same = run.template == workload.template
        || run.holds_borrowed && workload.template_hashes.iter().any(|hash| hash == run.hash);
    same && !run.retry && run.status.phase == Some(Phase::RolledBack)
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
    RolloutStatus {
        observed_generation: generation,
        phase: Some(standing.phase.clone()),
        step: active.map(|run| format!("{}/{}", run.status.step, run.steps)),
        weight: active.map(|run| run.status.weight),
        message: Some(standing.message.clone()),
        run: governed.last.as_ref().map(|run| run.name.to_owned()).or(before.run),
        last_run_phase: governed.last.as_ref().and_then(|run| run.status.phase).or(before.last_run_phase),
        stable,
        slos: active.map(|run| run.status.slos.clone()).unwrap_or_default(),
        conditions: vec![
            condition("Ready", standing.ready),
            condition("Reconciling", standing.reconciling),
            condition("Stalled", standing.stalled),
        ],
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
