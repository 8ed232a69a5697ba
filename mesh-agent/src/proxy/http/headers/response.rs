//! Whether a response is sound, and what the client gets of its head.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use super::{MESH_ERROR, fields, remove_hop_by_hop, request};
use crate::proxy::http::Connection;

/// What becomes of the client's connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It serves the next request.
    Serve,
    /// It has lived long enough: the client is told to open another (HTTP/1).
    Close,
    /// It speaks another protocol, or is a tunnel.
    Switch,
}

impl After {
    pub(crate) fn of(is_tunnel: bool, connection: &Connection) -> Self {
        match is_tunnel {
            true => Self::Switch,
            // Of HTTP/2 the connection itself says so.
            false if connection.pulse.is_aged() && !connection.is_http2 => Self::Close,
            false => Self::Serve,
        }
    }
}

/// The fields of an interim response as the client gets them; nothing, if they are unsound.
pub(crate) fn interim_fields(fields: &HeaderMap) -> Option<HeaderMap> {
    let mut fields = fields.clone();
    if !fields::are_trimmed(&fields) || fields.contains_key(header::TRANSFER_ENCODING) {
        return None;
    }
    remove_hop_by_hop(&mut fields);
    fields.remove(MESH_ERROR);
    fields.remove(header::CONTENT_LENGTH);
    Some(fields)
}

/// The head of an interim response as a client of HTTP/1.1 gets it; nothing, if it is unsound.
pub(crate) fn interim_head(status: StatusCode, fields: &HeaderMap) -> Option<Vec<u8>> {
    let fields = interim_fields(fields)?;
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    for (name, value) in &fields {
        let line: [&[u8]; 4] = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"];
        head.extend(line.concat());
    }
    head.extend_from_slice(b"\r\n");
    Some(head)
}

/// Judges a response, and makes the head that the client gets. The error says what is wrong with it.
pub(crate) fn clean_response<B>(
    response: &mut Response<B>,
    after: After,
) -> Result<(), &'static str> {
    let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    if !fields::are_trimmed(headers) {
        // The end of a gRPC call that fails at once is in the head, with its message as it is.
        if !request::is_grpc(headers) {
            return Err("white space around the value of a field");
        }
        fields::trim(headers);
    }
    fields::check_framing(headers).map_err(|unclear| unclear.0)?;
    fields::merge_lengths(headers);
    let upgrade = if is_switch {
        headers.get(header::UPGRADE).cloned()
    } else {
        None
    };
    remove_hop_by_hop(headers);
    if after == After::Switch {
        // What follows is no body: RFC 9110, 9.3.6.
        headers.remove(header::CONTENT_LENGTH);
    }
    fields::remove_rare(headers, &MESH_ERROR);
    if after == After::Close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    Ok(())
}
