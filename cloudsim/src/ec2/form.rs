//! Parameters of a Query request. What is read is taken out, so that what is left at the end is unknown.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use crate::cloud::{ApiError, Filter, Malformed, Page};

/// Parameters by name.
#[derive(Debug, Clone)]
pub(super) struct Form(BTreeMap<String, String>);

impl Form {
    pub(super) fn read(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    pub(super) fn need(&mut self, name: &str) -> Result<String, ApiError> {
        self.take(name).ok_or_else(|| ApiError::missing_parameter(name))
    }

    /// A number, an address, a prefix, `true` or `false`.
    pub(super) fn value<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        self.take(name).map(|text| parse(name, &text)).transpose()
    }

    pub(super) fn need_value<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<T, ApiError> {
        let text = self.need(name)?;
        parse(name, &text)
    }

    pub(super) fn need_id<T: FromStr<Err = Malformed>>(&mut self, name: &str) -> Result<T, ApiError> {
        self.need(name)?.parse().map_err(|error| ApiError::malformed(&error))
    }

    /// `Name.1`, `Name.2` and so on.
    pub(super) fn list(&mut self, name: &str) -> Vec<String> {
        (1..).map_while(|number| self.take(&format!("{name}.{number}"))).collect()
    }

    pub(super) fn values<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Vec<T>, ApiError> {
        self.list(name).iter().map(|text| parse(name, text)).collect()
    }

    pub(super) fn ids<T: FromStr<Err = Malformed>, C: FromIterator<T>>(&mut self, name: &str) -> Result<C, ApiError> {
        self.list(name).iter().map(|text| text.parse().map_err(|error| ApiError::malformed(&error))).collect()
    }

    /// `Name.1.Field`, `Name.2.Field` and so on.
    pub(super) fn field_values<T: FromStr<Err: Display>>(&mut self, name: &str, field: &str) -> Result<Vec<T>, ApiError> {
        let texts: Vec<_> = (1..).map_while(|number| self.take(&format!("{name}.{number}.{field}"))).collect();
        texts.iter().map(|text| parse(name, text)).collect()
    }

    /// `Tag.1.Key`, `Tag.1.Value` and so on, after `prefix`.
    pub(super) fn tags(&mut self, prefix: &str) -> BTreeMap<String, String> {
        let mut tag = |number: u32| {
            let key = self.take(&format!("{prefix}Tag.{number}.Key"))?;
            Some((key, self.take(&format!("{prefix}Tag.{number}.Value")).unwrap_or_default()))
        };
        (1..).map_while(&mut tag).collect()
    }

    pub(super) fn filters(&mut self) -> Vec<Filter> {
        let mut filter = |number: u32| {
            let name = self.take(&format!("Filter.{number}.Name"))?;
            Some(Filter { name, values: self.list(&format!("Filter.{number}.Value")) })
        };
        (1..).map_while(&mut filter).collect()
    }

    pub(super) fn page(&mut self) -> Result<Page, ApiError> {
        Ok(Page { max_results: self.value("MaxResults")?, next_token: self.take("NextToken") })
    }

    /// Whether nothing is left.
    pub(super) fn end(self) -> Result<(), ApiError> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(ApiError::client("UnknownParameter", format!("The parameter {name} is not recognized"))),
        }
    }
}

fn parse<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|error| ApiError::invalid_parameter(format!("Value ({text}) for parameter {name} is invalid. {error}")))
}
