//! The legacy virtio slots of a real QEMU and Ferry's, driven side by side: what a driver reads,
//! what it finds in its rings, and the states of both.
//!
//! Needs Debian's `qemu-system-x86`.

mod bus;
#[path = "../common/mod.rs"]
mod common;
mod pair;

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bus::{PATIENCE, Qemu, installed};
use common::{Store, microvm, receive};
use devices::virtio::{VirtioBlockState, VirtioRngState, VirtioSlot};
use machine::{MachineConfig, VirtioInterface};
use pair::{BLOCK, BUFFERS, Driver, EMPTY, MEMORY_BYTES, Pair, RNG, SLOTS, folder, header, ours};
use qemu::layout::layouts;
use qemu::send::Sender;
use qemu::translate::{self, Received, from_qemu, to_qemu};
use vmstate::{SavedSection, VmState};

/// The host's wall clock, in nanoseconds since 1970.
fn wall_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// Numbers that are the same in every run (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

const REGISTERS: [u64; 28] = [
    0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x18, 0x20, 0x24, 0x28, 0x30, 0x34, 0x38, 0x3c, 0x40, 0x44,
    0x48, 0x50, 0x60, 0x64, 0x70, 0x80, 0x84, 0xa4, 0xb0, 0xb4, 0xb8, 0xfc,
];

/// Everything that a driver can read of the slots. What QEMU makes of its image is left out:
/// geometry and topology of the disk.
fn compare(pair: &mut Pair, what: &str) {
    for slot in [BLOCK, RNG, EMPTY] {
        for register in REGISTERS {
            pair.same::<4>(slot, register, what);
        }
        for register in [0x100, 0x104, 0x108, 0x10c, 0x114, 0x120, 0x124, 0x134, 0x138] {
            pair.same::<4>(slot, register, what);
        }
    }
}

#[test]
fn a_driver_reads_in_both_what_it_reads_in_qemu() {
    if !installed() {
        return;
    }
    let mut pair = Pair::new("registers");
    compare(&mut pair, "at reset");
    for register in [0x00, 0x04, 0x10, 0x70, 0x138, 0x139, 0x1ff] {
        pair.same::<1>(BLOCK, register, "a byte");
    }
    for register in [0x02, 0x70, 0x136, 0x138, 0x1fe] {
        pair.same::<2>(BLOCK, register, "two bytes");
    }
    let mut numbers = Numbers(0x5eed);
    for step in 0..1500 {
        let slot = numbers.of(&[BLOCK, RNG]);
        let (register, value) = match numbers.below(12) {
            0 => (0x14, numbers.of(&[0, 1, 2, u32::MAX])),
            1 => (0x24, numbers.of(&[0, 0, 1, 7])),
            2 => (0x20, numbers.of(&[0, u32::MAX, 0x3000_6e54, 1 << 29, 0x2100_0000])),
            3 => (0x28, numbers.of(&[0, 1, 4096, 8192, 0x3000, 1 << 31])),
            4 => (0x30, numbers.of(&[0, 0, 0, 1, 1023, 1024, u32::MAX])),
            5 => (0x38, numbers.of(&[0, 8, 256, 1024, 1025, u32::MAX])),
            6 => (0x3c, numbers.of(&[0, 64, 4096, 1 << 16])),
            7 => (0x40, numbers.of(&[0, 0x100, 0x234, 0x3000])),
            8 => (0x70, numbers.below(256) as u32),
            9 => (0x70, numbers.of(&[0, 1, 3, 7, 7, 0xf, 0x40])),
            10 => (0x50, numbers.of(&[0, 1, 1023, 1024, u32::MAX])),
            _ => (numbers.of(&REGISTERS), numbers.below(1 << 32) as u32),
        };
        // Rings anywhere would hold anything: a page of one byte, or a far one, is for the others.
        let page_bytes = 1_u64 << pair.rng.save().legacy.unwrap().page_shift;
        let far = |value: u32| u64::from(value) * page_bytes >= MEMORY_BYTES as u64 / 2;
        if register == 0x40 && value != 0 && (value % 4 != 0 || far(value)) {
            continue;
        }
        pair.set(slot, register, value);
        for register in REGISTERS {
            let what = format!("step {step}, {register:#x} <- {value:#x}");
            pair.same::<4>(slot, register, &what);
        }
    }
    compare(&mut pair, "at the end");
}

#[test]
fn requests_have_the_same_answers_as_in_qemu() {
    if !installed() {
        return;
    }
    let mut pair = Pair::new("requests");
    let mut numbers = Numbers(77);
    let (events, on_empty) = (1 << 29, 1 << 24);
    // A driver may use a disk before it says that it does.
    for (features, status) in [(0, 7), (0, 3), (events, 7), (on_empty, 7), (events | on_empty, 3)] {
        let mut driver = Driver::set_up(&mut pair, BLOCK, features, status);
        for round in 0..40 {
            let sector = numbers.of(&[0, 1, 2, 3, 8191]);
            let text = [numbers.below(256) as u8; 512];
            // What differs between two disks' answers to a sector that is not there is how many
            // bytes of it were written before they found out.
            let parts: &[(&[u8], bool)] = match numbers.below(5) {
                0 | 1 => &[(&header(1, sector), false), (&text, false), (&[9], true)],
                2 => &[(&header(0, sector), false), (&[9; 512], true), (&[9], true)],
                3 => &[(&header(4, 0), false), (&[9], true)],
                _ => &[
                    (&header(0, sector)[..7], false),
                    (&header(0, sector)[7..], false),
                    (&[9; 512], true),
                    (&[9], true),
                ],
            };
            // QEMU interrupts after the first answer in any case.
            let event = match round {
                0 => driver.next,
                _ => driver.next.wrapping_add(numbers.below(3) as u16).wrapping_sub(1),
            };
            driver.request(&mut pair, numbers.below(2) as u16, event, parts);
            let what = format!("features {features:#x}, round {round}");
            driver.answered(&mut pair, &what);
            for part in 0..parts.len() as u64 {
                pair.settle(BUFFERS + part * 0x1000, 512);
            }
        }
    }
    // Bytes from an entropy source are not the same.
    let mut driver = Driver::set_up(&mut pair, RNG, events, 7);
    for round in 0..20 {
        driver.request(&mut pair, 0, round, &[(&[0; 64], true)]);
        driver.answered(&mut pair, "entropy");
        let (theirs, ours) = pair.loaded(BUFFERS, 64);
        assert!(theirs != [0; 64] && ours != [0; 64]);
    }
}

/// QEMU's state, in Ferry's terms.
fn translated(stream: &[u8], config: &MachineConfig) -> (Store, Result<Received, String>) {
    let mut memory = Store::default();
    let sections = receive(stream, &layouts(config), &mut memory).unwrap();
    let received = from_qemu(&sections, config, wall_ns(), &|ring| memory.used_index(ring));
    (memory, received.map_err(|error| error.to_string()))
}

fn state<T: VmState>(sections: &[SavedSection], name: &str) -> T {
    let found = sections.iter().find(|of| of.name.ends_with(name)).unwrap();
    found.decode().unwrap()
}

/// A stream with these sections for QEMU, with memory as it came from there.
fn written(
    folder: &Path,
    memory: &Store,
    sections: &[SavedSection],
    config: &MachineConfig,
    received: &Received,
) -> PathBuf {
    let now = translate::Instant { virtual_ns: received.virtual_ns, wall_ns: wall_ns() };
    let sections = to_qemu(sections, config, now, received.running).unwrap();
    let mut sender = Sender::new(Vec::new()).unwrap();
    sender.begin_memory(&memory.blocks).unwrap();
    sender.begin_round(true).unwrap();
    for ((block, offset), content) in &memory.pages {
        sender.page(*block, *offset, content).unwrap();
    }
    sender.end_round().unwrap();
    sender.sections(&sections, &layouts(config)).unwrap();
    let file = folder.join("moved");
    std::fs::write(&file, sender.finish().unwrap()).unwrap();
    file
}

/// What the two have been told makes the same states, and each goes on where the other was.
#[test]
fn a_state_is_the_same_in_both_and_goes_both_ways() {
    if !installed() {
        return;
    }
    let config = microvm("reset");
    let mut pair = Pair::new("states");
    type Prepare = fn(&mut Pair) -> Vec<Driver>;
    let cases: [(&str, Prepare); 6] = [
        ("both run", |pair| {
            let mut block = Driver::set_up(pair, BLOCK, 1 << 29, 7);
            let mut rng = Driver::set_up(pair, RNG, 0, 7);
            for event in [0, 9, 9] {
                block.request(pair, 0, event, &[(&header(4, 0), false), (&[9], true)]);
                block.answered(pair, "before");
                rng.request(pair, 0, 0, &[(&[0; 8], true)]);
                rng.answered(pair, "before");
            }
            vec![block, rng]
        }),
        ("an interrupt is not acknowledged", |pair| {
            let mut block = Driver::set_up(pair, BLOCK, 0, 7);
            block.request(pair, 0, 0, &[(&header(4, 0), false), (&[9], true)]);
            pair.settle(block.used() + 2, 2);
            block.interrupted(pair, "before");
            vec![block]
        }),
        ("a driver has broken a rule", |pair| {
            let mut block = Driver::set_up(pair, BLOCK, 0, 7);
            // A request with no place for its status, and one that is not looked at any more.
            block.request(pair, 0, 0, &[(&header(4, 0), false)]);
            block.request(pair, 0, 0, &[(&header(4, 0), false), (&[9], true)]);
            Vec::new()
        }),
        ("a disk is in use before the driver says so", |pair| {
            let mut block = Driver::set_up(pair, BLOCK, 1 << 24, 3);
            block.request(pair, 0, 0, &[(&header(4, 0), false), (&[9], true)]);
            block.answered(pair, "before");
            vec![block]
        }),
        ("half set up, with odd registers", |pair| {
            for (register, value) in
                [(0x28, 8192), (0x70, 0xb3), (0x14, 5), (0x24, 1), (0x30, 7), (0x3c, 128)]
            {
                pair.set(RNG, register, value);
                pair.set(BLOCK, register, value);
            }
            pair.set(RNG, 0x30, 0);
            pair.set(RNG, 0x38, 32);
            pair.set(RNG, 0x3c, 64);
            Vec::new()
        }),
        ("after a reset", |pair| {
            for slot in [BLOCK, RNG] {
                Driver::set_up(pair, slot, 1 << 29, 7);
                pair.set(slot, 0x70, 0);
            }
            Vec::new()
        }),
    ];
    for (name, prepare) in cases {
        let mut drivers = prepare(&mut pair);
        // QEMU sends the configuration space as it was read last.
        pair.get::<4>(BLOCK, 0x100);
        let (memory, received) = translated(&pair.qemu.save(), &config);
        let received = received.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut block: VirtioBlockState = state(&received.sections, "virtio-blk");
        let mut rng: VirtioRngState = state(&received.sections, "virtio-rng");
        for transport in [&mut block.transport, &mut rng.transport] {
            // What QEMU looks at again is looked at here.
            transport.queues[0].unfinished = false;
        }
        let mut expected = pair.block.save();
        for state in [&mut block, &mut expected] {
            // What QEMU makes of its image.
            state.transport.config[16..20].fill(0);
            state.transport.config[24..32].fill(0);
        }
        if block.legacy.as_ref().is_some_and(|legacy| legacy.broken) {
            // Nobody looks at a queue any more.
            block.transport.queues.clone_from(&expected.transport.queues);
        }
        assert_eq!(block, expected, "{name}");
        assert_eq!(rng, pair.rng.save(), "{name}");

        // Here: a device that was saved there.
        let (mut our_block, mut our_rng) = ours(&pair.folder, &pair.ram);
        for section in &received.sections {
            if section.name == our_block.section_name() {
                our_block.restore_section(section).unwrap();
            } else if section.name == our_rng.section_name() {
                our_rng.restore_section(section).unwrap();
            }
        }
        our_block.advance(0);
        our_rng.advance(0);
        (pair.block, pair.rng) = (our_block, our_rng);

        // There: a device that was saved here.
        let mut sections = received.sections.clone();
        for section in &mut sections {
            if section.name == pair.block.section_name() {
                *section = pair.block.save_section();
            } else if section.name == pair.rng.section_name() {
                *section = pair.rng.save_section();
            }
        }
        let file = written(&pair.folder, &memory, &sections, &config, &received);
        pair.qemu = Qemu::start(&pair.folder, VirtioInterface::Legacy, Some(&file));
        compare(&mut pair, name);
        for driver in &mut drivers {
            pair.set(driver.slot, 0x64, 1);
            let parts: &[(&[u8], bool)] = match driver.slot {
                BLOCK => &[(&header(8, 0), false), (&[9; 20], true), (&[9], true)],
                _ => &[(&[0; 8], true)],
            };
            driver.request(&mut pair, 0, driver.next, parts);
            driver.answered(&mut pair, name);
        }
        for slot in [BLOCK, RNG] {
            pair.set(slot, 0x70, 0);
        }
        compare(&mut pair, name);
    }
}

#[test]
fn qemu_offers_the_features_that_it_is_said_to() {
    if !installed() {
        return;
    }
    for (interface, block, rng) in [
        (VirtioInterface::Legacy, translate::BLOCK_LEGACY_FEATURES, translate::RNG_LEGACY_FEATURES),
        (VirtioInterface::Modern, translate::BLOCK_FEATURES, translate::RNG_FEATURES),
    ] {
        let folder = folder("features");
        let mut qemu = Qemu::start(&folder, interface, None);
        for (slot, features) in [(BLOCK, block), (RNG, rng)] {
            for (word, right) in [(0, features as u32), (1, (features >> 32) as u32)] {
                qemu.bus(&format!("writel {:#x} {word}", SLOTS[slot] + 0x14));
                let mut found = [0; 4];
                qemu.read(SLOTS[slot] + 0x10, &mut found);
                assert_eq!(u32::from_le_bytes(found), right, "{interface} {slot} {word}");
            }
        }
        drop(qemu);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

/// A driver of virtio 1 reads that its device needs a reset, wherever it goes on.
#[test]
fn a_slot_that_needs_a_reset_says_so_after_a_move() {
    if !installed() {
        return;
    }
    let folder = folder("broken");
    let mut qemu = Qemu::start(&folder, VirtioInterface::Modern, None);
    let slot = SLOTS[BLOCK];
    let status = |qemu: &mut Qemu| {
        let mut found = [0; 4];
        qemu.read(slot + 0x70, &mut found);
        u32::from_le_bytes(found)
    };
    let rings = [0x10_0000_u64, 0x10_1000, 0x10_2000];
    for (address, bytes) in [
        // A request of one buffer, which has no place for its status.
        (rings[0], &[&BUFFERS.to_le_bytes()[..], &[16, 0, 0, 0, 0, 0, 0, 0]].concat()[..]),
        (rings[1], &[0, 0, 1, 0, 0, 0]),
    ] {
        qemu.store(address, bytes);
    }
    let [descriptors, available, used] = rings.map(|ring| ring as u32);
    for (register, value) in [
        (0x70, 1),
        (0x70, 3),
        (0x24, 1),
        (0x20, 1),
        (0x70, 0xb),
        (0x38, 64),
        (0x80, descriptors),
        (0x90, available),
        (0xa0, used),
        (0x44, 1),
        (0x70, 0xf),
        (0x50, 0),
    ] {
        qemu.bus(&format!("writel {:#x} {value:#x}", slot + register));
    }
    let end = Instant::now() + PATIENCE;
    while status(&mut qemu) != 0x4f {
        assert!(Instant::now() < end, "status {:#x}", status(&mut qemu));
    }
    let mut config = microvm("reset");
    config.virtio_interface = VirtioInterface::Modern;
    let (memory, received) = translated(&qemu.save(), &config);
    let received = received.unwrap();
    let block: VirtioBlockState = state(&received.sections, "virtio-blk");
    assert_eq!((block.transport.status, block.transport.interrupt_status), (0x4f, 3));
    let file = written(&folder, &memory, &received.sections, &config, &received);
    drop(qemu);
    let mut qemu = Qemu::start(&folder, VirtioInterface::Modern, Some(&file));
    assert_eq!(status(&mut qemu), 0x4f);
    let (_, again) = translated(&qemu.save(), &config);
    assert_eq!(state::<VirtioBlockState>(&again.unwrap().sections, "virtio-blk"), block);
    drop(qemu);
    std::fs::remove_dir_all(&folder).unwrap();
}
