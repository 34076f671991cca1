//! The session keyring of a container (keyrings(7)): what is kept there, no other container finds.

use std::ffi::CString;

use nix::errno::Errno;
use nix::libc::{self, c_long};

use super::failure::{Context, Result};

/// What whoever has it and the user may do: all but to change it, and to view, read and search, without which a further
/// process could not join it (linux/key.h, as runc sets it).
const PERMISSIONS: c_long = 0x3f0b_0000;

/// Joins the keyring of a container, which its first process makes.
pub fn join(container: &str) -> Result<()> {
    let name = CString::new(format!("_ses.{container}")).expect("an id has no nul");
    let operation = c_long::from(libc::KEYCTL_JOIN_SESSION_KEYRING);
    // SAFETY: the name is a C string that outlives the call.
    let joined = Errno::result(unsafe { libc::syscall(libc::SYS_keyctl, operation, name.as_ptr()) });
    let keyring = match joined {
        Ok(keyring) => keyring,
        // A kernel without keyrings.
        Err(Errno::ENOSYS) => return Ok(()),
        Err(errno) => return Err(errno).context(|| "unable to join session keyring".into()),
    };
    let operation = c_long::from(libc::KEYCTL_SETPERM);
    // SAFETY: this operation takes numbers only.
    match Errno::result(unsafe { libc::syscall(libc::SYS_keyctl, operation, keyring, PERMISSIONS) }) {
        // Who made it has set them; another user need not be able to.
        Ok(_) | Err(Errno::EACCES) => Ok(()),
        Err(errno) => Err(errno).context(|| "unable to set the permissions of the session keyring".into()),
    }
}
