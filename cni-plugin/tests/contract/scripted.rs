//! A daemon that does to each peer what the test says, and tells what it was asked.

use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use node_api::{read_frame_with_fd, write_frame};
use serde_json::{Value, json};

/// Longer than any plugin takes to come.
const LIMIT: Duration = Duration::from_secs(20);

/// What it does when it has read a request.
pub(crate) enum Act {
    Answer(Value),
    HangUp,
}

impl Act {
    pub(crate) fn done() -> Self {
        Self::Answer(json!({ "ok": "done" }))
    }

    pub(crate) fn refuse(code: u32) -> Self {
        Self::Answer(json!({ "error": { "code": code, "msg": "no" } }))
    }
}

/// Serves as many peers as there are acts; the thread's value is what they asked.
pub(crate) fn daemon(path: &Path, acts: Vec<Act>) -> JoinHandle<Vec<Value>> {
    let listener = UnixListener::bind(path).unwrap();
    let path = path.to_owned();
    std::thread::spawn(move || {
        let serve = |act| {
            let mut stream = accept(&listener);
            let (bytes, _) = read_frame_with_fd(&mut stream).unwrap();
            if let Act::Answer(answer) = act {
                write_frame(&mut stream, &answer, None).unwrap();
            }
            serde_json::from_slice(&bytes).unwrap()
        };
        let asked = acts.into_iter().map(serve).collect();
        std::fs::remove_file(path).unwrap();
        asked
    })
}

fn accept(listener: &UnixListener) -> UnixStream {
    listener.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                return stream;
            }
            Err(error) => assert!(error.kind() == ErrorKind::WouldBlock && begun.elapsed() < LIMIT, "nobody came: {error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
