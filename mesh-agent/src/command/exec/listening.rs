//! Whether somebody listens on a port of this network namespace, without a connection that the listener would see.

use std::fs;

/// Looks into the kernel's list of TCP sockets. What cannot be read counts as nobody listening.
pub(super) fn is_listening(port: u16) -> bool {
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .any(|sockets| has_listener(&sockets, port))
}

/// The fields are those of proc(5): number, local address and port, remote ones, state; all in hexadecimal.
fn has_listener(sockets: &str, port: u16) -> bool {
    sockets.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next().and_then(|local| local.rsplit_once(':'));
        let state = fields.nth(1);
        let is_port =
            local.is_some_and(|(_, text)| u16::from_str_radix(text, 16).ok() == Some(port));
        is_port && state == Some(LISTEN)
    })
}

/// `TCP_LISTEN` of the kernel.
const LISTEN: &str = "0A";

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_a_socket_in_state_listen_counts() {
        let sockets = "  sl  local_address rem_address   st\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
             1: 0100007F:1F91 0100007F:C000 01 00000000:00000000\n";
        assert!(has_listener(sockets, 8080));
        assert!(!has_listener(sockets, 8081));
        assert!(!has_listener(sockets, 0xC000));
    }

    #[test]
    fn a_listener_of_this_process_is_seen_until_it_closes() {
        // At every address: nobody else has the port, as only the number counts.
        let listener = TcpListener::bind("[::]:0")
            .or_else(|_| TcpListener::bind("0.0.0.0:0"))
            .expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        assert!(is_listening(port));
        drop(listener);
        assert!(!is_listening(port));
    }
}
