//! A small login service, built to be released badly on purpose.
//!
//! Every replica of every version accepts the others' tokens, so a canary and the version it replaces can share callers. Faults
//! (see [`faults`]) come from the environment; without them this is an ordinary service.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
pub mod faults;
mod http;
mod lifecycle;
mod metrics;
pub mod page;
pub mod token;
pub mod users;

pub use config::{Config, ConfigError};
pub use lifecycle::{BindError, Ended, Server};
