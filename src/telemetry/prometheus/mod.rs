//! Counts from Prometheus: the pods' raw counters by its query API, never `increase()`: differences are taken by
//! `deltas`, as of scraped ones.
//!
//! `ask` writes the question, `client` sends it (IO), `answer` reads what came, `fresh` tells whether it is new: samples
//! carry the time at which Prometheus took them, and a source that stands still must not pass for a service without
//! errors. All but `client` are pure.
//!
//! ```text
//! ask -> client -> answer -> fresh -> Vec<PodScrape> -> deltas, as from `scrape`
//! ```

mod answer;
mod ask;
mod client;
mod fresh;

pub use answer::{AnswerError, PodReading, read_answer, read_presence, read_share};
pub use ask::{Labels, presence, promql};
pub use client::{AskError, Past, PrometheusClient, Rules, SystemNames};
pub use fresh::{Clock, Freshness, Listed};

/// Prometheus is asked for the samples of so many seconds: it must scrape more often than that.
pub const WINDOW_SECONDS: u32 = 120;
