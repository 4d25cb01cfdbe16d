//! One world, one seed, one small step at a time.

use std::{collections::VecDeque, rc::Rc};

use serde_json::{Value, json};
use serin::{
    api::{ConfigKind, names},
    controller::Write,
    engine::Latch,
    workload::{ConfigMap, Deployment, Stamp},
};

use super::{
    START,
    cluster::{Cluster, NATURES, Nature, endpoints_of, image_of, nature_of, pod_nature},
    deployments,
    people::{self, Deed},
    prng::Prng,
    serin::{Luck, Sent, Serin},
    server::{Kind, Object, Refusal, Server},
    traffic::Traffic,
};

/// What a world is like.
#[derive(Clone, Debug)]
pub struct Setting {
    pub seed: u64,
    pub routed: bool,
    pub latch: Latch,
    pub replicas: i64,
    pub steps: Value,
    pub sticky: bool,
    /// A smoke test before the first traffic, which only good versions pass; and a person's check before each step,
    /// which says no at first.
    pub gates: bool,
    /// Watches, gateways, endpoints and kubelets are slow at times.
    pub lag: bool,
    /// Chance of a write to fail, or its answer to be lost.
    pub failures: f64,
    /// Chance of a crash at a write.
    pub crashes: f64,
    /// The clock jumps, other controllers lead at the same time.
    pub turmoil: bool,
    /// A second Service selects the pods.
    pub second_service: bool,
    /// A second route names the apex, beside another backend.
    pub second_route: bool,
    /// The size changes at any time, as a HorizontalPodAutoscaler changes it.
    pub autoscaled: bool,
    /// The policy tracks the ConfigMap that the pods read.
    pub tracks: bool,
    /// The Deployment's minReadySeconds.
    pub min_ready: i64,
    /// No more pods than these, those that are going too.
    pub quota: Option<i64>,
    /// From when on the runs' statuses can't be written.
    pub unwritable: Option<i64>,
    /// When a second controller comes to lead, too, for half a minute.
    pub rival: Option<i64>,
    /// Milliseconds since the begin, and what people do then.
    pub deeds: Vec<(i64, Deed)>,
    /// Once a run is in this phase or stage: milliseconds from then, and what happens.
    pub at_place: Vec<(&'static str, i64, Deed)>,
}

/// Phases and stages of a run in which something may happen.
pub const PLACES: [&str; 18] = [
    "Preparing",
    "Shifting",
    "Grow",
    "Switch",
    "Repin",
    "Return",
    "Quiet",
    "Unroute",
    "Keep",
    "HandOver",
    "Converge",
    "Tidy",
    "Divert",
    "Drain",
    "ScaleAway",
    "Withdraw",
    "Succeeded",
    "RolledBack",
];

/// What happens to workloads, with milliseconds from the first of it.
pub fn events() -> Vec<(&'static str, Vec<(i64, Deed)>)> {
    vec![
        ("scaled up", vec![(0, Deed::Scale(6))]),
        ("scaled down", vec![(0, Deed::Scale(1))]),
        ("scaled there and back", vec![(0, Deed::Scale(6)), (1_500, Deed::Scale(2)), (3_000, Deed::Scale(5))]),
        ("scaled to 0 and back", vec![(0, Deed::Scale(0)), (8_000, Deed::Scale(3))]),
        ("evicted one by one", (0..6).map(|time| (time * 1_000, Deed::Evict)).collect()),
        ("drained", vec![(0, Deed::Drain)]),
        ("crashed", vec![(0, Deed::CrashOne)]),
        ("no room for more pods", vec![(0, Deed::Quota(5))]),
        ("a newer version", vec![(0, Deed::Release("auth:v9-good".into()))]),
        ("undone", vec![(0, Deed::Undo)]),
        ("aborted", vec![(0, Deed::Abort)]),
        ("paused for a while", vec![(0, Deed::Pause(true)), (9_000, Deed::Pause(false))]),
        ("route and Service put back", vec![(0, Deed::ResetRoute), (0, Deed::ResetService)]),
        ("route put back again and again", (0..4).map(|time| (time * 2_500, Deed::ResetRoute)).collect()),
        ("Deployment deleted", vec![(0, Deed::DeleteDeployment)]),
        ("Deployment made anew", vec![(0, Deed::DeleteDeployment), (4_000, Deed::CreateDeployment)]),
        ("Service made anew", vec![(0, Deed::DeleteService), (3_000, Deed::CreateService)]),
        ("route made anew", vec![(0, Deed::DeleteRoute), (3_000, Deed::CreateRoute)]),
        ("Rollout deleted", vec![(0, Deed::DeleteRollout)]),
        ("Rollout made anew", vec![(0, Deed::DeleteRollout), (30_000, Deed::CreateRollout)]),
        ("run deleted", vec![(0, Deed::DeleteRun)]),
    ]
}

impl Setting {
    /// Nothing goes wrong.
    pub fn calm() -> Self {
        let steps = json!([{"weight": 20, "bake": "5s"}, {"weight": 50, "bake": "5s"}]);
        Self {
            seed: 1,
            routed: true,
            latch: Latch::Policy,
            replicas: 4,
            steps,
            sticky: false,
            gates: false,
            lag: false,
            failures: 0.0,
            crashes: 0.0,
            turmoil: false,
            second_service: false,
            second_route: false,
            autoscaled: false,
            tracks: false,
            min_ready: 0,
            quota: None,
            unwritable: None,
            rival: None,
            deeds: Vec::new(),
            at_place: Vec::new(),
        }
    }

    pub fn of_seed(seed: u64) -> Self {
        let mut chance = Prng::new(seed);
        let routed = chance.chance(0.75);
        let tester = json!([{"headers": [{"name": "x-tester", "value": "yes"}]}]);
        let kind = chance.below(7);
        let steps = match (routed, kind) {
            (true, 4) => json!([{"mirror": {"percent": 50}, "bake": "3s"}, {"weight": 50, "bake": "3s"}]),
            (true, 5) => json!([
                {"match": tester, "bake": "3s", "pods": 1}, {"weight": 30, "bake": "3s"}, {"match": [], "bake": "1s"}, {"weight": 60, "bake": "3s"}
            ]),
            (true, 6) => json!([{"blueGreen": {"keepOldFor": "5s"}, "bake": "2s"}]),
            (_, 0) => json!([{"weight": 20, "bake": "4s"}, {"weight": 50, "bake": "4s"}]),
            (_, 1) => json!([{"weight": 25, "bake": "3s"}, {"approval": {}}, {"weight": 50, "bake": "3s"}]),
            (true, 2) => {
                json!([{"weight": 10, "bake": "3s"}, {"weight": 60, "bake": "3s"}, {"weight": 100, "bake": "2s"}])
            }
            _ => json!([{"weight": 50, "bake": "5s"}]),
        };
        let rough = chance.chance(0.7);
        let mut setting = Self {
            seed,
            routed,
            latch: if chance.chance(0.7) { Latch::Policy } else { Latch::Pause },
            replicas: chance.between(1, 5) as i64,
            steps,
            sticky: routed && kind != 6 && chance.chance(0.25),
            // Nothing but a test of its own tells a bad preview.
            gates: routed && kind == 6 || chance.chance(0.25),
            lag: chance.chance(0.6),
            failures: if rough && chance.chance(0.6) { 0.06 } else { 0.0 },
            crashes: if rough && chance.chance(0.6) { 0.02 } else { 0.0 },
            turmoil: rough && chance.chance(0.4),
            second_service: chance.chance(0.25),
            second_route: routed && chance.chance(0.25),
            autoscaled: chance.chance(0.15),
            tracks: false,
            min_ready: 0,
            quota: chance.chance(0.1).then(|| chance.between(7, 9) as i64),
            unwritable: None,
            rival: None,
            deeds: Vec::new(),
            at_place: Vec::new(),
        };
        setting.deeds = deeds(&mut chance, routed);
        // By a chance of its own, so that it changes nothing of what there was before it.
        let mut chance = Prng::new(seed ^ 0x09e7);
        if routed && kind == 6 && chance.chance(0.6) {
            setting.steps = preview_steps();
            if chance.chance(0.3) {
                let at = 15_000 + chance.between(2_000, 20_000) as i64;
                setting.deeds.push((at, Deed::DeletePreview));
                setting.deeds.sort_by_key(|(at, _)| *at);
            }
        }
        // From a source of its own, so that older seeds stay what they are.
        let mut chance = Prng::new(seed ^ 0x0c0f_f1e5);
        setting.tracks = setting.latch == Latch::Policy && chance.chance(0.3);
        if setting.tracks {
            let edits = 1 + chance.below(3);
            setting.deeds.extend((0..edits).map(|edit| {
                let word = if chance.chance(0.5) { "good" } else { chance.pick(&NATURES).0 };
                (chance.between(12_000, 120_000) as i64, Deed::Configure(format!("{word} {edit}")))
            }));
            setting.deeds.sort_by_key(|(at, _)| *at);
        }
        // A Deployment that is paused between runs is so once it has settled.
        if setting.latch == Latch::Policy && chance.chance(0.2) {
            setting.min_ready = chance.between(1, 8) as i64;
        }
        if chance.chance(0.4) {
            let place = *chance.pick(&PLACES);
            let (_, happens) = chance.pick(&events()).clone();
            setting.at_place = happens.into_iter().map(|(after, deed)| (place, after, deed)).collect();
        }
        setting
    }
}

/// A preview with a host name, and then one switch.
pub fn preview_steps() -> Value {
    json!([{"blueGreen": {"previewHost": people::PREVIEW_HOST, "keepOldFor": "5s"}, "bake": "2s"}])
}

fn image(chance: &mut Prng, number: u64) -> String {
    let good = chance.chance(0.55);
    let word = if good { "good" } else { chance.pick(&NATURES).0 };
    format!("auth:v{number}-{word}")
}

fn deeds(chance: &mut Prng, routed: bool) -> Vec<(i64, Deed)> {
    let mut at = 15_000;
    let mut deeds = vec![(at, Deed::Release(image(chance, 2)))];
    for number in 3..=2 + chance.below(5) {
        at += chance.between(500, 40_000) as i64;
        let deed = match chance.below(36) {
            0..=4 => Deed::Release(image(chance, number)),
            5 => Deed::Undo,
            // By now perhaps a version of the Deployment's history: a ReplicaSet to be borrowed.
            6 => Deed::Release("auth:v1-good".into()),
            7..=9 => Deed::Scale(chance.between(1, 6) as i64),
            10 => Deed::Pause(true),
            11 => Deed::Abort,
            12 => Deed::Retry,
            13 => Deed::Resume,
            14 if chance.chance(0.5) => Deed::DeleteRollout,
            14 => Deed::DeleteDeployment,
            15 if routed => Deed::ResetRoute,
            16 if routed => Deed::ResetService,
            17 if routed => {
                deeds.extend((0..5).map(|time| (at + time * 3_000, Deed::ResetRoute)));
                continue;
            }
            18 if routed && chance.chance(0.5) => Deed::EditRules(format!("/v{number}")),
            18 => Deed::EditOther,
            19 => {
                deeds.push((at + 8_000, Deed::Outage(false)));
                Deed::Outage(true)
            }
            20 => Deed::CrashOne,
            21 | 22 => Deed::Drain,
            23 | 24 => {
                let back = at + chance.between(1_000, 20_000) as i64;
                deeds.push((back, Deed::Scale(chance.between(1, 5) as i64)));
                Deed::Scale(0)
            }
            25 => {
                let back = at + chance.between(200, 20_000) as i64;
                deeds.push((back, Deed::CreateDeployment));
                Deed::DeleteDeployment
            }
            26 | 27 if routed => {
                deeds.push((at + chance.between(0, 3_000) as i64, Deed::ResetService));
                Deed::ResetRoute
            }
            30 => Deed::DeleteRun,
            31 if chance.chance(0.5) => Deed::OrphanRun,
            31 => {
                let back = at + chance.between(200, 10_000) as i64;
                deeds.push((back, Deed::CreateDeployment));
                Deed::OrphanDeployment
            }
            32 if routed => {
                deeds.push((at + chance.between(200, 20_000) as i64, Deed::CreateService));
                Deed::DeleteService
            }
            33 if routed => {
                deeds.push((at + chance.between(200, 20_000) as i64, Deed::ResetService));
                Deed::TurnService
            }
            34 if routed => {
                deeds.push((at + chance.between(200, 20_000) as i64, Deed::CreateRoute));
                Deed::DeleteRoute
            }
            _ => Deed::Approve,
        };
        deeds.push((at, deed));
    }
    if chance.chance(0.5) {
        deeds.push((at + chance.between(5_000, 60_000) as i64, Deed::Rest));
    }
    deeds.sort_by_key(|(at, _)| *at);
    deeds
}

pub struct Sim {
    pub setting: Setting,
    pub server: Server,
    pub cluster: Cluster,
    pub traffic: Traffic,
    pub chance: Prng,
    pub controllers: Vec<Serin>,
    /// Writes of controllers that lead no more.
    ghosts: Vec<(i64, Write, i64)>,
    /// How long the second controller stays.
    second_until: i64,
    /// Milliseconds that really passed: jumps of the clock left out.
    pub passed: i64,
    /// People are done; everything that waits for them is given.
    pub ending: bool,
    /// Since the last write of Serin.
    pub quiet: i64,
    /// Writes of the last step.
    pub sent: Vec<Sent>,
    pub trace: VecDeque<String>,
    pub aborted: bool,
    pub edited: bool,
    /// The path that people let the route's first rule match.
    pub matches: Option<String>,
    pub crashed: bool,
    /// People scaled it to 0 once.
    pub emptied: bool,
    /// They undid a release in the moment in which the Deployment took it over: it goes back at once, and we after it.
    pub undone_late: bool,
    pub done: Vec<Deed>,
    /// Length of the log at which Deployments, ReplicaSets and the network had nothing to do.
    at_rest: [usize; 3],
    /// Callers have come.
    open: bool,
    traced: usize,
    /// What happens is written down: not in the first run of a seed, only when it is run again because it failed.
    pub traces: bool,
    pub loud: bool,
}

fn policy(setting: &Setting) -> Value {
    let route = |name: &str| json!({"kind": "HTTPRoute", "name": name});
    let routes = match (setting.routed, setting.second_route) {
        (false, _) => json!([]),
        (true, false) => json!([route("auth")]),
        (true, true) => json!([route("auth"), route(people::SECOND_ROUTE)]),
    };
    let gates = json!([
        {"name": "smoke", "at": "FirstTraffic", "http": {"url": "http://smoke.example"}},
        {"name": "person", "at": "EveryStep", "http": {"url": "http://person.example"}, "onFailure": "Hold"}
    ]);
    let mut policy = json!({
        "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth", "routes": routes,
        "telemetry": {
            "scrape": {"port": "http"}, "requests": {"counter": "http_requests_total", "errors": {"code": "5.."}},
            "latency": {"histogram": "http_request_duration_seconds"}},
        "slos": [{"name": "errors", "errors": {"objective": "95%", "tolerance": {"relative": 1.5, "absolute": "2%"}}},
                 {"name": "latency", "latency": {"threshold": "250ms", "objective": "95%", "tolerance": {"relative": 1.5, "absolute": "2%"}}}],
        "confidence": "99.99%", "steps": setting.steps,
        "limits": {"readyWithin": "60s", "stepTimeout": "10m", "failedRequests": 100_000}
    });
    if setting.gates {
        policy["gates"] = gates;
    }
    if setting.tracks {
        policy["configuration"] = json!({"track": ["ConfigMap"]});
    }
    if setting.sticky {
        policy["sticky"] = json!({});
    }
    policy
}

/// What the pods read, to begin with.
fn settings() -> ConfigMap {
    let object = json!({"metadata": {"name": people::SETTINGS, "namespace": "shop"}, "data": {"fault": "good"}});
    serde_json::from_value(object).expect("a ConfigMap")
}

/// As if Serin had long tracked it.
fn tracked(deployment: &mut Value) -> Stamp {
    let template = &mut deployment["spec"]["template"];
    let stamp = Stamp::of("auth", template, &[ConfigKind::ConfigMap], &[settings().into()]).expect("it is named");
    template["metadata"]["annotations"] = json!({names::CONFIGURATION_ANNOTATION: stamp.to_string()});
    template["metadata"]["labels"][names::CONFIGURATION_LABEL] = json!(stamp.digest);
    stamp
}

fn deployment(setting: &Setting) -> Value {
    let mut template = json!({"metadata": {"labels": {"app": "auth"}}, "spec": {"containers": [
        {"name": "auth", "image": "auth:v1-good", "ports": [{"name": "http", "containerPort": 8080}]}]}});
    if setting.tracks {
        template["spec"]["volumes"] = json!([{"name": "settings", "configMap": {"name": people::SETTINGS}}]);
    }
    json!({"metadata": {"name": "auth", "namespace": "shop", "labels": {"app": "auth"}, "annotations": {}},
        "spec": {"replicas": setting.replicas, "minReadySeconds": setting.min_ready, "selector": {"matchLabels": {"app": "auth"}}, "template": template,
                 "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}}})
}

fn service(name: &str, app: &str) -> (Kind, Value) {
    let spec = json!({"selector": {"app": app}, "clusterIP": "10.1.0.1", "type": "ClusterIP",
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
    (Kind::Service, json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec}))
}

fn route(name: &str) -> (Kind, Value) {
    let spec = json!({"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": people::own_refs(name)}]});
    (Kind::Route, json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec}))
}

fn objects(setting: &Setting) -> Vec<(Kind, Value)> {
    let mut workload = deployment(setting);
    let mut objects = vec![service("auth", "auth"), route("auth")];
    if setting.tracks {
        let stamp = tracked(&mut workload);
        let settings = settings();
        let owner: Deployment = serde_json::from_value(workload.clone()).expect("a Deployment");
        objects.push((Kind::ConfigMap, serde_json::to_value(&settings).expect("json")));
        let copies = stamp.missing_copies(&owner, &[settings.into()]);
        objects.extend(copies.into_iter().map(|(_, _, mut copy)| {
            // The first object of the world: its uid is not known here.
            copy["metadata"]["ownerReferences"][0]["uid"] = json!("uid-1");
            (Kind::ConfigMap, copy)
        }));
    }
    objects.insert(0, (Kind::Deployment, workload));
    if setting.second_service {
        objects.push(service(people::SECOND_SERVICE, "auth"));
    }
    if setting.second_route {
        objects.extend([service(people::LEGACY, people::LEGACY), route(people::SECOND_ROUTE)]);
    }
    objects.push(rollout(setting));
    objects
}

fn rollout(setting: &Setting) -> (Kind, Value) {
    (Kind::Rollout, json!({"metadata": {"name": "auth", "namespace": "shop"}, "spec": policy(setting)}))
}

impl Sim {
    pub fn new(setting: Setting) -> Self {
        let mut server = Server::new(setting.latch);
        for (kind, object) in objects(&setting) {
            server.create(kind, object, "kubectl").expect("a new world");
        }
        let controllers = vec![Serin::start("serin", &server)];
        let direct = if setting.routed { 15.0 } else { 60.0 };
        let traffic = Traffic { by_route: 80.0, direct, previewing: 5.0, ..Traffic::default() };
        Self {
            cluster: Cluster::new(setting.lag, setting.quota),
            chance: Prng::new(setting.seed ^ 0x5eed),
            server,
            traffic,
            controllers,
            ghosts: Vec::new(),
            second_until: 0,
            passed: 0,
            ending: false,
            quiet: 0,
            sent: Vec::new(),
            trace: VecDeque::new(),
            aborted: false,
            edited: false,
            matches: None,
            crashed: false,
            emptied: false,
            undone_late: false,
            done: Vec::new(),
            at_rest: [0; 3],
            open: false,
            traced: 0,
            traces: false,
            loud: false,
            setting,
        }
    }

    fn is_calm(&self) -> bool {
        !self.setting.lag && self.setting.failures == 0.0 && self.setting.crashes == 0.0 && !self.setting.turmoil
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if !self.traces {
            return;
        }
        let line = format!("{:>8.1}s {}", (self.server.now - START) as f64 / 1000.0, text());
        if self.loud {
            println!("{line}");
        }
        self.trace.push_back(line);
        if self.trace.len() > 80 {
            self.trace.pop_front();
        }
    }

    /// Everybody acts once, at most.
    pub fn step(&mut self) {
        let passed = if self.is_calm() { 100 } else { self.chance.between(50, 250) as i64 };
        self.passed += passed;
        self.quiet += passed;
        self.server.now += passed;
        if self.setting.turmoil && !self.ending && self.chance.chance(0.002) {
            let jump = self.chance.between(0, 10_000) as i64 - 3_000;
            self.server.now += jump;
            self.note(|| format!("the clock jumps by {jump} ms"));
        }
        self.sent.clear();
        self.people();
        if self.setting.autoscaled && self.open && !self.ending && self.chance.chance(0.01) {
            let to = self.chance.between(1, 6) as i64;
            self.autoscale(to);
        }
        self.nature(passed);
        self.open |= self.cluster_is_up();
        if self.open {
            self.traffic.flow(&self.server, &self.cluster, &mut self.chance, passed);
        }
        self.lead(passed);
        self.haunt();
        self.trace_log();
    }

    fn cluster_is_up(&self) -> bool {
        let is_up = |service: &str| {
            let ready = endpoints_of(&self.server, service).len();
            i64::try_from(ready).is_ok_and(|ready| ready >= self.setting.replicas)
        };
        is_up("auth") && (!self.setting.second_service || is_up(people::SECOND_SERVICE))
    }

    fn nature(&mut self, passed: i64) {
        let calm = self.is_calm();
        for _ in 0..3 {
            let busy = |at_rest: usize, server: &Server| at_rest != server.log.len();
            if busy(self.at_rest[0], &self.server)
                && (calm || self.chance.chance(0.7))
                && !deployments::step(&mut self.server)
            {
                self.at_rest[0] = self.server.log.len();
            }
            if busy(self.at_rest[1], &self.server)
                && (calm || self.chance.chance(0.7))
                && !self.cluster.replica_sets(&mut self.server)
            {
                self.at_rest[1] = self.server.log.len();
            }
        }
        self.cluster.kubelet(&mut self.server, &mut self.chance, passed);
        if self.at_rest[2] != self.server.log.len() {
            self.cluster.endpoints(&mut self.server, &mut self.chance, passed);
            self.cluster.gateway(&mut self.server, &mut self.chance, passed);
            if self.cluster.has_caught_up() {
                self.at_rest[2] = self.server.log.len();
            }
        }
        if calm || self.chance.chance(0.3) {
            self.server.collect_garbage();
        }
    }

    fn people(&mut self) {
        let now = self.server.now - START;
        while self.setting.deeds.first().is_some_and(|(at, _)| *at <= now) {
            let (_, deed) = self.setting.deeds.remove(0);
            self.act(&deed);
        }
        self.arrive(now);
        if self.setting.deeds.is_empty() && self.passed % 1000 < 250 {
            self.wind_up();
        }
    }

    /// Something happens where the run is now.
    fn arrive(&mut self, now: i64) {
        if self.setting.at_place.is_empty() {
            return;
        }
        let Some(run) = self.run() else { return };
        let is_here = |place: &str| run.text("/status/phase") == place || run.text("/status/stage") == place;
        let here: Vec<_> = self.setting.at_place.extract_if(.., |(place, ..)| is_here(place)).collect();
        if here.is_empty() {
            return;
        }
        self.ending = false;
        self.setting.deeds.extend(here.into_iter().map(|(_, after, deed)| (now + after, deed)));
        self.setting.deeds.sort_by_key(|(at, _)| *at);
    }

    /// Of a Deployment that is there and not scaled to 0, as an autoscaler does.
    fn autoscale(&mut self, to: i64) {
        let size = self.server.get(Kind::Deployment, "auth").map_or(0, |deployment| deployment.int("/spec/replicas"));
        if size > 0 && size != to {
            self.act(&Deed::Scale(to));
        }
    }

    pub fn act(&mut self, deed: &Deed) {
        let answer = match deed {
            Deed::CreateDeployment => self.server.create(Kind::Deployment, deployment(&self.setting), "kubectl"),
            Deed::CreateService => self.create(service("auth", "auth")),
            Deed::CreateRoute => self.create(route("auth")),
            Deed::CreateRollout => self.create(rollout(&self.setting)),
            deed => people::act(&mut self.server, deed),
        };
        self.quiet = 0;
        self.note(|| format!("PEOPLE {deed:?}{}", if answer.is_ok() { "" } else { " (refused)" }));
        match deed {
            Deed::Outage(on) => self.traffic.outage = *on,
            Deed::Abort => self.aborted |= answer.is_ok(),
            Deed::Release(_) | Deed::Retry | Deed::Configure(_) => self.aborted = false,
            Deed::EditOther => self.edited |= answer.is_ok(),
            Deed::EditRules(path) if answer.is_ok() => self.matches = Some(path.clone()),
            Deed::CrashOne => self.crash_one(),
            Deed::Drain => self.drain(),
            Deed::Evict => self.evict(),
            Deed::Quota(most) => {
                self.cluster.quota = Some(*most);
                self.setting.quota = Some(*most);
            }
            Deed::Scale(0) => self.emptied = true,
            // What people wrote into the old one went with it.
            Deed::DeleteRoute => self.matches = None,
            _ => {}
        }
        self.undone_late |= self.goes_back_late();
        self.done.push(deed.clone());
    }

    /// The template is the old version's again while the Deployment takes the new one over, or is about to where caches
    /// are late.
    fn goes_back_late(&self) -> bool {
        let Some(deployment) = self.server.get(Kind::Deployment, "auth") else { return false };
        self.run().is_some_and(|run| {
            (matches!(run.text("/status/stage"), "HandOver" | "Converge")
                || self.setting.lag && run.text("/status/stage") == "Unroute")
                && run.text("/spec/from/images/auth") == image_of(deployment)
        })
    }

    fn create(&mut self, (kind, object): (Kind, Value)) -> Result<u64, Refusal> {
        self.server.create(kind, object, "kubectl")
    }

    /// One of these was done.
    pub fn did(&self, deeds: &[Deed]) -> bool {
        self.done.iter().any(|done| deeds.contains(done))
    }

    fn evict(&mut self) {
        let ready: Vec<Rc<Object>> = self.server.list(Kind::Pod).filter(|pod| pod.is_ready()).cloned().collect();
        let has_another = |pod: &Rc<Object>| ready.iter().filter(|other| other.hash() == pod.hash()).count() > 1;
        let may: Vec<&Rc<Object>> = ready.iter().filter(|pod| has_another(pod)).collect();
        if !may.is_empty() {
            let pod = self.chance.pick(&may).name().to_owned();
            let _ = self.server.delete(Kind::Pod, &pod, None);
        }
    }

    fn crash_one(&mut self) {
        let healthy: Vec<Rc<Object>> = self
            .server
            .list(Kind::Pod)
            .filter(|pod| pod.is_ready() && pod_nature(&self.server, pod) == Nature::Good)
            .cloned()
            .collect();
        if !healthy.is_empty() {
            let pod = Rc::clone(self.chance.pick(&healthy));
            self.crashed = true;
            let back = self.chance.between(500, 4_000) as i64;
            self.cluster.crash(&mut self.server, &pod, back);
        }
    }

    /// Half of the pods are evicted at once, whatever they are.
    fn drain(&mut self) {
        self.crashed = true;
        self.cluster.since_crash = 0;
        let pods: Vec<String> = self.server.list(Kind::Pod).map(|pod| pod.name().to_owned()).collect();
        for pod in pods {
            if self.chance.chance(0.5) {
                let _ = self.server.delete(Kind::Pod, &pod, None);
            }
        }
    }

    /// People give what is waited for.
    fn wind_up(&mut self) {
        self.ending = true;
        self.traffic.outage = false;
        let empty = self.server.get(Kind::Deployment, "auth").is_some_and(|all| all.int("/spec/replicas") == 0);
        if empty {
            self.act(&Deed::Scale(2));
        }
        for (kind, anew) in [(Kind::Service, Deed::CreateService), (Kind::Route, Deed::CreateRoute)] {
            if self.server.get(kind, "auth").is_none() {
                self.act(&anew);
            }
        }
        if !self.is_under_way() && self.quiet > 10_000 {
            self.lift_quota();
        }
        let Some(run) = self.run() else {
            return;
        };
        match run.text("/status/waiting/reason") {
            "Paused" if !is_terminal(&run) => self.act(&Deed::Pause(false)),
            "Quota" if !is_terminal(&run) => self.lift_quota(),
            "Approval" if !is_terminal(&run) => self.act(&Deed::Approve),
            // Nothing can be told of a version by the side of one that is as bad.
            _ if !is_terminal(&run) && self.data_spoil_what_serves(&run) => {
                self.act(&Deed::Configure("good mended".into()))
            }
            _ => {}
        }
    }

    fn lift_quota(&mut self) {
        if self.cluster.quota.take().is_some() {
            // ReplicaSets try again, though no object says so.
            self.at_rest = [0; 3];
            self.quiet = 0;
        }
    }

    /// Pods of a Deployment made anew have no copies: they read the ConfigMap as it is now, and that is bad.
    fn data_spoil_what_serves(&self, run: &Object) -> bool {
        let serving = run.text("/spec/from/hash");
        self.server.list(Kind::Pod).any(|pod| {
            pod.hash() == serving
                && pod.settings() == Some(people::SETTINGS)
                && pod_nature(&self.server, pod) != nature_of(image_of(pod))
        })
    }

    /// Controllers of ours come, go, and act.
    fn lead(&mut self, passed: i64) {
        if self.setting.turmoil && !self.ending && self.controllers.len() == 1 && self.chance.chance(0.003) {
            self.take_over();
        }
        if self.setting.rival.take_if(|at| *at <= self.passed).is_some() {
            self.join(30_000);
        }
        if self.controllers.len() > 1 && self.server.now >= self.second_until {
            self.controllers.remove(0);
            self.note(|| "the old controller ends".into());
        }
        for index in 0..self.controllers.len() {
            self.control(index, passed);
        }
    }

    fn take_over(&mut self) {
        if self.chance.chance(0.5) {
            let stays = self.chance.between(2_000, 20_000) as i64;
            return self.join(stays);
        }
        let next = self.another();
        let name = next.name.clone();
        self.note(|| format!("{name} leads; a write of the old one may be under way"));
        let old = &mut self.controllers[0];
        let began = old.began;
        if let Some(write) = old.in_flight() {
            let due = self.server.now + self.chance.between(100, 4_000) as i64;
            self.ghosts.push((due, write, began));
        }
        self.controllers[0] = next;
    }

    fn another(&self) -> Serin {
        let mut next = Serin::start(&format!("serin-{}", self.server.now - START), &self.server);
        next.sabotage = self.controllers[0].sabotage;
        next
    }

    /// Two lead at once; the older one ends after so many milliseconds.
    fn join(&mut self, stays: i64) {
        self.second_until = self.server.now + stays;
        let next = self.another();
        let name = next.name.clone();
        self.note(|| format!("{name} leads, too"));
        self.controllers.push(next);
    }

    fn haunt(&mut self) {
        let now = self.server.now;
        let due: Vec<_> = self.ghosts.extract_if(.., |(due, _, _)| *due <= now).collect();
        for (_, write, began) in due {
            let answer = self.server.write(&write);
            self.note(|| {
                format!(
                    "a late write of an old controller: {} {} {}: {answer:?}",
                    write.verb(),
                    write.kind.as_str(),
                    write.name
                )
            });
            self.sent.push(Sent { write, answer, luck: Luck::Fine, began });
        }
    }

    fn control(&mut self, index: usize, passed: i64) {
        let now = self.server.now;
        let (lag, calm) = (self.setting.lag && !self.ending, self.is_calm());
        let controller = &mut self.controllers[index];
        controller.watch(&self.server, &mut self.chance, passed, lag);
        controller.scrape(&self.traffic.meters, now);
        controller.look(now);
        let most = if calm { 20 } else { self.chance.between(0, 4) };
        for _ in 0..most {
            if !self.controllers[index].is_busy() {
                break;
            }
            let unwritable = self.setting.unwritable.is_some_and(|from| from <= self.passed);
            let luck = match unwritable && self.controllers[index].writes_run_status() {
                true => Luck::Failed,
                false => self.luck(),
            };
            let Some(sent) = self.controllers[index].send(&mut self.server, luck) else { break };
            self.quiet = 0;
            if self.traces && (sent.write.verb() != "patch status" || luck != Luck::Fine || sent.answer.is_err()) {
                let name = self.controllers[index].name.clone();
                let how = match &sent.write.verb {
                    serin::controller::Verb::Patch(ops) => {
                        ops.as_array().and_then(|ops| ops.last()).map(|op| op.to_string()).unwrap_or_default()
                    }
                    _ => String::new(),
                };
                let answer = sent.answer.as_ref().map(|_| ());
                let how: String = how.chars().take(180).collect();
                self.note(|| {
                    format!(
                        "{name}: {} {} {} {how} -> {answer:?} {luck:?}",
                        sent.write.verb(),
                        sent.write.kind.as_str(),
                        sent.write.name
                    )
                });
            }
            self.sent.push(sent);
            if matches!(luck, Luck::CrashBefore | Luck::CrashAfter) {
                let mut next = Serin::start(&self.controllers[index].name, &self.server);
                next.sabotage = self.controllers[index].sabotage;
                self.controllers[index] = next;
                break;
            }
        }
    }

    fn luck(&mut self) -> Luck {
        if self.ending && self.passed > 400_000 {
            return Luck::Fine;
        }
        if self.chance.chance(self.setting.crashes) {
            return *self.chance.pick(&[Luck::CrashBefore, Luck::CrashAfter]);
        }
        match self.chance.chance(self.setting.failures) {
            true => *self.chance.pick(&[Luck::Failed, Luck::Lost]),
            false => Luck::Fine,
        }
    }

    /// What changed, in words.
    fn trace_log(&mut self) {
        if !self.traces {
            return;
        }
        let mut lines = Vec::new();
        for event in &self.server.log[self.traced..] {
            let Some(object) = &event.object else {
                lines.push(format!("gone: {:?} {}", event.kind, event.name));
                continue;
            };
            let value = &object.value;
            match event.kind {
                Kind::Run => lines.push(format!(
                    "run {} {} {} step {} wanted {} set {} waiting {}",
                    event.name,
                    object.text("/status/phase"),
                    object.text("/status/stage"),
                    object.int("/status/step"),
                    value["status"]["weight"]["wanted"],
                    value["status"]["weight"]["set"],
                    object.text("/status/waiting/reason")
                )),
                Kind::ReplicaSet => lines.push(format!(
                    "set {} ({}) {} of {}",
                    event.name,
                    image_of(object),
                    value["status"]["availableReplicas"],
                    value["spec"]["replicas"]
                )),
                Kind::Service => lines.push(format!("service {} {}", event.name, value["spec"]["selector"])),
                Kind::Deployment => lines.push(format!(
                    "deployment paused {} labels {} {}",
                    value["spec"]["paused"],
                    value["metadata"]["labels"],
                    image_of(object)
                )),
                Kind::Route => {
                    lines.push(format!("route {} {}", event.name, value["spec"]["rules"]));
                }
                Kind::Endpoints => lines.push(format!(
                    "endpoints {}: {}",
                    event.name,
                    value["endpoints"].as_array().map_or(0, Vec::len)
                )),
                Kind::ConfigMap => lines.push(format!("configuration {} {}", event.name, value["data"])),
                Kind::Rollout | Kind::Pod => {}
            }
        }
        self.traced = self.server.log.len();
        lines.dedup();
        for line in lines {
            if self.trace.iter().rev().take(4).any(|other| other.ends_with(&line)) {
                continue;
            }
            self.note(|| line);
        }
    }

    /// The run under way, or the last one.
    pub fn run(&self) -> Option<Rc<Object>> {
        people::newest_run(&self.server).cloned()
    }

    pub fn is_under_way(&self) -> bool {
        self.run().is_some_and(|run| !is_terminal(&run))
    }

    /// Nobody holds the Deployment, and it is at work.
    fn is_moving(&self) -> bool {
        self.server.get(Kind::Deployment, "auth").is_some_and(|deployment| {
            let size = deployment.int("/spec/replicas");
            let counts = ["/status/replicas", "/status/updatedReplicas", "/status/availableReplicas"];
            !deployment.is("/spec/paused") && counts.iter().any(|count| deployment.int(count) != size)
        })
    }

    pub fn is_settled(&self) -> bool {
        self.ending
            && !self.is_under_way()
            && self.quiet > if self.is_moving() { 120_000 } else { 20_000 }
            && self.ghosts.is_empty()
            && self.controllers.len() == 1
    }
}

pub fn is_terminal(run: &Object) -> bool {
    matches!(run.text("/status/phase"), "Succeeded" | "RolledBack" | "Superseded" | "Cancelled")
}

pub const CANARY_SERVICE: &str = "auth-canary";
pub const RUN_LABEL: &str = names::RUN_LABEL;
