//! Open-loop HTTP load on the demo service.
//!
//! Requests are sent when they are due, whether or not earlier ones have been answered: a service that slows down doesn't get less
//! load for it, and the waiting that its callers would suffer is seen. Each request leaves one [`Record`] in a file, which a
//! [`Reader`] can follow while it grows.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod args;
mod client;
mod reader;
mod record;
pub mod run;
mod schedule;
mod sink;
mod tally;
mod target;

pub use reader::{ReadError, Reader};
pub use record::Record;
