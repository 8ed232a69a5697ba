//! Requests that may have to be sent again: head and body are kept, the body up to a bound and while it is streamed.

mod buffer;

use std::borrow::Cow;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body::{Frame, SizeHint};

use super::Asked;
use crate::proxy::http::Connection;
use crate::proxy::http::body::{BodyError, Outgoing, Upload};
use buffer::Buffer;

/// A request, for the first time and for others.
#[derive(Debug)]
pub(crate) struct Original {
    first: Option<Asked>,
    spare: Option<Spare>,
    body: Option<Arc<Mutex<Kept>>>,
}

impl Original {
    /// Keeps what is needed to send `request` again: bodies of at most `max_body` bytes, for which the workload of
    /// `connection` has room among its buffers.
    pub(super) fn new(mut request: Asked, max_body: usize, connection: &Arc<Connection>) -> Self {
        let (is_kept, body) = match mem::replace(request.body_mut(), Outgoing::Empty) {
            Outgoing::Empty => (true, None),
            Outgoing::Streamed(upload) if is_short(&upload, max_body) => {
                let kept = Kept::new(*upload, max_body, Arc::clone(connection));
                let kept = Arc::new(Mutex::new(kept));
                *request.body_mut() = Outgoing::Kept(Reader::new(&kept));
                (true, Some(kept))
            }
            body => {
                *request.body_mut() = body;
                (false, None)
            }
        };
        Self {
            spare: is_kept.then(|| Spare::of(&request)),
            first: Some(request),
            body,
        }
    }

    /// The fields of the request, as long as it is here, and the host that it names.
    pub(crate) fn head(&self) -> Option<(Cow<'_, HeaderMap>, Option<Authority>)> {
        if let Some(first) = &self.first {
            return Some((Cow::Borrowed(first.headers()), authority(first)));
        }
        let spare = self.spare.as_ref()?.request()?;
        let authority = authority(&spare);
        Some((Cow::Owned(spare.into_parts().0.headers), authority))
    }

    /// The request as it came or was given back, else once more.
    pub(super) fn take(&mut self) -> Option<Asked> {
        self.first.take().or_else(|| self.again())
    }

    /// Nothing of it was sent.
    pub(super) fn give_back(&mut self, request: Asked) {
        self.first = Some(request);
    }

    /// Whether it can be taken.
    pub(super) fn is_kept(&self) -> bool {
        if self.first.is_some() {
            return true;
        }
        let is_lost = |kept: &Arc<Mutex<Kept>>| {
            let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.is_lost
        };
        self.spare.is_some() && !self.body.as_ref().is_some_and(is_lost)
    }

    /// The request once more; absent if it is not kept, or no more. Whoever still sends the body of an earlier one is
    /// cut off.
    pub(super) fn again(&self) -> Option<Asked> {
        let head = self.spare.as_ref()?.request()?;
        let body = match &self.body {
            None => Outgoing::Empty,
            Some(kept) => {
                let mut state = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if state.is_lost {
                    return None;
                }
                state.turn += 1;
                if let Some(reader) = state.reader.take() {
                    reader.wake();
                }
                drop(state);
                Outgoing::Kept(Reader::new(kept))
            }
        };
        Some(Box::new(head.map(|()| body)))
    }
}

/// A copy of a head, which few requests ever need. Extensions stay behind.
#[derive(Debug)]
struct Spare {
    method: Method,
    uri: Uri,
    version: Version,
    /// Names and values, each behind its length: one piece of memory for all, where a table has several for each field.
    fields: Vec<u8>,
}

impl Spare {
    fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        let lengths = headers.iter().map(|(name, value)| {
            let lengths = name.as_str().len() + value.len();
            lengths + 2 * size_of::<usize>()
        });
        let mut fields = Vec::with_capacity(lengths.sum());
        for (name, value) in headers {
            for text in [name.as_str().as_bytes(), value.as_bytes()] {
                fields.extend_from_slice(&text.len().to_ne_bytes());
                fields.extend_from_slice(text);
            }
        }
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            fields,
        }
    }

    fn request(&self) -> Option<Request<()>> {
        let mut request = Request::new(());
        request.method_mut().clone_from(&self.method);
        request.uri_mut().clone_from(&self.uri);
        *request.version_mut() = self.version;
        let mut rest = self.fields.as_slice();
        while let Some(name) = next(&mut rest) {
            let value = HeaderValue::from_bytes(next(&mut rest)?).ok()?;
            let name = HeaderName::from_bytes(name).ok()?;
            request.headers_mut().append(name, value);
        }
        Some(request)
    }
}

/// The next text of those that each stand behind their length.
fn next<'t>(rest: &mut &'t [u8]) -> Option<&'t [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let (text, after) = after.split_at_checked(usize::from_ne_bytes(*length))?;
    *rest = after;
    Some(text)
}

/// The host that a clean request names: HTTP/2 has it in another place.
fn authority<B>(request: &Request<B>) -> Option<Authority> {
    let of_target = request.uri().authority().cloned();
    of_target.or_else(|| Authority::try_from(request.headers().get(HOST)?.as_bytes()).ok())
}

fn is_short(body: &Upload, max: usize) -> bool {
    let max = u64::try_from(max).unwrap_or(u64::MAX);
    max > 0 && body.size_hint().lower() <= max
}

/// A body as far as it has come.
#[derive(Debug)]
struct Kept {
    inner: Upload,
    hint: SizeHint,
    data: Buffer<Connection>,
    trailers: Option<HeaderMap>,
    has_ended: bool,
    /// It was longer than may be kept, or broke off: there is no second time.
    is_lost: bool,
    /// Whose turn it is to read.
    turn: u32,
    /// Who waits for more of it.
    reader: Option<Waker>,
}

impl Kept {
    fn new(inner: Upload, max: usize, connection: Arc<Connection>) -> Self {
        let hint = inner.size_hint();
        let stated = hint.upper().and_then(|size| usize::try_from(size).ok());
        Self {
            inner,
            hint,
            data: Buffer::new(stated.map_or(max, |stated| stated.min(max)), connection),
            trailers: None,
            has_ended: false,
            is_lost: false,
            turn: 0,
            reader: None,
        }
    }

    fn poll_inner(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = self.inner.poll_frame(cx) else {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let frame = match frame {
            None => {
                self.has_ended = true;
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                self.lose();
                return Poll::Ready(Some(Err(error)));
            }
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            if !self.is_lost && !self.data.add(data) {
                self.lose();
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.has_ended = true;
            if !self.is_lost {
                self.trailers = Some(trailers.clone());
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn lose(&mut self) {
        self.is_lost = true;
        self.data.clear();
    }
}

/// Reads a kept body from its beginning, and goes on with what comes.
#[derive(Debug)]
pub(crate) struct Reader {
    kept: Arc<Mutex<Kept>>,
    turn: u32,
    /// Bytes read.
    read: usize,
    /// All was read, trailers too.
    has_ended: bool,
}

impl Reader {
    fn new(kept: &Arc<Mutex<Kept>>) -> Self {
        let turn = kept.lock().unwrap_or_else(PoisonError::into_inner).turn;
        Self {
            kept: Arc::clone(kept),
            turn,
            read: 0,
            has_ended: false,
        }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.turn != self.turn {
            // An end without an error would make a part look like the whole.
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(data) = kept.data.after(self.read) {
            self.read += data.len();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if kept.has_ended {
            let trailers = kept.trailers.clone().filter(|_| !self.has_ended);
            self.has_ended = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(kept.poll_inner(cx));
        if let Some(Ok(frame)) = &frame {
            self.read += frame.data_ref().map_or(0, Bytes::len);
        }
        self.has_ended = kept.has_ended;
        Poll::Ready(frame)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let has_read_all = self.read >= kept.data.len();
        has_read_all && kept.trailers.is_none() && kept.inner.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        if self.read > 0 || self.has_ended {
            return SizeHint::default();
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spare_head_is_the_same_head() {
        let request = Request::put("/a?b=c")
            .version(Version::HTTP_2)
            .header("x-one", "1")
            .header("x-empty", "")
            .header("x-two", HeaderValue::from_bytes(b"\xff,2").unwrap())
            .header("x-one", "another")
            .body("body")
            .unwrap();
        let copy = Spare::of(&request).request().unwrap();
        assert_eq!(copy.method(), request.method());
        assert_eq!(copy.uri(), request.uri());
        assert_eq!(copy.version(), request.version());
        assert_eq!(copy.headers(), request.headers());
    }
}
