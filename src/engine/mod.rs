//! Decides what to do next. Pure: no IO, no clock, no randomness; everything comes in as an argument.
//!
//! [`decide`] moves one run, [`govern`] looks after a workload between runs. Both turn what is ([`Snapshot`],
//! [`Governed`]) and what was written down (the status) into idempotent "make it so" [`Action`]s and the next status.

mod govern;
pub mod reasons;
mod run;
mod snapshot;
mod weight;

pub use govern::{Governance, Governed, LastRun, Latch, govern};
pub use run::{ByCounts, Says, by_counts, decide, query_status};
pub use snapshot::{
    Arm, ArmOwner, ConfigurationView, GateAnswer, Gates, Pinned, PreviewView, RouteView, Snapshot, Traffic, Trouble,
    WorkloadView,
};
pub use weight::canary_replicas;

use serde::Serialize;

use crate::api::{RolloutRunStatus, Share};

/// One "make it so". Doing it twice does no harm.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Label the Deployment with its Rollout.
    LabelWorkload,
    /// Take Serin's labels off the Deployment.
    UnlabelWorkload,
    /// Label the Deployment with the run: from now on only Serin may unpause it.
    HoldWorkload,
    /// Take the run's label off the Deployment.
    ReleaseWorkload,
    /// Pause the Deployment (where there is no latch policy).
    PauseWorkload,
    /// Unpause the Deployment, if its template is still that of the ReplicaSet with this hash.
    UnpauseWorkload {
        /// pod-template-hash of the ReplicaSet that serves.
        serving: String,
    },
    /// Let the Service select one arm only.
    Pin {
        /// Name of the Service.
        service: String,
        /// pod-template-hash.
        hash: String,
    },
    /// Let the Service select what its owner wrote.
    Unpin {
        /// Name of the Service.
        service: String,
    },
    /// Have the canary's Service.
    EnsureCanaryService,
    /// Delete the canary's Service.
    DeleteCanaryService,
    /// Have the canary's ReplicaSet, with this many pods.
    EnsureCanary {
        /// Pods.
        replicas: i32,
    },
    /// Take the canary's pods away, then its ReplicaSet (a borrowed one is kept at 0).
    RemoveCanary,
    /// Delete this canary pod, for its ReplicaSet to make another.
    ReplacePod {
        /// Its UID.
        uid: String,
    },
    /// Give a borrowed ReplicaSet back to the Deployment.
    ReturnBorrowed,
    /// Have the canary's reference in the routes at weight 0, so that gateways know its endpoints before its first request.
    AddToRoutes,
    /// Give the canary this share of requests in every rule of the routes that names the apex.
    SetWeight(Share),
    /// Have the route of the preview's host name.
    EnsurePreview,
    /// Delete it.
    DeletePreview,
    /// Take the canary's reference out of the routes and put the weights back.
    ClearRoutes,
    /// Give up the ownership of fields of routes and Services that were put back, so that their owners can apply them
    /// again without a conflict.
    Disown,
    /// Let the Deployment take the canary's ReplicaSet as its own.
    HandOver,
    /// Scale the old ReplicaSet of the Deployment to 0: the one that is not what its template wants.
    ScaleDownOld,
    /// Have the Deployment's pods made by this ReplicaSet. Scaled up from 0 while it is paused, Kubernetes takes the one
    /// that was created last, which need not be the one that served.
    KeepServing {
        /// pod-template-hash of the ReplicaSet that serves.
        serving: String,
    },
    /// Tell `kubectl rollout status` that the new version was refused.
    ReportFailure {
        /// Why.
        message: String,
    },
    /// Take such a report back.
    ClearFailure,
    /// Ask a gate (a Job or an HTTP service) of the run's policy, if it is not being asked.
    AskGate {
        /// The gate and where the run is: NAME@POINT.
        gate: String,
        /// Which time.
        attempt: u32,
    },
    /// Have copies of the tracked data as it is now.
    CopyConfiguration,
    /// Stamp the Deployment's template with it: a change like any other, which the latch holds.
    StampConfiguration {
        /// The stamp.
        stamp: String,
    },
    /// Delete copies that no version needs any more.
    ForgetConfigurations,
    /// Create a run for the Deployment's template.
    StartRun,
    /// Delete this finished run from the record.
    ForgetRun {
        /// Its name.
        run: String,
    },
    /// Keep the object until Serin is done with it.
    AddFinalizer,
    /// Let the object go.
    RemoveFinalizer,
}

impl Action {
    /// Takes traffic away from the canary: done even when the status could not be written.
    pub fn is_retreat(&self) -> bool {
        matches!(self, Self::SetWeight(Share::NONE))
    }
}

/// Something to tell people: becomes an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// A Warning event; else Normal.
    pub warning: bool,
    /// One word, from [`reasons`].
    pub reason: &'static str,
    /// One or two sentences.
    pub message: String,
}

/// What a run does next.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[must_use]
pub struct Decision {
    /// The status to write down first.
    pub status: RolloutRunStatus,
    /// To be done in order, stopping at the first failure.
    pub actions: Vec<Action>,
    /// To be told.
    pub notes: Vec<Note>,
}

#[cfg(test)]
mod testing {
    use crate::api::Rollout;

    /// With one step.
    pub fn rollout() -> Rollout {
        let policy = serde_json::json!({"apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": "auth"}, "spec": {
            "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
            "routes": [{"kind": "HTTPRoute", "name": "auth"}],
            "telemetry": {"scrape": {"port": "http"}, "requests": {"counter": "requests", "errors": {"code": "5.."}}},
            "slos": [{"name": "errors", "errors": {"objective": "99%"}}],
            "steps": [{"weight": 20, "bake": "1m"}]}});
        serde_json::from_value(policy).expect("a Rollout")
    }
}
