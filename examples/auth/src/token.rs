//! Session tokens: signed, with an end, and the same for all replicas and versions that share the key.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::time::Duration;
use thiserror::Error;

#[derive(Deserialize, Serialize)]
struct Claims {
    user: String,
    /// Unix seconds.
    ends: u64,
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    #[error("expected a token from POST /login, found something else")]
    Malformed,
    #[error("the token's signature is not ours; log in again")]
    Forged,
    #[error("the session has ended; log in again")]
    Ended,
}

/// Signs and checks tokens: `base64(claims).base64(HMAC-SHA256(key, claims))`.
#[derive(Clone)]
pub struct Signer {
    mac: Hmac<Sha256>,
    ttl: Duration,
}

impl Signer {
    pub fn new(key: &[u8], ttl: Duration) -> Self {
        Self { mac: keyed(key), ttl }
    }

    /// A token for `user`; `now` in Unix seconds.
    pub fn sign(&self, user: &str, now: u64) -> String {
        let claims = Claims { user: user.to_owned(), ends: now.saturating_add(self.ttl.as_secs()) };
        let claims = serde_json::json!(claims).to_string();
        let mac = self.mac.clone().chain_update(&claims).finalize().into_bytes();
        format!("{}.{}", URL_SAFE_NO_PAD.encode(claims), URL_SAFE_NO_PAD.encode(mac))
    }

    /// The user whom the token was given to.
    pub fn check(&self, token: &str, now: u64) -> Result<String, TokenError> {
        let (claims, mac) = token.split_once('.').ok_or(TokenError::Malformed)?;
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| TokenError::Malformed)?;
        let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| TokenError::Malformed)?;
        // Compared in constant time, and before anything inside is believed.
        self.mac.clone().chain_update(&claims).verify_slice(&mac).map_err(|_| TokenError::Forged)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| TokenError::Malformed)?;
        if now >= claims.ends { Err(TokenError::Ended) } else { Ok(claims.user) }
    }
}

/// An HMAC with this key. HMAC takes keys of any length, which the crate's signature can't say.
pub(crate) fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn signer() -> Signer {
        Signer::new(b"0123456789abcdef", HOUR)
    }

    #[test]
    fn another_replica_accepts_the_token() {
        let token = signer().sign("alice", 1000);
        assert_eq!(signer().check(&token, 1001), Ok("alice".to_owned()));
    }

    #[test]
    fn tokens_end() {
        let token = signer().sign("alice", 1000);
        assert_eq!(signer().check(&token, 4599), Ok("alice".to_owned()));
        assert_eq!(signer().check(&token, 4600), Err(TokenError::Ended));
    }

    #[test]
    fn what_we_did_not_sign_is_refused() {
        let token = signer().sign("alice", 1000);
        let other = Signer::new(b"another key of us", HOUR);
        assert_eq!(other.check(&token, 1001), Err(TokenError::Forged));
        let (_, mac) = token.split_once('.').unwrap();
        let claims = URL_SAFE_NO_PAD.encode(r#"{"user":"root","ends":99999}"#);
        assert_eq!(signer().check(&format!("{claims}.{mac}"), 1001), Err(TokenError::Forged));
        assert_eq!(signer().check(&format!("{claims}."), 1001), Err(TokenError::Forged));
        for nonsense in ["", ".", "a", "a.b.c", "ä.b"] {
            assert!(signer().check(nonsense, 1001).is_err(), "{nonsense}");
        }
    }
}
