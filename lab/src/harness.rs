//! For suites that bring one lab up for many cases: one line a case, a count at the end, and no skip in silence.
//!
//! The last line is `N passed, N failed, N skipped`, which `cargo xtask test` reads. With `BAREWIRE_REQUIRE_ALL=1` a skip is a failure.
#![expect(clippy::print_stdout, reason = "it is what libtest is elsewhere: its lines are its result")]

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// What the command line asks for, as libtest understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `--list`
    List,
    /// Cases whose name contains this; all, where it is empty.
    Run(String),
}

impl Request {
    /// Reads the command line of this program.
    #[must_use]
    pub fn of_this_program() -> Self {
        let arguments: Vec<String> = env::args().skip(1).collect();
        if arguments.iter().any(|argument| argument == "--list") {
            return Self::List;
        }
        Self::Run(arguments.into_iter().find(|argument| !argument.starts_with('-')).unwrap_or_default())
    }
}

/// Prints a case's name as libtest lists it.
pub fn list(name: &str) {
    println!("{name}: test");
}

/// That this is root's, and that the machine has `programs`.
///
/// # Errors
/// With what is missing.
pub fn require_programs(programs: &[&str]) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "it needs root");
    for program in programs {
        let found = env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|directory| directory.join(program).is_file());
        ensure!(found, "{program} is not installed");
    }
    Ok(())
}

/// How many cases there were.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Count {
    /// As [`Harness::finish`] prints it; `None` for any other line.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let mut parts = line.split(", ").map(|part| part.split_once(' '));
        let mut number = |what: &str| parts.next()?.filter(|(_, word)| *word == what)?.0.parse().ok();
        let count = Self { passed: number("passed")?, failed: number("failed")?, skipped: number("skipped")? };
        parts.next().is_none().then_some(count)
    }

    pub(crate) const fn has_failed(self) -> bool {
        self.failed > 0
    }
}

/// Runs cases and counts them.
#[derive(Debug, Default)]
pub struct Harness {
    count: Count,
}

/// How a case has ended.
#[derive(Debug)]
pub struct Ended {
    took: Duration,
    outcome: Result<()>,
}

impl Ended {
    /// Of a case that somebody else has run.
    #[must_use]
    pub const fn after(took: Duration, outcome: Result<()>) -> Self {
        Self { took, outcome }
    }

    /// Runs a case. A panic is a failure.
    pub fn of(work: impl FnOnce() -> Result<()>) -> Self {
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked, as said above")));
        Self { took: begun.elapsed(), outcome }
    }
}

impl Harness {
    /// Runs a case and tells whether it succeeded. A panic is a failure.
    pub fn case(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> bool {
        self.ended(name, Ended::of(work))
    }

    /// Says how a case has ended that ran beside others; tells whether it succeeded.
    pub fn ended(&mut self, name: &str, Ended { took, outcome }: Ended) -> bool {
        let took = took.as_secs_f32();
        match outcome {
            Ok(()) => {
                println!("ok   {name} ({took:.1} s)");
                self.count.passed += 1;
                true
            }
            Err(error) => {
                println!("FAIL {name} ({took:.1} s): {error:#}");
                self.count.failed += 1;
                false
            }
        }
    }

    /// Says why so many cases cannot run here.
    pub fn skip(&mut self, name: &str, why: &str, cases: usize) {
        println!("SKIP {name}: {why}");
        self.count.skipped += cases;
    }

    /// Says why so many cases could not even begin.
    pub fn fail(&mut self, name: &str, why: &str, cases: usize) {
        println!("FAIL {name}: {why}");
        self.count.failed += cases;
    }

    /// Counts what another program has run.
    pub(crate) fn add(&mut self, Count { passed, failed, skipped }: Count) {
        self.count.passed += passed;
        self.count.failed += failed;
        self.count.skipped += skipped;
    }

    #[cfg(test)]
    pub(crate) const fn count(&self) -> Count {
        self.count
    }

    /// Prints a line that helps to understand a failure.
    pub fn note(&self, line: &str) {
        println!("  {line}");
    }

    /// Prints the count; the answer is the program's.
    #[must_use]
    pub fn finish(mut self) -> ExitCode {
        if env::var("BAREWIRE_REQUIRE_ALL").is_ok_and(|value| value == "1") {
            self.count.failed += self.count.skipped;
            self.count.skipped = 0;
        }
        println!("{} passed, {} failed, {} skipped", self.count.passed, self.count.failed, self.count.skipped);
        if self.count.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
