//! Round trip and throughput to a few other nodes of the same pool, before the first pod (ADR 43). With whom, and who may measure with this node, the
//! fleet says. What is slow to one of them alone may be that one's fault; what is slow to all is this node's.

mod client;
mod request;
mod server;

use std::net::SocketAddr;

use fleet_api::message::{Measured, Order, Peers};

use crate::health_check::Verdict;
pub(super) use server::keep_being_measured;

use crate::config::Expected;

impl Expected {
    /// What is wrong with one measurement.
    fn fault(&self, of: &Measured) -> Option<String> {
        let slow = |what: &str, mbit: u64| {
            let least = self.least_mbit.filter(|least| mbit < *least)?;
            Some(format!("{what} {mbit} Mbit/s, at least {least} are expected"))
        };
        let late = || {
            let most = self.round_trip.map(|most| u64::try_from(most.as_micros()).unwrap_or(u64::MAX));
            let most = most.filter(|most| of.round_trip_micros > *most)?;
            Some(format!("there and back takes {} us, at most {most} are expected", of.round_trip_micros))
        };
        slow("receives", of.received_mbit).or_else(|| slow("sends", of.sent_mbit)).or_else(late)
    }
}

/// Measures with each, one after the other: what is found, and what it means.
pub(super) fn measure(order: &Order, port: u16, expected: &Expected) -> (Verdict, Vec<Measured>) {
    let (mut measured, mut unknown) = (Vec::new(), Vec::new());
    for peer in &order.with {
        let outcome = match Peers::addresses(&peer.addresses).next() {
            Some(address) => client::measure(SocketAddr::new(address, port)).map_err(|error| error.to_string()),
            None => Err("it has no address".to_owned()),
        };
        match outcome {
            Ok(found) => measured.push(Measured { peer: peer.name.clone(), ..found }),
            Err(why) => unknown.push(format!("{}: {why}", peer.name)),
        }
    }
    (judge(&measured, &unknown, expected), measured)
}

fn judge(measured: &[Measured], unknown: &[String], expected: &Expected) -> Verdict {
    let faults: Vec<_> = measured.iter().filter_map(|of| Some(format!("{}: {}", of.peer, expected.fault(of)?))).collect();
    match (measured.len(), faults.len()) {
        (0, _) if !unknown.is_empty() => Verdict::Unknown(unknown.join("; ")),
        (all, bad) if all > 0 && bad == all => Verdict::Failed(faults.join("; ")),
        _ => Verdict::Ok,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use std::net::{IpAddr, Ipv4Addr, TcpListener};
    use std::sync::Arc;

    use fleet_api::message::Peer;

    use super::*;

    #[test]
    fn slow_to_all_is_this_nodes_fault_and_slow_to_one_is_not() {
        let of = |peer: &str, mbit| Measured { peer: peer.to_owned(), round_trip_micros: 50, received_mbit: mbit, sent_mbit: 10_000 };
        let expected = Expected { least_mbit: Some(5_000), round_trip: Some(Duration::from_micros(100)) };
        let judge = |measured: &[Measured], unknown: &[String]| judge(measured, unknown, &expected);
        assert_eq!(judge(&[], &[]), Verdict::Ok, "there is nobody to measure with");
        assert_eq!(judge(&[of("b", 9_000), of("c", 400)], &[]), Verdict::Ok);
        let said = Verdict::Failed("c: receives 400 Mbit/s, at least 5000 are expected".to_owned());
        assert_eq!(judge(&[of("c", 400)], &["b: refused".to_owned()]), said);
        assert_eq!(judge(&[], &["b: refused".to_owned()]), Verdict::Unknown("b: refused".to_owned()));
        let late = Measured { round_trip_micros: 101, ..of("b", 9_000) };
        assert_eq!(judge(&[late], &[]), Verdict::Failed("b: there and back takes 101 us, at most 100 are expected".to_owned()));
        let slow = super::judge(&[of("c", 1)], &[], &Expected::default());
        assert_eq!(slow, Verdict::Ok, "nothing is expected");
    }

    #[test]
    fn a_node_that_was_told_measures_and_another_does_not() {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let local = IpAddr::from(Ipv4Addr::LOCALHOST);
        let told = |by: &[IpAddr]| {
            let order = Order { measured_by: by.iter().copied().map(Peers::bytes).collect(), ..Order::default() };
            Arc::new(move || fleet_api::Preflight::Told(order.clone()))
        };
        let with = Peer { name: "b".to_owned(), addresses: vec![Peers::bytes(local)] };
        let order = Order { with: vec![with], ..Order::default() };
        let listens = keep_being_measured(told(&[local]), port).unwrap();
        let (verdict, measured) = measure(&order, port, &Expected::default());
        assert_eq!((verdict, measured.len()), (Verdict::Ok, 1));
        let Measured { peer, round_trip_micros, received_mbit, sent_mbit } = &measured[0];
        assert!(peer == "b" && (1..1_000_000).contains(round_trip_micros) && *received_mbit > 10 && *sent_mbit > 10, "{measured:?}");
        drop(listens);
        let listens = keep_being_measured(told(&[[10, 9, 9, 9].into()]), port).unwrap();
        let refused = client::once(SocketAddr::new(local, port), Duration::from_secs(5));
        assert!(refused.is_err(), "{refused:?}");
        drop(listens);
        let closed = keep_being_measured(told(&[]), port).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok(), "nobody listens where nobody measures");
        drop(closed);
    }
}
