//! The pure parts of a look: which writes it consists of. The shell sends them; the simulation sends them, too.

use jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;
use serde_json::Value;

use super::{
    ledger,
    observe::{
        Seen, governed_workload, is_borrowed, is_borrowed_by, is_of_another, is_of_run, is_owned_by, observe, troubles,
    },
    world::{Kind, World, Write, phase_of},
};
use crate::{
    api::{Phase, Policy, RolloutRun, RolloutRunStatus, Share, SplitStatus, Stage, WaitingReason, names, validate},
    engine::{self, Action, Decision, Gates, Governance, Governed, LastRun, Latch, Snapshot, Traffic},
    evidence::{Fold, Silent},
};

/// What a run does next, and the write of its status if that differs.
#[derive(Clone, Debug)]
#[must_use]
pub struct Moved {
    /// To be applied after the status was written.
    pub decision: Decision,
    /// To be written first.
    pub status: Option<Write>,
    /// What it was decided from, for the record.
    pub snapshot: Snapshot,
    /// The Rollout or the run is being deleted.
    pub ending: bool,
}

/// What the Rollout needs, and the write of its status if that differs.
#[derive(Clone, Debug)]
#[must_use]
pub struct Looked {
    /// To be applied after the status was written.
    pub governance: Governance,
    /// To be written first.
    pub status: Option<Write>,
}

impl Moved {
    /// The traffic goes back even when the status can't be written: all that a rollback begins with (without a route that
    /// is the canary's size, late in a promotion the apex's pin), and weight 0 whenever it is asked for.
    pub fn retreat(self) -> Vec<Action> {
        let diverts = self.decision.status.stage == Some(Stage::Divert);
        self.decision.actions.into_iter().filter(|action| diverts || action.is_retreat()).collect()
    }
}

/// Moves the run under way. `ledger` is the evidence to be saved, if it is time to; `due`: it is time to write figures
/// that nobody waits for, too.
pub fn move_run(
    policy: &Policy,
    world: &World,
    run: &RolloutRun,
    seen: &Seen,
    ledger: Option<String>,
    due: bool,
    now: Timestamp,
) -> Moved {
    let before = run.status.clone().unwrap_or_default();
    let snapshot = observe(world, run, seen);
    let ending = world.rollout.metadata.deletion_timestamp.is_some() || run.metadata.deletion_timestamp.is_some();
    let mut decision = engine::decide(policy, &run.spec, &before, &snapshot, ending, now);
    if ledger.is_some() {
        decision.status.ledger = ledger;
    }
    if decision.status.phase.unwrap_or_default().is_terminal() {
        // What is learnt of stable outlives the run.
        let learnt = decision.status.ledger.take().and_then(|ledger| ledger::learnt(policy, &ledger));
        decision.status.learnt = learnt.or(decision.status.learnt);
    }
    let changed = match due {
        true => changed(&before, &decision.status),
        false => changed(&gist(&before), &gist(&decision.status)).map(|_| json(&decision.status)),
    };
    let status = changed.map(|status| Write::status(Kind::RolloutRun, &run.metadata, status));
    Moved { decision, status, snapshot, ending }
}

/// The status without the figures that move at every tick: what must be written at once.
fn gist(status: &RolloutRunStatus) -> RolloutRunStatus {
    let mut gist = status.clone();
    gist.weight.seen = None;
    gist.message = None;
    for slo in &mut gist.slos {
        slo.evidence = 0.0;
        slo.canary = crate::api::ArmRequests::default();
        slo.stable = crate::api::ArmRequests::default();
        slo.harm = crate::api::HarmStatus::default();
    }
    for query in &mut gist.queries {
        (query.canary, query.stable) = (None, None);
    }
    if let Some(split) = &mut gist.split {
        *split = SplitStatus { asked: split.asked, got: f64::from(u8::from(split.got > split.asked)), requests: 0 };
    }
    if let Some(waiting) = &mut gist.waiting {
        waiting.message.clear();
    }
    gist
}

/// Finished runs that still hold something, and how they let go of it. What was made just before the end may show only
/// after it, where a watch is late.
pub fn to_close(world: &World) -> Vec<(&RolloutRun, Action)> {
    let finished = world.runs.iter().filter(|run| phase_of(run).is_terminal());
    let ending = |run: &RolloutRun| run.metadata.deletion_timestamp.is_some();
    let next = |run: &RolloutRun| match () {
        () if owns_canary(world, run) => Some(Action::RemoveCanary),
        () if world.preview_route(run).is_some() => Some(Action::DeletePreview),
        // It is the Deployment's, and would go with its owner.
        () if ending(run) && is_held(run) && holds_borrowed(world, run) => Some(Action::ReturnBorrowed),
        () if world.canary_service(run).is_some() => Some(Action::DeleteCanaryService),
        () if is_held(run) => Some(Action::RemoveFinalizer),
        () => None,
    };
    finished.filter_map(|run| Some((run, next(run)?))).collect()
}

/// It owns a ReplicaSet that it made. (A borrowed one is given back when the template changes.)
fn owns_canary(world: &World, run: &RolloutRun) -> bool {
    world.set(&run.spec.to.hash).is_some_and(|set| {
        !is_borrowed_by(set, run) && set.metadata.deletion_timestamp.is_none() && is_of_run(set, run)
    })
}

fn is_held(run: &RolloutRun) -> bool {
    run.metadata.finalizers.iter().flatten().any(|name| name == names::FINALIZER)
}

/// Looks after the workload. `run_status` is what the run under way has just become.
pub fn look_after(world: &World, latch: Latch, run_status: Option<&RolloutRunStatus>, now: Timestamp) -> Looked {
    let workload = governed_workload(world);
    let invalid = validate(&world.rollout.spec).err();
    let troubles = troubles(world, None);
    let last = world.last();
    let default = RolloutRunStatus::default();
    let finished: Vec<String> = match last {
        Some(last) => world
            .runs
            .iter()
            .filter(|run| run.name_any() != last.name_any() && phase_of(run).is_terminal())
            .map(ResourceExt::name_any)
            .collect(),
        None => Vec::new(),
    };
    let name = last.map(ResourceExt::name_any).unwrap_or_default();
    let is_active = world.active().is_some();
    let governed = Governed {
        rollout: &world.rollout,
        invalid: invalid.as_ref(),
        latch,
        workload: workload.as_ref(),
        troubles: &troubles,
        last: last.map(|run| LastRun {
            name: &name,
            status: run_status.filter(|_| is_active).or(run.status.as_ref()).unwrap_or(&default),
            template: &run.spec.to.template,
            hash: &run.spec.to.hash,
            retry: run.spec.retry,
            steps: run.spec.policy.steps.len(),
            holds_borrowed: holds_borrowed(world, run),
            deleted: run.metadata.deletion_timestamp.is_some(),
            of_another: is_of_another(world, run),
        }),
        finished: &finished,
        holds_runs: world.runs.iter().any(is_held),
    };
    let governance = engine::govern(&governed, now);
    let before = world.rollout.status.clone().unwrap_or_default();
    let status = changed(&before, &governance.status)
        .map(|status| Write::status(Kind::Rollout, &world.rollout.metadata, status));
    Looked { governance, status }
}

fn holds_borrowed(world: &World, run: &RolloutRun) -> bool {
    world.replica_sets.iter().any(|set| is_borrowed(set) && is_owned_by(set, run))
}

/// What the counts say, as the engine takes it.
pub fn seen(fold: &Fold) -> Seen {
    let split = fold.split();
    let (idle, canary) = (split.idle_for(), split.silent());
    Seen {
        traffic: Traffic {
            seen: split.seen(),
            silent: canary.filter(|silent| !silent.is_answering()).map(|silent| silent_words(&silent)),
            still: canary
                .filter(Silent::is_answering)
                .map(|silent| still_words(&silent))
                .or_else(|| split.stable_silent().map(|silent| stable_silent_words(&silent))),
            canary_idle: idle.canary,
            stable_idle: idle.stable,
            blind: fold.blind().cloned(),
            mismatch: fold.mismatch(),
            lost: fold.lost(),
            queries: fold.queries().to_vec(),
            rate: fold.rate(),
        },
        judgements: fold.judge(),
        gates: Gates::new(),
    }
}

/// The canary's weight in percent, where the route splits requests one by one and by nothing else: then the pods' counts
/// must show it.
pub fn asked_percent(policy: &Policy, status: &RolloutRunStatus) -> Option<f64> {
    let Share { matching, mirror, .. } = status.weight.share();
    let by_weight = matching.is_none() && mirror.is_none() && policy.spec.sticky.is_none();
    let due = due_percent(policy, status);
    (by_weight && !policy.spec.routes.is_empty() && due > 0.0).then_some(due)
}

/// Percent of all counted requests that are due to the canary: its weight; of copies, which come on top, those of 20 %
/// make 20 of 120. None is where it has no traffic, or somebody else has changed the route.
pub fn due_percent(policy: &Policy, status: &RolloutRunStatus) -> f64 {
    let in_place = policy.spec.routes.is_empty() || status.confirmed == Some(status.weight.wanted);
    if status.phase != Some(Phase::Shifting) || !in_place {
        return 0.0;
    }
    let step = status.weight.mirror.and_then(|step| policy.spec.steps.get(usize::try_from(step).ok()?.checked_sub(1)?));
    let on_its_way = status
        .waiting
        .as_ref()
        .is_some_and(|waiting| matches!(waiting.reason, WaitingReason::Route | WaitingReason::Introduction));
    match step.and_then(|step| step.mirror.as_ref()).map(|mirror| f64::from(mirror.percent)) {
        // Written into a route, copies are made once its gateway has it.
        Some(_) if on_its_way => 0.0,
        Some(copied) => 100.0 * copied / (100.0 + copied),
        // What is set may be what was known last, and taken back since.
        None => f64::from(status.weight.set.min(status.weight.wanted)),
    }
}

fn stable_silent_words(silent: &Silent) -> String {
    format!(
        "of about {:.0} requests that were due to stable in {:.0} s it counted none, and the canary counts its own: are the \
         counters of stable's pods frozen, or does something send all requests to the canary?",
        silent.expected, silent.seconds
    )
}

fn still_words(silent: &Silent) -> String {
    format!(
        "of about {:.0} requests that were due to the canary in {:.0} s its pods counted none, and the gateway saw {} answered: \
         the counters of its pods stand still; look what serves their metrics",
        silent.expected, silent.seconds, silent.answered
    )
}

fn silent_words(silent: &Silent) -> String {
    let what = if silent.unreadable { "its metrics can't be read" } else { "it counted none" };
    format!(
        "the canary should have got about {:.0} requests in {:.0} s and {what}, while stable serves: it hangs or refuses connections",
        silent.expected, silent.seconds
    )
}

fn json(value: &impl Serialize) -> Value {
    // Our own types have string keys and finite numbers only.
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// What to write, if it is another. Compared as JSON, because a status that was read back equals what was written only
/// there.
fn changed<T: Serialize + PartialEq>(before: &T, after: &T) -> Option<Value> {
    if before == after {
        return None;
    }
    let after = json(after);
    (json(before) != after).then_some(after)
}
