//! What survives a crash of the daemon.
//!
//! [`record`] is an attachment as it is remembered, [`contents`] all that is, [`schema`] the layout that it lies in and what brings an
//! older one up to date, [`store`] makes changes durable, [`recovery`] plans what a start makes of them and
//! of the links in the kernel. Knows nothing of netlink, of kernel programs or of any cloud's API.
#![forbid(unsafe_code)]

mod changes;
pub mod contents;
pub mod record;
pub mod recovery;
pub mod schema;
pub mod store;
