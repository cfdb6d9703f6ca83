//! XBZRLE: a page as the difference from what was sent of it before.

use crate::PAGE_SIZE;

/// Applies a difference: runs of bytes that stay and of bytes that change, by turns, each behind
/// its length in one or two bytes of LEB128 (QEMU's `docs/xbzrle.txt`). `None` if it is none.
pub fn apply(mut delta: &[u8], page: &mut [u8; PAGE_SIZE]) -> Option<()> {
    let mut at = 0;
    while !delta.is_empty() {
        at += run_length(&mut delta)?;
        let count = run_length(&mut delta)?;
        if count == 0 {
            return None;
        }
        page.get_mut(at..at + count)?.copy_from_slice(delta.get(..count)?);
        delta = &delta[count..];
        at += count;
    }
    Some(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_changes_what_it_names() {
        let mut page = [7; PAGE_SIZE];
        assert_eq!(apply(&[0xfe, 0x1f, 2, 1, 2], &mut page), Some(()));
        assert_eq!(page[4093..], [7, 1, 2]);
        assert_eq!(apply(&[0, 1, 9, 3, 1, 8], &mut page), Some(()));
        assert_eq!(page[..5], [9, 7, 7, 7, 8]);
        for bad in [&[0xff, 0x1f, 2, 1, 1][..], &[0, 3, 1, 1], &[5], &[0x80, 0x80, 1], &[3, 0]] {
            assert_eq!(apply(bad, &mut page), None, "{bad:?}");
        }
    }
}
