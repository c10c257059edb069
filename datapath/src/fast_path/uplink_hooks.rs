//! Programs on uplinks: pinned TCX links where the kernel has them (Linux 6.6), clsact filters where it has not.
//!
//! A TCX link belongs to its pin: nobody's `tc qdisc del` takes it away, and updating it to a new program leaves no moment
//! without one (docs/adr/0009). Making one waits for RCU, 8 to 16 ms: nothing for an uplink, too much for a pod.
//!
//! Each uplink that carries programs has a directory beside the maps' pins, named by its interface number, with its two links, or
//! empty where it has clsact filters: so that what an earlier daemon attached is found and taken off.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use nix::errno::Errno;

use super::{FastPathError, clsact};
use crate::netlink::Socket;
use crate::{Ifindex, Uplink};

const HOOKS: [(&str, TcAttachType, &str); 2] =
    [("from_uplink", TcAttachType::Ingress, "ingress"), ("to_uplink", TcAttachType::Egress, "egress")];

/// Attaches to an uplink that may have programs of ours already; tells the kind of hook, `tcx` or `clsact`.
pub(super) fn attach(host: &mut Socket, programs: &mut Ebpf, folder: &Path, uplink: &Uplink) -> Result<&'static str, FastPathError> {
    let pins = folder.join(uplink.ifindex.to_string());
    std::fs::create_dir_all(&pins).map_err(|source| FastPathError::Pins { path: pins.clone(), source })?;
    for (name, hook, pin) in HOOKS {
        match attach_tcx(program(programs, name)?, hook, &pins.join(pin), uplink) {
            Ok(()) => {}
            // The kernel has no such link type.
            Err(Refusal::Kernel(Errno::EINVAL | Errno::EOPNOTSUPP)) => return attach_clsact(host, programs, uplink),
            Err(Refusal::Kernel(errno)) => return Err(FastPathError::Uplink { name: uplink.ifname.clone(), source: errno.into() }),
            Err(Refusal::Aya(source)) => return Err(FastPathError::Program { name, source: Box::new(source) }),
            Err(Refusal::Pin(source)) => return Err(FastPathError::Pins { path: pins.join(pin), source }),
        }
    }
    // An earlier daemon, on an earlier kernel's terms.
    clsact::detach(host, uplink.ifindex)?;
    Ok("tcx")
}

/// Takes programs off every uplink but these.
pub(super) fn retain(host: &mut Socket, folder: &Path, uplinks: &[Ifindex]) -> Result<(), FastPathError> {
    let failed = |source| FastPathError::Pins { path: folder.to_owned(), source };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Some(ifindex) = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(Ifindex) else { continue };
        if !uplinks.contains(&ifindex) {
            clsact::detach(host, ifindex)?;
            std::fs::remove_dir_all(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

enum Refusal {
    Kernel(Errno),
    Aya(ProgramError),
    Pin(std::io::Error),
}

fn attach_tcx(program: &mut SchedClassifier, hook: TcAttachType, pin: &Path, uplink: &Uplink) -> Result<(), Refusal> {
    match PinnedLink::from_pin(pin) {
        Ok(pinned) => {
            let link = FdLink::from(pinned).try_into().map_err(|_| Refusal::Pin(ErrorKind::InvalidData.into()))?;
            match program.attach_to_link(link).map_err(refusal) {
                Ok(id) => {
                    // The pin holds the link; this program must not, or it would detach it at its end.
                    drop(program.take_link(id).map_err(Refusal::Aya)?);
                    return Ok(());
                }
                // The interface that it was on is gone.
                Err(Refusal::Kernel(Errno::ENOLINK)) => std::fs::remove_file(pin).map_err(Refusal::Pin)?,
                Err(refusal) => return Err(refusal),
            }
        }
        Err(error) if is_missing(&error) => {}
        Err(_) => std::fs::remove_file(pin).map_err(Refusal::Pin)?,
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(&uplink.ifname, hook, order).map_err(refusal)?;
    let link: FdLink = program.take_link(id).map_err(Refusal::Aya)?.try_into().map_err(|_| Refusal::Pin(ErrorKind::InvalidData.into()))?;
    link.pin(pin).map(drop).map_err(|error| Refusal::Pin(std::io::Error::other(error)))
}

fn attach_clsact(host: &mut Socket, programs: &mut Ebpf, uplink: &Uplink) -> Result<&'static str, FastPathError> {
    let refused = |source| FastPathError::Program { name: "from_uplink", source: Box::new(source) };
    let ingress = program(programs, "from_uplink")?.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(refused)?;
    let egress = program(programs, "to_uplink")?.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(refused)?;
    clsact::attach(host, uplink.ifindex, &ingress, &egress)?;
    Ok("clsact")
}

fn program<'a>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, FastPathError> {
    let refused = |source| FastPathError::Program { name, source: Box::new(source) };
    programs.program_mut(name).ok_or_else(|| refused(ProgramError::NotLoaded))?.try_into().map_err(refused)
}

fn refusal(error: ProgramError) -> Refusal {
    match &error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => match io_error.raw_os_error() {
            Some(errno) => Refusal::Kernel(Errno::from_raw(errno)),
            None => Refusal::Aya(error),
        },
        _ => Refusal::Aya(error),
    }
}

fn is_missing(error: &LinkError) -> bool {
    matches!(error, LinkError::SyscallError(SyscallError { io_error, .. }) if io_error.kind() == ErrorKind::NotFound)
}

/// Where uplinks' directories are, of one daemon.
pub(super) fn folder(pins: &Path) -> PathBuf {
    pins.join("uplinks")
}
