//! ReplicaSet controller, kubelet, EndpointSlice controller and gateway.

use std::{collections::BTreeMap, rc::Rc};

use serde_json::{Value, json};
use serin::workload::Stamp;

use super::{
    prng::Prng,
    server::{Kind, Object, Server},
};

const BY: &str = "kube-controller-manager";
/// A pod serves on after its deletion for this long: its preStop hook.
const GRACE: i64 = 6_000;

/// How a version behaves; the last word of its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    Good,
    /// Answers with errors.
    Bad,
    /// Answers late.
    Slow,
    /// Becomes ready and crashes, again and again.
    Crashing,
    NeverReady,
    /// Its image is not there.
    Unpullable,
    /// Is ready and answers nothing.
    Hanging,
    /// Its first pod answers with errors, the others are good.
    OneBad,
}

pub const NATURES: [(&str, Nature); 8] = [
    ("one-bad", Nature::OneBad),
    ("good", Nature::Good),
    ("bad", Nature::Bad),
    ("slow", Nature::Slow),
    ("crashing", Nature::Crashing),
    ("never-ready", Nature::NeverReady),
    ("unpullable", Nature::Unpullable),
    ("hanging", Nature::Hanging),
];

pub fn nature_of(image: &str) -> Nature {
    let word = image.split_once(':').map_or("", |(_, tag)| tag.split_once('-').map_or("", |(_, word)| word));
    NATURES.iter().find(|(name, _)| *name == word).map_or(Nature::Good, |(_, nature)| *nature)
}

pub fn image_of(object: &Object) -> &str {
    let pod = object.text("/spec/containers/0/image");
    if pod.is_empty() { object.text("/spec/template/spec/containers/0/image") } else { pod }
}

/// Which version a template, or a pod of it, is: its image, and its data where that is tracked.
pub fn version_of(object: &Object) -> String {
    let template = object.value["spec"].get("template").unwrap_or(&object.value);
    match Stamp::read(template) {
        Some(stamp) => format!("{} with {}", image_of(object), stamp.digest),
        None => image_of(object).to_owned(),
    }
}

/// How a pod behaves: a good image may have bad data.
pub fn pod_nature(server: &Server, pod: &Object) -> Nature {
    let image = pod.nature();
    let Some(settings) = pod.settings().filter(|_| image == Nature::Good) else { return image };
    match server.get(Kind::ConfigMap, settings) {
        Some(settings) => nature_of(&format!("data:v1-{}", settings.text("/data/fault"))),
        None if pod.is_ready() => image,
        None => Nature::NeverReady,
    }
}

/// As the chart's admission policy does it: pods with a stamp get their version's copies while a Rollout tracks them.
fn admit(server: &Server, pod: &mut Value) {
    let tracks = server
        .get(Kind::Rollout, "auth")
        .is_some_and(|rollout| !rollout.text("/spec/configuration/track/0").is_empty());
    let Some(stamp) = Stamp::read(pod).filter(|_| tracks) else { return };
    if let Some(name) = pod.pointer_mut("/spec/volumes/0/configMap/name") {
        *name = json!(format!("{}-{}", name.as_str().unwrap_or_default(), stamp.digest));
    }
}

#[derive(Clone, Copy, Debug)]
struct Life {
    /// Until it becomes ready, crashes or recovers.
    next: i64,
    /// After its deletion.
    grace: i64,
    /// It has been ready for so long.
    ready: i64,
}

/// What the built-in controllers remember, and the clocks of what is under way.
#[derive(Default)]
pub struct Cluster {
    lives: BTreeMap<String, Life>,
    endpoints_due: BTreeMap<String, i64>,
    route_due: BTreeMap<String, i64>,
    /// Versions of the server at which endpoints and routes were as they should be.
    settled: [u64; 2],
    /// Backends and weights in force at the gateway, by route.
    pub in_force: BTreeMap<String, Vec<(String, u64)>>,
    /// The same of Serin's own rules.
    pub beside: BTreeMap<String, Beside>,
    /// Slower than usual.
    pub lag: bool,
    pods: u64,
    /// No more pods than these.
    pub quota: Option<i64>,
    /// Since a pod crashed.
    pub since_crash: i64,
    /// A pod is ready, and not yet for its minReadySeconds.
    ripening: bool,
}

impl Cluster {
    pub fn new(lag: bool, quota: Option<i64>) -> Self {
        Self { lag, quota, since_crash: i64::MAX / 2, ..Self::default() }
    }

    /// Pods follow ReplicaSets. One write at most. False: there is nothing to do until something is written.
    pub fn replica_sets(&mut self, server: &mut Server) -> bool {
        self.ripening = false;
        let sets: Vec<Rc<Object>> = server.list(Kind::ReplicaSet).filter(|set| !set.is_going()).cloned().collect();
        sets.into_iter().any(|set| self.replica_set(server, &set)) || self.ripening
    }

    fn replica_set(&mut self, server: &mut Server, set: &Rc<Object>) -> bool {
        let mut pods: Vec<Rc<Object>> =
            server.list(Kind::Pod).filter(|pod| pod.owner() == Some(set.uid()) && !pod.is_going()).cloned().collect();
        let wanted = usize::try_from(set.int("/spec/replicas")).unwrap_or(0);
        let room = self.quota.is_none_or(|most| (server.list(Kind::Pod).count() as i64) < most);
        if pods.len() < wanted && room {
            self.pods += 1;
            let mut pod = json!({"metadata": set.value["spec"]["template"]["metadata"], "spec": set.value["spec"]["template"]["spec"], "status": {"phase": "Pending"}});
            pod["metadata"]["name"] = json!(format!("{}-{}", set.name(), self.pods));
            pod["metadata"]["namespace"] = json!("shop");
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set.name(), "uid": set.uid(), "controller": true}]);
            admit(server, &mut pod);
            return server.create(Kind::Pod, pod, BY).is_ok();
        }
        if pods.len() > wanted {
            pods.sort_by_key(|pod| (pod.is_ready(), std::cmp::Reverse(pod.version)));
            return server.delete(Kind::Pod, pods[0].name(), None).is_ok();
        }
        let ready: Vec<&Rc<Object>> = pods.iter().filter(|pod| pod.is_ready()).collect();
        let least = 1_000 * set.int("/spec/minReadySeconds");
        let is_ripe =
            |pod: &Rc<Object>| least == 0 || self.lives.get(pod.uid()).is_some_and(|life| life.ready >= least);
        let (ready, available) = (ready.len(), ready.iter().filter(|pod| is_ripe(pod)).count());
        self.ripening |= available < ready;
        let mut status = json!({"replicas": pods.len(), "readyReplicas": ready, "availableReplicas": available, "observedGeneration": set.int("/metadata/generation")});
        if pods.len() < wanted {
            status["conditions"] = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: pods"}]);
        }
        set.value.get("status") != Some(&status)
            && server.replace(Kind::ReplicaSet, set, |set| set["status"] = status, BY, true).is_ok()
    }

    /// Containers start, crash and end.
    pub fn kubelet(&mut self, server: &mut Server, chance: &mut Prng, passed: i64) {
        self.since_crash += passed;
        let pods: Vec<Rc<Object>> = server.list(Kind::Pod).cloned().collect();
        for pod in pods {
            let nature = pod_nature(server, &pod);
            let lag = if self.lag { 3 } else { 1 };
            let life = self.lives.entry(pod.uid().to_owned()).or_insert_with(|| Life {
                next: chance.between(800, 2_500 * lag) as i64,
                grace: GRACE,
                ready: 0,
            });
            life.ready = if pod.is_ready() { life.ready + passed } else { 0 };
            if pod.is_going() {
                life.grace -= passed;
                if life.grace <= 0 {
                    server.remove(Kind::Pod, pod.name());
                }
                continue;
            }
            life.next -= passed;
            if life.next > 0 {
                continue;
            }
            let (ready, restarts) = (pod.is_ready(), pod.int("/status/containerStatuses/0/restartCount"));
            // A pod that lacks its data looks for it again.
            let lacks = pod.settings().is_some_and(|name| server.get(Kind::ConfigMap, name).is_none());
            life.next = if lacks {
                1_000
            } else if nature == Nature::Crashing {
                chance.between(700, 2_500) as i64
            } else {
                i64::MAX / 4
            };
            match (nature, ready, pod.text("/status/phase")) {
                (Nature::NeverReady, _, "Pending") => set_status(server, &pod, false, 0),
                (Nature::Unpullable, ..) => say_unpullable(server, &pod),
                (Nature::Crashing, true, _) => {
                    self.since_crash = 0;
                    set_status(server, &pod, false, restarts + 1);
                }
                (_, false, _) if nature != Nature::NeverReady => set_status(server, &pod, true, restarts),
                _ => {}
            }
        }
    }

    /// A healthy pod crashes once; it comes back.
    pub fn crash(&mut self, server: &mut Server, pod: &Rc<Object>, back_in: i64) {
        if let Some(life) = self.lives.get_mut(pod.uid()) {
            life.next = back_in;
            self.since_crash = 0;
            set_status(server, pod, false, pod.int("/status/containerStatuses/0/restartCount") + 1);
        }
    }

    /// EndpointSlices follow Services and pods, late.
    pub fn endpoints(&mut self, server: &mut Server, chance: &mut Prng, passed: i64) {
        let newest = server.changed(&[Kind::Service, Kind::Pod, Kind::Endpoints]);
        if self.endpoints_due.is_empty() && self.settled[0] == newest {
            return;
        }
        self.settled[0] = newest;
        let gone: Vec<String> = server
            .list(Kind::Endpoints)
            .map(|slice| slice.name().to_owned())
            .filter(|name| server.get(Kind::Service, name).is_none())
            .collect();
        for name in gone {
            server.remove(Kind::Endpoints, &name);
        }
        let services: Vec<Rc<Object>> = server.list(Kind::Service).cloned().collect();
        for service in services {
            let wanted = slice_of(server, &service);
            let is = server.get(Kind::Endpoints, service.name()).cloned();
            if is.as_ref().is_some_and(|is| is.value["endpoints"] == wanted["endpoints"]) {
                self.endpoints_due.remove(service.name());
                continue;
            }
            let most = if self.lag { 2_000 } else { 300 };
            let due =
                self.endpoints_due.entry(service.name().to_owned()).or_insert_with(|| chance.between(50, most) as i64);
            *due -= passed;
            if *due > 0 {
                continue;
            }
            self.endpoints_due.remove(service.name());
            let _ = match is {
                Some(is) => server.replace(
                    Kind::Endpoints,
                    &is,
                    |slice| slice["endpoints"] = wanted["endpoints"].clone(),
                    BY,
                    false,
                ),
                None => server.create(Kind::Endpoints, wanted, BY),
            };
        }
    }

    /// Endpoints and gateway have nothing under way.
    pub fn has_caught_up(&self) -> bool {
        self.endpoints_due.is_empty() && self.route_due.is_empty()
    }

    /// The gateway forgets routes that are gone, late.
    fn forget_routes(&mut self, server: &Server, chance: &mut Prng, passed: i64) {
        let gone: Vec<String> =
            self.in_force.keys().filter(|name| server.get(Kind::Route, name).is_none()).cloned().collect();
        for name in gone {
            let most = if self.lag { 4_000 } else { 400 };
            let due = self.route_due.entry(name.clone()).or_insert_with(|| chance.between(50, most) as i64);
            *due -= passed;
            if *due <= 0 {
                self.route_due.remove(&name);
                self.in_force.remove(&name);
                self.beside.remove(&name);
            }
        }
        let in_force = &self.in_force;
        self.route_due.retain(|name, _| in_force.contains_key(name) || server.get(Kind::Route, name).is_some());
    }

    /// The gateway puts routes in force, late, and says what it thinks of them.
    pub fn gateway(&mut self, server: &mut Server, chance: &mut Prng, passed: i64) {
        let newest = server.changed(&[Kind::Service, Kind::Route]);
        if self.route_due.is_empty() && self.settled[1] == newest {
            return;
        }
        self.settled[1] = newest;
        self.forget_routes(server, chance, passed);
        let routes: Vec<Rc<Object>> = server.list(Kind::Route).cloned().collect();
        let there = |name: &String| routes.iter().any(|route| route.name() == name);
        self.in_force.retain(|name, _| there(name));
        self.beside.retain(|name, _| there(name));
        self.route_due.retain(|name, _| there(name));
        for route in routes {
            let backends = backends_of(&route);
            let resolved = backends.iter().all(|(name, _)| server.get(Kind::Service, name).is_some());
            let generation = route.int("/metadata/generation");
            let condition = |kind: &str, on: bool| json!({"type": kind, "status": if on { "True" } else { "False" }, "reason": kind, "message": "", "observedGeneration": generation});
            let status = json!({"parents": [{"parentRef": {"name": "gateway"}, "conditions": [condition("Accepted", true), condition("ResolvedRefs", resolved)]}]});
            if route.value.get("status") == Some(&status) {
                continue;
            }
            let most = if self.lag { 4_000 } else { 400 };
            let due = self.route_due.entry(route.name().to_owned()).or_insert_with(|| chance.between(50, most) as i64);
            *due -= passed;
            if *due > 0 {
                continue;
            }
            self.route_due.remove(route.name());
            self.in_force.insert(route.name().to_owned(), backends);
            self.beside.insert(route.name().to_owned(), beside(&route));
            let _ = server.replace(Kind::Route, &route, |route| route["status"] = status, "gateway", true);
        }
    }
}

fn set_status(server: &mut Server, pod: &Rc<Object>, ready: bool, restarts: i64) {
    let number = pod.version % 250;
    let state = if ready { json!({"running": {}}) } else { json!({"waiting": {"reason": "ContainerCreating"}}) };
    let status = json!({
        "phase": "Running", "podIP": format!("10.0.0.{number}"),
        "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }, "reason": "", "message": ""}],
        "containerStatuses": [{"name": "auth", "restartCount": restarts, "state": state}]
    });
    let _ = server.replace(Kind::Pod, pod, |pod| pod["status"] = status, "kubelet", true);
}

fn say_unpullable(server: &mut Server, pod: &Rc<Object>) {
    let message = format!("Back-off pulling image \"{}\"", image_of(pod));
    let status = json!({
        "phase": "Pending",
        "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": ""}],
        "containerStatuses": [{"name": "auth", "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff", "message": message}}}]
    });
    let _ = server.replace(Kind::Pod, pod, |pod| pod["status"] = status, "kubelet", true);
}

/// Selected by a Service.
pub fn selects(service: &Object, pod: &Object) -> bool {
    let selector = service.value["spec"]["selector"].as_object();
    selector.is_some_and(|all| {
        !all.is_empty() && all.iter().all(|(key, value)| pod.value["metadata"]["labels"][key] == *value)
    })
}

fn slice_of(server: &Server, service: &Object) -> Value {
    let pods = server.list(Kind::Pod).filter(|pod| pod.is_ready() && selects(service, pod));
    let endpoints: Vec<Value> = pods
        .map(|pod| json!({"addresses": [pod.text("/status/podIP")], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": pod.name()}}))
        .collect();
    json!({
        "metadata": {"name": service.name(), "namespace": "shop", "labels": {"kubernetes.io/service-name": service.name()}},
        "addressType": "IPv4", "endpoints": endpoints
    })
}

/// Names of the pods that a Service sends to.
pub fn endpoints_of<'a>(server: &'a Server, service: &str) -> Vec<&'a str> {
    let slice = server.get(Kind::Endpoints, service);
    let endpoints = slice.and_then(|slice| slice.value["endpoints"].as_array()).into_iter().flatten();
    endpoints.filter_map(|endpoint| endpoint["targetRef"]["name"].as_str()).collect()
}

/// Place of the one rule that is the owner's: Serin's stand before it.
pub fn own_rule(route: &Object) -> usize {
    route.value["spec"]["rules"].as_array().map_or(0, |rules| rules.len().saturating_sub(1))
}

/// Services and weights of the owner's rule.
pub fn backends_of(route: &Object) -> Vec<(String, u64)> {
    let refs = route.value["spec"]["rules"][own_rule(route)]["backendRefs"].as_array().into_iter().flatten();
    refs.map(|reference| {
        (reference["name"].as_str().unwrap_or_default().to_owned(), reference["weight"].as_u64().unwrap_or(1))
    })
    .collect()
}

/// What Serin's rules in a route give the canary besides the weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Requests of testers.
    pub testers: bool,
    /// Copies of this percent of requests.
    pub copies: u64,
    /// Users stay with what they got.
    pub sticky: bool,
}

impl Beside {
    /// Callers get the canary's answers by it.
    pub fn is_seen(self) -> bool {
        self.testers
    }
}

pub fn beside(route: &Object) -> Beside {
    let mut beside = Beside::default();
    for rule in route.value["spec"]["rules"].as_array().into_iter().flatten().take(own_rule(route)) {
        let text = rule.to_string();
        let mirror = rule["filters"].as_array().into_iter().flatten().find(|filter| filter["type"] == "RequestMirror");
        if let Some(mirror) = mirror {
            beside.copies = mirror["requestMirror"]["percent"].as_u64().unwrap_or(100);
        } else if text.contains("=serin-") {
            beside.sticky = true;
        } else {
            beside.testers |= rule["backendRefs"][0]["name"] == "auth-canary";
        }
    }
    beside
}

/// The canary's percent of what it and the apex get.
pub fn canary_share(route: &Object) -> u64 {
    let mut backends = backends_of(route);
    backends.retain(|(name, _)| name == "auth" || name == "auth-canary");
    percent(&backends, "auth-canary")
}

/// Percent that goes to the Service with this name.
pub fn percent(backends: &[(String, u64)], name: &str) -> u64 {
    let all: u64 = backends.iter().map(|(_, weight)| weight).sum();
    let its: u64 = backends.iter().filter(|(other, _)| other == name).map(|(_, weight)| weight).sum();
    if all == 0 { 0 } else { (200 * its + all) / (2 * all) }
}
