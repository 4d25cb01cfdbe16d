//! Weights in the user's own HTTPRoute.
//!
//! In each rule that names the apex the canary's reference stands beside the apex's. Where a rule has other backends too,
//! the apex's part is divided: with weight W and W + others = total, the canary gets its percent of W and the others keep
//! their share exactly, because every weight of the rule is multiplied by 100 first.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::objects::HttpRoute;

/// Weights of the rules' references before the run: "RULE/REFERENCE" to the weight as written (`null`: none).
pub type Originals = BTreeMap<String, Value>;

/// What a route says about apex and canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rules that name the apex.
    pub rules: usize,
    /// The canary's percent of what the two get; `None` without a canary reference in any of these rules.
    pub weight: Option<u32>,
}

/// Gateway API limits weights to this.
const MAX_WEIGHT: u64 = 1_000_000;

fn rules(route: &HttpRoute) -> &[Value] {
    route.spec.get("rules").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn refs(rule: &Value) -> &[Value] {
    rule.get("backendRefs").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn names(reference: &Value, service: &str, namespace: Option<&str>) -> bool {
    let text = |name: &str| reference.get(name).and_then(Value::as_str);
    text("name") == Some(service)
        && text("kind").unwrap_or("Service") == "Service"
        && text("group").unwrap_or("").is_empty()
        && text("namespace").is_none_or(|other| Some(other) == namespace)
}

fn weight_of(reference: &Value) -> u64 {
    reference.get("weight").and_then(Value::as_u64).unwrap_or(1)
}

/// What the route says. With rules that disagree, the highest canary weight.
pub fn shape(route: &HttpRoute, apex: &str, canary: &str) -> Shape {
    let namespace = route.metadata.namespace.as_deref();
    let mut shape = Shape { rules: 0, weight: None };
    for rule in rules(route) {
        let sum = |service: &str| {
            let named = refs(rule).iter().filter(|reference| names(reference, service, namespace));
            named.map(weight_of).fold(None, |sum: Option<u64>, weight| Some(sum.unwrap_or(0) + weight))
        };
        let (Some(stable), canary) = (sum(apex), sum(canary)) else { continue };
        shape.rules += 1;
        if let Some(canary) = canary {
            let percent =
                if stable + canary == 0 { 0 } else { (200 * canary + stable + canary) / (2 * (stable + canary)) };
            let percent = u32::try_from(percent).unwrap_or(100);
            shape.weight = Some(shape.weight.map_or(percent, |other| other.max(percent)));
        }
    }
    shape
}

/// Gives the canary `weight` percent in every rule that names the apex. Returns the patch and the weights to put back.
///
/// `known` are the originals of an earlier call in this run; they win over what is read now.
pub fn set_weight(route: &HttpRoute, apex: &str, canary: &str, weight: u32, known: &Originals) -> (Value, Originals) {
    let namespace = route.metadata.namespace.as_deref();
    let name = route.metadata.name.as_deref().unwrap_or_default();
    let mut originals = known.clone();
    let mut next = rules(route).to_vec();
    for (index, rule) in next.iter_mut().enumerate() {
        let before = refs(rule).to_vec();
        if !before.iter().any(|reference| names(reference, apex, namespace)) {
            continue;
        }
        let fresh = !before.iter().any(|reference| names(reference, canary, namespace));
        let original = |reference: &Value, originals: &mut Originals| {
            let key = key(name, index, reference);
            let written = reference.get("weight").cloned().unwrap_or(Value::Null);
            originals.entry(key).or_insert(written).as_u64().unwrap_or(1)
        };
        let mut after = Vec::new();
        for reference in &before {
            if names(reference, canary, namespace) {
                if !fresh && !known.keys().any(|key| key.starts_with(&format!("{name}/{index}/"))) {
                    // The reference stood there before the run: a pre-declared one, to be kept afterwards.
                    originals.entry(key(name, index, reference)).or_insert_with(|| json!("declared"));
                }
                continue;
            }
            let whole = original(reference, &mut originals).min(MAX_WEIGHT / 100);
            if names(reference, apex, namespace) {
                after.push(with_weight(reference, whole * u64::from(100 - weight.min(100))));
                let mut partner = before
                    .iter()
                    .find(|other| names(other, canary, namespace))
                    .cloned()
                    .unwrap_or_else(|| reference.clone());
                partner["name"] = json!(canary);
                partner["port"] = reference.get("port").cloned().unwrap_or(Value::Null);
                after.push(with_weight(&partner, whole * u64::from(weight.min(100))));
            } else {
                after.push(with_weight(reference, whole * 100));
            }
        }
        rule["backendRefs"] = Value::Array(after);
    }
    (patch(route, next), originals)
}

/// Takes the canary's references out and puts the weights back. A pre-declared reference stays, with weight 0.
pub fn clear(route: &HttpRoute, apex: &str, canary: &str, originals: &Originals) -> Value {
    let namespace = route.metadata.namespace.as_deref();
    let name = route.metadata.name.as_deref().unwrap_or_default();
    let mut next = rules(route).to_vec();
    for (index, rule) in next.iter_mut().enumerate() {
        let before = refs(rule).to_vec();
        if !before.iter().any(|reference| names(reference, canary, namespace)) {
            continue;
        }
        let mut after = Vec::new();
        for mut reference in before {
            let original = originals.get(&key(name, index, &reference));
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
pub fn accepted(route: &HttpRoute) -> Result<(), String> {
    let generation = route.metadata.generation.unwrap_or(0);
    let parents = route.spec.get("parentRefs").and_then(Value::as_array).map_or(0, Vec::len);
    let statuses = route.status.get("parents").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if parents == 0 {
        return Err("it is attached to no gateway (spec.parentRefs)".into());
    }
    if statuses.len() < parents {
        return Err(format!("{} of {parents} gateways have said whether they accept it", statuses.len()));
    }
    for status in statuses {
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

fn key(route: &str, rule: usize, reference: &Value) -> String {
    let text = |name: &str| reference.get(name).map(|value| value.to_string()).unwrap_or_default();
    format!("{route}/{rule}/{}:{}", text("name").trim_matches('"'), text("port"))
}

fn with_weight(reference: &Value, weight: u64) -> Value {
    let mut reference = reference.clone();
    reference["weight"] = json!(weight);
    reference
}

fn patch(route: &HttpRoute, next: Vec<Value>) -> Value {
    json!([
        {"op": "test", "path": "/spec/rules", "value": rules(route)},
        {"op": "replace", "path": "/spec/rules", "value": next}
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(rules: Value) -> HttpRoute {
        let mut route = HttpRoute { spec: json!({"rules": rules}), ..HttpRoute::default() };
        route.metadata.name = Some("auth".into());
        route.metadata.namespace = Some("shop".into());
        route
    }

    fn applied(route: &HttpRoute, patch: Value) -> HttpRoute {
        let mut value = serde_json::to_value(route).expect("json");
        let patch: json_patch::Patch = serde_json::from_value(patch).expect("patch");
        json_patch::patch(&mut value, &patch).expect("applies");
        serde_json::from_value(value).expect("route")
    }

    #[test]
    fn a_weight_is_set_and_taken_away_and_nothing_else_changes() {
        let before = route(json!([
            {"matches": [{"path": {"value": "/"}}], "filters": [{"type": "x"}], "backendRefs": [{"name": "auth", "port": 80}]},
            {"backendRefs": [{"name": "other", "port": 80}]}
        ]));
        let (patch, originals) = set_weight(&before, "auth", "auth-canary", 5, &Originals::new());
        let shifted = applied(&before, patch);
        assert_eq!(shape(&shifted, "auth", "auth-canary"), Shape { rules: 1, weight: Some(5) });
        assert_eq!(
            shifted.spec["rules"][0]["backendRefs"],
            json!([
            {"name": "auth", "port": 80, "weight": 95}, {"name": "auth-canary", "port": 80, "weight": 5}])
        );
        assert_eq!(shifted.spec["rules"][1], before.spec["rules"][1]);

        let (patch, originals) = set_weight(&shifted, "auth", "auth-canary", 50, &originals);
        let half = applied(&shifted, patch);
        assert_eq!(shape(&half, "auth", "auth-canary").weight, Some(50));
        assert_eq!(applied(&half, clear(&half, "auth", "auth-canary", &originals)), before);
    }

    #[test]
    fn other_backends_of_a_rule_keep_their_share() {
        let before = route(json!([{"backendRefs": [
            {"name": "auth", "port": 80, "weight": 3}, {"name": "legacy", "port": 80, "weight": 1}]}]));
        let (patch, originals) = set_weight(&before, "auth", "auth-canary", 20, &Originals::new());
        let shifted = applied(&before, patch);
        let weights: Vec<u64> = refs(&shifted.spec["rules"][0]).iter().map(weight_of).collect();
        assert_eq!(weights, [240, 60, 100]);
        assert_eq!(applied(&shifted, clear(&shifted, "auth", "auth-canary", &originals)), before);
    }

    #[test]
    fn a_declared_canary_reference_is_used_and_kept() {
        let before = route(json!([{"backendRefs": [
            {"name": "auth", "port": 80, "weight": 1}, {"name": "auth-canary", "port": 80, "weight": 0}]}]));
        let (patch, originals) = set_weight(&before, "auth", "auth-canary", 20, &Originals::new());
        let shifted = applied(&before, patch);
        assert_eq!(shape(&shifted, "auth", "auth-canary").weight, Some(20));
        assert_eq!(applied(&shifted, clear(&shifted, "auth", "auth-canary", &originals)), before);
    }

    #[test]
    fn a_patch_against_a_changed_route_does_not_apply() {
        let before = route(json!([{"backendRefs": [{"name": "auth", "port": 80}]}]));
        let (patch, _) = set_weight(&before, "auth", "auth-canary", 5, &Originals::new());
        let changed = route(json!([{"backendRefs": [{"name": "auth", "port": 81}]}]));
        let mut value = serde_json::to_value(&changed).expect("json");
        let patch: json_patch::Patch = serde_json::from_value(patch).expect("patch");
        assert!(json_patch::patch(&mut value, &patch).is_err());
    }
}
