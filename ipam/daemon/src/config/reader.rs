//! Takes values out of a TOML document by dotted key and keeps every fault; what nobody took is a fault as well.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use axum::http::Uri;
use toml::{Table, Value};

use super::layers::{Layers, Origins};

pub(super) struct Reader {
    document: Table,
    origins: Origins,
    faults: Vec<String>,
    warnings: Vec<String>,
}

impl Reader {
    pub(super) fn new(layers: Layers) -> Self {
        let (document, origins) = layers.into_parts();
        Self { document, origins, faults: Vec::new(), warnings: Vec::new() }
    }

    /// Takes `old`, an earlier version's name, for `new`, and warns. Both at once are a fault.
    pub(super) fn renamed(&mut self, old: &str, new: &str) {
        let Some(value) = self.take(old) else { return };
        let (section, name) = new.rsplit_once('.').unwrap_or(("", new));
        let Value::Table(table) = self.document.entry(section).or_insert_with(|| Value::Table(Table::new())) else { return };
        if table.contains_key(name) {
            self.fault(old, &format!("is the old name of {new}, which is there as well; remove {old}"));
        } else {
            table.insert(name.to_owned(), value);
            self.warnings.push(format!("{old} is now {new}; the old name is accepted in this version alone: rename it"));
        }
    }

    /// What is accepted and should be changed.
    pub(super) fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    pub(super) fn fault(&mut self, key: &str, why: &str) {
        let from = self.origins.of(key).map_or_else(String::new, |file| format!(" ({})", file.display()));
        self.faults.push(format!("{key}: {why}{from}"));
    }

    /// Takes a key whose value is of no use; tells whether it was there.
    pub(super) fn discard(&mut self, key: &str) -> bool {
        self.take(key).is_some()
    }

    /// Takes whole sections of which nothing can be said.
    pub(super) fn forget(&mut self, sections: &[&str]) {
        sections.iter().for_each(|section| drop(self.document.remove(*section)));
    }

    /// Every fault, unknown keys included.
    pub(super) fn finish(mut self) -> Vec<String> {
        let unknown = leaves("", &Value::Table(std::mem::take(&mut self.document)));
        for key in unknown {
            self.fault(&key, "is no key of this file; see docs/configuration.md");
        }
        self.faults
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        let (section, name) = key.rsplit_once('.')?;
        match self.document.get_mut(section)? {
            Value::Table(table) => {
                let value = table.remove(name);
                if table.is_empty() {
                    self.document.remove(section);
                }
                value
            }
            _ => None,
        }
    }

    fn typed<T>(&mut self, key: &str, wanted: &str, convert: impl FnOnce(Value) -> Result<T, Value>) -> Option<T> {
        debug_assert!(super::keys::is_declared(key), "{key} is read and not declared in keys.rs");
        let value = self.take(key)?;
        convert(value).map_err(|value| self.fault(key, &format!("{value} is not {wanted}"))).ok()
    }

    pub(super) fn string(&mut self, key: &str) -> Option<String> {
        self.typed(key, "a string", |value| if let Value::String(text) = value { Ok(text) } else { Err(value) })
    }

    pub(super) fn boolean(&mut self, key: &str) -> Option<bool> {
        self.typed(key, "true or false", |value| value.as_bool().ok_or(value))
    }

    pub(super) fn array(&mut self, key: &str) -> Option<Vec<Value>> {
        self.typed(key, "an array", |value| if let Value::Array(items) = value { Ok(items) } else { Err(value) })
    }

    /// An array of tables. Each becomes a section of its own, named as it is returned: `key[0]` and so on.
    pub(super) fn sections(&mut self, key: &str) -> Vec<String> {
        let mut sections = Vec::new();
        for (index, item) in self.array(key).unwrap_or_default().into_iter().enumerate() {
            let section = format!("{key}[{index}]");
            if item.is_table() {
                self.document.insert(section.clone(), item);
                sections.push(section);
            } else {
                self.fault(&section, &format!("{item} is not a table; write [[{key}]]"));
            }
        }
        sections
    }

    /// A table of tables. Each becomes a section of its own, `key.NAME`; their names are returned.
    pub(super) fn tables(&mut self, key: &str) -> Vec<String> {
        let table = self.typed(key, "a table of tables", |value| if let Value::Table(table) = value { Ok(table) } else { Err(value) });
        let mut names = Vec::new();
        for (name, item) in table.unwrap_or_default() {
            let section = format!("{key}.{name}");
            if item.is_table() {
                self.document.insert(section, item);
                names.push(name);
            } else {
                self.fault(&section, &format!("{item} is not a table; write [{section}]"));
            }
        }
        names
    }

    pub(super) fn strings(&mut self, key: &str) -> Option<Vec<String>> {
        let items = self.array(key)?;
        let mut texts = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Value::String(text) => texts.push(text),
                other => self.fault(&format!("{key}[{index}]"), &format!("{other} is not a string")),
            }
        }
        Some(texts)
    }

    /// A table of strings, by their names.
    pub(super) fn table_of_strings(&mut self, key: &str) -> Option<BTreeMap<String, String>> {
        let table =
            self.typed(
                key,
                "a table like { name = \"value\" }",
                |value| {
                    if let Value::Table(table) = value { Ok(table) } else { Err(value) }
                },
            )?;
        let mut texts = BTreeMap::new();
        for (name, value) in table {
            match value {
                Value::String(text) => drop(texts.insert(name, text)),
                other => self.fault(&format!("{key}.{name}"), &format!("{other} is not a string")),
            }
        }
        Some(texts)
    }

    /// A table of whole numbers, by their names.
    pub(super) fn table_of_integers(&mut self, key: &str, allowed: RangeInclusive<u64>) -> Option<BTreeMap<String, u64>> {
        let wanted = "a table like { name = 1 }";
        let table = self.typed(key, wanted, |value| if let Value::Table(table) = value { Ok(table) } else { Err(value) })?;
        let mut numbers = BTreeMap::new();
        for (name, value) in table {
            let number = value.as_integer().and_then(|number| u64::try_from(number).ok()).filter(|number| allowed.contains(number));
            match number {
                Some(number) => drop(numbers.insert(name, number)),
                None => {
                    let why = format!("{value} is not a whole number from {} to {}", allowed.start(), allowed.end());
                    self.fault(&format!("{key}.{name}"), &why);
                }
            }
        }
        Some(numbers)
    }

    pub(super) fn integer(&mut self, key: &str, allowed: RangeInclusive<u64>) -> Option<u64> {
        let wanted = format!("a whole number from {} to {}", allowed.start(), allowed.end());
        self.typed(key, &wanted, |value| {
            value.as_integer().and_then(|number| u64::try_from(number).ok()).filter(|number| allowed.contains(number)).ok_or(value)
        })
    }

    /// A number, whole or not, in thousandths.
    pub(super) fn thousandths(&mut self, key: &str, allowed: RangeInclusive<f64>) -> Option<u64> {
        let wanted = format!("a number from {} to {}", allowed.start(), allowed.end());
        self.typed(key, &wanted, |value| {
            let number = value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64));
            number.filter(|number| allowed.contains(number)).map(|number| (number * 1000.0).round() as u64).ok_or(value)
        })
    }

    /// The base URL of a service.
    pub(super) fn url(&mut self, key: &str, schemes: &[&str]) -> Option<Uri> {
        let text = self.string(key)?;
        let parsed = text.parse::<Uri>().ok().filter(|url| {
            let is_base = url.authority().is_some() && matches!(url.path_and_query().map_or("", |path| path.as_str()), "" | "/");
            is_base && url.scheme_str().is_some_and(|scheme| schemes.contains(&scheme))
        });
        if parsed.is_none() {
            self.fault(key, &format!("{text:?} is not a URL like {}://192.0.2.1:8080, without a path", schemes[0]));
        }
        parsed
    }

    pub(super) fn parsed<T: std::str::FromStr<Err = String>>(&mut self, key: &str) -> Option<T> {
        let text = self.string(key)?;
        text.parse().map_err(|why: String| self.fault(key, &why)).ok()
    }

    /// A path; `None` only where the one given is of no use.
    pub(super) fn absolute_path(&mut self, key: &str, default: &str) -> Option<PathBuf> {
        let path = self.string(key).map_or_else(|| PathBuf::from(default), PathBuf::from);
        if path.is_absolute() {
            return Some(path);
        }
        self.fault(key, &format!("{:?} is not an absolute path", path.display()));
        None
    }
}

fn leaves(prefix: &str, value: &Value) -> Vec<String> {
    match value {
        Value::Table(table) if prefix.is_empty() || !table.is_empty() => table
            .iter()
            .flat_map(|(key, value)| leaves(&if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") }, value))
            .collect(),
        _ => vec![prefix.to_owned()],
    }
}
