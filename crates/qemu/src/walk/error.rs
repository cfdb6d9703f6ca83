//! Why a stream cannot be walked.

use std::io;

/// What is wrong with a stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalkErrorKind {
    /// The file cannot be read.
    #[error("cannot be read")]
    Io(#[source] io::Error),
    /// The stream ends before its end.
    #[error("the stream is cut short")]
    CutShort,
    /// It does not begin with `QEVM`.
    #[error("not a migration stream: it begins with {0:#010x}")]
    Magic(u32),
    /// Another version of the grammar.
    #[error("version {0} of the stream format is not known")]
    Version(u32),
    /// A name that is not text.
    #[error("a name is not UTF-8")]
    NotUtf8,
    /// A byte that names nothing that may come.
    #[error("{found:#04x} is not the type of anything that may come here")]
    Type {
        /// The byte.
        found: u8,
    },
    /// A subsection of the configuration that nobody knows; it has no length to skip it by.
    #[error("the configuration has an unknown subsection {0:?}")]
    ConfigurationSubsection(String),
    /// A part of a section that has not begun.
    #[error("a part of section number {0}, which has not begun")]
    UnknownSectionId(u32),
    /// The section does not end with its footer.
    #[error("the section does not end where its description says: found {0:#04x} for its footer")]
    NoFooter(u8),
    /// A footer with another section's number.
    #[error("the footer names section {found} and ends section {expected}")]
    FooterId {
        /// The section that ends.
        expected: u32,
        /// What the footer says.
        found: u32,
    },
    /// Flags of a RAM record that are not known, or not known together.
    #[error("RAM record with flags {0:#05x}")]
    RamFlags(u64),
    /// A record for a block that is not in the list.
    #[error("a page of an unknown RAM block {0:?}")]
    UnknownBlock(String),
    /// "The same block as before", and there was none.
    #[error("a page of the same RAM block as the page before, and there was none")]
    NoBlockBefore,
    /// A page outside its block.
    #[error("a page at {offset:#x} of RAM block {block:?}, which has {length:#x} bytes")]
    PageOutside {
        /// The block.
        block: String,
        /// Where the page would be, in bytes.
        offset: u64,
        /// Length of the block in bytes.
        length: u64,
    },
    /// The list of blocks does not add up.
    #[error("with RAM block {block:?} the blocks are longer than the {total:#x} bytes announced")]
    BlocksTooLong {
        /// The block.
        block: String,
        /// Bytes of all blocks, as announced.
        total: u64,
    },
    /// Two blocks of one name.
    #[error("RAM block {0:?} comes twice")]
    BlockTwice(String),
    /// More RAM blocks than any machine has.
    #[error("more than {} RAM blocks", super::MAX_BLOCKS)]
    ManyBlocks,
    /// A page of zeroes that is filled with something else.
    #[error("a page of zeroes is filled with {0:#04x}")]
    FilledPage(u8),
    /// A delta record that decodes to no page.
    #[error("an XBZRLE record is malformed")]
    Delta,
    /// The description has another section at this place.
    #[error("the description has section {described:?} at this place")]
    Described {
        /// Name and instance in the description; `None` if it has no more.
        described: Option<(String, u32)>,
    },
    /// The description and the body disagree.
    #[error("field {path}: {problem}")]
    Field {
        /// Path of the field.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The description names sections that did not come.
    #[error("the description names section {name:?} instance {instance}, which did not come")]
    Undelivered {
        /// Its name.
        name: String,
        /// Its instance.
        instance: u32,
    },
}

/// A stream that cannot be walked: says at which byte, in which section, and why.
#[derive(Debug, thiserror::Error)]
#[error("byte {offset} of the stream: {}{kind}", section_name(.section))]
pub struct WalkError {
    /// Where, in bytes from the start of the stream.
    pub offset: u64,
    /// Name and instance of the section, if it was in one.
    pub section: Option<(String, u32)>,
    /// What is wrong.
    #[source]
    pub kind: WalkErrorKind,
}

fn section_name(section: &Option<(String, u32)>) -> String {
    section
        .as_ref()
        .map(|(name, instance)| format!("section {name:?} instance {instance}: "))
        .unwrap_or_default()
}
