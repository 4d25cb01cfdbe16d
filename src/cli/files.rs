//! Rollouts in YAML files.

use std::{fmt::Display, fs, path::Path};

use serde::Deserialize;
use serde_json::Value;

use crate::api::{Policy, Rollout, validate};

/// The Rollouts of a file with one or more documents, checked as the API server and the controller would.
pub(super) fn rollouts(file: &Path) -> Result<Vec<(Rollout, Policy)>, String> {
    let at = |error: &dyn Display| format!("{}: {error}", file.display());
    let text = fs::read_to_string(file).map_err(|error| at(&error))?;
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value = Value::deserialize(document).map_err(|error| at(&error))?;
        if value.get("kind").and_then(Value::as_str) != Some("Rollout") {
            continue;
        }
        let rollout: Rollout = serde_json::from_value(value).map_err(|error| at(&error))?;
        let policy = validate(&rollout.spec).map_err(|error| at(&error))?;
        found.push((rollout, policy));
    }
    Ok(found)
}

/// It names a file, not a Rollout of the cluster.
pub(super) fn is_file(target: &str) -> bool {
    target.contains(['/', '.']) || Path::new(target).exists()
}

/// The only Rollout of a file.
pub(super) fn rollout(file: &Path) -> Result<(Rollout, Policy), String> {
    let mut found = rollouts(file)?;
    match (found.pop(), found.len()) {
        (Some(only), 0) => Ok(only),
        (_, more) => Err(format!(
            "{}: expected one Rollout, found {}",
            file.display(),
            if more == 0 { "none".to_owned() } else { (more + 1).to_string() }
        )),
    }
}
