//! Accesses to ports and to memory that is no RAM, and the state after them.

use accel_kvm::bare;
use cpu::{Activity, Exit, Vcpu};

use crate::guest::{END, Guest, MMIO, Seen, TestBus, answer, model};
use crate::{Test, basic, full, program};

pub const TESTS: &[Test] = &[
    basic("ports of every size", ports_of_every_size),
    basic("string accesses to ports", string_accesses),
    basic("memory that is no RAM", memory_that_is_no_ram),
    basic("an access is complete when the run ends", an_access_is_complete),
    basic("registers after a loop", registers_after_a_loop),
    basic("a triple fault ends the vCPU until its state is set", triple_fault),
    basic("registers that no state carries are out of reach", registers_out_of_reach),
    basic("a failure names the instruction", failure_names_the_instruction),
    full("arithmetic in SSE registers of ring 0", sse_in_ring_0),
];

fn ports_of_every_size() {
    let guest = Guest::new(program!(
        "mov dx, 0x70",
        "mov eax, 0x44332211",
        "out dx, al",
        "out dx, ax",
        "out dx, eax",
        "mov edi, 0x30000",
        "mov dx, 0x71",
        "mov rax, -1",
        "in al, dx",
        "mov [rdi], rax",
        "mov rax, -1",
        "in ax, dx",
        "mov [rdi + 8], rax",
        "mov rax, -1",
        "in eax, dx",
        "mov [rdi + 16], rax",
        "mov dx, 0xf4",
        "out dx, al",
    ));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    bus.run(&mut vcpu);
    let wanted = [
        Seen::Out(0x70, 1, 0x11),
        Seen::Out(0x70, 2, 0x2211),
        Seen::Out(0x70, 4, 0x4433_2211),
        Seen::In(0x71, 1),
        Seen::In(0x71, 2),
        Seen::In(0x71, 4),
    ];
    assert_eq!(bus.seen[..6], wanted);
    let value = answer(0x71) & 0xffff_ffff;
    assert_eq!(guest.long(bare::DATA), !0xff | value & 0xff);
    assert_eq!(guest.long(bare::DATA + 8), !0xffff | value & 0xffff);
    assert_eq!(guest.long(bare::DATA + 16), value);
}

fn string_accesses() {
    let guest = Guest::new(program!(
        "mov edi, 0x30000",
        "mov ecx, 5",
        "mov dx, 0x72",
        "cld",
        "rep insw",
        "mov esi, 0x30000",
        "mov ecx, 10",
        "rep outsb",
        "mov dx, 0xf4",
        "out dx, al",
    ));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    bus.run(&mut vcpu);
    let ins = bus.seen.iter().filter(|seen| **seen == Seen::In(0x72, 2)).count();
    assert_eq!(ins, 5);
    let [low, high, ..] = answer(0x72).to_le_bytes();
    let wanted: Vec<u32> = [low, high].repeat(5).into_iter().map(u32::from).collect();
    assert_eq!(bus.out(0x72), wanted);
}

fn memory_that_is_no_ram() {
    let guest = Guest::new(program!(
        "mov ebx, 0xfeb00000",
        "mov rax, 0x1122334455667788",
        "mov [rbx], al",
        "mov [rbx + 2], ax",
        "mov [rbx + 4], eax",
        "mov [rbx + 8], rax",
        "mov rcx, [rbx + 0x10]",
        "mov edi, 0x30000",
        "mov [rdi], rcx",
        "movzx ecx, byte ptr [rbx + 0x18]",
        "mov [rdi + 8], rcx",
        "mov dx, 0xf4",
        "out dx, al",
    ));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    bus.run(&mut vcpu);
    let written = |offset: u64, bytes: &[u8]| Seen::Write(MMIO + offset, bytes.to_vec());
    let wanted = [
        written(0, &[0x88]),
        written(2, &[0x88, 0x77]),
        written(4, &[0x88, 0x77, 0x66, 0x55]),
        written(8, &[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]),
        Seen::Read(MMIO + 0x10, 8),
        Seen::Read(MMIO + 0x18, 1),
    ];
    assert_eq!(bus.seen[..6], wanted);
    assert_eq!(guest.long(bare::DATA), answer(MMIO + 0x10));
    assert_eq!(guest.long(bare::DATA + 8), answer(MMIO + 0x18) & 0xff);
}

/// A run that ends for an IN leaves a state in which the IN is over.
fn an_access_is_complete() {
    let program = program!("mov dx, 0x71", "xor eax, eax", "in eax, dx", "nop", "hlt");
    let guest = Guest::new(program);
    let mut bus = TestBus { attentive: vec![0x71], ..TestBus::default() };
    let mut vcpu = guest.ready();
    bus.run(&mut vcpu);
    let state = vcpu.state(0).unwrap();
    assert_eq!(state.general[0], answer(0x71) & 0xffff_ffff);
    assert_eq!(state.rip, bare::CODE + program.len() as u64 - 2, "at the NOP");
    assert_eq!(bus.seen, [Seen::In(0x71, 4)]);
}

fn registers_after_a_loop() {
    let guest = Guest::new(program!(
        "mov ecx, 1000",
        "xor eax, eax",
        "2: add rax, rcx",
        "mov r8, rax",
        "shl r8, 7",
        "xor r9, r8",
        "dec ecx",
        "jnz 2b",
        "stc",
        "mov dx, 0xf4",
        "out dx, al",
        "nop",
    ));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    bus.run(&mut vcpu);
    let state = vcpu.state(0).unwrap();
    let (mut sum, mut folded) = (0u64, 0u64);
    for value in (1..=1000).rev() {
        sum += value;
        folded ^= sum << 7;
    }
    let mut wanted = bare::ring_0(model());
    wanted.general[0] = sum;
    wanted.general[2] = u64::from(END);
    wanted.general[8] = sum << 7;
    wanted.general[9] = folded;
    wanted.rip = state.rip;
    // Zero, parity and carry.
    wanted.rflags = 0x47;
    // A processor that loads a segment may mark its descriptor as used.
    crate::guest::assert_same(&wanted, &state, "after the loop");
}

fn triple_fault() {
    // There is no gate for vector 6, nor for the faults that follow.
    let guest = Guest::new(program!("ud2"));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    assert_eq!(vcpu.run(&mut bus, 0).unwrap().exit, Exit::Shutdown);
    assert_eq!(vcpu.run(&mut bus, 0).unwrap().exit, Exit::Shutdown);
    let state = vcpu.state(0).unwrap();
    assert_eq!(state.activity, Activity::Shutdown);
    vcpu.set_state(&state, 0).unwrap();
    assert_eq!(vcpu.run(&mut bus, 0).unwrap().exit, Exit::Shutdown);
    guest.ram.write(bare::CODE, program!("mov dx, 0xf4", "out dx, al")).unwrap();
    vcpu.set_state(&bare::ring_0(model()), 0).unwrap();
    bus.run(&mut vcpu);
}

/// Model-specific registers by RDMSR and WRMSR: those that a state carries answer, any other raises
/// #GP, as on the software CPU.
fn registers_out_of_reach() {
    // Each number of the list at DATA is read and written back; the handler of #GP, 16 bytes into
    // the program, puts the number out and goes on behind the access.
    let guest = Guest::new(program!(
        "jmp 80f",
        ".skip 14, 0x90",
        "mov eax, ecx",
        "mov dx, 0x21",
        "out dx, eax",
        "add rsp, 8",
        "mov [rsp], r9",
        "iretq",
        "80: mov esi, 0x30000",
        "2: mov ecx, [rsi]",
        "add esi, 4",
        "cmp ecx, -1",
        "je 4f",
        "lea r9, [rip + 3f]",
        "rdmsr",
        "mov r10d, eax",
        "wrmsr",
        "mov eax, r10d",
        "mov dx, 0x22",
        "out dx, eax",
        "3: jmp 2b",
        "4: mov dx, 0xf4",
        "out dx, al",
    ));
    guest.gate(13, 16);
    let (revision, reach): (u32, [u32; 6]) =
        (0x8b, [0x277, 0x2ff, 0x401, 0xc000_0081, 0xc000_0102, 0x20f]);
    // A TSC adjustment and RDTSCP's word, which the model lacks; KVM's clock; debug control; what
    // is not there at all.
    let out_of_reach: [u32; 6] = [0x3b, 0xc000_0103, 0x4b56_4d01, 0x1d9, 0x480, 0xc001_1029];
    let list = [revision].into_iter().chain(reach).chain(out_of_reach).chain([u32::MAX]);
    for (number, address) in list.zip((bare::DATA..).step_by(4)) {
        guest.ram.write(address, &number.to_le_bytes()).unwrap();
    }
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    bus.run(&mut vcpu);
    assert_eq!(bus.out(0x21), out_of_reach);
    assert_eq!(bus.out(0x22).len(), 1 + reach.len());
    assert_eq!(bus.out(0x22)[0], 0x0100_0065);
}

/// On a host that runs ring 0 as it is, the instruction simply runs.
fn failure_names_the_instruction() {
    let guest = Guest::new(program!("nop", "fwait", "mov dx, 0xf4", "out dx, al"));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    match vcpu.run(&mut bus, 0) {
        Ok(ran) => assert_eq!(ran.exit, Exit::Attention),
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("vcpu 0 at rip 0x20001: KVM cannot emulate"), "{text}");
            assert!(text.contains(": 9b 66 ba f4 00 ee"), "{text}");
        }
    }
}

fn sse_in_ring_0() {
    let guest = Guest::new(program!(
        "mov edi, 0x30000",
        "mov rax, 0x4045000000000000",
        "movq xmm0, rax",
        "addsd xmm0, xmm0",
        "movq [rdi], xmm0",
        "mov dx, 0xf4",
        "out dx, al",
    ));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    bus.run(&mut vcpu);
    assert_eq!(f64::from_bits(guest.long(bare::DATA)), 84.0);
    assert_eq!(vcpu.state(0).unwrap().sse.xmm[0], [84f64.to_bits(), 0]);
}
