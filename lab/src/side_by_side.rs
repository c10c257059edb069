//! Programs with a [`Harness`] of their own, several at a time: what a suite waits for on one cluster it need not wait for on another. Each is a
//! process, since much that a test changes is of processes.
#![expect(clippy::print_stdout, reason = "it prints what they print")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::harness::{Count, Harness};

/// Runs `programs`, `at_once` at a time and in their order, and counts what they count. A case is printed with its notes, and not before they
/// are known: it stays one block, whatever others print.
pub fn run(harness: &mut Harness, programs: Vec<(String, Command)>, at_once: usize) {
    let waiting = Mutex::new(VecDeque::from(programs));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || {
        let mut ended = Vec::new();
        while let Some((name, mut program)) = next() {
            ended.push((name, follow(&mut program)));
        }
        ended
    };
    let ended: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    for (name, outcome) in ended {
        match outcome {
            Ok(count) => harness.add(count),
            Err(error) => harness.fail(&name, &format!("{error:#}"), 1),
        }
    }
}

/// Runs a program to its end, and prints all but its count.
fn follow(program: &mut Command) -> Result<Count> {
    let mut child = program.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("execute it")?;
    let mut count = None;
    let mut block = String::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = String::from_utf8_lossy(&line.context("read what it prints")?).into_owned();
            if let Some(told) = Count::of_line(&line) {
                count = Some(told);
                continue;
            }
            if !line.starts_with(' ') {
                print!("{block}");
                block.clear();
            }
            block.push_str(&line);
            block.push('\n');
        }
    }
    print!("{block}");
    let status = child.wait().context("wait for it")?;
    let count = count.with_context(|| format!("it has counted nothing: {status}"))?;
    ensure!(status.success() || count.has_failed(), "{status}, though nothing has failed");
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> (String, Command) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        ("one".to_owned(), command)
    }

    #[test]
    fn all_run_and_are_counted_and_one_that_breaks_is_a_failure() {
        let mut harness = Harness::default();
        let programs = vec![
            sh("echo 'ok   a/b (1.0 s)'; echo '  a note'; echo '2 passed, 0 failed, 1 skipped'"),
            sh("echo '1 passed, 2 failed, 0 skipped'; exit 1"),
            sh("echo 'it breaks'; exit 3"),
            sh("echo '1 passed, 0 failed, 0 skipped'; exit 3"),
        ];
        run(&mut harness, programs, 2);
        assert_eq!(harness.count(), Count { passed: 3, failed: 4, skipped: 1 });
    }

    #[test]
    fn as_many_as_may_run_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let met = |own: &str, other: &str| {
            let folder = folder.path().display();
            sh(&format!(
                "touch {folder}/{own}; for n in $(seq 200); do test -e {folder}/{other} && echo '1 passed, 0 failed, 0 skipped' && exit; sleep 0.05; done; exit 1"
            ))
        };
        let mut harness = Harness::default();
        run(&mut harness, vec![met("a", "b"), met("b", "a")], 2);
        assert_eq!(harness.count(), Count { passed: 2, failed: 0, skipped: 0 });
    }
}
