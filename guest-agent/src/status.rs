//! What a container is doing, and what that allows.

use std::fmt;

use crate::error::{Error, Result};

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Creating,
    Created,
    Running,
    Stopped,
    Deleting,
}

impl Status {
    pub fn can_start(self) -> bool {
        self == Self::Created
    }

    /// As with runc, a created container takes further processes already.
    pub fn can_exec(self) -> bool {
        matches!(self, Self::Created | Self::Running)
    }

    pub fn can_delete(self) -> bool {
        matches!(self, Self::Created | Self::Running | Self::Stopped)
    }

    /// An error that names the state and what it does not allow.
    pub fn require(self, action: &str, id: &str, allows: impl FnOnce(Self) -> bool) -> Result<()> {
        match allows(self) {
            true => Ok(()),
            false => Err(Error::FailedPrecondition(format!(
                "container {id:?} cannot be {action}: it is {self}"
            ))),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Deleting => "deleting",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transition_is_allowed_from_its_states_alone() {
        use Status::*;
        let allowing = |allows: fn(Status) -> bool| {
            [Creating, Created, Running, Stopped, Deleting]
                .into_iter()
                .filter(|s| allows(*s))
                .collect::<Vec<_>>()
        };
        assert_eq!(allowing(Status::can_start), [Created]);
        assert_eq!(allowing(Status::can_exec), [Created, Running]);
        assert_eq!(allowing(Status::can_delete), [Created, Running, Stopped]);
    }

    #[test]
    fn a_refusal_names_both_states() {
        let Err(Error::FailedPrecondition(message)) = Status::Running.require("started", "c", Status::can_start) else {
            panic!("a running container was started");
        };
        assert_eq!(message, "container \"c\" cannot be started: it is running");
    }
}
