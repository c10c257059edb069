use super::*;

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn link(name: &str) -> Link {
    Link { name: name.to_owned(), has_carrier: true, ..Link::default() }
}

fn one(link: Link) -> Links {
    Links { there: vec![link], gone: BTreeSet::new() }
}

#[test]
fn a_carrier_that_is_lost_is_named_and_an_interface_that_left_beside_another_is_none() {
    let mut links = Links { there: vec![link("eth0"), Link { has_carrier: false, ..link("eth1") }], gone: BTreeSet::new() };
    assert_eq!(carrier(&links), Verdict::Failed("eth1 has no carrier".to_owned()));
    links.there.pop();
    links.gone.insert("eth1".to_owned());
    assert_eq!(carrier(&links), Verdict::Ok);
    links.there.clear();
    assert_eq!(carrier(&links), Verdict::Failed("eth1 is gone, and there is no other uplink".to_owned()));
    assert_eq!(carrier(&Links::default()).result(), "unknown");
}

#[test]
fn a_lower_speed_than_once_is_bad_and_none_at_all_is_not_known() {
    let mut speed = Speed::default();
    let mut said = |speeds: Option<u64>, has_carrier| speed.judge(&one(Link { speed: speeds, has_carrier, ..link("eth0") })).result();
    let looks = [(None, true), (Some(10), true), (Some(100), true), (Some(25), true), (Some(25), false), (Some(100), true)];
    assert_eq!(looks.map(|(speeds, up)| said(speeds, up)), ["unknown", "ok", "ok", "failed", "unknown", "ok"]);
}

#[test]
fn three_losses_within_ten_minutes_are_flapping_however_often_it_is_looked_at() {
    for every in [1, 10, 60] {
        let mut flaps = Flaps::default();
        let mut said = Vec::new();
        // Lost and back at 100 s, 200 s and 300 s.
        for now in (0..=1200).step_by(every) {
            let changes = 40 + 2 * [100, 200, 300].iter().filter(|moment| now >= **moment).count() as u64;
            said.push((now, flaps.judge(&one(Link { carrier_changes: changes, ..link("eth0") }), at(now as u64)).result()));
        }
        let bad: Vec<_> = said.iter().filter(|(_, result)| *result == "failed").map(|(now, _)| *now).collect();
        assert_eq!(bad[0], 300, "every {every} s");
        // The first loss leaves the window ten minutes after it was seen.
        assert!((700 - every..=700 + every).contains(bad.last().unwrap()), "every {every} s: until {:?}", bad.last());
        assert!(flaps.0["eth0"].len() < 10);
    }
}

#[test]
fn errors_count_where_they_are_many_and_a_large_part_and_not_when_counters_are_set_back() {
    let mut errors = Errors::default();
    let mut said = |now, packets, errors_| errors.judge(&one(Link { packets, errors: errors_, ..link("eth0") }), at(now)).result();
    for (now, packets, count, expected) in [
        (0, 1_000, 5_000, "ok"),
        (10, 2_000, 5_099, "ok"),
        (20, 2_100, 5_100, "failed"),
        (30, 100_000, 5_200, "ok"),
        (61, 100_100, 5_350, "failed"),
        (62, 0, 0, "ok"),
        (100, 0, 0, "ok"),
    ] {
        assert_eq!(said(now, packets, count), expected, "at {now}");
    }
}

#[test]
fn a_table_is_full_at_nine_tenths_and_one_without_a_limit_never() {
    assert_eq!(fullness(&[("connections", 899, 1000), ("x", 5, 0)]), Verdict::Ok);
    assert_eq!(fullness(&[("connections", 900, 1000)]), Verdict::Failed("900 of 1000 connections are taken".to_owned()));
    assert_eq!(fullness(&[]), Verdict::Ok);
}

#[test]
fn disks_are_bad_when_full_or_become_read_only() {
    let well = Disk { blocks: 1000, available: 500, inodes: 1000, inodes_available: 500, is_read_only: false };
    for (disk, part) in [
        (Disk { available: 9, ..well }, "less than a hundredth of /var is free"),
        (Disk { inodes_available: 9, ..well }, "9 of 1000 inodes"),
        (Disk { is_read_only: true, ..well }, "read-only"),
    ] {
        let mut writable = Writable::default();
        assert_eq!(writable.judge("/var", well), Verdict::Ok);
        assert!(matches!(writable.judge("/var", disk), Verdict::Failed(why) if why.contains(part)), "{part}");
    }
    // An image is full and read-only by design; btrfs has no number of inodes.
    assert_eq!(Writable::default().judge("/", Disk { is_read_only: true, available: 0, ..well }), Verdict::Ok);
    assert_eq!(Writable::default().judge("/", Disk { inodes: 0, inodes_available: 0, ..well }), Verdict::Ok);
    let mut var = Writable { was_writable: true };
    assert_eq!(var.judge("/var", Disk { is_read_only: true, ..well }).result(), "failed");
}

#[test]
fn what_restarts_is_not_bad_and_what_was_never_there_is_not_known() {
    let mut answering = Answering::within(at(30));
    let no = || Err("refused".to_owned());
    let mut said = |now, answer| answering.judge(at(now), answer).result();
    let looks = [
        (0, no(), "unknown"),
        (100, no(), "unknown"),
        (101, Ok(()), "ok"),
        (102, no(), "unknown"),
        (131, no(), "unknown"),
        (132, no(), "failed"),
        (133, Ok(()), "ok"),
        (134, no(), "unknown"),
    ];
    for (now, answer, expected) in looks {
        assert_eq!(said(now, answer), expected, "at {now}");
    }
}

#[test]
fn a_gateway_without_an_entry_says_nothing() {
    assert_eq!(gateway(&[]), None);
    assert_eq!(gateway(&[("10.0.0.1".to_owned(), true)]), Some(Ok(())));
    let said = gateway(&[("10.0.0.1".to_owned(), true), ("10.0.1.1".to_owned(), false)]);
    assert_eq!(said, Some(Err("gateway 10.0.1.1 does not answer".to_owned())));
}

#[test]
fn a_clock_that_is_kept_badly_is_as_bad_as_one_that_is_not_kept() {
    let judged = |is_synchronised, millis| clock(Clock { is_synchronised, error: Duration::from_millis(millis) });
    assert_eq!((judged(true, 0), judged(true, 500)), (Ok(()), Ok(())));
    assert_eq!(judged(true, 2_300).unwrap_err(), "the clock is wrong by 2.3 s, as who keeps it says (adjtimex)");
    assert!(judged(false, 0).is_err());
}

#[test]
fn one_connection_that_is_answered_is_enough() {
    let to = ["10.0.0.10:6443".parse().unwrap(), "10.0.0.11:6443".parse().unwrap()];
    assert_eq!((api_server(&to, &[0]), api_server(&to, &[9, 2])), (Ok(()), Ok(())));
    assert_eq!(api_server(&to[..1], &[3, 9]).unwrap_err(), "10.0.0.10:6443 acknowledges nothing");
    assert_eq!(api_server(&to, &[]).unwrap_err(), "the node has no connection to 10.0.0.10:6443, 10.0.0.11:6443");
}
