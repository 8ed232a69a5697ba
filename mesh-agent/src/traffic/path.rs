//! One spelling per path: what routing and policy compare is what the endpoint gets.
//!
//! A path can be spelled in many ways, and servers differ in which of them they take for the same. A rule about `/admin`
//! must hold for each spelling that some server reads as `/admin`; so a path is given one spelling before anybody looks
//! at it, and the endpoint gets that spelling too. What cannot be given one is refused.
//!
//! | in the path | `Off` | `Base` | `MergeSlashes` | `DecodeAndMergeSlashes` | `Strict` |
//! |---|---|---|---|---|---|
//! | `/./`, `/../` | kept | resolved | resolved | resolved | resolved |
//! | `%2e`, `%41` (unreserved) | kept | decoded | decoded | decoded | decoded |
//! | `%c3` (lower case) | kept | `%C3` | `%C3` | `%C3` | `%C3` |
//! | `\` | kept | `/` | `/` | `/` | `/` |
//! | `//` | kept | kept | `/` | `/` | `/` |
//! | `%2F`, `%5C` | kept | kept | kept | `/` | refused |
//! | `;` and `%3B` (parameters) | kept | kept | kept | kept | refused |
//! | `%00` | kept | refused | refused | refused | refused |
//! | `%01` to `%1F`, `%7F` | kept | kept | kept | kept | refused |
//! | escapes that are not UTF-8 (`%C0%AE`, `%E9`) | kept | kept | kept | kept | refused |
//! | bytes that are not ASCII | kept | kept | kept | kept | refused |
//! | `%`, `%4`, `%zz` | kept | refused | refused | refused | refused |
//! | `#`, control characters, space | refused | refused | refused | refused | refused |
//! | no `/` at the beginning | refused | refused | refused | refused | refused |
//!
//! `Auto`, the default, is `Strict` for a service whose routes tell paths apart, so that no spelling gets around a rule, and
//! `MergeSlashes` for all others: a path parameter or an escaped slash is everyday in some APIs, and where no rule looks at
//! paths there is nothing to get around.
//!
//! The names of the modes but `Strict` and `Auto` are those of Istio's `pathNormalization`. Dot segments: RFC 3986, 5.2.4; escapes: 6.2.2. Letters keep their case, `/a` and `/a/` are two paths, the query is not
//! looked at, and escapes are decoded once: `%252e` stays `%252e`.

use std::borrow::Cow;

/// How far spellings are made one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Paths pass as they come. Only safe where no rule names a path.
    Off,
    /// Dot segments and needless escapes.
    Base,
    /// `Base`, and many slashes are one.
    MergeSlashes,
    /// `MergeSlashes`, and escaped slashes are slashes.
    DecodeAndMergeSlashes,
    /// `MergeSlashes`, and what servers read in two ways is refused.
    Strict,
    /// `Strict` where rules tell paths apart, else `MergeSlashes`: what can go around no rule is no reason to refuse it.
    #[default]
    Auto,
}

impl Mode {
    /// The mode for requests of a service whose rules tell paths apart, or not.
    #[must_use]
    pub const fn resolved(self, tells_paths_apart: bool) -> Self {
        match self {
            Self::Auto if tells_paths_apart => Self::Strict,
            Self::Auto => Self::MergeSlashes,
            mode => mode,
        }
    }
}

/// Why a path is refused. The words are for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.as_str())]
pub enum Rejected {
    /// It does not begin with a slash.
    NotAbsolute,
    /// It holds what no path may hold.
    Unescaped,
    /// An escape without its two digits.
    BrokenEscape,
    /// An escaped control character.
    Control,
    /// An escaped slash or backslash.
    EscapedSlash,
    /// A semicolon.
    Parameters,
    /// Escapes that are not UTF-8, among them overlong ones.
    NotUtf8,
}

impl Rejected {
    /// The words of the error.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAbsolute => "the path does not begin with a slash",
            Self::Unescaped => "the path holds a character that must be escaped",
            Self::BrokenEscape => "the path holds a broken escape",
            Self::Control => "the path holds an escaped control character",
            Self::EscapedSlash => "the path holds an escaped slash",
            Self::Parameters => "the path holds parameters",
            Self::NotUtf8 => "the escapes of the path are not UTF-8",
        }
    }
}

/// Gives `path` (without query) its one spelling. A path that has it already is not copied, and most are found so in one
/// pass over their bytes. `*`, which names the whole server, is none of the paths.
pub fn normalize(path: &str, mode: Mode) -> Result<Cow<'_, str>, Rejected> {
    // Nobody knows whether paths matter: they may.
    let mode = mode.resolved(true);
    if !path.starts_with('/') {
        return Err(Rejected::NotAbsolute);
    }
    if is_plain(path) {
        return Ok(Cow::Borrowed(path));
    }
    if path
        .bytes()
        .any(|byte| byte <= b' ' || byte == b'#' || byte == 0x7f)
    {
        return Err(Rejected::Unescaped);
    }
    if mode == Mode::Off {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path, mode)?;
    let resolved = resolve(&decoded, !matches!(mode, Mode::Base));
    Ok(if resolved == path {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(resolved)
    })
}

/// Whether nothing in the path can be spelled in another way.
fn is_plain(path: &str) -> bool {
    let mut last = 0;
    path.bytes().all(|byte| {
        let is_plain = match byte {
            b'%' | b'\\' | b';' | b'#' | 0..=b' ' | 0x7f.. => false,
            b'/' | b'.' => last != b'/',
            _ => true,
        };
        last = byte;
        is_plain
    })
}

/// Decodes what needs no escape, and spells the other escapes alike.
fn decode(path: &str, mode: Mode) -> Result<String, Rejected> {
    let is_strict = mode == Mode::Strict;
    let mut decoded = String::with_capacity(path.len());
    // The bytes that the escapes stand for, for the check of UTF-8 as a whole.
    let mut meant = Vec::new();
    let mut rest = path.chars();
    while let Some(char) = rest.next() {
        match char {
            '%' => {
                let byte = escape(&mut rest).ok_or(Rejected::BrokenEscape)?;
                push_escaped(&mut decoded, byte, mode)?;
                meant.push(byte);
                continue;
            }
            '\\' => decoded.push('/'),
            ';' if is_strict => return Err(Rejected::Parameters),
            char if is_strict && !char.is_ascii() => return Err(Rejected::Unescaped),
            char => decoded.push(char),
        }
        // Any other character ends a sequence.
        meant.push(b'/');
    }
    if is_strict && std::str::from_utf8(&meant).is_err() {
        return Err(Rejected::NotUtf8);
    }
    Ok(decoded)
}

/// The byte of the two digits that follow.
fn escape(rest: &mut std::str::Chars<'_>) -> Option<u8> {
    let high = rest.next()?.to_digit(16)?;
    let low = rest.next()?.to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

fn push_escaped(decoded: &mut String, byte: u8, mode: Mode) -> Result<(), Rejected> {
    match (byte, mode) {
        (b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~', _) => {
            decoded.push(char::from(byte));
            return Ok(());
        }
        (b'/' | b'\\', Mode::DecodeAndMergeSlashes) => {
            decoded.push('/');
            return Ok(());
        }
        (b'/' | b'\\', Mode::Strict) => return Err(Rejected::EscapedSlash),
        (b';', Mode::Strict) => return Err(Rejected::Parameters),
        (0, _) | (1..=0x1f | 0x7f, Mode::Strict) => return Err(Rejected::Control),
        _ => {}
    }
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    decoded.push('%');
    decoded.push(digit(byte >> 4).to_ascii_uppercase());
    decoded.push(digit(byte & 15).to_ascii_uppercase());
    Ok(())
}

/// Removes dot segments (RFC 3986, 5.2.4) and, if `merges`, empty ones. `path` begins with a slash.
fn resolve(path: &str, merges: bool) -> String {
    let mut resolved = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                let parent = resolved.rfind('/').unwrap_or(0);
                resolved.truncate(parent);
            }
            "" if merges && !is_last => continue,
            segment => {
                resolved.push('/');
                resolved.push_str(segment);
                continue;
            }
        }
        // A dot segment at the end names what is inside.
        if is_last {
            resolved.push('/');
        }
    }
    if resolved.is_empty() {
        resolved.push('/');
    }
    resolved
}

#[cfg(test)]
mod tests;
