//! A process of a container, from the start of its executable to its execve.

pub mod protocol;

/// Carries out the request that comes on [`protocol::SOCKET`], and becomes the container's process. Never returns.
pub fn run() -> ! {
    std::process::exit(1)
}
