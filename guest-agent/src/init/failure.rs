//! What failed, on what, why: the failures that init reports to the agent, worded as runc's.

use std::io;

use nix::errno::Errno;

use super::protocol::{Failure, Reason};

/// What a step of the set-up gives.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A part of the request that cannot be carried out as written.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            reason: Reason::Invalid,
            message: message.into(),
        }
    }

    /// An operation that failed for a cause that no errno tells.
    pub fn kernel(message: impl Into<String>) -> Self {
        Self {
            reason: Reason::Kernel,
            message: message.into(),
        }
    }

    /// Turns a failure of the set-up into one of the given reason.
    pub fn because_of(self, reason: Reason) -> Self {
        Self { reason, ..self }
    }
}

/// Says on what an operation failed.
pub trait Context<T> {
    /// Puts `what` and a colon before the cause.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for nix::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Failure::kernel(format!("{}: {}", what(), text(errno))))
    }
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let cause = error
                .raw_os_error()
                .map_or_else(|| error.to_string(), |code| text(Errno::from_raw(code)));
            Failure::kernel(format!("{}: {cause}", what()))
        })
    }
}

impl<T> Context<T> for Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|failure| Failure {
            message: format!("{}: {}", what(), failure.message),
            ..failure
        })
    }
}

/// The error's text as Go, and so runc, writes it: that of strerror(3) with a small first letter.
pub fn text(errno: Errno) -> String {
    let described = io::Error::from_raw_os_error(errno as i32).to_string();
    let text = described.split(" (os error").next().unwrap_or(&described);
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_in_go() {
        assert_eq!(text(Errno::ENOENT), "no such file or directory");
        assert_eq!(text(Errno::ELOOP), "too many levels of symbolic links");
        assert_eq!(text(Errno::EIO), "input/output error");
    }

    #[test]
    fn context_goes_before_the_cause_and_keeps_the_reason() {
        let failed: Result<()> = Err(Errno::EPERM).context(|| "inner".into());
        let failure = failed.context(|| "outer".into()).unwrap_err();
        assert_eq!(
            failure,
            Failure {
                reason: Reason::Kernel,
                message: "outer: inner: operation not permitted".into()
            }
        );
    }
}
