//! Why a stream is refused.

use std::fmt;
use std::io;

use vmstate::DecodeError;

/// A part of the stream, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Header and machine type.
    Configuration,
    /// The device tree.
    Machine,
    /// The list of RAM blocks.
    RamBlocks,
    /// Rounds of pages.
    Ram,
    /// The pages of one round.
    Pages,
    /// The pages of the last round.
    LastPages,
    /// Device sections.
    Devices,
    /// End mark and description.
    End,
    /// Nothing more.
    Over,
    /// Nothing more, after an error.
    Failed,
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Configuration => "the header and the configuration",
            Self::Machine => "the machine section",
            Self::RamBlocks => "the list of RAM blocks",
            Self::Ram => "the beginning of a round of pages",
            Self::Pages => "pages or the end of the round",
            Self::LastPages => "pages or the end of RAM",
            Self::Devices => "a device section or the digest",
            Self::End => "the end mark",
            Self::Over => "nothing more",
            Self::Failed => "nothing more",
        })
    }
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamErrorKind {
    /// The channel failed.
    #[error("the channel failed")]
    Io(#[source] io::Error),
    /// The stream ends before its end.
    #[error("the stream is cut short")]
    CutShort,
    /// It does not begin with `QEVM`.
    #[error("not a migration stream: it begins with {0:#010x}")]
    Magic(u32),
    /// Another version of the format.
    #[error("version {0} of the stream format is not known")]
    Version(u32),
    /// A byte that says what comes, and names something else than what may come.
    #[error("expected {expected}, found type {found:#04x}")]
    UnexpectedType {
        /// What may come.
        expected: Part,
        /// The byte.
        found: u8,
    },
    /// The writer was called out of order.
    #[error("{what} was written where {expected} is due")]
    OutOfOrder {
        /// What may come.
        expected: Part,
        /// What was tried.
        what: &'static str,
    },
    /// A name that is empty.
    #[error("{0} has no name")]
    NoName(&'static str),
    /// A name that is too long.
    #[error("the name of {what} has {length} bytes, and {max} are allowed")]
    LongName {
        /// Whose name.
        what: &'static str,
        /// Its length in bytes.
        length: u64,
        /// The longest that is allowed.
        max: u32,
    },
    /// A name that is not UTF-8.
    #[error("the name of {0} is not UTF-8")]
    NotUtf8(&'static str),
    /// Another section than the one that is due.
    #[error("expected section {0:?} instance 0")]
    ExpectedSection(&'static str),
    /// Another version of a section that has only one.
    #[error("version {found} is not supported: version {expected} is")]
    SectionVersion {
        /// The version known.
        expected: u32,
        /// The version found.
        found: u32,
    },
    /// A section whose number is not the next one.
    #[error("section number {found} where {expected} is due")]
    SectionId {
        /// The number due.
        expected: u32,
        /// The number found.
        found: u32,
    },
    /// A section that does not end where its schema ends.
    #[error("no footer where the section ends: found {0:#04x}")]
    NoFooter(u8),
    /// A footer with another section's number.
    #[error("the footer names section {found} and ends section {expected}")]
    FooterId {
        /// The section that ends.
        expected: u32,
        /// What the footer says.
        found: u32,
    },
    /// A section that the machine does not have.
    #[error("the machine has no such section")]
    UnknownSection,
    /// A section that came already.
    #[error("the section comes twice")]
    RepeatedSection,
    /// Sections that did not come.
    #[error("missing: {}", list(.0))]
    MissingSections(Vec<(String, u32)>),
    /// Nobody said what the machine's sections look like.
    #[error("a device section before the machine's sections are known")]
    NoSchemas,
    /// The body of a section is not what its schema says. Shown by [`StreamError`] itself.
    #[error("{0}")]
    Section(DecodeError),
    /// The device tree is too large.
    #[error("the device tree has {0} bytes, and {max} are allowed", max = crate::MAX_MACHINE)]
    LargeMachine(usize),
    /// RAM flags that are not known, or not known together, or not here.
    #[error("RAM record with flags {0:#05x}")]
    RamFlags(u64),
    /// An end of a RAM section with an address in it.
    #[error("the end of the RAM section has the offset {0:#x}")]
    RamEndOffset(u64),
    /// The list of RAM blocks does not begin with their total length.
    #[error("the list of RAM blocks begins with {0:#x}")]
    RamTotal(u64),
    /// No RAM at all.
    #[error("there are no RAM blocks")]
    NoRamBlocks,
    /// More RAM blocks than a machine may have.
    #[error("more than {} RAM blocks", crate::MAX_RAM_BLOCKS)]
    ManyRamBlocks,
    /// RAM blocks longer than their total length.
    #[error("with RAM block {name:?} of {length} bytes there are more than the {total} announced")]
    RamBlocksTooLong {
        /// The block.
        name: String,
        /// Its length in bytes.
        length: u64,
        /// The total announced.
        total: u64,
    },
    /// A RAM block of a length that no block has.
    #[error("RAM block {name:?} has {length} bytes, which is not a number of pages")]
    RamBlockLength {
        /// The block.
        name: String,
        /// Its length in bytes.
        length: u64,
    },
    /// Two RAM blocks of one name.
    #[error("RAM block {0:?} comes twice")]
    RepeatedRamBlock(String),
    /// A page of a block that is not in the list.
    #[error("a page of an unknown RAM block {0:?}")]
    UnknownRamBlock(String),
    /// A page of a block whose number is not in the list.
    #[error("a page of RAM block {0}, which there is not")]
    NoRamBlock(u16),
    /// A page of the same block as before, and there was none before.
    #[error("a page of the same RAM block as the page before, and there was none")]
    NoPageBefore,
    /// A page that is not in its block.
    #[error("a page at {offset:#x} of RAM block {block:?}, which has {length:#x} bytes")]
    PageOutside {
        /// The block.
        block: String,
        /// Where the page would be in the block, in bytes.
        offset: u64,
        /// Length of the block in bytes.
        length: u64,
    },
    /// A page that does not begin where pages begin.
    #[error("a page at {0:#x}, where no page begins")]
    PageOffset(u64),
    /// A page of zeroes that is filled with something else.
    #[error("a page of zeroes is filled with {0:#04x}")]
    FilledPage(u8),
    /// A description of another length.
    #[error("the description has {found} bytes, and that of what was read has {expected}")]
    DescriptionLength {
        /// Length of the description of what was read.
        expected: usize,
        /// Length found.
        found: u32,
    },
    /// A description of something else.
    #[error("the description differs from what was read; expected `{expected}`, found `{found}`")]
    Description {
        /// The description of what was read, around the difference.
        expected: String,
        /// What was found there.
        found: String,
    },
    /// A read after [`Event::End`](crate::Event::End) or after an error.
    #[error("nothing can be read after the end or an error")]
    ReadAfterEnd,
    /// Bytes after the end.
    #[error("bytes after the end of the stream")]
    TrailingBytes,
}

fn list(sections: &[(String, u32)]) -> String {
    let named = sections.iter().map(|(name, instance)| format!("section {name:?} {instance}"));
    named.collect::<Vec<_>>().join(", ")
}

#[derive(Debug)]
struct Inner {
    offset: u64,
    section: Option<(String, u32)>,
    kind: StreamErrorKind,
}

/// A stream is refused. Says at which byte, in which section and field, and why.
#[derive(Debug)]
pub struct StreamError(Box<Inner>);

impl StreamError {
    /// An error at a byte of the stream.
    pub(crate) fn new(offset: u64, kind: StreamErrorKind) -> Self {
        Self(Box::new(Inner { offset, section: None, kind }))
    }

    /// An error in the body of a section that begins at a byte of the stream.
    pub(crate) fn body(start: u64, name: &str, instance: u32, error: DecodeError) -> Self {
        let offset = start + error.offset();
        let kind = StreamErrorKind::Section(error.in_section(name, instance));
        Self::new(offset, kind).in_section(name, instance)
    }

    /// The same error, about a section.
    pub(crate) fn in_section(mut self, name: &str, instance: u32) -> Self {
        self.0.section = Some((name.to_owned(), instance));
        self
    }

    /// Where the stream went wrong, in bytes from its start.
    pub fn offset(&self) -> u64 {
        self.0.offset
    }

    /// Name and instance of the section in which it went wrong, if it was in one.
    pub fn section(&self) -> Option<(&str, u32)> {
        self.0.section.as_ref().map(|(name, instance)| (name.as_str(), *instance))
    }

    /// Path of the field in which it went wrong, if it was in one.
    pub fn field(&self) -> Option<&str> {
        match &self.0.kind {
            StreamErrorKind::Section(error) => Some(error.path()).filter(|path| !path.is_empty()),
            _ => None,
        }
    }

    /// What is wrong.
    pub fn kind(&self) -> &StreamErrorKind {
        &self.0.kind
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { offset, section, kind } = &*self.0;
        write!(formatter, "byte {offset} of the stream: ")?;
        match (section, kind) {
            // Says so itself, with the field.
            (_, StreamErrorKind::Section(_)) | (None, _) => {}
            (Some((name, instance)), _) => {
                write!(formatter, "section {name:?} instance {instance}: ")?;
            }
        }
        write!(formatter, "{kind}")
    }
}

impl std::error::Error for StreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.kind {
            StreamErrorKind::Io(error) => Some(error),
            // Its own text is part of this one's.
            StreamErrorKind::Section(error) => error.source(),
            _ => None,
        }
    }
}
