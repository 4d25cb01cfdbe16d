//! Where counts come from: the pods' own `/metrics`, read straight from them, Prometheus, or JSON over HTTP.
//!
//! `scrape` fetches (IO), `exposition` reads the text, `query` picks the counts that a policy asks for, `deltas` turns
//! the counters of many pods into what each arm did since the last tick. `prometheus` does what `scrape` does, by another
//! way, and so does `http`. All but `scrape`, `body`, `prometheus::client` and the client in `http` are pure: no IO, no clock.
//!
//! ```text
//! scrape -> exposition -> query -> PodCounts -> deltas -> TickCounts -> evidence::Tick
//! ```

mod body;
mod credentials;
pub mod deltas;
pub mod exposition;
pub mod http;
pub mod prometheus;
mod query;
mod round;
pub mod router;
pub mod scrape;
#[cfg(test)]
mod testing;

pub use body::Memory;
pub use credentials::Credentials;
pub use deltas::{Arm, ArmCounts, DeltaSettings, Deltas, PodDelta, PodScrape, TickCounts};
pub use exposition::{Exposition, ExpositionError, Limits, parse};
pub use query::{
    CounterQuery, Gap, Histogram, LatencyCount, LatencyQuery, Matcher, MatcherError, PodCounts, Query, QueryError,
    Readings, Stratum, StratumCount, read, shared_gaps,
};
pub use round::{Look, Round};
pub use scrape::{MAX_PODS_PER_ARM, ScrapeError, ScrapeSettings, Scraper, ScraperError, Target, pick};
