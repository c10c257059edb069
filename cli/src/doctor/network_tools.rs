//! What systemd-networkd and NetworkManager say of links, read from their files as they read them; and the files that have them leave
//! pods' links alone. Pure.

use std::path::{Path, PathBuf};

use super::fix::Fix;

/// Any pod's host end has such a name.
pub(super) const A_POD_LINK: &str = "bw0000100000";

pub(super) fn networkd_keeps_routes() -> Fix {
    Fix::File {
        path: PathBuf::from("/etc/systemd/networkd.conf.d/90-barewire.conf"),
        text: "# systemd-networkd takes away routes and rules that it has not made itself whenever it starts. Pods' are barewired's.\n\
               [Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n",
        then: "it counts when systemd-networkd starts next: `systemctl restart systemd-networkd` in a quiet moment",
    }
}

pub(super) fn networkd_leaves_links() -> Fix {
    Fix::File {
        path: PathBuf::from("/etc/systemd/network/05-barewire.network"),
        text: "# The host ends of pods' links: `bw` and ten hexadecimal digits.\n[Match]\n\
               Name=bw[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]\n\n[Link]\nUnmanaged=yes\n",
        then: "`networkctl reload` has systemd-networkd read it",
    }
}

pub(super) fn network_manager_leaves_links() -> Fix {
    Fix::File {
        path: PathBuf::from("/etc/NetworkManager/conf.d/90-barewire.conf"),
        text: "# The host ends of pods' links, `bw` and ten hexadecimal digits, are barewired's.\n\
               [keyfile]\nunmanaged-devices+=interface-name:bw??????????\n",
        then: "`nmcli general reload conf` has NetworkManager read it",
    }
}

/// Sections with their assignments, in order: the format of systemd.syntax(7), near enough for NetworkManager's too.
pub(super) fn assignments(text: &str) -> Vec<(&str, &str, &str)> {
    let mut section = "";
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if !line.starts_with(['#', ';'])
            && let Some((key, value)) = line.split_once('=')
        {
            found.push((section, key.trim(), value.trim()));
        }
    }
    found
}

/// Whether foreign routes, and rules, are kept, by networkd.conf and its drop-ins in their order: the last word counts.
pub(super) fn keeps_foreign(texts: &[String]) -> (bool, bool) {
    let (mut routes, mut rules) = (false, false);
    for (section, key, value) in texts.iter().flat_map(|text| assignments(text)) {
        let keeps = matches!(value.to_lowercase().as_str(), "no" | "false" | "off" | "0" | "n" | "f");
        match (section, key) {
            ("Network", "ManageForeignRoutes") => routes = keeps,
            ("Network", "ManageForeignRoutingPolicyRules") => rules = keeps,
            _ => {}
        }
    }
    (routes, rules)
}

/// The file that pods' links are configured by: the first that matches, unless it says that they are not.
pub(super) fn claiming(files: &[(PathBuf, String)]) -> Option<&Path> {
    let (path, text) = files.iter().find(|(_, text)| matches_pod_link(text))?;
    let leaves = assignments(text).iter().any(|(section, key, value)| {
        *section == "Link" && *key == "Unmanaged" && matches!(value.to_lowercase().as_str(), "yes" | "true" | "on" | "1")
    });
    if leaves { None } else { Some(path) }
}

fn matches_pod_link(text: &str) -> bool {
    let conditions: Vec<_> = assignments(text).into_iter().filter(|(section, ..)| *section == "Match").collect();
    let holds = |(_, key, value): &(&str, &str, &str)| match *key {
        "Name" => one_of(value, A_POD_LINK),
        "Type" => one_of(value, "ether"),
        "Kind" => one_of(value, "veth"),
        "Driver" => one_of(value, "veth"),
        // Of a machine (a host name, a kernel): taken to hold. Of a piece of hardware: a veth has none.
        "Host" | "Virtualization" | "KernelCommandLine" | "KernelVersion" | "Credential" | "Architecture" | "Firmware" => true,
        _ => false,
    };
    !conditions.is_empty() && conditions.iter().all(holds)
}

/// systemd.network(5): patterns with spaces between, of which one must match; a leading `!` turns the whole list round.
fn one_of(patterns: &str, name: &str) -> bool {
    let (negated, patterns) = patterns.strip_prefix('!').map_or((false, patterns), |rest| (true, rest));
    patterns.split_whitespace().any(|pattern| is_like(pattern.as_bytes(), name.as_bytes())) != negated
}

/// Whether NetworkManager leaves pods' links alone, by its files' texts.
pub(super) fn is_unmanaged_by_network_manager(texts: &[String]) -> bool {
    let of_pod = |word: &str| {
        let pattern = word.strip_prefix("interface-name:").unwrap_or_default();
        is_like(pattern.trim_start_matches('=').as_bytes(), A_POD_LINK.as_bytes())
    };
    texts.iter().flat_map(|text| assignments(text)).any(|(section, key, value)| {
        section == "keyfile" && key.trim_end_matches('+') == "unmanaged-devices" && value.split([';', ',']).any(|word| of_pod(word.trim()))
    })
}

/// glob(7), as far as names of links go.
fn is_like(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => is_like(rest, name) || (!name.is_empty() && is_like(pattern, &name[1..])),
        ([b'?', rest @ ..], [_, name @ ..]) => is_like(rest, name),
        ([b'[', class @ ..], [first, name @ ..]) => {
            let Some(end) = class.iter().position(|byte| *byte == b']') else { return false };
            in_class(&class[..end], *first) && is_like(&class[end + 1..], name)
        }
        ([one, pattern @ ..], [first, name @ ..]) => one == first && is_like(pattern, name),
        _ => false,
    }
}

fn in_class(mut class: &[u8], byte: u8) -> bool {
    loop {
        class = match class {
            [from, b'-', to, ..] if (*from..=*to).contains(&byte) => return true,
            [_, b'-', _, rest @ ..] => rest,
            [one, ..] if *one == byte => return true,
            [_, rest @ ..] => rest,
            [] => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_fix(fix: Fix) -> String {
        match fix {
            Fix::File { text, .. } => text.to_owned(),
            other => panic!("{other:?} is no file"),
        }
    }

    #[test]
    fn the_files_that_are_written_say_what_is_looked_for() {
        assert_eq!(keeps_foreign(&[of_fix(networkd_keeps_routes())]), (true, true));
        assert!(is_unmanaged_by_network_manager(&[of_fix(network_manager_leaves_links())]));
        let ours = (PathBuf::from("05"), of_fix(networkd_leaves_links()));
        assert_eq!(claiming(&[ours, (PathBuf::from("10"), "[Match]\nName=*\n".to_owned())]), None);
    }

    #[test]
    fn the_last_word_counts() {
        let words = |texts: &[&str]| keeps_foreign(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(words(&[]), (false, false));
        assert_eq!(words(&["[Network]\nManageForeignRoutes=no", "[Network]\n ManageForeignRoutes = yes"]), (false, false));
        assert_eq!(words(&["[Network]\n#ManageForeignRoutes=no\nManageForeignRoutingPolicyRules=false"]), (false, true));
        assert_eq!(words(&["[DHCPv4]\nManageForeignRoutes=no"]), (false, false));
    }

    #[test]
    fn files_match_as_systemd_says() {
        for (text, claims) in [
            ("[Match]\nName=*\n[Network]\nDHCP=yes", true),
            ("[Match]\nName=en* eth*", false),
            ("[Match]\nName=!eth* lo", true),
            ("[Match]\nName=!bw* lo", false),
            ("[Match]\nType=ether", true),
            ("[Match]\nType=ether\nKind=!*", false),
            ("[Match]\nType=ether\nMACAddress=02:00:00:00:00:01", false),
            ("[Match]\nDriver=veth", true),
            ("[Match]\nName=bw*\n[Link]\nUnmanaged=yes", false),
            ("[Network]\nDHCP=yes", false),
        ] {
            let files = [(PathBuf::from("/x"), text.to_owned())];
            assert_eq!(claiming(&files).is_some(), claims, "{text}");
        }
    }

    #[test]
    fn network_manager_is_told_by_pattern() {
        for (text, leaves) in [
            ("[keyfile]\nunmanaged-devices=interface-name:bw*", true),
            ("[keyfile]\nunmanaged-devices=mac:02:00:00:00:00:01;interface-name:bw*,interface-name:docker0", true),
            ("[keyfile]\nunmanaged-devices=interface-name:eth0", false),
            ("[main]\nunmanaged-devices=interface-name:bw*", false),
            ("", false),
        ] {
            assert_eq!(is_unmanaged_by_network_manager(&[text.to_owned()]), leaves, "{text}");
        }
    }
}
