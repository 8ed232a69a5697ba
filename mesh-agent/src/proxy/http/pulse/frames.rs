//! Follows the frames of an HTTP/2 connection, to see whether a client is in the middle of a header block.
//!
//! h2 waits for ever for the rest of a frame, or for the CONTINUATION that ends a block. This looks at the nine bytes of each
//! frame's head (RFC 9113, 4.1), never at what a frame holds.

/// Bytes of the client's preface: RFC 9113, 3.4.
const PREFACE: u32 = 24;
/// Bytes of the head of a frame.
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Where in the stream of bytes it is.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes until the head of the next frame.
    left: u32,
    head: [u8; HEAD],
    filled: usize,
    /// A block, or the preface, has begun and not ended.
    is_open: bool,
    /// The frame that is under way ends it.
    ends: bool,
    /// Blocks that have ended.
    blocks: u32,
}

impl Frames {
    pub(super) const fn new() -> Self {
        Self {
            left: PREFACE,
            head: [0; HEAD],
            filled: 0,
            is_open: true,
            ends: true,
            blocks: 0,
        }
    }

    /// More bytes have come.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let here =
                    usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.left -= u32::try_from(here).unwrap_or(self.left);
                bytes = bytes.get(here..).unwrap_or_default();
                self.settle();
                continue;
            }
            let free = self.head.get_mut(self.filled..).unwrap_or_default();
            let count = free.len().min(bytes.len());
            for (to, from) in free.iter_mut().zip(bytes) {
                *to = *from;
            }
            self.filled += count;
            bytes = bytes.get(count..).unwrap_or_default();
            if self.filled == HEAD {
                self.filled = 0;
                self.begin();
                self.settle();
            }
        }
    }

    /// Whether a block is under way, or the head of a frame; and how many blocks have ended.
    pub(super) const fn state(&self) -> (bool, u32) {
        (self.is_open || self.filled > 0, self.blocks)
    }

    /// The head of a frame is complete.
    const fn begin(&mut self) {
        let [one, two, three, kind, flags, ..] = self.head;
        self.left = u32::from_be_bytes([0, one, two, three]);
        if kind == HEADERS {
            self.is_open = true;
        }
        self.ends =
            self.is_open && (kind == HEADERS || kind == CONTINUATION) && flags & END_HEADERS != 0;
    }

    /// A frame may be complete.
    const fn settle(&mut self) {
        if self.left == 0 && self.ends {
            self.ends = false;
            self.is_open = false;
            self.blocks = self.blocks.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Frames;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        [&head, payload].concat()
    }

    fn state(bytes: &[&[u8]]) -> (bool, u32) {
        let all = bytes.concat();
        let states: Vec<_> = (1..=all.len())
            .map(|size| {
                let mut frames = Frames::new();
                for piece in all.chunks(size) {
                    frames.follow(piece);
                }
                frames.state()
            })
            .collect();
        assert!(
            states.windows(2).all(|pair| pair[0] == pair[1]),
            "{states:?}"
        );
        states[0]
    }

    #[test]
    fn a_block_is_open_until_its_last_byte() {
        let settings = frame(4, 0, &[]);
        assert_eq!(state(&[&PREFACE[..10]]), (true, 0));
        assert_eq!(state(&[PREFACE]), (false, 1));
        assert_eq!(state(&[PREFACE, &settings]), (false, 1));
        let headers = frame(1, 4, b"block");
        assert_eq!(state(&[PREFACE, &settings, &headers]), (false, 2));
        for cut in 1..headers.len() {
            assert_eq!(
                state(&[PREFACE, &settings, &headers[..cut]]),
                (true, 1),
                "{cut}"
            );
        }
    }

    #[test]
    fn a_block_goes_on_until_its_flag_says_so() {
        let begin = frame(1, 1, b"block");
        let more = frame(9, 0, b"");
        let end = frame(9, 4, b"");
        assert_eq!(state(&[PREFACE, &begin]), (true, 1));
        assert_eq!(state(&[PREFACE, &begin, &more, &more]), (true, 1));
        assert_eq!(state(&[PREFACE, &begin, &more, &end]), (false, 2));
    }

    #[test]
    fn other_frames_open_nothing() {
        let data = frame(0, 4, &[7; 1000]);
        let ping = frame(6, 0, &[0; 8]);
        assert_eq!(state(&[PREFACE, &data, &ping]), (false, 1));
        assert_eq!(state(&[PREFACE, &data[..500]]), (false, 1));
    }
}
