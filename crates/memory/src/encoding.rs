//! A page bitmap as bytes, for the exchange between two hosts: short where pages come in runs or
//! are few, and with one form only for each bitmap.
//!
//! ```text
//! for each 32768 pages, in ascending order (the last part may have fewer):
//!   00                               no page is set
//!   01                               every page is set
//!   02 | be16 count | be16 page ...  these are set, ascending, numbered within the part
//!   03 | be16 count | be16 page ...  these are not set, the others are
//!   04 | one bit a page              the lowest bit first, rounded up to whole bytes
//! ```
//!
//! The shortest form is the only one that is accepted; of two of equal length, the first.

use crate::DirtyBitmap;

/// Pages of one part, a whole number of words.
const PART: usize = 32768;
const NONE: u8 = 0;
const ALL: u8 = 1;
const THESE: u8 = 2;
const ALL_BUT: u8 = 3;
const BITS: u8 = 4;

/// Bytes that are no bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BitmapError {
    /// The bytes end early.
    #[error("the page bitmap is cut off")]
    Truncated,
    /// There are bytes behind the end.
    #[error("{0} bytes follow the page bitmap")]
    Trailing(usize),
    /// A part whose form is unknown.
    #[error("unknown form {form} of the pages from {first} on")]
    Form {
        /// The form.
        form: u8,
        /// The first page of the part.
        first: usize,
    },
    /// A part that is not in the one form that it must have.
    #[error("the pages from {first} on are not in their shortest form")]
    NotCanonical {
        /// The first page of the part.
        first: usize,
    },
}

impl DirtyBitmap {
    /// Bytes that the encoding of a bitmap of so many pages has at most.
    pub fn longest_encoding(pages: usize) -> usize {
        pages.div_ceil(8) + pages.div_ceil(PART)
    }

    /// The bitmap as bytes. The number of pages is not among them.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for first in (0..self.pages()).step_by(PART) {
            self.encode_part(first, &mut bytes);
        }
        bytes
    }

    fn encode_part(&self, first: usize, into: &mut Vec<u8>) {
        let end = (first + PART).min(self.pages());
        let length = end - first;
        let set = (first..end).filter(|page| self.contains(*page)).count();
        let list = |into: &mut Vec<u8>, form: u8, wanted: bool, count: usize| {
            into.push(form);
            into.extend((count as u16).to_be_bytes());
            for page in (first..end).filter(|page| self.contains(*page) == wanted) {
                into.extend(((page - first) as u16).to_be_bytes());
            }
        };
        let listed = |count: usize| 2 + 2 * count <= length.div_ceil(8);
        match set {
            0 => into.push(NONE),
            _ if set == length => into.push(ALL),
            _ if listed(set) && set <= length - set => list(into, THESE, true, set),
            _ if listed(length - set) => list(into, ALL_BUT, false, length - set),
            _ => {
                into.push(BITS);
                let mut byte = 0;
                for page in first..end {
                    byte |= u8::from(self.contains(page)) << ((page - first) % 8);
                    if (page - first) % 8 == 7 || page + 1 == end {
                        into.push(byte);
                        byte = 0;
                    }
                }
            }
        }
    }

    /// Reads what [`Self::encode`] gave for a bitmap of so many pages.
    ///
    /// # Errors
    /// If the bytes are anything else.
    pub fn decode(bytes: &[u8], pages: usize) -> Result<Self, BitmapError> {
        let mut bitmap = Self::none(pages);
        let mut rest = bytes;
        for first in (0..pages).step_by(PART) {
            let part = rest;
            rest = bitmap.decode_part(first, part)?;
            let mut canonical = Vec::new();
            bitmap.encode_part(first, &mut canonical);
            if canonical != part[..part.len() - rest.len()] {
                return Err(BitmapError::NotCanonical { first });
            }
        }
        if rest.is_empty() { Ok(bitmap) } else { Err(BitmapError::Trailing(rest.len())) }
    }

    fn decode_part<'a>(&mut self, first: usize, bytes: &'a [u8]) -> Result<&'a [u8], BitmapError> {
        let end = (first + PART).min(self.pages());
        let take = |from: &'a [u8], count: usize| {
            from.split_at_checked(count).ok_or(BitmapError::Truncated)
        };
        let (form, rest) = take(bytes, 1)?;
        let form = form[0];
        if form == ALL || form == ALL_BUT {
            (first..end).for_each(|page| self.insert(page));
        }
        match form {
            NONE | ALL => Ok(rest),
            THESE | ALL_BUT => {
                let (count, rest) = take(rest, 2)?;
                let count = usize::from(u16::from_be_bytes([count[0], count[1]]));
                let (list, rest) = take(rest, 2 * count)?;
                for number in list.chunks_exact(2) {
                    let page = first + usize::from(u16::from_be_bytes([number[0], number[1]]));
                    if page >= end {
                        return Err(BitmapError::NotCanonical { first });
                    }
                    if form == THESE { self.insert(page) } else { self.remove(page) }
                }
                Ok(rest)
            }
            BITS => {
                let (bits, rest) = take(rest, (end - first).div_ceil(8))?;
                for page in first..end {
                    if bits[(page - first) / 8] & 1 << ((page - first) % 8) != 0 {
                        self.insert(page);
                    }
                }
                Ok(rest)
            }
            form => Err(BitmapError::Form { form, first }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pages: usize, set: impl IntoIterator<Item = usize>) -> DirtyBitmap {
        let mut bitmap = DirtyBitmap::none(pages);
        set.into_iter().for_each(|page| bitmap.insert(page));
        bitmap
    }

    #[test]
    fn every_form_comes_back_and_stays_in_its_bound() {
        let pages = 2 * PART + 77;
        let cases = [
            (of(0, []), 0),
            (of(1, [0]), 1),
            (DirtyBitmap::none(pages), 3),
            (DirtyBitmap::all(pages), 3),
            (of(pages, [5, PART, 2 * PART + 76]), 5 + 5 + 5),
            (of(pages, (0..pages).filter(|page| *page != 9)), 5 + 2),
            (of(pages, (0..pages).step_by(2)), 2 * 4097 + 11),
        ];
        for (bitmap, length) in cases {
            let bytes = bitmap.encode();
            assert_eq!(bytes.len(), length);
            assert!(bytes.len() <= DirtyBitmap::longest_encoding(bitmap.pages()));
            assert_eq!(DirtyBitmap::decode(&bytes, bitmap.pages()).unwrap(), bitmap);
        }
    }

    /// All bitmaps of few pages, and all byte strings of few bytes: one for one.
    #[test]
    fn a_bitmap_has_one_form() {
        for pages in 0..=10usize {
            for bits in 0..1u32 << pages {
                let bitmap = of(pages, (0..pages).filter(|page| bits >> page & 1 != 0));
                let bytes = bitmap.encode();
                assert_eq!(DirtyBitmap::decode(&bytes, pages).unwrap(), bitmap);
            }
        }
        let mut accepted = 0;
        for length in 0..=3u32 {
            for value in 0..1u32 << (8 * length) {
                let bytes = &value.to_le_bytes()[..length as usize];
                if let Ok(bitmap) = DirtyBitmap::decode(bytes, 10) {
                    assert_eq!(bitmap.encode(), bytes);
                    accepted += 1;
                }
            }
        }
        assert_eq!(accepted, 1 << 10, "of ten pages, each bitmap has exactly one form");
    }

    #[test]
    fn what_is_no_bitmap_is_named() {
        let decode = |bytes: &[u8], pages| DirtyBitmap::decode(bytes, pages).unwrap_err();
        assert_eq!(decode(&[], 3), BitmapError::Truncated);
        assert_eq!(decode(&[0, 0], 3), BitmapError::Trailing(1));
        assert_eq!(decode(&[5], 3), BitmapError::Form { form: 5, first: 0 });
        // Every page, bit by bit.
        assert_eq!(decode(&[4, 7], 3), BitmapError::NotCanonical { first: 0 });
        // A bit past the end.
        assert_eq!(decode(&[4, 9], 3), BitmapError::NotCanonical { first: 0 });
        // A page past the end; pages out of order; a page twice.
        assert_eq!(decode(&[2, 0, 1, 0, 90], 80), BitmapError::NotCanonical { first: 0 });
        assert_eq!(decode(&[2, 0, 2, 0, 9, 0, 8], 80), BitmapError::NotCanonical { first: 0 });
        assert_eq!(decode(&[2, 0, 2, 0, 9, 0, 9], 80), BitmapError::NotCanonical { first: 0 });
        assert_eq!(decode(&[2, 255, 255, 0], 80), BitmapError::Truncated);
    }
}
