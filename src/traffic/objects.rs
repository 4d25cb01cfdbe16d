//! Services and routes, as far as Serin looks at them.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Resource, core::NamespaceResourceScope};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::{RouteRef, names};

/// v1 Service.
#[derive(Resource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[resource(inherit = "core::Service")]
pub struct Service {
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: ServiceSpec,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    #[serde(rename = "clusterIP", skip_serializing_if = "String::is_empty")]
    pub cluster_ip: String,
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    pub ports: Vec<Value>,
}

/// Kinds of routes that carry weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// HTTPRoute.
    #[default]
    Http,
    /// GRPCRoute.
    Grpc,
}

impl RouteKind {
    /// As objects spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        }
    }
}

/// A route of gateway.networking.k8s.io/v1; rules stay JSON, so that nothing of them is lost.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Route {
    /// Of this kind.
    #[serde(skip)]
    pub kind: RouteKind,
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: Value,
    #[serde(default)]
    pub status: Value,
}

impl Route {
    /// A GRPCRoute.
    pub fn is_grpc(&self) -> bool {
        self.kind == RouteKind::Grpc
    }
    /// The one that a policy names.
    pub fn is(&self, wanted: &RouteRef) -> bool {
        self.kind.as_str() == wanted.kind && self.metadata.name.as_ref() == Some(&wanted.name)
    }
}

/// One type for each kind, as the API server has one address for each.
macro_rules! route_kind {
    ($name:ident, $kind:expr, $plural:literal) => {
        #[doc = concat!("What is read at ", $plural, ".")]
        #[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
        #[serde(transparent)]
        pub struct $name(Route);

        impl From<$name> for Route {
            fn from(read: $name) -> Self {
                Self { kind: $kind, ..read.0 }
            }
        }

        impl Resource for $name {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;
            fn kind(_: &()) -> Cow<'_, str> {
                $kind.as_str().into()
            }
            fn group(_: &()) -> Cow<'_, str> {
                "gateway.networking.k8s.io".into()
            }
            fn version(_: &()) -> Cow<'_, str> {
                "v1".into()
            }
            fn plural(_: &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.0.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.0.metadata
            }
        }
    };
}
route_kind!(HttpRoute, RouteKind::Http, "httproutes");
route_kind!(GrpcRoute, RouteKind::Grpc, "grpcroutes");

/// The field manager, other than Serin, that wrote the spec last.
pub fn changed_by(metadata: &ObjectMeta) -> Option<String> {
    let managers =
        metadata.managed_fields.iter().flatten().filter(|entry| entry.subresource.as_deref().unwrap_or("").is_empty());
    let last = managers
        .filter(|entry| entry.manager.as_deref() != Some(names::MANAGER))
        .max_by_key(|entry| entry.time.clone())?;
    last.manager.clone()
}

/// The entries by which Serin manages fields of the object itself, not of its status.
fn entries(metadata: &ObjectMeta) -> impl Iterator<Item = usize> {
    let entries = metadata.managed_fields.iter().flatten().enumerate();
    entries
        .filter(|(_, entry)| {
            entry.manager.as_deref() == Some(names::MANAGER) && entry.subresource.as_deref().unwrap_or("").is_empty()
        })
        .map(|(index, _)| index)
}

/// Serin manages fields of the object.
pub fn is_owned(metadata: &ObjectMeta) -> bool {
    entries(metadata).next().is_some()
}

/// Gives the ownership up. A server-side apply by the object's owner would otherwise end in a conflict over fields that
/// have their old values again. It has to be a write of its own.
pub fn disown(metadata: &ObjectMeta) -> Value {
    let mut ops = Vec::new();
    // From behind, so that the places of the others stay.
    for index in entries(metadata).collect::<Vec<_>>().into_iter().rev() {
        let path = format!("/metadata/managedFields/{index}");
        ops.push(json!({"op": "test", "path": format!("{path}/manager"), "value": names::MANAGER}));
        ops.push(json!({"op": "remove", "path": path}));
    }
    Value::Array(ops)
}
