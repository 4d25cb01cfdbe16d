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
/// The filter that changes headers of answers, and the header that sets a cookie.
const ANSWER_FILTER: &str = "ResponseHeaderModifier";
pub(super) const SET_COOKIE: &str = "Set-Cookie";

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
    let to_canary = |matches: Vec<Value>| like(rule, matches, std::slice::from_ref(&canary));
    if !wanted.matches.is_empty() {
        let matches = each(rule).flat_map(|one| wanted.matches.iter().flat_map(move |wanted| matching(&one, wanted)));
        ours.extend(to_canary(matches.collect()));
    }
    if let Some(mirror) = wanted.mirror {
        let matches = each(rule).flat_map(|one| match is_grpc {
            true => vec![one],
            false => with_methods(&one, &mirror.methods),
        });
        let mut backend = canary.clone();
        if let Some(fields) = backend.as_object_mut() {
            fields.remove("weight");
            fields.remove("filters");
        }
        let filter =
            json!({"type": "RequestMirror", "requestMirror": {"backendRef": backend, "percent": mirror.percent}});
        ours.extend(like(rule, matches.collect(), refs(rule)).into_iter().map(|copied| with_filter(copied, &filter)));
    }
    if let Some(sticky) = wanted.sticky.as_ref().filter(|_| (1..100).contains(&wanted.share.weight)) {
        let with = |value: &str| each(rule).map(|one| with_header(&one, cookie(sticky.cookie, value))).collect();
        ours.extend(to_canary(with(&sticky.canary())));
        let stable = refs(rule).iter().filter(|reference| !names(reference, &wanted.canary, namespace));
        let stable: Vec<Value> = stable.cloned().collect();
        ours.extend(like(rule, with(&sticky.stable(wanted.share.weight)), &stable));
        for level in &sticky.levels {
            // Of those who got stable at the lower weight so many must move that all users together are at today's.
            let moves = u64::from(wanted.share.weight - level) * 10_000 / u64::from(100 - level);
            let divided = redivided(rule, wanted, namespace, moves);
            let again = like(rule, with(&sticky.stable(*level)), &divided);
            ours.extend(again.into_iter().map(|rule| with_cookies(rule, wanted, namespace)));
        }
    }
    ours
}

/// Copies with other matches and backends: one, or one for each match where a rule may have no more than one. Names of
/// rules are unique, so they have none.
fn like(rule: &Value, matches: Vec<Value>, backends: &[Value]) -> Vec<Value> {
    let copy = |matches: Vec<Value>| {
        let mut copy = rule.clone();
        if let Some(fields) = copy.as_object_mut() {
            fields.remove("name");
        }
        copy["matches"] = Value::Array(matches);
        copy["backendRefs"] = Value::Array(backends.to_vec());
        copy
    };
    match replaces_prefix(rule) {
        true => matches.into_iter().map(|one| copy(vec![one])).collect(),
        false => vec![copy(matches)],
    }
}

/// It replaces the prefix that was matched; the Gateway API wants exactly one match then.
fn replaces_prefix(rule: &Value) -> bool {
    let lists = std::iter::once(rule).chain(refs(rule)).filter_map(|holder| holder.get("filters")?.as_array());
    let kinds = ["/urlRewrite/path/type", "/requestRedirect/path/type"];
    lists.flatten().any(|filter| {
        kinds.iter().any(|kind| filter.pointer(kind).and_then(Value::as_str) == Some("ReplacePrefixMatch"))
    })
}

/// With one filter more.
fn with_filter(mut holder: Value, filter: &Value) -> Value {
    let mut filters = holder.get("filters").and_then(Value::as_array).cloned().unwrap_or_default();
    filters.push(filter.clone());
    holder["filters"] = Value::Array(filters);
    holder
}

/// What a rule matches; a rule without matches takes everything.
fn each(rule: &Value) -> impl Iterator<Item = Value> + use<> {
    let matches = rule["matches"].as_array().cloned().unwrap_or_default();
    if matches.is_empty() { vec![json!({})].into_iter() } else { matches.into_iter() }
}

/// A header that the match asks for already in the same words is asked for once.
fn with_header(one: &Value, header: Value) -> Value {
    let mut one = one.clone();
    let mut headers = one["headers"].as_array().cloned().unwrap_or_default();
    if !headers.contains(&header) {
        headers.push(header);
    }
    one["headers"] = Value::Array(headers);
    one
}

/// The match with all of these headers and cookies besides. A match names a header once, so several cookies are one
/// pattern, which has an order: one match for each.
fn matching(one: &Value, wanted: &RequestMatch) -> Vec<Value> {
    let headers = wanted.headers.iter().map(|header| {
        let (kind, value) = match header.kind {
            ValueMatch::Exact => ("Exact", header.value.clone()),
            ValueMatch::Prefix => ("RegularExpression", format!("{}.*", regex::escape(&header.value))),
            ValueMatch::RegularExpression => ("RegularExpression", header.value.clone()),
        };
        json!({"type": kind, "name": header.name, "value": value})
    });
    let one = headers.fold(one.clone(), |one, header| with_header(&one, header));
    let with = |order: Vec<&NamedValue>| match order.is_empty() {
        true => one.clone(),
        false => with_header(&one, cookies(&order)),
    };
    orders(&wanted.cookies).into_iter().map(with).collect()
}

/// All orders of these; of none there is one.
fn orders(cookies: &[NamedValue]) -> Vec<Vec<&NamedValue>> {
    let mut orders = vec![Vec::new()];
    for cookie in cookies {
        let inserted = orders.iter().flat_map(|order| {
            (0..=order.len()).map(move |place| {
                let mut order = order.clone();
                order.insert(place, cookie);
                order
            })
        });
        orders = inserted.collect();
    }
    orders
}

fn value_pattern(wanted: &NamedValue) -> String {
    match wanted.kind {
        ValueMatch::Exact => regex::escape(&wanted.value),
        ValueMatch::Prefix => format!("{}[^;]*", regex::escape(&wanted.value)),
        ValueMatch::RegularExpression => format!("(?:{})", wanted.value),
    }
}

/// The header Cookie has these, in this order.
fn cookies(wanted: &[&NamedValue]) -> Value {
    let pairs = wanted.iter().map(|wanted| format!("{}={}", regex::escape(&wanted.name), value_pattern(wanted)));
    cookie_header(&pairs.collect::<Vec<_>>().join(";(?:.*;)?\\s*"))
}

/// The header Cookie has this one.
fn cookie(name: &str, value: &str) -> Value {
    cookie_header(&format!("{}={value}", regex::escape(name)))
}

/// RFC 6265, section 4.2: pairs apart by `; `. Right for gateways that match the whole value and for those that search
/// in it.
fn cookie_header(pairs: &str) -> Value {
    let value = format!("^(?:.*;\\s*)?{pairs}(?:;.*)?$");
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
        let cookie = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax", sticky.cookie);
        with_answer_header(reference, json!({"name": SET_COOKIE, "value": cookie}))
    });
    rule["backendRefs"] = Value::Array(given.collect());
    rule
}

/// Adds a header to answers of this backend: in the filter that is there, as the Gateway API allows no second one.
fn with_answer_header(reference: &Value, header: Value) -> Value {
    let mut reference = reference.clone();
    let filters = reference.get_mut("filters").and_then(Value::as_array_mut).into_iter().flatten();
    let Some(filter) = filters.into_iter().find(|filter| filter["type"] == ANSWER_FILTER) else {
        let filter = json!({"type": ANSWER_FILTER, "responseHeaderModifier": {"add": [header]}});
        return with_filter(reference, &filter);
    };
    let mut added =
        filter.pointer("/responseHeaderModifier/add").and_then(Value::as_array).cloned().unwrap_or_default();
    added.push(header);
    filter["responseHeaderModifier"]["add"] = Value::Array(added);
    reference
}

/// This header of an answer is a cookie of ours.
pub(super) fn is_our_cookie(header: &Value) -> bool {
    header["name"] == SET_COOKIE && header["value"].as_str().is_some_and(|value| value.contains(&format!("={VALUE}")))
}

/// A reference without what [`with_cookies`] added: the header, and what would be empty without it.
pub(super) fn without_cookies(reference: &Value) -> Value {
    let mut reference = reference.clone();
    let Some(fields) = reference.as_object_mut() else { return reference };
    let Some(filters) = fields.get_mut("filters").and_then(Value::as_array_mut) else { return reference };
    let before = filters.len();
    filters.retain_mut(|filter| !is_emptied(filter));
    if filters.is_empty() && before > 0 {
        fields.remove("filters");
    }
    reference
}

/// Takes our cookie out of the filter, and says whether nothing else was in it.
fn is_emptied(filter: &mut Value) -> bool {
    let Some(modifier) = filter.get_mut("responseHeaderModifier").and_then(Value::as_object_mut) else { return false };
    let Some(added) = modifier.get_mut("add").and_then(Value::as_array_mut) else { return false };
    let before = added.len();
    added.retain(|header| !is_our_cookie(header));
    if added.len() == before {
        return false;
    }
    if added.is_empty() {
        modifier.remove("add");
    }
    modifier.is_empty()
}
