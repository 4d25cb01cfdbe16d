//! Where the load goes: checked once, then pinned, so that a name can't point elsewhere later.

use hyper::Uri;
use hyper::http::uri::{Authority, Scheme};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum TargetError {
    #[error("--url: expected http://ADDRESS:PORT without a path, found {0:?}")]
    NotAUrl(String),
    #[error("--url: expected a name that resolves, found {host:?} ({source})")]
    NoAddress { host: String, source: std::io::Error },
    #[error("--url: expected a name that resolves, found no address for {0:?}")]
    Empty(String),
    #[error(
        "--url: expected a loopback, private or benchmark address, found {0}; \
         load on machines of others is an attack: pass --allow-any if you may do this"
    )]
    Public(IpAddr),
}

/// A server that may be put under load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub address: SocketAddr,
    /// The host as the URL names it.
    pub authority: Authority,
}

impl Target {
    /// Resolves `url` and refuses addresses that are not ours to load, unless `allow_any`.
    pub async fn find(url: &str, allow_any: bool) -> Result<Self, TargetError> {
        let authority = parse(url)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(80);
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), port))
            .await
            .map_err(|source| TargetError::NoAddress { host: host.clone(), source })?
            .collect();
        let address = *addresses.first().ok_or(TargetError::Empty(host))?;
        if !allow_any && !is_near(address.ip()) {
            return Err(TargetError::Public(address.ip()));
        }
        Ok(Self { address, authority })
    }
}

fn parse(url: &str) -> Result<Authority, TargetError> {
    let wrong = || TargetError::NotAUrl(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let plain = uri.scheme() == Some(&Scheme::HTTP) && uri.path() == "/" && uri.query().is_none();
    // A port that is no number parses as none at all.
    let port_is_right = uri
        .authority()
        .is_some_and(|authority| authority.port_u16().is_some() || authority.as_str() == authority.host());
    uri.into_parts().authority.filter(|_| plain && port_is_right).ok_or_else(wrong)
}

/// Loopback, private, link-local, or set aside for benchmarks.
fn is_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_near_v4(ip),
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or_else(|| is_near_v6(ip), is_near_v4),
    }
}

fn is_near_v4(ip: Ipv4Addr) -> bool {
    let benchmark = ip.octets()[0] == 198 && matches!(ip.octets()[1], 18 | 19);
    ip.is_loopback() || ip.is_private() || ip.is_link_local() || benchmark
}

fn is_near_v6(ip: Ipv6Addr) -> bool {
    ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_addresses_are_near() {
        for ip in [
            "127.0.0.1",
            "127.8.8.8",
            "10.0.0.1",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "169.254.1.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_near(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "8.8.8.8",
            "11.0.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.169.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "2001:db8::1",
            "::ffff:8.8.8.8",
        ] {
            assert!(!is_near(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn urls_are_plain() {
        assert_eq!(parse("http://10.0.0.1:8888").unwrap(), "10.0.0.1:8888");
        assert_eq!(parse("http://10.0.0.1/").unwrap(), "10.0.0.1");
        assert_eq!(parse("http://[::1]:80").unwrap(), "[::1]:80");
        for url in [
            "",
            "10.0.0.1:8888",
            "https://10.0.0.1",
            "http://10.0.0.1/login",
            "http://10.0.0.1/?a",
            "http://",
            "http://10.0.0.1:99999",
            "http://a:b@10.0.0.1",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
    }
}
