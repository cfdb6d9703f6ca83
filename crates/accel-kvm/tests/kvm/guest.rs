//! A machine for tiny guests, and its bus, which writes down what reaches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use accel_kvm::{CpuidPolicy, DirtyLogKind, KvmAccelerator, KvmVcpu, bare};
use cpu::{Bus, CpuModel, CpuState, Exit, GeneralProtection, Topology, Vcpu};
use memory::GuestRam;

/// Machine code, by the assembler.
#[macro_export]
macro_rules! program {
    ($($line:literal),* $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        #[expect(unsafe_code, reason = "machine code from the assembler")]
        // SAFETY: jumps over the guest's program and takes the addresses of its two ends, which
        // enclose bytes that nobody writes to.
        unsafe {
            std::arch::asm!(
                "lea {start}, [rip + 90f]",
                "lea {end}, [rip + 91f]",
                "jmp 91f",
                "90:",
                $($line,)*
                "91:",
                start = out(reg) start,
                end = out(reg) end,
                options(nomem, nostack, preserves_flags),
            );
            std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
        }
    }};
}

/// The port whose store ends a run.
pub const END: u16 = 0xf4;
/// Memory that is no RAM.
pub const MMIO: u64 = 0xfeb0_0000;
/// A store there ends a run.
pub const MMIO_END: u64 = MMIO + 0xff0;
/// No interrupt waits at the 8259 pair.
pub const NONE: u32 = u32::MAX;

/// A machine without vCPUs.
pub struct Guest {
    pub ram: GuestRam,
    pub kvm: KvmAccelerator,
}

impl Guest {
    /// With two MiB and the program in place.
    pub fn new(program: &[u8]) -> Self {
        let ram = GuestRam::new(bare::RAM_BYTES).unwrap();
        bare::lay_out(&ram, program).unwrap();
        let kvm = KvmAccelerator::new(ram.clone()).unwrap();
        Self { ram, kvm }
    }

    pub fn with_log(bytes: u64, kind: DirtyLogKind, program: &[u8]) -> Self {
        let ram = GuestRam::new(bytes).unwrap();
        bare::lay_out(&ram, program).unwrap();
        let kvm = KvmAccelerator::new_with(ram.clone(), kind).unwrap();
        Self { ram, kvm }
    }

    pub fn gate(&self, vector: u8, offset: u64) {
        bare::set_gate(&self.ram, vector, bare::CODE + offset).unwrap();
    }

    pub fn vcpu(&self, apic_id: u32) -> KvmVcpu {
        let place = Topology { apic_id, count: 2 };
        self.kvm.vcpu(model(), place, CpuidPolicy::AsFarAsPossible).unwrap()
    }

    /// A vCPU about to execute the program in ring 0, its local APIC enabled and open for the
    /// 8259 pair.
    pub fn ready(&self) -> KvmVcpu {
        let mut vcpu = self.vcpu(0);
        vcpu.set_state(&bare::ring_0(model()), 0).unwrap();
        enable_apic(&mut vcpu);
        vcpu
    }

    pub fn long(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.ram.read(address, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }
}

pub fn model() -> &'static CpuModel {
    CpuModel::find("qemu64").unwrap()
}

/// Software-enabled, LINT0 open for the 8259 pair.
pub fn enable_apic(vcpu: &mut KvmVcpu) {
    let mut page = vcpu.apic().unwrap();
    page.registers[0x0f] = 0x1ff;
    page.registers[0x35] = 0x700;
    vcpu.set_apic(&page).unwrap();
}

/// What reached the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Out(u16, u8, u32),
    In(u16, u8),
    Write(u64, Vec<u8>),
    Read(u64, usize),
    EndOfInterrupt(u8),
    Acknowledged(u8),
}

pub struct TestBus {
    pub seen: Vec<Seen>,
    /// The vector that waits at the 8259 pair; any thread may set it.
    pub pic: Arc<AtomicU32>,
    /// A store to this port raises the vector that it stores.
    pub pic_port: u16,
    pub attention: bool,
    /// An access to a port of these asks for attention.
    pub attentive: Vec<u16>,
}

impl Default for TestBus {
    fn default() -> Self {
        Self {
            seen: Vec::new(),
            pic: Arc::new(AtomicU32::new(NONE)),
            pic_port: 0x20,
            attention: false,
            attentive: vec![END],
        }
    }
}

impl TestBus {
    /// Runs until the guest asks for attention.
    pub fn run(&mut self, vcpu: &mut KvmVcpu) {
        self.attention = false;
        let ran = vcpu.run(self, 0).unwrap();
        assert_eq!(ran.exit, Exit::Attention, "{:?} at {:#x}", self.seen, rip(vcpu));
    }

    /// The values that went out to a port.
    pub fn out(&self, port: u16) -> Vec<u32> {
        self.seen
            .iter()
            .filter_map(|seen| match seen {
                Seen::Out(to, _, value) if *to == port => Some(*value),
                _ => None,
            })
            .collect()
    }
}

pub fn rip(vcpu: &KvmVcpu) -> u64 {
    vcpu.state(0).unwrap().rip
}

/// What a port or memory that is no RAM answers.
pub fn answer(address: u64) -> u64 {
    0x8877_6655_4433_2211 ^ address.wrapping_mul(0x0101_0101_0101_0101)
}

impl Bus for TestBus {
    fn port_in(&mut self, _: u64, port: u16, size: u8) -> u32 {
        self.seen.push(Seen::In(port, size));
        self.attention |= self.attentive.contains(&port);
        answer(port.into()) as u32
    }

    fn port_out(&mut self, _: u64, port: u16, size: u8, value: u32) {
        self.seen.push(Seen::Out(port, size, value));
        self.attention |= self.attentive.contains(&port);
        if port == self.pic_port {
            self.pic.store(value, Ordering::SeqCst);
        }
    }

    fn mmio_read(&mut self, _: u64, address: u64, data: &mut [u8]) {
        self.seen.push(Seen::Read(address, data.len()));
        let length = data.len();
        data.copy_from_slice(&answer(address).to_le_bytes()[..length]);
    }

    fn mmio_write(&mut self, _: u64, address: u64, data: &[u8]) {
        self.seen.push(Seen::Write(address, data.to_vec()));
        self.attention |= address == MMIO_END;
    }

    fn tsc(&mut self, _: u64) -> u64 {
        unreachable!("KVM reads no TSC from the bus")
    }

    fn apic_base(&mut self) -> u64 {
        unreachable!("the kernel has the local APIC")
    }

    fn set_apic_base(&mut self, _: u64, _: u64) -> Result<(), GeneralProtection> {
        unreachable!("the kernel has the local APIC")
    }

    fn task_priority(&mut self) -> u8 {
        unreachable!("the kernel has the local APIC")
    }

    fn set_task_priority(&mut self, _: u64, _: u8) {
        unreachable!("the kernel has the local APIC")
    }

    fn interrupt_pending(&mut self) -> bool {
        self.pic.load(Ordering::SeqCst) != NONE
    }

    fn acknowledge_interrupt(&mut self, _: u64) -> Option<u8> {
        let vector = u8::try_from(self.pic.swap(NONE, Ordering::SeqCst)).ok()?;
        self.seen.push(Seen::Acknowledged(vector));
        Some(vector)
    }

    fn end_of_interrupt(&mut self, vector: u8) {
        self.seen.push(Seen::EndOfInterrupt(vector));
    }

    fn attention(&mut self) -> bool {
        self.attention
    }
}

/// A small generator (splitmix64), for tests that have to be repeatable.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn flip(&mut self) -> bool {
        self.next() & 1 == 0
    }
}

/// Fails with the fields that differ.
pub fn assert_same(wanted: &CpuState, there: &CpuState, what: &str) {
    let differences = wanted.differences(there);
    assert!(differences.is_empty(), "{what}: {}", differences.join("; "));
}
