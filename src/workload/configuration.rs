//! The ConfigMaps and Secrets that a pod template names, as part of a version.
//!
//! A version's data is kept in immutable copies, and the version's stamp, an annotation of its pod template, says which:
//! `ROLLOUT DIGEST KIND/NAME...` (a label has the digest once more, to select by). Pods with a stamp are given the copies `NAME-DIGEST` in the place of `NAME` by the
//! chart's admission policy, so templates stay as their owner wrote them, and each pod has its version's data until it goes.

use std::{collections::BTreeSet, fmt};

use k8s_openapi::{
    api::core::v1 as core,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::Resource;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Deployment, template};
use crate::api::{ConfigKind, names};

/// v1 ConfigMap.
#[derive(Resource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[resource(inherit = "core::ConfigMap")]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMap {
    pub metadata: ObjectMeta,
    pub data: Contents,
    pub binary_data: Contents,
}

/// v1 Secret.
#[derive(Resource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[resource(inherit = "core::Secret")]
#[serde(rename_all = "camelCase", default)]
pub struct Secret {
    pub metadata: ObjectMeta,
    pub data: Contents,
}

/// Key to value, as JSON has them. Never printed.
#[derive(Serialize, Deserialize, Clone, Default, PartialEq)]
#[serde(transparent)]
pub struct Contents(std::collections::BTreeMap<String, String>);

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// A ConfigMap or a Secret.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigObject {
    pub kind: ConfigKind,
    pub metadata: ObjectMeta,
    pub data: Contents,
    pub binary_data: Contents,
}

impl From<ConfigMap> for ConfigObject {
    fn from(map: ConfigMap) -> Self {
        let ConfigMap { metadata, data, binary_data } = map;
        Self { kind: ConfigKind::ConfigMap, metadata, data, binary_data }
    }
}

impl From<Secret> for ConfigObject {
    fn from(secret: Secret) -> Self {
        let Secret { metadata, data } = secret;
        Self { kind: ConfigKind::Secret, metadata, data, binary_data: Contents::default() }
    }
}

impl ConfigObject {
    fn is(&self, kind: ConfigKind, name: &str) -> bool {
        self.kind == kind && self.metadata.name.as_deref() == Some(name)
    }

    /// The digest of the version that this is a copy for.
    pub fn copy_for(&self) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(names::CONFIGURATION_LABEL).map(String::as_str)
    }

    /// A Secret's is keyed by its uid, which only those know who may read the Secret: else anyone who sees the pod
    /// template could try guesses against the digest.
    fn digest(&self) -> impl AsRef<[u8]> {
        let key = match self.kind {
            ConfigKind::Secret => self.metadata.uid.as_deref().unwrap_or_default(),
            ConfigKind::ConfigMap => "",
        };
        Sha256::digest(json!([key, self.data, self.binary_data]).to_string())
    }

    /// An immutable copy for a version of the Deployment, with which it goes at the latest.
    fn copy(&self, stamp: &Stamp, deployment: &Deployment) -> Value {
        let owner = OwnerReference {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            name: deployment.metadata.name.clone().unwrap_or_default(),
            uid: deployment.metadata.uid.clone().unwrap_or_default(),
            ..OwnerReference::default()
        };
        let name = copy_name(self.metadata.name.as_deref().unwrap_or_default(), &stamp.digest);
        let labels = json!({names::ROLLOUT_LABEL: stamp.rollout, names::CONFIGURATION_LABEL: stamp.digest});
        let mut copy = json!({
            "apiVersion": "v1", "kind": self.kind.as_str(), "immutable": true, "data": self.data,
            "metadata": {"name": name, "namespace": self.metadata.namespace, "labels": labels, "ownerReferences": [owner]}
        });
        if self.binary_data != Contents::default() {
            copy["binaryData"] = json!(self.binary_data);
        }
        copy
    }
}

fn copy_name(name: &str, digest: &str) -> String {
    format!("{name}-{digest}")
}

/// Which data a version has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The Rollout that tracks it. Without it pods get no copies.
    pub rollout: String,
    /// Of all the data.
    pub digest: String,
    /// What there are copies of.
    pub objects: BTreeSet<(ConfigKind, String)>,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.rollout, self.digest)?;
        self.objects.iter().try_for_each(|(kind, name)| write!(f, " {}/{name}", kind.as_str()))
    }
}

impl Stamp {
    /// What the template should be stamped with, as its ConfigMaps and Secrets are now; `None` if it names none of them
    /// that is there.
    pub fn of(rollout: &str, template: &Value, track: &[ConfigKind], objects: &[ConfigObject]) -> Option<Self> {
        let mut hasher = Sha256::new();
        let mut named = BTreeSet::new();
        for (kind, name) in named_by(template).into_iter().filter(|(kind, _)| track.contains(kind)) {
            let Some(object) = objects.iter().find(|object| object.is(kind, &name)) else { continue };
            hasher.update(format!("{}/{name}/", kind.as_str()));
            hasher.update(object.digest());
            named.insert((kind, name));
        }
        let whole: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = template::hash(&whole, "configuration");
        (!named.is_empty()).then(|| Self { rollout: rollout.to_owned(), digest, objects: named })
    }

    /// As the template has it. The label is what the admission policy looks for: without it there is no stamp.
    pub fn read(template: &Value) -> Option<Self> {
        let metadata = template.get("metadata")?;
        let stamp: Self = Self::parse(metadata.get("annotations")?.get(names::CONFIGURATION_ANNOTATION)?.as_str()?)?;
        let label = metadata.get("labels")?.get(names::CONFIGURATION_LABEL)?.as_str()?;
        (label == stamp.digest).then_some(stamp)
    }

    /// `ROLLOUT DIGEST KIND/NAME...`
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (rollout, digest) = (words.next()?.to_owned(), words.next()?.to_owned());
        let object = |word: &str| {
            let (kind, name) = word.split_once('/')?;
            Some((ConfigKind::ALL.into_iter().find(|known| known.as_str() == kind)?, name.to_owned()))
        };
        Some(Self { rollout, digest, objects: words.filter_map(object).collect() })
    }

    /// Copies that are not there.
    pub fn missing_copies(
        &self,
        deployment: &Deployment,
        objects: &[ConfigObject],
    ) -> Vec<(ConfigKind, String, Value)> {
        let missing = self.objects.iter().filter_map(|(kind, name)| {
            let copy = copy_name(name, &self.digest);
            let there = objects.iter().any(|object| object.is(*kind, &copy) && object.copy_for() == Some(&self.digest));
            let of = objects.iter().find(|object| object.is(*kind, name)).filter(|_| !there)?;
            Some((*kind, copy, of.copy(self, deployment)))
        });
        missing.collect()
    }
}

/// ConfigMaps and Secrets that the pods read: by environment and by volume.
fn named_by(template: &Value) -> BTreeSet<(ConfigKind, String)> {
    let mut found = BTreeSet::new();
    let mut take = |kind, object: &Value, path: &str| {
        if let Some(name) = object.pointer(path).and_then(Value::as_str).filter(|name| !name.is_empty()) {
            found.insert((kind, name.to_owned()));
        }
    };
    let list = |of: &Value, field: &str| of.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let spec = template.get("spec").cloned().unwrap_or_default();
    for volume in list(&spec, "volumes") {
        take(ConfigKind::ConfigMap, &volume, "/configMap/name");
        take(ConfigKind::Secret, &volume, "/secret/secretName");
        for source in list(volume.get("projected").unwrap_or(&Value::Null), "sources") {
            take(ConfigKind::ConfigMap, &source, "/configMap/name");
            take(ConfigKind::Secret, &source, "/secret/name");
        }
    }
    for container in ["initContainers", "containers"].into_iter().flat_map(|kind| list(&spec, kind)) {
        for from in list(&container, "envFrom") {
            take(ConfigKind::ConfigMap, &from, "/configMapRef/name");
            take(ConfigKind::Secret, &from, "/secretRef/name");
        }
        for variable in list(&container, "env") {
            take(ConfigKind::ConfigMap, &variable, "/valueFrom/configMapKeyRef/name");
            take(ConfigKind::Secret, &variable, "/valueFrom/secretKeyRef/name");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: ConfigKind, name: &str, uid: &str, value: &str) -> ConfigObject {
        let metadata = ObjectMeta { name: Some(name.into()), uid: Some(uid.into()), ..ObjectMeta::default() };
        ConfigObject {
            kind,
            metadata,
            data: serde_json::from_value(json!({"key": value})).expect("contents"),
            binary_data: Contents::default(),
        }
    }

    fn template() -> Value {
        json!({"metadata": {}, "spec": {
            "volumes": [
                {"configMap": {"name": "files"}}, {"secret": {"secretName": "certificate"}}, {"emptyDir": {}},
                {"projected": {"sources": [{"configMap": {"name": "more"}}, {"secret": {"name": "token"}}]}}],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "first"}}]}],
            "containers": [{"env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "a"}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "b"}}},
                {"name": "C", "value": "plain"}]}]
        }})
    }

    #[test]
    fn what_pods_read_is_found_in_every_place() {
        use ConfigKind::{ConfigMap, Secret};
        let names = [
            (ConfigMap, "files"),
            (ConfigMap, "first"),
            (ConfigMap, "more"),
            (ConfigMap, "settings"),
            (Secret, "certificate"),
            (Secret, "keys"),
            (Secret, "token"),
        ];
        assert_eq!(named_by(&template()), names.map(|(kind, name)| (kind, name.to_owned())).into());
    }

    #[test]
    fn the_stamp_is_of_the_data_of_what_is_tracked_and_named() {
        use ConfigKind::{ConfigMap, Secret};
        let stamp = |track: &[ConfigKind], objects: &[ConfigObject]| Stamp::of("auth", &template(), track, objects);
        let settings = |value| object(ConfigMap, "settings", "1", value);
        let keys = |uid, value| object(Secret, "keys", uid, value);
        let both = [ConfigMap, Secret];
        let is = stamp(&both, &[settings("a"), keys("2", "b")]).expect("a stamp");
        assert_eq!(
            stamp(&both, &[keys("2", "b"), settings("a"), object(ConfigMap, "other", "3", "c")]),
            Some(is.clone())
        );
        for other in [
            stamp(&both, &[settings("x"), keys("2", "b")]),
            stamp(&both, &[settings("a"), keys("2", "x")]),
            // the same data in a Secret that was made anew: its digest is keyed by the uid
            stamp(&both, &[settings("a"), keys("3", "b")]),
            stamp(&[ConfigMap], &[settings("a"), keys("2", "b")]),
            stamp(&both, &[settings("a")]),
        ] {
            assert_ne!(other.expect("a stamp").digest, is.digest);
        }
        let mut recreated = settings("a");
        recreated.metadata.uid = Some("9".into());
        assert_eq!(stamp(&both, &[recreated, keys("2", "b")]), Some(is.clone()), "a ConfigMap's is not");
        assert_eq!(stamp(&both, &[object(ConfigMap, "other", "1", "a")]), None);

        let mut stamped = template();
        stamped["metadata"]["annotations"] = json!({names::CONFIGURATION_ANNOTATION: is.to_string()});
        assert_eq!(Stamp::read(&stamped), None, "half of it is none");
        stamped["metadata"]["labels"] = json!({names::CONFIGURATION_LABEL: is.digest});
        assert_eq!(Stamp::read(&stamped), Some(is));
        assert_eq!(Stamp::read(&template()), None);
    }

    #[test]
    fn copies_are_made_once_and_nothing_prints_what_is_in_them() {
        let objects = [object(ConfigKind::Secret, "keys", "2", "hunter2")];
        let deployment = Deployment::default();
        let stamp = Stamp::of("auth", &template(), &ConfigKind::ALL, &objects).expect("a stamp");
        let missing = stamp.missing_copies(&deployment, &objects);
        let [(ConfigKind::Secret, name, copy)] = missing.as_slice() else { panic!("{missing:?}") };
        assert_eq!(*name, format!("keys-{}", stamp.digest));
        assert_eq!((&copy["immutable"], &copy["data"]["key"]), (&json!(true), &json!("hunter2")));
        let made: ConfigObject = serde_json::from_value::<Secret>(copy.clone()).expect("a Secret").into();
        assert!(stamp.missing_copies(&deployment, &[objects[0].clone(), made]).is_empty());
        assert!(!format!("{objects:?}").contains("hunter2"));
    }
}
