//! The two kinds as people write and read them. No IO.
//!
//! [`Rollout`] is the policy, written by people; [`RolloutRun`] is one release going through it, created by Serin; what
//! it saw and decided, tick by tick, is in its [`RolloutRecord`]s.
//! Everything the API server can check is checked there (CEL rules in the generated CRDs); [`validate`] says the rest.

mod access;
mod gates;
mod http;
pub mod names;
mod prometheus;
mod queries;
mod record;
mod rollout;
mod router;
mod run;
mod steps;
mod validate;
mod values;
mod window;

pub use access::{Access, BasicAuth, SecretKey, Trust};
pub use gates::{GatePoint, GateSpec, HttpGate, JobGate, JobTemplate, Window};
pub use http::HttpSource;
pub use prometheus::PrometheusSource;
pub use queries::QuerySpec;
pub use record::{RolloutRecord, RolloutRecordSpec};
pub use rollout::{
    Advance, Condition, ConfigKind, Configuration, ErrorBudget, ErrorsSlo, HistogramRef, LatencySlo, Limits, Otherwise,
    RefusedVersion, RequestsRef, RollbackWindow, Rollout, RolloutSpec, RolloutStatus, RouteRef, Scrape, SloSpec,
    StableVersion, Strata, Telemetry, Tolerance, WorkloadRef,
};
pub use router::RouterSource;
pub use run::{
    ArmRequests, BadPod, Decided, GateState, GateStatus, HarmStatus, Outcome, Phase, QueryStatus, RolloutRef,
    RolloutRun, RolloutRunSpec, RolloutRunStatus, Share, SloStatus, SplitStatus, Stage, Version, Waiting,
    WaitingReason, Weight,
};
pub use steps::{Approval, BlueGreen, Method, Mirror, NamedValue, Pods, RequestMatch, StepSpec, Sticky, ValueMatch};
pub use validate::{Asks, Invalid, Lets, Policy, SloKind, Source, Step, ValidGate, ValidSlo, validate};
pub use values::{Millis, Pattern, Percent};
pub use window::ValidWindow;
