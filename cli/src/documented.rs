//! Every command that the documentation shows is one that there is.

use std::fs;
use std::path::Path;

use clap::Parser;

use crate::Arguments;

/// Lines of `console` blocks that call this program.
fn shown(page: &str) -> Vec<String> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in page.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ => {}
        }
        let command = line.strip_prefix("$ ").filter(|_| inside).and_then(|line| line.find("barewire ").map(|at| &line[at..]));
        // What runs in a lab's node is behind `--`; a path that ends so is another program's.
        lines.extend(command.map(str::to_owned));
    }
    lines
}

#[test]
fn what_is_shown_can_be_called() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let pages =
        fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|of| of == "md"));
    let mut seen = 0;
    for page in pages {
        for line in shown(&fs::read_to_string(&page).unwrap()) {
            let parsed = Arguments::try_parse_from(line.split_whitespace());
            assert!(parsed.is_ok(), "{}: {line}: {}", page.display(), parsed.unwrap_err());
            seen += 1;
        }
    }
    assert!(seen > 3, "the tutorial shows some");
}
