//! Saves the parts of a run's record, apart from the decisions: what can't be saved is said in the log and lost, and
//! nothing waits for it.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{ByteString, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams},
};

use super::shell::Shell;
use crate::{
    api::{RolloutRecord, RolloutRecordSpec, RolloutRun, names},
    record::Part,
};

/// An API request that takes longer than this has failed.
const TIMEOUT: Duration = Duration::from_secs(5);
const TRIES: u32 = 3;
/// So many parts of a run are kept from its beginning, and so many from its end: some two hours of a run with a tick a
/// second and 600 KiB. Of a longer run the middle goes.
const KEPT_FIRST: usize = 2;
const KEPT_LAST: usize = 10;

/// Whose record it is.
#[derive(Clone, Debug)]
pub(super) struct About {
    namespace: String,
    owner: OwnerReference,
    rollout: String,
    /// When this writer began, in seconds since 1970.
    since: i64,
}

impl About {
    pub fn of(run: &RolloutRun, now: Timestamp) -> Self {
        let owner = OwnerReference {
            api_version: names::API_VERSION.into(),
            kind: "RolloutRun".into(),
            name: run.name_any(),
            uid: run.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        };
        Self {
            namespace: run.namespace().unwrap_or_default(),
            owner,
            rollout: run.spec.rollout_ref.name.clone(),
            since: now.as_second(),
        }
    }

    fn record(&self, part: Part) -> RolloutRecord {
        let run = self.owner.name.clone();
        let spec = RolloutRecordSpec {
            run: run.clone(),
            since: self.since,
            number: part.number,
            data: ByteString(part.bytes),
        };
        let labels = [(names::ROLLOUT_LABEL, &self.rollout), (names::RUN_LABEL, &run)];
        let metadata = ObjectMeta {
            name: Some(format!("{run}-{}-{}", self.since, part.number)),
            labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()),
            owner_references: Some(vec![self.owner.clone()]),
            ..ObjectMeta::default()
        };
        RolloutRecord { metadata, spec }
    }
}

/// Saves these parts, without anybody waiting for it.
pub(super) fn save(shell: &Arc<Shell>, about: &About, parts: Vec<Part>) {
    if parts.is_empty() || !shell.sender.leading.is_leading() {
        return;
    }
    let (shell, about) = (Arc::clone(shell), about.clone());
    tokio::spawn(async move {
        let api: Api<RolloutRecord> = Api::namespaced(shell.sender.client.clone(), &about.namespace);
        for part in parts {
            let is_new = part.is_new;
            let record = about.record(part);
            let saved = keep(&shell, &api, &record).await;
            let done = match saved {
                Ok(()) if is_new => prune(&shell, &api, &about).await,
                other => other,
            };
            if let Err(error) = done {
                let (namespace, record) = (&about.namespace, record.name_any());
                tracing::warn!(namespace, record, error, "a part of the record was not saved");
            }
        }
    });
}

/// Creates or replaces it: the same part again as it grows.
async fn keep(shell: &Shell, api: &Api<RolloutRecord>, record: &RolloutRecord) -> Result<(), String> {
    let params = PatchParams::apply(names::MANAGER).force();
    let mut last = String::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let name = record.name_any();
        let result = within(api.patch(&name, &params, &Patch::Apply(record))).await;
        shell.sender.metrics.wrote("RolloutRecord", "apply", if result.is_ok() { "ok" } else { "error" });
        match result {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Takes the middle of a long record away.
async fn prune(shell: &Shell, api: &Api<RolloutRecord>, about: &About) -> Result<(), String> {
    let params = ListParams::default().labels(&format!("{}={}", names::RUN_LABEL, about.owner.name));
    let list = within(api.list(&params)).await?;
    let parts = list.items.into_iter().map(|record| (record.spec.since, record.spec.number, record.name_any()));
    for name in to_drop(parts.collect()) {
        let result = within(api.delete(&name, &DeleteParams::default())).await;
        shell.sender.metrics.wrote("RolloutRecord", "delete", if result.is_ok() { "ok" } else { "error" });
        result?;
    }
    Ok(())
}

/// Names of the parts to be deleted; each comes with its writer's time and its number.
fn to_drop(mut parts: Vec<(i64, u64, String)>) -> Vec<String> {
    parts.sort();
    let last = parts.len().saturating_sub(KEPT_LAST);
    parts.into_iter().take(last).skip(KEPT_FIRST).map(|(_, _, name)| name).collect()
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("expected an answer within {} s, got none", TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_record_the_middle_goes() {
        let parts = |count: u64| (0..count).rev().map(|number| (7, number, format!("auth-1-7-{number}"))).collect();
        assert!(to_drop(parts(12)).is_empty());
        assert_eq!(to_drop(parts(14)), ["auth-1-7-2", "auth-1-7-3"]);
        // Another writer's parts come after the first one's.
        let two = vec![(9, 0, "late".to_owned()), (7, 11, "early".to_owned())];
        assert!(to_drop(two).is_empty());
    }
}
