//! The programs: what each is called, what it needs, and what it is to record.

use super::{identity, integer};

/// What an accelerator has to be able to do to run a program: the tiers of `ferry doctor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Simple integer code in ring 0, anything in ring 3 but SYSCALL and INT n.
    Basic,
    /// The whole architecture.
    Full,
}

/// What a program is to observe, in its order, each with a name.
pub type Observations = Vec<(String, u64)>;

/// What a program observes.
#[derive(Clone, Copy)]
pub enum Expected {
    /// Nothing: it checks all itself.
    Nothing,
    /// What the harness knows.
    Known(fn() -> Observations),
    /// The same on each accelerator.
    Same,
}

/// A program of the suite.
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// What it needs.
    pub tier: Tier,
    /// Why it needs more than the basic tier.
    pub needs: &'static str,
    /// vCPUs of its machine.
    pub vcpus: u32,
    /// Its first instruction, where rustc put it.
    pub code: *const u8,
    /// What it is to observe besides what it checks itself.
    pub expected: Expected,
}

/// Declares the symbols of the programs and lists them.
macro_rules! programs {
    ($($symbol:ident $name:literal $tier:ident $needs:literal $vcpus:literal $expected:expr;)*) => {
        #[expect(unsafe_code, reason = "the programs' addresses are symbols of the assembly")]
        // SAFETY: `asm/*.s` define each of these; only their addresses are used.
        mod symbols {
            unsafe extern "C" {
                $(pub(super) static $symbol: u8;)*
            }
        }

        /// Every program.
        pub fn all() -> Vec<Program> {
            vec![$(Program {
                name: $name,
                tier: Tier::$tier,
                needs: $needs,
                vcpus: $vcpus,
                code: &raw const symbols::$symbol,
                expected: $expected,
            }),*]
        }
    };
}

programs! {
    ferry_conformance_integer "integer" Basic "" 1 Expected::Known(integer::expected);
    ferry_conformance_data "data" Basic "" 1 Expected::Nothing;
    ferry_conformance_bases "segment bases" Basic "" 1 Expected::Nothing;
    ferry_conformance_compatibility "compatibility mode" Basic "" 1 Expected::Nothing;
    ferry_conformance_decimal "decimal adjustment" Full "DAA in 32-bit code" 1 Expected::Nothing;
    ferry_conformance_exceptions "exceptions" Basic "" 1 Expected::Nothing;
    ferry_conformance_privileges "privileges" Basic "" 1 Expected::Nothing;
    ferry_conformance_breakpoints "breakpoints of ring 3" Basic "" 1 Expected::Nothing;
    ferry_conformance_software_interrupts "software interrupts" Full "INT3 and INT n in ring 0" 1 Expected::Nothing;
    ferry_conformance_single_step "single step" Basic "" 1 Expected::Nothing;
    ferry_conformance_missing_gate "missing gate" Full "exceptions whose gate is missing" 1 Expected::Nothing;
    ferry_conformance_double_fault "double fault" Basic "" 1 Expected::Nothing;
    ferry_conformance_iret "iret" Basic "" 1 Expected::Nothing;
    ferry_conformance_iret_checks "iret checks" Full "checks of IRET's frame" 1 Expected::Nothing;
    ferry_conformance_far_transfers "far transfers" Basic "" 1 Expected::Nothing;
    ferry_conformance_system_registers "system registers" Basic "" 1 Expected::Nothing;
    ferry_conformance_fpu_not_available "fpu not available" Full "CR0.TS and CR0.EM in ring 3" 1 Expected::Nothing;
    ferry_conformance_page_faults "page faults" Basic "" 1 Expected::Nothing;
    ferry_conformance_page_ends "stores over page ends" Basic "" 1 Expected::Nothing;
    ferry_conformance_page_ends_kernel "stores over page ends in ring 0" Full "stores that fault half-way in ring 0" 1 Expected::Nothing;
    ferry_conformance_user_pages "user pages" Basic "" 1 Expected::Nothing;
    ferry_conformance_no_execute "no-execute" Basic "" 1 Expected::Nothing;
    ferry_conformance_accessed_and_dirty "accessed and dirty bits" Basic "" 1 Expected::Nothing;
    ferry_conformance_large_pages "large pages" Basic "" 1 Expected::Nothing;
    ferry_conformance_translations "translations" Basic "" 1 Expected::Nothing;
    ferry_conformance_pic "8259A" Basic "" 1 Expected::Nothing;
    ferry_conformance_pic_cascade "8259A pair" Basic "" 1 Expected::Nothing;
    ferry_conformance_ioapic "I/O APIC" Basic "" 1 Expected::Nothing;
    ferry_conformance_levels "levels" Full "interrupts that stay in service" 1 Expected::Nothing;
    ferry_conformance_lapic "local APIC" Basic "" 1 Expected::Nothing;
    ferry_conformance_in_service "in service" Full "interrupts that stay in service" 1 Expected::Nothing;
    ferry_conformance_nmi "NMI" Basic "" 1 Expected::Nothing;
    ferry_conformance_nmi_blocking "NMI blocking" Basic "" 1 Expected::Nothing;
    ferry_conformance_shadows "interrupt shadows" Full "interrupts at the exact instruction in ring 0" 1 Expected::Nothing;
    ferry_conformance_halt "halt" Basic "" 1 Expected::Nothing;
    ferry_conformance_two_processors "two processors" Basic "" 2 Expected::Nothing;
    ferry_conformance_two_counters "two counters" Basic "" 2 Expected::Nothing;
    ferry_conformance_pit "8254" Basic "" 1 Expected::Nothing;
    ferry_conformance_lapic_timer "local APIC timer" Basic "" 1 Expected::Nothing;
    ferry_conformance_hpet "HPET" Basic "" 1 Expected::Nothing;
    ferry_conformance_timer_order "order of timers" Basic "" 1 Expected::Nothing;
    ferry_conformance_clocks "clocks" Basic "" 1 Expected::Nothing;
    ferry_conformance_tsc_forbidden "TSC in ring 3 forbidden" Full "CR4.TSD in ring 3" 1 Expected::Nothing;
    ferry_conformance_sse_user "SSE in ring 3" Basic "" 1 Expected::Nothing;
    ferry_conformance_sse_kernel "SSE in ring 0" Full "SSE arithmetic in ring 0" 1 Expected::Nothing;
    ferry_conformance_sse_alignment "SSE alignment" Full "alignment faults in ring 3" 1 Expected::Nothing;
    ferry_conformance_x87_user "x87 in ring 3" Basic "" 1 Expected::Nothing;
    ferry_conformance_x87_kernel "x87 in ring 0" Full "x87 arithmetic in ring 0" 1 Expected::Nothing;
    ferry_conformance_syscall "SYSCALL" Full "SYSCALL into ring 0" 1 Expected::Nothing;
    ferry_conformance_sysret "SYSRET" Basic "" 1 Expected::Nothing;
    ferry_conformance_sysenter "SYSENTER" Basic "" 1 Expected::Nothing;
    ferry_conformance_ports "ports" Basic "" 1 Expected::Nothing;
    ferry_conformance_fw_cfg_dma "fw_cfg DMA" Basic "" 1 Expected::Nothing;
    ferry_conformance_memory_mapped "memory-mapped registers" Basic "" 1 Expected::Nothing;
    ferry_conformance_end_of_memory "end of memory" Basic "" 1 Expected::Nothing;
    ferry_conformance_cpuid "CPUID" Basic "" 1 Expected::Known(identity::leaves);
    ferry_conformance_cpuid_user "CPUID in ring 3" Full "CPUID in ring 3 that does not ask the host's processor" 1 Expected::Known(identity::leaves);
    ferry_conformance_cpuid_features "CPUID features" Full "masks of CPUID features" 1 Expected::Known(identity::feature_leaves);
    ferry_conformance_msrs "MSRs" Basic "" 1 Expected::Nothing;
    ferry_conformance_memory_types "memory types" Full "refusal of reserved memory types" 1 Expected::Nothing;
    ferry_conformance_tsc_write "TSC write" Full "writes of the time-stamp counter" 1 Expected::Nothing;
    ferry_conformance_walk "random walk" Basic "" 1 Expected::Same;
    ferry_conformance_walk_kernel "random walk in ring 0" Full "SSE and x87 arithmetic in ring 0" 1 Expected::Same;
}
