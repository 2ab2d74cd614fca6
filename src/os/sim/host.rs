//! Hosts of a simulated world: their IP addresses, and the addresses that sockets are bound to.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::faults::HostFaults;
use super::socket::Kind;
use super::world::{State, World};
use crate::addr::Addr;

/// Index of the host that every world has. Its sockets can be bound to any IP address that was not
/// removed. If this host sends a packet to an address that no host has, the packet returns to this
/// host.
pub(super) const FIRST_HOST: usize = 0;
/// First port that is chosen for a socket without a port (RFC 6335, section 6).
const EPHEMERAL_PORT_MIN: u16 = 49_152;

/// A computer of the simulated network.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) ips: Vec<IpAddr>,
    pub(super) faults: HostFaults,
    /// Last port that was chosen for a socket without a port.
    last_port: Option<u16>,
}

/// A class of sockets. Two sockets of one host and class cannot be bound to one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Class {
    Streams,
    Listeners,
    Datagrams,
}

/// The host, the class and the address that one socket is bound to. Unix addresses belong to the
/// first host, because all hosts share them.
pub(super) type Binding = (usize, Class, Addr);

impl World {
    /// Adds a host with an IP address, and returns its index.
    pub(crate) fn add_host(self, ip: IpAddr) -> usize {
        self.with(|state| {
            let ips = vec![ip];
            state.hosts.push(Host {
                ips,
                ..Host::default()
            });
            state.hosts.len() - 1
        })
    }

    /// Returns the host that has this IP address.
    pub(crate) fn host_with(self, ip: IpAddr) -> Option<usize> {
        self.with(|state| state.host_with(ip))
    }
}

impl State {
    fn host_with(&self, ip: IpAddr) -> Option<usize> {
        self.hosts.iter().position(|host| host.ips.contains(&ip))
    }

    /// Returns the host that receives packets from the host `from` to this IP address. If no host
    /// has the address, the packets of the first host return to the first host. For packets of
    /// another host, the result is then `None`.
    pub(super) fn route(&self, from: usize, ip: IpAddr) -> Option<usize> {
        if ip.is_loopback() || ip.is_unspecified() {
            return Some(from);
        }
        let owner = self.host_with(ip);
        owner.or_else(|| (from == FIRST_HOST).then_some(FIRST_HOST))
    }

    /// Returns the source address of packets from a host to `to`.
    pub(super) fn source_for(&self, host: usize, to: SocketAddr) -> io::Result<IpAddr> {
        let ips = &self.hosts[host].ips;
        let is_own = to.ip().is_loopback() || host == FIRST_HOST || ips.contains(&to.ip());
        let is_of_family = |ip: &&IpAddr| ip.is_ipv4() == to.is_ipv4();
        match is_own {
            true => Ok(to.ip()),
            false => {
                let source = ips.iter().find(is_of_family);
                source
                    .copied()
                    .ok_or_else(|| ErrorKind::NetworkUnreachable.into())
            }
        }
    }

    /// Returns the open socket of a class that receives packets from the host `from` to `addr`. A
    /// socket that is bound to the wildcard address receives packets to every address of its host.
    pub(super) fn bound(&self, from: usize, addr: &Addr, class: Class) -> Option<usize> {
        let inet = match addr {
            Addr::Inet(inet) => inet,
            #[cfg(unix)]
            Addr::Unix(_) => {
                let key = (FIRST_HOST, class, addr.clone());
                return self.bindings.get(&key).copied();
            }
        };
        let host = self.route(from, inet.ip())?;
        let at = |addr: SocketAddr| self.bindings.get(&(host, class, addr.into())).copied();
        let wildcard = |ip: IpAddr| at((ip, inet.port()).into());
        at(*inet)
            .or_else(|| wildcard(Ipv4Addr::UNSPECIFIED.into()))
            .or_else(|| wildcard(Ipv6Addr::UNSPECIFIED.into()))
    }

    /// Binds a new socket of a host. Chooses a port if the address has none, and checks that the
    /// host has the address and that the address is free.
    pub(super) fn bind(
        &mut self,
        host: usize,
        addr: &Addr,
        class: Class,
        kind: Kind,
    ) -> io::Result<u32> {
        let mut addr = addr.clone();
        match &mut addr {
            Addr::Inet(inet) if !self.has_ip(host, inet.ip()) => {
                return Err(ErrorKind::AddrNotAvailable.into());
            }
            Addr::Inet(inet) if inet.port() == 0 => {
                inet.set_port(self.free_port(host, inet.ip())?);
            }
            _ => {}
        }
        #[cfg(unix)]
        let is_unnamed = matches!(&addr, Addr::Unix(name) if name.is_unnamed());
        #[cfg(not(unix))]
        let is_unnamed = false;
        if is_unnamed {
            return Ok(self.add(host, addr, kind));
        }
        let owner = match &addr {
            Addr::Inet(_) => host,
            #[cfg(unix)]
            Addr::Unix(_) => FIRST_HOST,
        };
        if self.bound(owner, &addr, class).is_some() {
            return Err(ErrorKind::AddrInUse.into());
        }
        let index = self.add(host, addr.clone(), kind);
        self.bindings.insert((owner, class, addr), index as usize);
        Ok(index)
    }

    fn has_ip(&self, host: usize, ip: IpAddr) -> bool {
        let is_local = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
        let has_ip = host == FIRST_HOST || self.hosts[host].ips.contains(&ip);
        (is_local || has_ip) && !self.absent.contains(&ip)
    }

    /// Frees the address of a closed socket.
    pub(super) fn unbind(&mut self, index: usize) {
        let socket = &self.sockets[index];
        let class = match socket.kind {
            Kind::Stream(_) => Class::Streams,
            Kind::Listener(_) => Class::Listeners,
            Kind::Datagrams(_) => Class::Datagrams,
        };
        let owner = match &socket.local {
            Addr::Inet(_) => socket.host,
            #[cfg(unix)]
            Addr::Unix(_) => FIRST_HOST,
        };
        let binding = (owner, class, socket.local.clone());
        if self.bindings.get(&binding) == Some(&index) {
            self.bindings.remove(&binding);
        }
    }

    /// Chooses a port that no socket of the host uses with this IP address.
    fn free_port(&mut self, host: usize, ip: IpAddr) -> io::Result<u16> {
        for _ in EPHEMERAL_PORT_MIN..=u16::MAX {
            let next = self.hosts[host]
                .last_port
                .and_then(|port| port.checked_add(1));
            let port = next.unwrap_or(EPHEMERAL_PORT_MIN);
            self.hosts[host].last_port = Some(port);
            let addr = Addr::Inet((ip, port).into());
            let classes = [Class::Streams, Class::Listeners, Class::Datagrams];
            if classes
                .iter()
                .all(|class| self.bound(host, &addr, *class).is_none())
            {
                return Ok(port);
            }
        }
        Err(ErrorKind::AddrInUse.into())
    }
}
