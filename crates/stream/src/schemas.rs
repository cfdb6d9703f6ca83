//! What a machine's sections look like.

use vmstate::Schema;

/// Says which sections a machine has and what they look like. A section has no length of its own:
/// without its schema nobody knows where it ends.
pub trait Schemas: Send + Sync {
    /// The schema of a section, or `None` if the machine has no such section.
    fn schema(&self, name: &str, instance: u32) -> Option<&Schema>;

    /// Name and instance of every section that a complete machine has.
    fn expected(&self) -> Vec<(String, u32)>;
}
