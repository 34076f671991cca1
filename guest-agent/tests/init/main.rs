//! `vruntime-agent init` on real bundles, driven as the agent drives it, and next to runc where that is installed.

mod exec;
mod files;
mod hooks;
mod hostile;
mod process;
mod support;
mod terminal;
mod user_namespace;
