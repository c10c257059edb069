use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use super::*;
use crate::health::judge;

const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
    eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
    eth0\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
const ARP: &str = "IP address       HW type     Flags       HW address            Mask     Device\n\
    10.0.0.1         0x1         0x2         02:00:00:00:00:01     *        eth0\n\
    10.0.0.7         0x1         0x0         00:00:00:00:00:00     *        eth0\n";

struct FakeNode(tempfile::TempDir);

impl FakeNode {
    fn new() -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        node.write("proc/net/route", ROUTES).write("proc/net/arp", ARP);
        node.write("proc/net/ipv6_route", &format!("{0} 00 {0} 00 {0} ffffffff 00000001 00000000 00200200 lo\n", "0".repeat(32)));
        node.link("eth0", "1", "25000", 3);
        node
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn link(&self, name: &str, carrier: &str, speed: &str, changes: u64) {
        let folder = format!("sys/class/net/{name}");
        for (file, text) in [("carrier", carrier), ("speed", speed), ("carrier_changes", &changes.to_string())] {
            self.write(&format!("{folder}/{file}"), &format!("{text}\n"));
        }
        for (file, text) in [("rx_packets", "70"), ("tx_packets", "30"), ("rx_errors", "2"), ("tx_errors", "1")] {
            self.write(&format!("{folder}/statistics/{file}"), &format!("{text}\n"));
        }
    }

    fn root(&self) -> &Path {
        self.0.path()
    }
}

#[test]
fn an_uplink_is_read_and_remembered_when_its_route_goes() {
    let node = FakeNode::new();
    let mut reader = UplinkReader::default();
    let eth0 = Link { name: "eth0".to_owned(), has_carrier: true, speed: Some(25_000), carrier_changes: 3, packets: 100, errors: 3 };
    assert_eq!(reader.read(node.root()).unwrap(), Links { there: vec![eth0], gone: BTreeSet::new() });
    // The kernel takes the routes of a link that is down; a driver without a carrier has no speed.
    node.write("proc/net/route", ROUTES.lines().next().unwrap());
    node.link("eth0", "0", "-1", 4);
    let links = reader.read(node.root()).unwrap();
    assert_eq!((links.there[0].has_carrier, links.there[0].speed), (false, None));
    assert_eq!(judge::carrier(&links).result(), "failed");
    fs::remove_dir_all(node.root().join("sys/class/net/eth0")).unwrap();
    assert_eq!(judge::carrier(&reader.read(node.root()).unwrap()).message(), "eth0 is gone, and there is no other uplink");
    assert_eq!(UplinkReader::default().read(node.root()).unwrap(), Links::default());
}

#[test]
fn an_uplink_of_ipv6_alone_is_found_and_the_route_of_last_resort_is_none() {
    let node = FakeNode::new();
    node.link("eth1", "1", "10000", 1);
    node.write("proc/net/route", "Iface\n");
    let zeros = "0".repeat(32);
    let route =
        |device: &str| format!("{zeros} 00 {zeros} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003 {device}\n");
    node.write("proc/net/ipv6_route", &(route("eth1") + &route("lo")));
    let links = UplinkReader::default().read(node.root()).unwrap();
    assert_eq!(links.there.iter().map(|link| &*link.name).collect::<Vec<_>>(), ["eth1"]);
}

#[test]
fn a_gateways_entry_is_told_and_that_of_others_is_not() {
    let node = FakeNode::new();
    assert_eq!(gateways(node.root()).unwrap(), [("10.0.0.1 of eth0".to_owned(), true)]);
    node.write("proc/net/arp", &ARP.replace("0x2", "0x0"));
    assert_eq!(gateways(node.root()).unwrap(), [("10.0.0.1 of eth0".to_owned(), false)]);
    node.write("proc/net/arp", ARP.lines().next().unwrap());
    assert_eq!(gateways(node.root()).unwrap(), []);
}

#[test]
fn tables_are_read_where_there_are_any() {
    let node = FakeNode::new();
    assert_eq!(conntrack(node.root()).unwrap(), None);
    assert_eq!(neighbours(node.root()).unwrap(), []);
    node.write("proc/sys/net/netfilter/nf_conntrack_count", "950\n").write("proc/sys/net/netfilter/nf_conntrack_max", "1000\n");
    node.write("proc/net/stat/arp_cache", "entries,allocs\n000003ff  00000001\n000003ff  00000001\n");
    node.write("proc/sys/net/ipv4/neigh/default/gc_thresh3", "1024\n");
    assert_eq!(conntrack(node.root()).unwrap(), Some((950, 1000)));
    assert_eq!(neighbours(node.root()).unwrap(), [("neighbours of IPv4", 1023, 1024)]);
    node.write("proc/sys/net/netfilter/nf_conntrack_max", "many\n");
    assert!(conntrack(node.root()).unwrap_err().to_string().contains("\"many\" is no number"));
    node.write("proc/uptime", "12.50 40.00\n");
    assert_eq!(uptime(node.root()).unwrap(), Duration::from_millis(12_500));
}

#[test]
fn this_machines_own_disk_can_be_read() {
    let found = disk(Path::new("/")).unwrap();
    assert!(found.blocks > 0 && found.available <= found.blocks, "{found:?}");
    assert!(disk(Path::new("/nowhere")).is_err());
}

#[test]
fn kubelets_answer_is_read_and_so_is_its_silence() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\n\r\nok", None),
        ("HTTP/1.0 500 Internal Server Error\r\n\r\nno", Some("says \"HTTP/1.0 500 Internal Server Error\"")),
        ("", Some("says \"\"")),
        (&"x".repeat(100_000), Some("says \"xxx")),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = answer.to_owned();
        let server = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut asked = [0; 256];
            let _ = stream.read(&mut asked).unwrap();
            drop(stream.write_all(answer.as_bytes()));
        });
        let said = healthz(address);
        server.join().unwrap();
        match expected {
            None => assert_eq!(said, Ok(())),
            // A server that is cut off in the middle of a long answer may reset.
            Some(part) => assert!(said.clone().is_err_and(|why| why.contains(part) || why.contains("reset")), "{said:?}"),
        }
    }
    // Nobody listens, and one that never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(healthz(silent.local_addr().unwrap()).is_err());
    let free = silent.local_addr().unwrap();
    drop(silent);
    assert!(healthz(free).unwrap_err().contains("refused"));
}

#[test]
fn a_runtime_is_the_first_socket_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a.sock"), folder.path().join("b.sock"));
    let sockets = [first, second.clone()];
    assert!(accepts(&sockets).unwrap_err().starts_with("none of "));
    let listener = UnixListener::bind(&second).unwrap();
    assert_eq!(accepts(&sockets), Ok(()));
    drop(listener);
    assert!(accepts(&sockets).unwrap_err().contains("refused"));
}

#[test]
fn connections_to_an_address_are_found_in_both_tables_and_others_are_not() {
    const TITLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
    let row = |peer: &str, state: &str, sent_again: &str| {
        format!(
            "   0: 0B00000A:C3F2 {peer} {state} 00000000:00000000 02:0000031F {sent_again}     0        0 24212 2 0000000000000000 20 4 30 10 -1\n"
        )
    };
    let node = FakeNode::new();
    let api = ["10.0.0.10:6443", "[fd00:10::10]:6443"].map(|address| address.parse().unwrap());
    assert_eq!(connections(node.0.path(), &api).unwrap(), [0_u32; 0], "a kernel without TCP has none");
    let v4 = [
        row("0A00000A:192B", "01", "00000000"),
        row("0A00000A:192B", "01", "00000005"),
        // Waits for what is late; somebody else; another port; half of a line.
        row("0A00000A:192B", "06", "00000000"),
        row("0B00000A:192B", "01", "00000000"),
        row("0A00000A:192C", "01", "00000000"),
        "   5: 0B00000A:C3F2 0A00000A\n".to_owned(),
    ];
    node.write("proc/net/tcp", &format!("{TITLE}{}", v4.concat()));
    // The other table; an IPv4 peer of a socket for both families; no address.
    let v6 = [
        row("100000FD000000000000000010000000:192B", "01", "00000001"),
        row("0000000000000000FFFF00000A00000A:192B", "01", "00000002"),
        row("000000FD:192B", "01", "00000000"),
    ];
    node.write("proc/net/tcp6", &format!("{TITLE}{}", v6.concat()));
    assert_eq!(connections(node.0.path(), &api).unwrap(), [0, 5, 1, 2]);
    assert_eq!(connections(node.0.path(), &api[1..]).unwrap(), [1]);
}

#[test]
fn this_machines_own_connections_are_found() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(connections(Path::new("/"), &[address]).unwrap(), [0_u32; 0]);
    let _connection = TcpStream::connect(address).unwrap();
    assert_eq!(connections(Path::new("/"), &[address]).unwrap(), [0]);
}
