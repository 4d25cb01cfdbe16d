//! The two kinds as people write and read them. No IO.
//!
//! [`Rollout`] is the policy, written by people; [`RolloutRun`] is one release going through it, created by Serin.
//! Everything the API server can check is checked there (CEL rules in the generated CRDs); [`validate`] says the rest.

pub mod names;
mod rollout;
mod run;
mod validate;
mod values;

pub use rollout::{
    Approval, Condition, ErrorsSlo, HistogramRef, LatencySlo, Limits, RequestsRef, Rollout, RolloutSpec, RolloutStatus,
    RouteRef, Scrape, SloSpec, StableVersion, StepSpec, Telemetry, Tolerance, WorkloadRef,
};
pub use run::{
    ArmRequests, Decided, Outcome, Phase, RolloutRef, RolloutRun, RolloutRunSpec, RolloutRunStatus, SloStatus, Stage,
    Version, Waiting, WaitingReason, Weight,
};
pub use validate::{Invalid, Policy, SloKind, Step, ValidSlo, validate};
pub use values::{Millis, Pattern, Percent};
