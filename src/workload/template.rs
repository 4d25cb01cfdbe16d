//! Pod templates: when two are the same, and what is read from one.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api::names::HASH_LABEL;

/// Kubernetes' alphabet for generated names: no vowels, so no words.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The template without the label that tells ReplicaSets apart: what the Deployment controller compares, too.
pub fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("creationTimestamp");
    }
    template
}

/// The same version: equal [`without_hash`], but without copying the two.
pub fn same(one: &Value, other: &Value) -> bool {
    let labels = |one: &Value, other: &Value| equal_but(one, other, |key, _, _| key == HASH_LABEL);
    let metadata = |one: &Value, other: &Value| {
        equal_but(one, other, |key, one, other| match key {
            "creationTimestamp" => true,
            "labels" => one.zip(other).is_some_and(|(one, other)| labels(one, other)),
            _ => false,
        })
    };
    equal_but(one, other, |key, one, other| {
        key == "metadata" && one.zip(other).is_some_and(|(one, other)| metadata(one, other))
    })
}

/// Equal but for fields that are `excused`, which gets a field's name and both values.
fn equal_but(one: &Value, other: &Value, excused: impl Fn(&str, Option<&Value>, Option<&Value>) -> bool) -> bool {
    let (Some(these), Some(those)) = (one.as_object(), other.as_object()) else { return one == other };
    let all = these.keys().chain(those.keys().filter(|key| !these.contains_key(*key)));
    all.map(|key| (key, these.get(key), those.get(key)))
        .all(|(key, one, other)| one == other || excused(key, one, other))
}

/// A digest by which a version is known again: 32 hex digits.
pub fn digest(template: &Value) -> String {
    // serde_json keeps objects sorted by key, so the text is canonical.
    let hash = Sha256::digest(without_hash(template).to_string());
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A pod-template-hash of our own for a version in a run. The Deployment controller matches by equality of templates
/// and never computes the hash again, so any value will do that no other ReplicaSet of the Deployment has.
pub fn hash(digest: &str, run: &str) -> String {
    let bytes = Sha256::digest(format!("{run}/{digest}"));
    bytes.iter().take(10).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// Container name to image.
pub fn images(template: &Value) -> BTreeMap<String, String> {
    let text =
        |container: &Value, name: &str| container.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    containers(template).map(|container| (text(container, "name"), text(container, "image"))).collect()
}

/// The number of a container port, by its name or as written.
pub fn port(template: &Value, name: &str) -> Option<u16> {
    if let Ok(number) = name.parse::<u16>() {
        return (number > 0).then_some(number);
    }
    let mut ports = containers(template).filter_map(|container| container.get("ports")?.as_array()).flatten();
    let port = ports.find(|port| port.get("name").and_then(Value::as_str) == Some(name))?;
    port.get("containerPort").and_then(Value::as_u64).and_then(|number| u16::try_from(number).ok())
}

/// Names of the container ports.
pub fn port_names(template: &Value) -> Vec<String> {
    let ports = containers(template).filter_map(|container| container.get("ports")?.as_array()).flatten();
    ports.filter_map(|port| port.get("name")?.as_str()).map(str::to_owned).collect()
}

/// The labels of its pods.
pub fn labels(template: &Value) -> BTreeMap<String, String> {
    let labels = template.pointer("/metadata/labels").and_then(Value::as_object);
    labels.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn containers(template: &Value) -> impl Iterator<Item = &Value> {
    template.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_hash_label_does_not_make_a_version() {
        let plain =
            json!({"metadata": {"labels": {"app": "auth"}}, "spec": {"containers": [{"name": "a", "image": "x:1"}]}});
        let mut hashed = plain.clone();
        hashed["metadata"]["labels"][HASH_LABEL] = json!("abc");
        hashed["metadata"]["creationTimestamp"] = Value::Null;
        assert!(same(&plain, &hashed));
        assert_eq!(digest(&plain), digest(&hashed));
        hashed["spec"]["containers"][0]["image"] = json!("x:2");
        assert!(!same(&plain, &hashed));
        assert!(!same(&hashed, &json!({"spec": hashed["spec"]})));
        assert_ne!(digest(&plain), digest(&hashed));
    }

    #[test]
    fn each_run_has_a_hash_of_its_own_that_is_a_valid_label() {
        let (one, other) = (hash("d", "auth-1"), hash("d", "auth-2"));
        assert_ne!(one, other);
        assert_eq!(one.len(), 10);
        assert!(one.bytes().all(|byte| ALPHABET.contains(&byte)));
    }

    #[test]
    fn a_metrics_port_is_found_by_name_or_number() {
        let template =
            json!({"spec": {"containers": [{"name": "a", "ports": [{"name": "http", "containerPort": 8080}]}]}});
        assert_eq!(port(&template, "http"), Some(8080));
        assert_eq!(port(&template, "9090"), Some(9090));
        assert_eq!(port(&template, "metrics"), None);
    }
}
