//! What the cloud has announced to do to the machine: a node that is about to be restarted or taken back takes no more pods.

use std::time::{Duration, SystemTime};

use ipam_clouds::{Maintenance, Source};
use tokio::runtime::Builder;

use super::Look;
use crate::conditions::timestamp;
use crate::config::Cloud;
use crate::health_check::Verdict;

/// What begins later is left to who plans such things: clouds announce weeks ahead.
const SOON: Duration = Duration::from_secs(3_600);

/// Asks the cloud of the configuration, with a client of its own: addresses are asked for at another pace.
pub(super) fn look(cloud: Option<Cloud>) -> Look {
    let mut client = None;
    Box::new(move |_| {
        let Some(cloud) = &cloud else { return Verdict::Unknown("no cloud is configured".to_owned()) };
        let told = match &mut client {
            Some(client) => Ok(client),
            none => Builder::new_current_thread().enable_all().build().map(|runtime| none.insert((runtime, Source::from(cloud)))),
        };
        match told.map(|(runtime, source)| runtime.block_on(source.maintenance())) {
            Ok(Ok(announced)) => judge(SystemTime::now(), &announced),
            Ok(Err(why)) => Verdict::Unknown(why),
            Err(error) => Verdict::Unknown(error.to_string()),
        }
    })
}

/// Bad is what begins within the hour, or may at any moment.
fn judge(now: SystemTime, announced: &[Maintenance]) -> Verdict {
    let is_soon = |begins: SystemTime| begins <= now + SOON;
    let soon = announced.iter().filter(|it| it.begins.is_none_or(is_soon)).map(|Maintenance { what, begins }| match begins {
        Some(begins) => format!("{what} from {} on", timestamp(*begins)),
        None => what.clone(),
    });
    let soon: Vec<_> = soon.collect();
    if soon.is_empty() { Verdict::Ok } else { Verdict::Failed(format!("the cloud has announced {}", soon.join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_soon_is_bad_and_what_is_weeks_ahead_is_not() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_466_479);
        let announced = |what: &str, begins: Option<i64>| Maintenance {
            what: what.to_owned(),
            begins: begins
                .map(|seconds| if seconds < 0 { now - Duration::from_secs(60) } else { now + Duration::from_secs(seconds as u64) }),
        };
        assert_eq!(judge(now, &[]), Verdict::Ok);
        assert_eq!(judge(now, &[announced("instance-retirement", Some(1_209_600))]), Verdict::Ok);
        let all = [announced("Preempt", Some(-1)), announced("system-reboot", Some(3_601)), announced("preempted", None)];
        let said = "the cloud has announced Preempt from 2026-11-23T20:40:19Z on, preempted";
        assert_eq!(judge(now, &all), Verdict::Failed(said.to_owned()));
        assert!(matches!(look(None)(Duration::ZERO), Verdict::Unknown(_)));
    }
}
