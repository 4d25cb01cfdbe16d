//! One run, one look at the world, one decision.
//!
//! The stages are asked in a fixed order and the first that has something to say wins: retreat (abort, superseded, Bad),
//! then the phase's own: prepare and shift, promote, roll back. Each answers with a [`Move`]; [`settle`] turns it into
//! the status and the actions.

mod blame;
mod gates;
mod outlook;
mod promote;
mod retreat;
mod rollback;
mod shift;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod view;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Action, Decision, Note, Snapshot, reasons};
use crate::{
    api::{
        ArmRequests, BadPod, Decided, GateStatus, HarmStatus, Outcome, Phase, Policy, QueryStatus, RolloutRunSpec,
        RolloutRunStatus, Share, SloStatus, SplitStatus, Stage, Waiting, WaitingReason,
    },
    evidence::{Judgement, Mismatch, Suspect, Windowed, Windows},
};
use view::View;

/// This many foreign changes of route or pin ...
const CONTESTS: usize = 3;
/// ... within this many seconds are no accident.
const CONTEST_WINDOW: f64 = 300.0;
const DECISIONS_KEPT: usize = 20;
/// 20 gates before each of 50 steps are no use to anybody; what is dropped would be asked again.
const GATES_KEPT: usize = 100;
/// Facets of an SLO that are named in the status.
const FACETS_SHOWN: usize = 8;

/// What a stage wants: the next place of the run and what must be made so there.
#[derive(Clone, Debug)]
struct Move {
    phase: Phase,
    stage: Option<Stage>,
    step: u32,
    /// The callers that shall reach the canary.
    wanted: Share,
    waiting: Option<(WaitingReason, String)>,
    outcome: Option<(Outcome, &'static str)>,
    message: String,
    actions: Vec<Action>,
    notes: Vec<Note>,
    /// What is to be written down of gates.
    gates: Vec<GateStatus>,
    /// A canary pod that is found to be bad by itself.
    bad_pod: Option<BadPod>,
}

impl Move {
    /// Stay where the run is.
    fn stay(view: &View<'_>) -> Self {
        Self {
            phase: view.phase(),
            stage: view.before.stage,
            step: view.before.step,
            wanted: view.before.weight.share(),
            waiting: None,
            outcome: None,
            message: String::new(),
            actions: Vec::new(),
            notes: Vec::new(),
            gates: Vec::new(),
            bad_pod: None,
        }
    }
    fn gate(mut self, status: GateStatus) -> Self {
        self.gates.push(status);
        self
    }
    fn at_stage(mut self, stage: Stage) -> Self {
        self.stage = Some(stage);
        self
    }
    fn act(mut self, actions: impl IntoIterator<Item = Action>) -> Self {
        self.actions.extend(actions);
        self
    }
    fn wait(mut self, reason: WaitingReason, message: impl Into<String>) -> Self {
        self.waiting = Some((reason, message.into()));
        self
    }
    /// Wait for so many canary pods.
    fn wait_for_pods(self, view: &View<'_>, pods: i32) -> Self {
        let (reason, message) = view.short_of(pods);
        self.wait(reason, message)
    }
    fn note(mut self, warning: bool, reason: &'static str, message: impl Into<String>) -> Self {
        self.notes.push(Note { warning, reason, message: message.into() });
        self
    }
    fn say(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }
}

/// Decides what a run does next.
///
/// `ending` says that the Rollout or the run itself is being deleted: the traffic goes back and nothing is left.
pub fn decide(
    policy: &Policy,
    spec: &RolloutRunSpec,
    before: &RolloutRunStatus,
    snapshot: &Snapshot,
    ending: bool,
    now: Timestamp,
) -> Decision {
    let view = View { policy, spec, before, snapshot, ending, now };
    if view.phase().is_terminal() {
        return Decision { status: before.clone(), actions: Vec::new(), notes: Vec::new() };
    }
    let next = match (retreat::reason(&view), view.phase()) {
        (_, Phase::RollingBack) => rollback::next(&view),
        (Some(retreat), _) => rollback::start(&view, retreat),
        (None, Phase::Promoting) => promote::next(&view),
        (None, _) => shift::next(&view),
    };
    settle(&view, mended(&view, blame::replace(&view, next)))
}

/// What counts say of a run at a step whose weight is in force: see [`by_counts`].
#[derive(Clone, Debug, PartialEq)]
pub struct ByCounts {
    /// What it does.
    pub says: Says,
    /// The canary pod that is found to be bad by itself, and would be replaced.
    pub bad_pod: Option<BadPod>,
}

/// What a run does at a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Says {
    /// It takes the traffic back, for this.
    Back(String),
    /// It stays, for this.
    Waits(WaitingReason, String),
    /// It goes on to the next step, or to the promotion.
    GoesOn,
}

/// The part of [`decide`] that needs no cluster, for a past of which only counts are known: verdicts, harm, bakes and
/// limits. What objects and pods show, `snapshot` has to say as if all were in order; gates are the policy's.
pub fn by_counts(
    policy: &Policy,
    spec: &RolloutRunSpec,
    before: &RolloutRunStatus,
    snapshot: &Snapshot,
    now: Timestamp,
) -> ByCounts {
    let view = View { policy, spec, before, snapshot, ending: false, now };
    let next = match retreat::by_counts(&view) {
        Some(retreat) => rollback::start(&view, retreat),
        None => shift::bake(&view, Move::stay(&view), before.step),
    };
    let next = blame::replace(&view, next);
    let says = match (next.phase, next.waiting) {
        (Phase::RollingBack, _) => Says::Back(next.message),
        (_, Some((reason, message))) => Says::Waits(reason, message),
        (_, None) => Says::GoesOn,
    };
    ByCounts { says, bad_pod: next.bad_pod }
}

/// What others did to pins and pods is put right besides, last of all: nothing waits for it.
fn mended(view: &View<'_>, mut next: Move) -> Move {
    if !next.phase.is_terminal() {
        let mending = view.let_strays_go().into_iter().chain(view.keep_serving());
        let new: Vec<Action> = mending.filter(|action| !next.actions.contains(action)).collect();
        next.actions.extend(new);
    }
    next
}

/// Writes a move down: the status that says what is, and the actions that make it so.
fn settle(view: &View<'_>, next: Move) -> Decision {
    let before = view.before;
    let mut status = before.clone();
    let mut notes = next.notes;
    let now = Time(view.now);

    status.started_at = before.started_at.clone().or_else(|| Some(now.clone()));
    status.phase = Some(next.phase);
    if before.phase.is_none() {
        notes.insert(0, Note { warning: false, reason: reasons::RELEASE_STARTED, message: view.started_message() });
    }
    if next.phase.is_terminal() {
        status.finished_at = Some(now.clone());
    }
    if let Some((outcome, reason)) = next.outcome {
        status.outcome = Some(outcome);
        status.reason = Some(reason.to_owned());
    }
    if next.step != before.step {
        status.step = next.step;
        status.step_since = None;
        status.step_excused = 0.0;
    }
    if next.stage != before.stage {
        status.stage = next.stage;
        status.stage_since = next.stage.map(|_| now.clone());
    }
    status.weight.set = view.set_weight();
    status.weight.ask(next.wanted);
    status.weight.seen = view.snapshot.traffic.seen.map(|percent| (percent * 10.0).round() / 10.0);
    let of_step = view.step_share(next.step);
    if next.phase == Phase::Shifting && view.in_force(next.wanted, next.step) && next.wanted == of_step {
        status.step_since = status.step_since.or_else(|| Some(now.clone()));
    } else if next.phase == Phase::Shifting && next.wanted != of_step {
        // The weight was taken back, all pods lost say: what was baked until then does not count.
        status.step_since = None;
    }
    status.slos = view.snapshot.judgements.iter().map(slo_status).collect();
    if status.slos.is_empty() {
        status.slos.clone_from(&before.slos);
    }
    status.queries = view.snapshot.traffic.queries.iter().map(query_status).collect();
    status.bad_pod = before.bad_pod.clone().or(next.bad_pod);
    status.split = view.snapshot.traffic.mismatch.as_ref().filter(|_| next.phase == Phase::Shifting).map(split_status);
    notes.extend(mixed_traffic_note(view, &status));
    if let Some(stable) = &view.snapshot.stable {
        status.stable_restarts = before.stable_restarts.or(Some(stable.restarts));
    }

    notes.extend(record_contests(view, &mut status));
    let route_wanted = view.route_wanted(&status);
    status.confirmed = (view.routed() && view.shows(route_wanted)).then_some(route_wanted.weight);
    status.pinned = view.pin_wanted(&status).filter(|hash| view.pinned_to(hash));

    for said in next.gates {
        status.gates.retain(|known| known.gate != said.gate);
        status.gates.push(said);
    }
    let extra = status.gates.len().saturating_sub(GATES_KEPT);
    status.gates.drain(..extra);

    excuse_people(view, &mut status, next.waiting.as_ref().map(|(reason, _)| *reason));
    status.waiting = next.waiting.map(|(reason, message)| {
        let since = match &before.waiting {
            Some(waiting) if waiting.reason == reason => waiting.since.clone(),
            _ => now.clone(),
        };
        Waiting { reason, message, since }
    });
    notes.extend(holding_note(before, &status));
    status.message = Some(if next.message.is_empty() { summary(&status, view) } else { next.message });
    status.decisions.extend(notes.iter().map(|note| Decided {
        time: now.clone(),
        what: note.reason.to_owned(),
        why: note.message.clone(),
    }));
    let extra = status.decisions.len().saturating_sub(DECISIONS_KEPT);
    status.decisions.drain(..extra);
    Decision { status, actions: next.actions, notes }
}

/// Told once: stable's pods count requests that the route did not send them. Not where the canary's pods don't count what it
/// did send them: then that is why.
fn mixed_traffic_note(view: &View<'_>, status: &RolloutRunStatus) -> Option<Note> {
    let is_less = |split: &SplitStatus| split.got < split.asked;
    let split = status.split.as_ref().filter(|split| is_less(split))?;
    if view.snapshot.traffic.lost.is_some() || view.snapshot.traffic.still.is_some() {
        return None;
    }
    let told = view.before.decisions.iter().any(|decided| decided.what == reasons::MIXED_TRAFFIC);
    (!told).then(|| Note {
        warning: false,
        reason: reasons::MIXED_TRAFFIC,
        message: format!(
            "the route gives the canary {:.1} % of the requests, but of the {} that were counted it had {:.1} %: other \
             callers reach stable without the route, so the versions serve different mixes; leave those requests out with \
             telemetry.requests.only if they differ",
            split.asked, split.requests, split.got
        ),
    })
}

/// Time spent waiting for people does not count for stepTimeout.
fn excuse_people(view: &View<'_>, status: &mut RolloutRunStatus, next: Option<WaitingReason>) {
    let people = |reason| matches!(reason, WaitingReason::Approval | WaitingReason::Paused);
    if let Some(waiting) = &view.before.waiting
        && people(waiting.reason)
        && next != Some(waiting.reason)
        && status.step == view.before.step
    {
        status.step_excused += view.seconds_since(&waiting.since);
    }
}

/// Route or pin were as wanted before and are not now: somebody else changed them.
fn record_contests(view: &View<'_>, status: &mut RolloutRunStatus) -> Vec<Note> {
    status.contested.retain(|time| view.seconds_since(time) < CONTEST_WINDOW);
    let mut notes = Vec::new();
    for what in view.fights() {
        if status.contested.len() < 20 {
            status.contested.push(Time(view.now));
        }
        // It holds already, and puts nothing back.
        if view.is_contested() {
            continue;
        }
        notes.push(Note {
            warning: true,
            reason: reasons::REPAIRED,
            message: format!(
                "{what}; putting it back ({} of {CONTESTS} within 5 minutes before the run holds)",
                status.contested.len()
            ),
        });
    }
    notes
}

/// Holds that a person should hear of are told once, when they begin and when they end.
fn holding_note(before: &RolloutRunStatus, status: &RolloutRunStatus) -> Option<Note> {
    let loud = |reason| {
        use WaitingReason::{
            Approval, Blocked, FewRequests, Gate, NoData, Paused, Quota, RequestsLost, RouteContested, SharedFault,
            SilentArm, SplitMismatch, StaleData, StepTimeout, Suspicion,
        };
        matches!(
            reason,
            Approval
                | Gate
                | Blocked
                | FewRequests
                | NoData
                | StaleData
                | SilentArm
                | Paused
                | Quota
                | RequestsLost
                | RouteContested
                | SharedFault
                | SplitMismatch
                | StepTimeout
                | Suspicion
        )
    };
    let was = before.waiting.as_ref().map(|waiting| waiting.reason).filter(|reason| loud(*reason));
    let is = status.waiting.as_ref().filter(|waiting| loud(waiting.reason));
    match (was, is) {
        (was, Some(waiting)) if was != Some(waiting.reason) => Some(Note {
            warning: !matches!(
                waiting.reason,
                WaitingReason::Approval | WaitingReason::Paused | WaitingReason::FewRequests | WaitingReason::Gate
            ),
            reason: match waiting.reason {
                WaitingReason::RouteContested => reasons::ROUTE_CONTESTED,
                WaitingReason::StepTimeout => reasons::STEP_TIMEOUT,
                WaitingReason::SplitMismatch => reasons::SPLIT_MISMATCH,
                WaitingReason::RequestsLost => reasons::REQUESTS_LOST,
                _ => reasons::HOLDING,
            },
            message: match waiting.reason {
                WaitingReason::RouteContested
                | WaitingReason::StepTimeout
                | WaitingReason::SplitMismatch
                | WaitingReason::RequestsLost => waiting.message.clone(),
                reason => format!("{reason:?}: {}", waiting.message),
            },
        }),
        (Some(was), None) if status.phase == before.phase => {
            Some(Note { warning: false, reason: reasons::RESUMED, message: format!("{was:?} is over") })
        }
        _ => None,
    }
}

/// The run in one sentence.
fn summary(status: &RolloutRunStatus, view: &View<'_>) -> String {
    match (&status.waiting, status.phase) {
        (Some(waiting), _) => waiting.message.clone(),
        (None, Some(Phase::Shifting)) => format!("at {} % of the requests", status.weight.set),
        (None, Some(Phase::Preparing)) => "making the canary".to_owned(),
        (None, Some(Phase::Promoting)) => format!("promoting: {}", view::stage_words(status.stage)),
        (None, Some(Phase::RollingBack)) => format!("rolling back: {}", view::stage_words(status.stage)),
        _ => view.before.message.clone().unwrap_or_default(),
    }
}

fn slo_status(judgement: &Judgement) -> SloStatus {
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    let worse = judgement.facets.iter().filter(|facet| facet.worse).map(|facet| facet.name.clone());
    SloStatus {
        name: judgement.name.clone(),
        verdict: format!("{:?}", judgement.verdict),
        evidence: round(judgement.evidence),
        threshold: round(judgement.threshold),
        canary: ArmRequests { requests: judgement.canary.total, bad: judgement.canary.bad },
        stable: ArmRequests { requests: judgement.stable.total, bad: judgement.stable.bad },
        harm: HarmStatus {
            failed: judgement.harm.failed.round(),
            low: judgement.harm.low.round(),
            high: judgement.harm.high.round(),
        },
        worse: worse.take(FACETS_SHOWN).collect(),
        suspect: judgement.suspect.as_ref().map(|suspect| match suspect {
            Suspect::Version => "Version".to_owned(),
            Suspect::Pod(uid) => format!("Pod {uid}"),
            Suspect::Unclear => "Unclear".to_owned(),
        }),
    }
}

/// What a query answered, as it is shown.
pub fn query_status(query: &Windows) -> QueryStatus {
    let percent = |share: f64| (share * 1e4).round() / 100.0;
    let [canary, stable] = query.shares().map(|share| share.map(percent));
    let verdict = match query.judge() {
        Windowed::Good => "Good",
        Windowed::Bad => "Bad",
        Windowed::Over(_) => "Over",
        Windowed::Pending => "Pending",
        Windowed::SharedFault => "SharedFault",
        Windowed::NoData(_) => "NoData",
    };
    QueryStatus { name: query.rule().name.clone(), verdict: verdict.to_owned(), canary, stable }
}

fn split_status(mismatch: &Mismatch) -> SplitStatus {
    let round = |percent: f64| (percent * 10.0).round() / 10.0;
    SplitStatus { asked: round(mismatch.asked), got: round(mismatch.got), requests: mismatch.requests }
}
