pub(crate) fn cases() -> Vec<crate::Case> { vec![] }
