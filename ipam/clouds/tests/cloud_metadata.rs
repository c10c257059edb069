//! The sources on Azure and Google Cloud, and what all three clouds announce, against simulated metadata services on sockets.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use cloudsim::cloud::{Cloud, InstanceId, LaunchSpec, Maintenance, MaintenanceKind, Settings, SubnetSpec};
use cloudsim::fabric::NoFabric;
use cloudsim::http::{Asker, Role, Server};
use cloudsim::metadata::Service;
use cloudsim::time::Millis;
use ipam_clouds::Source;
use ipam_clouds::aws::{Aws, AwsSettings};
use ipam_clouds::azure::{Azure, AzureSettings};
use ipam_clouds::gcp::{Gcp, GcpSettings};
use ipam_supply::evidence::Reader;
use ipam_supply::{Interface, Outcome, Refusal, Request};

/// An instance whose only interface has further addresses or prefixes; the server, and what it is to have.
fn launch(instance_type: &str, secondary: u32, prefixes: u32) -> (Server, InstanceId, Interface) {
    let mut cloud = Cloud::new(Settings { seed: 7, ..Settings::default() });
    let spec =
        SubnetSpec { availability_zone: "us-east-1a".to_owned(), cidr: "10.0.0.0/20".parse().unwrap(), ipv6_cidr: None, tags: [].into() };
    let subnet = cloud.create_subnet(spec).unwrap();
    let server = Server::start(cloud, Box::new(NoFabric)).unwrap();
    let mut spec = LaunchSpec::new(instance_type, subnet);
    (spec.interfaces[0].secondary_count, spec.interfaces[0].ipv4_prefix_count) = (secondary, prefixes);
    spec.interfaces[0].ipv4_prefix_length = 24;
    let (instance, expected) = server.with(|cloud, now| {
        let instance = cloud.launch(now, &spec).unwrap();
        let interface = cloud.interfaces_of(instance)[0];
        let primary = ipnetwork::IpNetwork::from(std::net::IpAddr::V4(interface.primary));
        let blocks = interface.networks().filter(|network| *network != primary).collect();
        let id = interface.mac.to_string();
        let bytes: Vec<_> = id.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        let gateways = vec!["10.0.0.1".parse().unwrap()];
        (
            instance,
            Interface {
                id,
                mac: bytes.try_into().unwrap(),
                address: Some(interface.primary.into()),
                gateways,
                blocks,
                free_slots: [0, 0],
                created_here: false,
            },
        )
    });
    (server, instance, expected)
}

fn listen(server: &Server, instance: InstanceId, service: Service) -> axum::http::Uri {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.listen(listener, Role::Metadata(service, Asker::Instance(instance))).unwrap();
    format!("http://{address}").parse().unwrap()
}

async fn interfaces(source: &Source, reader: Reader) -> Vec<Interface> {
    match source.call(&Request::Read(reader)).await {
        Outcome::Read(reading) => reading.interfaces,
        outcome => panic!("{outcome:?}"),
    }
}

#[tokio::test]
async fn azure_has_two_readers_that_agree() {
    // Thirty single addresses and two prefixes, with the primary at either end.
    let (server, instance, expected) = launch("Standard_D4s_v5", 30, 2);
    assert_eq!((expected.blocks.len(), expected.blocks.iter().filter(|block| block.prefix() == 24).count()), (32, 2));
    let settings =
        AzureSettings { metadata: listen(&server, instance, Service::Azure), wireserver: listen(&server, instance, Service::Wireserver) };
    for primary_last in [false, true] {
        server.with(|cloud, _| {
            let mut faults = cloud.faults().clone();
            (faults.metadata.primary_last, faults.wireserver.primary_last) = (primary_last, primary_last);
            cloud.set_faults(faults);
        });
        let source = Source::Azure(Azure::new(settings.clone()));
        for reader in [Reader::Metadata, Reader::Api] {
            assert_eq!(interfaces(&source, reader).await, std::slice::from_ref(&expected), "{primary_last}");
        }
    }
    let source = Source::Azure(Azure::new(settings));
    server.with(|cloud, _| {
        let mut faults = cloud.faults().clone();
        faults.wireserver.html = true;
        cloud.set_faults(faults);
    });
    let outcome = source.call(&Request::Read(Reader::Api)).await;
    assert!(matches!(&outcome, Outcome::Refused(Refusal::Other(why)) if why.contains("wireserver's list")), "{outcome:?}");
    assert_eq!(interfaces(&source, Reader::Metadata).await.len(), 1);
}

#[tokio::test]
async fn google_cloud_has_alias_ranges() {
    let (server, instance, expected) = launch("n2-standard-4", 2, 2);
    assert_eq!(expected.blocks.len(), 4);
    let source = Source::Gcp(Gcp::new(GcpSettings { metadata: listen(&server, instance, Service::Gcp), ..GcpSettings::default() }));
    assert_eq!(interfaces(&source, Reader::Metadata).await, [expected]);
}

#[tokio::test]
async fn what_ends_the_machine_is_announced_and_what_pauses_it_is_not() {
    let (server, instance, _) = launch("m5.large", 0, 0);
    let metadata = |service| listen(&server, instance, service);
    let aws = AwsSettings { metadata: metadata(Service::Aws), all_interfaces: false, api: None };
    let azure = AzureSettings { metadata: metadata(Service::Azure), wireserver: metadata(Service::Wireserver) };
    let gcp = GcpSettings { metadata: metadata(Service::Gcp), ..GcpSettings::default() };
    let sources = [Source::Aws(Box::new(Aws::new(aws))), Source::Azure(Azure::new(azure)), Source::Gcp(Gcp::new(gcp))];
    let begins = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_466_479);
    let announce = |kind: Option<MaintenanceKind>| {
        let maintenance = kind.map(|kind| Maintenance { kind, begins: Millis::seconds(1_795_466_479) });
        server.with(|cloud, _| cloud.announce(instance, maintenance)).unwrap();
    };
    let words = |kind| match kind {
        Some(MaintenanceKind::Reboot) => [Some("system-reboot"), Some("Reboot"), Some("TERMINATE_ON_HOST_MAINTENANCE")],
        Some(MaintenanceKind::Planned) => [Some("system-reboot"), Some("Reboot"), Some("upcoming-maintenance SCHEDULED")],
        Some(MaintenanceKind::Reclaim) => [Some("spot terminate"), Some("Preempt"), Some("preempted")],
        Some(MaintenanceKind::Pause) | None => [None; 3],
    };
    let kinds = [MaintenanceKind::Reboot, MaintenanceKind::Planned, MaintenanceKind::Pause, MaintenanceKind::Reclaim].map(Some);
    for kind in [&[None], &kinds[..], &[None]].concat() {
        announce(kind);
        for (source, what) in sources.iter().zip(words(kind)) {
            let told = source.maintenance().await.unwrap();
            assert_eq!(told.iter().map(|it| it.what.as_str()).collect::<Vec<_>>(), Vec::from_iter(what), "{kind:?}");
            let is_timed = kind == Some(MaintenanceKind::Planned) || !matches!(source, Source::Gcp(_));
            assert!(told.iter().all(|it| it.begins == is_timed.then_some(begins)), "{told:?}");
        }
    }
    // Something else that answers is no announcement, and neither is it none.
    server.with(|cloud, _| {
        let mut faults = cloud.faults().clone();
        faults.metadata.html = true;
        cloud.set_faults(faults);
    });
    for source in &sources {
        assert!(source.maintenance().await.is_err_and(|why| why.contains("answered")));
    }
}
