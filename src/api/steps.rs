//! The language of steps: what a release does on its way to promotion.

use std::borrow::Cow;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::values::{Millis, ValueError};

/// One step: a weight to bake at, requests that match, copies of requests, a preview to switch to, or a person's approval.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.weight), has(self.match), has(self.mirror), has(self.blueGreen), has(self.approval)].filter(x, x).size() == 1").message("a step sets a weight or asks for approval (or has match, mirror or blueGreen): give exactly one of them"))]
#[x_kube(validation = Rule::new("!has(self.bake) || !has(self.approval)").message("bake goes with a weight, match, mirror or blueGreen"))]
#[x_kube(validation = Rule::new("!has(self.pods) || has(self.weight) || has(self.match) || has(self.mirror)").message("pods goes with a weight, match or mirror"))]
pub struct StepSpec {
    /// Percent of requests the canary gets, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub weight: Option<u32>,
    /// Requests that go to the canary whatever the weight: those that meet one of these (testers first, or an A/B test by
    /// share of users for a fixed time). Holds in the following steps too, until another `match`; an empty list ends it.
    /// Ends by its bake however few such requests there are; a bad verdict takes them back.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub matches: Option<Vec<RequestMatch>>,
    /// Copies of requests go to the canary; its answers are thrown away, and judged. In this step only, before any weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
    /// A preview of full size behind the canary's Service, then one switch, with the old version kept warm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blue_green: Option<BlueGreen>,
    /// At least this long at this weight. It takes longer while there are too few requests to have seen a regression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake: Option<Millis>,
    /// Canary pods in this step, a number or a percent of the Deployment's replicas, at most limits.surge. Left out: as
    /// many as the weight needs, and two at least where the Deployment has two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<Pods>,
    /// Waits until a person approves: kubectl serin approve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

/// Asks a person.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Default)]
pub struct Approval {}

/// Requests that have all of these headers and cookies.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(validation = Rule::new("has(self.headers) && size(self.headers) > 0 || has(self.cookies) && size(self.cookies) > 0").message("name at least one header or cookie"))]
pub struct RequestMatch {
    /// Headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub headers: Vec<NamedValue>,
    /// Cookies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub cookies: Vec<NamedValue>,
}

/// A header or a cookie with a value.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NamedValue {
    /// Its name.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9!#$%&*+.^_|~-]+$')").message("must be the name of a header or cookie, such as x-canary"))]
    pub name: String,
    /// How the value is compared: Exact, Prefix or RegularExpression (RE2, over the whole value).
    #[serde(default, rename = "type")]
    pub kind: ValueMatch,
    /// The value.
    #[schemars(length(min = 1, max = 256))]
    pub value: String,
}

/// How a value is compared.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ValueMatch {
    /// The same.
    #[default]
    Exact,
    /// Begins with it.
    Prefix,
    /// Matches it whole.
    RegularExpression,
}

/// Copies of requests.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Percent of the requests that are copied. Some gateways copy all of them whatever is said here (Contour does).
    #[schemars(range(min = 1, max = 100))]
    pub percent: u32,
    /// Only requests with these methods. A copy is a second request: one that buys something buys it twice, so name other
    /// methods than GET and HEAD only if the service takes the same request twice without harm. Not for GRPCRoutes, whose
    /// calls are all copied.
    #[serde(default = "safe_methods")]
    #[schemars(length(min = 1, max = 9))]
    pub methods: Vec<Method>,
}

fn safe_methods() -> Vec<Method> {
    vec![Method::Get, Method::Head]
}

/// An HTTP method.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the methods of RFC 9110")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

/// A preview of full size, then one switch.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct BlueGreen {
    /// Host name by which the preview is reached while it runs, at the gateways of the first of spec.routes: Serin makes a
    /// route NAME-preview for it, with the rules of that route that name the Service. No other route may have this host
    /// name, and the gateways' listeners must take it. Left out: the preview is reached by its Service, NAME-canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$')").message("must be a host name in lower case, such as preview.example.com"))]
    pub preview_host: Option<String>,
    /// Keeps the old version at full size this long after the switch; until then `kubectl serin abort` is an instant
    /// return.
    #[serde(default)]
    pub keep_old_for: Millis,
}

/// Stickiness by a cookie.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// Name of the cookie that the gateway sets on answers; no other cookie of the service may have it.
    #[serde(default = "cookie_name")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_-]+$')").message("must be letters, digits, - and _"))]
    pub cookie: String,
}

fn cookie_name() -> String {
    "serin".into()
}

/// A number of pods, or a percent of the Deployment's replicas: `3` or `"50%"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pods {
    /// So many.
    Number(u32),
    /// Percent of the replicas, rounded up.
    Share(u32),
}

impl Pods {
    /// Pods for a Deployment of this size, at least 1.
    pub fn of(self, replicas: i32) -> i32 {
        let pods = match self {
            Self::Number(number) => i64::from(number),
            Self::Share(percent) => (i64::from(replicas.max(0)) * i64::from(percent) + 99) / 100,
        };
        i32::try_from(pods.max(1)).unwrap_or(i32::MAX)
    }
}

impl Serialize for Pods {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u32(*number),
            Self::Share(percent) => serializer.collect_str(&format_args!("{percent}%")),
        }
    }
}

impl<'de> Deserialize<'de> for Pods {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a number of pods such as 3, or a percent such as \"50%\"";
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u32),
            Text(String),
        }
        let found = match Written::deserialize(deserializer) {
            Ok(Written::Number(number)) if (1..=10_000).contains(&number) => return Ok(Self::Number(number)),
            Ok(Written::Number(number)) => number.to_string(),
            Ok(Written::Text(text)) => match text.strip_suffix('%').and_then(|number| number.parse().ok()) {
                Some(percent @ 1..=1000) => return Ok(Self::Share(percent)),
                _ => text,
            },
            Err(_) => "something else".to_owned(),
        };
        Err(serde::de::Error::custom(ValueError::new(EXPECTED, &found)))
    }
}

impl JsonSchema for Pods {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Pods".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 5,
            "x-kubernetes-validations": [{
                "rule": "type(self) == int ? self >= 1 && self <= 10000 : string(self).matches('^([1-9][0-9]{0,2}|1000)%$')",
                "message": "must be a number of pods such as 3, or a percent such as \"50%\""
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_a_number_or_a_percent_rounded_up() {
        for (text, replicas, pods) in [("3", 10, 3), ("\"50%\"", 3, 2), ("\"200%\"", 4, 8), ("\"1%\"", 4, 1)] {
            let read: Pods = serde_json::from_str(text).expect("pods");
            assert_eq!(read.of(replicas), pods, "{text} of {replicas}");
            assert_eq!(serde_json::to_string(&read).expect("text"), text);
        }
        for text in ["0", "-1", "\"3\"", "\"0%\"", "\"x\"", "true"] {
            let said = serde_json::from_str::<Pods>(text).expect_err(text).to_string();
            assert!(said.contains("a number of pods such as 3"), "{said}");
        }
    }
}
