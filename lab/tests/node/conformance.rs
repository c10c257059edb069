//! The CNI specification on `barewire-cni`, in every version that it speaks.

use anyhow::{Result, ensure};
use conformance_tests::known::Known;
use conformance_tests::suite::Suite;
use conformance_tests::version::SpecVersion;
use lab::host::Settings;
use serde_json::json;

use crate::on_node;

/// A /27: large enough for the pods that a case starts at once, small enough to see an address that is not released.
const RANGE: &str = "10.0.1.32/27";
const POOL_SIZE: u32 = 32;

#[test]
fn barewire_cni_conforms() -> Result<()> {
    on_node(Settings::scarce(RANGE, 0), |host, daemon| {
        let suite = Suite {
            plugin: host.plugin(),
            conf: json!({ "name": "barewire", "type": "barewire-cni", "socket": host.socket() }),
            versions: SpecVersion::ALL.to_vec(),
            only: String::new(),
            host_netns: Some(host.netns().path().to_owned()),
            pool_size: Some(POOL_SIZE),
            known: Known::default(),
        };
        let report = suite.run(|_| {})?;
        let unexpected: Vec<_> = report.cases.iter().filter(|case| !case.outcome.is_expected()).map(ToString::to_string).collect();
        ensure!(report.is_success(), "{}\n{}", unexpected.join("\n"), daemon.end_of_log());
        println!("{}", report.summary());
        let newest = report.counts(Some(SpecVersion::V1_1_0));
        ensure!(newest.pass > 50, "the newest version is hardly judged: {newest}");
        let pool = daemon.pool()?;
        ensure!(pool["attachments"] == 0 && pool["ipv4 held"] == 0, "the suite deletes what it adds, but {pool:?}");
        host.wait_for_host_ends(0)
    })
}
