//! One request, as it is written down.

use serde::{Deserialize, Serialize};

/// One line of the file. The names are short since there are many of them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Record {
    /// When it was sent: Unix seconds, to the millisecond.
    pub t: f64,
    /// Milliseconds from sending to the last byte of the answer, or to giving up.
    pub ms: f64,
    /// The answer's status; 0: no answer.
    pub status: u16,
    /// The answer's `x-version`.
    pub version: Option<String>,
    /// Why there was no answer, or what was wrong with a 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Which of the users, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u16>,
    /// It was sent more than 50 ms after it was due: blame the sender for its share of slowness.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
}

impl Record {
    /// Everything but a right answer: the load logs in properly, so even a 401 or a 404 is somebody's mistake.
    pub fn failed(&self) -> bool {
        !(200..300).contains(&self.status) || self.error.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_short_and_read_back() {
        let good = Record {
            t: 1_700_000_000.123,
            ms: 1.25,
            status: 200,
            version: Some("v2".to_owned()),
            error: None,
            user: None,
            late: false,
        };
        let line = serde_json::to_string(&good).unwrap();
        assert_eq!(line, r#"{"t":1700000000.123,"ms":1.25,"status":200,"version":"v2"}"#);
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), good);
        assert!(!good.failed());

        let lost = Record { status: 0, version: None, error: Some("reset".to_owned()), late: true, ..good };
        let line = serde_json::to_string(&lost).unwrap();
        assert_eq!(line, r#"{"t":1700000000.123,"ms":1.25,"status":0,"version":null,"error":"reset","late":true}"#);
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), lost);
        assert!(lost.failed());
    }
}
