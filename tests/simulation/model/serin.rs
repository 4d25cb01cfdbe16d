//! The controller under test: production's `observe`, `decide`, `govern` and `plan`, with a model of its shell: watch
//! caches that lag, writes that fail, memory that can be lost.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serin::{
    api::{ConfigKind, Policy, Rollout, RolloutRun, RolloutRunStatus, SloKind, validate},
    controller::{
        Moved, Seen, Verb, World, Write, asked_percent, due_percent, look_after, move_run, plan, seen, thousandths,
        to_close, watches,
    },
    engine::{Action, GateAnswer, Gates, Latch, Note},
    evidence::{Count, Fold, PodTick, Tick},
    workload::{ConfigMap, ConfigObject, Stamp},
};

use super::{
    cluster::{Nature, nature_of},
    prng::Prng,
    sabotage::Sabotage,
    server::{KINDS, Kind, Object, Refusal, Server},
    traffic::Meters,
};

/// As production has them.
const TICK: i64 = 500;
const SAVE_LEDGER: i64 = 10_000;
const SCRAPE: i64 = 1_000;
const FIGURES: i64 = 2_000;

struct Cache {
    position: usize,
    objects: BTreeMap<String, Rc<Object>>,
    /// Something changed since `Serin::refresh`.
    fresh: bool,
    /// Shows nothing new for so long.
    stalled: i64,
}

/// Saved in the run's status, as production does it.
#[derive(Serialize, Deserialize)]
struct Ledger {
    fold: Fold,
    read: Meters,
}

struct Sensor {
    policy: Policy,
    ledger: Ledger,
    saved: i64,
    figures: i64,
    /// As the last reading has it.
    seen: Seen,
}

enum Step {
    /// If it fails, only the retreat is done.
    Status(Write, Vec<Write>),
    Write(Write),
    /// An action that can't be planned ends the look.
    Fail(String),
}

/// How a write ended, as far as the controller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Luck {
    Fine,
    /// Not done, and it knows.
    Failed,
    /// Done, and it does not know.
    Lost,
    CrashBefore,
    CrashAfter,
}

/// A look's decision, for the golden traces.
#[derive(Clone, Debug)]
pub struct Told {
    pub at: i64,
    pub run: Option<RolloutRunStatus>,
    pub actions: Vec<Action>,
    pub notes: Vec<Note>,
}

pub struct Serin {
    pub name: String,
    caches: BTreeMap<Kind, Cache>,
    /// What the caches show, kept until they show something else.
    world: Option<World>,
    /// Writes that the caches have not shown yet: version (0: a delete) and until when they are waited for.
    pending: Vec<(Kind, String, u64, i64)>,
    sensors: BTreeMap<String, Sensor>,
    /// Gates that were asked, by run, and when they answer. Forgotten with all else in a crash.
    asked: BTreeMap<(String, String, u32), i64>,
    steps: VecDeque<Step>,
    /// When the look under way began.
    pub began: i64,
    due: i64,
    not_before: i64,
    next_scrape: i64,
    changed: bool,
    latch: Latch,
    /// Broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// Its decisions are kept in `told`.
    pub tells: bool,
    pub told: Vec<Told>,
    looks: u64,
    /// Decisions that differed when asked twice.
    pub undecided: bool,
}

/// Of the copy that the canary's pods read.
fn has_good_data(world: &World, run: &RolloutRun) -> bool {
    let stamp = world.set(&run.spec.to.hash).and_then(|set| Stamp::read(&set.spec.template));
    let copy = stamp.and_then(|stamp| world.configuration.iter().find(|it| it.copy_for() == Some(&stamp.digest)));
    copy.is_none_or(|copy| serde_json::json!(copy.data)["fault"] == "good")
}

/// A write that was made, for the checks.
pub struct Sent {
    pub write: Write,
    pub answer: Result<u64, Refusal>,
    pub luck: Luck,
    pub began: i64,
}

impl Serin {
    /// Starts with what the API server has now, and without memory.
    pub fn start(name: &str, server: &Server) -> Self {
        let cache = |kind: Kind| Cache {
            position: server.log.len(),
            objects: server.list(kind).map(|object| (object.name().to_owned(), Rc::clone(object))).collect(),
            fresh: true,
            stalled: 0,
        };
        Self {
            name: name.to_owned(),
            caches: KINDS.into_iter().map(|kind| (kind, cache(kind))).collect(),
            world: None,
            pending: Vec::new(),
            sensors: BTreeMap::new(),
            asked: BTreeMap::new(),
            steps: VecDeque::new(),
            began: server.now,
            due: server.now,
            not_before: server.now,
            next_scrape: server.now,
            changed: true,
            latch: server.latch,
            sabotage: None,
            tells: false,
            told: Vec::new(),
            looks: 0,
            undecided: false,
        }
    }

    /// The write that it is about to send.
    pub fn in_flight(&mut self) -> Option<Write> {
        match self.steps.pop_front()? {
            Step::Status(write, _) | Step::Write(write) => Some(write),
            Step::Fail(_) => None,
        }
    }

    /// Watches deliver; each kind has its own stream, in order.
    pub fn watch(&mut self, server: &Server, chance: &mut Prng, passed: i64, lag: bool) {
        for (kind, cache) in &mut self.caches {
            cache.stalled -= passed;
            if cache.stalled > 0 {
                continue;
            }
            if lag && cache.position < server.log.len() && chance.chance(0.04) {
                cache.stalled = chance.between(200, 3_000) as i64;
                continue;
            }
            for event in &server.log[cache.position..] {
                if event.kind != *kind {
                    continue;
                }
                self.changed = true;
                cache.fresh = true;
                match &event.object {
                    Some(object) => cache.objects.insert(event.name.clone(), Rc::clone(object)),
                    None => cache.objects.remove(&event.name),
                };
            }
            cache.position = server.log.len();
        }
    }

    /// Its cache of this kind shows nothing new for so many milliseconds.
    pub fn stall(&mut self, kind: Kind, millis: i64) {
        if let Some(cache) = self.caches.get_mut(&kind) {
            cache.stalled = millis;
        }
    }

    fn caught_up(&mut self, now: i64) -> bool {
        let caches = &self.caches;
        self.pending.retain(|(kind, name, version, until)| {
            let is = caches[kind].objects.get(name);
            let arrived = match version {
                0 => is.is_none_or(|object| object.is_going()),
                wrote => is.is_some_and(|object| object.version >= *wrote),
            };
            now < *until && !arrived
        });
        self.pending.is_empty()
    }

    /// The objects of this kind, if there is something new.
    fn news<T: DeserializeOwned + Clone + 'static>(&mut self, kind: Kind, all: bool) -> Option<Vec<T>> {
        let cache = self.caches.get_mut(&kind).expect("a cache of every kind");
        let fresh = std::mem::take(&mut cache.fresh) || all;
        fresh.then(|| cache.objects.values().map(|object| object.typed()).collect())
    }

    /// What production's caches would show of the Rollout. Taken out, to be put back after the look.
    fn refresh(&mut self) -> Option<World> {
        let before = self.world.take();
        let all = before.is_none();
        let others: Option<Vec<Rollout>> = self.news(Kind::Rollout, all);
        let mut world = match before {
            Some(world) => world,
            None => World {
                rollout: others.as_ref()?.first()?.clone(),
                runs: Vec::new(),
                others: Vec::new(),
                deployment: None,
                replica_sets: Vec::new(),
                other_sets: Vec::new(),
                pods: Vec::new(),
                services: Vec::new(),
                endpoint_slices: Vec::new(),
                routes: Vec::new(),
                configuration: Vec::new(),
                trackable: if self.latch == Latch::Policy { vec![ConfigKind::ConfigMap] } else { Vec::new() },
            },
        };
        if let Some(others) = others {
            world.rollout = others.first()?.clone();
            world.others = others;
        }
        if let Some(mut runs) = self.news::<RolloutRun>(Kind::Run, all) {
            runs.sort_by_key(|run| {
                run.metadata.name.as_deref().and_then(|name| name.rsplit_once('-')?.1.parse::<u64>().ok())
            });
            world.runs = runs;
        }
        if let Some(deployments) = self.news(Kind::Deployment, all) {
            world.deployment = deployments.into_iter().next();
        }
        world.replica_sets = self.news(Kind::ReplicaSet, all).unwrap_or(world.replica_sets);
        world.pods = self.news(Kind::Pod, all).unwrap_or(world.pods);
        world.services = self.news(Kind::Service, all).unwrap_or(world.services);
        world.endpoint_slices = self.news(Kind::Endpoints, all).unwrap_or(world.endpoint_slices);
        if let Some(settings) = self.news::<ConfigMap>(Kind::ConfigMap, all) {
            world.configuration = settings.into_iter().map(ConfigObject::from).collect();
        }
        world.routes = self.news(Kind::Route, all).unwrap_or(world.routes);
        Some(world)
    }

    /// Reads the pods' counters once a second.
    pub fn scrape(&mut self, meters: &Meters, now: i64) {
        if now < self.next_scrape {
            return;
        }
        self.next_scrape = now + SCRAPE;
        let Some(world) = self.refresh() else { return };
        if let Some(run) = world.active() {
            let status = run.status.clone().unwrap_or_default();
            let uid = run.metadata.uid.clone().unwrap_or_default();
            let sensor = self.sensors.entry(uid).or_insert_with(|| Sensor::start(run, &status, meters, now));
            self.changed = true;
            sensor.fold(run, &status, meters, &world);
        }
        self.world = Some(world);
    }

    /// Looks, if there is a reason to: what is to be written is known from here on.
    pub fn look(&mut self, now: i64) {
        if !self.steps.is_empty() || !(self.changed || now >= self.due) || now < self.not_before || !self.caught_up(now)
        {
            return;
        }
        self.changed = false;
        self.due = i64::MAX / 2;
        let Some(world) = self.refresh() else { return };
        self.began = now;
        let time = Timestamp::from_millisecond(now).expect("in range");
        match self.sabotage {
            None => self.look_at(&world, time),
            Some(sabotage) => {
                let mut altered = world.clone();
                (sabotage.world)(&mut altered, self.looks);
                self.look_at(&altered, time);
            }
        }
        self.looks += 1;
        self.world = Some(world);
    }

    fn look_at(&mut self, world: &World, time: Timestamp) {
        let now = time.as_millisecond();
        let mut status = None;
        if let Some(run) = world.active() {
            self.due = now + TICK;
            status = self.move_run(world, run, time);
        }
        for (run, action) in to_close(world) {
            self.act(&[action], world, Some(run), time);
        }
        let looked = look_after(world, self.latch, status.as_ref(), time);
        let (mut governance, mut written) = (looked.governance, looked.status);
        if let Some(sabotage) = self.sabotage {
            let mut altered = governance.status.clone();
            (sabotage.rollout_status)(&mut altered, now);
            if altered != governance.status {
                let status = serde_json::to_value(&altered).expect("json");
                written = Some(Write::status(serin::controller::Kind::Rollout, &world.rollout.metadata, status));
            }
            (sabotage.actions)(&mut governance.actions, None);
        }
        if let Some(write) = written {
            self.steps.push_back(Step::Status(write, Vec::new()));
        }
        if self.tells && (!governance.actions.is_empty() || !governance.notes.is_empty()) {
            self.told.push(Told { at: now, run: None, actions: governance.actions.clone(), notes: governance.notes });
        }
        self.act(&governance.actions, world, None, time);
    }

    fn move_run(&mut self, world: &World, run: &RolloutRun, time: Timestamp) -> Option<RolloutRunStatus> {
        let now = time.as_millisecond();
        let policy = validate(&run.spec.policy).expect("a valid policy");
        let sensor = self.sensors.get_mut(run.metadata.uid.as_deref().unwrap_or_default());
        let (mut seen, ledger, due) = sensor.map_or_else(Default::default, |sensor| sensor.report(now));
        seen.gates = self.answers(world, run, now);
        let ask = |looks: u64| {
            let mut seen = seen.clone();
            if let Some(sabotage) = self.sabotage {
                (sabotage.seen)(&mut seen, looks);
            }
            move_run(&policy, world, run, &seen, ledger.clone(), due, time)
        };
        let mut moved = ask(self.looks);
        if self.looks.is_multiple_of(16) {
            let again = ask(self.looks + 1);
            self.undecided |= moved.decision != again.decision || moved.status != again.status;
        }
        if let Some(sabotage) = self.sabotage {
            break_move(sabotage, &mut moved, run);
        }
        let decision = moved.decision.clone();
        if self.tells {
            self.told.push(Told {
                at: now,
                run: Some(decision.status.clone()),
                actions: decision.actions.clone(),
                notes: decision.notes.clone(),
            });
        }
        if let Some(write) = moved.status.take() {
            let retreat = moved.retreat();
            let retreat =
                retreat.iter().filter_map(|action| plan(action, world, Some(run), time).ok()).flatten().collect();
            self.steps.push_back(Step::Status(write, retreat));
        }
        for action in &decision.actions {
            if let Action::AskGate { gate, attempt } = action {
                let key = (run.metadata.uid.clone().unwrap_or_default(), gate.clone(), *attempt);
                // Some answer at once, some take their time; a matter of their names, so that a seed stays a seed.
                let takes = (gate.len() as i64 * 377 + i64::from(*attempt) * 911) % 3_000;
                self.asked.entry(key).or_insert(now + takes);
            }
        }
        self.act(&decision.actions, world, Some(run), time);
        Some(decision.status)
    }

    /// The smoke test finds every bad version; a person says no at first.
    fn answers(&self, world: &World, run: &RolloutRun, now: i64) -> Gates {
        let is_good =
            run.spec.to.images.values().all(|image| nature_of(image) == Nature::Good) && has_good_data(world, run);
        let of_run = self.asked.iter().filter(|((uid, ..), _)| Some(uid) == run.metadata.uid.as_ref());
        let answer = |gate: &str, attempt: u32, at: i64| match (at <= now, gate.starts_with("smoke"), is_good) {
            (false, ..) => GateAnswer::Running,
            (true, true, false) => GateAnswer::Failed("it does not work".into()),
            (true, false, _) if attempt == 1 => GateAnswer::Failed("not yet".into()),
            _ => GateAnswer::Passed(String::new()),
        };
        of_run.map(|((_, gate, attempt), at)| ((gate.clone(), *attempt), answer(gate, *attempt, *at))).collect()
    }

    fn act(&mut self, actions: &[Action], world: &World, run: Option<&RolloutRun>, time: Timestamp) {
        if self.steps.iter().any(|step| matches!(step, Step::Fail(_))) {
            return;
        }
        for action in actions {
            match plan(action, world, run, time) {
                Ok(writes) => self.steps.extend(writes.into_iter().map(Step::Write)),
                Err(error) => return self.steps.push_back(Step::Fail(error.to_string())),
            }
        }
    }

    pub fn is_busy(&self) -> bool {
        !self.steps.is_empty()
    }

    /// The next write is a run's status.
    pub fn writes_run_status(&self) -> bool {
        let Some(Step::Status(write, _) | Step::Write(write)) = self.steps.front() else { return false };
        write.kind == serin::controller::Kind::RolloutRun && matches!(write.verb, Verb::PatchStatus(_))
    }

    /// Sends the next write of the look under way.
    pub fn send(&mut self, server: &mut Server, luck: Luck) -> Option<Sent> {
        let now = server.now;
        let (mut write, retreat) = match self.steps.pop_front()? {
            Step::Status(write, retreat) => (write, Some(retreat)),
            Step::Write(write) => (write, None),
            Step::Fail(_) => {
                self.end_early(now + 1_000);
                return None;
            }
        };
        if let Some(sabotage) = self.sabotage {
            (sabotage.write)(&mut write, &self.name);
        }
        let answer = match luck {
            Luck::Failed | Luck::CrashBefore => Err(Refusal::Invalid("not sent".into())),
            Luck::Fine | Luck::Lost | Luck::CrashAfter => server.write(&write),
        };
        match (&answer, luck) {
            (Ok(version), Luck::Fine | Luck::CrashAfter) => {
                let version = if matches!(write.verb, Verb::Delete { .. }) { 0 } else { *version };
                let patience = i64::try_from(write.patience().as_millis()).unwrap_or(i64::MAX);
                self.pending.push((write.kind.into(), write.name.clone(), version, now + patience));
            }
            _ => {
                let conflict = matches!(answer, Err(Refusal::Conflict | Refusal::NotFound));
                self.end_early(now + if conflict { 100 } else { 1_000 });
                if !conflict {
                    self.steps.extend(retreat.into_iter().flatten().map(Step::Write));
                }
            }
        }
        Some(Sent { write, answer, luck, began: self.began })
    }

    fn end_early(&mut self, again: i64) {
        self.steps.clear();
        self.changed = true;
        self.not_before = again;
    }
}

fn break_move(sabotage: Sabotage, moved: &mut Moved, run: &RolloutRun) {
    let decision = &mut moved.decision;
    (sabotage.actions)(&mut decision.actions, Some((run, &decision.status)));
    let mut altered = decision.status.clone();
    (sabotage.status)(&mut altered);
    if altered != decision.status {
        let status = serde_json::to_value(&altered).expect("json");
        moved.status = Some(Write::status(serin::controller::Kind::RolloutRun, &run.metadata, status));
        decision.status = altered;
    }
}

impl Sensor {
    fn start(run: &RolloutRun, status: &RolloutRunStatus, meters: &Meters, now: i64) -> Self {
        let policy = validate(&run.spec.policy).expect("a valid policy");
        let fresh = || {
            let fold = Fold::new(&watches(&policy, &[]), policy.alpha, policy.steps.len());
            Ledger { fold, read: meters.clone() }
        };
        let saved = status.ledger.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let ledger = saved.unwrap_or_else(fresh);
        Self { policy, ledger, saved: now, figures: now, seen: Seen::default() }
    }

    fn fold(&mut self, run: &RolloutRun, status: &RolloutRunStatus, meters: &Meters, world: &World) {
        let ledger = &mut self.ledger;
        let count = |slo: &serin::api::ValidSlo, did: super::traffic::Meter| Count {
            total: did.requests,
            bad: if matches!(slo.kind, SloKind::Errors) { did.errors } else { did.slow },
        };
        let read = |hash: &str| {
            let pods: Vec<_> = world.pods.iter().filter(|pod| pod.hash() == Some(hash)).collect();
            // Pods that crash can't be read.
            let readable = pods.is_empty()
                || pods.iter().any(|pod| {
                    pod.status.phase != "Running" || pod.is_ready() || pod.metadata.deletion_timestamp.is_some()
                });
            let tick = |(uid, did): (&str, super::traffic::Meter)| PodTick {
                pod: uid.to_owned(),
                requests: did.requests,
                counts: self.policy.slos.iter().map(|slo| count(slo, did)).collect(),
            };
            readable.then(|| meters.since(&ledger.read, hash).into_iter().map(tick).collect())
        };
        let (stable, canary) = (read(&run.spec.from.hash), read(&run.spec.to.hash));
        let blind = (stable.is_none() || canary.is_none()).then(|| "a pod refuses connections".into());
        ledger.fold.fold(&Tick {
            interval: 1000,
            step: status.step.saturating_sub(1),
            due: thousandths(due_percent(&self.policy, status)),
            asked: asked_percent(&self.policy, status).map(thousandths),
            replaced: status.bad_pod.as_ref().map(|bad| bad.uid.clone()),
            canary,
            stable,
            blind,
            ..Tick::default()
        });
        ledger.read = meters.clone();
        self.seen = seen(&ledger.fold);
    }

    /// What was seen, the ledger if it is time to save it, and whether it is time to write figures.
    fn report(&mut self, now: i64) -> (Seen, Option<String>, bool) {
        let due = now - self.figures >= FIGURES;
        if due {
            self.figures = now;
        }
        let ledger = (now - self.saved >= SAVE_LEDGER).then(|| {
            self.saved = now;
            serde_json::to_string(&self.ledger).expect("json")
        });
        (self.seen.clone(), ledger, due)
    }
}
