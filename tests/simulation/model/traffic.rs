//! Callers: by the route's weights in force, and straight to the apex.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    cluster::{Cluster, Nature, endpoints_of, pod_nature},
    people::{PREVIEW_ROUTE, SECOND_SERVICE},
    prng::Prng,
    server::{Kind, Server},
};

/// Counters of one version's pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meter {
    pub requests: u64,
    pub errors: u64,
    pub slow: u64,
}

impl Meter {
    pub fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            errors: self.errors - before.errors,
            slow: self.slow - before.slow,
        }
    }
}

/// By pod-template-hash and UID.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meters(BTreeMap<String, BTreeMap<String, Meter>>);

impl Meters {
    /// The meter of a pod of a version.
    fn of(&mut self, hash: &str, uid: &str) -> &mut Meter {
        if !self.0.get(hash).is_some_and(|pods| pods.contains_key(uid)) {
            self.0.entry(hash.to_owned()).or_default().insert(uid.to_owned(), Meter::default());
        }
        self.0.get_mut(hash).and_then(|pods| pods.get_mut(uid)).expect("it was put there")
    }

    /// What each pod of a version counted since then.
    pub fn since(&self, before: &Self, hash: &str) -> Vec<(&str, Meter)> {
        let was = |uid: &str| before.0.get(hash).and_then(|pods| pods.get(uid)).copied().unwrap_or_default();
        let pods = self.0.get(hash).into_iter().flatten();
        pods.map(|(uid, is)| (uid.as_str(), is.since(was(uid)))).filter(|(_, did)| did.requests > 0).collect()
    }
}

#[derive(Default)]
pub struct Traffic {
    pub meters: Meters,
    /// Requests that reached nobody.
    pub lost: u64,
    /// Where the first one was lost.
    pub lost_at: Option<String>,
    /// Requests a second.
    pub by_route: f64,
    pub direct: f64,
    /// By the preview's host name, where it leads somewhere.
    pub previewing: f64,
    /// Something behind both versions is down.
    pub outage: bool,
    /// By hash: the pod of a version with one bad pod that is it.
    pub lemons: BTreeMap<String, String>,
    pub owed: [f64; 3],
}

impl Traffic {
    pub fn flow(&mut self, server: &Server, cluster: &Cluster, chance: &mut Prng, passed: i64) {
        let seconds = passed as f64 / 1000.0;
        self.owed[0] += self.by_route * seconds;
        self.owed[1] += self.direct * seconds;
        self.owed[2] += self.previewing * seconds;
        let counts = self.owed.map(|owed| owed as u64);
        for (owed, count) in self.owed.iter_mut().zip(counts) {
            *owed -= count as f64;
        }
        let direct = vec![("auth".to_owned(), 1)];
        let routed = cluster.in_force.get("auth").map_or(&[][..], Vec::as_slice);
        let beside = cluster.beside.get("auth").copied().unwrap_or_default();
        let canary = [("auth-canary".to_owned(), 1)];
        // One caller in sixteen is a tester.
        let testers = if beside.testers { counts[0] / 16 } else { 0 };
        self.send(server, routed, counts[0] - testers, chance);
        self.send(server, &canary, testers, chance);
        if !Answering::behind(server, "auth-canary").is_empty() {
            // Nobody waits for what a copy is answered.
            self.send(server, &canary, counts[0] * beside.copies / 100, chance);
        }
        if let Some(preview) = cluster.in_force.get(PREVIEW_ROUTE) {
            self.send(server, preview, counts[2], chance);
        }
        self.send(server, &direct, counts[1], chance);
        if server.get(Kind::Service, SECOND_SERVICE).is_some() {
            self.send(server, &[(SECOND_SERVICE.to_owned(), 1)], counts[1] / 2, chance);
        }
    }

    fn send(&mut self, server: &Server, backends: &[(String, u64)], count: u64, chance: &mut Prng) {
        let mut arms: Vec<Vec<Answering<'_>>> =
            backends.iter().map(|(service, _)| Answering::behind(server, service)).collect();
        let all: u64 = backends.iter().map(|(_, weight)| weight).sum();
        for _ in 0..count {
            let mut at = chance.below(all);
            let chosen = backends.iter().position(|(_, weight)| {
                let hit = at < *weight;
                at = at.saturating_sub(*weight);
                hit
            });
            let Some(chosen) = chosen else { continue };
            let pods = &mut arms[chosen];
            if pods.is_empty() {
                let service = &backends[chosen].0;
                // People have deleted it, or made it anew just now.
                if service != "auth-canary" && server.get(Kind::Endpoints, service).is_none() {
                    continue;
                }
                self.lose(|| format!("Service {} has no endpoints", backends[chosen].0));
                continue;
            }
            let pod = chance.below(pods.len() as u64) as usize;
            match pods[pod].nature {
                Some(nature) => {
                    let nature = self.nature_of_pod(&pods[pod], nature);
                    pods[pod].meter.count(nature, self.outage, chance);
                }
                None => self.lose(|| format!("pod {} is gone and still in the endpoints", pods[pod].name)),
            }
        }
        for pod in arms.into_iter().flatten().filter(|pod| pod.meter.requests > 0) {
            let meter = self.meters.of(pod.hash, pod.uid);
            meter.requests += pod.meter.requests;
            meter.errors += pod.meter.errors;
            meter.slow += pod.meter.slow;
        }
    }

    /// The first pod of its version that is asked is the bad one.
    fn nature_of_pod(&mut self, pod: &Answering<'_>, of_version: Nature) -> Nature {
        if of_version != Nature::OneBad {
            return of_version;
        }
        let lemon = self.lemons.entry(pod.hash.to_owned()).or_insert_with(|| pod.uid.to_owned());
        if *lemon == pod.uid { Nature::Bad } else { Nature::Good }
    }

    fn lose(&mut self, why: impl FnOnce() -> String) {
        self.lost += 1;
        self.lost_at.get_or_insert_with(why);
    }
}

/// A pod behind a Service, and what it has answered in this step.
struct Answering<'a> {
    name: &'a str,
    uid: &'a str,
    hash: &'a str,
    /// `None`: it is gone.
    nature: Option<Nature>,
    meter: Meter,
}

impl<'a> Answering<'a> {
    fn behind(server: &'a Server, service: &str) -> Vec<Self> {
        let one = |name: &'a str| {
            let pod = server.get(Kind::Pod, name);
            Self {
                uid: pod.map(|pod| pod.uid()).unwrap_or_default(),
                hash: pod.map(|pod| pod.hash()).unwrap_or_default(),
                nature: pod.map(|pod| pod_nature(server, pod)),
                meter: Meter::default(),
                name,
            }
        };
        endpoints_of(server, service).into_iter().map(one).collect()
    }
}

impl Meter {
    fn count(&mut self, nature: Nature, outage: bool, chance: &mut Prng) {
        if nature == Nature::Hanging {
            return;
        }
        self.requests += 1;
        let (errors, slow) = match nature {
            Nature::Bad => (0.4, 0.004),
            Nature::Slow => (0.004, 0.5),
            _ => (0.004, 0.004),
        };
        let errors = if outage { 0.7 } else { errors };
        self.errors += u64::from(chance.chance(errors));
        self.slow += u64::from(chance.chance(slow));
    }
}
