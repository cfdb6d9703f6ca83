//! The registers of one software vCPU in the form in which it runs, and what every instruction
//! handler needs of them.

use std::sync::Arc;

use cpu::{
    AcceleratorError, CpuModel, CpuState, DescriptorTable, InterruptShadow, Msrs, PendingEvent,
    Segment, Topology, flags as f,
};
use memory::GuestRam;

use crate::block::{Block, Op};
use crate::code_cache::CodeCache;
use crate::extensions::Extensions;
use crate::fault::{self, Done, Fault, Trap};
use crate::lazy_flags::LazyFlags;
use crate::tlb::Tlbs;
use crate::width::Width;
use crate::x87::X87;

/// Number of the register that always reads as zero, for an address without base or index.
pub(crate) const ZERO: u8 = 16;
/// Number of the register that holds the address of the block's first instruction.
pub(crate) const BLOCK_RIP: u8 = 17;
/// Index of the segment base that is always zero.
pub(crate) const NO_SEGMENT: u8 = 7;

pub(crate) const RAX: u8 = 0;
pub(crate) const RCX: u8 = 1;
pub(crate) const RDX: u8 = 2;
pub(crate) const RBX: u8 = 3;
pub(crate) const RSP: u8 = 4;
pub(crate) const RBP: u8 = 5;
pub(crate) const RSI: u8 = 6;
pub(crate) const RDI: u8 = 7;

/// What decides how bytes are decoded and which blocks may run: part of a block's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mode {
    /// Code size: 16, 32 or 64.
    pub(crate) bits: u8,
    /// The stack pointer is ESP (or RSP), not SP.
    pub(crate) wide_stack: bool,
}

pub(crate) struct Core {
    registers: [u64; 32],
    pub(crate) flags: LazyFlags,
    pub(crate) rip: u64,
    /// Must the block end after this instruction, since something outside it changed?
    pub(crate) stop: bool,
    /// RFLAGS but the arithmetic flags.
    pub(crate) system_flags: u64,
    pub(crate) segment_base: [u64; 8],
    pub(crate) segments: [Segment; 6],
    pub(crate) mode: Mode,
    pub(crate) cpl: u8,
    /// What of mode and privilege decides which block runs at an address.
    pub(crate) jump_key: u32,
    /// Changes when translations for fetches or decoded code were dropped. Whatever drops them
    /// ends the block, and the epoch is brought up to date before the next one.
    pub(crate) epoch: u64,
    epoch_of: (u64, u64),
    pub(crate) tlbs: Tlbs,

    /// The operation that runs, to find its address and its place in the block.
    pub(crate) current: *const Op,
    pub(crate) block: *const Block,
    /// Instructions that this run executed before the block.
    pub(crate) executed: u64,
    /// Repetitions of string instructions in this block past the first.
    pub(crate) extra: u64,
    /// How many more instructions this run may execute, counted from the block's start.
    pub(crate) budget: u64,
    /// The code cache's watch generation that the write translations know of.
    pub(crate) watch_seen: u64,
    pub(crate) fault: Fault,

    pub(crate) ldt: Segment,
    pub(crate) tr: Segment,
    pub(crate) gdt: DescriptorTable,
    pub(crate) idt: DescriptorTable,
    pub(crate) cr0: u64,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) xcr0: u64,
    pub(crate) breakpoints: [u64; 4],
    pub(crate) dr6: u64,
    pub(crate) dr7: u64,
    pub(crate) msrs: Msrs,
    pub(crate) smbase: u32,
    /// This vCPU's TSC less the machine's.
    pub(crate) tsc_offset: u64,
    pub(crate) x87: X87,
    pub(crate) xmm: [u128; 16],
    pub(crate) mxcsr: u32,
    pub(crate) activity: cpu::Activity,
    pub(crate) shadow: InterruptShadow,
    /// The instruction that ran was a POPF under the trap flag, which it may have cleared.
    pub(crate) steps_out: bool,
    pub(crate) nmi_pending: bool,
    pub(crate) nmi_blocked: bool,
    /// Events that another accelerator took up and did not deliver; they come before anything else.
    pub(crate) exception: PendingEvent,
    pub(crate) interrupt: PendingEvent,
    pub(crate) init_pending: bool,
    pub(crate) startup_pending: Option<u8>,
    /// HLT or PAUSE ended the block.
    pub(crate) yielded: bool,

    pub(crate) ram: GuestRam,
    pub(crate) code: Arc<CodeCache>,
    pub(crate) model: &'static CpuModel,
    pub(crate) extensions: Extensions,
    pub(crate) topology: Topology,
}

impl Core {
    pub(crate) fn new(
        model: &'static CpuModel,
        topology: Topology,
        ram: GuestRam,
        code: Arc<CodeCache>,
    ) -> Self {
        let mut core = Self {
            registers: [0; 32],
            flags: LazyFlags::default(),
            rip: 0,
            stop: true,
            system_flags: 0,
            segment_base: [0; 8],
            segments: [Segment::default(); 6],
            mode: Mode { bits: 16, wide_stack: false },
            cpl: 0,
            jump_key: 0,
            epoch: 0,
            epoch_of: (0, 0),
            tlbs: Tlbs::new(),
            current: std::ptr::null(),
            block: std::ptr::null(),
            executed: 0,
            extra: 0,
            budget: 0,
            watch_seen: 0,
            fault: Fault { vector: 0, error_code: None, address: 0 },
            ldt: Segment::default(),
            tr: Segment::default(),
            gdt: DescriptorTable::default(),
            idt: DescriptorTable::default(),
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            xcr0: 0,
            breakpoints: [0; 4],
            dr6: 0,
            dr7: 0,
            msrs: Msrs::default(),
            smbase: 0,
            tsc_offset: 0,
            x87: X87::default(),
            xmm: [0; 16],
            mxcsr: 0,
            activity: cpu::Activity::Running,
            shadow: InterruptShadow::None,
            steps_out: false,
            nmi_pending: false,
            nmi_blocked: false,
            exception: PendingEvent::default(),
            interrupt: PendingEvent::default(),
            init_pending: false,
            startup_pending: None,
            yielded: false,
            ram,
            code,
            model,
            extensions: Extensions::of(model),
            topology,
        };
        core.load(&CpuState::at_reset(model, topology.apic_id), 0);
        core
    }

    /// A general register, or one of the helpers past them.
    #[inline(always)]
    pub(crate) fn register(&self, number: u8) -> u64 {
        self.registers[usize::from(number & 31)]
    }

    #[inline(always)]
    pub(crate) fn set_register(&mut self, number: u8, value: u64) {
        self.registers[usize::from(number & 31)] = value;
    }

    #[inline(always)]
    pub(crate) fn get<T: Width>(&self, number: u8) -> T {
        T::get(self, number)
    }

    #[inline(always)]
    pub(crate) fn set<T: Width>(&mut self, number: u8, value: T) {
        T::set(self, number, value);
    }

    pub(crate) fn general(&self) -> [u64; 16] {
        std::array::from_fn(|index| self.registers[index])
    }

    pub(crate) fn set_general(&mut self, values: &[u64; 16]) {
        self.registers[..16].copy_from_slice(values);
    }

    /// The fault of the current instruction.
    #[cold]
    pub(crate) fn raise(&mut self, vector: u8, error_code: Option<u32>) -> Trap {
        self.fault = Fault { vector, error_code, address: 0 };
        Trap
    }

    #[cold]
    pub(crate) fn undefined(&mut self) -> Trap {
        self.raise(fault::UNDEFINED, None)
    }

    #[cold]
    pub(crate) fn protection(&mut self, selector: u16) -> Trap {
        self.raise(fault::PROTECTION, Some(u32::from(selector & !3)))
    }

    /// RFLAGS as the guest sees them.
    pub(crate) fn rflags(&self) -> u64 {
        self.system_flags | self.flags.to_bits() | f::FIXED
    }

    /// Sets RFLAGS whole.
    pub(crate) fn set_rflags(&mut self, value: u64) {
        self.flags = LazyFlags::from_bits(value);
        self.system_flags = value & f::DEFINED & !f::ARITHMETIC;
        self.stop = true;
    }

    #[inline(always)]
    pub(crate) fn flag(&self, flag: u64) -> bool {
        self.system_flags & flag != 0
    }

    pub(crate) fn iopl(&self) -> u8 {
        (self.system_flags >> 12) as u8 & 3
    }

    #[inline(always)]
    pub(crate) fn long_mode(&self) -> bool {
        self.msrs.efer & f::EFER_LMA != 0
    }

    pub(crate) fn protected(&self) -> bool {
        self.cr0 & f::CR0_PE != 0
    }

    pub(crate) fn paging(&self) -> bool {
        self.cr0 & f::CR0_PG != 0
    }

    /// Instructions that this run executed before the current one.
    #[inline]
    pub(crate) fn at(&self) -> u64 {
        self.executed + self.extra + self.index() as u64
    }

    /// The block that runs.
    ///
    /// # Panics
    /// Between blocks.
    #[inline]
    #[expect(unsafe_code, reason = "the block that runs is known by pointer")]
    pub(crate) fn running_block(&self) -> &Block {
        assert!(!self.block.is_null(), "no block runs");
        // SAFETY: `block` is set only while its block runs, and the jump cache, which changes only
        // between blocks, keeps it alive meanwhile.
        unsafe { &*self.block }
    }

    /// The place of the current operation in its block; 0 between blocks.
    #[inline]
    pub(crate) fn index(&self) -> usize {
        if self.block.is_null() {
            return 0;
        }
        let first = self.running_block().ops.as_ptr();
        (self.current as usize - first as usize) / size_of::<Op>()
    }

    /// Address of the instruction after this one.
    #[inline(always)]
    pub(crate) fn next_rip(&self, op: &Op) -> u64 {
        self.registers[usize::from(BLOCK_RIP)].wrapping_add(u64::from(op.next))
    }

    /// Takes over a new CPL and all that hangs on it.
    pub(crate) fn set_cpl(&mut self, cpl: u8) {
        self.cpl = cpl;
        self.tlbs.set_user(cpl == 3);
        self.update_jump_key();
    }

    fn update_jump_key(&mut self) {
        self.jump_key = u32::from(self.mode.bits)
            | u32::from(self.mode.wide_stack) << 8
            | u32::from(self.cpl == 3) << 9;
    }

    /// Begins a new epoch if translations or code were dropped since the last.
    pub(crate) fn update_epoch(&mut self) {
        let now = (self.tlbs.fetch_generation(), self.code.generation());
        if self.epoch_of != now {
            self.epoch_of = now;
            self.epoch += 1;
        }
    }

    /// Works out the code mode after CS, SS or EFER changed.
    pub(crate) fn update_mode(&mut self) {
        let code = self.segments[CpuState::CS].attributes;
        let bits = if self.long_mode() && code & Segment::LONG != 0 {
            64
        } else if code & Segment::BIG != 0 {
            32
        } else {
            16
        };
        let stack = self.segments[CpuState::SS].attributes;
        self.mode = Mode { bits, wide_stack: bits == 64 || stack & Segment::BIG != 0 };
        self.update_jump_key();
        self.stop = true;
    }

    pub(crate) fn set_segment(&mut self, index: usize, segment: Segment) {
        self.segments[index] = segment;
        self.segment_base[index] = segment.base;
        if index == CpuState::CS || index == CpuState::SS {
            self.update_mode();
        }
    }

    /// Takes a state; `tsc` is the machine's counter.
    pub(crate) fn load(&mut self, state: &CpuState, tsc: u64) {
        let CpuState {
            general,
            rip,
            rflags,
            segments,
            ldt,
            tr,
            gdt,
            idt,
            cr0,
            cr2,
            cr3,
            cr4,
            xcr0,
            breakpoints,
            dr6,
            dr7,
            msrs,
            tsc: own_tsc,
            x87,
            sse,
            components: _,
            smbase,
            activity,
            interrupt_shadow,
            nmi_pending,
            nmi_blocked,
            exception,
            interrupt,
        } = state.clone();
        self.set_general(&general);
        self.rip = rip;
        self.set_rflags(rflags);
        self.msrs = msrs;
        self.cr0 = cr0;
        self.cr2 = cr2;
        self.cr3 = cr3;
        self.cr4 = cr4;
        for (index, segment) in segments.into_iter().enumerate() {
            self.set_segment(index, segment);
        }
        self.ldt = ldt;
        self.tr = tr;
        self.gdt = gdt;
        self.idt = idt;
        self.xcr0 = xcr0;
        self.breakpoints = breakpoints;
        self.dr6 = dr6;
        self.dr7 = dr7;
        self.tsc_offset = own_tsc.wrapping_sub(tsc);
        self.x87 = crate::float::x87_from_state(&x87);
        self.mxcsr = sse.mxcsr;
        self.xmm = sse.xmm.map(|[low, high]| u128::from(low) | u128::from(high) << 64);
        self.smbase = smbase;
        self.activity = activity;
        self.shadow = interrupt_shadow;
        self.nmi_pending = nmi_pending;
        self.nmi_blocked = nmi_blocked;
        self.exception = exception;
        self.interrupt = interrupt;
        self.init_pending = false;
        self.startup_pending = None;
        self.set_cpl(if self.protected() { self.segments[CpuState::SS].privilege() } else { 0 });
        self.update_mode();
        self.tlbs.flush();
        self.stop = true;
    }

    /// The state now; `tsc` is the machine's counter.
    pub(crate) fn save(&self, tsc: u64) -> CpuState {
        CpuState {
            general: self.general(),
            rip: self.rip,
            rflags: self.rflags(),
            segments: self.segments,
            ldt: self.ldt,
            tr: self.tr,
            gdt: self.gdt,
            idt: self.idt,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            xcr0: self.xcr0,
            breakpoints: self.breakpoints,
            dr6: self.dr6,
            dr7: self.dr7,
            msrs: self.msrs.clone(),
            tsc: tsc.wrapping_add(self.tsc_offset),
            x87: crate::float::x87_to_state(&self.x87),
            sse: cpu::SseState {
                mxcsr: self.mxcsr,
                xmm: self.xmm.map(|value| [value as u64, (value >> 64) as u64]),
            },
            components: Vec::new(),
            smbase: self.smbase,
            activity: self.activity,
            interrupt_shadow: self.shadow,
            nmi_pending: self.nmi_pending,
            nmi_blocked: self.nmi_blocked,
            exception: self.exception,
            interrupt: self.interrupt,
        }
    }

    /// The state once an INIT and a start-up IPI that wait have acted.
    pub(crate) fn signalled_state(&self, tsc: u64) -> CpuState {
        let mut state = self.save(tsc);
        if self.init_pending {
            state = state.after_init(self.model, self.topology.apic_id);
        }
        if let Some(vector) = self.startup_pending
            && state.activity == cpu::Activity::WaitForStartup
        {
            state.start_at(vector);
        }
        state
    }

    /// Refuses a state that this CPU cannot run.
    pub(crate) fn accepts(&self, state: &CpuState) -> Result<(), AcceleratorError> {
        let refuse = |reason: &str| {
            Err(AcceleratorError::State { vcpu: self.topology.apic_id, reason: reason.to_owned() })
        };
        if let Err(invalid) = state.check() {
            return refuse(&invalid.to_string());
        }
        if let Err(reason) = state.check_model(self.model) {
            return refuse(&reason);
        }
        if let Some(component) = state.components.first() {
            return refuse(&format!(
                "component {} of the extended state is not offered",
                component.number
            ));
        }
        if state.rflags & f::VM != 0 {
            return refuse("virtual-8086 mode is not offered");
        }
        Ok(())
    }

    /// Checks the privilege that most system instructions ask for.
    pub(crate) fn need_ring_0(&mut self) -> Done {
        if self.cpl == 0 { Ok(()) } else { Err(self.protection(0)) }
    }
}
