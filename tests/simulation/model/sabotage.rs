//! The controller broken on purpose, to see that the checks notice: hooks around production's pure functions. What
//! production decides with is altered on the way in, what it decided on the way out.

use serin::{
    api::{RolloutRun, RolloutRunStatus, RolloutStatus},
    controller::{Seen, World, Write},
    engine::Action,
};

/// Each hook alters one thing; [`Sabotage::NONE`] alters nothing.
#[derive(Clone, Copy)]
pub struct Sabotage {
    /// What the caches show. The number counts the looks since the controller started.
    pub world: fn(&mut World, u64),
    /// What was counted.
    pub seen: fn(&mut Seen, u64),
    /// The run's status before it is written.
    pub status: fn(&mut RolloutRunStatus),
    /// The Rollout's, at this time.
    pub rollout_status: fn(&mut RolloutStatus, i64),
    /// What is to be done: for a run with its next status, or (`None`) for the workload.
    pub actions: fn(&mut Vec<Action>, Option<(&RolloutRun, &RolloutRunStatus)>),
    /// A write just before it is sent, by the controller of this name.
    pub write: fn(&mut Write, &str),
}

impl Sabotage {
    pub const NONE: Self = Self {
        world: |_, _| {},
        seen: |_, _| {},
        status: |_| {},
        rollout_status: |_, _| {},
        actions: |_, _| {},
        write: |_, _| {},
    };
}
