//! Who owns an address.

use cni_spec::{ContainerId, IfName};
use serde::{Deserialize, Serialize};

/// What an attachment is known by: the owner of addresses, of an interface number, of a row in the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// The container.
    pub container_id: ContainerId,
    /// Its interface.
    pub ifname: IfName,
}

/// The container, a slash, the interface. Neither can contain a slash.
impl std::fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

/// Not the form of an [`AttachmentKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a container and an interface with a slash between them")]
pub struct NoAttachmentKey(String);

impl std::str::FromStr for AttachmentKey {
    type Err = NoAttachmentKey;

    fn from_str(text: &str) -> Result<Self, NoAttachmentKey> {
        let parsed = text
            .split_once('/')
            .and_then(|(container_id, ifname)| Some(Self { container_id: container_id.parse().ok()?, ifname: ifname.parse().ok()? }));
        parsed.ok_or_else(|| NoAttachmentKey(text.to_owned()))
    }
}
