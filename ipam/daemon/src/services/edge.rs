//! What serving Services does to the kernel, behind one trait, so that a test can stand in its place.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ::services::{Container, Fronts, Ruleset, TABLE};
use datapath::fast_path::{FastPath, FastPathError};
use datapath::netlink::NetlinkError;
use datapath::{RulesError, service_tables, udp_flows};

use super::seen::{FAMILIES, Seen};

/// What the kernel is asked for.
pub(crate) trait Edge {
    /// Runs a script, as one transaction.
    fn run(&mut self, script: &str) -> Result<(), RulesError>;

    /// The number of all rules; every change makes it another.
    fn generation(&mut self) -> Result<Option<u32>, NetlinkError>;

    /// What it has of our tables; clients that stay with an endpoint of `wanted` where they are asked for.
    fn read(&mut self, wanted: Option<&Ruleset>) -> Result<Seen, NetlinkError>;

    /// Forgets at most so many flows of UDP of each kind, the stack's and the programs'; how many it were of the one with more.
    fn forget(&mut self, most: usize, is_stale: &dyn Fn(SocketAddr, SocketAddr) -> bool) -> io::Result<usize>;

    /// Has the kernel programs translate to these; to how many they do.
    fn translate(&mut self, fronts: &Fronts) -> Result<usize, FastPathError>;
}

/// The running kernel, with the programs where they are in use.
pub(crate) struct Kernel(pub(crate) Option<Arc<FastPath>>);

impl Edge for Kernel {
    fn run(&mut self, script: &str) -> Result<(), RulesError> {
        service_tables::run(script)
    }

    fn generation(&mut self) -> Result<Option<u32>, NetlinkError> {
        service_tables::generation()
    }

    fn read(&mut self, wanted: Option<&Ruleset>) -> Result<Seen, NetlinkError> {
        let mut seen = Seen::default();
        for (family, of_kernel) in FAMILIES {
            let is_wanted = |set: &str| {
                let of_clients = || wanted.is_some_and(|wanted| wanted.affinity.contains(&(family, set.to_owned())));
                Container::ALL.iter().any(|container| container.name() == set) || of_clients()
            };
            if let Some(form) = service_tables::read(of_kernel, TABLE, is_wanted)? {
                seen.add(family, form);
            }
        }
        Ok(seen)
    }

    fn forget(&mut self, most: usize, is_stale: &dyn Fn(SocketAddr, SocketAddr) -> bool) -> io::Result<usize> {
        let of_programs = self.0.as_ref().map(|programs| programs.forget_translations(most, is_stale)).transpose();
        let of_programs = of_programs.map_err(io::Error::other)?.unwrap_or_default();
        Ok(of_programs.max(udp_flows::forget(most, is_stale)?))
    }

    fn translate(&mut self, fronts: &Fronts) -> Result<usize, FastPathError> {
        self.0.as_ref().map_or(Ok(0), |programs| programs.serve(fronts))
    }
}
