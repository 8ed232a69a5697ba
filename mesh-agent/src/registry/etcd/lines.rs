//! The messages of a watch: one JSON document per line, in chunks that know nothing of lines.

/// Collects bytes and gives out whole lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that hold no end of a line.
    searched: usize,
}

/// A line has more than [`MAX_LINE`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of more than {MAX_LINE} bytes")]
pub struct TooLong;

/// Largest message. etcd cuts its messages at its largest request and half a MiB (2 MiB by default) where a watch allows
/// fragments; in Base64 that is a third more.
const MAX_LINE: usize = 16 << 20;

impl Lines {
    /// Adds what has arrived. Take the lines before the next chunk.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<(), TooLong> {
        if self.buffer.len() + chunk.len() > MAX_LINE {
            return Err(TooLong);
        }
        self.buffer.extend_from_slice(chunk);
        Ok(())
    }

    /// The next line, without its end. Empty lines are left out.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let rest = self.buffer.get(self.searched..)?;
            let Some(at) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                return None;
            };
            let rest = self.buffer.split_off(self.searched + at + 1);
            let mut line = std::mem::replace(&mut self.buffer, rest);
            self.searched = 0;
            line.truncate(line.trim_ascii_end().len());
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_however_they_are_cut() {
        let text = b"{\"a\":1}\n\n{\"b\":2}\r\n{\"c\"";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for chunk in text.chunks(size) {
                lines.push(chunk).unwrap();
                found.extend(std::iter::from_fn(|| lines.next()));
            }
            assert_eq!(
                found,
                [b"{\"a\":1}".to_vec(), b"{\"b\":2}".to_vec()],
                "{size}"
            );
        }
    }

    #[test]
    fn line_without_an_end_is_refused_before_it_fills_the_memory() {
        let mut lines = Lines::default();
        let chunk = vec![b'x'; 1 << 20];
        let pushed = (0..100).take_while(|_| lines.push(&chunk).is_ok()).count();
        assert_eq!(pushed, MAX_LINE >> 20);
    }
}
