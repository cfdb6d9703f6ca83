//! The extended state, between the XSAVE area that KVM hands over and the neutral elements.
//!
//! KVM's area has the standard form (Intel SDM volume 1, section 13.4): the legacy region of
//! FXSAVE in its 64-bit layout, a header whose first word says which components are not in their
//! initial configuration, and the components at the offsets that CPUID leaf 0xd gives.

use cpu::{CpuState, SseState, X87State, XsaveComponent};
use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Kvm, VcpuFd};

use crate::{Capabilities, KvmError, calls};

const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
/// Offset of the x87 registers, 16 bytes each, from the top of the stack on.
const STACK: usize = 32;
const XMM: usize = 160;
/// Offset of the word that names the components in use.
const IN_USE: usize = 512;
/// Two bits for each physical register: the register is empty.
const EMPTY: u16 = 3;

/// Where the components beyond SSE lie on this host.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Number, offset, length in bytes.
    components: Vec<(u8, usize, usize)>,
    /// Length of an area in 32-bit words.
    words: usize,
    /// The area is read by the newer call.
    large: bool,
}

impl Layout {
    pub(crate) fn of(kvm: &Kvm, capabilities: &Capabilities) -> Result<Self, KvmError> {
        let list = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::call("KVM_GET_SUPPORTED_CPUID"))?;
        let large = capabilities.xsave2_bytes > 4096;
        let bytes = capabilities.xsave2_bytes.max(4096) as usize;
        let components = list
            .as_slice()
            .iter()
            .filter(|entry| {
                entry.function == 0xd
                    && entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0
                    && (2..63).contains(&entry.index)
                    // Components of supervisor mode have no place in this form.
                    && entry.ecx & 1 == 0
            })
            .map(|entry| (entry.index as u8, entry.ebx as usize, entry.eax as usize))
            .filter(|(_, offset, length)| *length > 0 && offset + length <= bytes)
            .collect();
        Ok(Self { components, words: bytes.div_ceil(4), large })
    }

    pub(crate) fn read(&self, vcpu: &VcpuFd) -> Result<Vec<u8>, KvmError> {
        let mut words = vec![0u32; self.words];
        calls::get_xsave(vcpu, &mut words, self.large)?;
        Ok(words.into_iter().flat_map(u32::to_le_bytes).collect())
    }

    pub(crate) fn write(&self, vcpu: &VcpuFd, area: &[u8]) -> Result<(), KvmError> {
        let word = |part: &[u8]| u32::from_le_bytes(part.try_into().expect("four bytes"));
        let words: Vec<u32> = area.chunks_exact(4).map(word).collect();
        assert_eq!(words.len(), self.words, "an area of this layout");
        calls::set_xsave(vcpu, &words)
    }

    /// Takes the area apart. The selectors of the x87 pointers are not in it and stay zero.
    pub(crate) fn decode(&self, area: &[u8], state: &mut CpuState) {
        let in_use = long(area, IN_USE);
        state.x87 = if in_use & X87 != 0 { x87(area) } else { initial_x87() };
        let xmm = std::array::from_fn(|index| {
            let at = XMM + 16 * index;
            if in_use & SSE != 0 { [long(area, at), long(area, at + 8)] } else { [0; 2] }
        });
        // MXCSR belongs to SSE and AVX both.
        let mxcsr = if in_use & (SSE | AVX) != 0 { long(area, 24) as u32 } else { 0x1f80 };
        state.sse = SseState { mxcsr, xmm };
        state.components = self
            .components
            .iter()
            .filter(|(number, _, _)| in_use & 1 << number != 0)
            .map(|(number, offset, length)| XsaveComponent {
                number: *number,
                bytes: area[*offset..offset + length].to_vec(),
            })
            .collect();
    }

    /// Puts a state into an area that was read from the vCPU before: what is in it beside the
    /// state (the mask of MXCSR) is the host's.
    pub(crate) fn encode(&self, state: &CpuState, area: &mut [u8]) -> Result<(), KvmError> {
        encode_x87(&state.x87, area);
        area[24..28].copy_from_slice(&state.sse.mxcsr.to_le_bytes());
        for (index, [low, high]) in state.sse.xmm.iter().enumerate() {
            let at = XMM + 16 * index;
            area[at..at + 8].copy_from_slice(&low.to_le_bytes());
            area[at + 8..at + 16].copy_from_slice(&high.to_le_bytes());
        }
        let mut in_use = X87 | SSE;
        for component in &state.components {
            let place = self
                .components
                .iter()
                .find(|(number, _, length)| {
                    *number == component.number && *length == component.bytes.len()
                })
                .ok_or_else(|| {
                    KvmError::State(format!(
                        "component {} of the extended state, of {} bytes, is not offered",
                        component.number,
                        component.bytes.len()
                    ))
                })?;
            area[place.1..place.1 + place.2].copy_from_slice(&component.bytes);
            in_use |= 1 << component.number;
        }
        area[IN_USE..IN_USE + 8].copy_from_slice(&in_use.to_le_bytes());
        Ok(())
    }
}

fn short(area: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([area[at], area[at + 1]])
}

fn long(area: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(area[at..at + 8].try_into().expect("eight bytes"))
}

/// After FNINIT (Intel SDM volume 1, section 8.1.2), with the registers cleared.
fn initial_x87() -> X87State {
    X87State {
        control: 0x37f,
        status: 0,
        tags: 0xffff,
        last_opcode: 0,
        last_instruction_selector: 0,
        last_instruction: 0,
        last_operand_selector: 0,
        last_operand: 0,
        significands: [0; 8],
        exponents: [0; 8],
    }
}

/// The register of the stack that a physical register is.
fn place_in_stack(physical: usize, status: u16) -> usize {
    (physical + 8 - usize::from(status >> 11 & 7)) % 8
}

fn x87(area: &[u8]) -> X87State {
    let status = short(area, 2);
    let abridged = area[4];
    let mut significands = [0; 8];
    let mut exponents = [0; 8];
    let mut tags = 0;
    for physical in 0..8 {
        let at = STACK + 16 * place_in_stack(physical, status);
        significands[physical] = long(area, at);
        exponents[physical] = short(area, at + 8);
        let tag = if abridged >> physical & 1 == 0 {
            EMPTY
        } else {
            tag_of(significands[physical], exponents[physical])
        };
        tags |= tag << (2 * physical);
    }
    X87State {
        control: short(area, 0),
        status,
        tags,
        last_opcode: short(area, 6),
        last_instruction_selector: 0,
        last_instruction: long(area, 8),
        last_operand_selector: 0,
        last_operand: long(area, 16),
        significands,
        exponents,
    }
}

/// The tag of a register that is not empty (Intel SDM volume 2, FXSAVE, table of the tag word).
fn tag_of(significand: u64, exponent: u16) -> u16 {
    const VALID: u16 = 0;
    const ZERO: u16 = 1;
    const SPECIAL: u16 = 2;
    match exponent & 0x7fff {
        0x7fff => SPECIAL,
        0 if significand == 0 => ZERO,
        0 => SPECIAL,
        _ if significand >> 63 == 1 => VALID,
        _ => SPECIAL,
    }
}

fn encode_x87(x87: &X87State, area: &mut [u8]) {
    let X87State {
        control,
        status,
        tags,
        last_opcode,
        last_instruction_selector: _,
        last_instruction,
        last_operand_selector: _,
        last_operand,
        significands,
        exponents,
    } = x87;
    area[0..2].copy_from_slice(&control.to_le_bytes());
    area[2..4].copy_from_slice(&status.to_le_bytes());
    area[4] = (0..8).fold(0, |abridged, physical| {
        let empty = tags >> (2 * physical) & 3 == EMPTY;
        abridged | u8::from(!empty) << physical
    });
    area[5] = 0;
    area[6..8].copy_from_slice(&last_opcode.to_le_bytes());
    area[8..16].copy_from_slice(&last_instruction.to_le_bytes());
    area[16..24].copy_from_slice(&last_operand.to_le_bytes());
    for physical in 0..8 {
        let at = STACK + 16 * place_in_stack(physical, *status);
        area[at..at + 8].copy_from_slice(&significands[physical].to_le_bytes());
        area[at + 8..at + 10].copy_from_slice(&exponents[physical].to_le_bytes());
        area[at + 10..at + 16].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout { components: vec![(2, 576, 256), (9, 2688, 8)], words: 1024, large: false }
    }

    fn model() -> &'static cpu::CpuModel {
        cpu::CpuModel::find("qemu64").unwrap()
    }

    #[test]
    fn an_area_of_zeros_is_the_initial_configuration() {
        let mut state = CpuState::at_reset(model(), 0);
        state.x87.significands = [7; 8];
        state.sse.xmm = [[1, 2]; 16];
        layout().decode(&vec![0; 4096], &mut state);
        assert_eq!(state.x87, initial_x87());
        assert_eq!(state.sse, SseState { mxcsr: 0x1f80, xmm: [[0; 2]; 16] });
        assert!(state.components.is_empty());
    }

    #[test]
    fn a_state_goes_into_an_area_and_comes_out() {
        let mut state = CpuState::at_reset(model(), 0);
        for top in 0..8 {
            state.x87.status = top << 11 | 0x4700;
            state.x87.tags = 0;
            for physical in 0..8 {
                let (significand, exponent, tag) = match physical % 4 {
                    0 => (0, 0x8000, 1),
                    1 => (1 << 63 | physical as u64, 0x3fff, 0),
                    2 => (5, 0, 2),
                    _ => (9, 9, EMPTY),
                };
                state.x87.significands[physical] = significand;
                state.x87.exponents[physical] = exponent;
                state.x87.tags |= tag << (2 * physical);
            }
            state.sse.xmm[15] = [3, u64::MAX];
            state.components = vec![XsaveComponent { number: 9, bytes: vec![top as u8; 8] }];
            // What lay there before leaves no trace.
            let mut area = vec![0xff; 4096];
            layout().encode(&state, &mut area).unwrap();
            let mut back = CpuState::at_reset(model(), 0);
            layout().decode(&area, &mut back);
            assert_eq!(state, back);
        }
    }

    #[test]
    fn the_top_of_the_stack_is_first_in_the_area() {
        let mut state = CpuState::at_reset(model(), 0);
        state.x87.status = 3 << 11;
        state.x87.significands[3] = 0x1234;
        let mut area = vec![0; 4096];
        layout().encode(&state, &mut area).unwrap();
        assert_eq!(long(&area, STACK), 0x1234);
    }

    #[test]
    fn a_component_of_another_length_is_refused() {
        let mut state = CpuState::at_reset(model(), 0);
        state.components = vec![XsaveComponent { number: 2, bytes: vec![0; 255] }];
        let refused = layout().encode(&state, &mut vec![0; 4096]).unwrap_err().to_string();
        assert!(refused.contains("component 2"), "{refused}");
    }
}
