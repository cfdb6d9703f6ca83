//! The state of a vCPU, element by element, as the stream carries it. It holds what the
//! architecture defines and nothing that an accelerator derives from it; the local APIC and its
//! timer are a device with a section of its own.

use vmstate::{Invalid, VmState};

use crate::flags;

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "segment", version = 1)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Base, a linear address.
    pub base: u64,
    /// Limit in bytes, granularity applied.
    pub limit: u32,
    /// Attributes as in bytes 5 and 6 of a descriptor: type (bits 0-3), S (4), DPL (5-6), P (7),
    /// AVL (8), L (9), D/B (10), G (11). Zero: the segment is unusable.
    pub attributes: u16,
}

impl Segment {
    /// Code segment of 64-bit mode.
    pub const LONG: u16 = 1 << 9;
    /// Default operand size 32 bits; for a stack segment, a 32-bit stack pointer.
    pub const BIG: u16 = 1 << 10;
    /// Present.
    pub const PRESENT: u16 = 1 << 7;
    /// A code or data segment, not a system one.
    pub const CODE_OR_DATA: u16 = 1 << 4;

    /// Descriptor privilege level.
    pub fn privilege(&self) -> u8 {
        (self.attributes >> 5) as u8 & 3
    }

    /// True if the segment can be used.
    pub fn is_present(&self) -> bool {
        self.attributes & Self::PRESENT != 0
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "descriptor_table", version = 1)]
pub struct DescriptorTable {
    /// Base, a linear address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// One variable-range MTRR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "mtrr_range", version = 1)]
pub struct MtrrRange {
    /// Physical base and memory type.
    pub base: u64,
    /// Physical mask and valid bit.
    pub mask: u64,
}

/// One bank of machine-check registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "machine_check_bank", version = 1)]
pub struct MachineCheckBank {
    /// Control.
    pub control: u64,
    /// Status.
    pub status: u64,
    /// Address.
    pub address: u64,
    /// Miscellaneous.
    pub miscellaneous: u64,
}

/// Model-specific registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "msrs", version = 1)]
pub struct Msrs {
    /// Extended features.
    pub efer: u64,
    /// Segments for SYSCALL and SYSRET.
    pub star: u64,
    /// SYSCALL entry, 64-bit mode.
    pub lstar: u64,
    /// SYSCALL entry, compatibility mode.
    pub cstar: u64,
    /// Flags that SYSCALL clears.
    pub syscall_mask: u64,
    /// The GS base that SWAPGS brings.
    pub kernel_gs_base: u64,
    /// Code segment for SYSENTER.
    pub sysenter_cs: u64,
    /// Stack pointer for SYSENTER.
    pub sysenter_esp: u64,
    /// Entry point for SYSENTER.
    pub sysenter_eip: u64,
    /// Page attribute table.
    pub pat: u64,
    /// Fixed-range MTRRs in the order of their ranges.
    pub mtrr_fixed: [u64; 11],
    /// MTRR default type and enables.
    pub mtrr_default_type: u64,
    /// Variable-range MTRRs.
    pub mtrr_variable: [MtrrRange; 8],
    /// Miscellaneous enables.
    pub misc_enable: u64,
    /// What RDTSCP brings in ECX.
    pub tsc_aux: u64,
    /// TSC adjustment, where the model offers it.
    pub tsc_adjust: u64,
    /// TSC deadline in ticks of this vCPU's TSC, where the model offers it; zero is not armed.
    pub tsc_deadline: u64,
    /// Machine-check capabilities.
    pub mcg_capabilities: u64,
    /// Machine-check status.
    pub mcg_status: u64,
    /// Machine-check control.
    pub mcg_control: u64,
    /// Machine-check banks, as many as the capabilities name.
    #[vmstate(max = 32)]
    pub machine_check_banks: Vec<MachineCheckBank>,
}

/// The x87 unit.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "x87", version = 1)]
pub struct X87State {
    /// Control word.
    pub control: u16,
    /// Status word, the top of the stack within.
    pub status: u16,
    /// Full tag word: two bits for each physical register.
    pub tags: u16,
    /// Opcode of the last instruction that was not a control instruction, 11 bits.
    pub last_opcode: u16,
    /// Its code segment selector.
    pub last_instruction_selector: u16,
    /// Its address.
    pub last_instruction: u64,
    /// Selector of its memory operand.
    pub last_operand_selector: u16,
    /// Address of its memory operand.
    pub last_operand: u64,
    /// Significands of the physical registers R0 to R7.
    pub significands: [u64; 8],
    /// Signs and exponents of the physical registers.
    pub exponents: [u16; 8],
}

/// The SSE registers.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "sse", version = 1)]
pub struct SseState {
    /// Control and status.
    pub mxcsr: u32,
    /// XMM0 to XMM15, low half first.
    pub xmm: [[u64; 2]; 16],
}

/// One component of the extended state, beyond the x87 unit (0) and the SSE registers (1), that is
/// not in its initial configuration.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "xsave_component", version = 1)]
pub struct XsaveComponent {
    /// Its number: its bit in XCR0 (Intel SDM volume 1, section 13.1).
    pub number: u8,
    /// Its bytes, as the architecture lays them out within the component.
    #[vmstate(max = 16384)]
    pub bytes: Vec<u8>,
}

/// What a vCPU is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, VmState)]
#[repr(u8)]
pub enum Activity {
    /// It executes instructions.
    #[default]
    Running = 0,
    /// It waits for an interrupt after HLT.
    Halted = 1,
    /// It waits for a start-up IPI.
    WaitForStartup = 2,
    /// A triple fault ended it.
    Shutdown = 3,
}

/// Why interrupts are held off for one instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, VmState)]
#[repr(u8)]
pub enum InterruptShadow {
    /// They are not.
    #[default]
    None = 0,
    /// The instruction before was an STI that set IF.
    Sti = 1,
    /// The instruction before loaded SS.
    MovSs = 2,
}

/// An event that was taken up but not delivered yet. The software CPU always completes delivery; an
/// accelerator that may stop between the two fills this in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "pending_event", version = 1)]
pub struct PendingEvent {
    /// True if there is one.
    pub present: bool,
    /// Its vector.
    pub vector: u8,
    /// True if it comes from an INT instruction.
    pub software: bool,
    /// True if it pushes an error code.
    pub has_error_code: bool,
    /// The error code.
    pub error_code: u32,
    /// What it will put into CR2 or DR6.
    pub payload: u64,
}

/// The state of one vCPU between two instructions.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "cpu", version = 1, validate = "CpuState::check")]
pub struct CpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub general: [u64; 16],
    /// Address of the next instruction.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// Local descriptor table.
    pub ldt: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdt: DescriptorTable,
    /// Interrupt descriptor table.
    pub idt: DescriptorTable,
    /// Control register 0.
    pub cr0: u64,
    /// Page-fault linear address.
    pub cr2: u64,
    /// Page-table base.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended control register 0.
    pub xcr0: u64,
    /// DR0 to DR3: breakpoint addresses.
    pub breakpoints: [u64; 4],
    /// DR6: debug status.
    pub dr6: u64,
    /// DR7: debug control.
    pub dr7: u64,
    /// Model-specific registers.
    pub msrs: Msrs,
    /// This vCPU's time-stamp counter, in ticks of the machine's TSC frequency, at the pause.
    pub tsc: u64,
    /// x87 unit.
    pub x87: X87State,
    /// SSE registers.
    pub sse: SseState,
    /// Further components of the extended state (AVX and so on), by ascending number; those that
    /// are in their initial configuration are left out.
    #[vmstate(max = 32)]
    pub components: Vec<XsaveComponent>,
    /// Base of system-management memory.
    pub smbase: u32,
    /// What the vCPU is doing.
    pub activity: Activity,
    /// Whether interrupts are held off for one instruction.
    pub interrupt_shadow: InterruptShadow,
    /// True if an NMI waits.
    pub nmi_pending: bool,
    /// True between the delivery of an NMI and the next IRET.
    pub nmi_blocked: bool,
    /// An exception that was raised and waits for delivery.
    pub exception: PendingEvent,
    /// An interrupt that was acknowledged and waits for delivery.
    pub interrupt: PendingEvent,
}

impl CpuState {
    /// Index of ES in [`Self::segments`].
    pub const ES: usize = 0;
    /// Index of CS.
    pub const CS: usize = 1;
    /// Index of SS.
    pub const SS: usize = 2;
    /// Index of DS.
    pub const DS: usize = 3;
    /// Index of FS.
    pub const FS: usize = 4;
    /// Index of GS.
    pub const GS: usize = 5;

    /// Refuses what no processor can be in.
    ///
    /// # Errors
    /// With the name of the first register that is impossible.
    pub fn check(&self) -> Result<(), Invalid> {
        use flags as f;
        let long = self.msrs.efer & f::EFER_LMA != 0;
        let paging = self.cr0 & f::CR0_PG != 0;
        if self.rflags & !f::DEFINED != f::FIXED {
            return Err(Invalid::new("rflags has a reserved bit"));
        }
        if self.cr0 & !f::CR0_DEFINED != 0 || self.cr0 & f::CR0_ET == 0 {
            return Err(Invalid::new("cr0 has a reserved bit"));
        }
        if paging && self.cr0 & f::CR0_PE == 0 {
            return Err(Invalid::new("cr0 has paging without protection"));
        }
        if long != (paging && self.msrs.efer & f::EFER_LME != 0) {
            return Err(Invalid::new("efer.lma disagrees with cr0.pg and efer.lme"));
        }
        if long && self.cr4 & f::CR4_PAE == 0 {
            return Err(Invalid::new("long mode without cr4.pae"));
        }
        if self.sse.mxcsr & !0xffff != 0 {
            return Err(Invalid::new("mxcsr has a reserved bit"));
        }
        if self.exception.present && self.exception.vector > 31 {
            return Err(Invalid::new("the pending exception has no exception's vector"));
        }
        let mut below = 2;
        for XsaveComponent { number, bytes } in &self.components {
            if *number < below || *number > 62 || bytes.is_empty() {
                return Err(Invalid::new("the components are not in order, or one is empty"));
            }
            below = number + 1;
        }
        Ok(())
    }

    /// What differs between two states, field by field, in words: `x87.tags: 1 and 2`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let body = |state: &Self| {
            let mut body = Vec::new();
            state.encode_body(&mut body);
            body
        };
        match Self::schema().compare(Self::VERSION, &body(self), &body(other)) {
            Ok(list) => list.iter().map(ToString::to_string).collect(),
            // One of them is no state that could be saved.
            Err(error) => vec![error.to_string()],
        }
    }
}
