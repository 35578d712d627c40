//! Many connections at once.

use super::brokers::Target;
use super::wire;
use bulkhead_policy::TenantId;
use std::net::{Ipv4Addr, TcpStream};

/// Threads that connect.
const CONNECTORS: usize = 4;

/// Connects clients of a tenant, each with a name of its own.
pub fn connect(target: Target<'_>, tenant: &TenantId, clients: &[String]) -> Vec<TcpStream> {
    connect_all(clients, |client, source| {
        let hello = target.hello(tenant, client);
        wire::connect_from(source, target.address, &hello).unwrap()
    })
}

/// Makes something of each, in order, on several threads with an address each: the ports of one
/// would run short.
pub fn connect_all<T: Sync, R: Send>(
    items: &[T],
    connect: impl Fn(&T, Ipv4Addr) -> R + Sync,
) -> Vec<R> {
    let connect = &connect;
    std::thread::scope(|scope| {
        let share = items.len().div_ceil(CONNECTORS).max(1);
        let connectors: Vec<_> = items
            .chunks(share)
            .zip(2..)
            .map(|(own, last)| {
                let source = Ipv4Addr::new(127, 0, 0, last);
                scope.spawn(move || -> Vec<_> {
                    own.iter().map(|item| connect(item, source)).collect()
                })
            })
            .collect();
        connectors.into_iter().flat_map(|connector| connector.join().unwrap()).collect()
    })
}
