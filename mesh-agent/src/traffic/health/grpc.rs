//! The messages of `grpc.health.v1.Health/Check`, by hand: one field each
//! (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).

/// Where it is asked.
pub const PATH: &str = "/grpc.health.v1.Health/Check";

/// The body of a request after `service`; the server as a whole where there is none.
#[must_use]
pub fn request(service: Option<&str>) -> Vec<u8> {
    let name = service.unwrap_or_default().as_bytes();
    let mut message = Vec::new();
    if !name.is_empty() {
        // Field 1, a string.
        message.push(0x0a);
        put_varint(&mut message, u64::try_from(name.len()).unwrap_or(0));
        message.extend_from_slice(name);
    }
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    body.extend_from_slice(&message);
    body
}

/// The status in the body of an answer: 1 is serving. `None` for what is no such body.
#[must_use]
pub fn status(body: &[u8]) -> Option<u64> {
    let (head, rest) = body.split_at_checked(5)?;
    let (flag, length) = head.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    let mut rest = rest.get(..usize::try_from(length).ok()?)?;
    if *flag != 0 {
        return None;
    }
    // An absent field is zero: unknown.
    let mut status = 0;
    while !rest.is_empty() {
        let key = take_varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = take_varint(&mut rest)?,
            (_, 0) => {
                take_varint(&mut rest)?;
            }
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap_or(0));
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_names_its_service() {
        assert_eq!(request(None), [0, 0, 0, 0, 0]);
        assert_eq!(request(Some("ab")), *b"\0\0\0\0\x04\x0a\x02ab");
        let long = request(Some(&"x".repeat(300)));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn an_answer_holds_a_status() {
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        // Fields of later versions are passed over.
        assert_eq!(status(b"\0\0\0\0\x06\x12\x02ab\x08\x02"), Some(2));
        for bad in [
            &b""[..],
            b"\x01\0\0\0\x02\x08\x01",
            b"\0\0\0\0\x09\x08\x01",
            b"\0\0\0\0\x01\x08",
        ] {
            assert_eq!(status(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nonsense_is_no_panic(body in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(status(&body).is_none_or(|_| body.len() >= 5));
        }
    }
}
