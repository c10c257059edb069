//! A service that barewired serves, and others beside it, told by the file of what the fleet has told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;
use fleet_api::message::{Endpoint, FromFleet, FromNode, Protocol, Service, ServicePort, SliceHead, SlicePort};
use fleet_api::{Change, Decoder, EndpointsKey, FRAME_MAX, Kind, Limits, NodeState, Replica, Session, decode};

use super::rules;

/// Addresses of services.
pub const CIDR: &str = "10.96.0.0/16";
/// The service's.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 200, 1);
/// Its port, and its endpoint's.
pub const PORT: u16 = 7_777;

/// The first address of a node's range that a pod gets.
pub fn endpoint_of(range: Ipv4Addr) -> IpAddr {
    range.into()
}

/// What has a daemon serve the service and the others, with the first pod of `range` behind it: sections of its configuration, and the file that they
/// name.
///
/// # Errors
/// When the file cannot be written.
pub fn of_daemon(folder: &Path, range: Ipv4Addr, others: u32) -> Result<String> {
    let mut replica = Replica::new("bench", Vec::new(), Limits::default());
    let (mut services, mut endpoints) = (fleet_api::Table::default(), fleet_api::Table::default());
    let mut all = vec![(SERVICE, PORT, vec![SocketAddr::new(endpoint_of(range), PORT)])];
    for service in rules::services(others)? {
        let Some(IpAddr::V4(address)) = service.addresses.first().copied() else { continue };
        all.push((address, service.port, service.backends.iter().map(|backend| backend.target).collect()));
    }
    for (number, (address, port, targets)) in (0_u128..).zip(all) {
        let (name, uid) = (format!("bench/service-{number}"), number.to_be_bytes());
        let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
        let ports = protocols.map(|(name, protocol)| ServicePort {
            name: name.to_owned(),
            protocol: protocol.into(),
            port: port.into(),
            ..ServicePort::default()
        });
        let service = Service { cluster_ips: vec![address.octets().to_vec()], ports: ports.to_vec(), ..Service::default() };
        services.apply(Change::put(name.clone(), &service));
        let target = targets.first().map_or(port, SocketAddr::port);
        let ports = protocols.map(|(name, protocol)| SlicePort { name: name.to_owned(), protocol: protocol.into(), port: target.into() });
        endpoints.apply(Change::put(EndpointsKey::Slice(uid).encode(), &SliceHead { service: name, ports: ports.to_vec() }));
        for target in targets {
            let endpoint = Endpoint { ready: true, serving: true, node: "another".to_owned(), ..Endpoint::default() };
            endpoints.apply(Change::put(EndpointsKey::Endpoint(uid, target.ip()).encode(), &endpoint));
        }
    }
    replica.log_mut(Kind::Services).replace(1, services);
    replica.log_mut(Kind::Endpoints).replace(1, endpoints);
    let file = folder.join("fleet-state");
    fleet_client::last::save(&file, &heard(&mut replica)?)?;
    // Nobody is at that address: what is known is what the file has.
    Ok(format!(
        "[fleet]\nreplicas = [\"192.0.2.1:7443\"]\nauthority = {:?}\ncertificate = {:?}\nstate_file = {file:?}\n[services]\nmode = \"on\"\n",
        folder.join("none.crt"),
        folder.join("none.pem"),
    ))
}

/// What a node knows that has heard all of it.
fn heard(replica: &mut Replica) -> Result<NodeState> {
    let mut state = NodeState::default();
    let hello = FromNode::Hello(state.hello("bench", "bench"));
    let (mut session, welcome) = Session::open(Some(hello), "bench", replica).map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
    let mut decoder = Decoder::new(FRAME_MAX);
    decoder.push(&welcome);
    loop {
        while let Some(frame) = decoder.next_frame()? {
            state.hear(decode::<FromFleet>(&frame)?.message).map_err(|fault| anyhow::anyhow!("{fault:?}"))?;
        }
        let frames = session.next(replica, usize::MAX);
        if frames.is_empty() {
            return Ok(state);
        }
        frames.iter().for_each(|frame| decoder.push(frame));
    }
}
