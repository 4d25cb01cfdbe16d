//! Where requests go: the Services that select the pods, and the weights in the user's own routes.
//!
//! Everything here is pure: objects in, JSON patches out, each with a `test` on exactly what was read, because `rules`
//! and `backendRefs` are atomic lists.

mod extra;
mod objects;
mod preview;
mod room;
mod route;
mod service;

pub use objects::{GrpcRoute, HttpRoute, Route, RouteKind, Service, ServiceSpec, changed_by, disown, is_owned};
pub use preview::{has_host, preview};
pub use room::{NoRoom, TooMuch, room};
pub use route::{Originals, Wanted, accepted, clear, is_declared, read_originals, rules_of, set_share, shown};
pub use service::{canary, pin, pinned, ready_by_hash, unpin};
