//! A vCPU after power-up or INIT (Intel SDM volume 3, table 10-1).

use crate::{Activity, CpuModel, CpuState, DescriptorTable, Msrs, PendingEvent, Segment, SseState};
use crate::{InterruptShadow, MachineCheckBank, X87State, flags};

const DATA: u16 = 0x93;
const CODE: u16 = 0x9b;
const LDT: u16 = 0x82;
const BUSY_TSS: u16 = 0x8b;
/// Page attribute table after reset: WB, WT, UC-, UC, twice.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

impl CpuState {
    /// The state after power-up of a vCPU of this model. Vcpu 0 is the bootstrap processor and
    /// starts at the reset vector; the others wait for a start-up IPI.
    pub fn at_reset(model: &CpuModel, vcpu: u32) -> Self {
        let data = Segment { selector: 0, base: 0, limit: 0xffff, attributes: DATA };
        let mut general = [0; 16];
        general[2] = u64::from(model.signature());
        let banks = usize::try_from(model.machine_check_capabilities() & 0xff).unwrap_or(0);
        Self {
            general,
            rip: 0xfff0,
            rflags: flags::FIXED,
            segments: [
                data,
                Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, attributes: CODE },
                data,
                data,
                data,
                data,
            ],
            ldt: Segment { selector: 0, base: 0, limit: 0xffff, attributes: LDT },
            tr: Segment { selector: 0, base: 0, limit: 0xffff, attributes: BUSY_TSS },
            gdt: DescriptorTable { base: 0, limit: 0xffff },
            idt: DescriptorTable { base: 0, limit: 0xffff },
            cr0: flags::CR0_ET | flags::CR0_NW | flags::CR0_CD,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            xcr0: 1,
            breakpoints: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            msrs: Msrs {
                pat: PAT_RESET,
                misc_enable: 1,
                mcg_capabilities: model.machine_check_capabilities(),
                mcg_control: u64::MAX,
                machine_check_banks: vec![
                    MachineCheckBank {
                        control: u64::MAX,
                        ..MachineCheckBank::default()
                    };
                    banks
                ],
                ..Msrs::default()
            },
            tsc: 0,
            x87: X87State {
                control: 0x40,
                status: 0,
                tags: 0x5555,
                last_opcode: 0,
                last_instruction_selector: 0,
                last_instruction: 0,
                last_operand_selector: 0,
                last_operand: 0,
                significands: [0; 8],
                exponents: [0; 8],
            },
            sse: SseState { mxcsr: 0x1f80, xmm: [[0; 2]; 16] },
            components: Vec::new(),
            smbase: 0x3_0000,
            activity: if vcpu == 0 { Activity::Running } else { Activity::WaitForStartup },
            interrupt_shadow: InterruptShadow::None,
            nmi_pending: false,
            nmi_blocked: false,
            exception: PendingEvent::default(),
            interrupt: PendingEvent::default(),
        }
    }

    /// The state after INIT: as at reset, but the x87, SSE and extended registers, the model-specific
    /// registers other than EFER's, the TSC and the cache bits of CR0 stay.
    pub fn after_init(&self, model: &CpuModel, vcpu: u32) -> Self {
        let reset = Self::at_reset(model, vcpu);
        let cache = flags::CR0_NW | flags::CR0_CD;
        Self {
            cr0: (reset.cr0 & !cache) | (self.cr0 & cache),
            msrs: Msrs { efer: 0, ..self.msrs.clone() },
            tsc: self.tsc,
            x87: self.x87.clone(),
            sse: self.sse.clone(),
            components: self.components.clone(),
            smbase: self.smbase,
            xcr0: self.xcr0,
            ..reset
        }
    }

    /// Starts a vCPU that waits for it at the page that a start-up IPI names.
    pub fn start_at(&mut self, vector: u8) {
        self.rip = 0;
        self.segments[Self::CS] = Segment {
            selector: u16::from(vector) << 8,
            base: u64::from(vector) << 12,
            limit: 0xffff,
            attributes: CODE,
        };
        self.activity = Activity::Running;
    }
}
