//! The SSE part of the FXSAVE image: MXCSR, its mask, and the XMM registers.
//!
//! Source: Intel SDM volume 1, 10.5.1 (layout) and 11.6.6 (the mask).

/// The MXCSR bits that may be set, as FXSAVE reports them: everything but the upper half (no
/// misaligned-SSE mode). DAZ is supported.
pub const MXCSR_MASK: u32 = 0xffff;

const MXCSR: usize = 24;
const MASK: usize = 28;
const XMM: usize = 160;
const XMM_BYTES: usize = 16;

/// A value for MXCSR has a reserved bit set: #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reserved bits {:#x} set in mxcsr", .0 & !MXCSR_MASK)]
pub struct ReservedMxcsrBits(pub u32);

/// Refuses a value that LDMXCSR and FXRSTOR must not load.
pub fn check_mxcsr(mxcsr: u32) -> Result<u32, ReservedMxcsrBits> {
    if mxcsr & !MXCSR_MASK == 0 { Ok(mxcsr) } else { Err(ReservedMxcsrBits(mxcsr)) }
}

/// Writes bytes 24 to 31 and the XMM registers from byte 160 on; the other bytes stay as they are.
/// `xmm` holds 16 registers in 64-bit mode and 8 elsewhere; no more than 16 are stored.
pub fn store_image(image: &mut [u8; 512], mxcsr: u32, xmm: &[u128]) {
    image[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
    image[MASK..MASK + 4].copy_from_slice(&MXCSR_MASK.to_le_bytes());
    for (slot, register) in image[XMM..].chunks_exact_mut(XMM_BYTES).zip(xmm.iter().take(16)) {
        slot.copy_from_slice(&register.to_le_bytes());
    }
}

/// Reads the XMM registers into `xmm` (16 in 64-bit mode, 8 elsewhere; no more than 16 are read)
/// and returns MXCSR. On an error `xmm` is unchanged.
pub fn load_image(image: &[u8; 512], xmm: &mut [u128]) -> Result<u32, ReservedMxcsrBits> {
    let mut mxcsr = [0; 4];
    mxcsr.copy_from_slice(&image[MXCSR..MXCSR + 4]);
    let mxcsr = check_mxcsr(u32::from_le_bytes(mxcsr))?;
    for (slot, register) in image[XMM..].chunks_exact(XMM_BYTES).zip(xmm.iter_mut().take(16)) {
        let mut bytes = [0; XMM_BYTES];
        bytes.copy_from_slice(slot);
        *register = u128::from_le_bytes(bytes);
    }
    Ok(mxcsr)
}
