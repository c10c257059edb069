//! The cases, one file a subject. A name's number is the section of the specification that makes the requirement.

mod add;
mod check;
mod configuration;
mod del;
mod error;
mod gc;
mod lifecycle;
mod parameters;
mod result;
mod status;
mod version;

use super::case::Case;

/// All cases, in the order in which they are run.
pub(super) fn all() -> impl Iterator<Item = &'static Case> {
    [
        version::CASES,
        parameters::CASES,
        configuration::CASES,
        error::CASES,
        add::CASES,
        result::CASES,
        del::CASES,
        check::CASES,
        status::CASES,
        gc::CASES,
        lifecycle::CASES,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_name_is_unique_and_starts_with_a_section() {
        let mut names = HashSet::new();
        for case in all() {
            assert!(names.insert(case.name), "{} exists twice", case.name);
            let section = case.name.split('.').next().unwrap();
            assert!(["1", "2", "3", "5"].contains(&section), "{}", case.name);
            assert!(case.requirement.ends_with('.'), "{}: {}", case.name, case.requirement);
        }
        assert!(names.len() > 50, "{}", names.len());
    }
}
