//! What an installation consists of, and where each part goes: the one list that `install` writes and `uninstall` takes away.

use std::path::{Path, PathBuf};

/// Where the daemon looks for its configuration.
pub(super) const CONFIGURATION: &str = "etc/barewire/barewired.toml";
/// Where runtimes look for network configuration lists.
pub(super) const LISTS: &str = "etc/cni/net.d";
/// What the service manager calls the daemon.
pub(super) const UNIT: &str = "barewired.service";
/// The daemon, below a root.
pub(super) const DAEMON: &str = "usr/bin/barewired";
/// As the unit says: socket, store and queue.
pub(super) const STATE: &str = "run/barewire";
/// Has the unit started at boot.
pub(super) const ENABLED: (&str, &str) =
    ("etc/systemd/system/multi-user.target.wants/barewired.service", "/etc/systemd/system/barewired.service");

/// Folders that an installation may have made, the inner before the outer: taken away where nothing else is in them.
pub(super) const FOLDERS: [&str; 6] =
    ["usr/lib/barewire", "etc/systemd/networkd.conf.d", "opt/cni/bin", "opt/cni", "etc/barewire/barewired.toml.d", "etc/barewire"];

/// Who has to look again once a file is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// A runtime, or whoever executes it next.
    Nobody,
    /// The daemon, by a restart.
    Daemon,
    /// The service manager.
    ServiceManager,
    /// systemd-networkd, by a restart: it reads its own configuration at no other time.
    Networkd,
    /// `NetworkManager`, by a reload.
    NetworkManager,
}

impl Reader {
    /// Whoever is told by an act of its own.
    pub(super) const ALL: [Self; 4] = [Self::Daemon, Self::ServiceManager, Self::Networkd, Self::NetworkManager];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Daemon => "barewired",
            Self::ServiceManager => "systemd",
            Self::Networkd => "systemd-networkd",
            Self::NetworkManager => "NetworkManager",
        }
    }
}

/// Network managers and their units.
pub(super) const MANAGERS: [(Reader, &str); 2] =
    [(Reader::Networkd, "systemd-networkd.service"), (Reader::NetworkManager, "NetworkManager.service")];
/// Names, a line each, who has still to look at new files: an installation that was cut short goes on there. It goes with the boot, after
/// which everybody has read everything.
pub(super) const UNREAD: &str = "run/barewire-install.unread";

/// Where the bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// A file of this name in the folder that is installed from.
    Program(&'static str),
    /// Kept in this program: `deploy/` of the same version.
    Text(&'static str),
}

/// A file of the installation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Below the root.
    pub(super) path: &'static str,
    pub(super) mode: u32,
    pub(super) content: Content,
    pub(super) reader: Reader,
}

const fn program(path: &'static str, name: &'static str, mode: u32, reader: Reader) -> Part {
    Part { path, mode, content: Content::Program(name), reader }
}

const fn text(path: &'static str, content: &'static str, reader: Reader) -> Part {
    Part { path, mode: 0o644, content: Content::Text(content), reader }
}

/// The programs, in the order in which they are put: the plugin understands the daemon of the version before, and the other way round.
pub(super) const PROGRAMS: [Part; 4] = [
    program("opt/cni/bin/barewire-cni", "barewire-cni", 0o755, Reader::Nobody),
    program("usr/lib/barewire/barewire-ebpf.o", "barewire-ebpf.o", 0o644, Reader::Daemon),
    program(DAEMON, "barewired", 0o755, Reader::Daemon),
    program("usr/bin/barewire", "barewire", 0o755, Reader::Nobody),
];

/// What the service manager and network managers read.
pub(super) const TEXTS: [Part; 4] = [
    text("etc/systemd/system/barewired.service", include_str!("../../../deploy/barewired.service"), Reader::ServiceManager),
    text("etc/systemd/networkd.conf.d/90-barewire.conf", include_str!("../../../deploy/networkd/90-barewire.conf"), Reader::Networkd),
    text("etc/systemd/network/05-barewire.network", include_str!("../../../deploy/networkd/05-barewire.network"), Reader::Networkd),
    text(
        "etc/NetworkManager/conf.d/90-barewire.conf",
        include_str!("../../../deploy/NetworkManager/90-barewire.conf"),
        Reader::NetworkManager,
    ),
];

/// A path of the node, below `root`.
pub(super) fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_starts_what_is_installed() {
        let Content::Text(unit) = TEXTS[0].content else { panic!("a text") };
        assert!(unit.contains(&format!("ExecStart=/{DAEMON} --config /{CONFIGURATION}\n")), "{unit}");
        assert!(TEXTS[0].path.ends_with(UNIT) && ENABLED.1 == format!("/{}", TEXTS[0].path));
    }
}
