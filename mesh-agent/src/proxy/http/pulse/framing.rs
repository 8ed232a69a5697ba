//! Follows where the requests of an HTTP/1.1 connection begin and end, to see what hyper does not tell.
//!
//! hyper takes `content-length` off a request that has `transfer-encoding` as well, so whoever looks at its headers cannot
//! refuse it: such a request was probably made to be read in two ways (RFC 9112, 6.1). This looks at the bytes before hyper
//! does: at each line of a head and of a chunk's size, never at a body. It decides nothing: what hyper refuses it need not
//! understand, it only must not lose its way on what hyper accepts. If it does lose its way, all that follows counts as
//! framed twice.

/// Longest begin of a line that is kept while the rest is under way.
const KEPT: usize = 64;

/// Where in the stream of bytes it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before or in a head.
    Head,
    /// In a body, or in a chunk and the end of its line; so many bytes follow.
    Body { left: u64, is_chunk: bool },
    /// In the line with a chunk's size.
    Size,
    /// Behind the last chunk.
    Trailers,
    /// Nobody knows.
    Lost,
}

/// What the lines of the current head have said.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    has_lines: bool,
    length: Option<u64>,
    is_chunked: bool,
}

/// What has been seen of a connection.
#[derive(Debug)]
pub(super) struct Framing {
    place: Place,
    head: Head,
    /// The begin of a line whose end has not come.
    kept: [u8; KEPT],
    kept_len: usize,
    /// The last byte of that line so far.
    last: u8,
    /// Heads that have ended.
    heads: u64,
    /// The first of them that has both, counted from 1.
    ambiguous: Option<u64>,
}

impl Framing {
    pub(super) const fn new() -> Self {
        Self {
            place: Place::Head,
            head: Head {
                has_lines: false,
                length: None,
                is_chunked: false,
            },
            kept: [0; KEPT],
            kept_len: 0,
            last: b'\n',
            heads: 0,
            ambiguous: None,
        }
    }

    /// More bytes have come. Tells which request, counted from 1, was the first that is framed twice.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) -> Option<u64> {
        while !bytes.is_empty() && self.place != Place::Lost {
            bytes = match self.place {
                Place::Body { left, is_chunk } => self.skip(bytes, left, is_chunk),
                Place::Head | Place::Size | Place::Trailers => self.take_line(bytes),
                Place::Lost => &[],
            };
        }
        self.ambiguous
    }

    /// Whether a head has begun and not ended; and how many have, modulo 2^32.
    pub(super) fn state(&self) -> (bool, u32) {
        let has_begun = self.head.has_lines || self.kept_len > 0;
        let come = u32::try_from(self.heads & u64::from(u32::MAX)).unwrap_or(0);
        (self.place == Place::Head && has_begun, come)
    }

    /// Whether all that has come is whole.
    pub(super) const fn is_between(&self) -> bool {
        matches!(self.place, Place::Head) && !self.head.has_lines && self.kept_len == 0
    }

    fn skip<'b>(&mut self, bytes: &'b [u8], left: u64, is_chunk: bool) -> &'b [u8] {
        let here = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let left = left.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
        self.place = match (left, is_chunk) {
            (0, true) => Place::Size,
            (0, false) => Place::Head,
            _ => Place::Body { left, is_chunk },
        };
        bytes.get(here..).unwrap_or_default()
    }

    /// Takes the bytes up to the end of a line, and looks at the line if it has ended.
    fn take_line<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let Some(end) = find_newline(bytes) else {
            self.keep(bytes);
            return &[];
        };
        let (line, rest) = bytes.split_at(end);
        let last = line.last().copied().unwrap_or(self.last);
        if self.kept_len == 0 {
            self.line(line.strip_suffix(b"\r").unwrap_or(line), last == b'\r');
        } else {
            self.keep(line);
            let (kept, len) = (self.kept, self.kept_len);
            self.kept_len = 0;
            let line = kept.get(..len).unwrap_or_default();
            self.line(line.strip_suffix(b"\r").unwrap_or(line), last == b'\r');
        }
        self.last = b'\n';
        rest.get(1..).unwrap_or_default()
    }

    fn keep(&mut self, bytes: &[u8]) {
        let free = self.kept.get_mut(self.kept_len..).unwrap_or_default();
        let count = free.len().min(bytes.len());
        for (to, from) in free.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.kept_len += count;
        self.last = bytes.last().copied().unwrap_or(self.last);
    }

    fn line(&mut self, line: &[u8], has_return: bool) {
        match self.place {
            // For hyper a line of a chunked body ends with both, and a trailer may hold the other alone.
            Place::Size | Place::Trailers if !has_return => self.lose(),
            Place::Head if line.is_empty() => self.end_head(),
            Place::Head => self.field(line),
            Place::Size => self.size(line),
            Place::Trailers if line.is_empty() => self.place = Place::Head,
            Place::Trailers | Place::Body { .. } | Place::Lost => {}
        }
    }

    fn field(&mut self, line: &[u8]) {
        // The first line of a head has no field; a method that looks like one has no colon where one is looked for.
        self.head.has_lines = true;
        match line.first() {
            Some(b'c' | b'C') => {
                if let Some(value) = value_of(line, b"content-length:") {
                    match parse(value, 10) {
                        Some(length) => self.head.length = Some(length),
                        None => self.lose(),
                    }
                }
            }
            Some(b't' | b'T') => {
                self.head.is_chunked |= value_of(line, b"transfer-encoding:").is_some();
            }
            _ => {}
        }
    }

    fn end_head(&mut self) {
        // Empty lines before a request mean nothing: RFC 9112, 2.2.
        if !self.head.has_lines {
            return;
        }
        let head = std::mem::take(&mut self.head);
        self.heads += 1;
        if head.is_chunked && head.length.is_some() {
            self.ambiguous.get_or_insert(self.heads);
        }
        self.place = match (head.is_chunked, head.length) {
            (true, _) => Place::Size,
            (false, None | Some(0)) => Place::Head,
            (false, Some(left)) => Place::Body {
                left,
                is_chunk: false,
            },
        };
    }

    fn size(&mut self, line: &[u8]) {
        let digits = line
            .iter()
            .position(|byte| !byte.is_ascii_hexdigit())
            .unwrap_or(line.len());
        match parse(line.get(..digits).unwrap_or_default(), 16) {
            Some(0) => self.place = Place::Trailers,
            // The end of the line belongs to the chunk.
            Some(size) if size < u64::MAX - 2 => {
                self.place = Place::Body {
                    left: size + 2,
                    is_chunk: true,
                };
            }
            _ => self.lose(),
        }
    }

    fn lose(&mut self) {
        self.place = Place::Lost;
        self.ambiguous.get_or_insert(self.heads + 1);
    }
}

/// Where the first line ends. Looks at eight bytes at once: a byte is zero exactly where subtracting one from it, and not
/// from a byte with its highest bit, sets that bit (H. S. Warren, Hacker's Delight, 6-1).
fn find_newline(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    const NEWLINES: u64 = u64::from_ne_bytes([b'\n'; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word) ^ NEWLINES;
        let found = word.wrapping_sub(ONES) & !word & HIGHS;
        if found != 0 {
            // The lowest mark is right; those above it may stem from its borrow.
            return Some(index * 8 + usize::try_from(found.trailing_zeros() / 8).unwrap_or(0));
        }
    }
    let at = rest.iter().position(|byte| *byte == b'\n')?;
    Some(words.len() * 8 + at)
}

/// What follows `name`, which is in small letters and ends with a colon; without white space around it.
fn value_of<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (begin, value) = line.split_at_checked(name.len())?;
    begin.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn parse(digits: &[u8], radix: u32) -> Option<u64> {
    // A sign is no digit.
    let is_number = digits.first().is_some_and(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    u64::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests;
