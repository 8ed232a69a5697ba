//! HTTP/2 as the proxy speaks it, with h2 itself. hyper's layer above has a task and a queue for each request to an endpoint,
//! and does not let the windows of a client's connection follow what may be held for it.

mod body;
mod link;
mod sending;
mod serving;
mod tunnel;

pub(crate) use body::Body;
pub(crate) use link::{Link, Stream, open};
pub(crate) use serving::Serving;
pub(crate) use tunnel::Tunnel;

/// What h2 keeps of a body whose receiver takes none, whatever its window; and the frame that goes beyond it. All answers
/// of a client's connection together hold 12 MiB so, in frames of 16 KiB. A loopback carries frames of 8 KiB 6 % slower than
/// with h2's own bound of 400 KiB, those of 16 KiB no slower.
const SEND_BUFFER: usize = 32 * 1024;
/// Streams that were reset here in the last second, whose late frames are passed over. h2 keeps 384 to 768 bytes of each, and
/// takes a late frame of any other for an error of the peer. It makes 1,024 errors the end of the connection with all that is
/// under way on it: who sends bodies behind requests that are refused at once is no attacker.
const MAX_RESET_STREAMS: usize = 4096;
