//! Programs on uplinks: pinned TCX links where the kernel has them (Linux 6.6), clsact filters where it has not.
//!
//! A TCX link belongs to its pin: nobody's `tc qdisc del` takes it away, and updating it to a new program leaves no moment
//! without one (docs/adr/0009). Making one waits for RCU, 8 to 16 ms: nothing for an uplink, too much for a pod.
//!
//! Each uplink that carries programs has a directory beside the maps' pins, named by its interface number, with its two links, or
//! empty where it has clsact filters: so that what an earlier daemon attached is found and taken off.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use nix::errno::Errno;

use super::{FastPathError, clsact};
use crate::calls::Call;
use crate::netlink::Socket;
use crate::{Ifindex, Uplink};

const HOOKS: [(&str, TcAttachType, &str); 2] =
    [("from_uplink", TcAttachType::Ingress, "ingress"), ("to_uplink", TcAttachType::Egress, "egress")];

/// How long a link that nobody has any more may take to go.
const LINGERS: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How a program of ours stands at its hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hook {
    /// It is there, and first.
    Stands,
    /// Another is ahead of it, and decides whether ours sees a packet.
    Behind(String),
    /// It is not there, with how that shows.
    Gone(String),
}

/// Kinds of hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tcx,
    Clsact,
}

/// Whose numbers the programs at the hooks have to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Programs {
    /// This daemon's.
    Ours,
    /// Perhaps those of a daemon before this one.
    Any,
}

/// Looks how our programs stand on an uplink, the way in first.
pub(super) fn look(
    host: &mut Socket,
    programs: &Ebpf,
    folder: &Path,
    uplink: &Uplink,
    whose: Programs,
) -> Result<(Kind, [Hook; 2]), FastPathError> {
    let mut ids = [0; 2];
    for ((name, ..), id) in HOOKS.iter().zip(&mut ids) {
        *id = number_of(programs, name)?;
    }
    let ids = (whose == Programs::Ours).then_some(ids);
    let pins = folder.join(uplink.ifindex.to_string());
    if HOOKS.iter().any(|(_, _, pin)| pins.join(pin).exists()) {
        let [ingress, egress] = [0, 1].map(|at| look_at_link(&pins.join(HOOKS[at].2), HOOKS[at].1, uplink, ids.map(|ids| ids[at])));
        return Ok((Kind::Tcx, [ingress, egress]));
    }
    Ok((Kind::Clsact, clsact::look(host, uplink.ifindex, ids)?))
}

fn look_at_link(pin: &Path, hook: TcAttachType, uplink: &Uplink, program: Option<u32>) -> Hook {
    // bpf(2) waits for the same lock as route netlink.
    let _call = Call::begin();
    let link = match PinnedLink::from_pin(pin).map(FdLink::from).and_then(|link| link.info()) {
        Ok(link) => link,
        Err(error) if is_missing(&error) => return Hook::Gone("its pin is missing".to_owned()),
        Err(error) => return Hook::Gone(format!("its link cannot be read: {error}")),
    };
    if program.is_some_and(|program| program != link.program_id()) {
        return Hook::Gone("another program is in its link".to_owned());
    }
    let there = match SchedClassifier::query_tcx(&uplink.ifname, hook) {
        Ok((_, there)) => there,
        Err(error) => return Hook::Gone(format!("the interface cannot be asked: {error}")),
    };
    match there.iter().position(|found| found.id() == link.program_id()) {
        None => Hook::Gone("its link is on the interface no more".to_owned()),
        Some(0) => Hook::Stands,
        Some(_) => Hook::Behind(there.first().map(named).unwrap_or_default()),
    }
}

fn named(program: &ProgramInfo) -> String {
    format!("the program {} (id {})", program.name_as_str().filter(|name| !name.is_empty()).unwrap_or("without a name"), program.id())
}

/// Attaches to an uplink that may have programs of ours already.
pub(super) fn attach(host: &mut Socket, programs: &mut Ebpf, folder: &Path, uplink: &Uplink) -> Result<(), FastPathError> {
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
    Ok(clsact::detach(host, uplink.ifindex)?)
}

/// Takes our programs off an uplink.
pub(super) fn detach(host: &mut Socket, folder: &Path, ifindex: Ifindex) -> Result<(), FastPathError> {
    clsact::detach(host, ifindex)?;
    let path = folder.join(ifindex.to_string());
    match std::fs::remove_dir_all(&path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(FastPathError::Pins { path, source }),
        _ => Ok(()),
    }
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
            detach(host, folder, ifindex)?;
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
    let _call = Call::begin();
    match PinnedLink::from_pin(pin) {
        Ok(pinned) => {
            let link = FdLink::from(pinned).try_into().map_err(|_| Refusal::Pin(ErrorKind::InvalidData.into()))?;
            match program.attach_to_link(link).map_err(refusal) {
                Ok(id) => {
                    // The pin holds the link; this program must not, or it would detach it at its end.
                    drop(program.take_link(id).map_err(Refusal::Aya)?);
                    return Ok(());
                }
                // The interface that it was on is gone, or somebody has detached it.
                Err(Refusal::Kernel(Errno::ENOLINK)) => std::fs::remove_file(pin).map_err(Refusal::Pin)?,
                Err(refusal) => return Err(refusal),
            }
        }
        Err(error) if is_missing(&error) => {}
        Err(_) => std::fs::remove_file(pin).map_err(Refusal::Pin)?,
    }
    let begun = Instant::now();
    let id = loop {
        // At the head: what comes behind another sees only what that one lets pass.
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        match program.attach_with_options(&uplink.ifname, hook, order).map_err(refusal) {
            // A link whose pin was removed goes a moment later (`bpf_link_put`, kernel/bpf/syscall.c), and a program stands at a hook once.
            Err(Refusal::Kernel(Errno::EEXIST)) if begun.elapsed() < LINGERS => std::thread::sleep(LOOK_AGAIN),
            outcome => break outcome?,
        }
    };
    let link: FdLink = program.take_link(id).map_err(Refusal::Aya)?.try_into().map_err(|_| Refusal::Pin(ErrorKind::InvalidData.into()))?;
    link.pin(pin).map(drop).map_err(|error| Refusal::Pin(std::io::Error::other(error)))
}

fn attach_clsact(host: &mut Socket, programs: &mut Ebpf, uplink: &Uplink) -> Result<(), FastPathError> {
    let refused = |source| FastPathError::Program { name: "from_uplink", source: Box::new(source) };
    let ingress = program(programs, "from_uplink")?.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(refused)?;
    let egress = program(programs, "to_uplink")?.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(refused)?;
    Ok(clsact::attach(host, uplink.ifindex, [&ingress, &egress])?)
}

fn number_of(programs: &Ebpf, name: &'static str) -> Result<u32, FastPathError> {
    let refused = |source| FastPathError::Program { name, source: Box::new(source) };
    let program: &SchedClassifier = programs.program(name).ok_or_else(|| refused(ProgramError::NotLoaded))?.try_into().map_err(refused)?;
    Ok(program.info().map_err(refused)?.id())
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
