//! Who speaks and is spoken to in a lab: pods, nodes and everybody else, each with its network and addresses.

use std::fmt::Debug;
use std::net::IpAddr;

use anyhow::{Context, Result};

use super::echo::Server;
use super::network::Network;
use crate::kube_proxy::Family;

/// Ends by what a suite calls them.
#[derive(Debug, Default)]
pub struct Ends<E>(Vec<(E, Network, Vec<IpAddr>)>);

impl<E: Copy + PartialEq + Debug> Ends<E> {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one.
    pub fn push(&mut self, end: E, network: Network, addresses: Vec<IpAddr>) {
        self.0.push((end, network, addresses));
    }

    /// The network of one.
    ///
    /// # Panics
    /// Where it was not added: a suite knows its lab.
    #[must_use]
    pub fn network(&self, end: E) -> &Network {
        &self.of(end).1
    }

    /// All addresses of one.
    ///
    /// # Panics
    /// As [`Ends::network`].
    #[must_use]
    pub fn addresses(&self, end: E) -> &[IpAddr] {
        &self.of(end).2
    }

    /// Its address of a family.
    ///
    /// # Errors
    /// Where it has none.
    pub fn address(&self, end: E, family: Family) -> Result<IpAddr> {
        let addresses = self.addresses(end);
        let found = addresses.iter().copied().find(|address| family.has(address));
        found.with_context(|| format!("{end:?} has no {family:?} address: {addresses:?}"))
    }

    /// Every network.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.0.iter().map(|(_, network, _)| network)
    }

    /// A server at each end; they listen until they are dropped.
    ///
    /// # Errors
    /// Where one cannot listen.
    pub fn serve(&self, port: u16) -> Result<Vec<Server>> {
        self.networks().map(|network| Server::start(network, port)).collect()
    }

    fn of(&self, end: E) -> &(E, Network, Vec<IpAddr>) {
        let found = self.0.iter().find(|(known, ..)| *known == end);
        found.unwrap_or_else(|| panic!("{end:?} is no end of this lab"))
    }
}
