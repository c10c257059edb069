//! Every key of the configuration file: the reader takes no other, and docs/configuration.md's table is written from this one.

/// Kinds of a source, `source.kind`.
pub(super) const FIXED: &str = "fixed";
const AWS: &str = "aws";
const AZURE: &str = "azure";
pub(super) const CLOUDS: &[&str] = &[AWS, AZURE, "gcp"];
const ANY: &[&str] = &[AWS, AZURE, "gcp", FIXED];

/// Each namespace has these.
const IN_NAMESPACES: &str = "network.namespaces.NAME.pod_internet_egress";
const ALLOWED: &str = "network.namespaces.NAME.allowed_addresses";

/// A key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    /// With its section.
    pub(crate) name: &'static str,
    /// The kinds of source that it is for.
    pub(super) kinds: &'static [&'static str],
    /// What a value looks like.
    pub(crate) form: &'static str,
    pub(crate) absent: Absent,
    pub(crate) meaning: &'static str,
}

/// What holds where a key is not there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Absent {
    /// The same as with this value, in TOML.
    Is(&'static str),
    /// What cannot be written as a value.
    Said(&'static str),
}

use Absent::{Is, Said};

const fn key(name: &'static str, kinds: &'static [&'static str], form: &'static str, absent: Absent, meaning: &'static str) -> Key {
    Key { name, kinds, form, absent, meaning }
}

/// All of them, by section.
#[rustfmt::skip]
pub(crate) const KEYS: [Key; 72] = [
    key("node.name", ANY, "string", Said("the hostname"),
        "this node, in logs and metrics"),
    key("node.scheduling", ANY, "`\"realtime\"`, `\"nice\"` or `\"inherit\"`", Is("\"realtime\""),
        "whether the daemon goes before what runs in pods: the threads that serve plugins as real-time threads of the lowest \
         priority, and all else with nice −15; only nice −15; or as whoever started it has it. Where it may not (`LimitRTPRIO=1` and \
         `Nice=-15` in the unit, or `CAP_SYS_NICE`), it says so once in the log and goes on ([ADR 17](adr/0017-before-the-pods.md))"),
    key("paths.run_dir", ANY, "absolute path", Is("\"/run/barewire\""),
        "socket, store and queue. Its lifetime should be the boot's: a tmpfs"),
    key("paths.cni_conf_file", ANY, "absolute path", Is("\"/etc/cni/net.d/00-barewire.conflist\""),
        "the network configuration list, written when the node is ready and kept from then on \
         ([install.md](install.md#the-configuration-list))"),
    key("paths.kernel_programs", ANY, "path", Said("beside the daemon, or `/usr/lib/barewire/barewire-ebpf.o`"),
        "the kernel programs"),
    key("uplink.interface", &[FIXED], "interface name", Said("the interface of the default route"),
        "the interface to the cloud network; pods get its MTU. An Ethernet device: tunnels (`wg0`, `tun0`) have no frames and are \
         refused"),
    key("uplink.gateways", &[FIXED], "list of addresses", Said("those of its default routes"),
        "at most one of each family"),
    key("uplink.on_link", &[FIXED], "`\"direct\"` or `\"gateway\"`", Is("\"direct\""),
        "how neighbours in the uplink's own subnet are reached: directly, and then by the host's stack, or by the gateway, which in a \
         cloud network answers for all of them, so that the fast path carries them \
         ([fast-path.md](fast-path.md#what-the-host-would-treat-otherwise))"),
    key("uplink.secondary", &[FIXED], "list of tables", Said("none"),
        "further interfaces to the cloud network, at most 15: `interface` and, as for the first, `gateways`; `ranges` are the pod \
         addresses that the cloud delivers to it. Packets of these pods leave by it"),
    key("network.name", ANY, "string", Is("\"barewire\""),
        "the CNI network's name"),
    key("network.native_cidrs", ANY, "list of CIDRs", Said("none; on AWS the VPC's own blocks are added"),
        "destinations that see pod addresses as they are"),
    key("network.service_cidrs", ANY, "list of CIDRs", Said("none"),
        "addresses of services; the host's stack translates them. Name the cluster's (kube-apiserver's `--service-cluster-ip-range`) \
         wherever `native_cidrs` cover it: what is a service's is never native, however long the native prefix is"),
    key("network.internal_cidrs", ANY, "list of CIDRs", Said("none"),
        "networks that are neither native nor the internet (an office, another region); counted as `vpc`, left to the stack"),
    key("network.fast_path", ANY, "`\"auto\"` or `\"off\"`", Is("\"auto\""),
        "whether kernel programs carry packets between pods and network past the host's stack. With `auto`, a kernel that cannot is \
         told once in the log, and everything takes the stack. Accounts and the drop of spoofed addresses are the same either way"),
    key("network.pod_internet_egress", ANY, "rate in bits a second, like `\"10M\"`", Said("none: no limit"),
        "what each pod may send to the internet, dropped beyond ([shaping.md](shaping.md)). A whole number with `k`, `M`, `G`, `Ki`, \
         `Mi`, `Gi` or nothing behind it, from `1k` to `1000000G`. Needs the kernel programs: with `network.fast_path = \"off\"` it \
         is refused"),
    key("network.node_internet_egress", ANY, "rate in bits a second", Said("none: no limit"),
        "what all pods of the node together may send to the internet, in fair shares ([shaping.md](shaping.md)). Needs the kernel programs, \
         like `network.pod_internet_egress`"),
    key(IN_NAMESPACES, ANY, "rate in bits a second", Said("none: what the node has"),
        "`network.pod_internet_egress` for each pod of that namespace. A pod's annotation `barewire.io/internet-egress` goes before both \
         ([shaping.md](shaping.md))"),
    key(ALLOWED, ANY, "list of CIDRs", Said("none: a pod uses its own addresses alone"),
        "addresses that pods of that namespace may use beside their own, each those that its annotation `barewire.io/allowed-addresses` \
         names ([allowed-addresses.md](allowed-addresses.md)). They overlap neither `source.ranges` nor `network.service_cidrs`"),
    key("network.packet_mark_mask", ANY, "integer", Is("0x1f"),
        "five neighbouring bits of a packet's mark that are Barewire's: four name the uplink that a pod's packet must leave by (0: \
         the node's own), the highest has a packet pass conntrack by and is taken off at once. Choose others where something on the \
         node sets these (TPROXY, a VPN): a host's packet with one of the four is routed by a further uplink's table. 0x8000, 0x4000 \
         (kube-proxy) and 0x2000 (portmap) cannot be had"),
    key("network.forward_accept", ANY, "boolean", Is("true"),
        "where the host's rules drop all that is forwarded (policy DROP of chain FORWARD), rules of ours with the comment `barewire: \
         network.forward_accept` let packets from and to the pods' ranges pass \
         ([fast-path.md](fast-path.md#what-the-host-would-treat-otherwise))"),
    key("network.masquerade", ANY, "boolean", Is("true"),
        "traffic of pods to other destinations leaves with the node's address. With `true`, `native_cidrs` must cover every pod \
         range; Azure and Google Cloud do not tell their network's, so there it is required"),
    key("source.kind", ANY, "`\"aws\"`, `\"azure\"`, `\"gcp\"` or `\"fixed\"`", Said("required"),
        "where addresses come from; see [clouds.md](clouds.md) for what each cloud needs. A key of another kind is a fault"),
    key("source.ranges", &[FIXED], "list of ranges", Said("required with `fixed`"),
        "`\"10.0.1.16/28\"`, `\"10.0.1.40-10.0.1.60\"`, `\"fd00:10:0:1::/80\"`; IPv4 and IPv6 may be mixed, and a pod gets one \
         address of each family present"),
    key("source.exclude", ANY, "list of ranges", Said("none"),
        "addresses that pods must not get, whatever `source.ranges` or the cloud says. What has one of them is never unassigned. With \
         a cloud an IPv6 range may have 65,536 addresses"),
    key("source.metadata", CLOUDS, "URL", Said("`http://169.254.169.254`"),
        "the metadata service. On AWS `http://[fd00:ec2::254]` where the node has no IPv4"),
    key("source.wireserver", &[AZURE], "URL", Said("`http://168.63.129.16`"),
        "the second reader"),
    key("source.interfaces", &[AWS], "`\"owned\"`, `\"all\"`", Is("\"owned\""),
        "`\"owned\"` manages the primary interface, what barewired created, and what is tagged `barewire/manage` = `true`; `\"all\"` \
         every interface of the first network card ([clouds.md](clouds.md#aws))"),
    key("source.api", &[AWS], "boolean", Is("true"),
        "whether the EC2 API is called. With `false` the node has the prefixes that were assigned to it at launch, no credentials are \
         needed, and no call is ever made"),
    key("source.api_endpoint", &[AWS], "URL", Said("the region's own"),
        "the EC2 API. The region is the instance's own"),
    key("source.subnets", &[AWS], "list of IDs", Said("the primary interface's"),
        "where further interfaces are made, tried in this order; subnets of other availability zones are passed over"),
    key("source.subnet_tags", &[AWS], "table", Said("none"),
        "in place of `source.subnets`: `{ pods = \"yes\" }`. Further interfaces are made in a subnet that has all of these tags, in \
         the node's availability zone and VPC, the one with the most free addresses first. One configuration serves all zones"),
    key("source.tags", &[AWS], "table", Said("none"),
        "tags of the interfaces that barewired makes, beside its own: for cost allocation, or where a policy demands them. Leaked \
         interfaces are looked for among those that have them, so that a tag that names the cluster keeps clusters apart"),
    key("source.security_groups", &[AWS], "list of IDs", Said("those of the primary interface"),
        "of further interfaces"),
    key("source.families", &[AWS], "list of `\"ipv4\"`, `\"ipv6\"`", Is("[\"ipv4\"]"),
        "a pod gets one address of each, and is not started without"),
    key("pool.min_free", &[AWS], "0 to 100", Is("0.5"),
        "the part of a block (16 addresses) that is to be free at least; below it the node asks for more"),
    key("pool.max_free", &[AWS], "`min_free` + 1 to 102", Said("`2.5`, or `min_free` + 2"),
        "the part of a block beyond which free blocks are given back"),
    key("pool.release_after_seconds", &[AWS], "0 to 86400", Is("600"),
        "how long there must have been more than that"),
    key("pool.wait_seconds", CLOUDS, "0 to 15", Is("5"),
        "how long a pod waits for the cloud where the pool has no address ([clouds.md](clouds.md)). While it has one, no pod waits"),
    key("pool.cooldown_seconds", ANY, "0 to 86400", Is("30"),
        "how long a freed address rests before another pod may get it"),
    key("cluster.nodes", &[AWS], "0 to 1000000", Is("0"),
        "how many nodes may start together. First calls are spread over the time that the account's limit of calls needs for all of \
         them: 7500 nodes, 25 minutes. Not needed where prefixes are assigned at launch"),
    key("cni.chained_plugins", ANY, "list of tables", Said("none"),
        "plugins behind `barewire-cni` in the list, for instance `{ type = \"portmap\", capabilities = { portMappings = true } }`. \
         `bandwidth` is refused ([install.md](install.md#chained-plugins))"),
    key("cni.bin_dirs", ANY, "list of absolute paths", Is("[\"/opt/cni/bin\"]"),
        "where the runtime looks for plugins (containerd's `bin_dirs`, CRI-O's `plugin_dirs`), in this order"),
    key("cni.versions", ANY, "list of CNI versions", Said("what all plugins of the chain speak"),
        "what the list offers. Needed only where a plugin answers VERSION wrongly or not at all"),
    key("cni.status", ANY, "`\"lenient\"` or `\"strict\"`", Is("\"lenient\""),
        "when STATUS fails: where the node's network is broken, or wherever an ADD would fail \
         ([conform.md](conform.md#how-barewire-cni-reads-the-specification))"),
    key("fleet.replicas", ANY, "list of `host:port`", Said("none"),
        "replicas of the fleet to begin with ([fleet.md](fleet.md)); those that they tell of are kept. Without any nothing is heard"),
    key("fleet.authority", ANY, "absolute path", Is("\"/etc/barewire/fleet-ca.crt\""),
        "who signs the replicas' certificates, PEM"),
    key("fleet.certificate", ANY, "absolute path", Is("\"/var/lib/kubelet/pki/kubelet-client-current.pem\""),
        "what the node shows: kubelet's own certificate, or another of `system:node:NAME`. Read anew for each connection"),
    key("fleet.key", ANY, "absolute path", Said("the file of `fleet.certificate`"),
        "its key"),
    key("fleet.state_file", ANY, "absolute path", Is("\"/var/lib/barewire/fleet.state\""),
        "what the fleet has told, for the next start"),
    key("log.level", ANY, "level, or a list like `\"info,ipam_clouds=debug\"`", Is("\"info\""),
        "what is logged: `off`, `error`, `warn`, `info`, `debug`, `trace`, for all or for a part. A reload changes it; the variable \
         `BAREWIRE_LOG` goes before it"),
    key("log.format", ANY, "`\"auto\"`, `\"text\"`, `\"journal\"`, `\"json\"`", Is("\"auto\""),
        "how a line looks: with the time; with the journal's priority in front, so that `journalctl -u barewired -p warning` works; \
         one JSON object a line. `auto` is `journal` where standard error is the journal's, else `text`"),
    key("services.mode", ANY, "`\"on\"` or `\"off\"`", Is("\"off\""),
        "whether barewired serves Services in place of kube-proxy, as the fleet tells ([services.md](services.md)). `\"on\"` needs \
         `fleet.replicas`. With `\"off\"` rules of an earlier daemon are removed at the start"),
    key("services.node_port_addresses", ANY, "list of CIDRs", Said("none: the uplink's first address of each family"),
        "which of the node's addresses serve node ports and health checks"),
    key("services.external_ips", ANY, "boolean", Is("false"),
        "whether `spec.externalIPs` are served: whoever may write a Service could have any address led to a pod"),
    key("services.health_listen", ANY, "address and port", Is("\"0.0.0.0:10256\""),
        "where load balancers ask whether the node serves Services (`/healthz`, `/livez`); `\"\"` for nowhere"),
    key("health.enabled", ANY, "boolean", Is("false"),
        "whether the node looks at itself, tells of it and reports it to the fleet ([health.md](health.md))"),
    key("health.checks_off", ANY, "list of names", Said("none"),
        "checks that are not made"),
    key("health.interval_seconds", ANY, "table", Said("see [health.md](health.md)"),
        "time between two looks of a check, 1 to 3600, as `{ clock = 60 }`"),
    key("health.kubelet", ANY, "address and port", Is("\"127.0.0.1:10248\""),
        "where kubelet serves `/healthz` (its `healthzBindAddress`, `healthzPort`)"),
    key("health.api_server", ANY, "list of addresses and ports", Said("none: the check `api_server` is `unknown`"),
        "where kubelet reaches the API server, as `[\"10.0.0.10:6443\"]`; barewired looks how kubelet's connection does, and makes none"),
    key("health.runtime_sockets", ANY, "list of absolute paths", Said("containerd's, CRI-O's, k3s'"),
        "the first that is there is the container runtime's"),
    key("health.peer_port", ANY, "1 to 65535", Is("7445"),
        "the port at which nodes look at each other (UDP) and measure with each other (TCP), the same on all of them; open between nodes \
         ([health.md](health.md#peers))"),
    key("health.preflight_least_mbit", ANY, "1 to 10000000", Said("nothing is expected"),
        "Mbit/s over one connection of TCP, each way, to one at least of the nodes that a preflight measures with ([health.md](health.md#measured-with-others))"),
    key("health.preflight_round_trip_micros", ANY, "1 to 10000000", Said("nothing is expected"),
        "likewise, microseconds there and back at most"),
    key("health.plugins.NAME.command", ANY, "list of a program's absolute path and its arguments", Said("needed"),
        "a program that says how the node is ([health.md](health.md#checks-of-your-own)). At most 20; a name has letters, digits, `-` and `_`"),
    key("health.plugins.NAME.kind", ANY, "`passive` or `preflight`", Said("`passive`"),
        "again and again, or once in a boot, before the first pod"),
    key("health.plugins.NAME.interval_seconds", ANY, "1 to 86400", Said("60"),
        "between two runs of a passive one"),
    key("health.plugins.NAME.timeout_seconds", ANY, "1 to 7200", Said("10"),
        "it is killed after that, and nothing is known"),
    key("health.plugins.NAME.failures", ANY, "1 to 10", Said("2"),
        "so many runs in a row have to fail"),
    key("health.plugins.NAME.memory_mib", ANY, "1 to 1048576", Said("256"),
        "memory of each of its processes"),
    key("health.plugins.NAME.cpu_seconds", ANY, "1 to 1048576", Said("`timeout_seconds`"),
        "processor time of each of its processes"),
    key("telemetry.listen", ANY, "address and port", Is("\"127.0.0.1:9807\""),
        "where metrics and health are served; `\"\"` for nowhere"),
];

impl Key {
    /// For which sources it is, in words; nothing where it is for any.
    pub(crate) fn only_for(&self) -> Option<&'static str> {
        match self.kinds {
            [FIXED] => Some("fixed"),
            [AWS] => Some("AWS"),
            [AZURE] => Some("Azure"),
            kinds if kinds == CLOUDS => Some("clouds"),
            _ => None,
        }
    }
}

/// Whether there is such a key. Those of a list of tables are told where the list is; a table of named tables is told by its keys.
pub(super) fn is_declared(key: &str) -> bool {
    let list = key.split_once('[').map_or(key, |(list, _)| list);
    KEYS.iter().any(|declared| match declared.name.split_once(".NAME") {
        None => declared.name == list,
        Some((tables, of_each)) => list.strip_prefix(tables).is_some_and(|named| named.is_empty() || named.ends_with(of_each)),
    })
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use toml::{Table, Value};

    use super::*;
    use crate::config::{Config, ConfigErrors};

    /// Complete for a kind of source, and with a fleet, without which its other keys do nothing.
    fn least(kind: &str) -> Table {
        let ranges = if kind == FIXED { "ranges = [\"10.0.1.16/28\"]" } else { "" };
        let text = format!(
            "[source]\nkind = {kind:?}\n{ranges}\n[network]\nnative_cidrs = [\"10.0.0.0/16\"]\n[fleet]\nreplicas = [\"10.0.0.1:7443\"]\n"
        );
        text.parse().unwrap()
    }

    fn with(kind: &str, key: &str, value: &str) -> Result<Config, ConfigErrors> {
        let (sections, name) = key.rsplit_once('.').unwrap();
        let value = format!("v = {value}").parse::<Table>().unwrap().remove("v").unwrap();
        let mut document = least(kind);
        let mut table = &mut document;
        for section in sections.split('.') {
            let Value::Table(inner) = table.entry(section).or_insert_with(|| Value::Table(Table::new())) else { panic!("{section}") };
            table = inner;
        }
        table.insert(name.to_owned(), value);
        Config::from_toml(&document.to_string(), "host")
    }

    /// What the reader says that a value of another type is not.
    fn wanted(form: &str) -> String {
        match form {
            "boolean" => "true or false".to_owned(),
            "integer" => "a whole number".to_owned(),
            "table" => "a table".to_owned(),
            _ if form.starts_with("list of") => "an array".to_owned(),
            _ => match form.split_once(" to ") {
                Some((from, to)) if from.parse::<u64>().is_ok() => format!("number from {from} to {to}"),
                Some((_, to)) => format!(" to {to}"),
                None => "a string".to_owned(),
            },
        }
    }

    #[test]
    fn each_key_is_read_for_its_sources_alone_and_has_the_type_that_is_told() {
        for Key { name, form, kinds, .. } in KEYS.iter().filter(|key| key.name != "source.kind") {
            for kind in ANY {
                let faults = with(kind, name, "1979-05-27").unwrap_err().0;
                let about: Vec<_> = faults.iter().filter(|fault| fault.starts_with(&format!("{name}:"))).collect();
                let expected = if kinds.contains(kind) { wanted(form) } else { "belongs to source.kind".to_owned() };
                assert!(about[0].contains(&expected), "{kind}: {about:?}: not {expected}");
            }
        }
    }

    #[test]
    fn a_default_that_is_written_is_the_default() -> Result<(), Box<dyn Error>> {
        for Key { name, kinds, absent, .. } in KEYS {
            let Is(value) = absent else { continue };
            for kind in kinds {
                let without = Config::from_toml(&least(kind).to_string(), "host")?;
                assert_eq!(with(kind, name, value)?, without, "{kind}: {name} = {value}");
            }
        }
        Ok(())
    }

    #[test]
    fn each_word_that_is_told_is_taken() {
        for Key { name, kinds, form, .. } in KEYS.iter().filter(|key| key.name != "source.kind" && key.form.starts_with("`\"")) {
            for word in form.split('"').skip(1).step_by(2) {
                assert!(with(kinds[0], name, &format!("{word:?}")).is_ok(), "{name} = {word}");
            }
        }
    }
}
