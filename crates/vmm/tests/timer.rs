//! A guest whose local APIC timer is a chain: each interrupt arms the next. One that is lost in a
//! pause ends the chain for good.

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::Random;
use cpu::{CpuModel, CpuState, DescriptorTable, Segment, flags as f};
use machine::{AcceleratorChoice, HostConfig, MachineConfig};
use vmm::{Boot, Endpoints, Vm, probe_kvm};

const MEMORY: u64 = 64 << 10;
const GDT: u64 = 0x500;
const IDT: u64 = 0x1000;
const CODE: u64 = 0x2000;
const HANDLER: u64 = 0x3000;
const COUNT: u64 = 0x4000;
const TABLES: u64 = 0x8000;
const STACK: u64 = 0x8000;
const VECTOR: u64 = 0x40;
/// Nanoseconds from one interrupt to the next.
const PERIOD: u32 = 60_000;
const PAUSES: u32 = 1_500;
const PATIENCE: Duration = Duration::from_secs(10);

/// `mov dword [rdi + offset], value`
fn store(offset: u32, value: u32) -> Vec<u8> {
    [&[0xc7, 0x87][..], &offset.to_le_bytes(), &value.to_le_bytes()].concat()
}

fn words(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn program() -> Vec<(u64, Vec<u8>)> {
    let arm = store(0x380, PERIOD);
    let main = [
        // mov edi, 0xfee00000
        vec![0xbf, 0x00, 0x00, 0xe0, 0xfe],
        // On, divided by 1, one-shot.
        store(0xf0, 0x1ff),
        store(0x3e0, 0xb),
        store(0x320, VECTOR as u32),
        arm.clone(),
        // sti; again: hlt; jmp again
        vec![0xfb, 0xf4, 0xeb, 0xfd],
    ]
    .concat();
    let handler = [
        // inc dword [COUNT]
        [&[0xff, 0x04, 0x25][..], &(COUNT as u32).to_le_bytes()].concat(),
        store(0xb0, 0),
        arm,
        // iretq
        vec![0x48, 0xcf],
    ]
    .concat();
    let gate = [HANDLER & 0xffff | 8 << 16 | 0x8e << 40 | (HANDLER >> 16) << 48, 0];
    // One gibibyte from 0 and one from 3 GiB, in pages of 1 GiB where the model had them; in
    // directories of 2 MiB pages, of which the first and the local APIC's are there.
    let (pointers, low, high) = (TABLES + 0x1000, TABLES + 0x2000, TABLES + 0x3000);
    vec![
        (GDT, words(&[0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff])),
        (IDT + 16 * VECTOR, words(&gate)),
        (CODE, main),
        (HANDLER, handler),
        (TABLES, words(&[pointers | 3])),
        (pointers, words(&[low | 3, 0, 0, high | 3])),
        (low, words(&[0x83])),
        (high + 8 * ((0xfee0_0000 >> 21) & 511), words(&[0xfee0_0000 | 0x93])),
    ]
}

fn first_state() -> CpuState {
    let mut state = CpuState::at_reset(CpuModel::find("qemu64").unwrap(), 0);
    let data = Segment { selector: 0x10, base: 0, limit: u32::MAX, attributes: 0xc93 };
    state.segments = [data; 6];
    state.segments[CpuState::CS] =
        Segment { selector: 8, base: 0, limit: u32::MAX, attributes: 0xa9b };
    state.gdt = DescriptorTable { base: GDT, limit: 23 };
    state.idt = DescriptorTable { base: IDT, limit: 0xfff };
    state.cr0 = f::CR0_PE | f::CR0_PG | f::CR0_ET | f::CR0_NE | f::CR0_WP;
    state.cr3 = TABLES;
    state.cr4 = f::CR4_PAE;
    state.msrs.efer = f::EFER_LME | f::EFER_LMA;
    state.rip = CODE;
    state.general[4] = STACK;
    state
}

fn count(vm: &Vm) -> u32 {
    let mut bytes = [0; 4];
    vm.ram().read(COUNT, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn wait_for(vm: &Vm, more: u32, when: &str) {
    let (wanted, started) = (count(vm).wrapping_add(more), Instant::now());
    while count(vm) < wanted {
        assert!(started.elapsed() < PATIENCE, "{when}: the chain has ended at {}", count(vm));
        thread::sleep(Duration::from_micros(100));
    }
}

fn survives_pauses(accel: AcceleratorChoice) {
    let mut config = MachineConfig::new("chain", [4; 16], MEMORY);
    config.cpus.promise_tsc = false;
    config.cpus.promise_cpuid = false;
    let boot = Boot::Flat { segments: program(), state: Box::new(first_state()) };
    let host = HostConfig { accel, ..HostConfig::default() };
    let vm = Vm::create(&config, &boot, &host, Endpoints::default()).unwrap();
    vm.resume().unwrap();
    wait_for(&vm, 3, "before any pause");
    let mut random = Random(7);
    for number in 0..PAUSES {
        thread::sleep(Duration::from_micros(random.below(150)));
        vm.pause().unwrap();
        vm.resume().unwrap();
        if number % 50 == 49 {
            wait_for(&vm, 2, &format!("after {} pauses", number + 1));
        }
    }
    vm.quit();
    vm.wait();
}

#[test]
fn no_interrupt_is_lost_in_a_pause_on_the_software_cpu() {
    survives_pauses(AcceleratorChoice::Soft);
}

#[test]
fn no_interrupt_is_lost_in_a_pause_on_kvm() {
    match probe_kvm().tier() {
        Some(tier) => println!("kvm tier {tier:?}: {PAUSES} pauses ran"),
        None => return println!("no kvm that runs guests: not run"),
    }
    survives_pauses(AcceleratorChoice::Kvm);
}
