//! Addresses as the kernel stores them.

/// An IP address: 16 bytes in network byte order, IPv4 as `::ffff:a.b.c.d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Address {
    /// The four words of the address, each in network byte order.
    pub words: [u32; 4],
}

const _: () = assert!(size_of::<Address>() == 16);

/// The third word of a v4-mapped address: `0000:ffff`.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Address {
    /// `::`, which is no address.
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };
    /// `127.0.0.1`.
    pub const LOOPBACK_V4: Self = Self::v4(0x7f00_0001_u32.to_be());
    /// `::1`.
    pub const LOOPBACK_V6: Self = Self {
        words: [0, 0, 0, 1_u32.to_be()],
    };

    /// An IPv4 address from its word in network byte order.
    #[must_use]
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self {
            words: [0, 0, MAPPED, word],
        }
    }

    /// Whether this is an IPv4 address.
    #[must_use]
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// Whether this is in 127.0.0.0/8 or is `::1`.
    #[must_use]
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            u32::from_be(self.words[3]) >> 24 == 127
        } else {
            self.words[0] == 0
                && self.words[1] == 0
                && self.words[2] == 0
                && self.words[3] == 1_u32.to_be()
        }
    }

    /// Whether this is 0.0.0.0 or `::`, which `connect` takes as this host.
    #[must_use]
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.words[0] == 0
            && self.words[1] == 0
            && (self.words[2] == 0 || self.words[2] == MAPPED)
            && self.words[3] == 0
    }

    /// Whether the first `prefix` bits (0 to 128, of the 16 bytes) are those of `network`.
    #[must_use]
    #[inline(always)]
    pub const fn is_in(&self, network: &Self, prefix: u8) -> bool {
        let prefix = prefix as u32;
        // Word by word: a kernel program has ten registers.
        (self.words[0] ^ network.words[0]) & mask(prefix, 0) == 0
            && (self.words[1] ^ network.words[1]) & mask(prefix, 32) == 0
            && (self.words[2] ^ network.words[2]) & mask(prefix, 64) == 0
            && (self.words[3] ^ network.words[3]) & mask(prefix, 96) == 0
    }
}

/// The mask, in network byte order, of the word that begins at bit `start` for a prefix of `prefix` bits.
#[inline(always)]
const fn mask(prefix: u32, start: u32) -> u32 {
    if prefix <= start {
        0
    } else if prefix - start >= 32 {
        u32::MAX
    } else {
        (u32::MAX << (32 - (prefix - start))).to_be()
    }
}

/// An address and a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct SocketAddress {
    /// The address.
    pub address: Address,
    /// The port, in host byte order.
    pub port: u16,
    /// Always zero.
    pub padding: u16,
}

const _: () = assert!(size_of::<SocketAddress>() == 16 + 2 + 2);

impl SocketAddress {
    /// Joins an address and a port.
    #[must_use]
    #[inline(always)]
    pub const fn new(address: Address, port: u16) -> Self {
        Self {
            address,
            port,
            padding: 0,
        }
    }
}

#[cfg(feature = "user")]
mod user {
    use std::net::{IpAddr, Ipv6Addr, SocketAddr};

    use super::{Address, SocketAddress};

    impl From<IpAddr> for Address {
        fn from(ip: IpAddr) -> Self {
            let bytes = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *word = u32::from_ne_bytes(*bytes);
            }
            Self { words }
        }
    }

    impl From<Address> for IpAddr {
        fn from(address: Address) -> Self {
            let mut bytes = [0; 16];
            for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(address.words) {
                *bytes = word.to_ne_bytes();
            }
            Self::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
    }

    impl From<SocketAddr> for SocketAddress {
        fn from(address: SocketAddr) -> Self {
            Self::new(address.ip().into(), address.port())
        }
    }

    impl From<SocketAddress> for SocketAddr {
        fn from(address: SocketAddress) -> Self {
            Self::new(address.address.into(), address.port)
        }
    }
}

#[cfg(test)]
#[cfg(feature = "user")]
mod tests {
    use std::net::IpAddr;

    use super::Address;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect("a literal address").into()
    }

    #[test]
    fn mapped_and_plain_ipv4_are_one_address() {
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
        assert_eq!(
            IpAddr::from(address("::ffff:10.0.0.1")).to_string(),
            "10.0.0.1"
        );
        assert!(address("10.0.0.1").is_v4() && !address("fd00::1").is_v4());
    }

    #[test]
    fn loopback_is_the_whole_ipv4_block_and_one_ipv6_address() {
        assert!(address("127.9.9.9").is_loopback() && address("::1").is_loopback());
        assert!(!address("128.0.0.1").is_loopback() && !address("::2").is_loopback());
        assert_eq!(address("127.0.0.1"), Address::LOOPBACK_V4);
        assert_eq!(address("::1"), Address::LOOPBACK_V6);
    }

    #[test]
    fn a_prefix_is_compared_bit_by_bit() {
        assert!(address("10.1.2.3").is_in(&address("10.1.2.0"), 96 + 24));
        assert!(!address("10.1.3.3").is_in(&address("10.1.2.0"), 96 + 24));
        assert!(address("10.1.3.3").is_in(&address("10.1.2.0"), 96 + 23));
        assert!(address("fd00::1").is_in(&Address::UNSPECIFIED, 0));
        assert!(!address("fd00::1").is_in(&address("fd00::"), 128));
    }

    #[test]
    fn unspecified_means_this_host_in_both_families() {
        assert!(address("0.0.0.0").is_unspecified() && address("::").is_unspecified());
        assert!(!address("::1").is_unspecified());
    }
}
