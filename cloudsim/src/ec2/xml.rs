//! Writes XML as EC2 does: elements with text or elements, lists of `item`.

use std::fmt::{Display, Write};

/// A document that grows at its end.
#[derive(Debug, Default)]
pub(super) struct Xml(String);

impl Xml {
    /// `<name>text</name>`
    pub(super) fn text(&mut self, name: &str, text: impl Display) {
        // Writing to a String cannot fail.
        let _infallible = write!(self.0, "<{name}>{}</{name}>", Escaped(text));
    }

    /// `<name>…</name>`
    pub(super) fn element(&mut self, name: &str, content: impl FnOnce(&mut Self)) {
        self.element_with(name, name, content);
    }

    /// `<name attributes>…</name>`; `start` is the name with the attributes.
    pub(super) fn element_with(&mut self, start: &str, name: &str, content: impl FnOnce(&mut Self)) {
        let _infallible = write!(self.0, "<{start}>");
        content(self);
        let _infallible = write!(self.0, "</{name}>");
    }

    /// `<name><item>…</item>…</name>`
    pub(super) fn set<T>(&mut self, name: &str, items: impl IntoIterator<Item = T>, mut content: impl FnMut(&mut Self, T)) {
        self.element(name, |xml| items.into_iter().for_each(|item| xml.element("item", |xml| content(xml, item))));
    }

    pub(super) fn finish(self) -> String {
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}", self.0)
    }
}

struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.to_string().chars() {
            match character {
                '<' => formatter.write_str("&lt;")?,
                '>' => formatter.write_str("&gt;")?,
                '&' => formatter.write_str("&amp;")?,
                other => formatter.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let mut xml = Xml::default();
        xml.set("tagSet", ["a<b&c"], |xml, text| xml.text("key", text));
        assert!(xml.finish().ends_with("<tagSet><item><key>a&lt;b&amp;c</key></item></tagSet>"));
    }
}
