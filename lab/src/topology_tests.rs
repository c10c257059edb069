use super::*;

fn parse(text: &str) -> Result<Topology> {
    Topology::parse(text, Path::new("/labs/some.clab.yml"))
}

fn refused(text: &str) -> String {
    let message = parse(text).unwrap_err().to_string();
    assert!(message.starts_with("/labs/some.clab.yml: "), "the file is not named: {message}");
    message
}

const TWO: &str = r#"
name: two
topology:
  defaults:
    kind: linux
    env: { SHARED: 1, COLOUR: red }
    exec: ["first"]
  kinds:
    linux:
      image: barewire-node
      env: { COLOUR: green }
  nodes:
    a:
      cmd: sleep infinity
      env: { COLOUR: blue }
      exec: ["sh -c 'echo two words'"]
      binds: ["conf/a.toml:/etc/a.toml:ro", "/abs:/there"]
      labels: { barewire.role: node, rank: 1 }
      sysctls: { net.ipv4.ip_forward: 1 }
    b:
  links:
    - endpoints: ["a:eth1", "b:eth1"]
      mtu: 9001
    - endpoints: ["a:eth2", "b:eth2"]
"#;

#[test]
fn a_whole_topology_with_inheritance() {
    let topology = parse(TWO).unwrap();
    assert_eq!(topology.name, "two");
    assert_eq!(topology.warnings, Vec::<String>::new());
    let a = &topology.nodes["a"];
    assert_eq!(a.program, ["sleep", "infinity"]);
    assert_eq!(a.env["COLOUR"], "blue");
    assert_eq!(a.env["SHARED"], "1");
    assert_eq!(a.exec, [vec!["first"], vec!["sh", "-c", "echo two words"]]);
    assert_eq!(a.binds[0].source, Path::new("/labs/conf/a.toml"));
    assert!(a.binds[0].read_only && !a.binds[1].read_only);
    assert_eq!(a.binds[1].source, Path::new("/abs"));
    assert_eq!(a.sysctls["net.ipv4.ip_forward"], "1");
    assert_eq!(topology.nodes["b"].env["COLOUR"], "green");
    assert_eq!(topology.links[0].mtu, 9001);
    assert_eq!(topology.links[1].mtu, DEFAULT_MTU);
    assert_eq!(topology.with_role("node").collect::<Vec<_>>(), ["a"]);
}

#[test]
fn what_containerlab_knows_and_we_do_not_is_a_warning() {
    let topology = parse("{name: w, settings: {}, topology: {nodes: {a: {kind: linux, cpu: 2, network-mode: host}}}}").unwrap();
    assert_eq!(topology.warnings.len(), 3, "{:?}", topology.warnings);
    assert!(topology.warnings.iter().any(|warning| warning.contains("node a") && warning.contains("`cpu`")));
    assert!(topology.warnings.iter().any(|warning| warning.contains("network-mode \"host\"")));
}

#[test]
fn every_refusal_names_place_and_value() {
    let node = |body: &str| format!("{{name: x, topology: {{nodes: {{a: {body}}}}}}}");
    let link = |body: &str| format!("{{name: x, topology: {{defaults: {{kind: linux}}, nodes: {{a: , b: }}, links: [{body}]}}}}");
    let cases = [
        ("name: [".to_owned(), vec!["not YAML"]),
        ("topology: {nodes: {a: {kind: linux}}}".to_owned(), vec!["`name` is missing"]),
        ("{name: a/b, topology: {nodes: {}}}".to_owned(), vec!["`name`", "a/b"]),
        ("{name: x, topology: {nodes: {}}}".to_owned(), vec!["at least one node"]),
        ("{name: x, topologie: {}}".to_owned(), vec!["key `topologie`"]),
        (node("{}"), vec!["node a", "`kind` is missing"]),
        (node("{kind: ceos}"), vec!["node a", "ceos"]),
        (node("{kind: linux, exek: [x]}"), vec!["node a", "key `exek`"]),
        (node("{kind: linux, exec: ip link}"), vec!["node a", "`exec`", "ip link"]),
        (node("{kind: linux, exec: [\"echo 'open\"]}"), vec!["node a", "`exec`", "quote"]),
        (node("{kind: linux, binds: [/only-one]}"), vec!["node a", "/only-one"]),
        (node("{kind: linux, binds: ['x:relative']}"), vec!["node a", "x:relative"]),
        (node("{kind: linux, env: {A: [1]}}"), vec!["node a", "env `A`"]),
        (link("{endpoints: ['a:eth1']}"), vec!["link 1", "1 endpoints"]),
        (link("{endpoints: ['a:eth1', 'c:eth1']}"), vec!["link 1", "no node \"c\""]),
        (link("{endpoints: ['a:eth1', 'b']}"), vec!["link 1", "\"b\""]),
        (link("{endpoints: ['a:eth1', 'b:a-name-of-16-chr']}"), vec!["link 1", "a-name-of-16-chr"]),
        (link("{endpoints: ['a:eth1', 'b:eth1'], mtu: 100}"), vec!["link 1", "mtu 100"]),
        (link("{endpoints: ['a:eth1', 'b:eth1']}, {endpoints: ['a:eth1', 'b:eth2']}"), vec!["link 2", "a:eth1"]),
        (link("{type: veth}"), vec!["link 1", "long form"]),
    ];
    for (text, needles) in cases {
        let message = refused(&text);
        for needle in needles {
            assert!(message.contains(needle), "{needle:?} is not in {message:?}, the answer to {text}");
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let message = Topology::read(Path::new("/nowhere/x.clab.yml")).unwrap_err().to_string();
    assert!(message.contains("/nowhere/x.clab.yml"), "{message}");
}
