//! etcd, which nodes of others keep in touch through.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lab::world;
use serde_json::json;

use crate::datapath::peers::program::Program;

/// Where it listens.
pub(super) const PORT: u16 = 2_379;
const HTTP_LIMIT: Duration = Duration::from_secs(5);

/// One that keeps what it is told in memory.
#[derive(Debug)]
pub(in crate::datapath) struct Etcd(Program);

impl Etcd {
    /// Starts it in the network of the calling thread; `folder` is in memory.
    pub(in crate::datapath) fn start(folder: &Path) -> Result<Self> {
        let clients = format!("http://0.0.0.0:{PORT}");
        let program = Program::start(
            &world::program("etcd", "etcd")?,
            &[
                &format!("--data-dir={}", folder.join("etcd").display()),
                &format!("--listen-client-urls={clients}"),
                &format!("--advertise-client-urls={clients}"),
                "--listen-peer-urls=http://127.0.0.1:2380",
                "--unsafe-no-fsync",
            ],
            folder.join("etcd.log"),
        )?;
        Ok(Self(program))
    }

    /// Writes a value, as soon as that can be done; from its own network.
    pub(super) fn put(&mut self, key: &str, value: &str) -> Result<()> {
        let body = json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)}).to_string();
        let http = ureq::Agent::config_builder().timeout_global(Some(HTTP_LIMIT)).build().new_agent();
        let url = format!("http://127.0.0.1:{PORT}/v3/kv/put");
        self.0.wait_until("etcd takes no values", || http.post(&url).send(&body).is_ok())
    }

    /// Has it stand still.
    pub(in crate::datapath) fn pause(&self) -> Result<()> {
        self.0.pause()
    }
}
