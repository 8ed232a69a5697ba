//! Where fields of the running kernel's `struct sock` are, read from its BTF.
//!
//! Programs written in Rust cannot be relocated by the loader yet, so the agent looks the offsets up and hands them
//! over as constants.

use std::path::Path;

/// The kernel's description of its own types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Offsets in `struct sock`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offsets {
    /// Of `sk_backlog.rmem_alloc`.
    pub(super) rmem_alloc: u32,
    /// Of `sk_rcvbuf`.
    pub(super) rcvbuf: u32,
    /// Of `sk_write_pending`.
    pub(super) write_pending: u32,
    /// Of `__sk_common.skc_cookie`.
    pub(super) cookie: u32,
}

impl Offsets {
    /// Those of the running kernel; none where it has no BTF, or other fields.
    pub(super) fn of_kernel() -> Option<Self> {
        let bytes = std::fs::read(Path::new(VMLINUX)).ok()?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let types = Types::parse(bytes)?;
        let sock = types.find_struct("sock")?;
        Some(Self {
            rmem_alloc: types.offset(sock, &["sk_backlog", "rmem_alloc"])?,
            rcvbuf: types.offset(sock, &["sk_rcvbuf"])?,
            write_pending: types.offset(sock, &["sk_write_pending"])?,
            cookie: types.offset(sock, &["__sk_common", "skc_cookie"])?,
        })
    }
}

/// Kinds of BTF records.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
    pub(super) const LAST: u32 = ENUM64;
}

/// First two bytes of BTF in the order of this machine.
const MAGIC: u16 = 0xeb9f;
/// How deep types may be nested; the kernel's are not half as deep.
const MAX_DEPTH: u32 = 16;

/// One record: its head, and where its members begin.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    count: u32,
    has_bit_sizes: bool,
    refers_to: u32,
    members: usize,
}

/// All records, by number; number 0 is `void`.
struct Types<'a> {
    records: Vec<Type>,
    bytes: &'a [u8],
    strings: &'a [u8],
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn part(bytes: &[u8], start: u32, length: u32) -> Option<&[u8]> {
    let start = usize::try_from(start).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}

impl<'a> Types<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.get(..2)? != MAGIC.to_ne_bytes() {
            return None;
        }
        let header = u32_at(bytes, 4)?;
        let strings = header.checked_add(u32_at(bytes, 16)?)?;
        let strings = part(bytes, strings, u32_at(bytes, 20)?)?;
        let start = header.checked_add(u32_at(bytes, 8)?)?;
        let bytes = part(bytes, start, u32_at(bytes, 12)?)?;
        let void = Type {
            name: 0,
            kind: 0,
            count: 0,
            has_bit_sizes: false,
            refers_to: 0,
            members: 0,
        };
        let mut records = vec![void];
        let mut offset = 0;
        while offset < bytes.len() {
            let (record, end) = read_type(bytes, offset)?;
            records.push(record);
            offset = end;
        }
        Some(Self {
            records,
            bytes,
            strings,
        })
    }

    fn is_named(&self, name: u32, expected: &str) -> bool {
        usize::try_from(name)
            .ok()
            .and_then(|start| self.strings.get(start..))
            .and_then(|rest| rest.strip_prefix(expected.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    fn find_struct(&self, name: &str) -> Option<Type> {
        let is_it =
            |record: &&Type| record.kind == kind::STRUCT && self.is_named(record.name, name);
        self.records.iter().find(is_it).copied()
    }

    /// Offset in bytes of the field that `path` names, from the outermost field on.
    fn offset(&self, record: Type, path: &[&str]) -> Option<u32> {
        let bits = self.bits(record, path, 0)?;
        (bits % 8 == 0).then_some(bits / 8)
    }

    fn bits(&self, record: Type, path: &[&str], depth: u32) -> Option<u32> {
        let Some((name, rest)) = path.split_first() else {
            return Some(0);
        };
        let record = self.resolve(record)?;
        if depth == MAX_DEPTH || !matches!(record.kind, kind::STRUCT | kind::UNION) {
            return None;
        }
        (0..record.count).find_map(|number| {
            let (member, kind, start) = self.member(&record, number)?;
            let inner = *self.records.get(usize::try_from(kind).ok()?)?;
            let within = if self.is_named(member, name) {
                self.bits(inner, rest, depth + 1)
            } else if self.is_named(member, "") {
                // Fields of a nameless struct or union are fields of the outer one.
                self.bits(inner, path, depth + 1)
            } else {
                None
            };
            within?.checked_add(start)
        })
    }

    /// Name, type and offset in bits of a member.
    fn member(&self, record: &Type, number: u32) -> Option<(u32, u32, u32)> {
        let start = record.members + usize::try_from(number).ok()? * 12;
        let mut offset = u32_at(self.bytes, start + 8)?;
        if record.has_bit_sizes {
            offset &= 0x00ff_ffff;
        }
        Some((
            u32_at(self.bytes, start)?,
            u32_at(self.bytes, start + 4)?,
            offset,
        ))
    }

    /// What names and qualifiers stand for.
    fn resolve(&self, mut record: Type) -> Option<Type> {
        for _ in 0..MAX_DEPTH {
            match record.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    record = *self.records.get(usize::try_from(record.refers_to).ok()?)?;
                }
                _ => return Some(record),
            }
        }
        None
    }
}

/// The record at `offset`, and where the next one begins.
fn read_type(bytes: &[u8], offset: usize) -> Option<(Type, usize)> {
    let info = u32_at(bytes, offset + 4)?;
    let record = Type {
        name: u32_at(bytes, offset)?,
        kind: (info >> 24) & 0x1f,
        count: info & 0xffff,
        has_bit_sizes: info >> 31 == 1,
        refers_to: u32_at(bytes, offset + 8)?,
        members: offset + 12,
    };
    let count = usize::try_from(record.count).ok()?;
    let size = match record.kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
        kind::ENUM | kind::FUNC_PROTO => 8 * count,
        unknown if unknown > kind::LAST => return None,
        _ => 0,
    };
    Some((record, record.members + size))
}

#[cfg(test)]
mod tests {
    use super::{MAGIC, Offsets, Types};

    /// Two structs: `inner { a @0, cookie @32 }` and `sock { head: inner @64 bits, <nameless>: inner @192 }`.
    fn blob() -> Vec<u8> {
        let strings = b"\0inner\0a\0cookie\0sock\0head\0int\0";
        let mut types = Vec::new();
        let mut put = |words: &[u32]| {
            for word in words {
                types.extend_from_slice(&word.to_ne_bytes());
            }
        };
        put(&[27, 1 << 24, 4, 32]);
        put(&[1, (4 << 24) | 2, 8, 7, 1, 0, 9, 1, 32]);
        put(&[16, (4 << 24) | 2, 32, 21, 2, 64, 0, 2, 192]);
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC.to_ne_bytes());
        bytes.extend_from_slice(&[1, 0]);
        let sizes = [types.len(), strings.len()].map(|size| u32::try_from(size).unwrap());
        for word in [24, 0, sizes[0], sizes[0], sizes[1]] {
            bytes.extend_from_slice(&u32::to_ne_bytes(word));
        }
        bytes.extend_from_slice(&types);
        bytes.extend_from_slice(strings);
        bytes
    }

    #[test]
    fn a_field_is_found_through_structs_with_and_without_name() {
        let blob = blob();
        let types = Types::parse(&blob).unwrap();
        let sock = types.find_struct("sock").unwrap();
        assert_eq!(types.offset(sock, &["head", "cookie"]), Some(12));
        assert_eq!(types.offset(sock, &["cookie"]), Some(28));
        assert_eq!(types.offset(sock, &["absent"]), None);
    }

    #[test]
    fn damaged_bytes_have_no_offsets() {
        let blob = blob();
        for length in 0..blob.len() {
            assert_eq!(Offsets::parse(&blob[..length]), None);
        }
    }

    #[test]
    fn a_kernel_with_btf_has_all_offsets() {
        if std::path::Path::new(super::VMLINUX).exists() {
            let offsets = Offsets::of_kernel().expect("this kernel has these fields");
            assert!(offsets.rcvbuf > 0 && offsets.cookie > 0 && offsets.rmem_alloc > 0);
            assert!(offsets.write_pending > 0);
        }
    }
}
