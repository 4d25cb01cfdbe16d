//! A JSON API's answer: any bytes are read or refused, and no version has more errors than requests.

use std::sync::LazyLock;

use serin::telemetry::http::{Places, read};

static PLACES: LazyLock<Places> = LazyLock::new(|| Places {
    requests: "/versions/{hash}/requests".into(),
    errors: Some("/versions/{hash}/errors".into()),
    slow: Some("/{arm}/slow".into()),
    time: Some("/at".into()),
});

pub fn check(answer: &[u8]) {
    let Ok(answer) = read(answer, &PLACES, ["old", "new"]) else { return };
    for numbers in [answer.stable, answer.canary] {
        assert!(numbers.errors <= numbers.requests && numbers.slow <= numbers.requests, "{answer:?}");
    }
    assert!(answer.time.is_none_or(f64::is_finite), "{answer:?}");
}
