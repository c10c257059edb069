//! Standard input: whole for operations that need the configuration, as far as it came for those that do not.

use std::io::Read;

use cni_spec::{Code, Error};

/// A configuration with a large `prevResult` is some kilobytes.
const CONFIG_MAX: usize = 1 << 20;
/// Where reading ends. A DEL is told its socket behind a `prevResult` of any size that somebody may have made by mistake.
const READ_MAX: u64 = 16 << 20;

/// What was read.
#[derive(Debug, Default)]
pub struct Stdin {
    bytes: Vec<u8>,
    trouble: Option<std::io::Error>,
}

impl Stdin {
    /// Reads until the end.
    #[must_use]
    pub fn read(from: impl Read) -> Self {
        let mut bytes = Vec::with_capacity(4096);
        let trouble = from.take(READ_MAX).read_to_end(&mut bytes).err();
        Self { bytes, trouble }
    }

    /// What came, be it cut off.
    #[must_use]
    pub fn as_it_came(&self) -> &[u8] {
        &self.bytes
    }

    /// All of it.
    ///
    /// # Errors
    /// Where it could not be read, or is larger than any configuration.
    pub fn whole(&self) -> Result<&[u8], Error> {
        if let Some(why) = &self.trouble {
            return Err(Error::new(Code::IoFailure, format!("cannot read standard input: {why}")));
        }
        if self.bytes.len() > CONFIG_MAX {
            let msg = format!("standard input is larger than {CONFIG_MAX} bytes; a network configuration is a few kilobytes");
            return Err(Error::new(Code::Undecodable, msg));
        }
        Ok(&self.bytes)
    }
}

impl From<&[u8]> for Stdin {
    fn from(bytes: &[u8]) -> Self {
        Self::read(bytes)
    }
}
