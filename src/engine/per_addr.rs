//! The number of connections of each address, for `connections_per_addr_max`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Capacity up to which the table never shrinks.
const CAPACITY_MIN: usize = 1024;

/// The number of connections of each address. An address without connections has no entry, so the
/// table is never longer than the number of connections.
#[derive(Debug, Default)]
pub(super) struct PerAddr {
    counts: HashMap<IpAddr, usize>,
}

impl PerAddr {
    /// Counts one more connection of `addr`. Returns false and counts nothing if the address
    /// already has `max` connections.
    pub(super) fn enter(&mut self, addr: IpAddr, max: usize) -> bool {
        let count = self.counts.entry(owner(addr)).or_default();
        let is_admitted = *count < max;
        *count += usize::from(is_admitted);
        is_admitted
    }

    /// Counts one connection of `addr` less. Removes the entry if the address has no connections
    /// left.
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

/// Returns the address under which a peer is counted. An IPv4-mapped IPv6 address counts as IPv4.
/// An IPv6 address counts as its /64 network, because a host may choose any address of its network
/// (RFC 4291, 2.5.4).
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
        text.parse().expect("the text is an address")
    }

    #[test]
    fn per_addr_counts_each_address_and_drops_empty_counts() {
        let mut addrs = PerAddr::default();
        for _ in 0..2 {
            assert!(addrs.enter(addr("192.0.2.1"), 2));
        }
        assert!(!addrs.enter(addr("192.0.2.1"), 2));
        assert!(
            !addrs.enter(addr("::ffff:192.0.2.1"), 2),
            "a mapped address counts as IPv4"
        );
        assert!(addrs.enter(addr("192.0.2.2"), 2));
        addrs.leave(addr("::ffff:192.0.2.1"));
        assert!(addrs.enter(addr("192.0.2.1"), 2));
        assert!(
            !addrs.enter(addr("192.0.2.1"), 2),
            "the other connection is still counted"
        );
        for left in ["192.0.2.1", "192.0.2.1", "192.0.2.2"] {
            addrs.leave(addr(left));
        }
        assert!(addrs.counts.is_empty());
    }

    #[test]
    fn per_addr_counts_an_ipv6_network_as_one_address() {
        let mut addrs = PerAddr::default();
        assert!(addrs.enter(addr("2001:db8:1:2::1"), 1));
        assert!(!addrs.enter(addr("2001:db8:1:2:ffff::"), 1));
        assert!(addrs.enter(addr("2001:db8:1:3::1"), 1));
    }

    #[test]
    fn per_addr_table_shrinks_after_many_addresses_left() {
        let mut addrs = PerAddr::default();
        let addrs_of_burst = || (0..100_000_u32).map(|bits| IpAddr::from(bits.to_be_bytes()));
        addrs_of_burst().for_each(|addr| assert!(addrs.enter(addr, 1)));
        addrs_of_burst().for_each(|addr| addrs.leave(addr));
        assert!(addrs.counts.capacity() <= 2 * CAPACITY_MIN);
    }
}
