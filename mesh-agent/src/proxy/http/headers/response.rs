//! Whether a response is sound, and what the client gets of its head.

use http::Response;
use http::header::{self, HeaderValue};

use super::{MESH_ERROR, fields, remove_hop_by_hop};
use crate::proxy::http::Connection;

/// What becomes of the client's connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It serves the next request.
    Serve,
    /// It has lived long enough: the client is told to open another (HTTP/1).
    Close,
    /// It speaks another protocol.
    Switch,
}

impl After {
    pub(crate) fn of(is_switch: bool, connection: &Connection) -> Self {
        match is_switch {
            true => Self::Switch,
            // Of HTTP/2 the connection itself says so.
            false if connection.pulse.is_aged() && !connection.is_http2 => Self::Close,
            false => Self::Serve,
        }
    }
}

/// Judges a response, and makes the head that the client gets. The error says what is wrong with it.
pub(crate) fn clean_response<B>(
    response: &mut Response<B>,
    after: After,
) -> Result<(), &'static str> {
    let headers = response.headers_mut();
    if !fields::are_trimmed(headers) {
        return Err("white space around the value of a field");
    }
    fields::check_framing(headers).map_err(|unclear| unclear.0)?;
    fields::merge_lengths(headers);
    let upgrade = match after {
        After::Switch => headers.get(header::UPGRADE).cloned(),
        After::Serve | After::Close => None,
    };
    remove_hop_by_hop(headers);
    headers.remove(MESH_ERROR);
    if after == After::Close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    Ok(())
}
