//! Prints the table of docs that is written from this crate, behind its marker: for `cargo xtask docs`.

use std::io::{self, Write as _};

use fleet::metrics::{METRICS, Metric};

fn main() -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "<!-- generated: metrics of barewire-fleet -->\n| metric | type | HELP |\n|---|---|---|")?;
    METRICS.iter().try_for_each(|Metric { name, kind, help, .. }| writeln!(out, "| `{name}` | {kind} | {help} |"))
}
