//! The CustomResourceDefinitions, from the types.

use std::{fs, io::Write as _, path::Path};

use kube::CustomResourceExt;

use crate::api::{Rollout, RolloutRecord, RolloutRun};

/// Could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum CrdError {
    #[error("could not write the CRD as YAML: {0}")]
    Yaml(#[from] serde_yaml::Error),
    #[error("could not write: {0}")]
    Io(#[from] std::io::Error),
}

/// File name and text of each.
pub fn all() -> Result<Vec<(&'static str, String)>, serde_yaml::Error> {
    Ok(vec![
        ("rollouts.yaml", serde_yaml::to_string(&Rollout::crd())?),
        ("rolloutruns.yaml", serde_yaml::to_string(&RolloutRun::crd())?),
        ("rolloutrecords.yaml", serde_yaml::to_string(&RolloutRecord::crd())?),
    ])
}

pub(super) fn print(folder: Option<&Path>) -> Result<(), CrdError> {
    for (name, text) in all()? {
        match folder {
            Some(folder) => {
                fs::create_dir_all(folder)?;
                fs::write(folder.join(name), text)?;
            }
            None => writeln!(std::io::stdout(), "---\n{}", text.trim_end())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_crds_in_the_repository_are_those_of_the_types() {
        for (name, text) in super::all().expect("yaml") {
            for folder in ["crds", "charts/serin/crds"] {
                let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(name);
                let is = std::fs::read_to_string(&path).unwrap_or_default();
                assert!(
                    is == text,
                    "{} differs from the types: cargo run -p serin -- crds --write {folder}",
                    path.display()
                );
            }
        }
    }
}
