//! What a plug-in's exit code and words mean. Pure.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::execute::Executed;
use crate::health_check::Verdict;

/// Characters of what it says that are kept; a report keeps fewer.
const WORDS_MAX: usize = 1_000;

/// What it may print: an object. What else is in it is of no interest.
#[derive(Debug, Deserialize)]
struct Said {
    message: Option<String>,
    evidence: Option<Value>,
}

/// 0 is ok, 1 is failed, and all else cannot tell.
pub(super) fn verdict(executed: &Executed, limit: Duration) -> Verdict {
    match executed {
        Executed::TimedOut => Verdict::Unknown(format!("has not ended within {} s, and was killed", limit.as_secs_f32())),
        Executed::Stopped => Verdict::Unknown("was killed, as it is asked no more".to_owned()),
        Executed::TooMuchOutput(most) => Verdict::Unknown(format!("has printed more than {most} bytes, and was killed")),
        Executed::Ended { status, stdout, stderr } => {
            let words = Some(words(stdout)).filter(|words| !words.is_empty()).unwrap_or_else(|| line(&String::from_utf8_lossy(stderr)));
            match status.code() {
                Some(0) => Verdict::Ok,
                Some(1) if words.is_empty() => Verdict::Failed("fails, and does not say why".to_owned()),
                Some(1) => Verdict::Failed(words),
                _ => Verdict::Unknown(format!("{}{}{words}", ended(*status), if words.is_empty() { "" } else { ": " })),
            }
        }
    }
}

fn ended(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("was ended by signal {signal}; its bounds are memory_mib and cpu_seconds"),
        None => format!("exit code {}, which is neither 0 nor 1", status.code().unwrap_or_default()),
    }
}

/// The message and the evidence of an object; anything else as it stands.
fn words(stdout: &[u8]) -> String {
    match serde_json::from_slice::<Said>(stdout) {
        Ok(Said { message: None, evidence: None }) | Err(_) => line(&String::from_utf8_lossy(stdout)),
        Ok(Said { message, evidence }) => {
            let evidence = evidence.map(|evidence| match evidence {
                Value::String(text) => text,
                other => other.to_string(),
            });
            let parts: Vec<_> = message.into_iter().chain(evidence).collect();
            line(&parts.join("; "))
        }
    }
}

/// On one line, without anything that a terminal would obey.
fn line(text: &str) -> String {
    let parts = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(" ").chars().take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_decides_and_the_words_are_shown() {
        let ended = |code: i32, stdout: &[u8], stderr: &[u8]| {
            let executed =
                Executed::Ended { status: ExitStatus::from_raw(code << 8), stdout: stdout.to_owned(), stderr: stderr.to_owned() };
            verdict(&executed, Duration::from_secs(1))
        };
        let failed = |words: &str| Verdict::Failed(words.to_owned());
        assert_eq!(ended(0, b"all well", b"noise"), Verdict::Ok);
        for (stdout, stderr, words) in [
            (&b"port 1 is down\nport 2 as well\n"[..], &b""[..], "port 1 is down port 2 as well"),
            (b"", b"no such tool", "no such tool"),
            (b"", b"", "fails, and does not say why"),
            (br#"{"message": "Xid 79", "evidence": {"gpu": 3}}"#, b"", r#"Xid 79; {"gpu":3}"#),
            (br#"{"message": "Xid 79", "evidence": "GPU 3", "more": 1}"#, b"", "Xid 79; GPU 3"),
            (br#"{"message": "Xid 79""#, b"", r#"{"message": "Xid 79""#),
            (br#"{"message": 5}"#, b"", r#"{"message": 5}"#),
            (br#"{"other": 5}"#, b"", r#"{"other": 5}"#),
            (b"bad \xff\xfe bytes\x1b[31m", b"", "bad \u{fffd}\u{fffd} bytes [31m"),
        ] {
            assert_eq!(ended(1, stdout, stderr), failed(words));
        }
        assert_eq!(ended(255, b"x", b""), Verdict::Unknown("exit code 255, which is neither 0 nor 1: x".to_owned()));
        assert_eq!(ended(1, &[b'x'; 5_000], b"").message().len(), WORDS_MAX);
        let killed = Executed::Ended { status: ExitStatus::from_raw(9), stdout: Vec::new(), stderr: Vec::new() };
        assert!(verdict(&killed, Duration::ZERO).message().starts_with("was ended by signal 9"));
    }
}
