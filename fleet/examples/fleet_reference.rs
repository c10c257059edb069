//! Prints the table of docs that is written from this crate, behind its marker: for `cargo xtask docs`.

use std::io::{self, Write as _};

use fleet::metrics::Declared;

fn main() -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "<!-- generated: metrics of barewire-fleet -->\n| metric | type | labels | HELP |\n|---|---|---|---|")?;
    fleet::telemetry::declared().try_for_each(|Declared { name, kind, labels, help }| {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(out, "| `barewire_fleet_{name}` | {kind} | {} | {help} |", labels.join(", "))
    })
}
