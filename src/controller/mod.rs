//! The shell: watch, observe, decide, apply. The only place that knows both kube and the engine.
//!
//! Data goes one way: watch caches -> [`World`] -> [`observe`] (pure) -> the engine -> [`plan`] (pure: actions to
//! [`Write`]s) -> send. The simulation uses the same `observe` and `plan` against a model of the API server.

mod beside;
mod caches;
mod envoys;
mod gatekeeper;
mod hosts;
mod keeper;
mod lease;
mod ledger;
mod look;
mod metrics;
mod observe;
mod plan;
mod queries;
mod reader;
mod secrets;
mod send;
mod sensor;
mod serve;
mod shell;
mod start;
mod weights;
mod world;

pub use hosts::AllowedHosts;
pub use ledger::{Ledger, begun, thousandths, watches};
pub use look::{Looked, Moved, asked_percent, due_percent, look_after, move_run, seen, to_close};
pub use observe::{Seen, arm_of, governed_workload, observe, troubles};
pub use plan::{PlanError, plan};
pub use queries::{PodNames, Questions};
pub use sensor::query;
pub use start::{Settings, StartError, client, run};
pub use world::{Kind, Verb, World, Write, phase_of};
