//! `barewire-bench report`: docs/benchmarks.md and its charts, from the JSON of runs.
//!
//! - Nothing is measured here, and nothing but the runs is read: the same runs give the same files.
//! - The runs are kept beside the page, as they were printed, so that everybody can check it and write it again.

pub mod chart;
pub mod run;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::page::run::Run;

/// The page itself, in the folder of documents.
const PAGE: &str = "benchmarks.md";
/// Its charts and runs are here.
const FOLDER: &str = "benchmarks";

/// Where runs are read from; one that is not given is the one that is kept, if any.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    /// What `datapath --json` printed.
    pub datapath: Option<PathBuf>,
    /// What `add --json` printed.
    pub add: Option<PathBuf>,
    /// What `burst --json` printed.
    pub burst: Option<PathBuf>,
}

/// The runs that a page is written from.
#[derive(Debug)]
pub struct Runs {
    /// Pod traffic.
    pub datapath: Run,
    /// ADD and DEL.
    pub add: Option<Run>,
    /// ADDs at once.
    pub burst: Option<Run>,
}

impl Runs {
    /// Reads the runs for the page in the folder `out`.
    ///
    /// # Errors
    /// When one that was given cannot be read, or the one of pod traffic is missing.
    pub fn read(sources: &Sources, out: &Path) -> Result<Self> {
        let Sources { datapath, add, burst } = sources;
        let kept = |name: &str| out.join(FOLDER).join(name);
        let optional = |given: &Option<PathBuf>, name: &str| -> Result<Option<Run>> {
            let path = given.clone().or_else(|| Some(kept(name)).filter(|path| path.exists()));
            path.map(|path| Run::read(&path)).transpose()
        };
        Ok(Self {
            datapath: Run::read(&datapath.clone().unwrap_or_else(|| kept("datapath.json")))
                .context("measure first: cargo xtask bench datapath --json > FILE, then report --datapath FILE")?,
            add: optional(add, "add.json")?,
            burst: optional(burst, "burst.json")?,
        })
    }

    /// The files of the page, by their paths in the folder of documents.
    ///
    /// # Errors
    /// When the run of pod traffic lacks what every such run has.
    pub fn render(&self) -> Result<Vec<(PathBuf, String)>> {
        let Self { datapath, add, burst } = self;
        let inside = |name: &str| Path::new(FOLDER).join(name);
        let mut files = vec![(PathBuf::from(PAGE), text::page(self)?)];
        for (name, chart) in text::charts(datapath) {
            files.push((inside(name), chart.to_svg()));
        }
        let runs = [("datapath.json", Some(datapath)), ("add.json", add.as_ref()), ("burst.json", burst.as_ref())];
        files.extend(runs.into_iter().filter_map(|(name, run)| Some((inside(name), run?.as_printed()))));
        Ok(files)
    }
}

/// Writes the page in the folder `out`.
///
/// # Errors
/// When runs cannot be read or files cannot be written.
pub fn write(sources: &Sources, out: &Path) -> Result<Vec<PathBuf>> {
    let files = Runs::read(sources, out)?.render()?;
    let folder = out.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    files
        .into_iter()
        .map(|(path, content)| {
            let path = out.join(path);
            fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(path)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is committed was written by this program from the runs that are committed.
    #[test]
    fn the_page_is_what_its_runs_give() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        for (path, content) in Runs::read(&Sources::default(), &docs).unwrap().render().unwrap() {
            let committed = fs::read_to_string(docs.join(&path)).unwrap_or_default();
            assert!(committed == content, "docs/{} is not what its run gives: cargo xtask bench report", path.display());
        }
    }
}
