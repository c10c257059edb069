//! What can happen, as data: a trace is a list of these, and a failing one can be cut down and run again.

use ipam_supply::budget::Random;
use ipam_supply::evidence::Reader;

pub(crate) const NODES: usize = 2;
pub(crate) const PODS: u8 = 24;

/// One thing that happens. The first number is always the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The daemon asks its supply for a call to make, and makes it.
    Ask(usize),
    /// What becomes of the call that is out.
    Answer(usize, Fate),
    Add(usize, u8),
    Del(usize, u8),
    /// Seconds in which no daemon does anything.
    Wait(u16),
    /// Seconds in which every daemon does its work and every call arrives, until one of them calls for a change.
    Drive(u16),
    /// From now on a reader sees what was so many seconds ago.
    Lag(usize, Reader, u16),
    /// From now on a reader leaves out every block of this number modulo four; 4 leaves out none.
    Omit(usize, Reader, u8),
    /// Somebody takes a block away, by its place.
    Vanish(usize, u8),
    /// What was taken away comes back.
    Restore(usize),
    /// Somebody takes the last interface away, with all its blocks.
    Detach(usize),
    /// The kernel shows every interface that is attached.
    Appear(usize),
    /// The daemon dies and starts again; a call that is out may arrive or not.
    Crash(usize, bool),
    /// The daemon dies between taking an address and committing it.
    CrashInAdd(usize),
    /// Every pod dies with the kernel.
    Reboot(usize, bool),
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    /// It does not arrive.
    Lost,
    /// It is done, and the answer is lost.
    ReplyLost,
    /// It arrives twice, and the second answer is the one that comes back.
    Twice,
    /// One block fewer than asked for.
    Partial,
    Throttled,
    Refused,
}

/// A fifth of all calls go wrong.
fn fate(random: &mut Random) -> Fate {
    use Fate::{Done, Lost, Partial, Refused, ReplyLost, Throttled, Twice};
    [Lost, ReplyLost, Twice, Partial, Throttled, Refused].get(random.below(30) as usize).copied().unwrap_or(Done)
}

/// The longest that a reader of the API is behind. The supply counts on two minutes.
const API_LAG: u64 = 110;
/// The longest that metadata is behind. The supply counts on a quarter of an hour, and a call takes some of it.
pub(crate) const METADATA_LAG: u64 = 14 * 60;

pub(crate) fn trace(seed: u64, length: usize) -> Vec<Step> {
    let mut random = Random::of_name(&seed.to_string());
    (0..length).map(|_| step(&mut random)).collect()
}

fn step(random: &mut Random) -> Step {
    let node = random.below(NODES as u64) as usize;
    let pod = random.below(PODS.into()) as u8;
    let reader = if random.below(2) == 0 { Reader::Metadata } else { Reader::Api };
    let lag = |random: &mut Random| match reader {
        _ if random.below(3) == 0 => 0,
        Reader::Metadata => random.below(METADATA_LAG) as u16,
        Reader::Api => random.below(API_LAG) as u16,
    };
    match random.below(100) {
        0..25 => Step::Ask(node),
        25..45 => Step::Answer(node, fate(random)),
        45..58 => Step::Add(node, pod),
        58..70 => Step::Del(node, pod),
        70..78 => Step::Wait(random.below(40) as u16),
        78..85 => Step::Drive(random.below(900) as u16),
        85..88 => Step::Lag(node, reader, lag(random)),
        88..90 => Step::Omit(node, reader, random.below(8).min(4) as u8),
        90 => Step::Vanish(node, pod),
        91 => Step::Restore(node),
        92 if random.below(3) == 0 => Step::Detach(node),
        92..95 => Step::Appear(node),
        95..97 => Step::Crash(node, random.below(2) == 0),
        97 => Step::CrashInAdd(node),
        98 if random.below(3) == 0 => Step::Reboot(node, random.below(2) == 0),
        _ => Step::Add(node, pod),
    }
}

/// The shortest trace that still fails, as far as leaving out runs of steps and shortening times leads.
pub(crate) fn shrink(mut trace: Vec<Step>, fails: impl Fn(&[Step]) -> bool) -> Vec<Step> {
    loop {
        let before = trace.clone();
        leave_out(&mut trace, &fails);
        shorten(&mut trace, &fails);
        if trace == before {
            return trace;
        }
    }
}

fn leave_out(trace: &mut Vec<Step>, fails: impl Fn(&[Step]) -> bool) {
    let mut run = trace.len().div_ceil(2);
    while run > 0 {
        let mut at = 0;
        while at < trace.len() {
            let mut fewer = trace.clone();
            fewer.drain(at..(at + run).min(trace.len()));
            if fails(&fewer) {
                *trace = fewer;
            } else {
                at += run;
            }
        }
        run /= 2;
    }
}

fn shorten(trace: &mut [Step], fails: impl Fn(&[Step]) -> bool) {
    for at in 0..trace.len() {
        while let Some(shorter) = shorter(trace[at]) {
            let before = std::mem::replace(&mut trace[at], shorter);
            if !fails(trace) {
                trace[at] = before;
                break;
            }
        }
    }
}

fn shorter(step: Step) -> Option<Step> {
    match step {
        Step::Wait(seconds) if seconds > 0 => Some(Step::Wait(seconds / 2)),
        Step::Drive(seconds) if seconds > 0 => Some(Step::Drive(seconds / 2)),
        Step::Lag(node, reader, seconds) if seconds > 0 => Some(Step::Lag(node, reader, seconds / 2)),
        Step::Answer(node, fate) if fate != Fate::Done => Some(Step::Answer(node, Fate::Done)),
        _ => None,
    }
}
