//! `RolloutRun`: one release going through a policy, and its record afterwards.

// The derive's print columns repeat `type_` by design; clippy takes them for one attribute.
#![allow(clippy::duplicated_attributes)]

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rollout::RolloutSpec;

/// One release: from the version that served to the new one. Created by Serin; people pause, abort, approve and retry it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "serin.dev",
    version = "v1alpha1",
    kind = "RolloutRun",
    doc = "One release going through a Rollout, and its record afterwards.",
    namespaced,
    status = "RolloutRunStatus",
    derive = "PartialEq",
    shortname = "sror",
    category = "serin",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Step",
        type_ = "integer",
        json_path = ".status.step",
        description = "Step under way, counted from 1"
    ),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".status.weight.set"),
    printcolumn(name = "Seen", type_ = "number", json_path = ".status.weight.seen"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "From", type_ = "string", json_path = ".spec.from.hash", priority = 1),
    printcolumn(name = "To", type_ = "string", json_path = ".spec.to.hash", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.rolloutRef == oldSelf.rolloutRef && self.from == oldSelf.from && self.to == oldSelf.to && self.policy == oldSelf.policy && self.?straight == oldSelf.?straight && has(self.workloadUid) == has(oldSelf.workloadUid) && (!has(self.workloadUid) || self.workloadUid == oldSelf.workloadUid)")
    .message("a run keeps its versions and the policy it started by: only paused, abort, approved, promote and retry are for people"))]
pub struct RolloutRunSpec {
    /// The Rollout it belongs to.
    pub rollout_ref: RolloutRef,
    /// metadata.uid of the Deployment: one that is made anew in mid-run is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub workload_uid: Option<String>,
    /// The version that serves.
    pub from: Version,
    /// The version that is released.
    pub to: Version,
    /// The policy as it stood when the run began.
    pub policy: RolloutSpec,
    /// The version served lately, so that policy.rollbackWindow lets it go straight through, without the steps.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub straight: bool,
    /// Holds the run at its weight. A bad verdict or an abort still take the traffic back.
    #[serde(default)]
    pub paused: bool,
    /// Takes the traffic back and ends the run.
    #[serde(default)]
    pub abort: bool,
    /// The number of the step (counted from 1) up to which approvals are given.
    #[serde(default)]
    #[schemars(range(max = 50))]
    pub approved: u32,
    /// Promotes at once, without what is left of the steps. A bad verdict still takes the traffic back.
    #[serde(default)]
    pub promote: bool,
    /// On a run that was rolled back: try the same version again, in a new run.
    #[serde(default)]
    pub retry: bool,
}

/// A Rollout of the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct RolloutRef {
    /// Its name.
    pub name: String,
}

/// A version of the workload.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// The pod-template-hash of its pods.
    pub hash: String,
    /// Digest of its pod template, by which the version is known again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub template: String,
    /// Kubernetes' revision number, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Container name to image.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<String, String>,
}

impl Version {
    /// Its images, comma separated.
    pub fn image_list(&self) -> String {
        self.images.values().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// Where a run is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Phase {
    /// The canary's objects are being made; it has no traffic yet.
    #[default]
    Preparing,
    /// Its share of the traffic grows by the steps.
    Shifting,
    /// All steps are done; the Deployment takes the new version over.
    Promoting,
    /// The traffic goes back to stable and the canary away.
    RollingBack,
    /// The new version serves.
    Succeeded,
    /// The new version was refused or aborted; the old one serves.
    RolledBack,
    /// A newer version came in between.
    Superseded,
    /// The old version was asked for again, or the Rollout was deleted.
    Cancelled,
}

impl Phase {
    /// Nothing more happens in this run.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::RolledBack | Self::Superseded | Self::Cancelled)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a run that rolls back ends as.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Refused, or aborted.
    RolledBack,
    /// A newer version came.
    Superseded,
    /// The old version was asked for again.
    Cancelled,
}

impl From<Outcome> for Phase {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::RolledBack => Self::RolledBack,
            Outcome::Superseded => Self::Superseded,
            Outcome::Cancelled => Self::Cancelled,
        }
    }
}

/// Where a promotion or a rollback is. They go in this order.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Promotion: the canary grows to the Deployment's size.
    Grow,
    /// Promotion: the route gives the canary everything.
    Switch,
    /// Promotion: the apex Service selects the canary, so that direct callers follow.
    Repin,
    /// Promotion: the route goes back to the apex, which is the canary now.
    Return,
    /// Promotion: the old version finishes its requests.
    Quiet,
    /// Promotion: the canary's reference leaves the route.
    Unroute,
    /// Promotion: the old version is kept at full size for an instant return (blueGreen.keepOldFor).
    Keep,
    /// Promotion: the canary is as big as the Deployment, which shall take its ReplicaSet.
    HandOver,
    /// Promotion: the Deployment takes the canary's ReplicaSet as its own, and settles. From here there is no way back.
    Converge,
    /// Rollback: all traffic goes to stable.
    Divert,
    /// Rollback: the canary finishes its requests.
    Drain,
    /// Rollback: the canary's pods go away.
    ScaleAway,
    /// Rollback: the canary's reference leaves the route.
    Withdraw,
    /// Both: pins, labels and the canary's Service are taken away.
    Tidy,
}

/// Percent of requests that go to the canary.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Default)]
pub struct Weight {
    /// Asked for by the engine.
    pub wanted: u32,
    /// In the route that its gateway accepted (without a route: the canary's share of ready pods).
    pub set: u32,
    /// Measured from request counts of the last seconds. Absent without requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<f64>,
    /// Asked for besides: the step (counted from 1) whose `match` sends requests to the canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matching: Option<u32>,
    /// Asked for besides: the step whose `mirror` copies requests to the canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<u32>,
}

impl Weight {
    /// What is asked for.
    pub fn share(&self) -> Share {
        Share { weight: self.wanted, matching: self.matching, mirror: self.mirror }
    }
    /// Asks for this.
    pub fn ask(&mut self, share: Share) {
        (self.wanted, self.matching, self.mirror) = (share.weight, share.matching, share.mirror);
    }
}

/// Which requests reach the canary.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Share {
    /// Percent of requests.
    pub weight: u32,
    /// Besides, those that meet the `match` of this step, counted from 1.
    pub matching: Option<u32>,
    /// Besides, copies by the `mirror` of this step.
    pub mirror: Option<u32>,
}

impl Share {
    /// None at all.
    pub const NONE: Self = Self::of(0);

    /// This percent, and nothing besides.
    pub const fn of(weight: u32) -> Self {
        Self { weight, matching: None, mirror: None }
    }
    /// Nothing reaches the canary.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
    /// What both allow.
    pub fn least(self, other: Self) -> Self {
        Self {
            weight: self.weight.min(other.weight),
            matching: self.matching.filter(|step| other.matching == Some(*step)),
            mirror: self.mirror.filter(|step| other.mirror == Some(*step)),
        }
    }
}

/// As people read it, in traces too.
impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "weight {}", self.weight)?;
        if let Some(step) = self.matching {
            write!(f, " and the match of step {step}")?;
        }
        if let Some(step) = self.mirror {
            write!(f, " and the copies of step {step}")?;
        }
        Ok(())
    }
}

/// Why a run does not go on at once.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingReason {
    /// The step's time is not over.
    Bake,
    /// A person must approve.
    Approval,
    /// A person paused the run.
    Paused,
    /// Canary pods are not ready yet.
    Capacity,
    /// A ResourceQuota has no room for canary pods.
    Quota,
    /// The gateway has not accepted the route yet.
    Route,
    /// Somebody took the canary out of the route; it is in it again, at weight 0, for the gateway to learn of it.
    Introduction,
    /// No counts, so no verdict.
    NoData,
    /// The source of counts has nothing but old ones.
    StaleData,
    /// One version counts no requests, and the other does.
    SilentArm,
    /// Too few requests to have seen a regression.
    FewRequests,
    /// Both versions are bad: not the new one's fault.
    SharedFault,
    /// Somebody else keeps changing the route or the Service.
    RouteContested,
    /// Something in the objects must be mended first.
    Blocked,
    /// A canary pod that is bad by itself is being replaced.
    BadPod,
    /// The canary is worse, and it is not clear whether that is the version or one of its pods; or it looks so, and that is
    /// not proven yet.
    Suspicion,
    /// The canary gets more requests than its weight.
    SplitMismatch,
    /// The gateway sent the canary requests that its pods did not count, and stable's count theirs.
    RequestsLost,
    /// The step takes longer than limits.stepTimeout.
    StepTimeout,
    /// Requests under way are finishing.
    Drain,
    /// Kubernetes is at work on the Deployment.
    Workload,
    /// A gate has not said yes.
    Gate,
    /// Kept for debugging by limits.keepCanaryFor.
    KeptForDebugging,
    /// The old version is kept for an instant return by blueGreen.keepOldFor.
    KeptForReturn,
}

/// What the run waits for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct Waiting {
    /// One word.
    pub reason: WaitingReason,
    /// One sentence.
    pub message: String,
    /// Since when.
    pub since: meta::Time,
}

/// Requests of one arm since the run began.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ArmRequests {
    /// All requests.
    pub requests: u64,
    /// Bad ones: errors, or slower than the threshold.
    pub bad: u64,
}

/// The verdict on one SLO.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct SloStatus {
    /// Name of the SLO.
    pub name: String,
    /// Good, Bad, Undecided or NoData.
    pub verdict: String,
    /// Natural logarithm of the evidence that the canary is worse.
    pub evidence: f64,
    /// At this much evidence the verdict is Bad.
    pub threshold: f64,
    /// The canary's requests.
    pub canary: ArmRequests,
    /// Stable's requests.
    pub stable: ArmRequests,
    /// Bad requests because of this release.
    #[serde(default)]
    pub harm: HarmStatus,
    /// Where else it is worse than stable: further bounds of the histogram.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub worse: Vec<String>,
    /// Who is to blame, while the evidence is past its threshold: Version, one Pod, or Unclear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspect: Option<String>,
}

/// Requests of the canary that went bad beyond stable's share. With 99 % the truth is between low and high.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Default)]
pub struct HarmStatus {
    /// The estimate.
    pub failed: f64,
    /// At least.
    pub low: f64,
    /// At most.
    pub high: f64,
}

/// A canary pod that was bad by itself.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct BadPod {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// The canary's share of the requests, where it is not as asked.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq)]
pub struct SplitStatus {
    /// Percent of requests that the route gives it.
    pub asked: f64,
    /// Percent that it got at this weight. Less than asked: other callers reach stable without the route.
    pub got: f64,
    /// Requests of both versions that were counted for it.
    pub requests: u64,
}

/// What a query of the policy's own answered in the last window of this step.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct QueryStatus {
    /// Its name.
    pub name: String,
    /// Good, Bad (final), Over, Pending, SharedFault or NoData.
    pub verdict: String,
    /// Percent of the canary's requests that are bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<f64>,
    /// Percent of stable's requests that are bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<f64>,
}

/// What a gate said.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct GateStatus {
    /// The gate and where it was asked: smoke-test@step-2.
    pub gate: String,
    /// How often it was asked.
    pub attempt: u32,
    /// Running, Passed or Failed.
    pub state: GateState,
    /// What it said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Since when.
    pub since: meta::Time,
}

/// Where a gate is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// It was asked and has not answered.
    Running,
    /// Yes.
    Passed,
    /// No.
    Failed,
}

/// One decision of the run, for the question "why did it do that?".
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct Decided {
    /// When.
    pub time: meta::Time,
    /// What was done.
    pub what: String,
    /// Why.
    pub why: String,
}

/// What is. Everything that a decision needs to go on after a crash is in here or in the objects themselves.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutRunStatus {
    /// Where the run is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// What it ends as, once it rolls back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// One word for why it rolls back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The run in one sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The step under way, counted from 1; 0 before the first.
    pub step: u32,
    /// When the step's weight was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_since: Option<meta::Time>,
    /// Seconds of the step that were spent waiting for people; they don't count for stepTimeout.
    pub step_excused: f64,
    /// Where the promotion or the rollback is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// When that began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage_since: Option<meta::Time>,
    /// Weight of the canary.
    pub weight: Weight,
    /// The highest weight that was reached and confirmed; a route that shows another was changed by somebody else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<u32>,
    /// The pin that was set and confirmed: the pod-template-hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<String>,
    /// When somebody else changed route or pin, in the last minutes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub contested: Vec<meta::Time>,
    /// Weights of the route's own references before the run, as JSON: to be put back. Written even when there are none,
    /// for what is added tests what was there.
    pub original_weights: BTreeMap<String, String>,
    /// What it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Verdicts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slos: Vec<SloStatus>,
    /// What the policy's own queries answered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub queries: Vec<QueryStatus>,
    /// The canary pod that was bad by itself and was replaced. It happens once in a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bad_pod: Option<BadPod>,
    /// The canary's share of the requests, where it is not as asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitStatus>,
    /// What the gates said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub gates: Vec<GateStatus>,
    /// The last 20 decisions, newest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub decisions: Vec<Decided>,
    /// Restarts of each arm's containers when the run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable_restarts: Option<u32>,
    /// When the run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<meta::Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<meta::Time>,
    /// The evidence so far, saved at a slow rhythm, so that another controller goes on from it. Opaque.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<String>,
    /// How stable's bad requests come together, by SLO, for the next run to begin with. Opaque.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learnt: Option<String>,
}
