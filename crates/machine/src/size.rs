//! Sizes as users write and read them.

use crate::error::SizeError;

const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];

/// Reads a size: decimal digits, then nothing (bytes) or one of `K`, `M`, `G`, `T` (powers of
/// 1024, either case), then optionally `iB` or `B`: `512M`, `2GiB`, `65536`.
///
/// # Errors
/// Anything else, and what does not fit 64 bits.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let refused = |reason| SizeError { text: text.chars().take(64).collect::<String>(), reason };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = text.split_at(digits);
    if number.is_empty() {
        return Err(refused("it starts with no digit"));
    }
    let number: u64 = number.parse().map_err(|_| refused("it does not fit 64 bits"))?;
    let mut letters = suffix.chars();
    let shift = match letters.next() {
        None => return Ok(number),
        Some(letter) => UNITS
            .iter()
            .find(|(unit, _)| unit.eq_ignore_ascii_case(&letter))
            .map(|(_, shift)| *shift)
            .ok_or_else(|| refused("the unit is none of K, M, G, T"))?,
    };
    if !matches!(letters.as_str(), "" | "B" | "iB") {
        return Err(refused("the unit is none of K, M, G, T"));
    }
    number.checked_mul(1 << shift).ok_or_else(|| refused("it does not fit 64 bits"))
}

/// Writes a size so that [`parse_size`] reads it back: in the largest unit that it is a whole number
/// of.
pub fn exact_size(bytes: u64) -> String {
    let whole = UNITS.iter().rev().find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    match whole {
        None => bytes.to_string(),
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
    }
}

/// Shows a size to a reader, in the largest unit of which there is at least one: `2.0 GiB`,
/// `64.0 KiB`, `100 bytes`. For messages: it rounds down to a tenth.
pub fn format_size(bytes: u64) -> String {
    match UNITS.iter().rev().find(|(_, shift)| bytes >> shift > 0) {
        None => format!("{bytes} bytes"),
        Some((unit, shift)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}iB", tenths / 10, tenths % 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65536),
            ("64K", 65536),
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("2G", 2 << 30),
            ("2GB", 2 << 30),
            ("2GiB", 2 << 30),
            ("1T", 1 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "M",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1 M",
            "1.5G",
            "1X",
            "1Mb",
            "1MM",
            "1é",
            "0x10",
            "18446744073709551616",
            "16777216T",
            "1iB",
        ] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_written_to_be_read() {
        for (bytes, text) in [
            (0, "0"),
            (513, "513"),
            (65536, "64K"),
            (128 << 20, "128M"),
            ((1 << 30) + 512, "1073742336"),
            (3 << 40, "3T"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(exact_size(bytes), text);
            assert_eq!(parse_size(text), Ok(bytes));
        }
    }

    #[test]
    fn sizes_are_shown() {
        assert_eq!(format_size(0), "0 bytes");
        assert_eq!(format_size(1023), "1023 bytes");
        assert_eq!(format_size(1 << 30), "1.0 GiB");
        assert_eq!(format_size(2 << 30), "2.0 GiB");
        assert_eq!(format_size(1_610_612_736), "1.5 GiB");
        assert_eq!(format_size(u64::MAX), "16777215.9 TiB");
    }
}
