//! XML replies into types. The name of the root is checked: any well-formed page would do as an empty list else.

use quick_xml::Reader;
use quick_xml::events::Event;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A list whose members are called `item`, as all of EC2's are.
#[derive(Debug, Clone, Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
pub(super) struct Items<T> {
    #[serde(default = "Vec::new")]
    pub(super) item: Vec<T>,
}

impl<T> Default for Items<T> {
    fn default() -> Self {
        Self { item: Vec::new() }
    }
}

/// Reads a document whose root is called `root`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse<T: DeserializeOwned>(root: &str, text: &str) -> Result<T, String> {
    let mut reader = Reader::from_str(text);
    let found = loop {
        match reader.read_event() {
            Ok(Event::Start(start) | Event::Empty(start)) => break start.local_name().as_ref().to_owned(),
            Ok(Event::Eof) => return Err(format!("no <{root}>")),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    };
    if found != root {
        return Err(format!("<{found}> instead of <{root}>"));
    }
    quick_xml::de::from_str(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Shelf {
        #[serde(default)]
        books: Items<String>,
    }

    #[test]
    fn a_list_may_be_absent_but_the_root_may_not_be_another() {
        let shelf: Shelf = parse("Shelf", "<?xml version=\"1.0\"?>\n<Shelf><books><item>a</item><item>b</item></books></Shelf>").unwrap();
        assert_eq!(shelf.books.item, ["a", "b"]);
        assert!(parse::<Shelf>("Shelf", "<Shelf/>").unwrap().books.item.is_empty());
        assert!(parse::<Shelf>("Shelf", "<Shelf><books/></Shelf>").unwrap().books.item.is_empty());
        for text in ["", "no xml", "{}", "<html><body/></html>", "<Shelf><books><item>a", "<Shelf><books></Shelf>", "<<>>"] {
            assert!(parse::<Shelf>("Shelf", text).is_err(), "{text}");
        }
    }
}
