//! The Deployment controller of Kubernetes, as far as a release meets it; each call makes at most one write.

use std::rc::Rc;

use serde_json::{Value, json};
use serin::workload::template;

use super::server::{Kind, Object, Server};

const BY: &str = "kube-controller-manager";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const REVISION: &str = "deployment.kubernetes.io/revision";

struct Sync<'a> {
    server: &'a mut Server,
    deployment: Rc<Object>,
    /// Owned, oldest first.
    sets: Vec<Rc<Object>>,
}

/// One step for every Deployment. True if something was written.
pub fn step(server: &mut Server) -> bool {
    let all: Vec<Rc<Object>> = server.list(Kind::Deployment).cloned().collect();
    all.into_iter().any(|deployment| sync(server, deployment))
}

fn sync(server: &mut Server, deployment: Rc<Object>) -> bool {
    if adopt(server, &deployment) {
        return true;
    }
    let mut sets: Vec<Rc<Object>> = server
        .list(Kind::ReplicaSet)
        .filter(|set| set.owner() == Some(deployment.uid()) && !set.is_going())
        .cloned()
        .collect();
    sets.sort_by_key(|set| (set.text("/metadata/creationTimestamp").to_owned(), set.name().to_owned()));
    let mut sync = Sync { server, deployment, sets };
    if sync.deployment.is_going() {
        return sync.status();
    }
    let moved = match sync.deployment.is("/spec/paused") || sync.is_scaling() {
        true => sync.revise(false) || sync.scale(),
        false => sync.revise(true) || sync.grow_new() || sync.shrink_old(),
    };
    moved || sync.status()
}

fn adopt(server: &mut Server, deployment: &Object) -> bool {
    let wanted = &deployment.value["spec"]["selector"]["matchLabels"];
    let matches = |set: &&Rc<Object>| {
        let labels = &set.value["metadata"]["labels"];
        wanted.as_object().is_some_and(|wanted| wanted.iter().all(|(key, value)| labels[key] == *value))
    };
    let orphan =
        server.list(Kind::ReplicaSet).find(|set| set.owner().is_none() && !set.is_going() && matches(set)).cloned();
    let Some(orphan) = orphan.filter(|_| !deployment.is_going()) else { return false };
    let owner = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment.name(), "uid": deployment.uid(), "controller": true}]);
    server.replace(Kind::ReplicaSet, &orphan, |set| set["metadata"]["ownerReferences"] = owner, BY, false).is_ok()
}

fn revision(set: &Object) -> i64 {
    set.value["metadata"]["annotations"][REVISION].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn replicas(set: &Object) -> i64 {
    set.int("/spec/replicas")
}

fn available(set: &Object) -> i64 {
    set.int("/status/availableReplicas")
}

impl Sync<'_> {
    fn wanted(&self) -> i64 {
        replicas(&self.deployment)
    }

    fn max_surge(&self) -> i64 {
        (self.wanted() + 3) / 4
    }

    fn max_unavailable(&self) -> i64 {
        self.wanted() / 4
    }

    fn new_set(&self) -> Option<Rc<Object>> {
        let template = &self.deployment.value["spec"]["template"];
        self.sets.iter().find(|set| template::same(&set.value["spec"]["template"], template)).cloned()
    }

    fn old_sets(&self) -> Vec<Rc<Object>> {
        let new = self.new_set().map(|set| set.name().to_owned());
        self.sets.iter().filter(|set| Some(set.name()) != new.as_deref()).cloned().collect()
    }

    fn is_scaling(&self) -> bool {
        self.sets.iter().filter(|set| replicas(set) > 0).any(|set| {
            let desired = set.value["metadata"]["annotations"][DESIRED].as_str();
            desired.is_some_and(|desired| desired != self.wanted().to_string())
        })
    }

    /// The new ReplicaSet has the highest revision; it is made if it is not there and may be.
    fn revise(&mut self, create: bool) -> bool {
        let highest = self.old_sets().iter().map(|set| revision(set)).max().unwrap_or(0);
        if let Some(new) = self.new_set() {
            if revision(&new) > highest {
                return false;
            }
            let number = json!((highest + 1).to_string());
            return self
                .server
                .replace(Kind::ReplicaSet, &new, |set| annotate(set, REVISION, number), BY, false)
                .is_ok();
        }
        if !create {
            return false;
        }
        let digest = template::digest(&self.deployment.value["spec"]["template"]);
        let hash = digest[..9].to_owned();
        let mut template = self.deployment.value["spec"]["template"].clone();
        template["metadata"]["labels"]["pod-template-hash"] = json!(hash);
        let total: i64 = self.sets.iter().map(|set| replicas(set)).sum();
        let first = (self.wanted() + self.max_surge() - total).clamp(0, self.wanted());
        let body = json!({
            "metadata": {
                "name": format!("{}-{hash}", self.deployment.name()), "namespace": "shop", "labels": template["metadata"]["labels"],
                "annotations": {REVISION: (highest + 1).to_string(), DESIRED: self.wanted().to_string(), MAX: (self.wanted() + self.max_surge()).to_string()},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": self.deployment.name(), "uid": self.deployment.uid(), "controller": true}]
            },
            "spec": {"replicas": first, "minReadySeconds": self.deployment.int("/spec/minReadySeconds"), "selector": {"matchLabels": template["metadata"]["labels"]}, "template": template}
        });
        self.server.create(Kind::ReplicaSet, body, BY).is_ok()
    }

    fn scale_set(&mut self, set: &Object, to: i64) -> bool {
        let (desired, max) = (json!(self.wanted().to_string()), json!((self.wanted() + self.max_surge()).to_string()));
        let before = set.value.clone();
        let change = |set: &mut Value| {
            set["spec"]["replicas"] = json!(to);
            annotate(set, DESIRED, desired);
            annotate(set, MAX, max);
        };
        let mut after = before.clone();
        change(&mut after);
        after != before && self.server.replace(Kind::ReplicaSet, set, |set| *set = after, BY, false).is_ok()
    }

    /// While paused, and after a change of the size.
    fn scale(&mut self) -> bool {
        let active: Vec<Rc<Object>> = self.sets.iter().filter(|set| replicas(set) > 0).cloned().collect();
        let only = match active.as_slice() {
            // As FindActiveOrLatest has it: not the highest revision, but what was created last.
            [] => self.new_set().or_else(|| self.old_sets().pop()),
            [one] => Some(Rc::clone(one)),
            _ => None,
        };
        if let Some(only) = only {
            return replicas(&only) != self.wanted() && self.scale_set(&only, self.wanted());
        }
        if active.is_empty() {
            return false;
        }
        let wanted = self.wanted();
        if let Some(new) = self.new_set().filter(|new| self.is_saturated(new)) {
            let old = self.old_sets().into_iter().find(|set| replicas(set) > 0 && set.name() != new.name());
            return old.is_some_and(|old| self.scale_set(&old, 0));
        }
        self.scale_in_proportion(active, wanted)
    }

    fn is_saturated(&self, set: &Object) -> bool {
        let desired = set.value["metadata"]["annotations"][DESIRED].as_str();
        desired == Some(self.wanted().to_string().as_str())
            && replicas(set) == self.wanted()
            && available(set) == self.wanted()
    }

    fn scale_in_proportion(&mut self, mut active: Vec<Rc<Object>>, wanted: i64) -> bool {
        let allowed = if wanted > 0 { wanted + self.max_surge() } else { 0 };
        let total: i64 = active.iter().map(|set| replicas(set)).sum();
        let to_add = allowed - total;
        // Largest first; of equals the newest grows first, and the oldest shrinks first. (`sets` are oldest first.)
        if to_add > 0 {
            active.reverse();
        }
        active.sort_by_key(|set| std::cmp::Reverse(replicas(set)));
        let mut added = 0;
        let mut sizes = Vec::new();
        for set in &active {
            let max = set.value["metadata"]["annotations"][MAX]
                .as_str()
                .and_then(|text| text.parse::<i64>().ok())
                .unwrap_or(wanted);
            let share = match (to_add, max) {
                (0, _) | (_, 0) => 0,
                _ if wanted == 0 => -replicas(set),
                _ => ((replicas(set) * allowed) as f64 / max as f64).round() as i64 - replicas(set),
            };
            let left = to_add - added;
            let share = if to_add > 0 { share.clamp(0, left.max(0)) } else { share.clamp(left.min(0), 0) };
            added += share;
            sizes.push(replicas(set) + share);
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        let mut moved = false;
        for (set, size) in active.iter().zip(sizes) {
            moved |= self.scale_set(set, size);
        }
        moved
    }

    fn grow_new(&mut self) -> bool {
        let Some(new) = self.new_set() else { return false };
        let (is, wanted) = (replicas(&new), self.wanted());
        if is > wanted {
            return self.scale_set(&new, wanted);
        }
        let total: i64 = self.sets.iter().map(|set| replicas(set)).sum();
        let to = is + (wanted + self.max_surge() - total).clamp(0, wanted - is);
        (to != is) && self.scale_set(&new, to)
    }

    fn shrink_old(&mut self) -> bool {
        let Some(new) = self.new_set() else { return false };
        let total: i64 = self.sets.iter().map(|set| replicas(set)).sum();
        let least = self.wanted() - self.max_unavailable();
        let most = total - least - (replicas(&new) - available(&new));
        if most <= 0 {
            return false;
        }
        let active: Vec<Rc<Object>> = self.old_sets().into_iter().filter(|set| replicas(set) > 0).collect();
        if let Some(sick) = active.iter().find(|set| available(set) < replicas(set)) {
            let to = replicas(sick) - (replicas(sick) - available(sick)).min(most);
            return self.scale_set(sick, to);
        }
        let spare = self.sets.iter().map(|set| available(set)).sum::<i64>() - least;
        let old = active.first().filter(|_| spare > 0).cloned();
        old.is_some_and(|old| self.scale_set(&old, (replicas(&old) - spare.min(most)).max(0)))
    }

    fn status(&mut self) -> bool {
        let of = |sets: &[Rc<Object>], field: &str| sets.iter().map(|set| set.int(field)).sum::<i64>();
        let new = self.new_set();
        let updated = new.as_ref().map_or(0, |set| set.int("/status/replicas"));
        let (all, up) = (of(&self.sets, "/status/replicas"), of(&self.sets, "/status/availableReplicas"));
        let wanted = self.wanted();
        let paused = self.deployment.is("/spec/paused");
        let generation = self.deployment.int("/metadata/generation");
        let mut status = self.deployment.value.get("status").cloned().unwrap_or_else(|| json!({}));
        status["observedGeneration"] = json!(generation);
        status["replicas"] = json!(all);
        status["updatedReplicas"] = json!(updated);
        status["availableReplicas"] = json!(up);
        let reason = status["conditions"][0]["reason"].as_str().unwrap_or_default().to_owned();
        let complete = !paused && updated == wanted && all == wanted && up == wanted;
        let next = match () {
            () if paused && reason != "ProgressDeadlineExceeded" => Some(("Unknown", "DeploymentPaused")),
            () if complete => Some(("True", "NewReplicaSetAvailable")),
            () if !paused && reason == "DeploymentPaused" => Some(("Unknown", "DeploymentResumed")),
            () => None,
        };
        if let Some((on, reason)) = next {
            status["conditions"] = json!([{"type": "Progressing", "status": on, "reason": reason, "message": ""}]);
        }
        let before = Rc::clone(&self.deployment);
        if before.value.get("status") == Some(&status) {
            return false;
        }
        self.server.replace(Kind::Deployment, &before, |deployment| deployment["status"] = status, BY, true).is_ok()
    }
}

fn annotate(object: &mut Value, name: &str, value: Value) {
    object["metadata"]["annotations"][name] = value;
}
