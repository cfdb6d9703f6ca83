//! UUIDs as text (RFC 9562, section 4).

use std::fmt::Write;

use crate::error::UuidError;

/// Byte offsets before which a hyphen stands.
const HYPHENS: [usize; 4] = [4, 6, 8, 10];

/// The 36-character lower-case form.
pub fn format_uuid(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if HYPHENS.contains(&index) {
            text.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Reads the 36-character form, in either case.
///
/// # Errors
/// Anything else: braces, missing hyphens, other lengths.
pub fn parse_uuid(text: &str) -> Result<[u8; 16], UuidError> {
    let refused = || UuidError { text: text.chars().take(64).collect() };
    let mut rest = text.as_bytes();
    let mut uuid = [0; 16];
    for (index, byte) in uuid.iter_mut().enumerate() {
        if HYPHENS.contains(&index) {
            rest = rest.strip_prefix(b"-").ok_or_else(refused)?;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or_else(refused)?;
        let value = |digit: u8| (digit as char).to_digit(16);
        let (Some(high), Some(low)) = (value(digits[0]), value(digits[1])) else {
            return Err(refused());
        };
        *byte = (high << 4 | low) as u8;
        rest = after;
    }
    if rest.is_empty() { Ok(uuid) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00112233-4455-6677-8899-aabbccddeeff";
    const BYTES: [u8; 16] = [
        0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee,
        0xff,
    ];

    #[test]
    fn text_and_bytes_agree() {
        assert_eq!(format_uuid(&BYTES), TEXT);
        assert_eq!(parse_uuid(TEXT), Ok(BYTES));
        assert_eq!(parse_uuid(&TEXT.to_uppercase()), Ok(BYTES));
    }

    #[test]
    fn other_forms_are_refused() {
        for wrong in [
            "",
            "-",
            &TEXT[1..],
            &TEXT[..35],
            &format!("{TEXT}0"),
            &format!("{{{TEXT}}}"),
            &TEXT.replace('-', ""),
            &TEXT.replace('f', "g"),
            &TEXT.replace('0', "+"),
            &TEXT.replace('e', "é"),
        ] {
            assert!(parse_uuid(wrong).is_err(), "{wrong:?}");
        }
    }
}
