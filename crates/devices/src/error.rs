//! The error of every device's `restore`.

/// Why a device cannot become the one that was saved. The device is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{device}: {reason}")]
pub struct RestoreError {
    /// The device, by the name of its section.
    pub device: &'static str,
    /// The field that is wrong, and what is wrong with it.
    pub reason: String,
}

impl RestoreError {
    /// An error of a device, with its reason.
    pub fn new(device: &'static str, reason: impl Into<String>) -> Self {
        Self { device, reason: reason.into() }
    }
}
