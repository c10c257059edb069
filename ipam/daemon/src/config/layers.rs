//! The file and its drop-ins as one document: `barewired.toml`, then `barewired.toml.d/*.toml` in the order of their names.
//!
//! A key that a later file has replaces the earlier one's whole value, lists and tables included: what is in force is what stands in one
//! place. Which place that is, is kept for each key, for faults and for `--show-config`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{ConfigErrors, ConfigFileError};

/// A document of several files.
#[derive(Debug, Default)]
pub struct Layers {
    document: Table,
    origins: Origins,
}

/// Which file each key's value is from, `section.key`.
#[derive(Debug, Default)]
pub(super) struct Origins(BTreeMap<String, PathBuf>);

impl Origins {
    /// The file that a fault's key is from: the key itself, or what it is an element of (`network.native_cidrs[0]`). Nothing where all is
    /// from one file, or the key is from none.
    pub(super) fn of(&self, key: &str) -> Option<&Path> {
        let mut files = self.0.values();
        let first = files.next()?;
        if files.all(|file| file == first) {
            return None;
        }
        let holds = |known: &str| key.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']));
        self.0.iter().find(|(known, _)| holds(known)).map(|(_, file)| &**file)
    }
}

impl Layers {
    /// Reads the file, and the drop-ins beside it where there are any.
    pub(super) fn read(file: &Path) -> Result<Self, ConfigFileError> {
        let mut layers = Self::default();
        for path in std::iter::once(file.to_owned()).chain(drop_ins(file)?) {
            let text = std::fs::read_to_string(&path).map_err(|why| ConfigFileError::Unreadable { path: path.clone(), why })?;
            layers.add(&text, &path).map_err(|faults| ConfigFileError::Invalid { path, faults })?;
        }
        Ok(layers)
    }

    /// Of one text, which is in no file.
    pub(super) fn of(text: &str) -> Result<Self, ConfigErrors> {
        let mut layers = Self::default();
        layers.add(text, Path::new(""))?;
        Ok(layers)
    }

    fn add(&mut self, text: &str, path: &Path) -> Result<(), ConfigErrors> {
        let document: Table = text.parse().map_err(|why: toml::de::Error| ConfigErrors(vec![format!("not TOML: {why}")]))?;
        let mut faults = Vec::new();
        for (section, value) in document {
            let Value::Table(keys) = value else {
                faults.push(format!("{section}: {value} is no section; keys are in sections, like [network]"));
                continue;
            };
            self.origins.0.extend(keys.keys().map(|key| (format!("{section}.{key}"), path.to_owned())));
            match self.document.get_mut(&section) {
                Some(Value::Table(known)) => known.extend(keys),
                _ => drop(self.document.insert(section, Value::Table(keys))),
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(ConfigErrors(faults)) }
    }

    /// The document, and where its keys are from.
    pub(super) fn into_parts(self) -> (Table, Origins) {
        (self.document, self.origins)
    }
}

/// TOML, each key behind the file that it is from. Defaults are not in it.
impl std::fmt::Display for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (section, value) in &self.document {
            let Value::Table(keys) = value else { continue };
            writeln!(f, "[{section}]")?;
            let mut last = None;
            for (key, value) in keys {
                let from = self.origins.0.get(&format!("{section}.{key}"));
                if let Some(file) = from.filter(|from| Some(*from) != last) {
                    writeln!(f, "# {}", file.display())?;
                }
                last = from;
                writeln!(f, "{key} = {value}")?;
            }
            f.write_char('\n')?;
        }
        Ok(())
    }
}

/// What `barewired.toml.d` has, in the order of the names. A name that begins with a dot is an editor's.
fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, ConfigFileError> {
    let mut directory = file.as_os_str().to_owned();
    directory.push(".d");
    let directory = PathBuf::from(directory);
    let unreadable = |why| ConfigFileError::Unreadable { path: directory.clone(), why };
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigFile};

    const FIRST: &str = "[source]\nkind = \"fixed\"\nranges = [\"10.0.1.16/28\"]\n[network]\nnative_cidrs = [\"10.0.0.0/16\"]\n";

    /// A file with these drop-ins.
    fn read(drop_ins: &[(&str, &str)]) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = ConfigFile { path: folder.path().join("barewired.toml"), hostname: "host".to_owned() };
        std::fs::write(&file.path, FIRST).unwrap();
        std::fs::create_dir(folder.path().join("barewired.toml.d")).unwrap();
        for (name, text) in drop_ins {
            std::fs::write(folder.path().join("barewired.toml.d").join(name), text).unwrap();
        }
        file.read().map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
    }

    #[test]
    fn a_later_file_replaces_whole_values_and_no_others() {
        let config = read(&[
            ("90-node.toml", "[source]\nranges = [\"10.0.2.16/28\"]\n"),
            ("10-pool.toml", "[source]\nranges = [\"10.0.9.16/28\"]\n[pool]\ncooldown_seconds = 7\n"),
            (".90-node.toml.swp.toml", "nonsense"),
            ("95-notes.txt", "nonsense"),
        ])
        .unwrap();
        let ranges: Vec<_> = config.source.ranges().iter().map(ToString::to_string).collect();
        assert_eq!((ranges, config.cooldown_millis), (vec!["10.0.2.16-10.0.2.31".to_owned()], 7_000));
        assert_eq!(config.native_cidrs.len(), 1, "of the first file");
    }

    #[test]
    fn a_fault_names_the_file_that_it_is_in() {
        let told = read(&[("50-a.toml", "[network]\nnative_cidrs = [\"10.0.0.1/16\"]\nmood = 1\n"), ("60-b.toml", "[node]\nname = 3\n")]);
        let told = told.unwrap_err();
        for (key, file) in
            [("network.native_cidrs[0]: ", "barewired.toml.d/50-a.toml"), ("network.mood: ", "50-a.toml"), ("node.name: ", "60-b.toml")]
        {
            let line = told.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key} in {told}"));
            assert!(line.ends_with(&format!("{file})")), "{line}");
        }
        assert_eq!(read(&[("50-a.toml", "= 1")]).unwrap_err().lines().next(), Some("barewired.toml.d/50-a.toml is not valid:"));
        assert!(read(&[("50-a.toml", "source = 1")]).unwrap_err().contains("source: 1 is no section"));
    }

    #[test]
    fn what_is_in_force_is_shown_with_where_it_is_from() {
        let mut layers = Layers::default();
        layers.add(FIRST, Path::new("/a")).unwrap();
        layers.add("[source]\nranges = []\n", Path::new("/b")).unwrap();
        let shown = layers.to_string();
        assert_eq!(shown, "[network]\n# /a\nnative_cidrs = [\"10.0.0.0/16\"]\n\n[source]\n# /a\nkind = \"fixed\"\n# /b\nranges = []\n\n");
        assert_eq!(shown.parse::<Table>().unwrap(), layers.into_parts().0, "it is TOML");
    }
}
