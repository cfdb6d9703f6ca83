//! Why bytes are not a state.

use std::fmt;
use std::io;

/// Why a state that was decoded cannot be: the answer of a `validate` function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

impl Invalid {
    /// A reason, as a short sentence about the state.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// What is wrong with the bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The data ends within the field.
    #[error("the data ends too early")]
    Truncated,
    /// The source of the bytes failed.
    #[error("the data cannot be read")]
    Io(#[source] io::Error),
    /// A boolean that is neither 0 nor 1.
    #[error("{0} is not a boolean")]
    NotBoolean(u8),
    /// A value that the enumeration does not name.
    #[error("{value} is not a {name}")]
    UnknownVariant {
        /// Name of the enumeration.
        name: &'static str,
        /// The value read.
        value: u8,
    },
    /// A list longer than it may be.
    #[error("{count} elements where at most {max} may be")]
    TooMany {
        /// Elements announced.
        count: u32,
        /// Elements allowed.
        max: u32,
    },
    /// More bytes than any body may have.
    #[error("the data is longer than {0} bytes")]
    TooLong(u64),
    /// A subsection that the structure does not have.
    #[error("unknown subsection {0:?}")]
    UnknownSubsection(String),
    /// A subsection that came already, or whose place was before one that came already.
    #[error("subsection {0:?} comes twice or out of order")]
    MisplacedSubsection(String),
    /// A version that this release does not read.
    #[error("version {version} of {name:?} is not supported: versions {minimum} to {newest} are")]
    UnsupportedVersion {
        /// Name of the structure.
        name: String,
        /// The version of the data.
        version: u32,
        /// The oldest version that is read.
        minimum: u32,
        /// The newest version that is read.
        newest: u32,
    },
    /// Bytes after the end.
    #[error("{0} bytes too many")]
    TrailingBytes(u64),
    /// Every field is well formed, and the state cannot be.
    #[error("invalid state")]
    Invalid(#[source] Invalid),
}

#[derive(Debug)]
struct Inner {
    section: Option<(String, u32)>,
    path: String,
    offset: u64,
    kind: DecodeErrorKind,
}

/// Bytes are not a state. Says which section (where that is known), which field, at which byte,
/// and why.
#[derive(Debug)]
pub struct DecodeError(Box<Inner>);

impl DecodeError {
    /// An error at a byte offset from the start of the body.
    pub(crate) fn new(offset: u64, kind: DecodeErrorKind) -> Self {
        Self(Box::new(Inner { section: None, path: String::new(), offset, kind }))
    }

    /// An error about a state whose fields are well formed, and which cannot be.
    #[doc(hidden)]
    pub fn invalid(offset: u64, reason: Invalid) -> Self {
        Self::new(offset, DecodeErrorKind::Invalid(reason))
    }

    /// The same error, one structure further out.
    #[doc(hidden)]
    #[must_use]
    pub fn within(mut self, field: &str) -> Self {
        let dot = if self.0.path.is_empty() || self.0.path.starts_with('[') { "" } else { "." };
        self.0.path = format!("{field}{dot}{}", self.0.path);
        self
    }

    /// The same error, one array further out.
    pub(crate) fn at_index(self, index: usize) -> Self {
        self.within(&format!("[{index}]"))
    }

    /// The same error, about a section.
    #[must_use]
    pub fn in_section(mut self, name: &str, instance: u32) -> Self {
        self.0.section = Some((name.to_owned(), instance));
        self
    }

    /// Name and instance of the section, if they are known.
    pub fn section(&self) -> Option<(&str, u32)> {
        self.0.section.as_ref().map(|(name, instance)| (name.as_str(), *instance))
    }

    /// Path of the field, such as `fifo[3].control`; empty if it is the whole state.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// Where the field begins, in bytes from the start of the section's body.
    pub fn offset(&self) -> u64 {
        self.0.offset
    }

    /// What is wrong.
    pub fn kind(&self) -> &DecodeErrorKind {
        &self.0.kind
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { section, path, offset, kind } = &*self.0;
        if let Some((name, instance)) = section {
            write!(formatter, "section {name:?} instance {instance}, ")?;
        }
        if !path.is_empty() {
            write!(formatter, "field {path}, ")?;
        }
        write!(formatter, "byte {offset}: {kind}")?;
        // The reason is what people need; nobody should have to walk the chain for it.
        if let DecodeErrorKind::Invalid(reason) = kind {
            write!(formatter, ": {reason}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DecodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.kind {
            DecodeErrorKind::Io(error) => Some(error),
            _ => None,
        }
    }
}
