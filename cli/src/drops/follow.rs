//! What the daemon tells of single packets, as lines. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::Output;

/// So many answers pass before it is said again how many packets were not told: about a second.
const ANSWERS: u32 = 5;

/// One watcher.
#[derive(Debug)]
pub(super) struct Follower {
    /// What to ask with.
    next: u64,
    /// Packets that were not told, by reason, since the programs were loaded.
    untold: BTreeMap<String, u64>,
    /// Those that were not told since it was said last.
    unsaid: BTreeMap<String, u64>,
    answers: u32,
    pod: Option<String>,
    left: u64,
}

/// In words, and as a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    text: String,
    json: Value,
}

impl Line {
    /// As it is printed: a JSON value a line, so that a reader along a pipe has whole ones.
    pub(super) fn written(&self, output: Output) -> std::io::Result<String> {
        Ok(match output {
            Output::Text => format!("{}\n", self.text.trim_end()),
            Output::Json => format!("{}\n", self.json),
            Output::Yaml => format!("---\n{}", serde_saphyr::to_string(&self.json).map_err(std::io::Error::other)?),
        })
    }
}

impl Follower {
    /// From the first answer on; of one pod, or of all.
    pub(super) fn new(first: &Value, pod: Option<&str>, count: u64) -> Self {
        let (next, untold) = (first["next"].as_u64().unwrap_or_default(), untold(first));
        Self { next, untold, unsaid: BTreeMap::new(), answers: 0, pod: pod.map(str::to_owned), left: count }
    }

    pub(super) fn question(&self) -> String {
        format!("/drops?after={}", self.next)
    }

    pub(super) const fn is_done(&self) -> bool {
        self.left == 0
    }

    pub(super) fn head() -> Line {
        Line { text: columns("TIME", "POD", "WAY", "REASON", "PACKET"), json: Value::Null }
    }

    /// What an answer tells that is new.
    pub(super) fn take_in(&mut self, page: &Value) -> Vec<Line> {
        self.next = page["next"].as_u64().unwrap_or_default();
        let dropped = page["dropped"].as_array().into_iter().flatten().filter(|packet| self.is_wanted(packet));
        let lines: Vec<_> = dropped.take(usize::try_from(self.left).unwrap_or(usize::MAX)).map(line).collect();
        self.left -= lines.len() as u64;
        for (reason, now) in untold(page) {
            let before = self.untold.insert(reason.clone(), now).unwrap_or_default();
            // A counter that fell is another daemon's.
            *self.unsaid.entry(reason).or_default() += if now < before { now } else { now - before };
        }
        *self.unsaid.entry("any".to_owned()).or_default() += page["missed"].as_u64().unwrap_or_default();
        self.answers += 1;
        if self.answers.is_multiple_of(ANSWERS) { [lines, self.rest()].concat() } else { lines }
    }

    /// How many were not told since it was said last. They are nobody's: of a single pod nothing can be said.
    pub(super) fn rest(&mut self) -> Vec<Line> {
        let unsaid = std::mem::take(&mut self.unsaid).into_iter().filter(|(_, packets)| *packets > 0);
        let said = unsaid.map(|(reason, packets)| {
            let text = columns("", "", "", &reason, &format!("{packets} more, which are not told one by one"));
            Line { text, json: json!({ "reason": reason, "untold": packets }) }
        });
        said.collect()
    }

    fn is_wanted(&self, packet: &Value) -> bool {
        let word = |key: &str| packet[key].as_str().unwrap_or_default();
        let names = [word("pod").to_owned(), format!("{}/{}", word("namespace"), word("pod"))];
        self.pod.as_ref().is_none_or(|pod| names.contains(pod))
    }
}

fn untold(page: &Value) -> BTreeMap<String, u64> {
    let counted = page["untold"].as_object().into_iter().flatten();
    counted.map(|(reason, packets)| (reason.clone(), packets.as_u64().unwrap_or_default())).collect()
}

/// Wide enough for most names and for every reason; what is longer moves the rest of its line.
fn columns(time: &str, pod: &str, way: &str, reason: &str, packet: &str) -> String {
    format!("{time:<12}  {pod:<28}  {way:<8}  {reason:<26}  {packet}")
}

fn line(packet: &Value) -> Line {
    let word = |key: &str| packet[key].as_str().unwrap_or_default();
    // `2026-11-27T13:05:06.123Z`: the day is known to whoever watches.
    let time = word("time").split_once('T').map(|(_, time)| time.trim_end_matches('Z')).unwrap_or_default();
    let pod = match (word("namespace"), word("pod")) {
        (_, "") if word("interface").is_empty() => "-".to_owned(),
        (_, "") => format!("- ({})", word("interface")),
        (namespace, pod) => format!("{namespace}/{pod}"),
    };
    Line { text: columns(time, &pod, word("direction"), word("reason"), &summary(packet)), json: packet.clone() }
}

/// `tcp 10.0.9.9:40000 -> 10.0.7.7:443 SYN, 74 bytes`
fn summary(packet: &Value) -> String {
    let word = |key: &str| packet[key].as_str().filter(|word| !word.is_empty());
    let end = |address: &str, port: &str| {
        let address = word(address)?;
        Some(match packet[port].as_u64() {
            Some(port) if address.contains(':') => format!("[{address}]:{port}"),
            Some(port) => format!("{address}:{port}"),
            None => address.to_owned(),
        })
    };
    let mut words = vec![word("protocol").unwrap_or("packet").to_owned()];
    match (end("source", "source_port"), end("destination", "destination_port")) {
        (Some(source), Some(destination)) => words.push(format!("{source} -> {destination}")),
        (source, destination) => words.extend(source.or(destination)),
    }
    if word("reason") == Some("spoofed_mac") {
        words.extend(word("source_mac").map(|mac| format!("from {mac}")));
    }
    words.extend(word("details").map(str::to_owned));
    format!("{}, {} bytes", words.join(" "), packet["length"].as_u64().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(pod: &str, reason: &str) -> Value {
        json!({
            "time": "2026-11-27T13:05:06.123Z", "namespace": "web", "pod": pod, "direction": "sent", "reason": reason,
            "interface": "bw0000100000", "length": 74, "protocol": "tcp", "source": "10.0.9.9", "source_port": 40_000,
            "destination": "10.0.7.7", "destination_port": 443, "details": "SYN", "source_mac": "02:00:00:00:00:07",
        })
    }

    fn texts(lines: &[Line]) -> Vec<String> {
        lines.iter().map(|line| line.text.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn a_packet_is_one_line() {
        let told = line(&packet("api", "spoofed_address"));
        let [text] = &texts(std::slice::from_ref(&told))[..] else { panic!() };
        assert_eq!(text, "13:05:06.123 web/api sent spoofed_address tcp 10.0.9.9:40000 -> 10.0.7.7:443 SYN, 74 bytes");
        assert!(Follower::head().text.find("REASON") == told.text.find("spoofed_address"), "columns stand below each other");
        let json: Value = serde_json::from_str(&told.written(Output::Json).unwrap()).unwrap();
        assert_eq!((&json["reason"], told.written(Output::Json).unwrap().lines().count()), (&json!("spoofed_address"), 1));
        assert!(told.written(Output::Yaml).unwrap().starts_with("---\n"));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let arp = json!({ "protocol": "arp", "source": "10.0.1.9", "details": "claims to be 02:00:00:00:00:09", "length": 42 });
        assert_eq!(summary(&arp), "arp 10.0.1.9 claims to be 02:00:00:00:00:09, 42 bytes");
        let six = json!({ "protocol": "udp", "source": "fd00::1", "source_port": 53, "destination": "fd00::2", "destination_port": 9, "length": 80 });
        assert_eq!(summary(&six), "udp [fd00::1]:53 -> [fd00::2]:9, 80 bytes");
        assert_eq!(summary(&json!({ "protocol": "cut short", "length": 20 })), "cut short, 20 bytes");
        assert!(summary(&packet("api", "spoofed_mac")).contains("-> 10.0.7.7:443 from 02:00:00:00:00:07 SYN"));
        let nobodys = json!({ "time": "", "pod": null, "namespace": null, "interface": "eth1", "reason": "malformed" });
        assert!(texts(&[line(&nobodys)])[0].starts_with("- (eth1) malformed packet, 0 bytes"));
    }

    #[test]
    fn so_many_of_one_pod_are_followed_and_what_is_not_told_is_counted() {
        let page = |next: u64, untold: u64, missed: u64, pods: &[&str]| {
            let dropped: Vec<_> = pods.iter().map(|pod| packet(pod, "egress_limit")).collect();
            json!({ "programs": true, "next": next, "missed": missed, "untold": { "egress_limit": untold }, "dropped": dropped })
        };
        let mut follower = Follower::new(&page(7, 100, 0, &["api"]), Some("web/api"), 3);
        assert_eq!(follower.question(), "/drops?after=7");
        assert_eq!(follower.take_in(&page(9, 100, 0, &["api", "other"])).len(), 1);
        assert_eq!(follower.question(), "/drops?after=9");
        // Of the same name in another namespace.
        follower.pod = Some("batch/api".to_owned());
        assert!(follower.take_in(&page(10, 130, 4, &["api"])).is_empty());
        follower.pod = Some("api".to_owned());
        assert!(!follower.is_done());
        assert_eq!(follower.take_in(&page(13, 150, 0, &["api", "api", "api"])).len(), 2);
        assert!(follower.is_done());
        let untold = "more, which are not told one by one";
        assert_eq!(texts(&follower.rest()), [format!("any 4 {untold}"), format!("egress_limit 50 {untold}")]);
        assert!(follower.rest().is_empty());
        // Another daemon counts from nothing.
        let _ = follower.take_in(&page(1, 2, 0, &[]));
        assert_eq!(texts(&follower.rest()), [format!("egress_limit 2 {untold}")]);
        // About once a second it is said by itself.
        let said: usize = (3..20).map(|untold| follower.take_in(&page(1, untold, 0, &[])).len()).sum();
        assert!((3..=4).contains(&said), "{said}");
    }
}
