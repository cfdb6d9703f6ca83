//! The local APIC as a vCPU and its neighbours meet it.

use vmstate::SavedSection;

use super::*;
use crate::twin::{Subject, properties};

const BUS_HZ: u64 = 1_000_000_000;

struct Bench {
    apic: Lapic,
    now: u64,
}

impl Bench {
    /// Switched on, spurious vector 0xff.
    fn new() -> Self {
        let mut bench = Self { apic: Lapic::new(0, BUS_HZ), now: 1000 };
        bench.put(SPURIOUS_VECTOR, 0x1ff);
        bench
    }

    fn get(&mut self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.apic.read(self.now, register, &mut data);
        u32::from_le_bytes(data)
    }

    fn put(&mut self, register: u64, value: u32) {
        self.apic.write(self.now, register, &value.to_le_bytes());
    }

    fn errors(&mut self) -> u32 {
        self.put(ERROR_STATUS, 0);
        self.get(ERROR_STATUS)
    }

    /// Moves the clock as the board does; the instants at which the timer was served.
    fn pass(&mut self, nanoseconds: u64) -> Vec<u64> {
        let end = self.now + nanoseconds;
        let mut served = Vec::new();
        while let Some(due) = self.apic.deadline().filter(|due| *due <= end) {
            self.apic.advance(due);
            served.push(due);
        }
        self.now = end;
        served
    }
}

#[test]
fn registers_out_of_reset() {
    let mut bench = Bench { apic: Lapic::new(3, BUS_HZ), now: 0 };
    assert_eq!(bench.apic.apic_base(), 0xfee0_0800);
    assert_eq!(Lapic::new(0, BUS_HZ).apic_base(), 0xfee0_0900);
    let expected = [
        (ID, 0x0300_0000),
        (VERSION, 0x0005_0014),
        (TASK_PRIORITY, 0),
        (PROCESSOR_PRIORITY, 0),
        (LOGICAL_DESTINATION, 0),
        (DESTINATION_FORMAT, 0xffff_ffff),
        (SPURIOUS_VECTOR, 0xff),
        (LVT, 0x1_0000),
        (LVT_LAST, 0x1_0000),
        (INITIAL_COUNT, 0),
        (CURRENT_COUNT, 0),
        (DIVIDE, 0),
    ];
    for (register, value) in expected {
        assert_eq!(bench.get(register), value, "{register:#x}");
    }
    assert_eq!(bench.errors(), 0);
    bench.put(LVT, 0x30);
    assert_eq!(bench.get(LVT), 0x1_0030, "masked as long as it is off");
    assert!(!bench.apic.accept(0x40, false));
}

#[test]
fn only_bits_that_exist_are_kept() {
    let mut bench = Bench::new();
    for (register, kept) in [
        (ID, 0xff00_0000),
        (VERSION, 0x0005_0014),
        (TASK_PRIORITY, 0xff),
        (LOGICAL_DESTINATION, 0xff00_0000),
        (DESTINATION_FORMAT, 0xffff_ffff),
        (0x320, 0x3_00ff),
        (0x330, 0x1_07ff),
        (0x340, 0x1_07ff),
        (0x350, 0x1_a7ff),
        (0x360, 0x1_a7ff),
        (0x370, 0x1_00ff),
        (ICR_HIGH, 0xff00_0000),
        (DIVIDE, 0xb),
        (SPURIOUS_VECTOR, 0x3ff),
    ] {
        bench.put(register, 0xffff_ffff);
        assert_eq!(bench.get(register), kept, "{register:#x}");
    }
    assert_eq!(bench.errors(), 0);
}

#[test]
fn only_whole_aligned_words_count() {
    let mut bench = Bench::new();
    bench.apic.write(0, TASK_PRIORITY, &[0x55]);
    bench.apic.write(0, TASK_PRIORITY + 4, &[0x55, 0, 0, 0]);
    bench.apic.write(0, TASK_PRIORITY, &[0x55; 8]);
    assert_eq!(bench.get(TASK_PRIORITY), 0);
    let mut byte = [0xaa];
    bench.apic.read(0, SPURIOUS_VECTOR, &mut byte);
    assert_eq!(byte, [0]);
}

#[test]
fn the_highest_priority_class_is_served_first() {
    let mut bench = Bench::new();
    for vector in [0x31, 0x45, 0x4a] {
        assert!(bench.apic.accept(vector, false));
    }
    assert_eq!(bench.get(IRR + 0x10), 1 << 17);
    assert_eq!(bench.get(IRR + 0x20), 1 << 5 | 1 << 10);
    assert_eq!(bench.apic.acknowledge(), Some(0x4a));
    assert_eq!(bench.get(ISR + 0x20), 1 << 10);
    assert_eq!(bench.get(PROCESSOR_PRIORITY), 0x40);
    assert_eq!(bench.apic.acknowledge(), None, "0x45 is of the class that is in service");
    bench.apic.accept(0x50, false);
    assert_eq!(bench.apic.acknowledge(), Some(0x50));
    bench.put(EOI, 0);
    bench.put(EOI, 0);
    assert_eq!(bench.apic.acknowledge(), Some(0x45));
    bench.put(EOI, 0);
    assert_eq!(bench.apic.acknowledge(), Some(0x31));
}

#[test]
fn the_task_priority_holds_back() {
    let mut bench = Bench::new();
    bench.apic.accept(0x5f, false);
    bench.apic.set_task_priority(5);
    assert_eq!(bench.get(TASK_PRIORITY), 0x50);
    assert_eq!(bench.get(PROCESSOR_PRIORITY), 0x50);
    assert_eq!(bench.apic.pending_vector(), None);
    bench.put(TASK_PRIORITY, 0x4f);
    assert_eq!(bench.apic.task_priority(), 4);
    assert_eq!(bench.apic.pending_vector(), Some(0x5f));
    bench.apic.acknowledge();
    assert_eq!(bench.get(PROCESSOR_PRIORITY), 0x50, "what is in service is higher");
    bench.put(TASK_PRIORITY, 0x53);
    assert_eq!(bench.get(PROCESSOR_PRIORITY), 0x53);
}

#[test]
fn the_end_of_a_level_is_broadcast() {
    let mut bench = Bench::new();
    bench.apic.accept(0x41, true);
    bench.apic.accept(0x31, false);
    assert_eq!(bench.get(TMR + 0x20), 2);
    bench.apic.acknowledge();
    bench.put(EOI, 0);
    assert_eq!(bench.apic.take_eoi_broadcast(), Some(0x41));
    assert_eq!(bench.apic.take_eoi_broadcast(), None);
    bench.apic.acknowledge();
    bench.put(EOI, 0);
    assert_eq!(bench.apic.take_eoi_broadcast(), None);
    bench.put(EOI, 0);
    bench.apic.accept(0x41, false);
    assert_eq!(bench.get(TMR + 0x20), 0);
}

#[test]
fn destinations_in_every_model() {
    let mut bench = Bench { apic: Lapic::new(2, BUS_HZ), now: 0 };
    let hits = |bench: &Bench, logical| -> Vec<u8> {
        (0..=255).filter(|to| bench.apic.matches_destination(*to, logical)).collect()
    };
    assert_eq!(hits(&bench, false), [2, 0xff]);
    assert_eq!(hits(&bench, true), [0xff], "no logical ID yet");
    bench.put(LOGICAL_DESTINATION, 0x0400_0000);
    let flat = (0..=255).filter(|to| to & 4 != 0).collect::<Vec<u8>>();
    assert_eq!(hits(&bench, true), flat);
    bench.put(DESTINATION_FORMAT, 0x0fff_ffff);
    bench.put(LOGICAL_DESTINATION, 0x3200_0000);
    let cluster = (0..=255u8)
        .filter(|to| to & 2 != 0 && (to >> 4 == 3 || to >> 4 == 0xf))
        .collect::<Vec<_>>();
    assert_eq!(hits(&bench, true), cluster);
    bench.apic.set_apic_base(0, 0xfee0_0000).unwrap();
    assert_eq!(hits(&bench, false), []);
}

#[test]
fn the_lowest_priority_takes_the_message() {
    let mut apics = [0, 1, 2, 3].map(|vcpu| Lapic::new(vcpu, BUS_HZ));
    let lowest = |apics: &[Lapic]| Lapic::lowest_priority(apics.iter().enumerate());
    assert_eq!(lowest(&apics), None, "all are off");
    for apic in &mut apics[1..] {
        apic.write(0, SPURIOUS_VECTOR, &0x1ffu32.to_le_bytes());
    }
    assert_eq!(lowest(&apics), Some(1));
    apics[1].set_task_priority(3);
    apics[2].set_task_priority(2);
    apics[3].set_task_priority(2);
    assert_eq!(lowest(&apics), Some(2));
    assert_eq!(apics[0].arbitration_priority(), 0x100);
}

#[test]
fn messages_leave_by_the_command_register() {
    let mut bench = Bench::new();
    bench.put(ICR_HIGH, 0x0200_0000);
    bench.put(ICR_LOW, 0x0000_08fc);
    assert_eq!(
        bench.apic.take_ipi(),
        Some(Ipi {
            shorthand: Shorthand::None,
            destination: 2,
            logical: true,
            mode: DeliveryMode::Fixed,
            vector: 0xfc,
            assert: false,
            level: false,
        })
    );
    assert_eq!(bench.apic.take_ipi(), None);
    assert_eq!(bench.get(ICR_LOW), 0x8fc, "idle at once");
    // INIT, INIT de-assert, start-up at 0x9a000: how Linux wakes a processor.
    bench.put(ICR_LOW, 0x0000_c500);
    let init = bench.apic.take_ipi().unwrap();
    assert_eq!((init.mode, init.assert, init.level), (DeliveryMode::Init, true, true));
    bench.put(ICR_LOW, 0x0000_8500);
    assert_eq!(bench.apic.take_ipi(), None);
    bench.put(ICR_LOW, 0x0000_069a);
    let startup = bench.apic.take_ipi().unwrap();
    assert_eq!((startup.mode, startup.vector), (DeliveryMode::Startup, 0x9a));
    for (bits, shorthand) in [
        (1, Shorthand::SelfOnly),
        (2, Shorthand::AllIncludingSelf),
        (3, Shorthand::AllExcludingSelf),
    ] {
        bench.put(ICR_LOW, bits << 18 | 0x400);
        let nmi = bench.apic.take_ipi().unwrap();
        assert_eq!((nmi.shorthand, nmi.mode), (shorthand, DeliveryMode::Nmi));
    }
    bench.put(ICR_LOW, 0x300);
    bench.put(ICR_LOW, 0x700);
    assert_eq!(bench.apic.take_ipi(), None, "reserved modes");
}

#[test]
fn errors_are_seen_after_a_write() {
    let mut bench = Bench::new();
    bench.put(0x370, 0x45);
    bench.put(ICR_LOW, 0x0f);
    assert_eq!(bench.apic.take_ipi(), None);
    assert_eq!(bench.get(ERROR_STATUS), 0);
    assert_eq!(bench.apic.acknowledge(), Some(0x45), "the error interrupt");
    assert_eq!(bench.errors(), 0x20);
    assert_eq!(bench.errors(), 0);
    assert!(!bench.apic.accept(0x0f, false));
    assert_eq!(bench.get(0x40), 0);
    bench.put(0x3f0, 1);
    assert_eq!(bench.errors(), 0xc0);
}

#[test]
fn the_timer_fires_once() {
    let mut bench = Bench::new();
    bench.put(LVT, 0xec);
    bench.put(DIVIDE, 0x3);
    let start = bench.now;
    bench.put(INITIAL_COUNT, 1000);
    assert_eq!(bench.get(CURRENT_COUNT), 1000);
    bench.pass(159);
    assert_eq!(bench.get(CURRENT_COUNT), 991);
    bench.pass(1);
    assert_eq!(bench.get(CURRENT_COUNT), 990);
    assert_eq!(bench.pass(1_000_000), [start + 16_000]);
    assert_eq!(bench.apic.acknowledge(), Some(0xec));
    assert_eq!(bench.get(CURRENT_COUNT), 0);
    assert_eq!(bench.apic.deadline(), None);
}

#[test]
fn dividers_are_as_the_manual_says() {
    for (code, divisor) in
        [(0x0, 2), (0x1, 4), (0x2, 8), (0x3, 16), (0x8, 32), (0x9, 64), (0xa, 128), (0xb, 1)]
    {
        let mut bench = Bench::new();
        bench.put(DIVIDE, code);
        bench.put(INITIAL_COUNT, 10);
        assert_eq!(bench.apic.deadline(), Some(bench.now + 10 * divisor));
    }
}

#[test]
fn the_timer_repeats() {
    let mut bench = Bench::new();
    bench.put(LVT, 0x2_00ec);
    bench.put(DIVIDE, 0xb);
    let start = bench.now;
    bench.put(INITIAL_COUNT, 300);
    assert_eq!(bench.pass(1000), [start + 300, start + 600, start + 900]);
    assert_eq!(bench.get(CURRENT_COUNT), 200);
    // Late: one interrupt, and the next at its place.
    bench.apic.advance(start + 100_050);
    assert_eq!(bench.apic.deadline(), Some(start + 100_200));
    bench.put(INITIAL_COUNT, 0);
    assert_eq!(bench.apic.deadline(), None);
}

#[test]
fn a_masked_timer_counts_silently() {
    let mut bench = Bench::new();
    bench.put(LVT, 0x1_00ec);
    bench.put(INITIAL_COUNT, 10);
    bench.pass(1000);
    bench.put(LVT, 0xec);
    assert_eq!(bench.apic.pending_vector(), None);
    assert_eq!(bench.get(CURRENT_COUNT), 0);
}

#[test]
fn a_new_divider_keeps_the_count() {
    let mut bench = Bench::new();
    bench.put(DIVIDE, 0xb);
    bench.put(INITIAL_COUNT, 1_000_000);
    bench.pass(900_000);
    bench.put(DIVIDE, 0xa);
    assert_eq!(bench.get(CURRENT_COUNT), 100_000);
    assert!(bench.apic.save().initial_count_load_time < 0);
    assert_eq!(bench.apic.deadline(), Some(bench.now + 12_800_000));
    let state = bench.apic.save();
    bench.apic.restore(&state).unwrap();
    assert_eq!(bench.get(CURRENT_COUNT), 100_000);
}

#[test]
fn from_periodic_to_one_shot_the_period_is_finished() {
    let mut bench = Bench::new();
    bench.put(LVT, 0x2_00ec);
    bench.put(DIVIDE, 0xb);
    let start = bench.now;
    bench.put(INITIAL_COUNT, 300);
    bench.pass(700);
    bench.put(LVT, 0xec);
    assert_eq!(bench.get(CURRENT_COUNT), 200);
    assert_eq!(bench.pass(10_000), [start + 900]);
}

#[test]
fn a_clock_that_does_not_divide_a_second_does_not_drift() {
    let mut bench = Bench { apic: Lapic::new(0, 66_666_667), now: 0 };
    bench.put(SPURIOUS_VECTOR, 0x1ff);
    bench.put(LVT, 0x2_00ec);
    bench.put(DIVIDE, 0xb);
    bench.put(INITIAL_COUNT, 1000);
    bench.apic.advance(1_000_000_000);
    // 66667 periods are 66667000 ticks: 1000004994.99... ns.
    assert_eq!(bench.apic.deadline(), Some(1_000_004_995));
}

#[test]
fn local_inputs_do_what_their_entries_say() {
    let mut bench = Bench::new();
    assert!(!bench.apic.accepts_pic());
    bench.put(0x350, 0x700);
    assert!(bench.apic.accepts_pic());
    bench.put(0x360, 0x400);
    bench.apic.set_lint(1, true);
    assert!(bench.apic.take_nmi());
    bench.apic.set_lint(1, true);
    assert!(!bench.apic.take_nmi());
    // LINT0 as a fixed edge.
    bench.put(0x350, 0x0031);
    assert!(!bench.apic.accepts_pic());
    bench.apic.set_lint(0, true);
    assert_eq!(bench.apic.acknowledge(), Some(0x31));
    bench.put(EOI, 0);
    assert_eq!(bench.apic.pending_vector(), None);
    // LINT0 as a level: it is up, hence asks at once, and again after each end.
    bench.put(0x350, 0x8031);
    assert_eq!(bench.apic.acknowledge(), Some(0x31));
    assert_eq!(bench.get(0x350), 0xc031);
    bench.put(EOI, 0);
    assert_eq!(bench.apic.take_eoi_broadcast(), Some(0x31));
    assert_eq!(bench.apic.acknowledge(), Some(0x31));
    bench.apic.set_lint(0, false);
    bench.put(EOI, 0);
    assert_eq!(bench.apic.acknowledge(), None);
    // Off altogether: the pins of an old processor.
    bench.apic.set_apic_base(bench.now, 0xfee0_0000).unwrap();
    assert!(bench.apic.accepts_pic());
    bench.apic.set_lint(1, false);
    bench.apic.set_lint(1, true);
    assert!(bench.apic.take_nmi());
}

#[test]
fn switching_it_off_masks_and_holds() {
    let mut bench = Bench::new();
    bench.put(LVT, 0xec);
    bench.apic.accept(0x50, false);
    bench.put(SPURIOUS_VECTOR, 0xff);
    assert_eq!(bench.get(LVT), 0x1_00ec);
    assert_eq!(bench.apic.pending_vector(), None);
    bench.put(SPURIOUS_VECTOR, 0x1ff);
    assert_eq!(bench.apic.pending_vector(), Some(0x50), "held, not lost");
    assert_eq!(bench.get(LVT), 0x1_00ec);
}

#[test]
fn the_base_register_takes_what_it_can() {
    let mut bench = Bench::new();
    for bad in [0xfee0_0901, 0xfee0_0b00, 0xfee0_0d00, 1 << 40 | 0xfee0_0900] {
        assert_eq!(bench.apic.set_apic_base(0, bad), Err(ApicBaseError(bad)));
        assert_eq!(bench.apic.apic_base(), 0xfee0_0900);
    }
    bench.apic.set_apic_base(0, 0xfee0_0800).unwrap();
    assert_eq!(bench.apic.apic_base(), 0xfee0_0900, "the flag is the hardware's");
    bench.apic.set_apic_base(0, 0xfee0_0000).unwrap();
    assert_eq!(bench.get(VERSION), 0xffff_ffff);
    bench.put(TASK_PRIORITY, 1);
    bench.apic.set_apic_base(0, 0xfee0_0800).unwrap();
    assert_eq!(bench.get(SPURIOUS_VECTOR), 0xff, "as after power-up");
    assert_eq!(bench.get(TASK_PRIORITY), 0);
}

#[test]
fn init_leaves_the_id_and_the_base() {
    let mut bench = Bench::new();
    bench.put(ID, 0x0700_0000);
    bench.put(LVT, 0x2_00ec);
    bench.put(INITIAL_COUNT, 10);
    bench.apic.accept(0x50, true);
    bench.apic.reset(true);
    assert_eq!(bench.get(ID), 0x0700_0000);
    assert_eq!(bench.get(SPURIOUS_VECTOR), 0xff);
    assert_eq!(bench.get(IRR + 0x20), 0);
    assert_eq!(bench.apic.deadline(), None);
    bench.apic.reset(false);
    assert_eq!(bench.apic.save(), Lapic::new(0, BUS_HZ).save());
}

#[test]
fn states_that_cannot_be_are_refused() {
    let mut bench = Bench::new();
    bench.put(LVT, 0x2_00ec);
    bench.put(INITIAL_COUNT, 100);
    let good = bench.apic.save();
    let wrong: [fn(&mut LapicState); 18] = [
        |state| state.apic_base |= 1,
        |state| state.apic_base &= !BASE_BOOTSTRAP,
        |state| state.spurious_vector |= 1 << 12,
        |state| state.spurious_vector = 0xff,
        |state| state.destination_format = 16,
        |state| state.isr[0] = 1,
        |state| state.irr[0] = 1 << 15,
        |state| state.lvt[5] |= 1 << 17,
        |state| state.lvt[4] |= LVT_REMOTE_IRR,
        |state| state.esr = 1,
        |state| state.errors = 1 << 8,
        |state| state.icr[0] |= 1 << 12,
        |state| state.icr[1] |= 1,
        |state| state.divide = 4,
        |state| state.initial_count = 0,
        |state| state.timer_next += 1,
        |state| state.timer_next = 0,
        |state| state.timer_armed = false,
    ];
    for (index, spoil) in wrong.iter().enumerate() {
        let mut state = good.clone();
        spoil(&mut state);
        assert!(bench.apic.restore(&state).is_err(), "{index}");
        assert_eq!(bench.apic.save(), good);
    }
}

impl Subject for Lapic {
    fn fresh() -> Self {
        Self::new(0, BUS_HZ)
    }

    fn access(&mut self, now: u64, what: usize, value: u64) -> Vec<u64> {
        const REGISTERS: [u64; 20] = [
            ID,
            TASK_PRIORITY,
            EOI,
            LOGICAL_DESTINATION,
            DESTINATION_FORMAT,
            SPURIOUS_VECTOR,
            ERROR_STATUS,
            ICR_LOW,
            ICR_HIGH,
            LVT,
            0x350,
            0x360,
            0x370,
            INITIAL_COUNT,
            CURRENT_COUNT,
            DIVIDE,
            0x3f0,
            IRR,
            INITIAL_COUNT,
            EOI,
        ];
        let register = REGISTERS[what / 16 % REGISTERS.len()];
        let mut data = [0; 4];
        let mut told = 0;
        match what % 16 {
            0..=5 => self.write(now, register, &(value as u32).to_le_bytes()),
            6 => self.read(now, register, &mut data),
            7 => self.write(now, SPURIOUS_VECTOR, &0x1ffu32.to_le_bytes()),
            8 | 9 => told = self.accept(value as u8, what & 16 == 0).into(),
            10 | 11 => told = self.acknowledge().unwrap_or(0).into(),
            12 => self.set_lint(what / 16 % 2, value & 1 != 0),
            13 => self.set_task_priority(value as u8),
            14 => told = self.set_apic_base(now, value & 0xfee0_0f00).is_ok().into(),
            // A periodic timer, which random writes seldom make.
            _ => self.write(now, LVT, &0x2_0040u32.to_le_bytes()),
        }
        let mut current = [0; 4];
        self.clone().read(now, CURRENT_COUNT, &mut current);
        let mut seen = vec![told];
        seen.extend([data, current].map(|word| u64::from(u32::from_le_bytes(word))));
        seen.extend([
            self.pending_vector().unwrap_or(0).into(),
            self.accepts_pic().into(),
            self.take_nmi().into(),
            self.take_eoi_broadcast().unwrap_or(0).into(),
            self.take_ipi().map_or(0, |ipi| 1 + u64::from(ipi.vector)),
        ]);
        seen
    }

    fn deadline(&self) -> Option<u64> {
        self.deadline()
    }

    fn advance(&mut self, now: u64) {
        self.advance(now);
    }

    fn sections(&self) -> Vec<SavedSection> {
        vec![SavedSection::encode("lapic", 0, &self.save())]
    }

    fn restore(&mut self, sections: &[SavedSection]) -> bool {
        sections[0].decode().is_ok_and(|state| self.restore(&state).is_ok())
    }
}

properties!(Lapic);
