//! What a policy would do, before the release: computed ([`Plan`]) or tried out ([`Simulation`]). Pure: traffic,
//! faults and dice come in as parameters.

mod course;
mod dice;
mod plan;
mod simulation;
mod statistics;

pub use course::{Kind, Service, Stretch, by_values, course, rules, slo};
pub use dice::Dice;
pub use plan::{
    Cost, Found, Plan, PolicyPlan, Sight, StepPlan, TYPICAL, in_a_line, percent, rate_words, requests, time,
};
pub use simulation::{End, Fault, FaultKind, Onset, Release, Simulation, Traffic, Why};
pub use statistics::{Quantile, Share, quantile};
