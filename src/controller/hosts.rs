//! Hosts that Rollouts may have Serin talk to.

/// Hosts that may be reached, as the operator's configuration has them: `checks.example.com`, `*.example.com`, each with
/// `:PORT` or without (then any port).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts(pub Vec<String>);

impl AllowedHosts {
    /// It may be reached.
    pub fn allow(&self, host: &str, port: u16) -> bool {
        self.0.iter().any(|allowed| {
            let (name, of_port) = match allowed.rsplit_once(':') {
                Some((name, of_port)) => (name, Some(of_port)),
                None => (allowed.as_str(), None),
            };
            let named = match name.strip_prefix("*.") {
                Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
                None => host.eq_ignore_ascii_case(name),
            };
            named && of_port.is_none_or(|of_port| of_port == port.to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_of_the_configuration_are_reached() {
        let hosts = AllowedHosts(vec!["checks.example.com".into(), "*.corp.example:8443".into()]);
        for (host, port, may) in [
            ("checks.example.com", 80, true),
            ("CHECKS.example.com", 443, true),
            ("evil.example.com", 80, false),
            ("checks.example.com.evil.com", 80, false),
            ("a.corp.example", 8443, true),
            ("a.corp.example", 80, false),
            ("corp.example", 8443, false),
            ("evilcorp.example", 8443, false),
        ] {
            assert_eq!(hosts.allow(host, port), may, "{host}:{port}");
        }
        assert!(!AllowedHosts::default().allow("localhost", 80), "nothing is allowed by default");
    }
}
