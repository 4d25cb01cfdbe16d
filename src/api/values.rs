//! Durations and percents as people write them: `1m30s`, `99.5%`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time in milliseconds, written as `250ms`, `10s`, `1m30s`, `2h` or `1d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

/// A share in percent, written with its sign: `99.5%`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Default)]
pub struct Percent(pub f64);

/// What was written is not such a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found:?}")]
pub struct ValueError {
    expected: &'static str,
    found: String,
}

impl ValueError {
    pub(super) fn new(expected: &'static str, found: &str) -> Self {
        Self { expected, found: found.chars().take(40).collect() }
    }
}

const DURATION: &str = "a duration such as 250ms, 10s, 1m30s, 2h or 1d";
const PERCENT: &str = "a percent with its sign, such as 99.5%";
const DURATION_PATTERN: &str = "^([0-9]{1,6}(ms|s|m|h|d)){1,5}$";
const PERCENT_PATTERN: &str = "^[0-9]{1,3}([.][0-9]{1,4})?%$";

impl Millis {
    /// From whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds * 1000)
    }
    /// In seconds.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }
    /// As the standard library's duration.
    pub fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl Percent {
    /// As a ratio: 0.995 for 99.5 %.
    pub fn ratio(self) -> f64 {
        self.0 / 100.0
    }
}

impl FromStr for Millis {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::new(DURATION, text);
        let mut total = 0u64;
        let mut rest = text;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            let tail = &rest[digits..];
            let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let scale = match &tail[..unit] {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(wrong()),
            };
            total = number.checked_mul(scale).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
            rest = &tail[unit..];
        }
        Ok(Self(total))
    }
}

impl FromStr for Percent {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::new(PERCENT, text);
        let number = text.strip_suffix('%').ok_or_else(wrong)?;
        if number.is_empty() || !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
            return Err(wrong());
        }
        number.parse().map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, scale) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
            if rest >= scale {
                write!(f, "{}{unit}", rest / scale)?;
                rest %= scale;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

macro_rules! as_string {
    ($type:ident, $pattern:expr, $what:expr, $max:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "maxLength": $max,
                    "x-kubernetes-validations": [{"rule": format!("self.matches('{}')", $pattern), "message": format!("must be {}", $what)}],
                })
            }
        }
    };
}
as_string!(Millis, DURATION_PATTERN, DURATION, 24);
as_string!(Percent, PERCENT_PATTERN, PERCENT, 9);

/// A regular expression over a whole label value, as Prometheus has them (RE2, anchored at both ends).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(pub String);

impl From<&Pattern> for String {
    fn from(pattern: &Pattern) -> Self {
        pattern.0.clone()
    }
}

impl JsonSchema for Pattern {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Pattern".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // An expression that does not compile makes the rule itself fail, with RE2's words for it.
        json_schema!({
            "type": "string",
            "maxLength": 256,
            "x-kubernetes-validations": [{"rule": "''.matches(self) || !''.matches(self)", "message": "must be a regular expression (RE2)"}],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write_as_people_do() {
        for (text, millis) in
            [("250ms", 250), ("10s", 10_000), ("1m30s", 90_000), ("2h", 7_200_000), ("1d", 86_400_000)]
        {
            assert_eq!(text.parse(), Ok(Millis(millis)));
            assert_eq!(Millis(millis).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_what_it_should_be() {
        for text in ["", "10", "s", "1x", "-1s", "1.5s", "99999999999999999999s"] {
            let said = text.parse::<Millis>().unwrap_err().to_string();
            assert!(said.contains("such as 250ms"), "{said}");
        }
    }

    #[test]
    fn percents_need_their_sign() {
        assert_eq!("99.5%".parse(), Ok(Percent(99.5)));
        for text in ["99.5", "%", "-1%", "1e3%", "NaN%"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
