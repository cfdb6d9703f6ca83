//! A set of pages on the wire: its encoding, in parts that fit into frames.

use memory::DirtyBitmap;

use super::Violation;

/// The parts of a set's encoding, each of at most `longest` bytes, and whether it is the last.
pub fn parts(set: &DirtyBitmap, longest: usize) -> Vec<(bool, Vec<u8>)> {
    let encoding = set.encode();
    let chunks: Vec<_> = encoding.chunks(longest.max(1)).collect();
    let last = chunks.len().saturating_sub(1);
    chunks.iter().enumerate().map(|(index, chunk)| (index == last, chunk.to_vec())).collect()
}

/// Puts the parts together again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetReader {
    pages: usize,
    bytes: Vec<u8>,
}

impl SetReader {
    /// For a set of so many pages.
    pub fn new(pages: usize) -> Self {
        Self { pages, bytes: Vec::new() }
    }

    /// Takes the next part; gives the set with the last one.
    ///
    /// # Errors
    /// If the parts are longer than any set, or are no set.
    pub fn part(&mut self, last: bool, bytes: &[u8]) -> Result<Option<DirtyBitmap>, Violation> {
        let longest = DirtyBitmap::longest_encoding(self.pages);
        if self.bytes.len() + bytes.len() > longest {
            return Err(Violation::SetLength(longest));
        }
        self.bytes.extend_from_slice(bytes);
        if !last {
            return Ok(None);
        }
        Ok(Some(DirtyBitmap::decode(&std::mem::take(&mut self.bytes), self.pages)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_goes_in_parts_of_any_size_and_no_further_than_its_bound() {
        let mut set = DirtyBitmap::none(40_000);
        (0..40_000).step_by(3).for_each(|page| set.insert(page));
        for longest in [1, 7, 4096, 1 << 20] {
            let mut reader = SetReader::new(40_000);
            let mut came = None;
            for (last, part) in parts(&set, longest) {
                assert!(came.is_none() && part.len() <= longest && !part.is_empty());
                came = reader.part(last, &part).unwrap();
            }
            assert_eq!(came.as_ref(), Some(&set));
        }
        let mut reader = SetReader::new(100);
        reader.part(false, &[0; 14]).unwrap();
        assert_eq!(reader.part(false, &[0]), Err(Violation::SetLength(14)));
    }
}
