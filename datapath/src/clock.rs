//! Whether the kernel takes its clock for right (adjtimex(2)).

use std::io;

use nix::errno::Errno;
use nix::libc;

/// Whether something keeps the clock in step with others. Changes nothing.
///
/// # Errors
/// None on Linux, for a call that only reads.
pub fn is_synchronised() -> io::Result<bool> {
    // SAFETY: all fields are integers, for which zero is a value; `modes` 0 only reads.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is whole and ours for the time of the call.
    Errno::result(unsafe { libc::adjtimex(&raw mut state) })?;
    Ok(state.status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_clock_can_be_asked() {
        assert!(super::is_synchronised().is_ok());
    }
}
