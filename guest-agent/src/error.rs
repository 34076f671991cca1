//! The failures that the host is told of; each is a gRPC status of the interface, or the answer's `ExecutableError`.

use std::fmt::Display;

use tonic::Status;

use crate::init::protocol::{Failure, Reason};

/// Longest message of a status, in bytes; HTTP/2 carries it in the trailers.
const MAX_MESSAGE: usize = 4096;

/// Why a request is not carried out. The message is one line for a person.
#[derive(Debug)]
pub enum Error {
    /// The request cannot be carried out as written.
    InvalidArgument(String),
    /// There is no such container or process.
    NotFound(String),
    /// The id is taken.
    AlreadyExists(String),
    /// The container or the process is not in a state that allows it.
    FailedPrecondition(String),
    /// An operation of the guest's kernel failed.
    Internal(String),
    /// The program cannot be executed.
    Executable(Failure),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An operation of the kernel failed: which, on what, and why.
    pub fn kernel(action: impl Display, cause: impl Display) -> Self {
        Self::Internal(format!("cannot {action}: {cause}"))
    }
}

/// What `init` could not do.
impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure.reason {
            Reason::Invalid => Self::InvalidArgument(failure.message),
            Reason::Kernel => Self::Internal(failure.message),
            _ => Self::Executable(failure),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidArgument(message) => Self::invalid_argument(bounded(message)),
            Error::NotFound(message) => Self::not_found(bounded(message)),
            Error::AlreadyExists(message) => Self::already_exists(bounded(message)),
            Error::FailedPrecondition(message) => Self::failed_precondition(bounded(message)),
            Error::Internal(message) => Self::internal(bounded(message)),
            Error::Executable(failure) => Self::failed_precondition(bounded(failure.message)),
        }
    }
}

/// The message, cut to what the interface allows.
pub fn bounded(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    message
}
