//! Regular expressions as objects have them: bounded in size, and for the whole text.
//!
//! The validation of an object and who decides by it compile them here, so that both mean the same.

use regex::{Regex, RegexBuilder};

/// Longest expression, in bytes.
pub const MAX_BYTES: usize = 1024;
/// Most memory of a compiled one, in bytes; the matcher's caches may take as much again. Matching takes time
/// proportional to the text, whatever the expression (documentation of the crate `regex`, "Untrusted input").
pub const MAX_COMPILED_BYTES: usize = 256 * 1024;

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// It is too long.
    #[error("an expression has at most {MAX_BYTES} bytes")]
    TooLong,
    /// It is no expression, or too large once compiled.
    #[error("{}", fault(.0))]
    Syntax(#[from] regex::Error),
}

/// What is wrong, without the picture of the place, which takes several lines.
fn fault(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// Compiles an expression (syntax of the crate `regex`, close to RE2) that must match the whole text.
pub fn compile(pattern: &str) -> Result<Regex, Error> {
    if pattern.len() > MAX_BYTES {
        return Err(Error::TooLong);
    }
    // Alone first: `a)(b` is wrong, and would be right between the parentheses below.
    build(pattern)?;
    Ok(build(&format!(r"\A(?:{pattern})\z"))?)
}

fn build(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED_BYTES)
        .dfa_size_limit(MAX_COMPILED_BYTES)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text_must_match() {
        let expression = compile("a|bc").unwrap();
        assert!(expression.is_match("a") && expression.is_match("bc"));
        assert!(!expression.is_match("xbc") && !expression.is_match("a\n"));
    }

    #[test]
    fn what_is_no_expression_or_too_large_is_refused() {
        for pattern in ["(", "a)(b", "[z-a]", "(?=look)", r"(a)\1", "a{1000}{1000}"] {
            assert!(
                matches!(compile(pattern), Err(Error::Syntax(_))),
                "{pattern}"
            );
            let said = compile(pattern).unwrap_err().to_string();
            assert!(!said.is_empty() && !said.contains('\n'), "{said}");
        }
        assert_eq!(compile("a\n(").unwrap_err().to_string(), "unclosed group");
        assert_eq!(compile(&"a".repeat(1025)).unwrap_err(), Error::TooLong);
    }

    #[test]
    fn what_people_write_has_room() {
        for pattern in [
            r"/v[0-9]+/users/\d+(/.*)?",
            r"(?i)(chrome|firefox|safari)/\d+\.\d+",
            r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            r"/\w+/\w+/[\w.-]+",
            r"\S+@\S+\.com",
        ] {
            compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        }
    }
}
