//! What can go wrong with the host's KVM.

use std::io;

/// The host's KVM is not there, or does not do what is asked of it.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// `/dev/kvm` cannot be opened.
    #[error("cannot open /dev/kvm")]
    Open(#[source] io::Error),
    /// A call was refused.
    #[error("{call} failed")]
    Call {
        /// Which one.
        call: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// The host's KVM lacks something that has no substitute.
    #[error("this host's KVM does not offer {0}")]
    Missing(&'static str),
    /// The host cannot be the CPU model that is asked for.
    #[error("this host cannot be a {model}: {}", .reasons.join(", "))]
    Model {
        /// The model's name.
        model: &'static str,
        /// What stands against it, feature by feature.
        reasons: Vec<String>,
    },
    /// The guest's TSC cannot have this frequency here.
    #[error("this host cannot run a TSC at {wanted} kHz: its own runs at {host} kHz")]
    TscFrequency {
        /// What was asked for.
        wanted: u64,
        /// What the host has.
        host: u64,
    },
    /// Part of a vCPU's state is refused.
    #[error("{0}")]
    State(String),
}

impl From<KvmError> for cpu::AcceleratorError {
    fn from(error: KvmError) -> Self {
        Self::Host(Box::new(error))
    }
}

impl KvmError {
    pub(crate) fn call(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self::Call { call, source: error.into() }
    }

    pub(crate) fn last(call: &'static str) -> Self {
        Self::Call { call, source: io::Error::last_os_error() }
    }

    /// The error and its causes, in one sentence.
    pub(crate) fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
