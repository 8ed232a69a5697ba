//! Hashes that are the same on every node and after every start: XXH3, 64 bits, without a secret.

use std::net::SocketAddr;

use twox_hash::XxHash3_64;

/// Hash of some bytes.
#[must_use]
pub fn of(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// One of many independent hashes of the same bytes.
#[must_use]
pub fn seeded(seed: u64, bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(seed, bytes)
}

/// What an endpoint is known by: its address and port, and nothing that a registry could number differently.
#[must_use]
pub fn identity(address: SocketAddr) -> u64 {
    let mut bytes = [0; 18];
    let (head, tail) = bytes.split_at_mut(16);
    let ip = match address.ip() {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        std::net::IpAddr::V6(v6) => v6,
    };
    head.copy_from_slice(&ip.octets());
    tail.copy_from_slice(&address.port().to_be_bytes());
    of(&bytes)
}

/// Spreads the bits of a number: the finalizer of `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", OOPSLA 2014).
#[must_use]
pub const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Numbers that follow from one random number, or from a hash: `SplitMix64`.
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The numbers that follow from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `limit`; zero if that is zero.
    pub const fn below(&mut self, limit: u64) -> u64 {
        scale(self.roll(), limit)
    }
}

/// Moves a number of the whole range into the one below `limit`, without dividing (Lemire, "Fast random integer
/// generation in an interval", 2019).
#[must_use]
pub const fn scale(number: u64, limit: u64) -> u64 {
    let wide = (number as u128) * (limit as u128);
    // The upper half is below `limit`.
    (wide >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_do_not_change_between_releases() {
        // Other agents, and cookies that clients keep, depend on them.
        assert_eq!(of(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(
            identity("10.0.0.1:80".parse().unwrap()),
            identity("[::ffff:10.0.0.1]:80".parse().unwrap())
        );
        assert_ne!(
            identity("10.0.0.1:80".parse().unwrap()),
            identity("10.0.0.1:81".parse().unwrap())
        );
    }

    #[test]
    fn dice_are_fair_and_stay_below_the_limit() {
        let mut dice = Dice::new(7);
        let mut counts = [0_u32; 10];
        for _ in 0..100_000 {
            counts[usize::try_from(dice.below(10)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)));
        assert_eq!(dice.below(0), 0);
    }
}
