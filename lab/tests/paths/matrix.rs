//! The matrix: each cell is asked in two labs that differ in `network.fast_path` alone, and both must hear the same.
//!
//! A cell that differs is asked again, beside few others: a machine that is busy may be late, and a fault stays.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use lab::cni::FastPath;
use lab::kube_proxy::Family;
use lab::services::Form;
use serde_json::{Value, json};

use crate::disturbance::Disturbance;
use crate::probe::{Heard, Kept, Probe};
use crate::site::Site;
use crate::ways::{self, Way};

/// Cells that are asked at once in one lab.
const AT_ONCE: usize = 24;
/// How often a cell that differs is asked again, with few others at the same time.
const AGAIN: usize = 2;
const FEW: usize = 6;
/// Before that: the kernel sends one peer five times "unreachable" and then once a second (`net.ipv4.route.error_burst`).
const PAUSE: Duration = Duration::from_secs(5);
/// More cells than this do not differ by chance: they are asked again as they were, lest it take all day.
const NOISE: usize = 48;

/// Two labs: with the fast path, and without.
pub(crate) struct Pair {
    pub(crate) auto: Site,
    pub(crate) off: Site,
}

impl Pair {
    pub(crate) fn up(form: Option<Form>) -> Result<Self> {
        let [auto, off] = FastPath::ALL;
        let (auto, off) = both(|| Site::up(auto, form), || Site::up(off, form));
        Ok(Self { auto: auto.context("with the fast path")?, off: off.context("without the fast path")? })
    }

    pub(crate) fn down(self) -> Result<()> {
        let (auto, off) = both(|| self.auto.down(), || self.off.down());
        auto.and(off)
    }

    pub(crate) fn each<T: Send>(&mut self, work: impl Fn(&mut Site) -> T + Sync) -> (T, T) {
        let Self { auto, off } = self;
        both(|| work(auto), || work(off))
    }
}

fn both<T: Send>(one: impl FnOnce() -> T + Send, other: impl FnOnce() -> T) -> (T, T) {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        (one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), other)
    })
}

/// One cell of one stage.
#[derive(Clone, Copy)]
struct Cell {
    way: Way,
    family: Family,
    probe: Probe,
}

impl fmt::Display for Cell {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{:?}/{:?}", self.way.name, self.family, self.probe)
    }
}

impl Cell {
    fn ask(&self, site: &Site) -> Heard {
        self.probe.send(site, &self.way, self.family).unwrap_or_else(|error| Heard::wrong(&error))
    }
}

fn cells(ways: &[Way], probes: &[Probe]) -> Vec<Cell> {
    let of_probe = |probe| Family::ALL.into_iter().flat_map(move |family| ways.iter().map(move |way| Cell { way: *way, family, probe }));
    probes.iter().copied().flat_map(of_probe).collect()
}

/// A cell that differs.
pub(crate) struct Difference {
    pub(crate) cell: String,
    pub(crate) auto: Heard,
    pub(crate) off: Heard,
}

impl Difference {
    pub(crate) fn json(&self) -> Value {
        json!({ "cell": self.cell, "auto": self.auto.to_string(), "off": self.off.to_string() })
    }
}

/// What one stage has shown.
#[derive(Default)]
pub(crate) struct Compared {
    pub(crate) cells: usize,
    pub(crate) asked_again: usize,
    pub(crate) differing: Vec<Difference>,
}

impl Compared {
    /// Whether all cells are alike; else the first that are not.
    pub(crate) fn alike(&self) -> Result<()> {
        const SHOWN: usize = 12;
        let Self { cells, asked_again: _, differing } = self;
        if differing.is_empty() {
            return Ok(());
        }
        let lines = differing.iter().take(SHOWN).map(|Difference { cell, auto, off }| format!("\n    {cell}: auto: {auto}; off: {off}"));
        Err(anyhow!("{} of {cells} cells differ:{}", differing.len(), lines.collect::<String>()))
    }
}

/// Conversations that are kept in both labs.
struct KeptPair {
    cell: Cell,
    auto: Kept,
    off: Kept,
}

/// All stages with kube-proxy's rules in one form, or without any.
pub(crate) struct Matrix {
    pair: Pair,
    ways: Vec<Way>,
    kept: Vec<KeptPair>,
}

impl Matrix {
    pub(crate) fn over(pair: Pair, form: Option<Form>) -> Self {
        Self { pair, ways: ways::all(form.is_some()), kept: Vec::new() }
    }

    pub(crate) fn into_pair(self) -> Pair {
        self.pair
    }

    /// Everything, asked for the first time.
    pub(crate) fn first(&mut self) -> Compared {
        self.compare("first", &cells(&self.ways, &Probe::ALL))
    }

    /// Begins a conversation wherever there is an answer, and goes on with it.
    pub(crate) fn later(&mut self) -> Compared {
        let cells = cells(&self.ways, &Probe::FRESH);
        let (auto, off) =
            self.pair.each(|site| in_parallel(&cells, AT_ONCE, |cell| Kept::open(cell.probe, site, &cell.way, cell.family).ok()));
        let pairs = cells.into_iter().zip(auto.into_iter().zip(off));
        self.kept = pairs.filter_map(|(cell, (auto, off))| Some(KeptPair { cell, auto: auto?, off: off? })).collect();
        self.go_on("later")
    }

    /// Lets something happen in both labs; what was kept goes on, and everybody is asked anew.
    pub(crate) fn after(&mut self, disturbance: Disturbance) -> Result<Compared> {
        let kept = Mutex::new(&mut self.kept);
        disturbance.prepare(&mut self.pair, || {
            let mut kept = kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            exchange(&mut kept);
        })?;
        let (auto, off) = self.pair.each(|site| disturbance.happen(site));
        auto.and(off)?;
        let mut compared = self.go_on(disturbance.name());
        let (auto, off) = self.pair.each(|site| disturbance.pass(site));
        auto.and(off)?;
        let Compared { cells, asked_again, differing } =
            self.compare(&format!("after_{}", disturbance.name()), &cells(&self.ways, &Probe::FRESH));
        compared.cells += cells;
        compared.asked_again += asked_again;
        compared.differing.extend(differing);
        Ok(compared)
    }

    fn compare(&mut self, stage: &str, cells: &[Cell]) -> Compared {
        let (auto, off) = self.ask(cells, AT_ONCE);
        let mut heard: Vec<(Heard, Heard)> = auto.into_iter().zip(off).collect();
        let mut asked_again = 0;
        for _ in 0..AGAIN {
            let differing: Vec<usize> = (0..cells.len()).filter(|at| heard[*at].0 != heard[*at].1).collect();
            if differing.is_empty() {
                break;
            }
            asked_again += differing.len();
            let at_once = if differing.len() > NOISE { AT_ONCE } else { FEW };
            thread::sleep(PAUSE);
            let (auto, off) = self.ask(&differing.iter().map(|at| cells[*at]).collect::<Vec<_>>(), at_once);
            for (at, again) in differing.into_iter().zip(auto.into_iter().zip(off)) {
                heard[at] = again;
            }
        }
        let differing = cells.iter().zip(heard).filter(|(_, (auto, off))| auto != off);
        let differing = differing.map(|(cell, (auto, off))| Difference { cell: format!("{stage}/{cell}"), auto, off }).collect();
        Compared { cells: cells.len(), asked_again, differing }
    }

    fn ask(&mut self, cells: &[Cell], at_once: usize) -> (Vec<Heard>, Vec<Heard>) {
        self.pair.each(|site| in_parallel(cells, at_once, |cell| cell.ask(site)))
    }

    /// One message more in every conversation. One that broke in either lab is not asked again: it has been reported.
    fn go_on(&mut self, stage: &str) -> Compared {
        let heard = exchange(&mut self.kept);
        let mut compared = Compared { cells: self.kept.len(), ..Compared::default() };
        let mut still = Vec::new();
        for (pair, (auto, off)) in std::mem::take(&mut self.kept).into_iter().zip(heard) {
            let goes_on = auto.is_answered() && off.is_answered();
            if auto != off {
                compared.differing.push(Difference { cell: format!("{stage}/{}", pair.cell), auto, off });
            }
            if goes_on {
                still.push(pair);
            }
        }
        self.kept = still;
        compared
    }
}

/// A message in every conversation of both labs.
fn exchange(kept: &mut [KeptPair]) -> Vec<(Heard, Heard)> {
    let kept: Vec<Mutex<&mut KeptPair>> = kept.iter_mut().map(Mutex::new).collect();
    in_parallel(&kept, AT_ONCE, |pair| {
        let mut pair = pair.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (pair.auto.go_on(), pair.off.go_on())
    })
}

fn in_parallel<I: Sync, T: Send>(items: &[I], at_once: usize, work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<T>>> = items.iter().map(|_| Mutex::new(None)).collect();
    thread::scope(|scope| {
        for _ in 0..at_once.min(items.len()) {
            scope.spawn(|| {
                while let Some((item, slot)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    items.get(at).zip(done.get(at))
                } {
                    let outcome = work(item);
                    *slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(outcome);
                }
            });
        }
    });
    let taken = |slot: Mutex<Option<T>>| slot.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.into_iter().map(|slot| taken(slot).unwrap_or_else(|| unreachable!("every item was worked on"))).collect()
}
