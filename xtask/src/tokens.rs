//! Sources as words, marks and what is in brackets: enough to find paths in them, those in macros included. Comments and strings are gone.

use std::iter::Peekable;
use std::str::Chars;

/// A piece of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// A name, a keyword or a number.
    Word(String),
    Mark(char),
    /// By the bracket that opens it.
    Group(char, Vec<Token>),
}

/// All of `text`. What is not closed ends with it.
pub(crate) fn of(text: &str) -> Vec<Token> {
    group(&mut text.chars().peekable())
}

fn group(chars: &mut Peekable<Chars<'_>>) -> Vec<Token> {
    let mut tokens = Vec::new();
    while let Some(letter) = chars.next() {
        match letter {
            '/' if chars.peek() == Some(&'/') => while chars.next().is_some_and(|letter| letter != '\n') {},
            '/' if chars.peek() == Some(&'*') => skip_comment(chars),
            '"' => skip_string(chars),
            '\'' => skip_quoted(chars),
            '(' | '[' | '{' => tokens.push(Token::Group(letter, group(chars))),
            ')' | ']' | '}' => return tokens,
            _ if letter.is_alphanumeric() || letter == '_' => {
                let mut word = String::from(letter);
                while let Some(next) = chars.next_if(|next| next.is_alphanumeric() || *next == '_') {
                    word.push(next);
                }
                // A string without escapes, or a name that would be a keyword.
                if matches!(word.as_str(), "r" | "br" | "cr") && matches!(chars.peek(), Some('#' | '"')) {
                    skip_raw(chars);
                } else {
                    tokens.push(Token::Word(word));
                }
            }
            _ if letter.is_whitespace() => {}
            _ => tokens.push(Token::Mark(letter)),
        }
    }
    tokens
}

/// Comments may be within comments.
fn skip_comment(chars: &mut Peekable<Chars<'_>>) {
    let (mut depth, mut last) = (0, '/');
    for letter in chars.by_ref() {
        match (last, letter) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                last = letter;
                continue;
            }
        }
        if depth == 0 {
            return;
        }
        last = ' ';
    }
}

fn skip_string(chars: &mut Peekable<Chars<'_>>) {
    while let Some(letter) = chars.next() {
        match letter {
            '\\' => drop(chars.next()),
            '"' => return,
            _ => {}
        }
    }
}

/// A letter in quotes, or a lifetime, of which the name is read next.
fn skip_quoted(chars: &mut Peekable<Chars<'_>>) {
    let mut ahead = chars.clone();
    match (ahead.next(), ahead.next()) {
        (Some('\\'), _) => {
            chars.next();
            chars.next();
            while chars.next().is_some_and(|letter| letter != '\'') {}
        }
        (Some(_), Some('\'')) => {
            chars.next();
            chars.next();
        }
        _ => {}
    }
}

fn skip_raw(chars: &mut Peekable<Chars<'_>>) {
    let mut hashes = 0;
    while chars.next_if_eq(&'#').is_some() {
        hashes += 1;
    }
    if chars.next_if_eq(&'"').is_none() {
        return;
    }
    let mut behind = None;
    for letter in chars.by_ref() {
        behind = match (letter, behind) {
            ('"', _) => Some(0),
            ('#', Some(seen)) => Some(seen + 1),
            _ => None,
        };
        if behind == Some(hashes) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        fn all(tokens: Vec<Token>, found: &mut Vec<String>) {
            for token in tokens {
                match token {
                    Token::Word(word) => found.push(word),
                    Token::Group(_, within) => all(within, found),
                    Token::Mark(_) => {}
                }
            }
        }
        let mut found = Vec::new();
        all(of(text), &mut found);
        found
    }

    #[test]
    fn comments_strings_and_letters_are_passed_over() {
        for hidden in [
            "// x \"\n",
            "/* x /* \" */ x */",
            "\"x \\\" x\"",
            "r\"x\\\"",
            "r#\"x \" x\"#",
            "br##\"x \"# x\"##",
            "'x'",
            "'\\''",
            "'\"'",
            "'\\u{78}'",
            "'{'",
        ] {
            assert_eq!(words(&format!("a {hidden} b")), ["a", "b"], "{hidden}");
        }
        assert_eq!(words("fn f<'a>(b: &'a str) { c!(d) }"), ["fn", "f", "a", "b", "a", "str", "c", "d"]);
        assert_eq!(of("a::{b}"), [Token::Word("a".into()), Token::Mark(':'), Token::Mark(':'), Token::Group('{', of("b"))]);
    }
}
