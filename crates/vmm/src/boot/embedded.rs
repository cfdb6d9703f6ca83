//! Boot of the embedded guest by its own entry contract.

use cpu::{CpuModel, CpuState, DescriptorTable, Segment};
use guest::{EntryState, Parameters, SegmentState, image, layout};
use memory::GuestRam;

use super::BootError;

/// Puts image and parameters into memory and returns the state that starts the guest.
pub(super) fn load(
    parameters: &Parameters,
    model: &'static CpuModel,
    ram: &GuestRam,
) -> Result<CpuState, BootError> {
    let block = parameters.to_bytes().map_err(|error| BootError::Embedded(error.to_string()))?;
    let image = image();
    for segment in &image.segments {
        ram.write(segment.address, &segment.bytes)?;
    }
    ram.write(layout::PARAMETERS, &block)?;
    let EntryState { rip, rsi, rsp, rflags, cr0, cr3, cr4, efer, cs, data, gdt, idt } = image.entry;
    let mut state = CpuState::at_reset(model, 0);
    state.general = [0; 16];
    state.general[4] = rsp;
    state.general[6] = rsi;
    state.rip = rip;
    state.rflags = rflags;
    state.cr0 = cr0;
    state.cr3 = cr3;
    state.cr4 = cr4;
    state.msrs.efer = efer;
    state.segments = [segment(data); 6];
    state.segments[CpuState::CS] = segment(cs);
    state.gdt = DescriptorTable { base: gdt.base, limit: gdt.limit };
    state.idt = DescriptorTable { base: idt.base, limit: idt.limit };
    Ok(state)
}

/// The guest's contract leaves four bits free between the two parts of the attributes.
fn segment(given: SegmentState) -> Segment {
    let SegmentState { selector, base, limit, attributes } = given;
    Segment { selector, base, limit, attributes: attributes & 0xff | attributes >> 4 & 0xf00 }
}
