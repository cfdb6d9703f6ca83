//! A state that goes into KVM comes out the same, field by field, or is refused by name.

use accel_kvm::bare;
use accel_soft::SoftAccelerator;
use cpu::{
    Activity, CpuState, DescriptorTable, InterruptShadow, PendingEvent, Segment, Topology, Vcpu,
    flags,
};

use crate::guest::{Guest, Random, assert_same, model};
use crate::{Test, basic, full, program};

pub const TESTS: &[Test] = &[
    basic("random states read back as they were set", random_states),
    basic("states of the software CPU go there and back", soft_and_back),
    basic("the reset state of both kinds of vCPU", reset_states),
    basic("a state that is refused changes nothing", refusals),
    basic("components of the extended state", components),
    full("the TSC is the state's and runs on", tsc),
];

const STATES: u64 = 400;

fn canonical(random: &mut Random) -> u64 {
    ((random.next() << 16).cast_signed() >> 16).cast_unsigned()
}

/// A random state that a processor of the model can be in.
fn random_state(random: &mut Random) -> CpuState {
    let mut state = match random.below(3) {
        0 => bare::ring_0(model()),
        1 => bare::ring_3(model()),
        _ => real_mode(random),
    };
    for (index, register) in state.general.iter_mut().enumerate() {
        *register = if index == 4 { canonical(random) } else { random.next() };
    }
    state.rip =
        if state.cr0 & flags::CR0_PG == 0 { random.below(0x1_0000) } else { canonical(random) };
    let user = flags::ARITHMETIC | flags::IF | flags::DF | flags::NT | flags::AC | flags::ID;
    state.rflags = random.next() & (user | flags::IOPL | flags::RF) | flags::FIXED;
    if state.cr0 & flags::CR0_PG != 0 {
        state.segments[CpuState::FS].base = canonical(random);
        state.segments[CpuState::GS].base = canonical(random);
        // A null selector in 64-bit mode.
        if random.flip() {
            state.segments[CpuState::ES] = Segment::default();
        }
        state.cr4 |= random.next() & (flags::CR4_PGE | flags::CR4_DE | flags::CR4_MCE);
    }
    state.ldt = if random.flip() {
        Segment::default()
    } else {
        Segment { selector: 0x30, base: canonical(random), limit: 0x1f, attributes: 0x82 }
    };
    let limit = random.next() as u16;
    state.gdt = DescriptorTable { base: canonical(random), limit };
    state.idt = DescriptorTable { base: canonical(random), limit: !limit };
    state.cr0 |= random.next() & (flags::CR0_TS | flags::CR0_MP | flags::CR0_NE | flags::CR0_AM);
    state.cr2 = random.next();
    state.breakpoints = std::array::from_fn(|_| random.next());
    state.dr6 = 0xffff_0ff0 | random.next() & 0xe00f;
    state.dr7 = 0x400 | random.next() & 0xffff_03ff;
    random_msrs(random, &mut state);
    state.tsc = random.next();
    random_float(random, &mut state);
    state.smbase = random.next() as u32;
    random_events(random, &mut state);
    state
}

fn real_mode(random: &mut Random) -> CpuState {
    let mut state = CpuState::at_reset(model(), 0);
    for segment in &mut state.segments {
        segment.selector = random.next() as u16;
        segment.base = u64::from(segment.selector) << 4;
    }
    state
}

fn random_msrs(random: &mut Random, state: &mut CpuState) {
    let msrs = &mut state.msrs;
    if random.flip() {
        msrs.efer ^= flags::EFER_SCE;
    }
    msrs.star = random.next();
    msrs.lstar = canonical(random);
    msrs.cstar = canonical(random);
    msrs.syscall_mask = random.next() & 0xffff_ffff;
    msrs.kernel_gs_base = canonical(random);
    msrs.sysenter_cs = random.next() & 0xffff;
    msrs.sysenter_esp = canonical(random);
    msrs.sysenter_eip = canonical(random);
    // Memory types that exist: UC, WC, WT, WP, WB, and for the PAT UC-.
    let kind = |random: &mut Random| [0u64, 1, 4, 5, 6][random.below(5) as usize];
    msrs.pat = (0..8).fold(0, |pat, field| pat | kind(random) << (8 * field));
    for range in &mut msrs.mtrr_fixed {
        *range = (0..8).fold(0, |fixed, field| fixed | kind(random) << (8 * field));
    }
    msrs.mtrr_default_type = kind(random) | random.next() & 0xc00;
    for range in &mut msrs.mtrr_variable {
        range.base = random.next() & 0xff_ffff_f000 | kind(random);
        range.mask = random.next() & 0xff_ffff_f800;
    }
    msrs.misc_enable = 1;
    msrs.tsc_aux = random.next() & 0xffff_ffff;
    msrs.tsc_adjust = random.next();
    msrs.tsc_deadline = random.next();
    msrs.mcg_status = random.below(8);
    msrs.mcg_control = if random.flip() { u64::MAX } else { 0 };
    for bank in &mut msrs.machine_check_banks {
        bank.control = if random.flip() { u64::MAX } else { 0 };
        bank.status = random.next();
        bank.address = random.next();
        bank.miscellaneous = random.next();
    }
}

fn random_float(random: &mut Random, state: &mut CpuState) {
    let x87 = &mut state.x87;
    x87.control = random.next() as u16 & 0x1f3f | 0x40;
    // No unmasked exception waits: its summary bits are the control word's affair.
    x87.status = random.next() as u16 & 0x7f00;
    x87.tags = 0;
    for physical in 0..8 {
        let (significand, exponent, tag) = match random.below(5) {
            0 => (0, random.next() as u16 & 0x8000, 1),
            1 => (random.next() | 1 << 63, random.next() as u16 & 0x8000 | 0x7fff, 2),
            2 => (random.next() >> 1 | 1, random.next() as u16 & 0x8000, 2),
            3 => (random.next(), random.next() as u16, 3),
            _ => (random.next() | 1 << 63, 0x3fff, 0),
        };
        x87.significands[physical] = significand;
        x87.exponents[physical] = exponent;
        x87.tags |= tag << (2 * physical);
    }
    x87.last_opcode = random.next() as u16 & 0x7ff;
    x87.last_instruction = random.next();
    x87.last_operand = random.next();
    x87.last_instruction_selector = random.next() as u16;
    x87.last_operand_selector = random.next() as u16;
    state.sse.mxcsr = random.next() as u32 & 0xffff;
    for register in &mut state.sse.xmm {
        *register = [random.next(), random.next()];
    }
}

fn random_events(random: &mut Random, state: &mut CpuState) {
    state.activity = match random.below(6) {
        0 => Activity::Halted,
        1 => Activity::WaitForStartup,
        2 => Activity::Shutdown,
        _ => Activity::Running,
    };
    state.interrupt_shadow = match random.below(4) {
        0 => InterruptShadow::Sti,
        1 => InterruptShadow::MovSs,
        _ => InterruptShadow::None,
    };
    state.nmi_pending = random.flip();
    state.nmi_blocked = random.flip();
    match random.below(4) {
        0 => {
            state.interrupt = PendingEvent {
                present: true,
                vector: random.next() as u8,
                ..PendingEvent::default()
            };
        }
        1 => {
            let (vector, has_error_code) =
                [(0, false), (1, false), (6, false), (13, true), (14, true)]
                    [random.below(5) as usize];
            state.exception = PendingEvent {
                present: true,
                vector,
                software: false,
                has_error_code,
                error_code: if has_error_code { random.next() as u32 & 0xffff } else { 0 },
                payload: match vector {
                    1 => random.next() & 0xf,
                    14 => random.next(),
                    _ => 0,
                },
            };
        }
        _ => {}
    }
}

fn random_states() {
    let guest = Guest::new(program!("hlt"));
    let (mut vcpu, mut other) = (guest.vcpu(0), Guest::new(program!("hlt")).vcpu(0));
    for seed in 0..STATES {
        let mut random = Random(seed);
        let state = random_state(&mut random);
        let tsc = random.next();
        vcpu.set_state(&state, tsc).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let read = vcpu.state(tsc).unwrap();
        assert_same(&state, &read, &format!("seed {seed}"));
        // And on to another machine, at another count of its TSC.
        let tsc = random.next();
        other.set_state(&read, tsc).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_same(&state, &other.state(tsc).unwrap(), &format!("seed {seed}, moved"));
    }
}

fn soft_and_back() {
    let guest = Guest::new(program!("hlt"));
    let place = Topology { apic_id: 0, count: 1 };
    let soft = SoftAccelerator::new(guest.ram.clone());
    let (mut there, mut back) = (soft.vcpu(model(), place), soft.vcpu(model(), place));
    let mut vcpu = guest.vcpu(0);
    for seed in 0..STATES {
        let mut random = Random(seed ^ 0x50f7);
        let mut state = random_state(&mut random);
        // The software CPU completes what it begins.
        state.exception = PendingEvent::default();
        state.interrupt = PendingEvent::default();
        // And it takes no register that the model does not have.
        state.msrs.tsc_aux = 0;
        state.msrs.tsc_adjust = 0;
        state.msrs.tsc_deadline = 0;
        there.set_state(&state, 5).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let state = there.state(7).unwrap();
        vcpu.set_state(&state, 11).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        back.set_state(&vcpu.state(11).unwrap(), 13).unwrap();
        assert_same(&state, &back.state(13).unwrap(), &format!("seed {seed}"));
    }
}

fn reset_states() {
    let guest = Guest::new(program!("hlt"));
    for number in 0..2 {
        let vcpu = guest.vcpu(number);
        assert_same(&CpuState::at_reset(model(), number), &vcpu.state(0).unwrap(), "reset");
    }
}

fn refusals() {
    let guest = Guest::new(program!("hlt"));
    let mut vcpu = guest.vcpu(0);
    let good = random_state(&mut Random(77));
    vcpu.set_state(&good, 0).unwrap();
    let mut refuse = |what: &str, name: &str, change: fn(&mut CpuState)| {
        let mut state = bare::ring_0(model());
        change(&mut state);
        let error = vcpu.set_state(&state, 0).expect_err(what).to_string();
        assert!(error.contains(name), "{what}: {error}");
        assert_same(&good, &vcpu.state(0).unwrap(), what);
    };
    refuse("an entry that is no address", "msr 0xc0000082", |state| state.msrs.lstar = 1 << 60);
    refuse("a memory type that does not exist", "msr 0x2ff", |state| {
        state.msrs.mtrr_default_type = 2;
    });
    refuse("a bank too many", "msr 0x428", |state| {
        let bank = state.msrs.machine_check_banks[0];
        state.msrs.machine_check_banks.push(bank);
    });
    refuse("a bank too few", "machine_check_banks", |state| {
        state.msrs.machine_check_banks.pop();
    });
    refuse("other machine-check capabilities", "mcg_capabilities", |state| {
        state.msrs.mcg_capabilities ^= 1 << 24;
    });
    refuse("tags that contradict the registers", "x87.tags", |state| state.x87.tags = 0);
    refuse("a software exception", "software exception", |state| {
        state.exception =
            PendingEvent { present: true, vector: 3, software: true, ..PendingEvent::default() };
    });
    refuse("an interrupt by INT", "software interrupt", |state| {
        state.interrupt =
            PendingEvent { present: true, vector: 3, software: true, ..PendingEvent::default() };
    });
    refuse("a component that nobody has", "component 40", |state| {
        state.components = vec![cpu::XsaveComponent { number: 40, bytes: vec![1; 64] }];
    });
    refuse("a reserved bit", "rflags", |state| state.rflags |= 1 << 40);
    refuse("an xcr0 that does not exist", "KVM_SET_XCRS", |state| state.xcr0 = 1 << 40);
}

/// Where the host gives the guest AVX, its registers go along.
fn components() {
    let guest = Guest::new(program!("hlt"));
    let host = accel_kvm::host_model().unwrap();
    let place = Topology { apic_id: 0, count: 1 };
    let has_avx = host.cpuid(0xd, 0, place).eax & 4 != 0;
    let mut vcpu = guest
        .kvm
        .vcpu(host, place, accel_kvm::CpuidPolicy::Exact)
        .unwrap_or_else(|error| panic!("this host cannot be itself: {error}"));
    let mut state = bare::ring_0(host);
    vcpu.set_state(&state, 0).unwrap();
    assert_same(&state, &vcpu.state(0).unwrap(), "the host's own model");
    if !has_avx {
        return;
    }
    state.xcr0 = 7;
    state.cr4 |= 1 << 18;
    state.components = vec![cpu::XsaveComponent { number: 2, bytes: (0..=255).collect() }];
    vcpu.set_state(&state, 0).unwrap();
    assert_same(&state, &vcpu.state(0).unwrap(), "AVX in use");
    state.components.clear();
    vcpu.set_state(&state, 0).unwrap();
    assert_same(&state, &vcpu.state(0).unwrap(), "AVX at rest");
    let place = Topology { apic_id: 0, count: 1 };
    let mut soft = SoftAccelerator::new(guest.ram.clone()).vcpu(model(), place);
    let mut avx = bare::ring_0(model());
    avx.components = vec![cpu::XsaveComponent { number: 2, bytes: vec![1; 256] }];
    let refused = soft.set_state(&avx, 0).unwrap_err().to_string();
    assert!(refused.contains("component 2 of the extended state"), "{refused}");
}

fn tsc() {
    let guest = Guest::new(program!(
        "rdtsc",
        "out 0x21, eax",
        "mov eax, edx",
        "out 0x21, eax",
        "out 0xf4, al",
    ));
    let mut vcpu = guest.ready();
    let mut state = bare::ring_0(model());
    state.tsc = 1 << 50;
    vcpu.set_state(&state, 1000).unwrap();
    assert_same(&state, &vcpu.state(1000).unwrap(), "the TSC stands while nobody asks");
    vcpu.start_clock(1000, accel_kvm::host_tsc()).unwrap();
    let mut bus = crate::guest::TestBus::default();
    bus.run(&mut vcpu);
    let out = bus.out(0x21);
    let seen = u64::from(out[1]) << 32 | u64::from(out[0]);
    assert!(seen.wrapping_sub(1 << 50) < 1 << 40, "{seen:#x}");
}
