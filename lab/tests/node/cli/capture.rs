//! `barewire capture` sees all of a pod's packets, those included that the programs carry past the host.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::host::Settings;

use super::{barewire, named, says};

/// The packets of a pcapng file: what follows the fixed part of each enhanced packet block.
fn packets(file: &[u8]) -> Result<Vec<Vec<u8>>> {
    let word = |bytes: &[u8], at: usize| -> Result<usize> {
        Ok(u32::from_le_bytes(bytes.get(at..at + 4).context("cut short")?.try_into()?) as usize)
    };
    let (mut rest, mut packets) = (file, Vec::new());
    while !rest.is_empty() {
        let (kind, length) = (word(rest, 0)?, word(rest, 4)?);
        ensure!(length >= 12 && word(rest, length - 4)? == length, "a block of {length} bytes");
        if kind == 6 {
            packets.push(rest[28..28 + word(rest, 20)?].to_vec());
        }
        rest = &rest[length..];
    }
    Ok(packets)
}

/// Echo requests and replies over IPv4 between two addresses, of how many packets.
fn echoes(packets: &[Vec<u8>], ends: [&str; 2]) -> Result<[usize; 2]> {
    let ends: Vec<[u8; 4]> = ends.iter().map(|end| Ok(end.parse::<std::net::Ipv4Addr>()?.octets())).collect::<Result<_>>()?;
    let of = |from: [u8; 4], to: [u8; 4]| {
        packets
            .iter()
            .filter(|packet| packet.get(26..30) == Some(&from) && packet.get(30..34) == Some(&to) && packet.get(23) == Some(&1))
            .count()
    };
    Ok([of(ends[0], ends[1]), of(ends[1], ends[0])])
}

#[test]
fn both_directions_are_seen_on_either_path() -> Result<()> {
    crate::both_paths(|host, daemon| {
        let (api, of_api) = named(host, "api")?;
        let (_other, of_other) = named(host, "other")?;
        // The neighbours and the first solicitations are behind us.
        crate::ping(|line| api.run(line), &of_other[0], &format!("-I {}", of_api[0]))?;
        let file = host.path("api.pcapng");
        let line = format!("capture web/api --write {} --duration 20s --count 12", file.display());
        let said = std::thread::scope(|scope| -> Result<String> {
            let capture = scope.spawn(|| says(host, &line, 0));
            daemon.wait_until("the capture has begun", || {
                ensure!(fs::metadata(&file).is_ok_and(|found| found.len() > 0), "no file yet");
                Ok(())
            })?;
            api.run(&format!("ping -n -c 8 -i 0.02 -W 2 -s 300 {}", of_other[0]))?;
            capture.join().map_err(|_| anyhow::anyhow!("it panicked"))?
        })?;
        ensure!(said.starts_with("12 packets of web/api are in "), "{said}");
        let packets = packets(&fs::read(&file)?)?;
        let [requests, replies] = echoes(&packets, [&of_api[0], &of_other[0]])?;
        ensure!(packets.len() == 12 && requests >= 4 && replies >= 4, "{requests} requests, {replies} replies of {}", packets.len());
        ensure!(packets.iter().any(|packet| packet.len() == 14 + 20 + 8 + 300), "whole");
        // What is there is not written over.
        let before = fs::read(&file)?;
        let said = barewire(host, &line)?;
        ensure!(said.code == 1 && said.err.contains("does not exist") && fs::read(&file)? == before, "{}", said.err);
        fs::remove_file(&file)?;
        Ok(())
    })
}

#[test]
fn a_capture_ends_and_says_what_it_cannot() -> Result<()> {
    crate::on_node(Settings::default(), |host, _daemon| {
        let _api = named(host, "api")?;
        let file = host.path("quiet.pcapng");
        says(host, &format!("capture api --write {} --duration 200ms --snap 64", file.display()), 0)?;
        ensure!(packets(&fs::read(&file)?)?.iter().all(|packet| packet.len() <= 64));
        let said = barewire(host, "capture nobody")?;
        ensure!(said.code == 1 && said.out.is_empty() && said.err.contains("no pod of this node is nobody"), "{}", said.err);
        let said = barewire(host, "capture api --write /nowhere/x.pcapng")?;
        ensure!(said.code == 1 && said.err.contains("a directory that can be written to"), "{}", said.err);
        says(host, "capture api --duration 1h", 64).map(drop)
    })
}
