//! Connections of one source: counted exactly over all cores, in a table that holds nobody who has none.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustc_hash::FxBuildHasher;

/// Locks that cores contend for; a power of two.
const SHARDS: usize = 64;

/// Whom a limit takes for one and the same: a network, because whoever has an IPv6 address has a whole /64 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceNet([u8; 16]);

/// How many leading bits of an address tell sources apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    /// 0 to 32.
    pub v4: u8,
    /// 0 to 128.
    pub v6: u8,
}

impl Prefixes {
    pub fn source(self, address: IpAddr) -> SourceNet {
        let net = match address.to_canonical() {
            IpAddr::V4(it) => {
                let mask = u32::MAX.checked_shl(u32::from(32 - self.v4)).unwrap_or(0);
                // Mapped, so that no IPv6 network is taken for an IPv4 one.
                Ipv4Addr::from(it.to_bits() & mask).to_ipv6_mapped()
            }
            IpAddr::V6(it) => {
                let mask = u128::MAX.checked_shl(u32::from(128 - self.v6)).unwrap_or(0);
                Ipv6Addr::from(it.to_bits() & mask)
            }
        };
        SourceNet(net.octets())
    }
}

impl SourceNet {
    /// The bytes by which a rate limit knows it.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// How many connections each source has. It holds at most one entry per connection, so that the limit on all connections
/// bounds it.
#[derive(Debug)]
pub struct Sources {
    shards: [Mutex<HashMap<SourceNet, u32, FxBuildHasher>>; SHARDS],
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl Sources {
    /// Counts one more connection, unless the source has `connections_max` already.
    pub fn begin(&self, source: SourceNet, connections_max: u32) -> bool {
        let mut counts = self.shard(source);
        let count = counts.entry(source).or_insert(0);
        let is_allowed = *count < connections_max;
        if is_allowed {
            *count += 1;
        }
        is_allowed
    }

    /// One that was counted has ended.
    pub fn end(&self, source: SourceNet) {
        let mut counts = self.shard(source);
        let count = counts
            .get_mut(&source)
            .expect("a connection must begin before it ends");
        *count -= 1;
        if *count == 0 {
            counts.remove(&source);
        }
    }

    /// How many sources have connections.
    pub fn len(&self) -> usize {
        let len = |it: &Mutex<HashMap<_, _, _>>| lock(it).len();
        self.shards.iter().map(len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, source: SourceNet) -> MutexGuard<'_, HashMap<SourceNet, u32, FxBuildHasher>> {
        // Fibonacci hashing of both halves: neighbouring networks land in different shards.
        let bits = u128::from_be_bytes(source.0);
        let folded = (bits as u64) ^ ((bits >> 64) as u64);
        let spread = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        lock(&self.shards[spread as usize % SHARDS])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PREFIXES: Prefixes = Prefixes { v4: 32, v6: 64 };

    #[test]
    fn an_ipv6_network_is_one_source() {
        check("2001:db8::1", "2001:db8::ffff:1", true);
        check("2001:db8::1", "2001:db8:0:1::1", false);
        check("192.0.2.1", "192.0.2.1", true);
        check("192.0.2.1", "192.0.2.2", false);
        check("192.0.2.1", "::ffff:192.0.2.1", true);
    }

    #[test]
    fn prefixes_may_be_anything_that_fits() {
        let all = Prefixes { v4: 0, v6: 0 };
        assert_eq!(all.source(ip("1.2.3.4")), all.source(ip("9.9.9.9")));
        assert_eq!(all.source(ip("::1")), all.source(ip("ffff::1")));
        let exact = Prefixes { v4: 24, v6: 128 };
        assert_eq!(exact.source(ip("1.2.3.4")), exact.source(ip("1.2.3.9")));
        assert_ne!(exact.source(ip("::1")), exact.source(ip("::2")));
    }

    #[test]
    fn a_source_at_its_limit_gets_no_more_and_others_do() {
        let sources = Sources::default();
        let (one, other) = (source("192.0.2.1"), source("192.0.2.2"));
        assert!(sources.begin(one, 2) && sources.begin(one, 2) && !sources.begin(one, 2));
        assert!(sources.begin(other, 2));
        sources.end(one);
        assert!(sources.begin(one, 2));
    }

    proptest! {
        #[test]
        fn who_has_no_connection_takes_no_room(ends in prop::collection::vec((0u8..5, any::<bool>()), 0..200)) {
            let sources = Sources::default();
            let mut model = [0u32; 5];
            for (n, begins) in ends {
                let source = PREFIXES.source([192, 0, 2, n].into());
                let count = &mut model[usize::from(n)];
                if begins {
                    prop_assert_eq!(sources.begin(source, 3), *count < 3);
                    *count = (*count + 1).min(3);
                } else if *count > 0 {
                    sources.end(source);
                    *count -= 1;
                }
            }
            prop_assert_eq!(sources.len(), model.iter().filter(|it| **it > 0).count());
        }
    }

    fn check(a: &str, b: &str, same: bool) {
        assert_eq!(source(a) == source(b), same, "{a} and {b}");
    }

    fn source(address: &str) -> SourceNet {
        PREFIXES.source(ip(address))
    }

    fn ip(address: &str) -> IpAddr {
        address.parse().expect("an address")
    }
}
