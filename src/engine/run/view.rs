//! What the stages ask of the world, computed from the arguments of a decision.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::{Action, Arm, Snapshot, Trouble, WorkloadView, canary_replicas, reasons};
use crate::api::{Lets, Phase, Policy, RolloutRunSpec, RolloutRunStatus, Share, Stage, Step, WaitingReason, names};

/// A gateway gets this many seconds between a new backend and its first request: Envoy may use a route before it has
/// the endpoints of a cluster that is new in it, and would answer 503.
pub(super) const INTRODUCED: f64 = 1.0;

/// The arguments of a decision, and what follows from them.
pub(super) struct View<'a> {
    pub policy: &'a Policy,
    pub spec: &'a RolloutRunSpec,
    pub before: &'a RolloutRunStatus,
    pub snapshot: &'a Snapshot,
    pub ending: bool,
    pub now: Timestamp,
}

impl View<'_> {
    pub fn phase(&self) -> Phase {
        self.before.phase.unwrap_or_default()
    }

    /// The run shifts weights in routes; else its weight is the canary's share of pods.
    pub fn routed(&self) -> bool {
        !self.policy.spec.routes.is_empty()
    }

    pub fn seconds_since(&self, time: &Time) -> f64 {
        self.now.duration_since(time.0).as_secs_f64()
    }

    /// Seconds that the run has been waiting for this.
    pub fn waited_for(&self, reason: WaitingReason) -> f64 {
        match &self.before.waiting {
            Some(waiting) if waiting.reason == reason => self.seconds_since(&waiting.since),
            _ => 0.0,
        }
    }

    pub fn stage_age(&self) -> f64 {
        self.before.stage_since.as_ref().map_or(0.0, |since| self.seconds_since(since))
    }

    /// The Deployment that this run releases for.
    pub fn workload(&self) -> Option<&WorkloadView> {
        self.snapshot.workload.as_ref().filter(|workload| !workload.deleting && !workload.made_anew)
    }

    /// Whom the traffic goes back to: stable, or what serves of a Deployment that was made anew in mid-run.
    pub fn home(&self) -> &str {
        let from = &self.spec.from.hash;
        let anew = self.snapshot.workload.as_ref().filter(|workload| workload.made_anew && !workload.deleting);
        let serves = anew
            .filter(|workload| !workload.active.contains_key(from))
            .and_then(|workload| workload.newest.as_ref().filter(|hash| workload.active.contains_key(*hash)));
        serves.unwrap_or(from)
    }

    pub fn replicas(&self) -> i32 {
        self.workload().map_or(1, |workload| workload.replicas)
    }

    pub fn canary(&self) -> Option<&Arm> {
        self.snapshot.canary.as_ref()
    }

    /// The canary's ReplicaSet belongs to the run.
    pub fn canary_is_ours(&self) -> bool {
        self.canary().is_some_and(|arm| arm.owner.is_run())
    }

    /// Canary pods that can take requests: ready, and in the endpoints that the route uses.
    pub fn canary_ready(&self) -> i32 {
        let pods = self.canary().map_or(0, |arm| arm.ready);
        if !self.routed() {
            return pods;
        }
        let endpoints = match self.past_repin() {
            true => self.apex_ready(&self.spec.to.hash),
            false => self.snapshot.canary_service.unwrap_or(0),
        };
        pods.min(i32::try_from(endpoints).unwrap_or(i32::MAX))
    }

    /// Of these, the ones that have been ready for the Deployment's `minReadySeconds`: enough of them let the weight
    /// grow. It shrinks by [`canary_ready`](Self::canary_ready).
    pub fn canary_available(&self) -> i32 {
        self.canary_ready().min(self.canary().map_or(0, |arm| arm.available))
    }

    /// Why there are not so many canary pods yet. A quota's refusal is no fault of the new version: it is no case for
    /// `readyWithin`.
    pub fn short_of(&self, pods: i32) -> (WaitingReason, String) {
        let (ready, available) = (self.canary_ready(), self.canary_available());
        let canary = self.canary();
        let (reason, why) = match canary.and_then(|arm| arm.no_room.as_ref()) {
            Some(why) => (WaitingReason::Quota, Some(why)),
            None => (WaitingReason::Capacity, canary.and_then(|arm| arm.blocked.as_ref())),
        };
        let words = match ready >= pods && available < pods {
            true => format!("{available} of {pods} canary pods are ready for minReadySeconds"),
            false => format!("{ready} of {pods} canary pods are ready"),
        };
        (reason, why.map_or(words.clone(), |why| format!("{words}: {why}")))
    }

    fn past_repin(&self) -> bool {
        self.phase() == Phase::Promoting && self.before.stage >= Some(Stage::Return)
    }

    /// What this step (counted from 1) lets the canary have.
    pub fn step_share(&self, step: u32) -> Share {
        self.policy.spec.share_at(step)
    }

    /// This step, counted from 1.
    pub fn step(&self, step: u32) -> Option<&Step> {
        self.policy.steps.get(usize::try_from(step).ok()?.checked_sub(1)?)
    }

    pub fn pods_for(&self, weight: u32) -> i32 {
        canary_replicas(weight, self.replicas(), self.routed())
    }

    /// Canary pods in this step: its own wish, else as many as its share of the requests needs. An approval keeps what
    /// was there before it.
    pub fn step_pods(&self, step: u32) -> i32 {
        let upto = usize::try_from(step).unwrap_or(usize::MAX).min(self.policy.steps.len());
        let baking = self.policy.steps[..upto].iter().rev().find(|step| !matches!(step, Step::Approval));
        let Some(Step::Bake { lets, pods, .. }) = baking else { return self.pods_for(1) };
        let least = match lets {
            Lets::Preview(_) => return self.replicas().max(1),
            Lets::Mirror(mirror) => self.pods_for(mirror.percent),
            Lets::Weight(_) | Lets::Match(_) => self.pods_for(self.step_share(step).weight.max(1)),
        };
        if !self.routed() {
            return least;
        }
        let most = self.policy.spec.limits.surge.of(self.replicas());
        pods.map_or(least, |pods| pods.of(self.replicas())).min(most)
    }

    /// The canary's percent as all routes have it written; `None` while they differ or one is missing.
    pub fn route_weight(&self) -> Option<u32> {
        let first = self.snapshot.routes.first()?.share.unwrap_or_default().weight;
        let same = self.snapshot.routes.iter().all(|route| route.share.unwrap_or_default().weight == first);
        (same && self.has_routes()).then_some(first)
    }

    /// All routes of the policy are there.
    fn has_routes(&self) -> bool {
        self.snapshot.routes.len() == self.policy.spec.routes.len()
    }

    /// All routes have exactly this written.
    pub fn shows(&self, share: Share) -> bool {
        self.has_routes() && self.snapshot.routes.iter().all(|route| route.share.unwrap_or_default() == share)
    }

    pub fn routes_accepted(&self) -> bool {
        self.has_routes() && self.snapshot.routes.iter().all(|route| route.accepted)
    }

    /// No route still waits for its gateway; one that is gone carries nobody.
    pub fn routes_let_go(&self) -> bool {
        self.snapshot.routes.iter().all(|route| route.accepted)
    }

    /// What a gateway or a missing route says against it.
    pub fn route_message(&self) -> String {
        let said = self.snapshot.routes.iter().find(|route| !route.accepted);
        match said {
            Some(route) => format!("{}: {}", route.name, route.message),
            None if !self.has_routes() => "a route is missing".to_owned(),
            None => "the change is on its way".to_owned(),
        }
    }

    /// The weight that is in force: in the accepted route, or the canary's share of ready pods.
    pub fn set_weight(&self) -> u32 {
        if !self.routed() {
            return self.share_of_pods();
        }
        if self.past_repin() {
            return 100;
        }
        match self.route_weight() {
            Some(weight) if self.routes_accepted() => weight,
            _ => self.before.weight.set,
        }
    }

    /// This share of this step is in force, as nearly as whole pods can have it.
    pub fn in_force(&self, share: Share, step: u32) -> bool {
        if self.routed() {
            let pods = if share.is_none() { self.step_pods(step) } else { 0 };
            let shown = self.preview_is_pending(step).is_none();
            return self.shows(share) && self.routes_accepted() && self.canary_ready() >= pods && shown;
        }
        let ready = self.apex_ready(&self.spec.to.hash);
        ready > 0 && i32::try_from(ready).unwrap_or(i32::MAX) >= self.pods_for(share.weight)
    }

    fn share_of_pods(&self) -> u32 {
        let Some(apex) = self.snapshot.services.first() else { return self.before.weight.set };
        let canary = apex.ready.get(&self.spec.to.hash).copied().unwrap_or(0);
        let all: usize = apex.ready.values().sum();
        if all == 0 { 0 } else { u32::try_from((200 * canary + all) / (2 * all)).unwrap_or(100) }
    }

    /// What the routes should have written at this place of the run.
    pub fn route_wanted(&self, status: &RolloutRunStatus) -> Share {
        match (status.phase, status.stage) {
            (Some(Phase::Promoting), Some(stage)) if stage >= Stage::Return => Share::NONE,
            (Some(Phase::RollingBack), _) => Share::NONE,
            (Some(phase), _) if phase.is_terminal() => Share::NONE,
            _ => status.weight.share(),
        }
    }

    /// The hash that the Services should be pinned to at this place of the run.
    pub fn pin_wanted(&self, status: &RolloutRunStatus) -> Option<String> {
        if !self.routed() {
            return None;
        }
        match (status.phase, status.stage) {
            (_, Some(Stage::Tidy)) => None,
            (Some(Phase::Promoting), Some(stage)) if stage >= Stage::Repin => Some(self.spec.to.hash.clone()),
            (Some(phase), _) if phase.is_terminal() => None,
            _ => Some(self.home().to_owned()),
        }
    }

    pub fn pinned_to(&self, hash: &str) -> bool {
        !self.snapshot.services.is_empty()
            && self.snapshot.services.iter().all(|service| service.hash.as_deref() == Some(hash))
    }

    /// Pins that differ from this.
    pub fn pins(&self, hash: &str) -> Vec<Action> {
        if !self.routed() {
            return Vec::new();
        }
        let other = self.snapshot.services.iter().filter(|service| service.hash.as_deref() != Some(hash));
        other.map(|service| Action::Pin { service: service.name.clone(), hash: hash.to_owned() }).collect()
    }

    /// Pins that are there at all. Where a newer run has the Deployment they are that one's: this run is over, and a late
    /// cache does not show it yet.
    pub fn unpins(&self) -> Vec<Action> {
        let holder = self.workload().and_then(|workload| workload.run_label.as_ref());
        if holder.is_some_and(|holder| names::order(holder) > names::order(&self.snapshot.run)) {
            return Vec::new();
        }
        let pinned = self.snapshot.services.iter().filter(|service| service.hash.is_some());
        let pinned = pinned.map(|service| Action::Unpin { service: service.name.clone() });
        pinned.chain(self.let_strays_go()).collect()
    }

    /// Our pin would make a Service that was turned elsewhere select nobody.
    pub fn let_strays_go(&self) -> Vec<Action> {
        self.snapshot.strays.iter().map(|service| Action::Unpin { service: service.clone() }).collect()
    }

    /// Until the handover the Deployment's own pods are those of stable: see [`Action::KeepServing`].
    pub fn keep_serving(&self) -> Option<Action> {
        let serving = &self.spec.from.hash;
        let handed_over = self.phase() == Phase::Promoting && self.before.stage >= Some(Stage::HandOver);
        let workload = self.workload().filter(|workload| workload.paused && workload.replicas > 0 && !handed_over)?;
        // The canary's may be the Deployment's, where a deletion of the run has orphaned it: it goes by itself.
        let another = workload.active.keys().any(|hash| hash != serving && *hash != self.spec.to.hash)
            || !workload.active.is_empty() && !workload.active.contains_key(serving);
        another.then(|| Action::KeepServing { serving: serving.clone() })
    }

    /// Every route has the canary's reference.
    pub fn introduced(&self) -> bool {
        self.has_routes() && self.snapshot.routes.iter().all(|route| route.share.is_some())
    }

    /// Why the routes can't take this share: somebody has edited them since the run began, and with the rules that it
    /// adds the API server would refuse them.
    pub fn has_no_room_for(&self, share: Share) -> Option<&Trouble> {
        let sticky = self.policy.spec.sticky.is_some() && (1..100).contains(&share.weight);
        let adds_rules = share.matching.is_some() || share.mirror.is_some() || sticky;
        self.snapshot.troubles.iter().find(|trouble| adds_rules && trouble.reason == reasons::ROUTE_FULL)
    }

    /// The gateway knows the canary. Somebody may have taken it out of the route in mid-run: then it is introduced as at
    /// first, with time for its endpoints.
    pub fn gateway_knows(&self) -> bool {
        let again = self.before.waiting.as_ref().is_some_and(|waiting| waiting.reason == WaitingReason::Introduction);
        let settled = !again || self.routes_accepted() && self.waited_for(WaitingReason::Introduction) >= INTRODUCED;
        self.introduced() && settled
    }

    /// Sets this share where the routes differ from it; where the canary is not known yet, it is introduced first.
    pub fn weights(&self, share: Share) -> Vec<Action> {
        match () {
            () if !self.routed() || self.shows(share) || self.has_no_room_for(share).is_some() => Vec::new(),
            () if !share.is_none() && !self.introduced() => vec![Action::AddToRoutes],
            () => vec![Action::SetWeight(share)],
        }
    }

    /// The host name of the preview, in this step (counted from 1) and those after it.
    fn preview_host(&self, step: u32) -> Option<&str> {
        let upto = usize::try_from(step).unwrap_or(usize::MAX).min(self.policy.steps.len());
        let preview = self.policy.steps[..upto].iter().find_map(|step| match step {
            Step::Bake { lets: Lets::Preview(preview), .. } => preview.preview_host.as_deref(),
            _ => None,
        });
        preview.filter(|_| !self.spec.straight)
    }

    /// Makes the preview's route in this step where there is none.
    pub fn show_preview(&self, step: u32) -> Option<Action> {
        (self.preview_host(step).is_some() && self.snapshot.preview.is_none()).then_some(Action::EnsurePreview)
    }

    /// Takes the preview's route away where there is one.
    pub fn end_preview(&self) -> Option<Action> {
        self.snapshot.preview.is_some().then_some(Action::DeletePreview)
    }

    /// Why the preview can't be reached by its host name yet.
    pub fn preview_is_pending(&self, step: u32) -> Option<String> {
        let host = self.preview_host(step)?;
        match &self.snapshot.preview {
            Some(preview) if preview.accepted => None,
            Some(preview) => {
                Some(format!("waiting for the gateway to take {host} for the preview: {}", preview.message))
            }
            None => Some(format!("making the route of the preview's host name, {host}")),
        }
    }

    /// Makes the canary this big where it is not.
    pub fn canary_of(&self, replicas: i32) -> Vec<Action> {
        let is = self.canary().map(|arm| (arm.wanted, arm.owner.is_run()));
        let done = is == Some((replicas, true)) || (replicas == 0 && self.canary().is_none());
        (!done).then_some(Action::EnsureCanary { replicas }).into_iter().collect()
    }

    /// Ownership that is to be given up once everything is put back.
    pub fn disown(&self) -> Option<Action> {
        let owned = self.snapshot.routes.iter().any(|route| route.owned)
            || self.snapshot.services.iter().any(|service| service.owned);
        owned.then_some(Action::Disown)
    }

    pub fn apex_ready(&self, hash: &str) -> usize {
        self.snapshot.services.first().and_then(|apex| apex.ready.get(hash)).copied().unwrap_or(0)
    }

    /// Direct callers of the apex reach this version and no other.
    pub fn apex_serves_only(&self, hash: &str) -> bool {
        self.snapshot.services.first().is_some_and(|apex| {
            apex.ready.get(hash).copied().unwrap_or(0) > 0
                && apex.ready.iter().all(|(other, n)| other == hash || *n == 0)
        })
    }

    /// No Service can send anything to the canary.
    pub fn canary_has_endpoints(&self) -> bool {
        self.snapshot.services.iter().any(|service| service.ready.get(&self.spec.to.hash).copied().unwrap_or(0) > 0)
    }

    pub fn route_is_clear(&self) -> bool {
        self.snapshot.routes.iter().all(|route| route.share.is_none())
    }

    /// What somebody else changed since it was confirmed.
    pub fn fights(&self) -> Vec<String> {
        let mut fights = Vec::new();
        let wanted = self.route_wanted(self.before);
        if self.before.confirmed == Some(wanted.weight) && !wanted.is_none() {
            let changed = self.snapshot.routes.iter().filter(|route| route.share.unwrap_or_default() != wanted);
            fights.extend(changed.map(|route| {
                let who = route.changed_by.as_deref().unwrap_or("somebody");
                let found = match route.share {
                    None => "no canary".to_owned(),
                    Some(Share { weight, matching: Some(0), .. }) => format!("weight {weight} and other rules"),
                    Some(share) => share.to_string(),
                };
                format!("{who} changed {}: expected {wanted}, found {found}", route.name)
            }));
        }
        if let Some(pinned) = &self.before.pinned
            && self.pin_wanted(self.before).as_ref() == Some(pinned)
        {
            let changed = self.snapshot.services.iter().filter(|service| service.hash.as_ref() != Some(pinned));
            fights.extend(changed.map(|service| {
                let who = service.changed_by.as_deref().unwrap_or("somebody");
                let found = service.hash.as_deref().unwrap_or("none");
                format!(
                    "{who} changed Service {}: expected the selector pinned to {pinned}, found {found}",
                    service.name
                )
            }));
        }
        fights
    }

    /// Somebody else keeps changing route or pin.
    pub fn is_contested(&self) -> bool {
        let recent = self.before.contested.iter().filter(|time| self.seconds_since(time) < super::CONTEST_WINDOW);
        recent.count() >= super::CONTESTS
    }

    pub fn started_message(&self) -> String {
        format!(
            "releasing {} ({}) over {} ({})",
            self.spec.to.image_list(),
            self.spec.to.hash,
            self.spec.from.image_list(),
            self.spec.from.hash
        )
    }

    /// The Deployment is labelled with this run.
    pub fn holds_workload(&self) -> bool {
        self.workload().is_some_and(|workload| workload.run_label.as_ref() == Some(&self.snapshot.run))
    }

    /// Labels the Deployment with this run where it is not.
    pub fn hold(&self) -> Option<Action> {
        (self.workload().is_some() && !self.holds_workload()).then_some(Action::HoldWorkload)
    }
}

/// A stage in words.
pub(super) fn stage_words(stage: Option<Stage>) -> &'static str {
    match stage {
        None => "",
        Some(Stage::Grow) => "the canary grows to full size",
        Some(Stage::Switch) => "the route gives the canary everything",
        Some(Stage::Repin) => "direct callers move to the new version",
        Some(Stage::Return) => "the route goes back to the Service, which is the new version now",
        Some(Stage::Quiet) => "the old version finishes its requests",
        Some(Stage::Keep) => "the old version is kept for an instant return",
        Some(Stage::Unroute | Stage::Withdraw) => "the canary's reference leaves the route",
        Some(Stage::HandOver) => "the new version has the Deployment's size",
        Some(Stage::Converge) => "the Deployment takes the new ReplicaSet over",
        Some(Stage::Divert) => "the traffic goes back to stable",
        Some(Stage::Drain) => "the canary finishes its requests",
        Some(Stage::ScaleAway) => "the canary's pods go away",
        Some(Stage::Tidy) => "tidying up",
    }
}
