//! What an ADD holds before it is durable: addresses, an interface number, the link and what the kernel's programs know of it.
//!
//! One guard for all of it. Dropping it undoes exactly what was done, in reverse, whatever the ADD failed of (invariant I3).

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use cni_spec::{Code, Error};
use datapath::{Ifindex, PodLink, WiringError, host_ifname};
use ipam_pool::range::Family;
use ipam_state::record::{AttachmentKey, RECORD_FORMAT, Record};
use node_api::{AddRequest, BootMillis};

use super::demand::pod_of;
use super::{Attachments, State};
use crate::allowed;
use crate::cni_errors;
use crate::kernel::Kernel;
use crate::limits::{self, Asked};

/// How long an ADD waits for removals that hold the name it needs. They take some 30 ms.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// A host end's number can be taken by somebody else's link; each try takes another number.
const NUMBER_ATTEMPTS: u32 = 8;
/// ADDs that wait for addresses at a time, each on a thread of its own: as many as a kubelet runs pods where its operator has raised
/// `maxPods` as far as is done (110 by default).
const WAITING_MAX: u64 = 256;

/// How far an ADD has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has its addresses; nobody has seen them.
    Addressed,
    /// A link was tried and is gone again: the pod may have sent packets, so the addresses cool down.
    Tried,
    /// A link of this number is there, or may be.
    Linked(Ifindex),
    /// All of it belongs to a record.
    Kept,
}

/// What an ADD holds, until it is kept.
pub(super) struct Reservation<'a, K: Kernel> {
    attachments: &'a Attachments<K>,
    key: AttachmentKey,
    addresses: Vec<IpAddr>,
    /// What it may use beside these.
    allowed: Vec<IpAddr>,
    mtu: u32,
    mac: [u8; 6],
    /// The pod's namespace in Kubernetes.
    namespace: String,
    asked: Asked,
    /// When it got its addresses.
    at: BootMillis,
    stage: Stage,
}

impl<K: Kernel> Attachments<K> {
    /// Takes addresses for an attachment. Where the pool has none, and somebody is about to get more, it waits: at most [`WAITING_MAX`] do
    /// that, and whoever serves is told, so that DELs are served meanwhile, which free addresses. Who waits is served in the order of
    /// coming: an address belongs to the first who waits, not to the first who looks.
    pub(super) fn reserve(&self, request: &AddRequest, key: AttachmentKey, now: BootMillis) -> Result<Reservation<'_, K>, Error> {
        // Before an address is taken that would have to be given back.
        let asked = limits::judge(request.bandwidth, request.internet_egress.as_deref())?;
        let beside = allowed::read(request.allowed_addresses.as_deref())?;
        let (at, taken) = self.take_addresses(&key, request, now);
        let (addresses, mtu) = taken?;
        let mac = request.mac.unwrap_or_else(|| mac_for(&key));
        let namespace = request.pod.namespace.clone();
        let allowed = Vec::new();
        let mut reservation =
            Reservation { attachments: self, key, addresses, allowed, mtu, mac, namespace, asked, at, stage: Stage::Addressed };
        let Reservation { key, namespace, allowed, .. } = &mut reservation;
        self.state().take_beside(key, namespace, &beside, allowed)?;
        Ok(reservation)
    }

    /// Addresses and MTU, and what time it is then.
    fn take_addresses(
        &self,
        key: &AttachmentKey,
        request: &AddRequest,
        now: BootMillis,
    ) -> (BootMillis, Result<(Vec<IpAddr>, u32), Error>) {
        let wanted = &request.ips;
        let mut state = self.state();
        let Some(patience) = state.patience else { return (now, state.take_addresses(key, wanted, now)) };
        let pod = pod_of(&request.pod, request.container_id.as_str());
        let begun = Instant::now();
        let clock = || now.plus(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
        if state.pool.pods_served(now) <= state.demand.waiting() && state.demand.waiting() < WAITING_MAX && !patience.is_zero() {
            let turn = state.demand.begin(&pod);
            // Whoever is woken would wait for the lock.
            drop(state);
            self.call_relief();
            self.shortage.notify_one();
            state = self.state();
            let mut is_served = false;
            while let Some(left) = patience.checked_sub(begun.elapsed())
                && !state.draining
            {
                is_served = state.demand.ahead(turn) < state.pool.pods_served(clock());
                if is_served {
                    break;
                }
                // What cools down is free again without anybody's saying so.
                let cooled = state.pool.next_cooled(clock()).map(Duration::from_millis);
                let left = cooled.map_or(left, |cooled| cooled.min(left)).max(Duration::from_millis(1));
                state = self.pool_changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            state.demand.end(turn);
            if !is_served {
                // Who is behind has come forward.
                self.pool_changed.notify_all();
            }
        }
        // Under the lock still: nobody else takes what was waited for.
        let now = clock();
        let reserved = state.take_addresses(key, wanted, now);
        if reserved.is_ok() {
            state.demand.served(&pod);
        } else if state.pool.lacking(now).is_some() {
            state.demand.refused(pod, now);
            drop(state);
            self.shortage.notify_one();
        }
        (now, reserved)
    }
}

impl<K: Kernel> Reservation<'_, K> {
    /// Makes the pod's link.
    pub(super) fn wire(&mut self, netns: &K::Netns) -> Result<(), Error> {
        let Attachments { kernel, numbers, .. } = self.attachments;
        let mut flushed = false;
        for _ in 0..NUMBER_ATTEMPTS {
            let Some(number) = numbers.take(&self.key) else {
                return Err(Error::new(Code::TryAgainLater, "every interface number for pods is taken; try again later"));
            };
            self.stage = Stage::Linked(number);
            let Err(error) = kernel.attach(netns, &self.link(number)) else { return Ok(()) };
            // On failure the kernel has nothing of it.
            self.stage = Stage::Tried;
            let is_ours = numbers.let_go(number, &self.key);
            debug_assert!(is_ours, "{number} was taken for {}", self.key);
            match &error {
                // Somebody else's link has the number; it stays taken here, and another is tried.
                WiringError::HostEndTaken(..) => tracing::warn!(%error, "trying another interface number"),
                // The name may be that of a link whose DEL was answered a moment ago.
                WiringError::NameTaken(_) if !flushed => {
                    numbers.give_back(number);
                    flushed = kernel.flush_removals(FLUSH_LIMIT);
                    if !flushed {
                        return Err(cni_errors::wiring(&error));
                    }
                }
                _ => {
                    numbers.give_back(number);
                    return Err(cni_errors::wiring(&error));
                }
            }
        }
        Err(Error::new(Code::WiringFailed, format!("{NUMBER_ATTEMPTS} interface numbers in a row are taken by other links")))
    }

    fn link(&self, number: Ifindex) -> PodLink {
        PodLink {
            host_ifname: host_ifname(number),
            host_ifindex: number,
            pod_ifname: self.key.ifname.to_string(),
            pod_mac: self.mac,
            mtu: self.mtu,
            container_id: self.key.container_id.to_string(),
            addresses: self.addresses.clone(),
            namespace: self.namespace.clone(),
            limits: limits::limits(self.asked.bandwidth, self.asked.internet_egress),
            allowed: self.allowed.clone(),
        }
    }

    /// The record of it; nothing before there is a link.
    pub(super) fn record(&self, request: &AddRequest, netns: &K::Netns) -> Option<Record> {
        let Stage::Linked(number) = self.stage else { return None };
        let netns = self.attachments.kernel.netns_id(netns);
        Some(Record {
            format: RECORD_FORMAT,
            key: self.key.clone(),
            network: request.network.clone(),
            pod: request.pod.clone(),
            netns: Some((netns.device, netns.inode)),
            host_ifname: host_ifname(number),
            host_ifindex: number.0,
            mtu: self.mtu,
            mac: Some(self.mac),
            addresses: self.addresses.clone(),
            attached_at: self.at,
            bandwidth: self.asked.bandwidth,
            internet_egress: self.asked.internet_egress,
            allowed: self.allowed.clone(),
        })
    }

    /// It is durable: all of it is the record's from now on.
    pub(super) fn keep(mut self) {
        self.stage = Stage::Kept;
    }
}

impl<K: Kernel> Drop for Reservation<'_, K> {
    fn drop(&mut self) {
        let Self { attachments, key, addresses, allowed, at, stage, .. } = self;
        let addresses = [&addresses[..], allowed].concat();
        match *stage {
            Stage::Kept => return,
            Stage::Addressed => {
                // A cooldown would starve the next ADD.
                let mut state = attachments.state();
                addresses.iter().for_each(|address| state.pool.untake(*address, key));
            }
            Stage::Tried => attachments.cool_down(&addresses, key, *at),
            Stage::Linked(number) => {
                if attachments.numbers.let_go(number, key) {
                    attachments.kernel.remove_soon(number);
                }
                attachments.cool_down(&addresses, key, *at);
            }
        }
        attachments.pool_changed.notify_all();
    }
}

impl<K: Kernel> Attachments<K> {
    fn cool_down(&self, addresses: &[IpAddr], key: &AttachmentKey, at: BootMillis) {
        let mut state = self.state();
        for address in addresses {
            state.pool.release(*address, key, at);
        }
    }
}

impl State {
    /// One address of each family that the node has, or the ones asked for; and the MTU.
    fn take_addresses(&mut self, key: &AttachmentKey, wanted: &[IpAddr], now: BootMillis) -> Result<(Vec<IpAddr>, u32), Error> {
        if self.draining {
            return Err(Error::new(Code::TryAgainLater, "barewired is shutting down; try again when it is back"));
        }
        let Some(mtu) = self.uplinks.iter().map(|uplink| uplink.mtu).min() else {
            let why = self.obstacle.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
            return Err(Error::new(Code::TryAgainLater, format!("the node has no uplink yet{why}; try again later")));
        };
        let mut taken = Vec::new();
        match self.take_each(&mut taken, key, wanted, now) {
            Ok(()) => {
                taken.sort_unstable();
                Ok((taken, mtu))
            }
            Err(error) => {
                // Nobody has used them: they were taken at `now`, and a cooldown would starve the next ADD.
                taken.iter().for_each(|address| self.pool.untake(*address, key));
                Err(error)
            }
        }
    }

    fn take_each(&mut self, taken: &mut Vec<IpAddr>, key: &AttachmentKey, wanted: &[IpAddr], now: BootMillis) -> Result<(), Error> {
        let has = |taken: &[IpAddr], family: Family| taken.iter().any(|address| Family::of(*address) == family);
        for address in wanted {
            if has(taken, Family::of(*address)) {
                let msg = format!("runtimeConfig.ips: {address} is a second {} address; ask for one of each family", Family::of(*address));
                return Err(Error::new(Code::InvalidConfig, msg));
            }
            self.pool.take_this(*address, key, now).map_err(|error| self.refusal(&error))?;
            taken.push(*address);
        }
        for family in self.pool.families().filter(|family| !has(taken, *family)).collect::<Vec<_>>() {
            taken.push(self.pool.take(family, key, now).map_err(|error| self.refusal(&error))?);
        }
        Ok(())
    }
}

/// A locally administered address from the attachment's name: the same for the same pod, so that a repeated ADD agrees.
fn mac_for(key: &AttachmentKey) -> [u8; 6] {
    /// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): it need not resist anybody.
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let text = key.to_string();
    let hash = text.bytes().fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    let [_, _, _, a, b, c, d, e] = hash.to_be_bytes();
    [0x0a, a, b, c, d, e]
}
