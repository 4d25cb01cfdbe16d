//! What stories on a real cluster are told with: kubectl and helm as people use them, constant load whose every answer
//! is recorded, and a view of a Rollout as it changes.

pub mod cluster;
pub mod exposure;
pub mod shop;
pub mod traffic;
pub mod watch;

/// Anything that went wrong, in words.
pub type Result<T> = std::result::Result<T, String>;
