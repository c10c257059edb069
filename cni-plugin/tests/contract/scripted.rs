//! A daemon that does to each peer what the test says, and tells what it was asked.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::JoinHandle;

use node_api::{read_frame_with_fd, write_frame};
use serde_json::{Value, json};

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
            let (mut stream, _) = listener.accept().unwrap();
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
