//! How many interfaces and addresses an instance may have, by its type.

/// What the network of an instance type is limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceType {
    /// Name, e.g. `m5.large`.
    pub name: &'static str,
    /// Interfaces for each network card.
    pub interfaces_per_card: u32,
    /// Network cards.
    pub cards: u32,
    /// IPv4 addresses and prefixes for each interface, its primary address included.
    pub ipv4_per_interface: u32,
    /// IPv6 addresses and prefixes for each interface.
    pub ipv6_per_interface: u32,
    /// Whether its hypervisor is Nitro (or none): only there are prefixes to be had.
    pub nitro: bool,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Whether its processor is Arm's.
    pub arm: bool,
}

const fn x86(name: &'static str, vcpus: u32, interfaces: u32, addresses: u32) -> InstanceType {
    InstanceType {
        name,
        interfaces_per_card: interfaces,
        cards: 1,
        ipv4_per_interface: addresses,
        ipv6_per_interface: addresses,
        nitro: true,
        vcpus,
        arm: false,
    }
}

const fn arm(name: &'static str, vcpus: u32, interfaces: u32, addresses: u32) -> InstanceType {
    InstanceType { arm: true, ..x86(name, vcpus, interfaces, addresses) }
}

const fn xen(name: &'static str, vcpus: u32, interfaces: u32, addresses: u32) -> InstanceType {
    InstanceType { nitro: false, ..x86(name, vcpus, interfaces, addresses) }
}

const fn cards(cards: u32, name: &'static str, vcpus: u32, interfaces: u32, addresses: u32) -> InstanceType {
    InstanceType { cards, ..x86(name, vcpus, interfaces, addresses) }
}

/// From "Maximum IP addresses per network interface" in the Amazon EC2 documentation; the tests compare it with moto's table.
/// Azure and Google Cloud by their limits: eight NICs of 256 ipConfigurations, eight NICs of 150 alias ranges and a primary address.
pub const INSTANCE_TYPES: &[InstanceType] = &[
    xen("t2.medium", 2, 3, 6),
    xen("m4.large", 2, 2, 10),
    xen("m4.xlarge", 4, 4, 15),
    xen("i3.large", 2, 3, 10),
    x86("t3.micro", 2, 2, 2),
    x86("t3.small", 2, 3, 4),
    x86("t3.medium", 2, 3, 6),
    x86("t3.large", 2, 3, 12),
    x86("t3.xlarge", 4, 4, 15),
    x86("t3.2xlarge", 8, 4, 15),
    x86("t3a.medium", 2, 3, 6),
    arm("t4g.medium", 2, 3, 6),
    x86("m5.large", 2, 3, 10),
    x86("m5.xlarge", 4, 4, 15),
    x86("m5.2xlarge", 8, 4, 15),
    x86("m5.4xlarge", 16, 8, 30),
    x86("m5.8xlarge", 32, 8, 30),
    x86("m5.12xlarge", 48, 8, 30),
    x86("m5.16xlarge", 64, 15, 50),
    x86("m5.24xlarge", 96, 15, 50),
    x86("m5.metal", 96, 15, 50),
    x86("m6i.large", 2, 3, 10),
    x86("m6i.xlarge", 4, 4, 15),
    x86("m6i.2xlarge", 8, 4, 15),
    x86("m6i.4xlarge", 16, 8, 30),
    x86("m6i.8xlarge", 32, 8, 30),
    x86("m6i.16xlarge", 64, 15, 50),
    x86("m6i.32xlarge", 128, 15, 50),
    arm("m6g.large", 2, 3, 10),
    arm("m7g.xlarge", 4, 4, 15),
    x86("m7i.large", 2, 3, 10),
    x86("m7i.xlarge", 4, 4, 15),
    x86("m7i.4xlarge", 16, 8, 30),
    x86("c5.large", 2, 3, 10),
    x86("c5.xlarge", 4, 4, 15),
    x86("c5.2xlarge", 8, 4, 15),
    x86("c5.4xlarge", 16, 8, 30),
    x86("c5.9xlarge", 36, 8, 30),
    x86("c5.18xlarge", 72, 15, 50),
    x86("c5n.18xlarge", 72, 15, 50),
    x86("c6i.large", 2, 3, 10),
    x86("c6i.xlarge", 4, 4, 15),
    x86("c6i.4xlarge", 16, 8, 30),
    arm("c7g.xlarge", 4, 4, 15),
    x86("r5.large", 2, 3, 10),
    x86("r5.xlarge", 4, 4, 15),
    x86("r5.4xlarge", 16, 8, 30),
    x86("r6i.large", 2, 3, 10),
    x86("r6i.4xlarge", 16, 8, 30),
    x86("i3en.large", 2, 3, 10),
    x86("g4dn.xlarge", 4, 3, 10),
    x86("g4dn.12xlarge", 48, 8, 30),
    x86("g5.xlarge", 4, 4, 15),
    x86("g5.12xlarge", 48, 15, 50),
    x86("g5.48xlarge", 192, 7, 50),
    x86("g6.xlarge", 4, 4, 15),
    cards(4, "g6e.48xlarge", 192, 10, 50),
    cards(4, "p4d.24xlarge", 96, 15, 50),
    cards(4, "p4de.24xlarge", 96, 15, 50),
    cards(32, "p5.48xlarge", 192, 2, 50),
    cards(32, "p5e.48xlarge", 192, 2, 50),
    cards(8, "trn1.32xlarge", 128, 5, 50),
    x86("Standard_D4s_v5", 4, 8, 256),
    x86("Standard_D16s_v5", 16, 8, 256),
    x86("n2-standard-4", 4, 8, 151),
    x86("n2-standard-16", 16, 8, 151),
];

/// What an instance is limited to whose type is in no table: it runs, but `DescribeInstanceTypes` does not know it.
pub(crate) const UNDOCUMENTED: InstanceType = x86("", 4, 4, 15);

impl InstanceType {
    /// The type of that name, if it is known.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        INSTANCE_TYPES.iter().find(|known| known.name == name)
    }

    /// Interfaces on all cards.
    #[must_use]
    pub const fn interfaces(&self) -> u32 {
        self.interfaces_per_card * self.cards
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_one_row() {
        for kind in INSTANCE_TYPES {
            assert_eq!(InstanceType::find(kind.name), Some(kind), "{}", kind.name);
        }
        assert_eq!(InstanceType::find("p4d.24xlarge").map(InstanceType::interfaces), Some(60));
        assert_eq!(InstanceType::find("x9.nano"), None);
    }
}
