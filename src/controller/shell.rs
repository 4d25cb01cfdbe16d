//! The reconcile loop: one look at a Rollout.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::{
    Resource, ResourceExt,
    runtime::{
        controller::Action as Next,
        events::{Event, EventType, Recorder},
    },
};
use serde::Serialize;
use serde_json::Value;

use super::{
    caches::{Caches, Namespace},
    metrics::Metrics,
    observe::{Seen, governed_workload, is_borrowed, observe, troubles},
    plan::{PlanError, plan},
    send::{SendError, Sender},
    sensor::{Sensor, SensorError, port_of},
    world::{Kind, World, Write, phase_of},
};
use crate::{
    api::{Policy, Rollout, RolloutRun, RolloutRunStatus, names, validate},
    engine::{self, Action, Governed, LastRun, Latch, Note, reasons},
    telemetry::Scraper,
    workload::owner_of,
};

/// While a run is under way it is looked at this often at least.
const TICK: Duration = Duration::from_millis(500);
/// The caches are about to show what we wrote.
const CATCH_UP: Duration = Duration::from_millis(15);
/// Something changed between our look and our write.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const SAVE_LEDGER: Duration = Duration::from_secs(10);

/// What every look needs.
pub(super) struct Shell {
    pub caches: Caches,
    pub sender: Sender,
    pub scraper: Arc<Scraper>,
    pub recorder: Recorder,
    pub metrics: Arc<Metrics>,
    pub latch: Latch,
    pub sensors: Mutex<HashMap<String, Watched>>,
    pub trigger: super::caches::Triggers,
}

/// A run's eyes, and when its ledger was saved.
pub(super) struct Watched {
    sensor: Sensor,
    saved: Instant,
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
        if !namespace.ready(!rollout.spec.routes.is_empty()).await {
            tracing::warn!(namespace = namespace_name, "the caches are not filled yet (is the Gateway API installed, may we watch?)");
            return Ok(Next::requeue(Duration::from_secs(1)));
        }
        if !namespace.caught_up(&name) {
            return Ok(Next::requeue(CATCH_UP));
        }
        let Some(world) = namespace.world(&name) else {
            self.forget(rollout);
            return Ok(Next::await_change());
        };
        let look = Look { shell: self, namespace: &namespace, world: &world, now: Timestamp::now() };
        let mut status = None;
        let active = world.active().is_some();
        if let Some(run) = world.active() {
            status = look.run(run).await?;
        }
        for run in world.runs.iter().filter(|run| phase_of(run).is_terminal()) {
            look.close(run).await?;
        }
        look.govern(status.as_ref()).await?;
        Ok(if active { Next::requeue(TICK) } else { Next::await_change() })
    }

    fn forget(&self, rollout: &Rollout) {
        let namespace = rollout.namespace().unwrap_or_default();
        let slos: Vec<String> = rollout.spec.slos.iter().map(|slo| slo.name.clone()).collect();
        self.metrics.forget(&namespace, &rollout.name_any(), &slos);
        self.caches.leave(&namespace);
    }

    /// Tells people, without waiting for it.
    fn tell(self: &Arc<Self>, rollout: &Rollout, notes: &[Note]) {
        for note in notes {
            tracing::info!(namespace = rollout.namespace().unwrap_or_default(), rollout = rollout.name_any(), reason = note.reason, "{}", note.message);
            let event = Event {
                type_: if note.warning { EventType::Warning } else { EventType::Normal },
                reason: note.reason.to_owned(),
                note: Some(note.message.chars().take(1000).collect()),
                action: note.reason.to_owned(),
                secondary: None,
            };
            let (shell, about) = (Arc::clone(self), rollout.object_ref(&()));
            if !self.sender.leading.is_leading() {
                continue;
            }
            tokio::spawn(async move {
                let published = tokio::time::timeout(Duration::from_secs(5), shell.recorder.publish(&event, &about));
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
            for write in plan(action, self.world, run, self.now)? {
                self.send(&write).await?;
            }
        }
        Ok(())
    }

    /// Moves the run under way. Returns its status as it is now.
    async fn run(&self, run: &RolloutRun) -> Result<Option<RolloutRunStatus>, LookError> {
        let before = run.status.clone().unwrap_or_default();
        let policy = match validate(&run.spec.policy) {
            Ok(policy) => policy,
            Err(invalid) => {
                tracing::error!(run = run.name_any(), %invalid, "the run's own copy of the policy can't be run");
                return Ok(Some(before));
            }
        };
        let (seen, ledger) = self.look_through(run, &policy)?;
        let snapshot = observe(self.world, run, &seen);
        let ending = self.world.rollout.metadata.deletion_timestamp.is_some() || run.metadata.deletion_timestamp.is_some();
        let mut decision = engine::decide(&policy, &run.spec, &before, &snapshot, ending, self.now);
        if let Some(ledger) = ledger {
            decision.status.ledger = Some(ledger);
        }
        if decision.status.phase.unwrap_or_default().is_terminal() {
            decision.status.ledger = None;
            self.shell.sensors.lock().unwrap_or_else(PoisonError::into_inner).remove(&run.uid().unwrap_or_default());
        }
        self.shell.metrics.run(run, &decision.status);
        let written = match differs(&before, &decision.status) {
            true => self.send(&Write::status(Kind::RolloutRun, &run.metadata, json(&decision.status))).await,
            false => Ok(()),
        };
        if let Err(error) = written {
            // The traffic goes back even when the status can't be written.
            let retreat: Vec<Action> = decision.actions.into_iter().filter(Action::is_retreat).collect();
            self.apply(&retreat, Some(run)).await?;
            return Err(error);
        }
        self.shell.tell(&self.world.rollout, &decision.notes);
        self.apply(&decision.actions, Some(run)).await?;
        Ok(Some(decision.status))
    }

    /// What the run's sensor has seen, and its ledger if it is time to save it.
    fn look_through(&self, run: &RolloutRun, policy: &Policy) -> Result<(Seen, Option<String>), LookError> {
        let mut sensors = self.shell.sensors.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = run.uid().unwrap_or_default();
        if !sensors.contains_key(&uid) {
            let template = self.world.deployment.as_ref().map(|deployment| &deployment.spec.template);
            let Some(port) = template.and_then(|template| port_of(template, policy)) else { return Ok((Seen::default(), None)) };
            let (trigger, about) = (self.shell.trigger.clone(), kube::runtime::reflector::ObjectRef::from_obj(&self.world.rollout));
            let sensor = Sensor::start(run, policy, port, Arc::clone(self.namespace), Arc::clone(&self.shell.scraper), move || {
                // The receiver is gone only when the controller ends.
                let _ = trigger.send(about.clone());
            })?;
            sensors.insert(uid.clone(), Watched { sensor, saved: Instant::now() });
        }
        let Some(watched) = sensors.get_mut(&uid) else { return Ok((Seen::default(), None)) };
        let ledger = match watched.saved.elapsed() >= SAVE_LEDGER {
            true => {
                watched.saved = Instant::now();
                watched.sensor.ledger()
            }
            false => None,
        };
        Ok((watched.sensor.seen(), ledger))
    }

    /// A finished run holds nothing any more.
    async fn close(&self, run: &RolloutRun) -> Result<(), LookError> {
        let held = run.metadata.finalizers.iter().flatten().any(|name| name == names::FINALIZER);
        match held {
            true => self.apply(&[Action::RemoveFinalizer], Some(run)).await,
            false => Ok(()),
        }
    }

    /// Looks after the workload and writes the Rollout's status.
    async fn govern(&self, run_status: Option<&RolloutRunStatus>) -> Result<(), LookError> {
        let world = self.world;
        let workload = governed_workload(world);
        let invalid = validate(&world.rollout.spec).err();
        let troubles = troubles(world, None);
        let last = world.last();
        let default = RolloutRunStatus::default();
        let finished: Vec<String> = match last {
            Some(last) => world.runs.iter().filter(|run| run.name_any() != last.name_any() && phase_of(run).is_terminal()).map(ResourceExt::name_any).collect(),
            None => Vec::new(),
        };
        let name = last.map(ResourceExt::name_any).unwrap_or_default();
        let is_active = world.active().is_some();
        let governed = Governed {
            rollout: &world.rollout,
            invalid: invalid.as_ref(),
            latch: self.shell.latch,
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
            }),
            finished: &finished,
        };
        let governance = engine::govern(&governed, self.now);
        let before = world.rollout.status.clone().unwrap_or_default();
        if differs(&before, &governance.status) {
            self.send(&Write::status(Kind::Rollout, &world.rollout.metadata, json(&governance.status))).await?;
        }
        self.shell.tell(&world.rollout, &governance.notes);
        self.apply(&governance.actions, None).await
    }
}

fn holds_borrowed(world: &World, run: &RolloutRun) -> bool {
    world.replica_sets.iter().any(|set| {
        is_borrowed(set) && owner_of(set).is_some_and(|(_, uid)| Some(uid) == run.metadata.uid.as_deref())
    })
}

fn json(value: &impl Serialize) -> Value {
    // Our own types have string keys and finite numbers only.
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// As JSON, because a status that was read back equals what was written only there.
fn differs(before: &impl Serialize, after: &impl Serialize) -> bool {
    json(before) != json(after)
}
