//! Long answers in parts, and the filters that shorten them.

use super::error::ApiError;
use super::request::{Filter, Page};

/// The part of `items`, which are in the order of `key`, that `page` asks for; and the token of the next.
pub(super) fn cut<T>(mut items: Vec<T>, page: &Page, key: impl Fn(&T) -> String) -> Result<(Vec<T>, Option<String>), ApiError> {
    if let Some(token) = &page.next_token {
        let after = token.strip_prefix("after-").ok_or_else(|| ApiError::invalid_parameter(format!("Invalid NextToken: {token}")))?;
        items.retain(|item| key(item).as_str() > after);
    }
    let Some(max) = page.max_results else { return Ok((items, None)) };
    if !(5..=1000).contains(&max) {
        return Err(ApiError::invalid_parameter(format!(
            "Value ( {max} ) for parameter maxResults is invalid. Expecting a value between 5 and 1000."
        )));
    }
    let more = items.len() > max as usize;
    items.truncate(max as usize);
    let next = items.last().filter(|_| more).map(|last| format!("after-{}", key(last)));
    Ok((items, next))
}

/// Ids and pages exclude each other.
pub(super) fn not_with_ids(named: bool, page: &Page) -> Result<(), ApiError> {
    if named && page.max_results.is_some() {
        return Err(ApiError::client("InvalidParameterCombination", "The parameter maxResults cannot be used with the parameter of ids"));
    }
    Ok(())
}

/// Whether something passes every filter. `values` lists what it has under a filter's name: nothing where it has none, `None` where
/// there is no such filter.
pub(super) fn passes(filters: &[Filter], values: impl Fn(&str) -> Option<Vec<String>>) -> Result<bool, ApiError> {
    for filter in filters {
        let has = values(&filter.name).ok_or_else(|| ApiError::invalid_parameter(format!("The filter '{}' is invalid", filter.name)))?;
        if !has.iter().any(|value| filter.values.iter().any(|pattern| matches(pattern, value))) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether `text` is like `pattern`, in which `*` stands for any text and `?` for any character.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| matches(rest, &text[at..]))
        }
        Some(wanted) => {
            let mut left = text.chars();
            left.next().is_some_and(|found| wanted == '?' || wanted == found) && matches(&pattern[wanted.len_utf8()..], left.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text, expected) in [
            ("in-use", "in-use", true),
            ("in", "in-use", false),
            ("in*", "in-use", true),
            ("*use", "in-use", true),
            ("i?-*e", "in-use", true),
            ("*", "", true),
            ("?", "", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_overlap() {
        let items: Vec<_> = (10..33).collect();
        let mut page = Page { max_results: Some(5), next_token: None };
        let mut seen = Vec::new();
        loop {
            let (part, next) = cut(items.clone(), &page, i32::to_string).unwrap();
            assert!(part.len() <= 5);
            seen.extend(part);
            match next {
                Some(_) => page.next_token = next,
                None => break,
            }
        }
        assert_eq!(seen, items);
        assert!(cut(items.clone(), &Page { max_results: Some(4), next_token: None }, i32::to_string).is_err());
        assert!(cut(items, &Page { max_results: None, next_token: Some("x".to_owned()) }, i32::to_string).is_err());
    }
}
