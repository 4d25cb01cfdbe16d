//! What stories on a real cluster are told with: kubectl and helm as people use them, constant load whose every answer
//! is recorded, a view of a Rollout as it changes, and figures held against what is promised.

pub mod api;
pub mod cluster;
pub mod exposure;
pub mod figure;
pub mod life;
pub mod serin;
pub mod shop;
pub mod stage;
pub mod traffic;
pub mod watch;

/// Anything that went wrong, in words.
pub type Result<T> = std::result::Result<T, String>;
