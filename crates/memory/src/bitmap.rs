//! A plain bitmap of pages, as a harvest hands it to the migration engine.

/// One bit for each page of guest memory, by page index (see [`crate::GuestRam::pages`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DirtyBitmap {
    words: Vec<u64>,
    pages: usize,
}

impl DirtyBitmap {
    /// A bitmap of `pages` pages, none of them set.
    pub fn none(pages: usize) -> Self {
        Self { words: vec![0; pages.div_ceil(64)], pages }
    }

    /// A bitmap of `pages` pages, all of them set.
    pub fn all(pages: usize) -> Self {
        let mut bitmap = Self { words: vec![u64::MAX; pages.div_ceil(64)], pages };
        bitmap.clear_tail();
        bitmap
    }

    /// Takes the words of a log; bits past `pages` are dropped.
    pub(crate) fn from_words(words: Vec<u64>, pages: usize) -> Self {
        debug_assert_eq!(words.len(), pages.div_ceil(64));
        let mut bitmap = Self { words, pages };
        bitmap.clear_tail();
        bitmap
    }

    fn clear_tail(&mut self) {
        let used = self.pages % 64;
        if used != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << used) - 1;
        }
    }

    /// How many pages the bitmap speaks of.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// How many pages are set.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// True if no page is set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// True if `page` is set.
    ///
    /// # Panics
    /// If `page` is not below [`Self::pages`].
    pub fn contains(&self, page: usize) -> bool {
        assert!(page < self.pages, "page {page} of {}", self.pages);
        self.words[page / 64] & (1 << (page % 64)) != 0
    }

    /// Sets `page`.
    ///
    /// # Panics
    /// If `page` is not below [`Self::pages`].
    pub fn insert(&mut self, page: usize) {
        assert!(page < self.pages, "page {page} of {}", self.pages);
        self.words[page / 64] |= 1 << (page % 64);
    }

    /// Clears `page`.
    ///
    /// # Panics
    /// If `page` is not below [`Self::pages`].
    pub fn remove(&mut self, page: usize) {
        assert!(page < self.pages, "page {page} of {}", self.pages);
        self.words[page / 64] &= !(1 << (page % 64));
    }

    /// Sets every page that is set in `other`.
    ///
    /// # Panics
    /// If the two speak of different numbers of pages.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.pages, other.pages);
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine |= theirs;
        }
    }

    /// Clears every page that is set in `other`.
    ///
    /// # Panics
    /// If the two speak of different numbers of pages.
    pub fn subtract(&mut self, other: &Self) {
        assert_eq!(self.pages, other.pages);
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine &= !theirs;
        }
    }

    /// The first set page that is not below `from`.
    pub fn next_from(&self, from: usize) -> Option<usize> {
        let first = self.words.get(from / 64)? & (u64::MAX << (from % 64));
        let rest = self.words.iter().enumerate().skip(from / 64 + 1);
        std::iter::once((from / 64, &first))
            .chain(rest)
            .find(|(_, word)| **word != 0)
            .map(|(index, word)| index * 64 + word.trailing_zeros() as usize)
    }

    /// The set pages, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros() as usize;
                    rest &= rest - 1;
                    index * 64 + bit
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_has_no_page_past_the_end() {
        let bitmap = DirtyBitmap::all(70);
        assert_eq!(bitmap.count(), 70);
        assert_eq!(bitmap.iter().last(), Some(69));
        assert!(DirtyBitmap::all(0).is_empty());
    }

    #[test]
    fn pages_go_in_and_out() {
        let mut bitmap = DirtyBitmap::none(200);
        for page in [0, 63, 64, 199] {
            bitmap.insert(page);
        }
        bitmap.remove(64);
        assert_eq!(bitmap.iter().collect::<Vec<_>>(), [0, 63, 199]);
        let mut other = DirtyBitmap::none(200);
        other.insert(100);
        bitmap.merge(&other);
        assert!(bitmap.contains(100) && !bitmap.contains(64));
        assert_eq!(bitmap.count(), 4);
        let found = [0, 1, 63, 64, 100, 101, 199, 200, 900].map(|from| bitmap.next_from(from));
        let expected = [Some(0), Some(63), Some(63), Some(100), Some(100), Some(199), Some(199)];
        assert_eq!(found[..7], expected);
        assert_eq!(found[7..], [None, None]);
        bitmap.subtract(&other);
        assert_eq!(bitmap.iter().collect::<Vec<_>>(), [0, 63, 199]);
    }
}
