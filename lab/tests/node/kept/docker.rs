//! A real Docker beside a node: restarted, given networks, stopped. Where it has switched forwarding on it has the host drop what others
//! forward, and so it does wherever it is started before anybody else (kubernetes/kubernetes#40182, moby/moby#28257).

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::host::Settings;
use lab::world;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::room::{Room, Service, begins_anew, beside, none_begins, others, ours};
use super::{Cuts, Kept, firewalld};

/// All that it writes, in the room.
const PLACES: &str = "--data-root /run/docker-data --exec-root /run/docker --pidfile /run/docker.pid --host unix:///run/docker.sock";

fn program(name: &str) -> Result<String> {
    Ok(world::unpacked("docker.io")?.join("bin").join(name).display().to_string())
}

fn docker(room: &Room<'_>, arguments: &str) -> Result<String> {
    room.run(&format!("{} --host unix:///run/docker.sock {arguments}", program("docker")?))
}

fn start(room: &Room<'_>) -> Result<Service> {
    let service = room.start("dockerd", &format!("{} {PLACES}", program("dockerd")?))?;
    room.waits_for("dockerd", &format!("{} --host unix:///run/docker.sock version", program("docker")?)).with_context(|| service.said())?;
    Ok(service)
}

/// Before anybody else, on a machine that has just started.
fn start_first(room: &Room<'_>) -> Result<Service> {
    room.run("sysctl -q -w net.ipv4.ip_forward=0")?;
    start(room)
}

#[test]
fn that_came_first_drops_nothing_of_pods_through_all_its_life() -> Result<()> {
    for fast_path in [false, true] {
        let settings = Settings::default().with_fast_path(fast_path);
        beside(settings, start_first, |kept, room, service| {
            ensure!(kept.run("iptables -S FORWARD")?.contains("-P FORWARD DROP"), "{}", kept.run("iptables -S FORWARD")?);
            begins_anew(kept, room)?;
            let mut running = Some(service);
            let mut alter = |what: &str, how: &mut dyn FnMut(&mut Option<Service>) -> Result<()>| {
                kept.comes_back(what, Cuts::Nothing, &[], || how(&mut running), || ours(kept))?;
                begins_anew(kept, room).with_context(|| what.to_owned())
            };
            let stop = |running: &mut Option<Service>| running.take().context("dockerd runs")?.stop();
            alter("a network", &mut |_| docker(room, "network create other").map(drop))?;
            alter("its end", &mut |_| docker(room, "network rm other").map(drop))?;
            alter("the restart", &mut |running| {
                stop(running)?;
                *running = Some(start(room)?);
                Ok(())
            })?;
            alter("the stop", &mut |running| stop(running))
        })
        .with_context(|| format!("fast path: {fast_path}"))?;
    }
    Ok(())
}

#[test]
fn that_comes_later_changes_nothing_for_pods() -> Result<()> {
    beside(
        Settings::default(),
        |_| Ok(()),
        |kept, room, ()| {
            let mut running = None;
            let start = || {
                running = Some(start(room)?);
                Ok(())
            };
            kept.comes_back("the start", Cuts::Nothing, &[], start, || ours(kept))?;
            begins_anew(kept, room)?;
            running.context("dockerd")?.stop()
        },
    )
}

#[test]
fn where_nothing_of_ours_accepts_its_policy_is_told_and_its_rules_are_left_alone() -> Result<()> {
    beside(Settings::default(), start_first, |kept, room, service| {
        let theirs = others(kept)?;
        set_accept(kept, false)?;
        let parts = ["IPv4: chain FORWARD of ip filter drops by its policy", "network.forward_accept = true"];
        kept.daemon.wait_for_condition("PodsNotForwarded", "ForwardDrop", &parts)?;
        none_begins(kept, room, true)?;
        ensure!(!ours(kept)?.contains("forward_accept"), "{}", ours(kept)?);
        set_accept(kept, true)?;
        kept.daemon.wait_for_end_of("PodsNotForwarded")?;
        begins_anew(kept, room)?;
        ensure!(others(kept)? == theirs, "its rules were\n{theirs}\nand are\n{}", others(kept)?);
        service.stop()
    })
}

/// Docker has its rules made by firewalld where that runs. Who has had any made has all of iptables' chains emptied by a reload, ours too, and
/// Docker sets its policy again at once: until ours are back pods are cut off.
#[test]
fn with_firewalld_pods_are_accepted_again_after_each_reload() -> Result<()> {
    let prepare = |room: &Room<'_>| {
        let firewalld = firewalld::start(room)?;
        firewalld::accept_pods(room)?;
        Ok((Some(firewalld), Some(start_first(room)?)))
    };
    beside(Settings::default(), prepare, |kept, room, (mut firewalld, mut dockerd)| {
        begins_anew(kept, room)?;
        let alter = |what: &str, how: &mut dyn FnMut() -> Result<()>| {
            kept.comes_back(what, Cuts::Pods, &[], how, || ours(kept))?;
            begins_anew(kept, room).with_context(|| what.to_owned())
        };
        for reload in firewalld::RELOADS {
            alter(reload, &mut || room.run(reload).map(drop))?;
        }
        alter("the restart of firewalld", &mut || {
            firewalld.take().context("firewalld runs")?.stop()?;
            firewalld = Some(firewalld::start(room)?);
            Ok(())
        })?;
        alter("the restart of dockerd", &mut || {
            dockerd.take().context("dockerd runs")?.stop()?;
            dockerd = Some(start(room)?);
            Ok(())
        })?;
        ensure!(room.run("firewall-cmd --get-active-zones")?.contains("docker"), "{}", room.run("firewall-cmd --get-active-zones")?);
        ensure!(kept.run("iptables -S FORWARD")?.contains("-o docker0"), "{}", kept.run("iptables -S FORWARD")?);
        Ok(())
    })
}

/// `network.forward_accept`, and a reload.
fn set_accept(kept: &Kept<'_>, accept: bool) -> Result<()> {
    let config = kept.host.write_configuration("")?;
    let text = fs::read_to_string(&config)?;
    fs::write(&config, text.replace("[network]\n", &format!("[network]\nforward_accept = {accept}\n")))?;
    Ok(kill(Pid::from_raw(i32::try_from(kept.daemon.process())?), Signal::SIGHUP)?)
}
