//! The legacy interface: what QEMU 7.2's legacy slots show, as a test of the crate `qemu` compares.

use proptest::prelude::*;

use super::block::{MemoryDisk, SECTORS, header, request};
use super::*;

const NOTIFY_ON_EMPTY: u32 = 1 << 24;
const EVENTS: u32 = EVENT_INDEX as u32;

fn entropy() -> VirtioRng {
    VirtioRng::new(RngSource::seeded(1))
}

fn driver() -> Driver<VirtioRng> {
    Driver::legacy(entropy())
}

fn started(features: u32) -> Driver<VirtioRng> {
    Driver::started_legacy(entropy(), features)
}

fn disk(memory: &MemoryDisk) -> VirtioBlock {
    let config = BlockConfig {
        sectors: SECTORS,
        read_only: false,
        id: "disk0".to_owned(),
        kind: BlockKind::Qemu,
    };
    VirtioBlock::new(config, Box::new(memory.clone())).unwrap()
}

#[test]
fn a_slot_says_what_it_is() {
    let mut driver = driver();
    assert_eq!(driver.get(0x00), u32::from_le_bytes(*b"virt"));
    assert_eq!(driver.get(0x04), 1);
    assert_eq!(driver.get(0x08), 4);
    assert_eq!(driver.get(0x0c), u32::from_le_bytes(*b"QEMU"));
    assert_eq!(driver.offered(), 0x3900_0000);
    driver.set(0x14, 7);
    assert_eq!(driver.get(0x10), 0, "there is one word of features");
    assert_eq!(driver.get(0x34), 1024);
    assert_eq!((driver.get(0xb0), driver.get(0xb8)), (u32::MAX, 0));
    assert_eq!(driver.get(0x100), u32::MAX, "there is no configuration space");
    for register in [0x44, 0x80, 0x84, 0x90, 0xa4, 0xfc, 0x28, 0x38, 0x3c, 0x40] {
        assert_eq!(driver.get(register), 0, "{register:#x}");
    }
    driver.set(0x30, 1);
    driver.set(0x40, 5);
    assert_eq!((driver.get(0x34), driver.get(0x40)), (0, 0), "a queue that is not there");
    driver.set(0x30, 1024);
    assert_eq!(driver.slot.save().transport.queue_select, 1, "no number of a queue");

    let memory = MemoryDisk::new();
    let mut driver = Driver::legacy(disk(&memory));
    assert_eq!(driver.offered(), 0x3100_6ed4);
    assert_eq!((driver.get(0x100), driver.get(0x104)), (SECTORS as u32, 0));
    let mut last = [0; 1];
    driver.slot.read(0, 0x138, &mut last);
    assert_eq!(last, [1]);
    let mut across = [0; 2];
    driver.slot.read(0, 0x138, &mut across);
    assert_eq!(across, [0xff; 2]);

    let mut version = [0; 4];
    EmptySlot::read(Interface::Legacy, 4, &mut version);
    assert_eq!(version, [1, 0, 0, 0]);
}

#[test]
fn a_queue_lies_where_its_page_its_size_and_its_alignment_say() {
    let place = |steps: &[(u64, u32)]| {
        let mut driver = driver();
        for (register, value) in steps {
            driver.set(*register, *value);
        }
        let queue = driver.slot.save().transport.queues[0].clone();
        assert_eq!(driver.get(STATUS), 0);
        (queue.descriptor_table, queue.available_ring, queue.used_ring, queue.size)
    };
    // Nothing is chosen but the page: eight descriptors, in pages of one byte.
    assert_eq!(place(&[(0x40, 0x10000)]), (0x10000, 0x10080, 0x11000, 8));
    let usual = [(0x28, 4096), (0x38, 1024), (0x3c, 4096), (0x40, 0x20)];
    assert_eq!(place(&usual), (0x20000, 0x24000, 0x25000, 1024));
    let other = [(0x28, 8192), (0x38, 16), (0x3c, 64), (0x40, 0x10)];
    assert_eq!(place(&other), (0x20000, 0x20100, 0x20140, 16));
    // In any order, also with the queue in its place.
    let late = [(0x28, 4096), (0x40, 0x20), (0x38, 1024), (0x3c, 64), (0x3c, 4096)];
    assert_eq!(place(&late), place(&usual));
    // What cannot be is not heard.
    let ignored = [(0x38, 0), (0x38, 1025), (0x38, u32::MAX), (0x3c, 0), (0x44, 1), (0x80, 7)];
    assert_eq!(place(&[&usual[..], &ignored].concat()), place(&usual));
    // The room for `used_event` does not count.
    let small = [(0x28, 4096), (0x38, 2), (0x3c, 4), (0x40, 0x20)];
    assert_eq!(place(&small), (0x20000, 0x20020, 0x20028, 2));
    // A page size of zero is none, and one that is no power of two counts as its last bit.
    assert_eq!(place(&[(0x28, 4096), (0x28, 0), (0x40, 0x20000)]).0, 0x20000);
    assert_eq!(place(&[(0x28, 0x3000), (0x40, 0x20)]).0, 0x20000);
}

#[test]
fn the_page_is_read_in_the_size_of_now() {
    let mut driver = driver();
    driver.set(0x28, 4096);
    driver.set(0x40, 0x10);
    assert_eq!(driver.get(0x40), 0x10);
    driver.set(0x28, 8192);
    assert_eq!(driver.get(0x40), 8);
    driver.set(0x28, 0);
    assert_eq!(driver.get(0x40), 0x10000);
}

#[test]
fn features_are_taken_as_they_are_written() {
    let mut driver = driver();
    driver.set(0x20, u32::MAX);
    assert_eq!(driver.slot.save().transport.driver_features, 0x3900_0000);
    driver.set(0x20, 1 << 28);
    driver.set(0x24, 1);
    driver.set(0x20, u32::MAX);
    assert_eq!(driver.slot.save().transport.driver_features, 1 << 28);
    driver.set(0x24, 0);
    driver.set(STATUS, 8);
    driver.set(0x20, 0);
    assert_eq!(driver.slot.save().transport.driver_features, 1 << 28);
}

#[test]
fn the_status_is_what_was_written() {
    let mut driver = driver();
    for status in [1, 3, 0xff, 0x40, 5, 0x1c] {
        driver.set(STATUS, status);
        assert_eq!(driver.get(STATUS), status);
    }
    driver.set(STATUS, 0x100);
    assert_eq!(driver.get(STATUS), 0);
}

#[test]
fn a_status_or_a_page_of_zero_resets_the_device() {
    for register in [STATUS, 0x40] {
        let mut driver = started(EVENTS);
        driver.submit(0, &[Part::Take(4)]);
        driver.notify(0);
        driver.set(0x24, 1);
        driver.set(0x3c, 64);
        driver.set(register, 0);
        assert!(!driver.slot.irq_level());
        let VirtioRngState { transport, legacy, .. } = driver.slot.save();
        let legacy = legacy.unwrap();
        assert_eq!((transport.status, transport.driver_features), (0, 0));
        assert_eq!(transport.queues, [QueueState { size: 8, ..QueueState::default() }]);
        assert!(!legacy.started && !legacy.broken);
        // These stay, as in QEMU.
        assert_eq!((legacy.page_shift, legacy.alignments), (12, vec![64]));
        assert_eq!(transport.driver_features_select, 1);
    }
}

#[test]
fn requests_are_served_before_the_driver_says_that_it_runs() {
    let mut driver = driver();
    driver.set(0x28, 4096);
    driver.notify(0);
    assert!(!driver.slot.save().legacy.unwrap().started, "there is no queue yet");
    driver.place_queues();
    driver.submit(0, &[Part::Take(4)]);
    driver.notify(1);
    driver.notify(0);
    assert_eq!(driver.take_used(0), [(0, 4)]);
    assert_eq!(driver.take_interrupt(), 1);
    assert_eq!(driver.get(STATUS), 0);
    assert!(driver.slot.save().legacy.unwrap().started);
    driver = driver.moved_legacy(entropy());
    driver.set(STATUS, 7);
    driver.set(STATUS, 3);
    assert!(!driver.slot.save().legacy.unwrap().started);
}

#[test]
fn the_driver_can_be_told_when_nothing_is_left() {
    for (features, told) in [(0, 0), (NOTIFY_ON_EMPTY, 1), (NOTIFY_ON_EMPTY | EVENTS, 1)] {
        let mut driver = started(features);
        // No interrupts, and an index that is far away.
        driver.ram.write(driver.rings[0].available, &NO_INTERRUPT.to_le_bytes()).unwrap();
        driver.ram.write(driver.rings[0].available + 4 + 32, &99u16.to_le_bytes()).unwrap();
        driver.submit(0, &[Part::Take(4)]);
        driver.notify(0);
        assert_eq!(driver.take_used(0).len(), 1);
        assert_eq!(driver.take_interrupt(), told, "{features:#x}");
    }
}

#[test]
fn event_indices_say_when_to_tell() {
    let mut driver = started(EVENTS);
    let ring = driver.rings[0].clone();
    driver.ram.write(ring.available + 4 + 2 * 16, &2u16.to_le_bytes()).unwrap();
    for count in 1..=5u16 {
        driver.submit(0, &[Part::Take(4)]);
        driver.notify(0);
        assert_eq!(driver.load16(ring.used + 4 + 8 * 16), count);
        assert_eq!(driver.take_interrupt(), u32::from(count == 3), "buffer {count}");
        driver = driver.moved_legacy(entropy());
    }
}

#[test]
fn a_driver_that_breaks_a_rule_is_not_told_and_not_served() {
    let faults: [fn(&mut Driver<VirtioRng>); 6] = [
        |driver| driver.set(0x40, 0xf_ffff),
        |driver| driver.set(0x38, 12),
        |driver| driver.set(0x3c, 1 << 31),
        |driver| {
            driver.set(0x38, 1);
            driver.set(0x3c, 2);
        },
        |driver| {
            driver.set(0x28, 1 << 31);
            driver.set(0x40, u32::MAX);
        },
        |driver| {
            driver.descriptor(driver.rings[0].table, BUFFERS, 4, NEXT | WRITE, 0);
            driver.offer(0, 0);
            driver.notify(0);
        },
    ];
    for (index, fault) in faults.iter().enumerate() {
        let mut driver = started(0);
        fault(&mut driver);
        assert!(driver.slot.fault().is_some(), "fault {index}");
        let page = driver.get(0x40);
        driver = driver.moved_legacy(entropy());
        assert_eq!((driver.get(0x40), driver.get(STATUS)), (page, 7), "fault {index}");
        driver.set(0x28, 4096);
        driver.set(0x3c, 4096);
        driver.set(0x38, 16);
        driver.set(0x40, 0x10);
        driver.submit(0, &[Part::Take(4)]);
        driver.notify(0);
        assert!(driver.take_used(0).is_empty() && !driver.slot.irq_level(), "fault {index}");
        driver.set(STATUS, 0);
        assert!(driver.slot.fault().is_none() && !driver.slot.save().legacy.unwrap().broken);
    }
}

/// What Linux 6.1 asks of QEMU's disk.
const LINUX: u32 = 0x3000_6e54;

#[test]
fn a_disk_keeps_its_requests_over_moves() {
    let memory = MemoryDisk::new();
    let mut driver = Driver::started_legacy(disk(&memory), LINUX);
    for round in 0..100u64 {
        let sector = round % 7;
        let text = [round as u8; 512];
        // Header, data and status each in a buffer of its own, as legacy drivers lay them out.
        driver
            .ram
            .write(driver.rings[0].available + 4 + 32, &(2 * round as u16).to_le_bytes())
            .unwrap();
        let parts = [Part::Give(&header(1, sector)), Part::Give(&text), Part::Take(1)];
        assert_eq!(request(&mut driver, &parts).0, 0);
        assert_eq!(memory.sector(sector), text);
        driver = driver.moved_legacy(disk(&memory));
        driver
            .ram
            .write(driver.rings[0].available + 4 + 32, &(2 * round as u16 + 1).to_le_bytes())
            .unwrap();
        let parts = [Part::Give(&header(0, sector)), Part::Take(512), Part::Take(1)];
        let (status, used, places) = request(&mut driver, &parts);
        assert_eq!((status, used), (0, 513));
        assert_eq!(driver.bytes(places[1], 512), text);
        driver.next_buffer = BUFFERS;
    }
}

#[test]
fn a_disk_takes_any_layout_and_no_scsi_command() {
    let memory = MemoryDisk::new();
    let mut driver = Driver::started_legacy(disk(&memory), 0);
    let [head, data] = [header(1, 3), [7; 16]];
    let whole = [&head[..], &data.repeat(32)].concat();
    let parts = [Part::Give(&whole[..5]), Part::Give(&whole[5..]), Part::Take(1)];
    assert_eq!(request(&mut driver, &parts).0, 0);
    assert_eq!(memory.sector(3), data.repeat(32));
    let parts = [Part::Give(&header(2, 0)), Part::Give(&data), Part::Take(16), Part::Take(1)];
    assert_eq!(request(&mut driver, &parts).0, 2);
    let parts = [Part::Give(&header(8, 0)), Part::Take(20), Part::Take(1)];
    let (status, _, places) = request(&mut driver, &parts);
    assert_eq!((status, driver.bytes(places[1], 6)), (0, b"disk0\0".to_vec()));
}

#[test]
fn writes_of_a_driver_without_flushes_are_not_cached() {
    // Flush, and setting the cache.
    for (features, cached) in [(0, 0), (1 << 9, 1), (1 << 11, 1), (1 << 9 | 1 << 11, 1)] {
        let memory = MemoryDisk::new();
        let mut driver = Driver::started_legacy(disk(&memory), features);
        let writeback = |driver: &Driver<VirtioBlock>| driver.slot.save().transport.config[32];
        assert_eq!(writeback(&driver), cached, "{features:#x}");
        driver = driver.moved_legacy(disk(&memory));
        let parts = [Part::Give(&header(1, 0)), Part::Give(&[1; 512]), Part::Take(1)];
        assert_eq!(request(&mut driver, &parts).0, 0);
        assert_eq!(memory.flushes(), usize::from(cached == 0), "{features:#x}");
        driver.set(STATUS, 0);
        assert_eq!(writeback(&driver), 1);
    }
}

#[test]
fn requests_that_were_left_are_served_after_a_move() {
    let mut driver = started(0);
    driver.submit(0, &[Part::Take(4)]);
    let mut state = driver.slot.save();
    assert_eq!(driver.slot.deadline(), None);
    state.transport.queues[0].unfinished = true;
    driver.slot.restore(&state).unwrap();
    assert_eq!(driver.slot.deadline(), Some(0));
    driver.slot.advance(0);
    assert_eq!(driver.take_used(0), [(0, 4)]);
    assert_eq!(driver.slot.deadline(), None);
}

#[test]
fn states_that_cannot_be_are_refused_and_change_nothing() {
    let mut source = started(EVENTS);
    source.submit(0, &[Part::Take(4)]);
    source.notify(0);
    let good = source.slot.save();
    type Change = fn(&mut VirtioRngState);
    fn legacy(state: &mut VirtioRngState) -> &mut VirtioLegacyState {
        state.legacy.as_mut().unwrap()
    }
    let changes: [(Change, &str); 25] = [
        (|state| state.legacy = None, "here it has the legacy one"),
        (|state| state.transport.device_features ^= 1, "features"),
        (|state| state.transport.driver_features |= 1 << 32, "were not all offered"),
        (|state| state.transport.driver_features |= 1, "were not all offered"),
        (|state| state.transport.device_features_select = 2, "a register is beyond"),
        (|state| state.transport.driver_features_select = 2, "a register is beyond"),
        (|state| state.transport.config_generation = 1, "a register is beyond"),
        (|state| state.transport.queue_select = 1024, "queue 1024 cannot be selected"),
        (|state| state.transport.interrupt_status = 4, "interrupt status"),
        (|state| state.transport.config.push(0), "configuration space"),
        (|state| state.transport.queues.clear(), "0 queues, here there are 1"),
        (|state| legacy(state).page_shift = 32, "page shift 32"),
        (|state| legacy(state).started = false, "the device is not in use"),
        (|state| legacy(state).alignments.clear(), "has no alignment"),
        (|state| legacy(state).alignments.push(4096), "has no alignment"),
        (|state| legacy(state).alignments[0] = 0, "has no alignment"),
        (|state| legacy(state).alignments[0] = 64, "where they cannot be"),
        (|state| state.transport.queues[0].size = 0, "a size that it cannot have"),
        (|state| state.transport.queues[0].size = 2048, "a size that it cannot have"),
        (|state| state.transport.queues[0].size = 8, "where they cannot be"),
        (|state| state.transport.queues[0].used_ring += 4096, "where they cannot be"),
        (|state| state.transport.queues[0].ready = false, "has a place and is not in use"),
        (|state| state.transport.queues[0].descriptor_table = 0, "is in use and has no place"),
        (|state| state.transport.queues[0].next_available = 7, "requests in flight"),
        (
            |state| {
                legacy(state).broken = true;
                state.transport.queues[0].unfinished = true;
            },
            "is idle and has work left",
        ),
    ];
    let mut slot = driver().slot;
    let before = slot.save();
    for (index, (change, words)) in changes.iter().enumerate() {
        let mut state = good.clone();
        change(&mut state);
        let refusal = slot.restore(&state).expect_err(&format!("change {index}")).to_string();
        assert!(refusal.contains("virtio-mmio@00000000feb02e00/virtio-rng"), "{refusal}");
        assert!(refusal.contains(words), "change {index}: {refusal}");
        assert_eq!(slot.save(), before);
    }
    let mut modern = Driver::idle(entropy()).slot;
    let mut state = modern.save();
    state.legacy.clone_from(&good.legacy);
    let refusal = modern.restore(&state).unwrap_err().to_string();
    assert!(refusal.contains("here it has the modern one"), "{refusal}");
    slot.restore(&good).unwrap();
    assert_eq!(slot.save(), good);
}

/// The layout of the subsection is a promise: this fails when it changes without a new version.
#[test]
fn the_subsection_keeps_its_layout() {
    let section = started(0).slot.save_section();
    let expected = [
        b"\x05\x11virtio-rng/legacy".as_slice(),
        &[0, 0, 0, 1],
        // Page shift, broken, started, one alignment.
        &[0, 0, 0, 12],
        &[0, 1],
        &[0, 0, 0, 1, 0, 0, 16, 0],
    ]
    .concat();
    assert_eq!(section.data[section.data.len() - expected.len()..], expected);
    assert_eq!(section.version, 1);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a driver does, the device is in a state that another one can take.
    #[test]
    fn every_state_can_be_restored(
        steps in prop::collection::vec((
            prop_oneof![
                Just(0x14_u64), Just(0x20), Just(0x24), Just(0x28), Just(0x30), Just(0x38),
                Just(0x3c), Just(0x40), Just(0x44), Just(0x50), Just(0x64), Just(0x70), Just(0x80),
            ],
            prop_oneof![
                0_u32..20, Just(64), Just(1023), Just(1024), Just(4096), 0x10_u32..0x120,
                (0_u32..32).prop_map(|bit| 1 << bit), any::<u32>(),
            ],
        ), 0..40),
        noise in prop::collection::vec((0_u64..0x2000, any::<u16>()), 0..16),
    ) {
        let mut driver = driver();
        for (place, value) in noise {
            driver.ram.write(0x10000 + 2 * place, &value.to_le_bytes()).unwrap();
        }
        for (register, value) in steps {
            driver.set(register, value);
        }
        driver.moved_legacy(entropy());
    }
}
