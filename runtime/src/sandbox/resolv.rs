//! The pod's resolv.conf(5).

use husk_proto::cri;

use crate::network::Dns;

/// The host's own.
const HOST: &str = "/etc/resolv.conf";

/// The most bytes of the host's that are passed on.
const MAX_HOST: usize = 16 << 10;

/// The text: as the request says; where it says nothing, as the CNI plugins say, else the host's own, as
/// other runtimes do. Never empty.
pub fn conf(request: Option<&cri::DnsConfig>, plugins: &Dns) -> String {
    let asked = request.map(|dns| render(&dns.searches, &dns.servers, &dns.options)).unwrap_or_default();
    if !asked.is_empty() {
        return asked;
    }
    let mut told = render(&plugins.search, &plugins.nameservers, &plugins.options);
    if !plugins.domain.is_empty() {
        told.push_str(&format!("domain {}\n", plugins.domain));
    }
    if !told.is_empty() {
        return told;
    }
    match std::fs::read_to_string(HOST) {
        Ok(text) if !text.is_empty() && text.len() <= MAX_HOST => text,
        _ => "# no name servers are configured\n".into(),
    }
}

fn render(searches: &[String], servers: &[String], options: &[String]) -> String {
    let mut text = String::new();
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_request_rules_then_the_plugins() {
        let dns = cri::DnsConfig {
            servers: strings(&["10.0.0.1"]),
            searches: strings(&["a.b", "c"]),
            options: strings(&["ndots:5"]),
        };
        let plugins = Dns { nameservers: strings(&["10.9.9.9"]), ..Dns::default() };
        assert_eq!(conf(Some(&dns), &plugins), "search a.b c\nnameserver 10.0.0.1\noptions ndots:5\n");
        assert_eq!(conf(Some(&cri::DnsConfig::default()), &plugins), "nameserver 10.9.9.9\n");
        assert_eq!(conf(None, &plugins), "nameserver 10.9.9.9\n");
    }

    #[test]
    fn the_last_resort_is_never_empty() {
        assert!(!conf(None, &Dns::default()).is_empty());
    }
}
