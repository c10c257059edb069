//! Prints the tables of docs that are written from this crate, each behind its marker: for `cargo xtask docs`.

use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    barewired::reference::sections().into_iter().try_for_each(|(name, text)| writeln!(io::stdout(), "<!-- generated: {name} -->\n{text}"))
}
