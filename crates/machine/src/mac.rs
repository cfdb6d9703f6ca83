//! MAC addresses as text: `02:00:5e:10:00:01`.

use std::fmt::Write;

use crate::error::MacError;

/// Reads six pairs of hexadecimal digits with colons between them.
///
/// # Errors
/// The text is anything else.
pub fn parse_mac(text: &str) -> Result<[u8; 6], MacError> {
    let error = || MacError { text: text.chars().take(64).collect() };
    let mut mac = [0; 6];
    let mut pairs = text.split(':');
    for byte in &mut mac {
        let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or_else(error)?;
        if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(error());
        }
        *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
    }
    if pairs.next().is_some() { Err(error()) } else { Ok(mac) }
}

/// The address in lower case.
pub fn format_mac(mac: &[u8; 6]) -> String {
    let mut text = String::new();
    for (index, byte) in mac.iter().enumerate() {
        let separator = if index == 0 { "" } else { ":" };
        let _ = write!(text, "{separator}{byte:02x}");
    }
    text
}

/// The address of a device that was given none: locally administered, and the same for the same
/// machine and device. Five bytes of the 64-bit FNV-1a hash of UUID and id.
pub(crate) fn default_mac(uuid: &[u8; 16], id: &str) -> [u8; 6] {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in uuid.iter().copied().chain(id.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    let [_, _, _, a, b, c, d, e] = hash.to_be_bytes();
    [0x02, a, b, c, d, e]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_written() {
        let mac = [0x02, 0, 0x5e, 0x10, 0xff, 1];
        assert_eq!(format_mac(&mac), "02:00:5e:10:ff:01");
        assert_eq!(parse_mac("02:00:5e:10:ff:01"), Ok(mac));
        assert_eq!(parse_mac("02:00:5E:10:FF:01"), Ok(mac));
    }

    #[test]
    fn what_is_none_is_named() {
        for text in [
            "",
            "02:00:5e:10:ff",
            "02:00:5e:10:ff:01:02",
            "02-00-5e-10-ff-01",
            "2:0:5e:10:ff:1",
            "02:00:5e:10:ff:+1",
            "02:00:5e:10:ff:0g",
            "02:00:5e:10:ff:é",
        ] {
            let error = parse_mac(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not a MAC address")), "{error}");
        }
    }

    #[test]
    fn the_default_follows_from_machine_and_device() {
        // FNV-1a of sixteen zero bytes and "net0", by the published constants.
        let first = default_mac(&[0; 16], "net0");
        assert_eq!(first, default_mac(&[0; 16], "net0"));
        assert_ne!(first, default_mac(&[0; 16], "net1"));
        assert_ne!(first, default_mac(&[1; 16], "net0"));
        assert_eq!(first[0], 2, "locally administered, of a single station");
    }
}
