//! The canary's share in the user's own route.
//!
//! In each rule that names the apex the canary's reference stands beside the apex's. Where a rule has other backends too,
//! the apex's part is divided: with weight W and W + others = total, the canary gets its percent of W and the others keep
//! their share exactly, because every weight of the rule is multiplied by 100 first. (Weights above 10,000 are made
//! smaller in proportion, as the Gateway API has none above 1,000,000.)
//!
//! Requests that a weight alone can't choose (match, mirror, sticky) get rules of their own before such a rule: a copy of
//! it with narrower matches. They are known again by what they say, so that nothing has to be remembered: they name
//! nothing but the canary, mirror to it, or look for a cookie of ours.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{extra, objects::Route};
use crate::api::{Mirror, RequestMatch, RolloutRun, RolloutSpec, RouteRef, Share, names};

/// How the routes were before the run: "KIND/NAME/RULE/REFERENCE" to the weight as written (`null`: none; `"declared"`: a
/// canary reference that stood there), "KIND/NAME/rule/DIGEST" to `"declared"` for a whole rule that names the canary
/// only.
pub type Originals = BTreeMap<String, Value>;

/// Originals as a run's status has them. Runs of an earlier Serin have keys without the kind: they are read as each
/// route's of that name in the policy.
pub fn read_originals(kept: &BTreeMap<String, String>, routes: &[RouteRef]) -> Originals {
    let mut originals = Originals::new();
    for (key, text) in kept {
        let Ok(value) = serde_json::from_str::<Value>(text) else { continue };
        let with_kind = routes.iter().any(|route| key.starts_with(&format!("{}/", route.kind)));
        if with_kind {
            originals.insert(key.clone(), value);
            continue;
        }
        let named = routes.iter().filter(|route| key.starts_with(&format!("{}/", route.name)));
        for route in named {
            originals.entry(format!("{}/{key}", route.kind)).or_insert_with(|| value.clone());
        }
    }
    originals
}

/// Gateway API limits weights to this.
const MAX_WEIGHT: u64 = 1_000_000;

/// What a run wants of its routes.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The Service that callers use.
    pub apex: &'a str,
    /// The canary's Service.
    pub canary: String,
    /// The canary's share.
    pub share: Share,
    /// Requests that go to the canary whatever the weight.
    pub matches: &'a [RequestMatch],
    /// Requests that are copied to the canary.
    pub mirror: Option<&'a Mirror>,
    /// Users stay with what they got.
    pub sticky: Option<extra::Stickiness<'a>>,
}

impl<'a> Wanted<'a> {
    /// What this run wants with this share.
    pub fn of(run: &'a RolloutRun, share: Share) -> Self {
        Self::by(&run.spec.policy, run.metadata.name.as_deref().unwrap_or_default(), share)
    }

    /// What a run of this name wants by this policy.
    pub fn by(policy: &'a RolloutSpec, run: &'a str, share: Share) -> Self {
        let step = |number: Option<u32>| policy.steps.get(usize::try_from(number?.checked_sub(1)?).ok()?);
        let levels = || {
            let lower = policy.steps.iter().filter_map(|step| step.weight).filter(|weight| *weight < share.weight);
            lower.collect::<std::collections::BTreeSet<u32>>().into_iter().collect()
        };
        Self {
            apex: &policy.service,
            canary: names::canary_service(&policy.service),
            share,
            matches: step(share.matching).and_then(|step| step.matches.as_deref()).unwrap_or_default(),
            mirror: step(share.mirror).and_then(|step| step.mirror.as_ref()),
            sticky: policy.sticky.as_ref().map(|sticky| extra::Stickiness {
                cookie: &sticky.cookie,
                run,
                levels: levels(),
            }),
        }
    }
}

fn rules(route: &Route) -> &[Value] {
    route.spec.get("rules").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn refs(rule: &Value) -> &[Value] {
    rule.get("backendRefs").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn names(reference: &Value, service: &str, namespace: Option<&str>) -> bool {
    let text = |name: &str| reference.get(name).and_then(Value::as_str);
    text("name") == Some(service)
        && text("kind").unwrap_or("Service") == "Service"
        && text("group").unwrap_or("").is_empty()
        && text("namespace").is_none_or(|other| Some(other) == namespace)
}

fn weight_of(reference: &Value) -> u64 {
    reference.get("weight").and_then(Value::as_u64).unwrap_or(1)
}

/// Rules of the route that name the apex and are not ours.
pub fn rules_of(route: &Route, apex: &str) -> usize {
    let namespace = route.metadata.namespace.as_deref();
    let canary = names::canary_service(apex);
    let owned = rules(route).iter().filter(|rule| !extra::is_ours(rule, &canary, namespace));
    owned.filter(|rule| refs(rule).iter().any(|reference| names(reference, apex, namespace))).count()
}

/// The rules without ours.
pub(super) fn owners_rules<'a>(route: &'a Route, canary: &str, known: &Originals) -> Vec<&'a Value> {
    let namespace = route.metadata.namespace.as_deref();
    let route_key = route_key(route);
    let ours =
        |rule: &Value| extra::is_ours(rule, canary, namespace) && !known.contains_key(&declared_key(&route_key, rule));
    rules(route).iter().filter(|rule| !ours(rule)).collect()
}

/// The canary's percent of what it and the apex get; with rules that disagree, the highest. `None` without a reference
/// to the canary beside one to the apex.
fn weight_shown(rules: &[&Value], apex: &str, canary: &str, namespace: Option<&str>) -> Option<u32> {
    let percents = rules.iter().filter_map(|rule| {
        let sum = |service: &str| {
            let named = refs(rule).iter().filter(|reference| names(reference, service, namespace));
            named.map(weight_of).fold(None, |sum: Option<u64>, weight| Some(sum.unwrap_or(0) + weight))
        };
        let (stable, canary) = (sum(apex)?, sum(canary)?);
        let all = stable + canary;
        let percent = if all == 0 { 0 } else { (200 * canary + all) / (2 * all) };
        Some(u32::try_from(percent).unwrap_or(100))
    });
    percents.max()
}

/// The canary's share as the route has it; `None` if the canary is not in it. What is in none of the run's steps is
/// shown as the match of step 0, which no run wants.
pub fn shown(route: &Route, run: &RolloutRun, known: &Originals) -> Option<Share> {
    let namespace = route.metadata.namespace.as_deref();
    let apex = &run.spec.policy.service;
    let canary = names::canary_service(apex);
    let owned = owners_rules(route, &canary, known);
    let weight = weight_shown(&owned, apex, &canary, namespace)?;
    let numbers = |has: fn(&crate::api::StepSpec) -> bool| {
        let steps = run.spec.policy.steps.iter().enumerate().filter(move |(_, step)| has(step));
        let steps = steps.filter_map(|(index, _)| u32::try_from(index + 1).ok()).map(Some);
        std::iter::once(None).chain(steps).collect::<Vec<_>>()
    };
    let (matching, mirrors) = (numbers(|step| step.matches.is_some()), numbers(|step| step.mirror.is_some()));
    let mut shares = mirrors
        .iter()
        .flat_map(|mirror| matching.iter().map(move |matching| Share { weight, matching: *matching, mirror: *mirror }));
    let is = |share: &Share| {
        let wanted = Wanted::of(run, *share);
        let (next, _) = written(route, &wanted, known);
        let ours = |rules: &[Value]| -> Vec<Value> {
            rules.iter().filter(|rule| extra::is_ours(rule, &canary, namespace)).cloned().collect()
        };
        match wanted.sticky {
            Some(_) => next == rules(route),
            None => ours(&next) == ours(rules(route)),
        }
    };
    Some(shares.find(is).unwrap_or(Share { weight, matching: Some(0), mirror: None }))
}

/// Gives the canary its share in every rule that names the apex. Returns the patch and what to put back.
///
/// `known` are the originals of an earlier call in this run; they win over what is read now.
pub fn set_share(route: &Route, wanted: &Wanted<'_>, known: &Originals) -> (Value, Originals) {
    let (next, originals) = written(route, wanted, known);
    (patch(route, next), originals)
}

/// The rules with the canary's share in them.
pub(super) fn written(route: &Route, wanted: &Wanted<'_>, known: &Originals) -> (Vec<Value>, Originals) {
    let namespace = route.metadata.namespace.as_deref();
    let route_key = route_key(route);
    let mut originals = known.clone();
    if !known.keys().any(|key| key.starts_with(&route_key)) {
        let declared = rules(route).iter().filter(|rule| extra::is_ours(rule, &wanted.canary, namespace));
        originals.extend(declared.map(|rule| (declared_key(&route_key, rule), json!("declared"))));
    }
    let mut next = Vec::new();
    for (index, rule) in owners_rules(route, &wanted.canary, &originals).into_iter().enumerate() {
        if !refs(rule).iter().any(|reference| names(reference, wanted.apex, namespace)) {
            next.push(rule.clone());
            continue;
        }
        let place = Place { route: &route_key, namespace, index };
        let shared = divided(rule, &place, wanted, known, &mut originals);
        next.extend(extra::rules(&shared, wanted, namespace, route.is_grpc()));
        next.push(extra::with_cookies(shared, wanted, namespace));
    }
    (next, originals)
}

/// Where a rule stands. `route` begins the keys of its route.
struct Place<'a> {
    route: &'a str,
    namespace: Option<&'a str>,
    index: usize,
}

/// The rule with the apex's part divided between apex and canary.
fn divided(
    rule: &Value,
    place: &Place<'_>,
    wanted: &Wanted<'_>,
    known: &Originals,
    originals: &mut Originals,
) -> Value {
    let Place { route, namespace, index } = *place;
    let before = refs(rule);
    let is_canary = |reference: &Value| names(reference, &wanted.canary, namespace);
    let weight = u64::from(wanted.share.weight.min(100));
    let mut own = Vec::new();
    for reference in before {
        let key = key(route, index, reference);
        if !is_canary(reference) {
            let as_written = reference.get("weight").cloned().unwrap_or(Value::Null);
            let whole = originals.entry(key).or_insert(as_written).as_u64().unwrap_or(1);
            own.push((extra::without_cookies(reference), whole));
        } else if !known.keys().any(|key| key.starts_with(&format!("{route}{index}/"))) {
            // The reference stood there before the run: a pre-declared one, to be kept afterwards.
            originals.entry(key).or_insert_with(|| json!("declared"));
        }
    }
    let most = own.iter().map(|(_, whole)| *whole).max().unwrap_or(0).max(MAX_WEIGHT / 100);
    let mut after = Vec::new();
    for (reference, whole) in own {
        let whole = whole * (MAX_WEIGHT / 100) / most;
        if !names(&reference, wanted.apex, namespace) {
            after.push(with_weight(&reference, whole * 100));
            continue;
        }
        after.push(with_weight(&reference, whole * (100 - weight)));
        let declared = before.iter().find(|other| is_canary(other)).map(extra::without_cookies);
        let mut partner = declared.unwrap_or_else(|| reference.clone());
        partner["name"] = json!(wanted.canary);
        partner["port"] = reference.get("port").cloned().unwrap_or(Value::Null);
        after.push(with_weight(&partner, whole * weight));
    }
    let mut rule = rule.clone();
    rule["backendRefs"] = Value::Array(after);
    rule
}

/// Takes the canary's references and our rules out and puts the weights back. A pre-declared reference stays, with
/// weight 0, and so does a pre-declared rule.
pub fn clear(route: &Route, apex: &str, canary: &str, originals: &Originals) -> Value {
    let namespace = route.metadata.namespace.as_deref();
    let route_key = route_key(route);
    let mut next: Vec<Value> = owners_rules(route, canary, originals).into_iter().cloned().collect();
    for (index, rule) in next.iter_mut().enumerate() {
        let before = refs(rule).to_vec();
        if !before.iter().any(|reference| names(reference, canary, namespace))
            || originals.contains_key(&declared_key(&route_key, rule))
        {
            continue;
        }
        let mut after = Vec::new();
        for reference in before {
            let original = originals.get(&key(&route_key, index, &reference));
            let mut reference = extra::without_cookies(&reference);
            if names(&reference, canary, namespace) {
                if original == Some(&json!("declared")) {
                    after.push(with_weight(&reference, 0));
                }
                continue;
            }
            match original {
                Some(Value::Null) => {
                    if let Some(fields) = reference.as_object_mut() {
                        // The API server writes the default itself.
                        fields.remove("weight");
                    }
                }
                Some(weight) => reference["weight"] = weight.clone(),
                None if names(&reference, apex, namespace) => reference["weight"] = json!(1),
                None => {}
            }
            after.push(reference);
        }
        rule["backendRefs"] = Value::Array(after);
    }
    patch(route, next)
}

/// Accepted by every gateway it names, at this generation, with its references resolved; else what one said.
///
/// # Errors
/// What is missing, in the gateway's words.
pub fn accepted(route: &Route) -> Result<(), String> {
    let generation = route.metadata.generation.unwrap_or(0);
    let parents = route.spec.get("parentRefs").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let statuses = route.status.get("parents").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if parents.is_empty() {
        return Err("it is attached to no gateway (spec.parentRefs)".into());
    }
    // What a gateway that it was attached to before has left in the status says nothing.
    let of_parents = || {
        statuses.iter().filter(|status| {
            status.get("parentRef").is_some_and(|of| parents.iter().any(|parent| same_parent(route, parent, of)))
        })
    };
    if of_parents().count() < parents.len() {
        return Err(format!("{} of {} gateways have said whether they accept it", of_parents().count(), parents.len()));
    }
    for status in of_parents() {
        for kind in ["Accepted", "ResolvedRefs"] {
            let conditions = status.get("conditions").and_then(Value::as_array).into_iter().flatten();
            let condition =
                conditions.into_iter().find(|condition| condition.get("type").and_then(Value::as_str) == Some(kind));
            let Some(condition) = condition else { return Err(format!("its gateway has not said {kind}")) };
            let text = |name: &str| condition.get(name).and_then(Value::as_str).unwrap_or_default();
            if condition.get("observedGeneration").and_then(Value::as_i64).unwrap_or(0) < generation {
                return Err("its gateway has not read the last change yet".into());
            }
            if text("status") != "True" {
                return Err(format!("{kind}={}: {} {}", text("status"), text("reason"), text("message")));
            }
        }
    }
    Ok(())
}

/// Both name the same listener of the same object; left out, the namespace is the route's.
fn same_parent(route: &Route, one: &Value, other: &Value) -> bool {
    let namespace = route.metadata.namespace.as_deref();
    let named = |parent: &Value| {
        let text = |key: &str| parent.get(key).and_then(Value::as_str).map(str::to_owned);
        let namespace = text("namespace").or_else(|| namespace.map(str::to_owned));
        let kind = text("kind").unwrap_or_else(|| "Gateway".to_owned());
        (kind, text("name"), namespace, text("sectionName"), parent.get("port").and_then(Value::as_i64))
    };
    named(one) == named(other)
}

/// Begins the keys of a route.
fn route_key(route: &Route) -> String {
    format!("{}/{}/", route.kind.as_str(), route.metadata.name.as_deref().unwrap_or_default())
}

/// The run found a reference to its canary in this route, at weight 0 say.
pub fn is_declared(route: &Route, known: &Originals) -> bool {
    let route_key = route_key(route);
    known.iter().any(|(key, value)| key.starts_with(&route_key) && value == "declared")
}

fn key(route: &str, rule: usize, reference: &Value) -> String {
    let text = |name: &str| reference.get(name).map(|value| value.to_string()).unwrap_or_default();
    format!("{route}{rule}/{}:{}", text("name").trim_matches('"'), text("port"))
}

/// A whole rule that stood in the route before the run.
fn declared_key(route: &str, rule: &Value) -> String {
    let digest: String = Sha256::digest(rule.to_string()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{route}rule/{digest}")
}

pub(super) fn with_weight(reference: &Value, weight: u64) -> Value {
    let mut reference = reference.clone();
    reference["weight"] = json!(weight);
    reference
}

fn patch(route: &Route, next: Vec<Value>) -> Value {
    json!([
        {"op": "test", "path": "/spec/rules", "value": rules(route)},
        {"op": "replace", "path": "/spec/rules", "value": next}
    ])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::traffic) fn route(rules: Value) -> Route {
        let mut route = Route { spec: json!({"rules": rules}), ..Route::default() };
        route.metadata.name = Some("auth".into());
        route.metadata.namespace = Some("shop".into());
        route
    }

    #[test]
    fn only_gateways_that_it_is_attached_to_have_a_say() {
        let said = |name: &str, generation: i64, status: &str| {
            let of = |kind: &str| json!({"type": kind, "status": status, "reason": "No", "message": "no", "observedGeneration": generation});
            json!({"parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": name, "namespace": "shop"},
                "conditions": [of("Accepted"), of("ResolvedRefs")]})
        };
        // Given a route that went over from one gateway to another, which has left its word in the status:
        let mut route = route(json!([]));
        route.metadata.generation = Some(3);
        route.spec["parentRefs"] = json!([{"name": "new"}]);
        route.status = json!({"parents": [said("old", 1, "True")]});
        assert_eq!(accepted(&route), Err("0 of 1 gateways have said whether they accept it".to_owned()));
        // When the new one has read it, it counts, and it alone.
        route.status = json!({"parents": [said("old", 1, "True"), said("new", 3, "True")]});
        assert_eq!(accepted(&route), Ok(()));
        route.status = json!({"parents": [said("old", 3, "True"), said("new", 3, "False")]});
        assert_eq!(accepted(&route), Err("Accepted=False: No no".to_owned()));
    }

    /// A run of auth with these steps.
    pub(in crate::traffic) fn run(steps: Value, sticky: Value) -> RolloutRun {
        let version = json!({"hash": "x"});
        let mut policy = json!({
            "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
            "routes": [{"kind": "HTTPRoute", "name": "auth"}], "telemetry": {"scrape": {"port": "http"}},
            "slos": [], "steps": steps
        });
        if !sticky.is_null() {
            policy["sticky"] = sticky;
        }
        let run = json!({
            "apiVersion": names::API_VERSION, "kind": "RolloutRun", "metadata": {"name": "auth-7"},
            "spec": {"rolloutRef": {"name": "auth"}, "from": version, "to": version, "policy": policy}
        });
        serde_json::from_value(run).expect("a run")
    }

    fn plain() -> RolloutRun {
        run(json!([{"weight": 5}, {"weight": 50}]), Value::Null)
    }

    fn applied(route: &Route, patch: Value) -> Route {
        let mut value = serde_json::to_value(route).expect("json");
        let patch: json_patch::Patch = serde_json::from_value(patch).expect("patch");
        json_patch::patch(&mut value, &patch).expect("applies");
        serde_json::from_value(value).expect("route")
    }

    /// Sets the share, and checks that it is shown so.
    pub(in crate::traffic) fn shared(
        route: &Route,
        run: &RolloutRun,
        share: Share,
        known: &Originals,
    ) -> (Route, Originals) {
        let (patch, originals) = set_share(route, &Wanted::of(run, share), known);
        let next = applied(route, patch);
        assert_eq!(shown(&next, run, &originals), Some(share));
        // Writing it again changes nothing.
        let (patch, again) = set_share(&next, &Wanted::of(run, share), &originals);
        assert_eq!((applied(&next, patch), &again), (next.clone(), &originals));
        (next, originals)
    }

    fn cleared(route: &Route, known: &Originals) -> Route {
        applied(route, clear(route, "auth", "auth-canary", known))
    }

    #[test]
    fn a_weight_is_set_and_taken_away_and_nothing_else_changes() {
        let before = route(json!([
            {"matches": [{"path": {"value": "/"}}], "filters": [{"type": "x"}], "backendRefs": [{"name": "auth", "port": 80}]},
            {"backendRefs": [{"name": "other", "port": 80}]}
        ]));
        let run = plain();
        assert_eq!((rules_of(&before, "auth"), shown(&before, &run, &Originals::new())), (1, None));
        let (shifted, originals) = shared(&before, &run, Share::of(5), &Originals::new());
        assert_eq!(
            shifted.spec["rules"][0]["backendRefs"],
            json!([
            {"name": "auth", "port": 80, "weight": 95}, {"name": "auth-canary", "port": 80, "weight": 5}])
        );
        assert_eq!(shifted.spec["rules"][1], before.spec["rules"][1]);
        let (half, originals) = shared(&shifted, &run, Share::of(50), &originals);
        assert_eq!(cleared(&half, &originals), before);
    }

    #[test]
    fn other_backends_of_a_rule_keep_their_share() {
        let before = route(json!([{"backendRefs": [
            {"name": "auth", "port": 80, "weight": 3}, {"name": "legacy", "port": 80, "weight": 1}]}]));
        let (shifted, originals) = shared(&before, &plain(), Share::of(20), &Originals::new());
        let weights: Vec<u64> = refs(&shifted.spec["rules"][0]).iter().map(weight_of).collect();
        assert_eq!(weights, [240, 60, 100]);
        assert_eq!(cleared(&shifted, &originals), before);

        // weights that can't be multiplied by 100 are in the same proportion all the same
        let before = route(json!([{"backendRefs": [
            {"name": "auth", "port": 80, "weight": 300_000}, {"name": "legacy", "port": 80, "weight": 100_000}]}]));
        let (shifted, originals) = shared(&before, &plain(), Share::of(20), &Originals::new());
        let weights: Vec<u64> = refs(&shifted.spec["rules"][0]).iter().map(weight_of).collect();
        assert!(weights.iter().all(|weight| *weight <= MAX_WEIGHT), "{weights:?}");
        let legacy = weights[2] as f64 / weights.iter().sum::<u64>() as f64;
        assert!((legacy - 0.25).abs() < 1e-3, "{weights:?}");
        assert_eq!(cleared(&shifted, &originals), before);
    }

    #[test]
    fn an_http_route_and_a_grpc_route_of_one_name_keep_their_own_weights() {
        let http = route(json!([{"backendRefs": [
            {"name": "auth", "port": 80, "weight": 3}, {"name": "legacy", "port": 80, "weight": 1}]}]));
        let mut grpc = route(json!([
            {"backendRefs": [{"name": "auth", "port": 80, "weight": 7}, {"name": "legacy", "port": 80, "weight": 2}]},
            {"backendRefs": [{"name": "auth-canary", "port": 80}]}
        ]));
        grpc.kind = crate::traffic::RouteKind::Grpc;
        let (shifted_http, originals) = shared(&http, &plain(), Share::of(20), &Originals::new());
        let (patch, originals) = set_share(&grpc, &Wanted::of(&plain(), Share::of(20)), &originals);
        let mut shifted_grpc = applied(&grpc, patch);
        shifted_grpc.kind = grpc.kind;
        assert!(!is_declared(&http, &originals) && is_declared(&grpc, &originals));
        assert_eq!(cleared(&shifted_http, &originals), http);
        assert_eq!(cleared(&shifted_grpc, &originals).spec, grpc.spec);
    }

    #[test]
    fn a_run_that_an_earlier_serin_began_finds_its_weights() {
        let before = route(json!([{"backendRefs": [
            {"name": "auth", "port": 80, "weight": 3}, {"name": "legacy", "port": 80, "weight": 1}]}]));
        let (shifted, originals) = shared(&before, &plain(), Share::of(20), &Originals::new());
        let old: BTreeMap<String, String> = originals
            .iter()
            .map(|(key, value)| (key.strip_prefix("HTTPRoute/").expect("a kind").to_owned(), value.to_string()))
            .collect();
        let named = |kind: &str, name: &str| RouteRef { kind: kind.into(), name: name.into() };
        let routes = [named("HTTPRoute", "auth"), named("GRPCRoute", "other")];
        assert_eq!(read_originals(&old, &routes), originals);
        assert_eq!(cleared(&shifted, &read_originals(&old, &routes)), before);
        // and what is written now is read as it is
        let new = originals.iter().map(|(key, value)| (key.clone(), value.to_string())).collect();
        assert_eq!(read_originals(&new, &routes), originals);
    }

    #[test]
    fn a_declared_canary_reference_and_a_declared_rule_are_used_and_kept() {
        let before = route(json!([
            {"backendRefs": [{"name": "auth", "port": 80, "weight": 1}, {"name": "auth-canary", "port": 80, "weight": 0}]},
            {"matches": [{"headers": [{"name": "x-preview", "value": "1"}]}], "backendRefs": [{"name": "auth-canary", "port": 80}]}
        ]));
        let (shifted, originals) = shared(&before, &plain(), Share::of(20), &Originals::new());
        assert_eq!(shifted.spec["rules"][1], before.spec["rules"][1]);
        assert_eq!(cleared(&shifted, &originals), before);
    }

    #[test]
    fn a_patch_against_a_changed_route_does_not_apply() {
        let before = route(json!([{"backendRefs": [{"name": "auth", "port": 80}]}]));
        let (patch, _) = set_share(&before, &Wanted::of(&plain(), Share::of(5)), &Originals::new());
        let changed = route(json!([{"backendRefs": [{"name": "auth", "port": 81}]}]));
        let mut value = serde_json::to_value(&changed).expect("json");
        let patch: json_patch::Patch = serde_json::from_value(patch).expect("patch");
        assert!(json_patch::patch(&mut value, &patch).is_err());
    }

    #[test]
    fn who_matches_gets_the_canary_and_the_rest_goes_by_weight() {
        let before = route(json!([
            {"name": "login", "matches": [{"path": {"type": "PathPrefix", "value": "/login"}}, {"method": "GET"}],
             "backendRefs": [{"name": "auth", "port": 80}]},
            {"backendRefs": [{"name": "other", "port": 80}]}
        ]));
        let run = run(
            json!([
                {"match": [{"headers": [{"name": "x-tester", "type": "Prefix", "value": "a+b"}], "cookies": [{"name": "beta", "value": "1"}]},
                           {"headers": [{"name": "x-canary", "value": "always"}]}]},
                {"weight": 5}, {"match": []}
            ]),
            Value::Null,
        );
        let matching = Share { matching: Some(1), ..Share::NONE };
        let (testers, originals) = shared(&before, &run, matching, &Originals::new());
        let rules = testers.spec["rules"].as_array().expect("rules");
        assert_eq!(rules.len(), 3, "one rule of ours, before the user's");
        assert!(rules[0].get("name").is_none(), "names of rules are unique");
        assert_eq!(rules[0]["matches"].as_array().map(Vec::len), Some(4), "each match with each alternative");
        let header = json!({"type": "RegularExpression", "name": "x-tester", "value": "a\\+b.*"});
        assert_eq!(rules[0]["matches"][0]["headers"][0], header);
        let pattern = rules[0]["matches"][0]["headers"][1]["value"].as_str().expect("a pattern");
        let pattern = regex::Regex::new(pattern).expect("a pattern");
        for (cookie, is) in [("beta=1", true), ("a=b; beta=1; c=d", true), ("beta=12", false), ("xbeta=1", false)] {
            assert_eq!(pattern.is_match(cookie), is, "{cookie}");
        }
        assert_eq!(rules[0]["backendRefs"], json!([{"name": "auth-canary", "port": 80, "weight": 1}]));

        // the match stays while the weight grows, and ends
        let (both, originals) = shared(&testers, &run, Share { weight: 5, ..matching }, &originals);
        let (weight, originals) = shared(&both, &run, Share::of(5), &originals);
        assert_eq!(weight.spec["rules"].as_array().map(Vec::len), Some(2));
        assert_eq!(cleared(&both, &originals), before);

        // a rule of ours that somebody edits is no share that a run wants
        let mut edited = both.clone();
        edited.spec["rules"][0]["matches"] = json!([{"method": "PUT"}]);
        assert_eq!(shown(&edited, &run, &originals).and_then(|share| share.matching), Some(0));
    }

    #[test]
    fn several_cookies_are_one_pattern_for_each_order() {
        let before = route(json!([{"backendRefs": [{"name": "auth", "port": 80}]}]));
        let cookies = json!([{"name": "a", "value": "1"}, {"name": "b", "type": "Prefix", "value": "x"}]);
        let run = run(json!([{"match": [{"cookies": cookies}]}, {"weight": 5}]), Value::Null);
        let (testers, originals) = shared(&before, &run, Share { matching: Some(1), ..Share::NONE }, &Originals::new());
        let matches = testers.spec["rules"][0]["matches"].as_array().expect("matches").clone();
        assert_eq!(matches.len(), 2);
        assert!(matches.iter().all(|one| one["headers"].as_array().is_some_and(|headers| headers.len() == 1)));
        let patterns: Vec<regex::Regex> = matches
            .iter()
            .map(|one| regex::Regex::new(one["headers"][0]["value"].as_str().expect("text")).expect("a pattern"))
            .collect();
        for (cookie, is) in [
            ("a=1; b=x", true),
            ("b=xyz; a=1", true),
            ("z=0; a=1; z=0; b=x; z=0", true),
            ("b=x;a=1", true),
            ("a=1", false),
            ("a=1; cb=x", false),
            ("a=12; b=x", false),
        ] {
            assert_eq!(patterns.iter().any(|pattern| pattern.is_match(cookie)), is, "{cookie}");
        }
        assert_eq!(cleared(&testers, &originals), before);
    }

    #[test]
    fn where_a_prefix_is_replaced_each_rule_has_one_match() {
        let rewrite = json!({"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}});
        let before =
            route(json!([{"matches": [{"path": {"type": "PathPrefix", "value": "/auth"}}], "filters": [rewrite],
            "backendRefs": [{"name": "auth", "port": 80}]}]));
        let run = run(json!([{"mirror": {"percent": 20}}, {"weight": 5}]), Value::Null);
        let (copied, originals) = shared(&before, &run, Share { mirror: Some(1), ..Share::NONE }, &Originals::new());
        let rules = copied.spec["rules"].as_array().expect("rules");
        let methods: Vec<&Value> = rules.iter().map(|rule| &rule["matches"][0]["method"]).collect();
        assert_eq!(methods, [&json!("GET"), &json!("HEAD"), &Value::Null]);
        assert!(rules.iter().all(|rule| rule["matches"].as_array().map(Vec::len) == Some(1)));
        assert_eq!(cleared(&copied, &originals), before);
    }

    #[test]
    fn the_cookie_of_sticky_stands_in_the_filter_that_is_there_and_leaves_it_as_it_was() {
        let answers = |change: Value| json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": change});
        let asks =
            json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x", "value": "1"}]}});
        let run = run(json!([{"weight": 5}, {"weight": 25}]), json!({}));
        for filters in [
            json!([answers(json!({"set": [{"name": "x-shop", "value": "auth"}]})), asks]),
            json!([asks, answers(json!({"add": [{"name": "x-shop", "value": "auth"}], "remove": ["server"]}))]),
            json!([answers(json!({"remove": ["server"]}))]),
            json!([asks]),
        ] {
            let rule = json!({"filters": [answers(json!({"set": [{"name": "x-rule", "value": "1"}]}))],
                "backendRefs": [{"name": "auth", "port": 80, "filters": filters}, {"name": "legacy", "port": 80}]});
            let before = route(json!([rule]));
            let (first, originals) = shared(&before, &run, Share::of(5), &Originals::new());
            let (second, originals) = shared(&first, &run, Share::of(25), &originals);
            let shared_rule = second.spec["rules"].as_array().and_then(|rules| rules.last()).expect("rules");
            assert_eq!(shared_rule["filters"], before.spec["rules"][0]["filters"]);
            for (reference, value) in refs(shared_rule).iter().zip(["serin-auth-7-s25", "serin-auth-7-c"]) {
                let modifiers: Vec<&Value> = reference["filters"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|filter| filter["type"] == "ResponseHeaderModifier")
                    .collect();
                assert_eq!(modifiers.len(), 1, "the Gateway API allows no second one: {reference}");
                let added = modifiers[0]["responseHeaderModifier"]["add"].as_array().expect("added");
                let ours: Vec<&Value> = added.iter().filter(|header| header["name"] == "Set-Cookie").collect();
                assert_eq!(ours.len(), 1, "{reference}");
                assert!(ours[0]["value"].as_str().is_some_and(|text| text.contains(value)), "{reference}");
            }
            assert_eq!(refs(shared_rule)[2].get("filters"), None, "no business of the release");
            assert_eq!(cleared(&second, &originals), before);
        }
    }

    #[test]
    fn copies_are_made_of_safe_requests_only() {
        let before = route(json!([
            {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}, {"method": "POST"}], "backendRefs": [{"name": "auth", "port": 80}]}
        ]));
        let run = run(json!([{"mirror": {"percent": 20}}, {"weight": 5}]), Value::Null);
        let (copied, originals) = shared(&before, &run, Share { mirror: Some(1), ..Share::NONE }, &Originals::new());
        let rule = &copied.spec["rules"][0];
        let methods: Vec<&Value> = rule["matches"].as_array().into_iter().flatten().map(|one| &one["method"]).collect();
        assert_eq!(methods, [&json!("GET"), &json!("HEAD")]);
        assert_eq!(
            rule["filters"],
            json!([{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "auth-canary", "port": 80}, "percent": 20}}])
        );
        assert_eq!(weight_of(&rule["backendRefs"][0]), 100, "answers come from stable");
        assert_eq!(cleared(&copied, &originals), before);
    }

    #[test]
    fn users_stay_with_what_they_got_and_only_as_many_move_as_the_weight_needs() {
        let before = route(json!([{"backendRefs": [{"name": "auth", "port": 80}]}]));
        let run = run(json!([{"weight": 5}, {"weight": 25}, {"weight": 50}]), json!({"cookie": "stay"}));
        let (first, originals) = shared(&before, &run, Share::of(5), &Originals::new());
        assert_eq!(first.spec["rules"].as_array().map(Vec::len), Some(3), "canary's users, stable's users, new users");
        let (second, originals) = shared(&first, &run, Share::of(25), &originals);
        let rules = second.spec["rules"].as_array().expect("rules");
        assert_eq!(rules.len(), 4);
        let says = |rule: usize| rules[rule]["matches"][0]["headers"][0]["value"].as_str().unwrap_or_default();
        assert!(says(0).contains("stay=serin-auth-7-c") && says(1).contains("stay=serin-auth-7-s25"));
        // of 95 % who got stable before, 20 of 95 move: then 25 of 100 have the canary
        assert!(says(2).contains("stay=serin-auth-7-s5"));
        let weights: Vec<u64> = refs(&rules[2]).iter().map(weight_of).collect();
        let moved = weights[1] as f64 / (weights[0] + weights[1]) as f64;
        assert!((0.95 * moved + 0.05 - 0.25).abs() < 1e-3, "{weights:?}");
        let cookies: Vec<&str> = refs(&rules[3])
            .iter()
            .filter_map(|to| to["filters"][0]["responseHeaderModifier"]["add"][0]["value"].as_str())
            .collect();
        assert!(cookies[0].starts_with("stay=serin-auth-7-s25;") && cookies[1].starts_with("stay=serin-auth-7-c;"));
        // promotion and rollback set all free
        let (all, originals) = shared(&second, &run, Share::of(100), &originals);
        assert_eq!(all.spec["rules"].as_array().map(Vec::len), Some(1));
        assert_eq!(cleared(&second, &originals), before);
    }
}
