//! What the test command prints at its end: a table of stages, what failed tests said, and `N passed, N failed` as its very last line.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Numbers of tests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// Adds what one line of a test program's output says: `test result: ok. 3 passed; 0 failed; …` of Rust's own
    /// harness, or `3 passed, 0 failed` of a program with a harness of its own. Other lines count nothing.
    pub(crate) fn read_line(&mut self, line: &str) {
        let counts: Vec<_> = match line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) {
            Some((_, counts)) => counts.split("; ").collect(),
            None => line.split(", ").collect(),
        };
        let counts: Vec<_> = counts.into_iter().filter_map(count).collect();
        let [("passed", passed), ("failed", failed), rest @ ..] = &counts[..] else {
            return;
        };
        self.passed += passed;
        self.failed += failed;
        self.skipped += rest.iter().filter(|(what, _)| ["ignored", "skipped"].contains(what)).map(|(_, number)| number).sum::<u64>();
    }
}

/// `3 passed` as `("passed", 3)`.
fn count(text: &str) -> Option<(&str, u64)> {
    let (number, what) = text.split_once(' ')?;
    Some((what, number.parse().ok()?))
}

/// What failed tests said, each with its name: thousands of lines lie between there and the end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    told: Vec<String>,
    /// How many lines more are taken as they come, of the test that is being told of.
    more: usize,
    /// Behind those, the last ones.
    last: VecDeque<String>,
    is_told: bool,
}

impl Failures {
    /// Of one test: what comes first says what was wrong, and at the end of an error's causes is the one that began it, often behind the end of
    /// a log. A backtrace follows.
    const FIRST: usize = 6;
    const LAST: usize = 6;

    /// Reads one line of a test program's output: Rust's own harness repeats what each failed test has printed beneath `---- NAME stdout ----`,
    /// a harness of its own says `FAIL NAME: why`.
    pub(crate) fn read_line(&mut self, line: &str) {
        let name = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        if let Some(name) = name {
            self.end();
            self.told.push(name.to_owned());
            (self.more, self.is_told) = (Self::FIRST, true);
        } else if line.starts_with("FAIL ") {
            self.end();
            self.told.push(line.to_owned());
        } else if line == "failures:" || line.trim_start() == "Stack backtrace:" || line.trim_start() == "stack backtrace:" {
            self.end();
        } else if self.is_told && !line.trim().is_empty() {
            self.take(format!("  {line}"));
        }
    }

    fn take(&mut self, line: String) {
        if self.more > 0 {
            self.more -= 1;
            return self.told.push(line);
        }
        self.last.push_back(line);
        if self.last.len() > Self::LAST {
            self.last.pop_front();
        }
    }

    fn end(&mut self) {
        self.told.extend(self.last.drain(..));
        self.is_told = false;
    }
}

/// What became of one stage.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) stage: &'static str,
    pub(crate) tests: Tally,
    pub(crate) failures: Failures,
    pub(crate) took: Duration,
    /// Why the stage failed.
    pub(crate) failure: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) outcomes: Vec<Outcome>,
}

impl Summary {
    pub(crate) fn has_failed(&self) -> bool {
        self.outcomes.iter().any(|outcome| outcome.failure.is_some())
    }

    /// Tests in total. A stage that failed without a failing test (lints, a program that does not compile or does
    /// not end) counts as one failure, so that the last line never reads as success when the command fails.
    fn total(&self) -> Tally {
        let mut total = Tally::default();
        for Outcome { tests, failure, .. } in &self.outcomes {
            total.passed += tests.passed;
            total.failed += if failure.is_some() { tests.failed.max(1) } else { tests.failed };
            total.skipped += tests.skipped;
        }
        total
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:<14}{:>8}{:>8}{:>9}{:>9}", "stage", "passed", "failed", "skipped", "time")?;
        for Outcome { stage, tests, took, failure, failures: _ } in &self.outcomes {
            let Tally { passed, failed, skipped } = tests;
            write!(out, "{stage:<14}{passed:>8}{failed:>8}{skipped:>9}{:>7.1} s", took.as_secs_f64())?;
            match failure {
                Some(failure) => writeln!(out, "  FAILED: {failure}")?,
                None => writeln!(out)?,
            }
        }
        for line in self.outcomes.iter().flat_map(|outcome| &outcome.failures.told) {
            writeln!(out, "{line}")?;
        }
        let Tally { passed, failed, skipped: _ } = self.total();
        writeln!(out, "{passed} passed, {failed} failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(passed: u64, failed: u64, failure: Option<&str>) -> Outcome {
        let tests = Tally { passed, failed, skipped: 0 };
        Outcome {
            stage: "unit",
            tests,
            failures: Failures::default(),
            took: Duration::from_millis(1_500),
            failure: failure.map(str::to_owned),
        }
    }

    #[test]
    fn only_result_lines_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "pinged 3 pods, 0 failed",
            "test pool::tests::reuse ... FAILED",
            "test result: FAILED. 2 passed; 1 failed; 4 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "4 passed, 1 failed, 2 skipped",
        ] {
            tally.read_line(line);
        }
        assert_eq!(tally, Tally { passed: 11, failed: 2, skipped: 6 });
    }

    #[test]
    fn what_a_failed_test_says_first_and_last_is_kept_and_no_more() {
        let mut failures = Failures::default();
        let long = (0..20).map(|number| format!("line {number}"));
        let output = "test one ... FAILED\n\nfailures:\n\n---- one stdout ----\n0.31 %\nError: too much\n\nStack backtrace:\n   0: anyhow\n\n---- two stdout ----";
        output.lines().map(str::to_owned).chain(long).for_each(|line| failures.read_line(&line));
        "failures:\n    one\n    two\nok   three (1 s)\nFAIL four (2 s): no answer".lines().for_each(|line| failures.read_line(line));
        let told: Vec<&str> = failures.told.iter().map(String::as_str).collect();
        assert_eq!(told[..4], ["one", "  0.31 %", "  Error: too much", "two"]);
        let kept = (0..6).chain(14..20).map(|number| format!("  line {number}"));
        assert_eq!(told[4..], kept.chain(["FAIL four (2 s): no answer".to_owned()]).collect::<Vec<_>>());
    }

    #[test]
    fn the_last_line_is_the_sum() {
        let summary = Summary { outcomes: vec![outcome(3, 0, None), outcome(4, 2, Some("exit status: 101"))] };
        assert_eq!(summary.to_string().lines().last(), Some("7 passed, 2 failed"));
        assert!(summary.has_failed());
    }

    #[test]
    fn a_stage_that_fails_without_a_failing_test_is_one_failure() {
        let summary = Summary { outcomes: vec![outcome(3, 0, None), outcome(0, 0, Some("exit status: 1"))] };
        assert_eq!(summary.to_string().lines().last(), Some("3 passed, 1 failed"));
    }
}
