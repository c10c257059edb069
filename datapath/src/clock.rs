//! What the kernel knows of its clock (adjtimex(2)).

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

/// The clock, as whoever keeps it has told the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Whether something keeps it in step with others.
    pub is_synchronised: bool,
    /// By how much it is thought to be wrong: what is still to be slewed, and the estimated error of the rest.
    pub error: Duration,
}

/// Reads it. Changes nothing.
///
/// # Errors
/// None on Linux, for a call that only reads.
pub fn read() -> io::Result<Clock> {
    // SAFETY: all fields are integers, for which zero is a value; `modes` 0 only reads.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is whole and ours for the time of the call.
    Errno::result(unsafe { libc::adjtimex(&raw mut state) })?;
    let is_nano = state.status & libc::STA_NANO != 0;
    let offset = state.offset.unsigned_abs();
    let offset = if is_nano { Duration::from_nanos(offset) } else { Duration::from_micros(offset) };
    let estimated = Duration::from_micros(u64::try_from(state.esterror).unwrap_or_default());
    Ok(Clock { is_synchronised: state.status & libc::STA_UNSYNC == 0, error: offset + estimated })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_clock_can_be_asked() {
        assert!(super::read().is_ok());
    }
}
