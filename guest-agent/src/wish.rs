//! What the host wishes for: a container, and the descriptors of a process.

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use crate::init::protocol::WindowSize;
use crate::network::wanted::Network;
use crate::stdio::{Kind, STANDARD};

/// The container that the host wishes for.
pub struct Wish {
    pub spec: Spec,
    pub stdio: StdioRequest,
    /// Whether it gets a notification socket.
    pub notify: bool,
    /// What its startContainer hooks are told, as JSON, but for the pid.
    pub hook_state: String,
    /// What its network namespace begins with.
    pub network: Network,
    /// The namespaces that it shares, each with the container that has it.
    pub joined: Vec<(LinuxNamespaceType, String)>,
}

/// What the host wishes for the descriptors of a process.
pub struct StdioRequest {
    /// From 0 on; the standard streams are always among them.
    pub descriptors: Vec<Kind>,
    pub window: Option<WindowSize>,
}

impl StdioRequest {
    /// The kinds of the descriptors that the process is started with; a terminal takes the place of the standard streams.
    pub fn kinds(mut self, process: Option<&Process>) -> Vec<Kind> {
        if process.and_then(|process| process.terminal()).unwrap_or(false) {
            self.descriptors[..STANDARD].fill(Kind::Null);
        }
        self.descriptors
    }
}
