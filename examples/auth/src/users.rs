//! Who may log in. Passwords are kept as keyed digests, never in the clear.

use crate::token::keyed;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::collections::BTreeMap;

#[derive(Clone)]
pub struct Users {
    mac: Hmac<Sha256>,
    digests: BTreeMap<String, Vec<u8>>,
}

impl Users {
    /// Reads `alice:wonderland,bob:builder`. The error is what was found instead, without a password in it.
    pub fn parse(text: &str, key: &[u8]) -> Result<Self, String> {
        let mac = keyed(key);
        let mut digests = BTreeMap::new();
        for (index, pair) in text.split(',').enumerate() {
            match pair.trim().split_once(':') {
                Some((name, password)) if !name.is_empty() && !password.is_empty() => {
                    let digest = mac.clone().chain_update(password).finalize().into_bytes().to_vec();
                    digests.insert(name.to_owned(), digest);
                }
                _ => return Err(format!("(another thing as pair {})", index + 1)),
            }
        }
        Ok(Self { mac, digests })
    }

    pub fn accepts(&self, name: &str, password: &str) -> bool {
        // A name that we don't know takes as long as a wrong password.
        let known = self.digests.get(name);
        let digest = known.map_or(&[0u8; 32][..], Vec::as_slice);
        let right = self.mac.clone().chain_update(password).verify_slice(digest).is_ok();
        right && known.is_some()
    }
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.digests.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_pair_is_accepted() {
        let users = Users::parse("alice:wonderland, bob:b:uilder", b"key").unwrap();
        assert!(users.accepts("alice", "wonderland"));
        assert!(users.accepts("bob", "b:uilder"));
        for (name, password) in [("alice", "b:uilder"), ("alice", ""), ("carol", "wonderland"), ("", "")] {
            assert!(!users.accepts(name, password), "{name}");
        }
        assert_eq!(format!("{users:?}"), r#"{"alice", "bob"}"#);
    }

    #[test]
    fn half_a_pair_is_an_error() {
        for text in ["alice", "alice:", ":secret", "alice:wonderland,"] {
            let found = Users::parse(text, b"key").unwrap_err();
            assert!(!found.contains("secret"), "{found}");
        }
    }
}
