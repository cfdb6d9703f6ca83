//! Maskable interrupts: of the 8259 pair, by messages, by file descriptors, of the timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use accel_kvm::{EventFd, MsiRoute, bare};
use cpu::{Activity, Exit, PendingEvent, Vcpu};

use crate::guest::{Guest, MMIO, Seen, TestBus, enable_apic, model};
use crate::{Test, basic, full, program};

pub const TESTS: &[Test] = &[
    basic("the 8259 pair interrupts a loop", pic_in_a_loop),
    basic("the 8259 pair waits for the window", pic_window),
    basic("the 8259 pair wakes HLT", pic_in_hlt),
    basic("a masked LINT0 holds the 8259 pair off", pic_masked),
    basic("an interrupt on its way is part of the state", interrupt_in_the_state),
    basic("an exception on its way is part of the state", exception_in_the_state),
    basic("an interrupt taken up is not lost to a kick", pic_and_kicks),
    basic("a message interrupts", message),
    basic("the end of a level-triggered interrupt is told", end_of_level),
    full("an interrupt is in service until its end", in_service),
    basic("two vCPUs interrupt each other under kicks", ping_pong),
    basic("a file descriptor interrupts", irqfd),
    basic("a store signals a file descriptor", ioeventfd),
    basic("the timer wakes HLT", timer),
    basic("the local APIC reads back as it was set", apic_round_trip),
];

/// Handler at 16: puts 0xaa out to 0x21, ends the interrupt at the local APIC, returns.
macro_rules! with_handler {
    ($($line:literal),* $(,)?) => {
        program!(
            "jmp 80f",
            ".skip 14, 0x90",
            "push rax",
            "push rdx",
            "push rbx",
            "mov al, 0xaa",
            "mov dx, 0x21",
            "out dx, al",
            "mov ebx, 0xfee000b0",
            "mov dword ptr [rbx], 0",
            "pop rbx",
            "pop rdx",
            "pop rax",
            "iretq",
            "80:",
            $($line,)*
        )
    };
}

const HANDLER: u64 = 16;
const VECTOR: u8 = 0x41;

fn guest(program: &[u8]) -> Guest {
    let guest = Guest::new(program);
    guest.gate(VECTOR, HANDLER);
    guest
}

fn pic_in_a_loop() {
    let guest = guest(with_handler!(
        "sti",
        "mov ecx, 3",
        "2: mov al, 0x41",
        "out 0x20, al",
        "nop",
        "nop",
        "dec ecx",
        "jnz 2b",
        "mov dx, 0xf4",
        "out dx, al",
    ));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    bus.run(&mut vcpu);
    let once = [Seen::Out(0x20, 1, 0x41), Seen::Acknowledged(VECTOR), Seen::Out(0x21, 1, 0xaa)];
    for round in bus.seen[..9].chunks(3) {
        assert_eq!(round, once);
    }
}

fn pic_window() {
    let guest = guest(with_handler!(
        "cli",
        "mov al, 0x41",
        "out 0x20, al",
        "mov al, 1",
        "out 0x30, al",
        "mov al, 2",
        "out 0x30, al",
        "sti",
        "mov ecx, 10000",
        "2: dec ecx",
        "jnz 2b",
        "mov al, 3",
        "out 0x30, al",
        "mov dx, 0xf4",
        "out dx, al",
    ));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    bus.run(&mut vcpu);
    let wanted = [
        Seen::Out(0x20, 1, 0x41),
        Seen::Out(0x30, 1, 1),
        Seen::Out(0x30, 1, 2),
        Seen::Acknowledged(VECTOR),
        Seen::Out(0x21, 1, 0xaa),
        Seen::Out(0x30, 1, 3),
    ];
    assert_eq!(bus.seen[..6], wanted);
}

fn pic_in_hlt() {
    let guest = guest(with_handler!("sti", "hlt", "mov dx, 0xf4", "out dx, al", "cli", "hlt"));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    let (kicker, pic) = (vcpu.kicker(), bus.pic.clone());
    let running = thread::spawn(move || {
        let mut halted = false;
        loop {
            match vcpu.run(&mut bus, 0).unwrap().exit {
                Exit::Budget => halted |= vcpu.state(0).unwrap().activity == Activity::Halted,
                Exit::Attention => return (bus, halted),
                other => panic!("{other:?}"),
            }
            if halted {
                bus.pic.store(VECTOR.into(), Ordering::SeqCst);
            }
        }
    });
    while !running.is_finished() {
        thread::sleep(Duration::from_millis(2));
        kicker.kick();
    }
    let (bus, halted) = running.join().unwrap();
    assert!(halted, "the guest was seen in HLT");
    assert_eq!(bus.seen[..2], [Seen::Acknowledged(VECTOR), Seen::Out(0x21, 1, 0xaa)]);
    assert_eq!(pic.load(Ordering::SeqCst), crate::guest::NONE);
}

fn pic_masked() {
    let guest = guest(with_handler!(
        "sti",
        "mov al, 0x41",
        "out 0x20, al",
        "nop",
        "nop",
        "mov dx, 0xf4",
        "out dx, al",
    ));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    let mut page = vcpu.apic().unwrap();
    page.registers[0x35] |= 1 << 16;
    vcpu.set_apic(&page).unwrap();
    bus.run(&mut vcpu);
    assert!(bus.out(0x21).is_empty());
    assert!(!bus.seen.contains(&Seen::Acknowledged(VECTOR)));
}

fn interrupt_in_the_state() {
    let guest = guest(with_handler!("cli", "mov dx, 0xf4", "out dx, al"));
    let mut state = bare::ring_0(model());
    state.interrupt = PendingEvent { present: true, vector: VECTOR, ..PendingEvent::default() };
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    vcpu.set_state(&state, 0).unwrap();
    crate::guest::assert_same(&state, &vcpu.state(0).unwrap(), "an interrupt on its way");
    bus.run(&mut vcpu);
    assert_eq!(bus.seen[0], Seen::Out(0x21, 1, 0xaa), "the handler ran first");
    assert!(!vcpu.state(0).unwrap().interrupt.present);
}

fn exception_in_the_state() {
    // The handler puts CR2 and the error code out.
    let guest = Guest::new(program!(
        "jmp 80f",
        ".skip 14, 0x90",
        "mov rax, cr2",
        "mov dx, 0x21",
        "out dx, eax",
        "pop rax",
        "out dx, eax",
        "80: mov dx, 0xf4",
        "out dx, al",
    ));
    guest.gate(14, HANDLER);
    let mut state = bare::ring_0(model());
    state.cr2 = 0x1111;
    state.exception = PendingEvent {
        present: true,
        vector: 14,
        software: false,
        has_error_code: true,
        error_code: 2,
        payload: 0x7654_3210,
    };
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    vcpu.set_state(&state, 0).unwrap();
    crate::guest::assert_same(&state, &vcpu.state(0).unwrap(), "an exception on its way");
    bus.run(&mut vcpu);
    assert_eq!(bus.out(0x21), [0x7654_3210, 2]);
}

/// Interrupts of the 8259 pair under kicks at any instant, the state going out and in again: every
/// one that was acknowledged is handled, once.
fn pic_and_kicks() {
    let guest = guest(with_handler!(
        "sti",
        "mov ecx, 1000",
        "2: mov al, 0x41",
        "out 0x20, al",
        "nop",
        "nop",
        "dec ecx",
        "jnz 2b",
        "mov dx, 0xf4",
        "out dx, al",
    ));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    let kicker = vcpu.kicker();
    let running = thread::spawn(move || {
        loop {
            match vcpu.run(&mut bus, 0).unwrap().exit {
                Exit::Budget => {
                    let state = vcpu.state(0).unwrap();
                    vcpu.set_state(&state, 0).unwrap();
                }
                Exit::Attention => return bus,
                other => panic!("{other:?}"),
            }
        }
    });
    while !running.is_finished() {
        kicker.kick();
        thread::sleep(Duration::from_micros(30));
    }
    let bus = running.join().unwrap();
    assert_eq!(bus.out(0x20).len(), 1000);
    assert_eq!(bus.out(0x21).len(), 1000);
}

fn message() {
    let guest = guest(with_handler!("sti", "2: hlt", "jmp 2b"));
    let mut vcpu = guest.ready();
    let mut bus = TestBus { attentive: vec![0x21], ..TestBus::default() };
    assert!(guest.kvm.send_message(0xfee0_0000, VECTOR.into()).unwrap());
    bus.run(&mut vcpu);
    assert_eq!(bus.seen, [Seen::Out(0x21, 1, 0xaa)]);
    assert!(!guest.kvm.send_message(0xfee0_7000, VECTOR.into()).unwrap(), "nobody is there");
}

fn end_of_level() {
    let guest = guest(with_handler!("sti", "2: hlt", "jmp 2b"));
    guest.gate(0x51, HANDLER);
    let level = 0x51 | 1 << 14 | 1 << 15;
    guest.kvm.set_routes(&[MsiRoute { gsi: 5, address: 0xfee0_0000, data: level }]).unwrap();
    let mut vcpu = guest.ready();
    let mut bus = TestBus { attentive: vec![0x21], ..TestBus::default() };
    for round in 1..4 {
        assert!(guest.kvm.send_message(0xfee0_0000, level).unwrap());
        bus.run(&mut vcpu);
        // An interrupt by an edge comes behind it, and its end is told to nobody.
        assert!(guest.kvm.send_message(0xfee0_0000, VECTOR.into()).unwrap());
        bus.run(&mut vcpu);
        let ends: Vec<&Seen> =
            bus.seen.iter().filter(|seen| matches!(seen, Seen::EndOfInterrupt(_))).collect();
        assert_eq!(ends, vec![&Seen::EndOfInterrupt(0x51); round]);
    }
}

/// Until its end, an interrupt is in service, and nobody is told of the end.
fn in_service() {
    let guest = guest(with_handler!("sti", "2: hlt", "jmp 2b"));
    let level = u32::from(VECTOR) | 1 << 14 | 1 << 15;
    guest.kvm.set_routes(&[MsiRoute { gsi: 5, address: 0xfee0_0000, data: level }]).unwrap();
    let mut vcpu = guest.ready();
    let mut bus = TestBus { attentive: vec![0x21], ..TestBus::default() };
    assert!(guest.kvm.send_message(0xfee0_0000, level).unwrap());
    bus.run(&mut vcpu);
    assert_eq!(vcpu.apic().unwrap().registers[0x12], 1 << 1);
    assert_eq!(bus.seen, [Seen::Out(0x21, 1, 0xaa)]);
    vcpu.kicker().kick();
    bus.attention = false;
    let ran = vcpu.run(&mut bus, 0).unwrap();
    assert_eq!((ran.exit, bus.seen.len()), (Exit::Budget, 1));
}

/// Each vCPU counts what the other sends and answers, two hundred times, while both are kicked and
/// their states go out and in again. An interrupt that is lost ends it for good.
fn ping_pong() {
    let guest = guest(program!(
        "jmp 80f",
        ".skip 14, 0x90",
        "inc qword ptr [r13]",
        "mov dword ptr [rbx + 0xb0], 0",
        "cmp qword ptr [r13], 200",
        "jae 3f",
        "mov dword ptr [rbx + 0x310], r12d",
        "mov dword ptr [rbx + 0x300], 0x4041",
        "iretq",
        "3: mov dx, 0xf4",
        "out dx, al",
        "iretq",
        "80: sti",
        "2: hlt",
        "jmp 2b",
    ));
    let vcpus: Vec<_> = (0..2u64)
        .map(|number| {
            let mut vcpu = guest.vcpu(number as u32);
            let mut state = bare::ring_0(model());
            state.general[3] = 0xfee0_0000;
            state.general[4] = bare::STACK - 0x1000 * number;
            state.general[12] = (1 - number) << 24;
            state.general[13] = bare::DATA + 8 * number;
            vcpu.set_state(&state, 0).unwrap();
            enable_apic(&mut vcpu);
            vcpu
        })
        .collect();
    assert!(guest.kvm.send_message(0xfee0_0000, VECTOR.into()).unwrap());
    let kickers: Vec<_> = vcpus.iter().map(accel_kvm::KvmVcpu::kicker).collect();
    let done = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = vcpus
        .into_iter()
        .map(|mut vcpu| {
            let done = Arc::clone(&done);
            thread::spawn(move || {
                let mut bus = TestBus::default();
                while !done.load(Ordering::SeqCst) {
                    match vcpu.run(&mut bus, 0).unwrap().exit {
                        Exit::Budget => {
                            let state = vcpu.state(0).unwrap();
                            vcpu.set_state(&state, 0).unwrap();
                        }
                        Exit::Attention => done.store(true, Ordering::SeqCst),
                        other => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    while threads.iter().any(|thread| !thread.is_finished()) {
        for kicker in &kickers {
            kicker.kick();
        }
        thread::sleep(Duration::from_millis(1));
    }
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!((guest.long(bare::DATA), guest.long(bare::DATA + 8)), (200, 199));
}

fn irqfd() {
    let guest = guest(with_handler!("sti", "2: hlt", "jmp 2b"));
    let route = MsiRoute { gsi: 7, address: 0xfee0_0000, data: VECTOR.into() };
    guest.kvm.set_routes(&[route]).unwrap();
    let fd = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    guest.kvm.attach_irqfd(&fd, 7).unwrap();
    let mut vcpu = guest.ready();
    let mut bus = TestBus { attentive: vec![0x21], ..TestBus::default() };
    for _ in 0..5 {
        fd.write(1).unwrap();
        bus.run(&mut vcpu);
    }
    assert_eq!(bus.out(0x21).len(), 5);
    guest.kvm.detach_irqfd(&fd, 7).unwrap();
}

fn ioeventfd() {
    let guest = Guest::new(program!(
        "mov ebx, 0xfeb00000",
        "mov dword ptr [rbx + 0x50], 1",
        "mov dword ptr [rbx + 0x50], 3",
        "mov dword ptr [rbx + 0x60], 9",
        "mov dx, 0xf4",
        "out dx, al",
    ));
    let one = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let any = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    guest.kvm.attach_ioevent(&one, MMIO + 0x50, Some(3)).unwrap();
    guest.kvm.attach_ioevent(&any, MMIO + 0x60, None).unwrap();
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    bus.run(&mut vcpu);
    // Of the two stores to the first, only the one of another value reached the bus.
    assert_eq!(bus.seen[0], Seen::Write(MMIO + 0x50, vec![1, 0, 0, 0]));
    assert_eq!(bus.seen.len(), 2);
    assert_eq!((one.read().unwrap(), any.read().unwrap()), (1, 1));
    guest.kvm.detach_ioevent(&one, MMIO + 0x50, Some(3)).unwrap();
    guest.kvm.detach_ioevent(&any, MMIO + 0x60, None).unwrap();
}

fn timer() {
    let guest = guest(with_handler!(
        "mov ebx, 0xfee00000",
        // One shot, divided by one.
        "mov dword ptr [rbx + 0x3e0], 0xb",
        "mov dword ptr [rbx + 0x320], 0x41",
        "mov dword ptr [rbx + 0x380], 100000",
        "sti",
        "hlt",
        "mov dx, 0xf4",
        "out dx, al",
    ));
    let (mut vcpu, mut bus) = (guest.ready(), TestBus::default());
    bus.run(&mut vcpu);
    assert_eq!(bus.out(0x21), [0xaa]);
    assert_eq!(vcpu.apic().unwrap().registers[0x39], 0, "it ran down");
}

fn apic_round_trip() {
    let guest = Guest::new(program!("hlt"));
    let mut vcpu = guest.vcpu(1);
    vcpu.set_state(&bare::ring_0(model()), 0).unwrap();
    enable_apic(&mut vcpu);
    let mut page = vcpu.apic().unwrap();
    assert_eq!(page.base, 0xfee0_0800);
    assert_eq!(page.registers[0x02], 1 << 24, "its id");
    page.registers[0x08] = 0x20;
    page.registers[0x0d] = 2 << 24;
    page.registers[0x0e] = 0xffff_ffff;
    page.registers[0x12] = 1 << 4;
    page.registers[0x1a] = 1 << 7;
    page.registers[0x22] = 1 << 9 | 1 << 4;
    page.registers[0x30] = 0x000c_4041;
    page.registers[0x31] = 3 << 24;
    page.registers[0x32] = 0x2_0041;
    page.registers[0x36] = 0x400;
    page.registers[0x37] = 0xfe;
    page.registers[0x38] = 0x4000_0000;
    page.registers[0x39] = 0x3000_0000;
    page.registers[0x3e] = 0xb;
    vcpu.set_apic(&page).unwrap();
    let mut there = vcpu.apic().unwrap();
    // Priority follows from the others, and the timer goes on.
    assert!(there.registers[0x39] <= page.registers[0x39]);
    assert!(there.registers[0x39] > 0);
    there.registers[0x39] = page.registers[0x39];
    page.registers[0x0a] = there.registers[0x0a];
    assert_eq!(there, page);
}
