//! How a replica stands, asked and told.

use bytes::Bytes;

use crate::message::{FromFleet, FromNode, Status, StatusRequest, ToFleet, ToNode, Versions};
use crate::{NEWEST, OLDEST, frame};

impl StatusRequest {
    /// The frame that asks.
    #[must_use]
    pub fn frame() -> Bytes {
        let request = Self { versions: Some(Versions { oldest: OLDEST, newest: NEWEST }) };
        frame::encode(&ToFleet { message: Some(FromNode::StatusRequest(request)) })
    }
}

impl Status {
    /// Nodes of one message. With as many of the longest names it fits into a frame.
    pub const NODES_MAX: usize = 2_000;

    /// As frames, the nodes spread over as many as it takes.
    #[must_use]
    pub fn frames(mut self) -> Vec<Bytes> {
        let mut left = std::mem::take(&mut self.nodes);
        let mut frames = Vec::new();
        loop {
            let rest = left.split_off(left.len().min(Self::NODES_MAX));
            let more = !rest.is_empty();
            let part = Self { nodes: std::mem::replace(&mut left, rest), more, ..self.clone() };
            frames.push(frame::encode(&FromFleet { message: Some(ToNode::Status(part)) }));
            if !more {
                return frames;
            }
        }
    }

    /// Takes what another message adds. False: it was the last.
    pub fn add(&mut self, part: Self) -> bool {
        let more = part.more;
        let before = std::mem::replace(self, part);
        self.nodes.splice(..0, before.nodes);
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ConnectedNode;
    use crate::{FRAME_MAX, HELLO_MAX, decode};

    #[test]
    fn many_nodes_are_told_in_frames_that_are_allowed_and_none_is_lost() {
        for count in [0, 1, Status::NODES_MAX, Status::NODES_MAX + 1, 10_000] {
            let node = |number| ConnectedNode {
                name: format!("{number:0>253}"),
                address: "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".to_owned(),
                age_millis: u64::MAX,
                lag: Some(u64::MAX),
                confirmed_millis: Some(u64::MAX),
            };
            let status = Status { replica: "a:1".to_owned(), nodes: (0..count).map(node).collect(), ..Status::default() };
            let (mut told, mut more) = (Status::default(), true);
            for frame in status.clone().frames() {
                assert!(frame.len() <= FRAME_MAX && more, "{} bytes", frame.len());
                let Some(ToNode::Status(part)) = decode::<FromFleet>(&frame[4..]).unwrap().message else { panic!("another message") };
                more = told.add(part);
            }
            assert!(!more && told == status, "{count}");
        }
        assert!(StatusRequest::frame().len() <= HELLO_MAX);
    }
}
