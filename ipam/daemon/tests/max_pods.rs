//! `barewired --max-pods` against a simulated EC2 on sockets, as node bootstrap asks it: with what the configuration says and nothing
//! else.

use std::net::TcpListener;

use barewired::config::Config;
use barewired::max_pods::max_pods;
use cloudsim::cloud::{Cloud, LaunchSpec, Settings, SubnetSpec};
use cloudsim::fabric::NoFabric;
use cloudsim::faults::Faults;
use cloudsim::http::{Asker, Role, Server};
use cloudsim::metadata::Service;

#[test]
fn max_pods_is_known_before_there_is_an_address() {
    let mut cloud = Cloud::new(Settings { seed: 5, vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()], ..Settings::default() });
    let availability_zone = "us-east-1a".to_owned();
    let spec = SubnetSpec { availability_zone, cidr: "10.0.0.0/20".parse().unwrap(), ipv6_cidr: None, tags: [].into() };
    let subnet = cloud.create_subnet(spec).unwrap();
    let server = Server::start(cloud, Box::new(NoFabric)).unwrap();
    let spec = LaunchSpec { role: Some("node".to_owned()), ..LaunchSpec::new("m5.large", subnet) };
    let instance = server.with(|cloud, now| cloud.launch(now, &spec).unwrap());
    let listen = |role| format!("http://{}", server.listen(TcpListener::bind("127.0.0.1:0").unwrap(), role).unwrap());
    let metadata = listen(Role::Metadata(Service::Aws, Asker::Instance(instance)));
    let api = listen(Role::Api);

    let config = |more: &str| {
        let text = format!("[source]\nkind = \"aws\"\nmetadata = {metadata:?}\n{more}");
        Config::from_toml(&text, "node").unwrap()
    };
    let with_api = config(&format!("api_endpoint = {api:?}\n"));
    let processors = std::thread::available_parallelism().unwrap().get();
    assert_eq!(max_pods(&with_api).unwrap(), if processors > 30 { 250 } else { 110 }, "the type allows more, EKS' cap does not");
    let without = max_pods(&config("api = false\n")).unwrap_err().to_string();
    assert!(without.contains("no address for pods"), "{without}");
    let mut faults = Faults::default();
    faults.metadata.off = true;
    server.with(|cloud, _| cloud.set_faults(faults));
    let away = max_pods(&config("api = false\n")).unwrap_err().to_string();
    assert!(away.contains("does not tell") && away.contains(&metadata), "{away}");
}
