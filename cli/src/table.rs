//! Columns of text: as wide as their widest cell, two spaces apart, numbers to the right.

/// A table under construction.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    head: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug, Clone)]
struct Column {
    name: &'static str,
    is_number: bool,
}

impl Table {
    /// A table of these columns; a name that begins with `>` is of a column of numbers.
    pub(crate) fn new(names: &[&'static str]) -> Self {
        let column = |name: &&'static str| match name.strip_prefix('>') {
            Some(name) => Column { name, is_number: true },
            None => Column { name, is_number: false },
        };
        Self { head: names.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row; an empty cell is written as `-`.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }).collect());
    }

    /// The text, a line each row.
    pub(crate) fn text(&self) -> String {
        let head: Vec<String> = self.head.iter().map(|column| column.name.to_owned()).collect();
        let width = |at: usize| {
            let cells = self.rows.iter().chain([&head]).filter_map(|row| row.get(at));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).zip(&self.head).map(|((cell, width), column)| match column.is_number {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        [&head].into_iter().chain(&self.rows).map(line).collect()
    }
}

/// A count that may be that of an IPv6 range.
pub(crate) fn count(number: u64) -> String {
    if number < 1 << 32 { number.to_string() } else { format!("~2^{}", number.ilog2() + u32::from(!number.is_power_of_two())) }
}

/// A rate in the largest unit that it is a whole number of, or to a tenth.
pub(crate) fn bit_rate(bits: u64) -> String {
    let (unit, name) = match bits {
        1_000_000_000.. => (1_000_000_000, "Gbit/s"),
        1_000_000.. => (1_000_000, "Mbit/s"),
        1_000.. => (1_000, "kbit/s"),
        _ => (1, "bit/s"),
    };
    let (whole, tenth) = (bits / unit, bits % unit * 10 / unit);
    if tenth == 0 { format!("{whole} {name}") } else { format!("{whole}.{tenth} {name}") }
}

/// A duration in its two largest units.
pub(crate) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if seconds < 60 => format!("{seconds}s"),
        () if minutes < 60 => format!("{minutes}m{}s", seconds % 60),
        () if hours < 24 => format!("{hours}h{}m", minutes % 60),
        () => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let mut table = Table::new(&["NAME", ">COUNT", "WHY"]);
        table.row(["a".to_owned(), "7".to_owned(), String::new()]);
        table.row(["longer".to_owned(), "1234567".to_owned(), "x".to_owned()]);
        assert_eq!(table.text(), "NAME      COUNT  WHY\na             7  -\nlonger  1234567  x\n");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([count(0), count(254), count((1 << 48) - 2), count(1 << 48)], ["0", "254", "~2^48", "~2^48"]);
        assert_eq!([59, 60, 3_700, 90_000].map(duration), ["59s", "1m0s", "1h1m", "1d1h"]);
        assert_eq!([999, 1_000, 1_500_000, 10_000_000_000].map(bit_rate), ["999 bit/s", "1 kbit/s", "1.5 Mbit/s", "10 Gbit/s"]);
    }
}
