//! What the host wishes for: a container, and the streams of a process.

use oci_spec::runtime::{Process, Spec};

use crate::init::protocol::WindowSize;
use crate::stdio::Plan;

/// The container that the host wishes for.
pub struct Wish {
    pub spec: Spec,
    pub stdio: StdioRequest,
    /// Whether it gets a notification socket.
    pub notify: bool,
    /// What its startContainer hooks are told, as JSON, but for the pid.
    pub hook_state: String,
}

/// What the host wishes for the streams of a process.
#[derive(Clone, Copy, Default)]
pub struct StdioRequest {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub window: Option<WindowSize>,
}

impl StdioRequest {
    /// The streams to be made; a terminal takes the place of them all.
    pub fn plan(self, process: Option<&Process>) -> Plan {
        let terminal = process.and_then(|process| process.terminal()).unwrap_or(false);
        Plan {
            terminal,
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: self.stderr,
        }
    }
}
