//! Where pods come from: the ReplicaSets of a Deployment, and the handover of one to it.
//!
//! Everything here is pure: objects in, patches or bodies out. Only the fields Serin looks at are typed; a pod template
//! stays JSON, so that no field of a newer Kubernetes is lost on the way into a ReplicaSet.

mod configuration;
mod handover;
mod objects;
mod replica_set;
pub mod template;

pub use configuration::{ConfigMap, ConfigObject, Contents, Secret, Stamp};
pub use handover::{give_back, hand_over};
pub use objects::{
    ContainerState, ContainerStatus, Deployment, DeploymentSpec, DeploymentStatus, LabelSelector, Pod, PodSpec,
    PodStatus, ReplicaSet, ReplicaSetSpec, ReplicaSetStatus, StatusCondition,
};
pub use replica_set::{borrow, canary, hash_of, owner_of, scale};
