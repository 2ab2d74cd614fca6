//! The number of connections of each address, for `connections_per_addr_max`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// The table shrinks only from this capacity on.
const CAPACITY_MIN: usize = 1024;

/// Counts by address. Addresses without connections have no entry, so the table is never longer
/// than the number of connections.
#[derive(Debug, Default)]
pub(super) struct PerAddr {
    counts: HashMap<IpAddr, usize>,
}

impl PerAddr {
    /// Counts one more connection; returns false, and counts nothing, if the address has `max`.
    pub(super) fn enter(&mut self, addr: IpAddr, max: usize) -> bool {
        let count = self.counts.entry(owner(addr)).or_default();
        let is_admitted = *count < max;
        *count += usize::from(is_admitted);
        is_admitted
    }

    /// Counts one connection less.
    pub(super) fn leave(&mut self, addr: IpAddr) {
        let addr = owner(addr);
        let Some(count) = self.counts.get_mut(&addr) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&addr);
            let (len, capacity) = (self.counts.len(), self.counts.capacity());
            if capacity > CAPACITY_MIN && len < capacity / 8 {
                self.counts.shrink_to(2 * len);
            }
        }
    }
}

/// The address under which a peer is counted. An IPv4-mapped IPv6 address counts as IPv4. IPv6
/// addresses count by their /64, because one host may choose its address within it (RFC 4291,
/// 2.5.4).
fn owner(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V4(addr) => addr.into(),
        IpAddr::V6(addr) => {
            let [a, b, c, d, ..] = addr.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn each_address_is_counted_by_itself_and_forgotten_with_its_last_connection() {
        let mut addrs = PerAddr::default();
        for _ in 0..2 {
            assert!(addrs.enter(addr("192.0.2.1"), 2));
        }
        assert!(!addrs.enter(addr("192.0.2.1"), 2));
        assert!(!addrs.enter(addr("::ffff:192.0.2.1"), 2), "it is the same");
        assert!(addrs.enter(addr("192.0.2.2"), 2));
        addrs.leave(addr("::ffff:192.0.2.1"));
        assert!(addrs.enter(addr("192.0.2.1"), 2));
        assert!(!addrs.enter(addr("192.0.2.1"), 2), "the other has not left");
        for left in ["192.0.2.1", "192.0.2.1", "192.0.2.2"] {
            addrs.leave(addr(left));
        }
        assert!(addrs.counts.is_empty());
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_count_as_one() {
        let mut addrs = PerAddr::default();
        assert!(addrs.enter(addr("2001:db8:1:2::1"), 1));
        assert!(!addrs.enter(addr("2001:db8:1:2:ffff::"), 1));
        assert!(addrs.enter(addr("2001:db8:1:3::1"), 1));
    }

    #[test]
    fn the_table_shrinks_when_a_crowd_has_left() {
        let mut addrs = PerAddr::default();
        let crowd = || (0..100_000_u32).map(|bits| IpAddr::from(bits.to_be_bytes()));
        crowd().for_each(|addr| assert!(addrs.enter(addr, 1)));
        crowd().for_each(|addr| addrs.leave(addr));
        assert!(addrs.counts.capacity() <= 2 * CAPACITY_MIN);
    }
}
