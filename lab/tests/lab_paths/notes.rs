//! What a node's programs have noted of flows over IPv4, whatever else they know of each.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use aya::maps::{HashMap, Map, MapData};
use lab::node::Node;

/// Where the daemons pin their maps.
pub(crate) const PINS: &str = "/sys/fs/bpf/barewire/run-barewire";

/// A note: a flow as the programs write it, and when it was last seen, in seconds.
pub(crate) type Note = ([u8; 16], u32);

/// All notes of a node.
pub(crate) fn all(node: &Node) -> Result<Vec<Note>> {
    let pins = node.host_path(PINS);
    // Beside the maps, by the version of their layout, are the uplinks.
    let entries = std::fs::read_dir(&pins).into_iter().flatten().flatten().map(|entry| entry.path().join("FLOWS4"));
    let path: PathBuf = entries.into_iter().find(|path| path.exists()).with_context(|| format!("no maps in {}", pins.display()))?;
    let map = MapData::from_pin(path)?;
    match map.info()?.value_size() {
        4 => read::<4>(map),
        8 => read::<8>(map),
        12 => read::<12>(map),
        16 => read::<16>(map),
        other => bail!("a note of {other} bytes"),
    }
}

/// A note begins with the time.
fn read<const SIZE: usize>(map: MapData) -> Result<Vec<Note>> {
    let map: HashMap<MapData, [u8; 16], [u8; SIZE]> = HashMap::try_from(Map::from_map_data(map)?)?;
    let time = |value: [u8; SIZE]| u32::from_ne_bytes(std::array::from_fn(|at| value[at]));
    map.iter().map(|entry| entry.map(|(flow, value)| (flow, time(value))).map_err(Into::into)).collect()
}
