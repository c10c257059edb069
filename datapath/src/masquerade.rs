//! Masquerade for what leaves the cloud network: one nftables table of our own, installed whole, never touched per pod.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use ipnetwork::IpNetwork;

const TABLE: &str = "inet barewire";

/// Which packets leave with the node's own address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masquerade {
    /// Sources: where pod addresses come from, as first and last address.
    pub pods: Vec<(IpAddr, IpAddr)>,
    /// Destinations that see a pod's address as it is.
    pub native: Vec<IpNetwork>,
}

/// Why the table could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum MasqueradeError {
    /// The `nft` program did not run.
    #[error("cannot run nft: {0}; install the package nftables, or set network.masquerade = false")]
    Run(#[source] std::io::Error),
    /// It ran and refused.
    #[error("nft refused the masquerade table: {0}")]
    Refused(String),
}

impl Masquerade {
    /// Installs the table in place of an earlier one, in one transaction.
    ///
    /// # Errors
    /// See [`MasqueradeError`].
    pub fn install(&self) -> Result<(), MasqueradeError> {
        nft(&self.ruleset())
    }

    /// Removes the table.
    ///
    /// # Errors
    /// See [`MasqueradeError`].
    pub fn uninstall() -> Result<(), MasqueradeError> {
        nft(&format!("table {TABLE}\ndelete table {TABLE}\n"))
    }

    /// The ruleset as text, in `nft -f` form. Declaring the table before deleting it makes the deletion succeed whether or
    /// not it was there. Priority 105 puts the chain behind the usual srcnat hooks (100): a service's own masquerade wins.
    fn ruleset(&self) -> String {
        let mut text = format!("table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
        let families = [("ip", "ipv4_addr", true), ("ip6", "ipv6_addr", false)];
        let mut rules = String::new();
        for (family, kind, is_v4) in families {
            let pods = self.pods.iter().filter(|(first, _)| first.is_ipv4() == is_v4);
            let pods: Vec<_> = pods.map(|(first, last)| format!("{first}-{last}")).collect();
            let native = self.native.iter().filter(|network| network.is_ipv4() == is_v4);
            let native: Vec<_> = native.map(ToString::to_string).collect();
            if pods.is_empty() {
                continue;
            }
            text.push_str(&set(&format!("pods_{family}"), kind, &pods));
            text.push_str(&set(&format!("native_{family}"), kind, &native));
            rules.push_str(&format!("    {family} saddr @pods_{family} {family} daddr != @native_{family} fib daddr type != local oifname != \"bw*\" counter masquerade\n"));
        }
        text.push_str("  chain postrouting {\n    type nat hook postrouting priority 105; policy accept;\n");
        text.push_str(&rules);
        text.push_str("  }\n}\n");
        text
    }
}

fn set(name: &str, kind: &str, elements: &[String]) -> String {
    let elements = if elements.is_empty() { String::new() } else { format!("    elements = {{ {} }}\n", elements.join(", ")) };
    format!("  set {name} {{\n    type {kind}\n    flags interval\n    auto-merge\n{elements}  }}\n")
}

fn nft(script: &str) -> Result<(), MasqueradeError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(MasqueradeError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).map_err(MasqueradeError::Run)?;
    }
    let output = child.wait_with_output().map_err(MasqueradeError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    Err(MasqueradeError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(ranges: &[(&str, &str)]) -> Vec<(IpAddr, IpAddr)> {
        ranges.iter().map(|(first, last)| (first.parse().unwrap(), last.parse().unwrap())).collect()
    }

    #[test]
    fn each_family_with_pods_has_its_rule() {
        let native = vec!["10.0.0.0/16".parse().unwrap()];
        let both = Masquerade { pods: pods(&[("10.0.1.16", "10.0.1.31"), ("fd00::1", "fd00::ff")]), native: native.clone() }.ruleset();
        assert!(both.contains("ip saddr @pods_ip ip daddr != @native_ip"));
        assert!(both.contains("ip6 saddr @pods_ip6 ip6 daddr != @native_ip6"));
        let v4 = Masquerade { pods: pods(&[("10.0.1.16", "10.0.1.31")]), native }.ruleset();
        assert!(!v4.contains("ip6"));
    }
}
