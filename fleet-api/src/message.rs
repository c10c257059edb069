//! The messages, as prost derives them from these structs. A field's number is never used again for something else; a field that a peer does
//! not know is skipped by it. Values of tables are kept as the bytes that came, so what one side does not know yet is neither lost nor summed differently.

use prost::{Enumeration, Message, Oneof};

/// The versions of the protocol that a peer speaks, both inclusive.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Versions {
    /// The oldest.
    #[prost(uint32, tag = "1")]
    pub oldest: u32,
    /// The newest.
    #[prost(uint32, tag = "2")]
    pub newest: u32,
}

/// How far somebody is in one kind: as of which `resourceVersion`, and what the table sums up to.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Position {
    /// A [`Kind`](crate::Kind).
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// The `resourceVersion`; 0 is nothing known.
    #[prost(uint64, tag = "2")]
    pub resource_version: u64,
    /// The table's checksum.
    #[prost(fixed64, tag = "3")]
    pub checksum: u64,
}

/// The first message of a node.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Hello {
    /// What it speaks.
    #[prost(message, optional, tag = "1")]
    pub versions: Option<Versions>,
    /// Its name; the certificate must say the same.
    #[prost(string, tag = "2")]
    pub node: String,
    /// What it knows already.
    #[prost(message, repeated, tag = "3")]
    pub positions: Vec<Position>,
    /// Of which cluster that is: the UID of namespace `kube-system`. Empty where it knows nothing.
    #[prost(string, tag = "4")]
    pub cluster: String,
    /// The last directive it has had.
    #[prost(uint64, tag = "5")]
    pub directive: u64,
    /// The program and its version, for people.
    #[prost(string, tag = "6")]
    pub program: String,
    /// It looks at others, and wants to be told at whom.
    #[prost(bool, tag = "7")]
    pub looks: bool,
}

/// A node's table differs from the checksum it was told: it asks for a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Resync {
    /// A [`Kind`](crate::Kind).
    #[prost(uint32, tag = "1")]
    pub kind: u32,
}

/// A node's answer to a [`Checkpoint`]: where it is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Seen {
    /// One per kind.
    #[prost(message, repeated, tag = "1")]
    pub positions: Vec<Position>,
}

/// What one check of a node found last.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Finding {
    /// Which check.
    #[prost(string, tag = "1")]
    pub check: String,
    /// Whom it is about.
    #[prost(enumeration = "About", tag = "2")]
    pub about: i32,
    /// The other node's name, of [`About::Peer`].
    #[prost(string, tag = "3")]
    pub peer: String,
    /// What was found.
    #[prost(enumeration = "Outcome", tag = "4")]
    pub outcome: i32,
    /// What was seen, in words.
    #[prost(string, tag = "5")]
    pub seen: String,
    /// How often the check has run: the same number is the same look, told again.
    #[prost(uint64, tag = "6")]
    pub run: u64,
}

/// Whom a finding is about, and how it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum About {
    /// The node itself, by what it sees without the network.
    Own = 0,
    /// The node itself, by packets that may be lost.
    Probe = 1,
    /// Another node.
    Peer = 2,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum Outcome {
    /// It could not be told: neither good nor bad.
    Unknown = 0,
    /// As it should be.
    Ok = 1,
    /// Not so.
    Failed = 2,
}

/// All that a node's checks have found last. Whose it is the certificate tells; the newest says all, so that older ones need not be kept.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Report {
    /// One per check.
    #[prost(message, repeated, tag = "1")]
    pub findings: Vec<Finding>,
    /// How far the node is with what it looks at before its first pod; nothing where it does not look.
    #[prost(message, optional, tag = "2")]
    pub preflight: Option<Preflight>,
    /// Pods that have their network of this node's daemon; nothing where it does not say. Those on the host's network are not among them.
    #[prost(uint32, optional, tag = "3")]
    pub pods: Option<u32>,
}

/// How far a node is with what it looks at once, before its first pod.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Preflight {
    /// Of the run that is the newest.
    #[prost(enumeration = "PreflightState", tag = "1")]
    pub state: i32,
    /// The boot in which it ran: `/proc/sys/kernel/random/boot_id`, which the API server has as `status.nodeInfo.bootID`.
    #[prost(string, tag = "2")]
    pub boot: String,
    /// Since when the state holds, in seconds since 1970 by the node's clock: for people, never compared.
    #[prost(uint64, tag = "3")]
    pub since_seconds: u64,
    /// What was seen of each check that is not as it should be, `check: what`.
    #[prost(string, repeated, tag = "4")]
    pub evidence: Vec<String>,
    /// Which run it is, as an [`Order`] has told it; 0: the node has begun by itself.
    #[prost(uint64, tag = "5")]
    pub run: u64,
    /// It begins a run when it is told.
    #[prost(bool, tag = "6")]
    pub hears: bool,
    /// What was measured with other nodes.
    #[prost(message, repeated, tag = "7")]
    pub measured: Vec<Measured>,
}

/// What was measured between a node and another.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Measured {
    /// The other.
    #[prost(string, tag = "1")]
    pub peer: String,
    /// There and back, the median, in microseconds.
    #[prost(uint64, tag = "2")]
    pub round_trip_micros: u64,
    /// From the other, over one connection of TCP, in millions of bits a second.
    #[prost(uint64, tag = "3")]
    pub received_mbit: u64,
    /// To the other, likewise.
    #[prost(uint64, tag = "4")]
    pub sent_mbit: u64,
}

/// How a preflight stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum PreflightState {
    /// A state that this version does not know: as little as nothing.
    Unknown = 0,
    /// Not at its end.
    Running = 1,
    /// All is as it should be.
    Passed = 2,
    /// Something is not.
    Failed = 3,
    /// It begins when the node is told: to a replica of the version before as little as nothing.
    Waiting = 4,
}

/// A node's newest report, as another replica has heard it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NodeReport {
    /// The name in the node's certificate.
    #[prost(string, tag = "1")]
    pub node: String,
    /// What it said.
    #[prost(message, optional, tag = "2")]
    pub report: Option<Report>,
}

/// What a replica tells the one that leads: every so often, and when a node has said something.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Forwarded {
    /// How many nodes are connected to it.
    #[prost(uint32, tag = "1")]
    pub nodes: u32,
    /// One of a node at most.
    #[prost(message, repeated, tag = "2")]
    pub reports: Vec<NodeReport>,
}

/// Asks how the replica stands: the first and only message of whoever may know.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct StatusRequest {
    /// What it speaks.
    #[prost(message, optional, tag = "1")]
    pub versions: Option<Versions>,
}

/// All that a node says, or a replica to the one that leads.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ToFleet {
    /// One of them; none is a message that this version does not know.
    #[prost(oneof = "FromNode", tags = "1, 2, 3, 4, 5, 6")]
    pub message: Option<FromNode>,
}

/// What a node says.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum FromNode {
    /// First of all.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// After a checksum that differs.
    #[prost(message, tag = "2")]
    Resync(Resync),
    /// After a checkpoint.
    #[prost(message, tag = "3")]
    Seen(Seen),
    /// When something has changed, and every so often.
    #[prost(message, tag = "4")]
    Report(Report),
    /// Of a replica alone.
    #[prost(message, tag = "5")]
    Forwarded(Forwarded),
    /// Of a person or a replica.
    #[prost(message, tag = "6")]
    StatusRequest(StatusRequest),
}

/// The first message of a replica.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Welcome {
    /// The version that both speak from here on.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The UID of the cluster.
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// All replicas, `host:port`; empty where this one knows of no list.
    #[prost(string, repeated, tag = "3")]
    pub replicas: Vec<String>,
    /// It tells nodes when their preflight is to run: a node that boots waits for its [`Order`].
    #[prost(bool, tag = "4")]
    pub orders: bool,
}

/// A key and its new value.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Entry {
    /// The key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// A [`Service`], [`SliceHead`] or [`Endpoint`], encoded.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// What has changed in one kind, to be applied as a whole.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Delta {
    /// The position afterwards.
    #[prost(message, optional, tag = "1")]
    pub after: Option<Position>,
    /// New values.
    #[prost(message, repeated, tag = "2")]
    pub puts: Vec<Entry>,
    /// Keys that are no more.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub deletes: Vec<Vec<u8>>,
}

/// All entries of a table; what a snapshot is when it is whole and unpacked.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Entries {
    /// Sorted by key.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
}

/// A piece of a compressed (zstd) snapshot. Pieces come in order.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Piece {
    /// The position of the snapshot.
    #[prost(message, optional, tag = "1")]
    pub at: Option<Position>,
    /// Where in the compressed snapshot this piece begins.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Bytes of the compressed snapshot.
    #[prost(uint64, tag = "3")]
    pub packed: u64,
    /// Bytes of the snapshot when it is unpacked.
    #[prost(uint64, tag = "4")]
    pub unpacked: u64,
    /// The piece.
    #[prost(bytes = "vec", tag = "5")]
    pub data: Vec<u8>,
}

/// Where the replica is; a sign of life, too, and then without positions.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Checkpoint {
    /// One per kind.
    #[prost(message, repeated, tag = "1")]
    pub positions: Vec<Position>,
}

/// What one node shall do. Only that node gets it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Directive {
    /// Grows with each change.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// No new pods.
    #[prost(bool, tag = "2")]
    pub cordon: bool,
    /// The checks to run, by name.
    #[prost(string, repeated, tag = "3")]
    pub checks: Vec<String>,
}

/// Another node. Addresses are 4 or 16 bytes.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Peer {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Where it is reached: `status.addresses` of type `InternalIP`.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub addresses: Vec<Vec<u8>>,
}

/// Whom one node is to look at, all of them. Only that node gets it, and only if its hello says that it looks.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Peers {
    /// At whom; never more than [`Peers::MAX`].
    #[prost(message, repeated, tag = "1")]
    pub targets: Vec<Peer>,
    /// Addresses of those who look at it.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub witnesses: Vec<Vec<u8>>,
    /// The node's own, by which others know it.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub own: Vec<Vec<u8>>,
}

/// What one node shall do about its preflight, all of it. Only that node gets it, and only if its hello says that it looks.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Order {
    /// Its turn will come; until then it does not begin.
    #[prost(bool, tag = "1")]
    pub waits: bool,
    /// The run that it is to make, once; 0 is none.
    #[prost(uint64, tag = "2")]
    pub run: u64,
    /// Whom it is to measure the network with; never more than [`Order::MAX`].
    #[prost(message, repeated, tag = "3")]
    pub with: Vec<Peer>,
    /// Addresses of those that measure with it.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub measured_by: Vec<Vec<u8>>,
}

/// The replica ends: where to go, and within what time.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Moved {
    /// `host:port`; empty: any other.
    #[prost(string, tag = "1")]
    pub replica: String,
    /// Nodes choose a moment of their own within it, in milliseconds.
    #[prost(uint64, tag = "2")]
    pub within_millis: u64,
}

/// Why a node is not served. The connection is closed behind it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Refused {
    /// In words.
    #[prost(string, tag = "1")]
    pub reason: String,
    /// Not to be asked again before, in milliseconds.
    #[prost(uint64, tag = "2")]
    pub retry_after_millis: u64,
}

/// A node that is connected to the replica that says so.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ConnectedNode {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// From where.
    #[prost(string, tag = "2")]
    pub address: String,
    /// For so long, in milliseconds.
    #[prost(uint64, tag = "3")]
    pub age_millis: u64,
    /// Changes that it has not been sent; nothing while it is sent whole tables.
    #[prost(uint64, optional, tag = "4")]
    pub lag: Option<u64>,
    /// How long ago it has last said where it is, in milliseconds; nothing: not yet.
    #[prost(uint64, optional, tag = "5")]
    pub confirmed_millis: Option<u64>,
}

/// How a replica stands. With many nodes it is several messages, which differ in the nodes alone.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Status {
    /// Where nodes reach it, as it says itself; empty where it does not know.
    #[prost(string, tag = "1")]
    pub replica: String,
    /// The program and its version, for people.
    #[prost(string, tag = "2")]
    pub program: String,
    /// The UID of the cluster.
    #[prost(string, tag = "3")]
    pub cluster: String,
    /// It leads.
    #[prost(bool, tag = "4")]
    pub leads: bool,
    /// Where the one is that leads, as far as this one knows; empty where it leads itself or knows of none.
    #[prost(string, tag = "5")]
    pub leader: String,
    /// It has listed all kinds.
    #[prost(bool, tag = "6")]
    pub ready: bool,
    /// Where it is.
    #[prost(message, repeated, tag = "7")]
    pub positions: Vec<Position>,
    /// All replicas, `host:port`; empty where this one knows of no list.
    #[prost(string, repeated, tag = "8")]
    pub replicas: Vec<String>,
    /// Its nodes, or some of them.
    #[prost(message, repeated, tag = "9")]
    pub nodes: Vec<ConnectedNode>,
    /// Another message follows.
    #[prost(bool, tag = "10")]
    pub more: bool,
}

/// All that a replica says.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FromFleet {
    /// One of them; none is a message that this version does not know.
    #[prost(oneof = "ToNode", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub message: Option<ToNode>,
}

/// What a replica says.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum ToNode {
    /// First of all.
    #[prost(message, tag = "1")]
    Welcome(Welcome),
    /// A change.
    #[prost(message, tag = "2")]
    Delta(Delta),
    /// A part of a whole table.
    #[prost(message, tag = "3")]
    Piece(Piece),
    /// Every so often.
    #[prost(message, tag = "4")]
    Checkpoint(Checkpoint),
    /// To one node.
    #[prost(message, tag = "5")]
    Directive(Directive),
    /// Before the end.
    #[prost(message, tag = "6")]
    Moved(Moved),
    /// At the end.
    #[prost(message, tag = "7")]
    Refused(Refused),
    /// To whom asks.
    #[prost(message, tag = "8")]
    Status(Status),
    /// To one node.
    #[prost(message, tag = "9")]
    Peers(Peers),
    /// To one node.
    #[prost(message, tag = "10")]
    Order(Order),
}

/// IANA's protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum Protocol {
    /// TCP, the default.
    Tcp = 0,
    /// UDP.
    Udp = 1,
    /// SCTP.
    Sctp = 2,
}

/// One port of a service.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ServicePort {
    /// Names the port of the slices that belongs to it; empty with a single port.
    #[prost(string, tag = "1")]
    pub name: String,
    /// TCP, UDP or SCTP.
    #[prost(enumeration = "Protocol", tag = "2")]
    pub protocol: i32,
    /// On the service's addresses.
    #[prost(uint32, tag = "3")]
    pub port: u32,
    /// On the nodes' addresses; 0: none.
    #[prost(uint32, tag = "4")]
    pub node_port: u32,
}

/// A service that nodes serve: has addresses, is not headless. Addresses are 4 or 16 bytes.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Service {
    /// `spec.clusterIPs`.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub cluster_ips: Vec<Vec<u8>>,
    /// `spec.ports`.
    #[prost(message, repeated, tag = "2")]
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub external_ips: Vec<Vec<u8>>,
    /// `status.loadBalancer.ingress[].ip`, without those whose `ipMode` is `Proxy`.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub load_balancer_ips: Vec<Vec<u8>>,
    /// `spec.loadBalancerSourceRanges`, as written.
    #[prost(string, repeated, tag = "5")]
    pub source_ranges: Vec<String>,
    /// `spec.internalTrafficPolicy` is `Local`.
    #[prost(bool, tag = "6")]
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy` is `Local`.
    #[prost(bool, tag = "7")]
    pub external_local: bool,
    /// `spec.sessionAffinity` is `ClientIP`: its timeout in seconds; 0: none.
    #[prost(uint32, tag = "8")]
    pub affinity_seconds: u32,
    /// `spec.healthCheckNodePort`; 0: none.
    #[prost(uint32, tag = "9")]
    pub health_check_node_port: u32,
}

/// One port of a slice.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SlicePort {
    /// As in [`ServicePort::name`].
    #[prost(string, tag = "1")]
    pub name: String,
    /// TCP, UDP or SCTP.
    #[prost(enumeration = "Protocol", tag = "2")]
    pub protocol: i32,
    /// On the endpoints' addresses.
    #[prost(uint32, tag = "3")]
    pub port: u32,
}

/// What the endpoints of one slice have in common.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SliceHead {
    /// `namespace/name` of the service: its key.
    #[prost(string, tag = "1")]
    pub service: String,
    /// The ports.
    #[prost(message, repeated, tag = "2")]
    pub ports: Vec<SlicePort>,
}

/// One endpoint of a slice. Its address is in its key.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Endpoint {
    /// `conditions.ready`; where it is not said, it is.
    #[prost(bool, tag = "1")]
    pub ready: bool,
    /// `conditions.serving`; where it is not said, as `ready`.
    #[prost(bool, tag = "2")]
    pub serving: bool,
    /// `conditions.terminating`.
    #[prost(bool, tag = "3")]
    pub terminating: bool,
    /// `nodeName`.
    #[prost(string, tag = "4")]
    pub node: String,
    /// `zone`.
    #[prost(string, tag = "5")]
    pub zone: String,
    /// `hints.forZones`.
    #[prost(string, repeated, tag = "6")]
    pub for_zones: Vec<String>,
    /// `hints.forNodes`.
    #[prost(string, repeated, tag = "7")]
    pub for_nodes: Vec<String>,
}
