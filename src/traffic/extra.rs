//! Rules of ours beside the user's: for requests that a weight alone can't choose.
//!
//! Which rule takes a request is by the Gateway API: the longer path, then a method, then the more headers, then the first
//! in the list. Ours are copies of the rule that they stand before, with more headers or a method, so they win over it and
//! over nothing else.

use serde_json::{Value, json};

use super::route::{Wanted, names, refs, with_weight};
use crate::api::{Method, NamedValue, RequestMatch, ValueMatch};

/// Begins the value of every cookie of ours; `=` and this in a rule says that it is ours.
const VALUE: &str = "serin-";

/// Users stay with what they got.
#[derive(Clone, Debug)]
pub struct Stickiness<'a> {
    /// Name of the cookie.
    pub cookie: &'a str,
    /// The run: cookies of another one mean nothing.
    pub run: &'a str,
    /// Weights of earlier steps, lower than today's, ascending.
    pub levels: Vec<u32>,
}

impl Stickiness<'_> {
    /// What a user has who got the canary.
    fn canary(&self) -> String {
        format!("{VALUE}{}-c", self.run)
    }
    /// What a user has who got stable at this weight.
    fn stable(&self, weight: u32) -> String {
        format!("{VALUE}{}-s{weight}", self.run)
    }
}

/// The rule is ours: it sends to nothing but the canary, mirrors to it, or looks for a cookie of ours.
pub(super) fn is_ours(rule: &Value, canary: &str, namespace: Option<&str>) -> bool {
    let only_canary = !refs(rule).is_empty() && refs(rule).iter().all(|reference| names(reference, canary, namespace));
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mirrors = array(&rule["filters"]).iter().any(|filter| {
        filter["type"] == "RequestMirror" && names(&filter["requestMirror"]["backendRef"], canary, namespace)
    });
    let cookie = array(&rule["matches"])
        .iter()
        .flat_map(|one| array(&one["headers"]))
        .any(|header| header["value"].as_str().is_some_and(|value| value.contains(&format!("={VALUE}"))));
    only_canary || mirrors || cookie
}

/// Our rules before `rule`, whose references are divided already.
pub(super) fn rules(rule: &Value, wanted: &Wanted<'_>, namespace: Option<&str>, is_grpc: bool) -> Vec<Value> {
    let mut ours = Vec::new();
    let canary = refs(rule).iter().find(|reference| names(reference, &wanted.canary, namespace));
    let Some(canary) = canary.map(|reference| with_weight(reference, 1)) else { return ours };
    let to_canary = |matches: Vec<Value>| like(rule, matches, vec![canary.clone()]);
    if !wanted.matches.is_empty() {
        let matches = each(rule).flat_map(|one| wanted.matches.iter().map(move |wanted| matching(&one, wanted)));
        ours.push(to_canary(matches.collect()));
    }
    if let Some(mirror) = wanted.mirror {
        let matches = each(rule).flat_map(|one| match is_grpc {
            true => vec![one],
            false => with_methods(&one, &mirror.methods),
        });
        let mut copied = like(rule, matches.collect(), refs(rule).to_vec());
        let mut backend = canary.clone();
        if let Some(fields) = backend.as_object_mut() {
            fields.remove("weight");
            fields.remove("filters");
        }
        let filter =
            json!({"type": "RequestMirror", "requestMirror": {"backendRef": backend, "percent": mirror.percent}});
        let mut filters = copied["filters"].as_array().cloned().unwrap_or_default();
        filters.push(filter);
        copied["filters"] = Value::Array(filters);
        ours.push(copied);
    }
    if let Some(sticky) = wanted.sticky.as_ref().filter(|_| (1..100).contains(&wanted.share.weight)) {
        let with = |value: &str| each(rule).map(|one| with_header(&one, cookie(sticky.cookie, value))).collect();
        ours.push(to_canary(with(&sticky.canary())));
        let stable = refs(rule).iter().filter(|reference| !names(reference, &wanted.canary, namespace));
        ours.push(like(rule, with(&sticky.stable(wanted.share.weight)), stable.cloned().collect()));
        for level in &sticky.levels {
            // Of those who got stable at the lower weight so many must move that all users together are at today's.
            let moves = u64::from(wanted.share.weight - level) * 10_000 / u64::from(100 - level);
            let divided = redivided(rule, wanted, namespace, moves);
            ours.push(with_cookies(like(rule, with(&sticky.stable(*level)), divided), wanted, namespace));
        }
    }
    ours
}

/// A copy with other matches and backends. Names of rules are unique, so it has none.
fn like(rule: &Value, matches: Vec<Value>, backends: Vec<Value>) -> Value {
    let mut copy = rule.clone();
    if let Some(fields) = copy.as_object_mut() {
        fields.remove("name");
    }
    copy["matches"] = Value::Array(matches);
    copy["backendRefs"] = Value::Array(backends);
    copy
}

/// What a rule matches; a rule without matches takes everything.
fn each(rule: &Value) -> impl Iterator<Item = Value> + use<> {
    let matches = rule["matches"].as_array().cloned().unwrap_or_default();
    if matches.is_empty() { vec![json!({})].into_iter() } else { matches.into_iter() }
}

fn with_header(one: &Value, header: Value) -> Value {
    let mut one = one.clone();
    let mut headers = one["headers"].as_array().cloned().unwrap_or_default();
    headers.push(header);
    one["headers"] = Value::Array(headers);
    one
}

fn matching(one: &Value, wanted: &RequestMatch) -> Value {
    let headers = wanted.headers.iter().map(|header| {
        let (kind, value) = match header.kind {
            ValueMatch::Exact => ("Exact", header.value.clone()),
            ValueMatch::Prefix => ("RegularExpression", format!("{}.*", regex::escape(&header.value))),
            ValueMatch::RegularExpression => ("RegularExpression", header.value.clone()),
        };
        json!({"type": kind, "name": header.name, "value": value})
    });
    let cookies = wanted.cookies.iter().map(|wanted| cookie(&wanted.name, &value_pattern(wanted)));
    headers.chain(cookies).fold(one.clone(), |one, header| with_header(&one, header))
}

fn value_pattern(wanted: &NamedValue) -> String {
    match wanted.kind {
        ValueMatch::Exact => regex::escape(&wanted.value),
        ValueMatch::Prefix => format!("{}[^;]*", regex::escape(&wanted.value)),
        ValueMatch::RegularExpression => format!("(?:{})", wanted.value),
    }
}

/// The header Cookie has this one (RFC 6265, section 4.2: pairs apart by `; `). Right for gateways that match the whole
/// value and for those that search in it.
fn cookie(name: &str, value: &str) -> Value {
    let value = format!("^(?:.*;\\s*)?{}={value}(?:;.*)?$", regex::escape(name));
    json!({"type": "RegularExpression", "name": "Cookie", "value": value})
}

/// A match that names a method itself takes part only if it is one of these.
fn with_methods(one: &Value, methods: &[Method]) -> Vec<Value> {
    let own = one.get("method").and_then(Value::as_str);
    let written = methods.iter().map(|method| json!(method));
    let taken = written.filter(|method| own.is_none() || method.as_str() == own);
    taken
        .map(|method| {
            let mut one = one.clone();
            one["method"] = method;
            one
        })
        .collect()
}

/// References with the apex's part divided in ten thousandths.
fn redivided(rule: &Value, wanted: &Wanted<'_>, namespace: Option<&str>, parts: u64) -> Vec<Value> {
    let weight = |reference: &Value| reference.get("weight").and_then(Value::as_u64).unwrap_or(1);
    let of_both =
        |reference: &&Value| names(reference, wanted.apex, namespace) || names(reference, &wanted.canary, namespace);
    let whole: u64 = refs(rule).iter().filter(of_both).map(weight).sum();
    let all: u64 = refs(rule).iter().map(weight).sum();
    // Weights of the Gateway API end at 1,000,000.
    let scale = |part: u64| (u128::from(part) * 1_000_000 / u128::from(all.max(1))) as u64;
    let mut done = false;
    let divided = refs(rule).iter().filter_map(|reference| {
        if names(reference, wanted.apex, namespace) {
            return Some(with_weight(reference, scale(whole) * (10_000 - parts) / 10_000));
        }
        if names(reference, &wanted.canary, namespace) {
            let first = !std::mem::replace(&mut done, true);
            return first.then(|| with_weight(reference, scale(whole) * parts / 10_000));
        }
        Some(with_weight(reference, scale(weight(reference))))
    });
    divided.collect()
}

/// Answers of each arm carry its cookie.
pub(super) fn with_cookies(mut rule: Value, wanted: &Wanted<'_>, namespace: Option<&str>) -> Value {
    let Some(sticky) = wanted.sticky.as_ref().filter(|_| (1..100).contains(&wanted.share.weight)) else { return rule };
    let given = refs(&rule).iter().map(|reference| {
        let value = match () {
            () if names(reference, &wanted.canary, namespace) => sticky.canary(),
            () if names(reference, wanted.apex, namespace) => sticky.stable(wanted.share.weight),
            () => return reference.clone(),
        };
        let mut reference = reference.clone();
        let mut filters = reference["filters"].as_array().cloned().unwrap_or_default();
        let cookie = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax", sticky.cookie);
        filters.push(json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [{"name": "Set-Cookie", "value": cookie}]}}));
        reference["filters"] = Value::Array(filters);
        reference
    });
    rule["backendRefs"] = Value::Array(given.collect());
    rule
}

/// A reference without the filter of [`with_cookies`].
pub(super) fn without_cookies(reference: &Value) -> Value {
    let mut reference = reference.clone();
    let Some(fields) = reference.as_object_mut() else { return reference };
    if let Some(filters) = fields.get_mut("filters").and_then(Value::as_array_mut) {
        filters.retain(|filter| {
            let added = filter.pointer("/responseHeaderModifier/add/0/value").and_then(Value::as_str);
            !added.is_some_and(|value| value.contains(&format!("={VALUE}")))
        });
        if filters.is_empty() {
            fields.remove("filters");
        }
    }
    reference
}
