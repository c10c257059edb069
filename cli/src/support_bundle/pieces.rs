//! The pieces of a bundle: what each is called, where it comes from, and how much of it is kept.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::secrets;
use crate::daemon::Daemon;
use crate::execute::execute;

/// For one piece.
const LIMIT: Duration = Duration::from_secs(10);
/// Of one piece. Rulesets of thousands of services have some megabytes.
const SIZE_MAX: usize = 8 << 20;

/// One file of a bundle.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) name: &'static str,
    pub(super) source: Source,
    pub(super) keep: Keep,
    pub(super) limit: Duration,
}

/// Where it comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// A page of the daemon.
    Page(Daemon, &'static str),
    /// What a program prints.
    Command(Vec<&'static str>),
    /// A file as it is.
    File(PathBuf),
    /// A configuration in TOML, without secrets.
    Toml(PathBuf),
    /// What lies in the runtime's directory of lists: names, and each list without secrets.
    Lists(PathBuf),
}

/// Of what is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Start,
    End,
}

/// What there is of a piece, and why not all of it.
#[derive(Debug, Default)]
pub(super) struct Had {
    pub(super) bytes: Option<Vec<u8>>,
    pub(super) error: Option<String>,
}

/// All of them, the cheap and the telling ones first.
pub(super) fn all(daemon: Daemon, config: &Path) -> Vec<Piece> {
    let piece = |name, source| Piece { name, source, keep: Keep::Start, limit: LIMIT };
    let page = |name, path| piece(name, Source::Page(daemon, path));
    let command = |name, argv: &[&'static str]| piece(name, Source::Command(argv.to_vec()));
    let file = |name, path: &str| piece(name, Source::File(path.into()));
    vec![
        page("status.json", "/status"),
        piece("config.toml", Source::Toml(config.to_owned())),
        page("pods.json", "/pods"),
        page("addresses.json", "/addresses"),
        page("traffic.json", "/traffic"),
        page("metrics.txt", "/metrics"),
        page("latency.json", "/debug/latency"),
        page("fast_path.json", "/debug/fast_path"),
        page("supply.json", "/debug/supply"),
        file("kernel.txt", "/proc/version"),
        file("os-release.txt", "/etc/os-release"),
        command("versions/barewired.txt", &["barewired", "--version"]),
        command("versions/nft.txt", &["nft", "--version"]),
        command("versions/iproute2.txt", &["ip", "-V"]),
        piece("cni.txt", Source::Lists("/etc/cni/net.d".into())),
        command("unit.txt", &["systemctl", "--no-pager", "status", "--lines=0", "barewired"]),
        Piece {
            keep: Keep::End,
            ..command("journal.txt", &["journalctl", "--no-pager", "--unit=barewired", "--lines=20000", "--output=short-iso-precise"])
        },
        command("links.txt", &["ip", "-details", "-statistics", "link"]),
        command("link-addresses.txt", &["ip", "address"]),
        command("routes4.txt", &["ip", "-4", "route", "show", "table", "all"]),
        command("routes6.txt", &["ip", "-6", "route", "show", "table", "all"]),
        command("rules4.txt", &["ip", "-4", "rule"]),
        command("rules6.txt", &["ip", "-6", "rule"]),
        command("neighbours.txt", &["ip", "neighbour"]),
        command("nftables.txt", &["nft", "list", "ruleset"]),
        command("bpf-programs.txt", &["bpftool", "prog", "list"]),
        command("bpf-attached.txt", &["bpftool", "net", "list"]),
        file("conntrack-count.txt", "/proc/sys/net/netfilter/nf_conntrack_count"),
        file("conntrack-max.txt", "/proc/sys/net/netfilter/nf_conntrack_max"),
    ]
}

impl Piece {
    /// Fetches it, in this time at most.
    pub(super) fn get(&self, left: Duration) -> Had {
        let limit = self.limit.min(left);
        let got = match &self.source {
            Source::Page(daemon, page) => daemon.get(page).map_err(|error| error.to_string()),
            Source::Command(argv) => return self.of_command(argv, limit),
            Source::File(path) => read(path),
            Source::Toml(path) => {
                read(path).and_then(|bytes| secrets::without_in_toml(&String::from_utf8_lossy(&bytes)).map(String::into_bytes))
            }
            Source::Lists(folder) => lists(folder),
        };
        match got {
            Ok(bytes) => self.bounded(bytes),
            // A line each: this is one of a list.
            Err(error) => Had { bytes: None, error: Some(error.lines().next().unwrap_or("failed").to_owned()) },
        }
    }

    /// What a program has printed is of use where it failed, too.
    fn of_command(&self, argv: &[&'static str], limit: Duration) -> Had {
        let [program, arguments @ ..] = argv else { return Had::default() };
        let mut command = Command::new(program);
        command.args(arguments).env("LC_ALL", "C");
        match execute(&mut command, limit) {
            Err(error) => Had { bytes: None, error: Some(error) },
            Ok(executed) if executed.succeeded => self.bounded(executed.stdout.into_bytes()),
            Ok(executed) => {
                let why = executed.stderr.lines().next().unwrap_or("failed and said nothing").trim().to_owned();
                let had = self.bounded(executed.stdout.into_bytes());
                Had { error: Some(format!("{program}: {why}")), ..had }
            }
        }
    }

    fn bounded(&self, mut bytes: Vec<u8>) -> Had {
        let length = bytes.len();
        if length <= SIZE_MAX {
            return Had { bytes: Some(bytes), error: None };
        }
        let kept = match self.keep {
            Keep::Start => {
                bytes.truncate(SIZE_MAX);
                "first"
            }
            Keep::End => {
                bytes.drain(..length - SIZE_MAX);
                "last"
            }
        };
        Had { bytes: Some(bytes), error: Some(format!("{length} bytes, of which the {kept} {SIZE_MAX} are in it")) }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(SIZE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn lists(folder: &Path) -> Result<Vec<u8>, String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let told = paths.iter().fold(String::new(), |told, path| {
        // Beside the lists lie the credentials of other agents (a kubeconfig).
        let is_list = path.extension().is_some_and(|kind| ["conflist", "conf", "json"].iter().any(|known| kind == *known));
        let text = if is_list { read(path).and_then(|bytes| secrets::without_in_json(&bytes)) } else { Ok("not read".to_owned()) };
        told + &format!("==> {} <==\n{}\n\n", path.display(), text.unwrap_or_else(|why| why))
    });
    Ok(told.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_cut_where_it_tells_least() {
        let of = |keep| Piece { name: "x", source: Source::Command(Vec::new()), keep, limit: LIMIT };
        let mut bytes = vec![b'a'; SIZE_MAX];
        bytes.push(b'z');
        for (keep, last) in [(Keep::Start, b'a'), (Keep::End, b'z')] {
            let had = of(keep).bounded(bytes.clone());
            let kept = had.bytes.unwrap();
            assert_eq!((kept.len(), kept.last()), (SIZE_MAX, Some(&last)));
            assert!(had.error.unwrap().contains(&bytes.len().to_string()));
        }
        assert!(of(Keep::Start).bounded(vec![b'a'; SIZE_MAX]).error.is_none());
    }

    #[test]
    fn credentials_beside_the_lists_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("10-x.conflist"), r#"{"name":"x","plugins":[{"type":"y","token":"t0ken"}]}"#).unwrap();
        std::fs::write(folder.path().join("calico-kubeconfig"), "token: t0ken").unwrap();
        let told = String::from_utf8(lists(folder.path()).unwrap()).unwrap();
        assert!(told.contains("10-x.conflist") && told.contains("calico-kubeconfig") && !told.contains("t0ken"), "{told}");
    }
}
