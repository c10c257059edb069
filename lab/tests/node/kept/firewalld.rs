//! A real firewalld beside a node: started, reloaded, restarted, stopped. Its table refuses what is forwarded and belongs to no zone that
//! accepts it (flannel-io/flannel#2055, projectcalico/calico#5232, kubernetes/kubernetes#97283), and nobody else can let it pass.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::host::Settings;

use super::room::{Room, Service, begins_anew, beside, none_begins, others, ours};
use super::{BACK, Cuts, Stream};

const COMMAND: &str = "firewall-cmd ";
/// The daemon has looked at new rules by then.
const LOOKED: Duration = Duration::from_secs(3);
pub(super) const RELOADS: [&str; 2] = ["firewall-cmd --reload", "firewall-cmd --complete-reload"];

pub(super) fn start(room: &Room<'_>) -> Result<Service> {
    let service = room.start("firewalld", "firewalld --nofork --nopid")?;
    room.waits_for("firewalld", "firewall-cmd --state").with_context(|| service.said())?;
    Ok(service)
}

/// The commands that docs/kept.md gives to people.
fn remedy() -> Result<Vec<String>> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kept.md"))?;
    let commands: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("    ")).filter(|line| line.starts_with(COMMAND)).collect();
    ensure!(commands.len() > 1, "docs/kept.md gives no commands: {commands:?}");
    Ok(commands.into_iter().map(str::to_owned).collect())
}

/// Has it accept pods' packets, by what people are told to do.
pub(super) fn accept_pods(room: &Room<'_>) -> Result<()> {
    remedy()?.iter().try_for_each(|line| room.run(line).map(drop).with_context(|| line.clone()))
}

/// Start, reloads, restart and stop, each by `alter`; `between` is said after each that leaves it running.
fn all_its_life(
    room: &Room<'_>,
    alter: impl Fn(&str, &mut dyn FnMut() -> Result<()>) -> Result<()>,
    between: impl Fn() -> Result<()>,
) -> Result<()> {
    let mut running = None;
    alter("the start", &mut || {
        running = Some(start(room)?);
        Ok(())
    })?;
    between().context("after the start")?;
    for reload in RELOADS {
        alter(reload, &mut || room.run(reload).map(drop))?;
        between().context(reload)?;
    }
    alter("the restart", &mut || {
        running.take().context("firewalld runs")?.stop()?;
        running = Some(start(room)?);
        Ok(())
    })?;
    between().context("after the restart")?;
    alter("the stop", &mut || running.take().context("firewalld runs")?.stop())
}

#[test]
fn that_refuses_is_told_with_its_remedy_and_ends_no_conversation() -> Result<()> {
    beside(
        Settings::default(),
        |_| Ok(()),
        |kept, room, ()| {
            let (before, ours_before) = (others(kept)?, ours(kept)?);
            let conversations = kept.conversations()?;
            let alter = |what: &str, how: &mut dyn FnMut() -> Result<()>| {
                how().with_context(|| what.to_owned())?;
                conversations.iter().try_for_each(Stream::runs).with_context(|| what.to_owned())
            };
            let refuses = || {
                let parts = ["IPv4", "IPv6", "inet firewalld", "docs/kept.md"];
                kept.daemon.wait_for_condition("PodsNotForwarded", "ForwardDrop", &parts)?;
                let theirs = others(kept)?;
                [true, false].into_iter().try_for_each(|ipv4| none_begins(kept, room, ipv4))?;
                // Longer than between two looks.
                thread::sleep(BACK);
                ensure!(others(kept)? == theirs, "its rules were {theirs}\nand are {}", others(kept)?);
                ensure!(ours(kept)? == ours_before, "ours were {ours_before}\nand are {}", ours(kept)?);
                Ok(())
            };
            all_its_life(room, alter, refuses)?;
            kept.daemon.wait_for_end_of("PodsNotForwarded")?;
            conversations.into_iter().try_for_each(|conversation| conversation.end(Cuts::Nothing, 0))?;
            ensure!(others(kept)? == before, "there was\n{before}\nand is\n{}", others(kept)?);
            begins_anew(kept, room)
        },
    )
}

fn with_the_remedy(settings: Settings) -> Result<()> {
    beside(
        settings,
        |room| {
            let service = start(room)?;
            accept_pods(room)?;
            service.stop()
        },
        |kept, room, ()| {
            let alter = |what: &str, how: &mut dyn FnMut() -> Result<()>| kept.comes_back(what, Cuts::Nothing, &[], how, || ours(kept));
            all_its_life(room, alter, || {
                begins_anew(kept, room)?;
                thread::sleep(LOOKED);
                ["PodsNotForwarded", "FamilyNotCarried"].iter().try_for_each(|kind| kept.daemon.wait_for_end_of(kind))
            })
        },
    )
}

#[test]
fn that_was_told_of_pods_lets_them_pass_through_all_its_life() -> Result<()> {
    with_the_remedy(Settings::default())
}

#[test]
fn that_was_told_of_pods_leaves_them_their_fast_path() -> Result<()> {
    with_the_remedy(Settings::default().with_fast_path(true))
}
