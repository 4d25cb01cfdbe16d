//! What people and their tools do.

use std::rc::Rc;

use serde_json::{Value, json};
use serin::{api::names, workload::template};

use super::{
    cluster::own_rule,
    server::{Kind, Object, Refusal, Server},
};

#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// kubectl set image.
    Release(String),
    /// kubectl rollout undo: the template that serves.
    Undo,
    /// An edit of the ConfigMap: a word for how pods behave with it, and something to tell it from others.
    Configure(String),
    Scale(i64),
    Pause(bool),
    Abort,
    Approve,
    Retry,
    /// kubectl rollout resume while a run holds the Deployment.
    Resume,
    DeleteRollout,
    /// The newest run, under way or not.
    DeleteRun,
    /// The same; what it owns is orphaned at once.
    OrphanRun,
    DeleteDeployment,
    /// Somebody takes the preview's route away.
    DeletePreview,
    /// Its ReplicaSets and pods stay.
    OrphanDeployment,
    DeleteService,
    CreateService,
    /// Its owner has it select other pods.
    TurnService,
    DeleteRoute,
    CreateRoute,
    /// The Deployment as it was in the beginning.
    CreateDeployment,
    /// A GitOps tool puts its own refs and weights back, in all routes.
    ResetRoute,
    /// The same for the Services' selectors.
    ResetService,
    /// Fields that are nobody's but theirs.
    EditOther,
    /// The path that the route's first rule matches: in the list that Serin's weights are in, too.
    EditRules(String),
    Outage(bool),
    /// Nothing; until the last deed the world is as rough as its setting.
    Rest,
    /// A healthy pod of the version that serves crashes once.
    CrashOne,
    /// A node is drained.
    Drain,
    /// The eviction of one pod, of a version that has another: no request may be lost by it.
    Evict,
    /// No more pods than these.
    Quota(i64),
    /// As it was in the beginning; refused as long as the old one is there.
    CreateRollout,
}

/// The ConfigMap that the pods read.
pub const SETTINGS: &str = "settings";
/// Selects the same pods as the apex.
pub const SECOND_SERVICE: &str = "auth-internal";
/// Names the apex beside [`LEGACY`].
pub const SECOND_ROUTE: &str = "auth-shared";
/// Made by a run for its preview.
pub const PREVIEW_ROUTE: &str = "auth-preview";
/// Its host name.
pub const PREVIEW_HOST: &str = "preview.example";
/// A backend that no release concerns.
pub const LEGACY: &str = "legacy";

/// References of a route's only rule, as its owner wrote them.
pub fn own_refs(route: &str) -> Value {
    match route {
        SECOND_ROUTE => json!([{"name": "auth", "port": 80, "weight": 3}, {"name": LEGACY, "port": 80, "weight": 1}]),
        _ => json!([{"name": "auth", "port": 80}]),
    }
}

/// The newest run.
pub fn newest_run(server: &Server) -> Option<&Rc<Object>> {
    let number = |name: &str| name.rsplit_once('-').and_then(|(_, number)| number.parse::<u64>().ok());
    server.list(Kind::Run).max_by_key(|run| number(run.name()))
}

/// The template that serves, as the ReplicaSets have it: of the biggest owned by the Deployment.
pub fn serving_template(server: &Server) -> Option<Value> {
    let owner = server.list(Kind::Deployment).next()?.uid().to_owned();
    let owned = server.list(Kind::ReplicaSet).filter(|set| set.owner() == Some(&owner));
    owned.max_by_key(|set| set.int("/spec/replicas")).map(|set| template::without_hash(&set.value["spec"]["template"]))
}

fn set(path: &str, value: impl Into<Value>) -> Value {
    json!([{"op": "add", "path": path, "value": value.into()}])
}

fn edit(server: &mut Server, kind: Kind, name: &str, ops: &Value) -> Result<u64, Refusal> {
    let by = if matches!(kind, Kind::Route | Kind::Service) { "gitops" } else { "kubectl" };
    server.patch(kind, name, ops, by, false)
}

/// Fields that `EditOther` writes: they must be there at the end.
pub fn other_fields() -> [(Kind, &'static str, Value); 4] {
    [
        (Kind::Route, "/metadata/annotations/team", json!("shop")),
        (Kind::Route, "/spec/hostnames", json!(["auth.example"])),
        (Kind::Service, "/spec/sessionAffinity", json!("None")),
        (Kind::Deployment, "/spec/progressDeadlineSeconds", json!(601)),
    ]
}

/// Does it, as far as the API server lets it.
pub fn act(server: &mut Server, deed: &Deed) -> Result<u64, Refusal> {
    let to_run = |server: &mut Server, path: &str, value: Value| {
        let run = newest_run(server).ok_or(Refusal::NotFound)?.name().to_owned();
        edit(server, Kind::Run, &run, &set(path, value))
    };
    match deed {
        Deed::Release(image) => {
            edit(server, Kind::Deployment, "auth", &set("/spec/template/spec/containers/0/image", image.as_str()))
        }
        Deed::Undo => {
            let template = serving_template(server).ok_or(Refusal::NotFound)?;
            edit(server, Kind::Deployment, "auth", &set("/spec/template", template))
        }
        Deed::Configure(words) => {
            let (fault, edit_of) = words.split_once(' ').unwrap_or((words, ""));
            edit(server, Kind::ConfigMap, SETTINGS, &set("/data", json!({"fault": fault, "edit": edit_of})))
        }
        Deed::Scale(to) => edit(server, Kind::Deployment, "auth", &set("/spec/replicas", *to)),
        Deed::Pause(on) => to_run(server, "/spec/paused", json!(on)),
        Deed::Abort => to_run(server, "/spec/abort", json!(true)),
        Deed::Retry => to_run(server, "/spec/retry", json!(true)),
        Deed::Approve => {
            let run = newest_run(server).ok_or(Refusal::NotFound)?.name().to_owned();
            let step = server.get(Kind::Run, &run).map_or(0, |run| run.int("/status/step"));
            edit(server, Kind::Run, &run, &set("/spec/approved", step))
        }
        Deed::Resume => {
            let held = server.get(Kind::Deployment, "auth").is_some_and(|deployment| {
                deployment.value["metadata"]["labels"].get(names::RUN_LABEL).is_some() && deployment.is("/spec/paused")
            });
            if !held {
                return Err(Refusal::NotFound);
            }
            let answer = edit(server, Kind::Deployment, "auth", &set("/spec/paused", false));
            assert_eq!(answer, Err(Refusal::Forbidden), "the guard lets nobody unpause");
            answer
        }
        Deed::DeleteRollout => server.delete(Kind::Rollout, "auth", None),
        Deed::DeletePreview => server.delete(Kind::Route, PREVIEW_ROUTE, None),
        Deed::DeleteRun | Deed::OrphanRun => {
            let run = newest_run(server).ok_or(Refusal::NotFound)?.name().to_owned();
            if *deed == Deed::OrphanRun {
                server.orphan(Kind::Run, &run);
            }
            server.delete(Kind::Run, &run, None)
        }
        Deed::DeleteDeployment => server.delete(Kind::Deployment, "auth", None),
        Deed::OrphanDeployment => {
            server.orphan(Kind::Deployment, "auth");
            server.delete(Kind::Deployment, "auth", None)
        }
        Deed::DeleteService => server.delete(Kind::Service, "auth", None),
        Deed::DeleteRoute => server.delete(Kind::Route, "auth", None),
        Deed::TurnService => {
            let selector = json!([{"op": "replace", "path": "/spec/selector/app", "value": "other"}]);
            edit(server, Kind::Service, "auth", &selector)
        }
        Deed::ResetRoute => {
            for route in ["auth", SECOND_ROUTE]
                .into_iter()
                .filter(|name| server.get(Kind::Route, name).is_some())
                .collect::<Vec<_>>()
            {
                // As a GitOps tool does: all rules as they are in Git, and in Git there are none of Serin's.
                let mut own = server
                    .get(Kind::Route, route)
                    .map_or(Value::Null, |object| object.value["spec"]["rules"][own_rule(object)].clone());
                own["backendRefs"] = own_refs(route);
                edit(server, Kind::Route, route, &set("/spec/rules", json!([own])))?;
            }
            Ok(0)
        }
        Deed::ResetService => {
            for service in ["auth", SECOND_SERVICE]
                .into_iter()
                .filter(|name| server.get(Kind::Service, name).is_some())
                .collect::<Vec<_>>()
            {
                edit(server, Kind::Service, service, &set("/spec/selector", json!({"app": "auth"})))?;
            }
            Ok(0)
        }
        Deed::EditOther => {
            for (kind, path, value) in other_fields() {
                if path.starts_with("/metadata/annotations")
                    && server
                        .get(kind, "auth")
                        .is_some_and(|object| object.value["metadata"].get("annotations").is_none())
                {
                    edit(server, kind, "auth", &set("/metadata/annotations", json!({})))?;
                }
                edit(server, kind, "auth", &set(path, value))?;
            }
            Ok(0)
        }
        Deed::EditRules(path) => {
            let matches = json!([{"path": {"type": "PathPrefix", "value": path}}]);
            let place = server.get(Kind::Route, "auth").map_or(0, |route| own_rule(route));
            edit(server, Kind::Route, "auth", &set(&format!("/spec/rules/{place}/matches"), matches))
        }
        Deed::CreateDeployment
        | Deed::CreateService
        | Deed::CreateRoute
        | Deed::CreateRollout
        | Deed::Evict
        | Deed::Quota(_)
        | Deed::Outage(_)
        | Deed::CrashOne
        | Deed::Drain
        | Deed::Rest => Ok(0),
    }
}
