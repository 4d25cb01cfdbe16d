//! A small Kubernetes with callers, people and Serin in it, moved by one seed.

pub mod cluster;
pub mod deployments;
pub mod people;
pub mod prng;
pub mod sabotage;
pub mod serin;
pub mod server;
pub mod sim;
pub mod traffic;

/// 2026-01-01T00:00:00Z in milliseconds.
pub const START: i64 = 1_767_225_600_000;
