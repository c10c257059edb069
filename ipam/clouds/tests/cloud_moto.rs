//! The source on AWS against moto, an implementation of the EC2 API that we did not write. Needs moto's environment, which
//! `cargo xtask bootstrap` installs. moto knows no prefixes, so the instance is of a type that has none: single addresses are assigned.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "says why it is skipped")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use ipam_clouds::Source;
use ipam_clouds::aws::{ApiSettings, Aws, AwsSettings};
use ipam_pool::range::Family;
use ipam_supply::evidence::Reader;
use ipam_supply::{Outcome, Reading, Request};
use tokio::net::TcpListener;

#[path = "../../../cloudsim/tests/http/python.rs"]
mod python;
#[path = "../../../cloudsim/tests/http/moto/server.rs"]
mod server;

/// Launches an instance with AWS's own client; prints its identifier.
const LAUNCH: &str = "
import boto3, sys
ec2 = boto3.client('ec2', endpoint_url=sys.argv[1], region_name='us-east-1', aws_access_key_id='AKIDEXAMPLE', aws_secret_access_key='secret')
subnet = ec2.describe_subnets()['Subnets'][0]['SubnetId']
image = ec2.describe_images()['Images'][0]['ImageId']
run = ec2.run_instances(ImageId=image, InstanceType='m4.large', SubnetId=subnet, MinCount=1, MaxCount=1)
print(run['Instances'][0]['InstanceId'])
";

fn launch(python: &Path, url: &str) -> String {
    let output = Command::new(python).args(["-c", LAUNCH, url]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The metadata service says which instance this is, and no more.
async fn metadata(instance: String) -> Uri {
    let keys = BTreeMap::from([
        ("/latest/meta-data/instance-id", instance),
        ("/latest/meta-data/instance-type", "m4.large".to_owned()),
        ("/latest/meta-data/placement/region", "us-east-1".to_owned()),
        ("/latest/meta-data/placement/availability-zone", "us-east-1a".to_owned()),
    ]);
    let answer = async move |method: Method, uri: Uri| match keys.get(uri.path()) {
        _ if method == Method::PUT => (StatusCode::OK, "token".to_owned()),
        Some(value) => (StatusCode::OK, value.clone()),
        None => (StatusCode::NOT_FOUND, String::new()),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    url
}

async fn read(source: &Source) -> Reading {
    match source.call(&Request::Read(Reader::Api)).await {
        Outcome::Read(reading) => reading,
        outcome => panic!("{outcome:?}"),
    }
}

#[tokio::test]
async fn addresses_and_interfaces() {
    let Some(python) = python::program("python") else { return };
    let moto = server::MotoServer::start(&python);
    let metadata = metadata(launch(&python, &moto.url)).await;
    let credentials = SharedCredentialsProvider::new(Credentials::new("AKIDEXAMPLE", "secret", None, None, "test"));
    let api = ApiSettings { endpoint: Some(moto.url.parse().unwrap()), credentials: Some(credentials), ..ApiSettings::default() };
    let source = Source::Aws(Box::new(Aws::new(AwsSettings { metadata, all_interfaces: false, api: Some(api) })));

    let reading = read(&source).await;
    assert_eq!((reading.interfaces.len(), reading.interfaces[0].free_slots[0], reading.interface_room), (1, 9, true));
    let id = reading.interfaces[0].id.clone();
    let outcome = source.call(&Request::Assign { interface: id.clone(), family: Family::V4, blocks: 2 }).await;
    let blocks = read(&source).await.interfaces[0].blocks.clone();
    // A type without prefixes: of two blocks' worth of single addresses, as many as there is room for.
    assert_eq!(blocks.iter().map(|block| block.prefix()).collect::<Vec<_>>(), [32; 9]);
    // moto's reply names the addresses that were there before as well.
    assert!(matches!(&outcome, Outcome::Assigned(assigned) if blocks.iter().all(|block| assigned.contains(block))), "{outcome:?}");
    let first = *blocks.first().unwrap();
    assert_eq!(source.call(&Request::Unassign { interface: id, blocks: vec![first] }).await, Outcome::Unassigned);
    assert_eq!(read(&source).await.interfaces[0].blocks, blocks.iter().skip(1).copied().collect());

    assert_eq!(source.call(&Request::AddInterface { family: Family::V4, blocks: 1 }).await, Outcome::Added);
    let reading = read(&source).await;
    assert_eq!((reading.interfaces.len(), reading.interfaces[1].blocks.len()), (2, 9));
    let Source::Aws(aws) = &source else { panic!("another source") };
    assert_eq!(aws.sweep_leaked(Duration::from_secs(0)).await, Ok(0), "what is attached is not swept");
}
