//! What is, in plain values: all that a decision may depend on besides the policy, the status and the time.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::reasons;
use crate::{
    api::Share,
    evidence::{Blind, Judgement, Lost, Mismatch, Windows},
};

/// One look at a run's objects and counts. What was counted is not written with it: the counts are a record of their own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Snapshot {
    /// Name of the run.
    pub run: String,
    /// The Deployment; `None` if it is gone.
    pub workload: Option<WorkloadView>,
    /// Pods and ReplicaSet of the version that serves.
    pub stable: Option<Arm>,
    /// Pods and ReplicaSet of the new version.
    pub canary: Option<Arm>,
    /// Services that select the workload's pods, the apex first.
    pub services: Vec<Pinned>,
    /// Services with a pin of this run that select none of its pods any more: their owners have turned them elsewhere.
    pub strays: Vec<String>,
    /// Ready endpoints of the canary's Service; `None` if there is no such Service.
    pub canary_service: Option<usize>,
    /// The routes, in the policy's order. Empty in a run without routes.
    pub routes: Vec<RouteView>,
    /// The route of the preview's host name; `None` if there is none of this run.
    pub preview: Option<PreviewView>,
    /// What was counted.
    #[serde(skip)]
    pub traffic: Traffic,
    /// Verdicts on the SLOs, in the policy's order. Empty before the first counts.
    #[serde(skip)]
    pub judgements: Vec<Judgement>,
    /// What gates that were asked have answered.
    #[serde(serialize_with = "pairs", deserialize_with = "from_pairs")]
    pub gates: Gates,
    /// What must be mended first.
    pub troubles: Vec<Trouble>,
}

/// By NAME@POINT and attempt. A gate that is not in it is not being asked.
pub type Gates = BTreeMap<(String, u32), GateAnswer>;

/// JSON has no keys of two parts.
fn pairs<S: Serializer>(gates: &Gates, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(gates.iter())
}

fn from_pairs<'de, D: Deserializer<'de>>(from: D) -> Result<Gates, D::Error> {
    Ok(Vec::deserialize(from)?.into_iter().collect())
}

/// What a gate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GateAnswer {
    /// Nothing yet.
    Running,
    /// Yes, and in these words.
    Passed(String),
    /// No, and why.
    Failed(String),
}

/// The Deployment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadView {
    /// Wanted pods.
    pub replicas: i32,
    /// Paused, by whomever.
    pub paused: bool,
    /// The latch paused it, whichever one.
    pub latched: bool,
    /// The latch that paused it is the admission policy: between runs it is not paused.
    pub latched_by_policy: bool,
    /// The Rollout it is labelled with.
    pub rollout_label: Option<String>,
    /// The run it is labelled with.
    pub run_label: Option<String>,
    /// Digest of its template.
    pub template: String,
    /// Hashes of ReplicaSets with exactly its template, the Deployment's own and a run's.
    pub template_hashes: Vec<String>,
    /// Hash to wanted pods of the ReplicaSets that the Deployment owns, if above 0.
    pub active: BTreeMap<String, i32>,
    /// Hash of the owned ReplicaSet with the highest revision.
    pub newest: Option<String>,
    /// Its controller has seen the last change, and all its pods are of its template and available.
    pub settled: bool,
    /// `kubectl rollout status` would report a failure of ours.
    pub failure_reported: bool,
    /// Images, comma separated.
    pub images: String,
    /// Ready pods of the ReplicaSets that the Deployment owns.
    pub ready: usize,
    /// Deleted, waiting to go.
    pub deleting: bool,
    /// Made anew since the run began: another one of the same name.
    pub made_anew: bool,
    /// The tracked data; `None` if the policy tracks none, or the template names none.
    pub configuration: Option<ConfigurationView>,
}

/// ConfigMaps and Secrets that the template names.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigurationView {
    /// The stamp that says what they have now, and its digest.
    pub wanted: String,
    /// The digest in it.
    pub digest: String,
    /// The stamp of the Deployment's template.
    pub is: Option<String>,
    /// Serin stamped it so last. Otherwise somebody took the template back since.
    pub is_ours: bool,
    /// There are copies of all of what they have now.
    pub copied: bool,
    /// There are copies that no version needs any more.
    pub stale: bool,
}

/// The pods and the ReplicaSet of one version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Arm {
    /// Who owns the ReplicaSet.
    pub owner: ArmOwner,
    /// Wanted pods.
    pub wanted: i32,
    /// Pods that are there and not going.
    pub pods: i32,
    /// Ready ones, those that are going left out.
    pub ready: i32,
    /// Ready for `minReadySeconds`, as the ReplicaSet's status has it.
    pub available: i32,
    /// UID and name of the pods that are there and not going.
    pub uids: BTreeMap<String, String>,
    /// Restarts of its pods' containers.
    pub restarts: u32,
    /// What keeps pods from being made or started, in Kubernetes' words.
    pub blocked: Option<String>,
    /// A ResourceQuota has no room for its pods: in Kubernetes' words.
    pub no_room: Option<String>,
}

/// Who owns a ReplicaSet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArmOwner {
    /// The Deployment.
    Workload,
    /// This run.
    Run,
    /// This run, borrowed from the Deployment's history.
    Borrowed,
    /// Nobody yet: between the two.
    #[default]
    Nobody,
}

impl ArmOwner {
    /// This run, however it came by it.
    pub fn is_run(self) -> bool {
        matches!(self, Self::Run | Self::Borrowed)
    }
}

/// A Service that selects the workload's pods.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Pinned {
    /// Name.
    pub name: String,
    /// The hash it is pinned to.
    pub hash: Option<String>,
    /// Serin is the field manager of something in it.
    pub owned: bool,
    /// Ready endpoints by pod-template-hash.
    pub ready: BTreeMap<String, usize>,
    /// Field manager that changed it last, if not Serin.
    pub changed_by: Option<String>,
}

/// A route that carries callers to the apex.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteView {
    /// Name.
    pub name: String,
    /// The canary's share as written in the route; `None` without a canary reference.
    pub share: Option<Share>,
    /// Serin is the field manager of something in it.
    pub owned: bool,
    /// Every gateway it is attached to has accepted this generation with its references.
    pub accepted: bool,
    /// What a gateway said otherwise.
    pub message: String,
    /// Field manager that changed it last, if not Serin.
    pub changed_by: Option<String>,
}

/// The route of a preview's host name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PreviewView {
    /// Every gateway it is attached to has accepted it.
    pub accepted: bool,
    /// What a gateway said otherwise.
    pub message: String,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Percent of requests that the canary got in the last seconds.
    pub seen: Option<f64>,
    /// The canary gets traffic and answers nothing: why that is believed.
    pub silent: Option<String>,
    /// One version's counters stand still although it serves: why that is believed.
    pub still: Option<String>,
    /// Seconds since the canary's request counters last moved.
    pub canary_idle: f64,
    /// Seconds since stable's request counters last moved.
    pub stable_idle: f64,
    /// Why counts can't be read.
    pub blind: Option<Blind>,
    /// The canary's share of the requests is not what the route says.
    pub mismatch: Option<Mismatch>,
    /// The router sent the canary requests that its pods did not count.
    pub lost: Option<Lost>,
    /// What the policy's own queries come to, in its order.
    pub queries: Vec<Windows>,
    /// Requests a second that both versions counted, on average; `None` before the first count.
    pub rate: Option<f64>,
}

/// Something in the objects that a person must mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// One word, from [`super::reasons`].
    pub reason: &'static str,
    /// What was expected, what was found, what to do.
    pub message: String,
}

impl<'de> Deserialize<'de> for Trouble {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Written {
            reason: String,
            message: String,
        }
        let Written { reason: word, message } = Written::deserialize(from)?;
        let expected = || D::Error::custom(format!("expected one of Serin's reasons, found {word:?}"));
        Ok(Self { reason: reasons::known(&word).ok_or_else(expected)?, message })
    }
}
