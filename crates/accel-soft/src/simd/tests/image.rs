//! FXSAVE images.

use super::super::fxsave::{MXCSR_MASK, ReservedMxcsrBits};
use super::super::{check_mxcsr, load_image, store_image};
use super::operands::Random;

fn registers(random: &mut Random) -> [u128; 16] {
    std::array::from_fn(|_| u128::from(random.next()) << 64 | u128::from(random.next()))
}

#[test]
fn an_image_holds_what_was_stored_where_the_manual_says() {
    let mut random = Random::new(5);
    let xmm = registers(&mut random);
    let mut image = [0x5a; 512];
    store_image(&mut image, 0x1f80, &xmm);
    assert_eq!(image[24..32], [0x80, 0x1f, 0, 0, 0xff, 0xff, 0, 0]);
    assert_eq!(image[160..176], xmm[0].to_le_bytes());
    assert_eq!(image[400..416], xmm[15].to_le_bytes());
    assert!(image[..24].iter().chain(&image[32..160]).chain(&image[416..]).all(|b| *b == 0x5a));

    let mut loaded = [0; 16];
    assert_eq!(load_image(&image, &mut loaded), Ok(0x1f80));
    assert_eq!(loaded, xmm);
}

#[test]
fn outside_64_bit_mode_an_image_has_eight_registers() {
    let mut random = Random::new(6);
    let xmm = registers(&mut random);
    let mut image = [0x5a; 512];
    store_image(&mut image, 0, &xmm[..8]);
    assert_eq!(image[272..288], xmm[7].to_le_bytes());
    assert!(image[288..].iter().all(|b| *b == 0x5a));

    let mut loaded = [1; 16];
    assert_eq!(load_image(&image, &mut loaded[..8]), Ok(0));
    assert_eq!(loaded[..8], xmm[..8]);
    assert_eq!(loaded[8..], [1; 8]);
}

#[test]
fn reserved_bits_are_refused_before_anything_changes() {
    for bit in 0..32 {
        let value = 1 << bit;
        let expected = if bit < 16 { Ok(value) } else { Err(ReservedMxcsrBits(value)) };
        assert_eq!(check_mxcsr(value), expected);
        assert_eq!(value & MXCSR_MASK != 0, expected.is_ok());

        let mut image = [0xff; 512];
        store_image(&mut image, value, &[]);
        let mut xmm = [7; 16];
        assert_eq!(load_image(&image, &mut xmm), expected);
        assert_eq!(xmm == [7; 16], expected.is_err());
    }
}
