//! The reconcile loop: one look at a Rollout.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::{
    Resource, ResourceExt,
    runtime::{
        controller::Action as Next,
        events::{Event, EventType, Recorder, Reporter},
    },
};

use super::{
    caches::{Caches, Namespace},
    gatekeeper::Gatekeeper,
    keeper,
    look::{Looked, Moved, look_after, move_run, to_close},
    metrics::Metrics,
    observe::Seen,
    plan::{PlanError, plan},
    reader::Sources,
    send::{SendError, Sender},
    sensor::{Sensor, SensorError},
    world::{World, Write},
};
use crate::{
    api::{Policy, Rollout, RolloutRun, RolloutRunStatus, validate},
    engine::{Action, Latch, Note, reasons},
};

/// While a run is under way it is looked at this often at least.
const TICK: Duration = Duration::from_millis(500);
/// The caches are about to show what we wrote.
const CATCH_UP: Duration = Duration::from_millis(15);
/// Something changed between our look and our write, or has not come yet.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Counts and evidence are written this often.
const FIGURES: Duration = Duration::from_secs(2);
const SAVE_LEDGER: Duration = Duration::from_secs(10);

/// What every look needs.
pub(super) struct Shell {
    pub caches: Caches,
    pub sender: Sender,
    pub sources: Arc<Sources>,
    pub gatekeeper: Arc<Gatekeeper>,
    /// For what may repeat; see `tell`.
    pub recorder: Recorder,
    pub reporter: Reporter,
    pub metrics: Arc<Metrics>,
    pub latch: Latch,
    pub sensors: Mutex<HashMap<String, Watched>>,
    pub trigger: super::caches::Triggers,
}

/// A run's eyes, whose record they write, when its ledger was saved, and when its figures were written.
pub(super) struct Watched {
    figures: Instant,
    sensor: Sensor,
    about: keeper::About,
    saved: Instant,
}

/// It is time again; if so, the next time is counted from now.
fn is_due(last: &mut Instant, rhythm: Duration) -> bool {
    let due = last.elapsed() >= rhythm;
    if due {
        *last = Instant::now();
    }
    due
}

/// A look that ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    #[error(transparent)]
    Send(#[from] SendError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Sensor(#[from] SensorError),
}

impl LookError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Send(error) if error.is_conflict())
    }
}

/// One look at a Rollout, as the controller calls it.
pub(super) async fn reconcile(rollout: Arc<Rollout>, shell: Arc<Shell>) -> Result<Next, LookError> {
    let began = Instant::now();
    let result = shell.look(&rollout).await;
    let failed = result.as_ref().is_err_and(|error| !error.is_conflict());
    shell.metrics.reconciled(began.elapsed(), failed);
    match result {
        Err(error) if error.is_conflict() => {
            tracing::info!(namespace = rollout.namespace().unwrap_or_default(), rollout = rollout.name_any(), %error, "looking again");
            Ok(Next::requeue(LOOK_AGAIN))
        }
        other => other,
    }
}

/// What to do after an error: said, and tried again soon.
pub(super) fn failed(rollout: Arc<Rollout>, error: &LookError, shell: Arc<Shell>) -> Next {
    tracing::warn!(namespace = rollout.namespace().unwrap_or_default(), rollout = rollout.name_any(), %error, "a look failed");
    let note = Note { warning: true, reason: reasons::ACTION_FAILED, message: error.to_string() };
    shell.tell(&rollout, &[note]);
    Next::requeue(Duration::from_secs(1))
}

impl Shell {
    async fn look(self: &Arc<Self>, rollout: &Rollout) -> Result<Next, LookError> {
        let (namespace_name, name) = (rollout.namespace().unwrap_or_default(), rollout.name_any());
        let namespace = self.caches.namespace(&namespace_name);
        if !namespace.ready(&rollout.spec).await {
            tracing::warn!(
                namespace = namespace_name,
                "the caches are not filled yet (is the Gateway API installed, may we watch?)"
            );
            return Ok(Next::requeue(Duration::from_secs(1)));
        }
        if !namespace.caught_up(&name) {
            return Ok(Next::requeue(CATCH_UP));
        }
        let Some(world) = namespace.world(&name) else {
            // Gone, or new and not shown by this cache yet: two watches have seen different things. The controller looks
            // again as long as its own one shows it.
            let slos: Vec<String> = rollout.spec.slos.iter().map(|slo| slo.name.clone()).collect();
            self.metrics.forget(&namespace_name, &name, &slos);
            return Ok(Next::requeue(LOOK_AGAIN));
        };
        let look = Look { shell: self, namespace: &namespace, world: &world, now: Timestamp::now() };
        let status = match world.active() {
            Some(run) => Some(look.run(run).await?),
            None => None,
        };
        for (run, action) in to_close(&world) {
            look.apply(&[action], Some(run)).await?;
        }
        look.govern(status.as_ref()).await?;
        Ok(match status {
            Some(_) => Next::requeue(TICK),
            None if self.caches.are_of(&namespace_name, &namespace) => Next::await_change(),
            None => Next::requeue(CATCH_UP),
        })
    }

    fn sensors(&self) -> MutexGuard<'_, HashMap<String, Watched>> {
        self.sensors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells people, without waiting for it.
    fn tell(self: &Arc<Self>, rollout: &Rollout, notes: &[Note]) {
        for note in notes {
            tracing::info!(
                namespace = rollout.namespace().unwrap_or_default(),
                rollout = rollout.name_any(),
                reason = note.reason,
                "{}",
                note.message
            );
            let event = Event {
                type_: if note.warning { EventType::Warning } else { EventType::Normal },
                reason: note.reason.to_owned(),
                note: Some(note.message.chars().take(1000).collect()),
                action: note.reason.to_owned(),
                secondary: None,
            };
            let about = rollout.object_ref(&());
            if !self.sender.leading.is_leading() {
                continue;
            }
            // A Recorder counts events of one reason and keeps the first one's words: right for failures that repeat.
            // All else is said once and has words of its own, such as each step's.
            let recorder = match note.reason {
                reasons::ACTION_FAILED => self.recorder.clone(),
                _ => Recorder::new(self.sender.client.clone(), self.reporter.clone()),
            };
            tokio::spawn(async move {
                let published = tokio::time::timeout(Duration::from_secs(5), recorder.publish(&event, &about));
                if !matches!(published.await, Ok(Ok(()))) {
                    tracing::warn!(reason = event.reason, "could not publish an event");
                }
            });
        }
    }
}

/// One look: the world as it is now.
struct Look<'a> {
    shell: &'a Arc<Shell>,
    namespace: &'a Arc<Namespace>,
    world: &'a World,
    now: Timestamp,
}

impl Look<'_> {
    fn rollout(&self) -> String {
        self.world.rollout.name_any()
    }

    async fn send(&self, write: &Write) -> Result<(), LookError> {
        let namespace = self.world.rollout.namespace().unwrap_or_default();
        let pending = self.shell.sender.send(&namespace, write).await?;
        self.namespace.wrote(&self.rollout(), pending);
        Ok(())
    }

    /// In order, stopping at the first failure.
    async fn apply(&self, actions: &[Action], run: Option<&RolloutRun>) -> Result<(), LookError> {
        for action in actions {
            if let (Action::AskGate { gate, attempt }, Some(run)) = (action, run) {
                self.ask(run, gate, *attempt);
            }
            for write in plan(action, self.world, run, self.now)? {
                self.send(&write).await?;
            }
        }
        Ok(())
    }

    fn ask(&self, run: &RolloutRun, gate: &str, attempt: u32) {
        let Ok(policy) = validate(&run.spec.policy) else { return };
        self.shell.gatekeeper.ask(run, &policy, gate, attempt, self.trigger());
    }

    /// Has the Rollout looked at again.
    fn trigger(&self) -> impl Fn() + Send + Sync + 'static {
        let trigger = self.shell.trigger.clone();
        let about = kube::runtime::reflector::ObjectRef::from_obj(&self.world.rollout);
        // The receiver is gone only when the controller ends.
        move || drop(trigger.send(about.clone()))
    }

    /// Moves the run under way. Returns its status as it is now.
    async fn run(&self, run: &RolloutRun) -> Result<RolloutRunStatus, LookError> {
        let before = run.status.clone().unwrap_or_default();
        let policy = match validate(&run.spec.policy) {
            Ok(policy) => policy,
            Err(invalid) => {
                tracing::error!(run = run.name_any(), %invalid, "the run's own copy of the policy can't be run");
                return Ok(before);
            }
        };
        let (mut seen, ticks, ledger) = self.look_through(run, &policy)?;
        let saves = ledger.is_some();
        seen.gates = self.shell.gatekeeper.answers(&run.uid().unwrap_or_default());
        let moved = move_run(&policy, self.world, run, &seen, ledger, self.figures_due(run), self.now);
        let ended = moved.decision.status.phase.unwrap_or_default().is_terminal();
        self.record(run, &moved, ticks, saves || ended);
        if ended {
            self.shell.sensors().remove(&run.uid().unwrap_or_default());
            self.shell.gatekeeper.forget(&run.uid().unwrap_or_default());
        }
        self.shell.metrics.run(run, &moved.decision.status);
        let written = match &moved.status {
            Some(status) => self.send(status).await,
            None => Ok(()),
        };
        if let Err(error) = written {
            // After a conflict the run is not what this was decided by: it may be beyond the way back.
            if !error.is_conflict() {
                self.apply(&moved.retreat(), Some(run)).await?;
            }
            return Err(error);
        }
        let was_written = moved.status.is_some();
        let decision = moved.decision;
        self.shell.tell(&self.world.rollout, &decision.notes);
        self.apply(&decision.actions, Some(run)).await?;
        Ok(if was_written { decision.status } else { before })
    }

    /// Figures that nobody waits for are written at a slow rhythm.
    fn figures_due(&self, run: &RolloutRun) -> bool {
        let mut sensors = self.shell.sensors();
        let watched = sensors.get_mut(&run.uid().unwrap_or_default());
        watched.is_none_or(|watched| is_due(&mut watched.figures, FIGURES))
    }

    /// Takes the decision down, and saves the record if it is time to.
    fn record(&self, run: &RolloutRun, moved: &Moved, ticks: u64, saves: bool) {
        let mut sensors = self.shell.sensors();
        let Some(watched) = sensors.get_mut(&run.uid().unwrap_or_default()) else { return };
        watched.sensor.record(run, moved, ticks, self.now);
        if saves {
            keeper::save(self.shell, &watched.about, watched.sensor.parts());
        }
    }

    /// What the run's sensor has seen and the ticks that rests on, and its ledger if it is time to save it.
    fn look_through(&self, run: &RolloutRun, policy: &Policy) -> Result<(Seen, u64, Option<String>), LookError> {
        let mut sensors = self.shell.sensors();
        let uid = run.uid().unwrap_or_default();
        if !sensors.contains_key(&uid) {
            let template = self.world.deployment.as_ref().map(|deployment| &deployment.spec.template);
            let reader = template.and_then(|template| self.shell.sources.reader(run, policy, template, self.namespace));
            let Some(reader) = reader else { return Ok((Seen::default(), 0, None)) };
            let sensor = Sensor::start(run, policy, reader, Arc::clone(self.namespace), self.trigger())?;
            let about = keeper::About::of(run, self.now);
            sensors.insert(uid.clone(), Watched { sensor, about, saved: Instant::now(), figures: Instant::now() });
        }
        let Some(watched) = sensors.get_mut(&uid) else { return Ok((Seen::default(), 0, None)) };
        let ledger = is_due(&mut watched.saved, SAVE_LEDGER).then(|| watched.sensor.ledger()).flatten();
        let (seen, ticks) = watched.sensor.seen();
        Ok((seen, ticks, ledger))
    }

    /// Looks after the workload and writes the Rollout's status.
    async fn govern(&self, run_status: Option<&RolloutRunStatus>) -> Result<(), LookError> {
        let Looked { governance, status } = look_after(self.world, self.shell.latch, run_status, self.now);
        if let Some(status) = &status {
            self.send(status).await?;
        }
        self.shell.tell(&self.world.rollout, &governance.notes);
        self.apply(&governance.actions, None).await
    }
}
