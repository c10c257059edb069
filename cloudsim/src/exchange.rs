//! What comes back from a simulated service.

use http::{HeaderValue, Response, StatusCode, header};

use crate::time::Millis;

/// A whole reply.
pub type HttpReply = Response<String>;

/// What a service does with a request.
#[derive(Debug)]
pub enum Exchange {
    /// It replies.
    Reply {
        /// So long after the request.
        after: Millis,
        /// With this.
        reply: HttpReply,
    },
    /// It never replies: the connection ends, or hangs.
    NoReply {
        /// So long after the request the connection ends.
        after: Millis,
    },
    /// It replies when something has changed, at the latest at a certain time: ask again with this.
    Wait(Wait),
}

/// What is known of a request that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The latest time of its reply.
    pub until: Millis,
    /// The state whose end it waits for.
    pub etag: String,
}

impl Exchange {
    pub(crate) const fn now(reply: HttpReply) -> Self {
        Self::Reply { after: Millis::ZERO, reply }
    }
}

/// A reply with a body of one content type.
pub(crate) fn reply(status: StatusCode, content_type: &'static str, body: impl Into<String>) -> HttpReply {
    let mut reply = Response::new(body.into());
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}
