//! Figures beside what is promised of them.

use serde_json::{Map, Value};

/// A figure and its promise.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Its key.
    pub key: &'static str,
    /// What came out.
    pub value: Value,
    /// Is it as promised?
    pub is_kept: bool,
}

impl Figure {
    /// A number that may be so large at most.
    #[must_use]
    pub fn at_most(key: &'static str, value: f64, limit: f64) -> Self {
        Self { key, value: Value::from(value), is_kept: value <= limit }
    }

    /// Something that has to be true.
    #[must_use]
    pub fn is_true(key: &'static str, value: bool) -> Self {
        Self { key, value: Value::from(value), is_kept: value }
    }
}

/// One object of all figures.
#[must_use]
pub fn json(figures: &[Figure]) -> Value {
    let values: Map<_, _> = figures.iter().map(|figure| (figure.key.to_owned(), figure.value.clone())).collect();
    values.into()
}

/// A line a figure.
#[must_use]
pub fn text(figures: &[Figure]) -> String {
    let line = |figure: &Figure| {
        format!("{:<28} {:>12}  {}\n", figure.key, figure.value.to_string(), if figure.is_kept { "kept" } else { "MISSED" })
    };
    figures.iter().map(line).collect()
}
