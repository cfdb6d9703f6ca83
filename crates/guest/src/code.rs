//! The machine code: assembled by rustc from the files in `asm/`, with the numbers of `layout.rs`.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the embedded guest is x86-64 code and is assembled by an x86-64 rustc");

use crate::{entry, generator, layout};

/// The assembly and the symbols that bound it.
#[expect(unsafe_code, reason = "the guest is assembly; the host never runs it, it is data here")]
mod assembly {
    use std::arch::global_asm;

    use super::{entry, generator, layout};

    global_asm!(
        include_str!("asm/constants.s"),
        include_str!("asm/trampoline.s"),
        include_str!("asm/boot.s"),
        include_str!("asm/exceptions.s"),
        include_str!("asm/interrupts.s"),
        include_str!("asm/interrupt_controllers.s"),
        include_str!("asm/timers.s"),
        include_str!("asm/held.s"),
        include_str!("asm/disk.s"),
        include_str!("asm/print.s"),
        include_str!("asm/fail.s"),
        include_str!("asm/pages.s"),
        include_str!("asm/registers.s"),
        include_str!("asm/faults.s"),
        include_str!("asm/clocks.s"),
        include_str!("asm/vcpus.s"),
        include_str!("asm/worker.s"),
        include_str!("asm/variables.s"),
        parameters = const layout::PARAMETERS,
        code_slots = const layout::CODE_SLOTS,
        image = const layout::IMAGE,
        page_tables = const layout::PAGE_TABLES,
        window_tables = const layout::WINDOW_TABLES,
        interrupt_table = const layout::INTERRUPT_TABLE,
        disk_queue = const layout::DISK_QUEUE,
        disk_buffer = const layout::DISK_BUFFER,
        per_vcpu = const layout::PER_VCPU,
        per_vcpu_size = const layout::PER_VCPU_SIZE,
        max_vcpus = const layout::MAX_VCPUS,
        window = const layout::WINDOW,
        unmapped = const layout::UNMAPPED,
        serial_port = const layout::SERIAL_PORT,
        exit_port = const layout::EXIT_PORT,
        disk_registers = const layout::DISK_REGISTERS,
        cr0 = const entry::CR0,
        cr4 = const entry::CR4,
        magic = const crate::Parameters::MAGIC,
        version = const crate::Parameters::VERSION,
        page_factor = const generator::PAGE_FACTOR,
        lap_factor = const generator::LAP_FACTOR,
        mix_first = const generator::MIX_FIRST,
        mix_second = const generator::MIX_SECOND,
        stride = const generator::STRIDE,
        disk_page = const generator::DISK_PAGE,
    );

    // SAFETY: the three symbols are defined by the assembly above, in one read-only section; they
    // are never called, only their addresses and the bytes between them are used.
    unsafe extern "C" {
        pub(super) static ferry_guest_start: u8;
        pub(super) static ferry_guest_entry: u8;
        pub(super) static ferry_guest_end: u8;
    }
}

/// The image, to be put at [`layout::IMAGE`].
pub(crate) fn bytes() -> &'static [u8] {
    let start = &raw const assembly::ferry_guest_start;
    let length = (&raw const assembly::ferry_guest_end).addr() - start.addr();
    // SAFETY: both symbols bound one contiguous run of initialised bytes in `.rodata`, which is
    // mapped readable for the life of the program and never written.
    #[expect(unsafe_code, reason = "the image lies between two symbols of the assembly")]
    unsafe {
        std::slice::from_raw_parts(start, length)
    }
}

/// Offset of the first instruction in the image.
pub(crate) fn entry_offset() -> u64 {
    let start = (&raw const assembly::ferry_guest_start).addr();
    let entry = (&raw const assembly::ferry_guest_entry).addr();
    (entry - start) as u64
}
