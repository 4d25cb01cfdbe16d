//! Before Serin is uninstalled: every Rollout is deleted, so that its finalizer puts the Deployment back, and this waits
//! until they are gone.

use std::time::{Duration, Instant};

use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};

use crate::{api::Rollout, controller};

pub(super) async fn restore(namespaces: Vec<String>, timeout: u64) -> Result<(), String> {
    let client: Client = controller::client().await.map_err(|error| error.to_string())?;
    let scopes: Vec<Api<Rollout>> =
        match namespaces.iter().filter(|name| !name.is_empty()).collect::<Vec<_>>().as_slice() {
            [] => vec![Api::all(client.clone())],
            some => some.iter().map(|name| Api::namespaced(client.clone(), name)).collect(),
        };
    let began = Instant::now();
    loop {
        let mut left = Vec::new();
        for api in &scopes {
            let list = api
                .list(&ListParams::default())
                .await
                .map_err(|error| format!("could not list the Rollouts: {error}"))?;
            left.extend(list.items);
        }
        if left.is_empty() {
            println!("all Deployments are as they were found");
            return Ok(());
        }
        for rollout in left.iter().filter(|rollout| rollout.metadata.deletion_timestamp.is_none()) {
            let api: Api<Rollout> = Api::namespaced(client.clone(), &rollout.namespace().unwrap_or_default());
            let name = rollout.name_any();
            println!("deleting rollout.serin.dev/{name}: its Deployment is put back");
            api.delete(&name, &DeleteParams::default())
                .await
                .map_err(|error| format!("could not delete Rollout {name}: {error}"))?;
        }
        if began.elapsed() >= Duration::from_secs(timeout) {
            let names: Vec<String> = left
                .iter()
                .map(|rollout| format!("{}/{}", rollout.namespace().unwrap_or_default(), rollout.name_any()))
                .collect();
            return Err(format!(
                "after {timeout} s these Rollouts are still there: {} (kubectl describe tells why)",
                names.join(", ")
            ));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
