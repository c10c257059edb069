//! What happens beside conversations, between two messages of each.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use lab::cni::FastPath;
use lab::command::CONFIGURE;

use crate::matrix::Pair;
use crate::notes::PINS;
use crate::site::Site;

/// Conntrack's time-outs while conversations are idle, in seconds, and the kernel's own.
const TIMEOUTS: [(&str, u32, u32); 5] = [
    ("nf_conntrack_udp_timeout", 1, 30),
    ("nf_conntrack_udp_timeout_stream", 1, 120),
    ("nf_conntrack_icmp_timeout", 1, 30),
    ("nf_conntrack_icmpv6_timeout", 1, 30),
    ("nf_conntrack_tcp_timeout_established", 1, 432_000),
];
/// Longer than each of them.
const IDLE: Duration = Duration::from_millis(3_000);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disturbance {
    /// Nobody speaks for longer than conntrack remembers.
    Idle,
    /// The daemons end and start again.
    Restart,
    /// The daemons are replaced by ones whose maps look different.
    Upgrade,
}

impl Disturbance {
    pub(crate) const ALL: [Self; 3] = [Self::Idle, Self::Restart, Self::Upgrade];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Restart => "restart",
            Self::Upgrade => "upgrade",
        }
    }

    /// What must be so before; `exchange` is one message in every conversation.
    pub(crate) fn prepare(self, pair: &mut Pair, exchange: impl FnOnce()) -> Result<()> {
        if self == Self::Idle {
            set_timeouts(&pair.auto, |(_, short, _)| short)?;
            set_timeouts(&pair.off, |(_, short, _)| short)?;
            // A connection lives as long as the time-out of its last packet said.
            exchange();
        }
        Ok(())
    }

    pub(crate) fn happen(self, site: &mut Site) -> Result<()> {
        match self {
            Self::Idle => {
                thread::sleep(IDLE);
                Ok(())
            }
            Self::Restart => site.restart(|_| Ok(())),
            Self::Upgrade => site.restart(another_layout),
        }
    }

    /// What is put back afterwards.
    pub(crate) fn pass(self, site: &Site) -> Result<()> {
        if self == Self::Idle { set_timeouts(site, |(_, _, usual)| usual) } else { Ok(()) }
    }
}

fn set_timeouts(site: &Site, seconds: impl Fn((&str, u32, u32)) -> u32) -> Result<()> {
    for side in &site.sides {
        let settings: Vec<String> = TIMEOUTS.iter().map(|row| format!("net.netfilter.{}={}", row.0, seconds(*row))).collect();
        side.node.run(&[&["sysctl", "-w"][..], &settings.iter().map(String::as_str).collect::<Vec<_>>()].concat())?;
    }
    Ok(())
}

/// While the daemons are away, makes their maps look as if another version had left them.
fn another_layout(site: &Site) -> Result<()> {
    if site.fast_path == FastPath::Auto {
        for side in &site.sides {
            side.node.try_run(&["sh", "-c", &format!("mv {PINS}/v* {PINS}/v0")], CONFIGURE)?.success()?;
        }
    }
    Ok(())
}
