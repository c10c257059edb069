//! `barewired --max-pods`: the number for kubelet's `maxPods`, so that the scheduler places no pod that would find no address.
//!
//! It is asked by node bootstrap, before kubelet and perhaps before the daemon runs: it reads the configuration and, where a cloud assigns
//! addresses, asks the cloud once. It changes nothing.

use std::thread::available_parallelism;
use std::time::Duration;

use ipam_clouds::Source;
use ipam_pool::range::{AddressRange, Family};
use ipam_supply::evidence::Reader;
use ipam_supply::{Outcome, Refusal, Request};

use crate::config::{Cloud, CloudSource, Config, Source as Addresses};
use crate::kernel::link_numbers;

/// Node bootstrap waits for it.
const LIMIT: Duration = Duration::from_secs(30);
/// A freed address rests for `pool.cooldown_seconds`: pods that replace others at once need some beyond those in use. One in so many.
const RESERVE_ONE_IN: u64 = 8;

/// Why there is no number.
#[derive(Debug, thiserror::Error)]
pub enum MaxPodsError {
    /// The cloud did not tell.
    #[error("the cloud does not tell how many addresses this machine has: {0}; see docs/clouds.md for what it needs")]
    Cloud(String),
    /// There is none to give.
    #[error("this machine has no address for pods; assign some to it (docs/clouds.md)")]
    NoAddress,
    /// The system has no thread or socket for it.
    #[error("cannot ask: {0}")]
    Io(#[from] std::io::Error),
}

/// How many pods addresses can serve at once.
///
/// # Errors
/// See [`MaxPodsError`].
pub fn max_pods(config: &Config) -> Result<u64, MaxPodsError> {
    let (addresses, most) = match &config.source {
        Addresses::Fixed(ranges) => (fewest(ranges.iter().map(|owned| owned.range)), u64::MAX),
        Addresses::Cloud(source) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let asked = runtime.block_on(async { tokio::time::timeout(LIMIT, of_cloud(source)).await });
            let addresses = asked.unwrap_or_else(|_| Err(MaxPodsError::Cloud(format!("no answer within {} s", LIMIT.as_secs()))))?;
            let is_aws = matches!(source.cloud, Cloud::Aws { .. });
            (addresses, if is_aws { eks_most(available_parallelism().map_or(1, |count| count.get() as u64)) } else { u64::MAX })
        }
    };
    if addresses == 0 {
        return Err(MaxPodsError::NoAddress);
    }
    Ok(for_pods(addresses, config.cooldown_millis > 0).min(most).min(link_numbers::COUNT.into()))
}

async fn of_cloud(source: &CloudSource) -> Result<u64, MaxPodsError> {
    let told = |refusal: Refusal| match refusal {
        Refusal::Other(why) => MaxPodsError::Cloud(why),
        Refusal::Throttled(_) => MaxPodsError::Cloud("it asks for fewer calls".to_owned()),
        Refusal::Full | Refusal::Exhausted => MaxPodsError::NoAddress,
    };
    let cloud = Source::from(&source.cloud);
    let mut least = u64::MAX;
    let mut assigned = None;
    for family in &source.families {
        let addresses = match cloud.address_limit(*family).await.map_err(told)? {
            Some(limit) => limit,
            None => {
                if assigned.is_none() {
                    assigned = Some(match cloud.call(&Request::Read(Reader::Metadata)).await {
                        Outcome::Read(reading) => reading.interfaces,
                        Outcome::Refused(refusal) => return Err(told(refusal)),
                        other => return Err(MaxPodsError::Cloud(format!("{other:?}"))),
                    });
                }
                let blocks = assigned.iter().flatten().flat_map(|interface| &interface.blocks);
                size_of(blocks.map(|block| AddressRange::from(*block)), *family)
            }
        };
        least = least.min(addresses);
    }
    Ok(least)
}

/// A pod gets an address of each family: the family that has the fewest decides.
fn fewest(ranges: impl Iterator<Item = AddressRange> + Clone) -> u64 {
    let of = |family| size_of(ranges.clone(), family);
    Family::ALL.map(of).into_iter().filter(|size| *size > 0).min().unwrap_or(0)
}

fn size_of(ranges: impl Iterator<Item = AddressRange>, family: Family) -> u64 {
    ranges.filter(|range| range.family() == family).fold(0, |sum, range| sum.saturating_add(range.size()))
}

const fn for_pods(addresses: u64, cool_down: bool) -> u64 {
    if !cool_down || addresses <= 1 {
        return addresses;
    }
    addresses - addresses.div_ceil(RESERVE_ONE_IN)
}

/// What Amazon's own calculator for EKS caps the number at, by virtual processors: kubelet is not tested with more.
const fn eks_most(processors: u64) -> u64 {
    if processors > 30 { 250 } else { 110 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ranges: &str, pool: &str) -> u64 {
        let text = format!("[source]\nkind = \"fixed\"\n{ranges}\n[network]\nmasquerade = false\n[pool]\n{pool}\n");
        max_pods(&Config::from_toml(&text, "host").unwrap()).unwrap()
    }

    #[test]
    fn the_family_with_fewer_addresses_decides_and_some_are_left_to_cool_down() {
        assert_eq!(of("ranges = [\"10.0.1.16/28\"]", "cooldown_seconds = 0"), 16);
        assert_eq!(of("ranges = [\"10.0.1.16/28\"]\nexclude = [\"10.0.1.16\"]", "cooldown_seconds = 0"), 15);
        assert_eq!(of("ranges = [\"10.0.1.16/28\"]", ""), 14);
        assert_eq!(of("ranges = [\"10.0.1.16/28\", \"10.0.1.64/28\", \"fd00::/80\"]", ""), 28);
        assert_eq!(of("ranges = [\"10.0.1.0/24\", \"fd00::1-fd00::8\"]", ""), 7);
        assert_eq!(of("ranges = [\"10.0.1.16\"]", ""), 1);
        assert_eq!(of("ranges = [\"10.0.1.16\", \"10.0.1.18\"]", ""), 1);
    }

    #[test]
    fn it_is_no_more_than_the_node_can_wire() {
        assert_eq!(of("ranges = [\"fd00::/64\"]", ""), u64::from(link_numbers::COUNT));
    }

    #[test]
    fn one_is_always_left() {
        for addresses in 1..1000 {
            let pods = for_pods(addresses, true);
            assert!(pods >= 1 && pods <= addresses && (addresses == 1 || pods < addresses), "{addresses}: {pods}");
        }
        assert_eq!([eks_most(2), eks_most(30), eks_most(31)], [110, 110, 250]);
    }
}
