//! A text that must be equal, or that an expression must describe as a whole.

use regex::{Regex, RegexBuilder};

use crate::state::route::StringMatchType;

/// Most memory that one compiled expression may take, in bytes. The default of the crate is ten times as much; an
/// expression that needs more is a mistake, and there may be thousands.
const MAX_COMPILED: usize = 1 << 20;

/// How a text is compared.
#[derive(Clone, Debug)]
pub enum TextMatch {
    /// Equal, byte for byte.
    Exact(Box<str>),
    /// Described as a whole.
    Expression(Regex),
}

impl TextMatch {
    /// Compiles a comparison with `value`.
    pub fn new(kind: StringMatchType, value: &str) -> Result<Self, regex::Error> {
        Ok(match kind {
            StringMatchType::Exact => Self::Exact(value.into()),
            StringMatchType::RegularExpression => Self::Expression(expression(value)?),
        })
    }

    /// The same for texts that have small letters only.
    #[must_use]
    pub fn in_small_letters(self) -> Self {
        match self {
            Self::Exact(wanted) => Self::Exact(wanted.to_ascii_lowercase().into()),
            Self::Expression(_) => self,
        }
    }

    /// Whether `text` is as it must be. What is not UTF-8 is described by no expression.
    #[must_use]
    pub fn is_match(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(wanted) => wanted.as_bytes() == text,
            Self::Expression(regex) => {
                std::str::from_utf8(text).is_ok_and(|text| regex.is_match(text))
            }
        }
    }
}

/// Compiles an expression that describes a whole text.
pub fn expression(text: &str) -> Result<Regex, regex::Error> {
    // Alone first: `a)|(b` would be an expression once it stands in parentheses.
    build(text)?;
    build(&format!(r"\A(?:{text})\z"))
}

fn build(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(expression: &str, text: &[u8]) -> bool {
        let text_match = TextMatch::new(StringMatchType::RegularExpression, expression);
        text_match.expect("an expression").is_match(text)
    }

    #[test]
    fn an_expression_describes_the_whole_text() {
        assert!(described("a|b", b"a") && described("a|b", b"b"));
        assert!(!described("a|b", b"ab") && !described("a", b"a\n"));
        assert!(described("(?i)ABC", b"abc"));
        assert!(!described("(?m)a$", b"a\nb"), "lines are no way out");
    }

    #[test]
    fn bytes_that_are_no_text_are_described_by_nothing() {
        assert!(!described(".*", b"\xff"));
        assert!(!described("[^a]*", b"\xc3"));
        assert!(described(".", "é".as_bytes()));
    }

    #[test]
    fn bad_and_huge_expressions_are_refused() {
        for text in ["(", "a)|(b", "[", "(?P<", "(?:a{1000}){1000}"] {
            assert!(expression(text).is_err(), "{text}");
        }
    }
}
