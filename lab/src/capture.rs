//! What `tcpdump` sees on an interface.

use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::command::wait_until;
use super::network::Network;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(10);
/// Nothing that was on the way takes longer from one packet to the next.
const QUIET: Duration = Duration::from_millis(100);
/// Ethernet, IPv6 and what stands before their addresses is what is looked at.
const SNAPLEN: &str = "96";

/// A capture that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: File,
    said: File,
}

/// A frame, as long as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Bytes, Ethernet header included.
    pub bytes: u64,
    /// Who sent it on this link.
    pub mac: [u8; 6],
    /// Source and destination, if it is IP.
    pub addresses: Option<(IpAddr, IpAddr)>,
}

impl Capture {
    /// Starts capturing what `filter` lets through; all, where it is empty.
    ///
    /// # Errors
    /// When `tcpdump` cannot be executed or says nothing.
    pub fn start(network: &Network, interface: &str, filter: &str) -> Result<Self> {
        let (file, said) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let child = network.run(|| -> Result<_> {
            let mut command = Command::new("tcpdump");
            // Without immediate mode the kernel hands over whole blocks, and the last is lost.
            command
                .args(["--immediate-mode", "-i", interface, "-n", "-U", "-s", SNAPLEN, "-B", "8192", "-w", "-"])
                .args(filter.split_whitespace());
            Ok(command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(said.try_clone()?).spawn()?)
        })?;
        let capture = Self { child, file, said };
        wait_until(&format!("tcpdump on {interface} of {}", network.name()), LIMIT, || {
            let words = capture.words();
            if words.contains("listening on") { Ok(()) } else { Err(words) }
        })?;
        Ok(capture)
    }

    /// Ends it and answers what it saw.
    ///
    /// # Errors
    /// When it did not see all.
    pub fn frames(mut self) -> Result<Vec<Frame>> {
        self.settle()?;
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT)?;
        let deadline = Instant::now() + LIMIT;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "tcpdump does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let words = self.words();
        ensure!(words.contains("0 packets dropped by kernel"), "tcpdump did not see all: {words}");
        frames(&contents(&self.file)?)
    }

    /// What has been handed to tcpdump it writes before it ends; what is on the way needs a moment. Waits until nothing more comes.
    fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let mut last = (self.file.metadata()?.len(), Instant::now());
        while last.1.elapsed() < QUIET && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            let length = self.file.metadata()?.len();
            if length != last.0 {
                last = (length, Instant::now());
            }
        }
        Ok(())
    }

    /// An unreadable temporary file costs only the detail of a message.
    fn words(&self) -> String {
        contents(&self.said).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

/// All of a file that another program may be writing, and whose offset is that program's as well.
fn contents(file: &File) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

impl Drop for Capture {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Both fail only where it has just ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Reads a file in pcap's format (pcap-savefile(5)): a header of 24 bytes, then records behind headers of 16.
fn frames(mut bytes: &[u8]) -> Result<Vec<Frame>> {
    bytes = bytes.get(24..).context("a capture without a header")?;
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let number =
            |at: usize| -> Result<u32> { Ok(u32::from_ne_bytes(bytes.get(at..at + 4).context("a record cut short")?.try_into()?)) };
        let (captured, length) = (number(8)? as usize, number(12)?);
        let frame = bytes.get(16..16 + captured).context("a frame cut short")?;
        frames.push(Frame {
            bytes: length.into(),
            mac: frame.get(6..12).context("no Ethernet header")?.try_into()?,
            addresses: addresses(frame)?,
        });
        bytes = &bytes[16 + captured..];
    }
    Ok(frames)
}

fn addresses(frame: &[u8]) -> Result<Option<(IpAddr, IpAddr)>> {
    let (first, second) = match frame.get(12..14) {
        Some([0x08, 0x00]) => (26..30, 30..34),
        Some([0x86, 0xdd]) => (22..38, 38..54),
        _ => return Ok(None),
    };
    let address = |range| -> Result<IpAddr> {
        let octets: &[u8] = frame.get(range).context("no addresses")?;
        match (<[u8; 4]>::try_from(octets), <[u8; 16]>::try_from(octets)) {
            (Ok(v4), _) => Ok(v4.into()),
            (_, Ok(v6)) => Ok(v6.into()),
            _ => bail!("an address of {} bytes", octets.len()),
        }
    };
    Ok(Some((address(first)?, address(second)?)))
}

/// The MAC address of an interface.
///
/// # Errors
/// When there is no such interface.
pub fn mac(network: &Network, interface: &str) -> Result<[u8; 6]> {
    let said = network.run(|| -> Result<_> { Ok(Command::new("ip").args(["-oneline", "link", "show", "dev", interface]).output()?) })?;
    let said = String::from_utf8(said.stdout)?;
    let text =
        said.split_ascii_whitespace().skip_while(|word| *word != "link/ether").nth(1).with_context(|| format!("no MAC in {said}"))?;
    let octets: Vec<u8> = text.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect::<Result<_, _>>()?;
    octets.try_into().map_err(|octets| anyhow::anyhow!("{octets:?} is no MAC"))
}
