//! Ends one socket of a network namespace (`SOCK_DESTROY`): its program sees a reset, and so does the peer.

use std::io::{self, Read as _, Write as _};

use super::{
    ANSWER_TIMEOUT, BY_FAMILY, DATAGRAM, MESSAGE_HEADER, REQUEST_BODY, TcpSocket, message, open,
    read,
};

/// Ends `socket`, which the calling thread's network namespace has. False, if it has ended by itself: the cookie sees to
/// it that another socket with the same addresses is left alone. Asks for `CONFIG_INET_DIAG_DESTROY`.
pub fn destroy(socket: &TcpSocket) -> io::Result<bool> {
    let mut netlink = open()?;
    netlink.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    netlink.write_all(&request(socket))?;
    let mut buffer = vec![0; DATAGRAM];
    let length = netlink.read(&mut buffer)?;
    let answer = buffer.get(..length).unwrap_or_default();
    let (kind, payload, _) = message(answer).ok_or(io::ErrorKind::UnexpectedEof)?;
    if i32::from(kind) != libc::NLMSG_ERROR {
        return Err(io::ErrorKind::InvalidData.into());
    }
    match read::<i32>(payload, 0).unwrap_or(-libc::EPROTO) {
        0 => Ok(true),
        number if number == -libc::ENOENT => Ok(false),
        number => Err(io::Error::from_raw_os_error(-number)),
    }
}

fn request(socket: &TcpSocket) -> Vec<u8> {
    let protocol = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
    let mut body = vec![socket.family, protocol, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(socket.id);
    debug_assert_eq!(body.len(), REQUEST_BODY);
    let length = u32::try_from(MESSAGE_HEADER + body.len()).unwrap_or_default();
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or_default();
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend((BY_FAMILY + 1).to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}
