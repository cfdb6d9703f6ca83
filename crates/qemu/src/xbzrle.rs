//! XBZRLE: a page as the difference from what was sent of it before. Runs of bytes that stay and of
//! bytes that change come by turns, each behind its length in one or two bytes of LEB128 (QEMU's
//! `docs/xbzrle.txt`).

use crate::PAGE_SIZE;

/// What changes: where in the page, and to which bytes. Ends with `None` if it is malformed.
struct Changes<'a> {
    delta: &'a [u8],
    at: usize,
}

impl<'a> Changes<'a> {
    fn next_change(&mut self) -> Option<(usize, &'a [u8])> {
        let at = self.at + run_length(&mut self.delta)?;
        let (changed, rest) = run_length(&mut self.delta)
            .filter(|count| *count > 0)
            .and_then(|count| self.delta.split_at_checked(count))?;
        self.delta = rest;
        self.at = at + changed.len();
        Some((at, changed))
    }
}

impl<'a> Iterator for Changes<'a> {
    type Item = Option<(usize, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.delta.is_empty()).then(|| self.next_change())
    }
}

fn run_length(delta: &mut &[u8]) -> Option<usize> {
    let (value, rest) = match **delta {
        [low, ref rest @ ..] if low < 0x80 => (usize::from(low), rest),
        [low, high, ref rest @ ..] if high < 0x80 => {
            (usize::from(low & 0x7f) | usize::from(high) << 7, rest)
        }
        _ => return None,
    };
    *delta = rest;
    Some(value)
}

/// Applies a difference. `None` if it is malformed; the page is then anything.
pub fn apply(delta: &[u8], page: &mut [u8; PAGE_SIZE]) -> Option<()> {
    for change in (Changes { delta, at: 0 }) {
        let (at, changed) = change?;
        page.get_mut(at..at + changed.len())?.copy_from_slice(changed);
    }
    Some(())
}

/// Whether a difference is well formed, and ends where a page of this size ends, or before.
pub(crate) fn fits(delta: &[u8], page_size: u64) -> bool {
    let inside = |(at, changed): (usize, &[u8])| (at + changed.len()) as u64 <= page_size;
    Changes { delta, at: 0 }.all(|change| change.is_some_and(inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Too long by a byte, cut short, without a second run, with a length of three bytes, with a
    /// change of nothing.
    const BAD: [&[u8]; 5] =
        [&[0xff, 0x1f, 2, 1, 1], &[0, 3, 1, 1], &[5], &[0x80, 0x80, 1], &[3, 0]];

    #[test]
    fn a_difference_changes_what_it_names() {
        let mut page = [7; PAGE_SIZE];
        assert_eq!(apply(&[0xfe, 0x1f, 2, 1, 2], &mut page), Some(()));
        assert_eq!(page[4093..], [7, 1, 2]);
        assert_eq!(apply(&[0, 1, 9, 3, 1, 8], &mut page), Some(()));
        assert_eq!(page[..5], [9, 7, 7, 7, 8]);
        for bad in BAD {
            assert_eq!(apply(bad, &mut page), None, "{bad:?}");
        }
    }

    #[test]
    fn a_difference_stays_in_its_page() {
        assert!(fits(&[], 4096));
        // 4094 bytes stay, two change.
        assert!(fits(&[0xfe, 0x1f, 2, 1, 1], 4096));
        for bad in BAD {
            assert!(!fits(bad, 4096), "{bad:?}");
        }
    }
}
