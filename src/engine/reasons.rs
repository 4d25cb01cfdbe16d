//! One word for each thing that Serin says in events, conditions and run statuses.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $text;)*

        /// The constant that reads like this.
        pub fn known(word: &str) -> Option<&'static str> {
            [$($name),*].into_iter().find(|reason| *reason == word)
        }
    };
}

reasons! {
    /// A run began.
    RELEASE_STARTED = "ReleaseStarted";
    /// A step began.
    STEP_STARTED = "StepStarted";
    /// The weight was reached.
    WEIGHT_SET = "WeightSet";
    /// What the steps will see, and what a bad version would cost.
    FORECAST = "Forecast";
    /// A person or the policy wanted no more steps.
    STEPS_SKIPPED = "StepsSkipped";
    /// All steps are done.
    PROMOTING = "Promoting";
    /// The ReplicaSet went over to the Deployment.
    HANDED_OVER = "HandedOver";
    /// The new version serves.
    PROMOTED = "Promoted";
    /// The traffic goes back.
    ROLLING_BACK = "RollingBack";
    /// The new version was refused.
    ROLLED_BACK = "RolledBack";
    /// A newer version came.
    SUPERSEDED = "Superseded";
    /// The old version was asked for again.
    CANCELLED = "Cancelled";
    /// An SLO's verdict is Bad.
    SLO_VIOLATED = "SloViolated";
    /// A person aborted.
    ABORTED = "Aborted";
    /// Canary pods did not become ready in time.
    NEVER_READY = "NeverReady";
    /// Canary containers keep restarting.
    CRASHING = "Crashing";
    /// The canary gets traffic and answers nothing.
    SILENT_ARM = "SilentArm";
    /// More requests failed than limits.failedRequests allows.
    FAILED_REQUESTS = "FailedRequests";
    /// The release used up more of the error budget than limits.errorBudget allows.
    ERROR_BUDGET = "ErrorBudget";
    /// One canary pod is bad by itself and is replaced.
    BAD_POD = "BadPod";
    /// The canary gets more requests than its weight.
    SPLIT_MISMATCH = "SplitMismatch";
    /// The gateway sent the canary requests that its pods did not count.
    REQUESTS_LOST = "RequestsLost";
    /// Stable has callers of its own, so that the versions serve different mixes of requests.
    MIXED_TRAFFIC = "MixedTraffic";
    /// A gate said yes.
    GATE_PASSED = "GatePassed";
    /// A gate said no.
    GATE_FAILED = "GateFailed";
    /// All canary pods were lost in the middle of the promotion.
    CANARY_LOST = "CanaryLost";
    /// The Rollout was deleted.
    ROLLOUT_DELETED = "RolloutDeleted";
    /// Somebody else changed route or pin; it was put back.
    REPAIRED = "Repaired";
    /// Somebody else keeps doing so.
    ROUTE_CONTESTED = "RouteContested";
    /// The run waits.
    HOLDING = "Holding";
    /// It goes on.
    RESUMED = "Resumed";
    /// The step takes too long.
    STEP_TIMEOUT = "StepTimeout";
    /// The version that was deployed last serves.
    SERVING = "Serving";
    /// Tracked data changed.
    CONFIGURATION_CHANGED = "ConfigurationChanged";
    /// The policy tracks what Serin may not read.
    CONFIGURATION_UNREADABLE = "ConfigurationUnreadable";
    /// The policy starts no runs.
    SUSPENDED = "Suspended";
    /// A run is under way.
    RUN_UNDER_WAY = "RunUnderWay";
    /// The Deployment is at work on its own.
    WORKLOAD_SETTLING = "WorkloadSettling";
    /// The policy can't be run.
    INVALID_POLICY = "InvalidPolicy";
    /// No such Deployment.
    WORKLOAD_MISSING = "WorkloadMissing";
    /// Another Rollout governs it.
    WORKLOAD_TAKEN = "WorkloadTaken";
    /// revisionHistoryLimit is 0.
    NO_REVISION_HISTORY = "NoRevisionHistory";
    /// The strategy is Recreate.
    RECREATE_STRATEGY = "RecreateStrategy";
    /// No such Service.
    SERVICE_MISSING = "ServiceMissing";
    /// The Service does not select the pods.
    SERVICE_MISMATCH = "ServiceDoesNotSelectPods";
    /// The Service has no cluster IP.
    SERVICE_HEADLESS = "ServiceHeadless";
    /// No such route.
    ROUTE_MISSING = "RouteMissing";
    /// The route does not name the Service.
    ROUTE_MISMATCH = "RouteDoesNotNameService";
    /// The route can't hold what a step puts into it.
    ROUTE_FULL = "RouteHasNoRoom";
    /// Another route has the preview's host name, or its name.
    PREVIEW_TAKEN = "PreviewTaken";
    /// The container port for metrics is not there.
    METRICS_PORT_MISSING = "MetricsPortMissing";
    /// A ReplicaSet that is not the run's has the name or the hash of its canary.
    REPLICA_SET_TAKEN = "ReplicaSetTaken";
    /// An action failed.
    ACTION_FAILED = "ActionFailed";
}
