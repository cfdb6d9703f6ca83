//! Registers, status, features and queues of the transport.

use super::*;

fn driver() -> Driver<VirtioRng> {
    Driver::idle(VirtioRng::new(RngSource::seeded(1)))
}

fn started(features: u64) -> Driver<VirtioRng> {
    Driver::started(VirtioRng::new(RngSource::seeded(1)), features)
}

#[test]
fn a_slot_says_what_it_is() {
    let mut driver = driver();
    assert_eq!(driver.get(0x00), u32::from_le_bytes(*b"virt"));
    assert_eq!(driver.get(0x04), 2);
    assert_eq!(driver.get(0x08), 4);
    assert_eq!(driver.get(0x0c), u32::from_le_bytes(*b"QEMU"));
    assert_eq!(driver.offered(), VERSION_1 | EVENT_INDEX | 1 << 28);
    driver.set(0x14, 2);
    assert_eq!(driver.get(0x10), 0);
    assert_eq!((driver.get(0xb0), driver.get(0xbc)), (u32::MAX, u32::MAX), "no shared memory");
    assert_eq!(driver.get(0xfc), 0);
    assert_eq!(driver.slot.section_name(), "virtio-mmio@00000000feb02e00/virtio-rng");
    for length in [1, 2, 8] {
        let mut part = vec![0xee; length];
        driver.slot.read(0, 0, &mut part);
        assert_eq!(part, vec![0; length], "registers are not read in parts");
    }
    driver.set(0x30, 1);
    assert_eq!((driver.get(0x34), driver.get(0x44)), (0, 0), "a queue that is not there");
}

#[test]
fn an_empty_slot_has_no_device() {
    let read = |offset| {
        let mut bytes = [0xee; 4];
        EmptySlot::read(Interface::Modern, offset, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    assert_eq!([read(0), read(4), read(8)], [u32::from_le_bytes(*b"virt"), 2, 0]);
    let mut part = [0xee; 2];
    EmptySlot::read(Interface::Modern, 0, &mut part);
    assert_eq!(part, [0; 2]);
}

#[test]
fn features_are_agreed_on_or_not() {
    let mut driver = driver();
    driver.set(STATUS, 3);
    driver.set(0x20, 0);
    driver.set(STATUS, 0xb);
    assert_eq!(driver.get(STATUS), 3, "a driver of the legacy interface");
    driver.set(0x24, 1);
    driver.set(0x20, 1 | 1 << 1);
    driver.set(STATUS, 0xb);
    assert_eq!(driver.get(STATUS), 3, "a feature that is not offered");
    driver.set(STATUS, 0xf);
    assert_eq!(driver.get(STATUS), 3, "no start without agreement");
    driver.set(0x20, 1);
    driver.set(STATUS, 0xb);
    assert_eq!(driver.get(STATUS), 0xb);
    driver.set(0x20, 3);
    driver.set(STATUS, 1);
    assert_eq!(driver.get(STATUS), 0xb, "bits and features stay");
    assert_eq!(driver.slot.save().transport.driver_features, VERSION_1);
    driver.set(STATUS, 0x8b);
    assert_eq!(driver.get(STATUS), 0x8b, "the driver may give up");
    driver.set(STATUS, 0);
    assert_eq!(driver.get(STATUS), 0);
    assert_eq!(driver.slot.save().transport.driver_features, 0);
}

#[test]
fn queues_are_served_only_while_the_driver_runs() {
    let mut driver = driver();
    driver.agree(0);
    driver.set_up_queues();
    driver.submit(0, &[Part::Take(4)]);
    driver.notify(0);
    assert!(driver.take_used(0).is_empty());
    assert!(!driver.slot.irq_level());
    driver.set(STATUS, 0xf);
    driver.notify(7);
    assert!(driver.take_used(0).is_empty());
    driver.notify(0);
    assert_eq!(driver.take_used(0), [(0, 4)]);
    assert_eq!(driver.take_interrupt(), 1);
    driver.set(0x44, 0);
    assert_eq!(driver.get(0x44), 0);
    driver.submit(0, &[Part::Take(4)]);
    driver.notify(0);
    assert!(driver.take_used(0).is_empty(), "a queue that was taken back");
    driver.set(0x44, 1);
    driver.notify(0);
    assert_eq!(driver.take_used(0).len(), 1, "and goes on where it was");
}

#[test]
fn a_queue_in_use_is_not_set_up_anew() {
    let mut driver = started(0);
    let before = driver.slot.save();
    for (register, value) in [(0x38, 8), (0x80, 0), (0x84, 1), (0x90, 0), (0xa0, 0)] {
        driver.set(register, value);
    }
    assert_eq!(driver.slot.save(), before);
}

#[test]
fn queues_set_up_wrongly_need_a_reset() {
    let wrong = [
        (0x38, 0),
        (0x38, 3),
        (0x38, 512),
        (0x38, 0x1_0010),
        (0x80, 0x10008),
        (0x90, 0x11001),
        (0x90, 0),
        (0xa0, 0x12002),
        (0x84, 1),
        (0x94, 0xffff_ffff),
        (0xa0, 0xffffc),
    ];
    for (register, value) in wrong {
        let mut driver = driver();
        driver.agree(0);
        driver.set_up_queues();
        driver.set(0x44, 0);
        driver.set(register, value);
        driver.set(0x44, 1);
        assert_eq!(driver.get(0x44), 0, "{register:#x} {value:#x}");
        assert_eq!(driver.get(STATUS), 0xb | NEEDS_RESET);
        assert!(driver.slot.fault().is_some());
        assert!(!driver.slot.irq_level(), "a driver that has not started takes no interrupt");
        driver.set(STATUS, 0xf);
        driver.submit(0, &[Part::Take(4)]);
        driver.notify(0);
        assert!(driver.take_used(0).is_empty());
        driver.set(STATUS, 0);
        assert_eq!(driver.get(STATUS), 0);
        assert!(driver.slot.fault().is_none());
    }
}

#[test]
fn the_driver_can_do_without_interrupts() {
    let mut driver = started(0);
    driver.ram.write(driver.rings[0].available, &NO_INTERRUPT.to_le_bytes()).unwrap();
    driver.submit(0, &[Part::Take(4)]);
    driver.notify(0);
    assert_eq!(driver.take_used(0).len(), 1);
    assert!(!driver.slot.irq_level());
    driver.ram.write(driver.rings[0].available, &[0; 2]).unwrap();
    driver.submit(0, &[Part::Take(4)]);
    driver.notify(0);
    assert_eq!(driver.take_interrupt(), 1);
    driver.notify(0);
    assert!(!driver.slot.irq_level(), "nothing was used");
}

#[test]
fn event_indices_say_when_to_tell() {
    let mut driver = started(EVENT_INDEX);
    let ring = driver.rings[0].clone();
    let used_event = ring.available + 4 + 2 * 16;
    let available_event = ring.used + 4 + 8 * 16;
    // The driver wants to hear of the third used buffer.
    driver.ram.write(used_event, &2u16.to_le_bytes()).unwrap();
    for count in 1..=5u16 {
        driver.submit(0, &[Part::Take(4)]);
        driver.notify(0);
        assert_eq!(driver.load16(available_event), count, "the device wants to hear of the next");
        assert_eq!(driver.take_interrupt(), u32::from(count == 3), "buffer {count}");
    }
    // Several at once that pass the index.
    driver.ram.write(used_event, &6u16.to_le_bytes()).unwrap();
    for _ in 0..4 {
        driver.submit(0, &[Part::Take(4)]);
    }
    driver.notify(0);
    assert_eq!(driver.take_used(0).len(), 9);
    assert_eq!(driver.take_interrupt(), 1);
}

#[test]
fn event_indices_hold_after_a_move() {
    let mut driver = started(EVENT_INDEX);
    let used_event = driver.rings[0].available + 4 + 2 * 16;
    for count in 0..0x1_0010u32 {
        if count % 0x4321 == 7 {
            driver = driver.moved(VirtioRng::new(RngSource::seeded(1)));
        }
        driver.next_buffer = BUFFERS;
        driver.ram.write(used_event, &(count as u16).to_le_bytes()).unwrap();
        driver.submit(0, &[Part::Take(1)]);
        driver.notify(0);
        assert_eq!(driver.take_interrupt(), 1, "request {count}");
    }
    assert_eq!(driver.rings[0].next_available, 0x10);
}

#[test]
fn indirect_tables_are_followed() {
    let mut driver = started(1 << 28);
    let table = driver.place(64);
    let (first, second) = (driver.place(3), driver.place(5));
    driver.descriptor(table, first, 3, NEXT | WRITE, 2);
    driver.descriptor(table + 32, second, 5, WRITE, 0);
    driver.descriptor(driver.rings[0].table, table, 64, INDIRECT, 0);
    driver.offer(0, 0);
    driver.notify(0);
    assert_eq!(driver.take_used(0), [(0, 8)]);
    assert_ne!(driver.bytes(first, 8), [0xee; 8]);
}

#[test]
fn states_that_cannot_be_are_refused_and_change_nothing() {
    let mut source = started(EVENT_INDEX);
    source.submit(0, &[Part::Take(4)]);
    source.notify(0);
    let good = source.slot.save();
    type Change = fn(&mut VirtioMmioState);
    let changes: [Change; 21] = [
        |state| state.device_features ^= 1,
        |state| state.driver_features |= 1 << 40,
        |state| state.driver_features &= !VERSION_1,
        |state| state.status |= 0x20,
        |state| state.status &= !8,
        |state| state.interrupt_status = 4,
        |state| state.config.push(0),
        |state| state.queues.clear(),
        |state| state.queues.push(QueueState::default()),
        |state| state.queues[0].size = 0,
        |state| state.queues[0].size = 12,
        |state| state.queues[0].size = 512,
        |state| state.queues[0].descriptor_table += 8,
        |state| state.queues[0].available_ring += 1,
        |state| state.queues[0].available_ring = 0,
        |state| state.queues[0].used_ring += 2,
        |state| state.queues[0].used_ring = MEGABYTE - 16,
        |state| state.queues[0].descriptor_table = u64::MAX - 15,
        |state| state.queues[0].next_available = 7,
        |state| {
            state.queues[0].ready = false;
            state.queues[0].unfinished = true;
        },
        |state| {
            state.status &= !4;
            state.queues[0].unfinished = true;
        },
    ];
    let mut slot = driver().slot;
    let before = slot.save();
    for (index, change) in changes.iter().enumerate() {
        let mut state = good.clone();
        change(&mut state.transport);
        let refusal = slot.restore(&state).expect_err(&format!("change {index}"));
        assert!(refusal.to_string().contains("virtio-mmio@00000000feb02e00/virtio-rng"));
        assert_eq!(slot.save(), before);
    }
    slot.restore(&good).unwrap();
    assert_eq!(slot.save(), good);
}

#[test]
fn a_section_goes_only_to_its_own_slot() {
    let source = started(0);
    let section = source.slot.save_section();
    assert_eq!(section.name, source.slot.section_name());
    let mut destination = driver().slot;
    destination.restore_section(&section).unwrap();
    assert_eq!(destination.save_section(), section);
    let ram = GuestRam::new(MEGABYTE).unwrap();
    let mut other = VirtioMmio::new(
        BASE - 0x200,
        Transport::FERRY_1,
        VirtioRng::new(RngSource::seeded(1)),
        ram,
    );
    assert!(other.restore_section(&section).is_err());
    let mut cut = section.clone();
    cut.data.pop();
    assert!(destination.restore_section(&cut).is_err());
    assert_eq!(destination.save_section(), section);
}

/// The layout of the section is a promise: this fails when it changes without a new version.
#[test]
fn the_section_keeps_its_layout() {
    let section = started(0).slot.save_section();
    let expected = [
        [0, 0, 0, 1, 0x30, 0, 0, 0].as_slice(),
        // Device feature word, driver features, driver feature word.
        &[0; 4],
        &[0, 0, 0, 1, 0, 0, 0, 0],
        &[0, 0, 0, 1],
        // Queue, status, interrupt status, generation, no configuration space, one queue.
        &[0; 4],
        &[0xf, 0],
        &[0; 4],
        &[0; 4],
        &[0, 0, 0, 1],
        &[0, 16, 1],
        &[0, 0, 0, 0, 0, 1, 0, 0],
        &[0, 0, 0, 0, 0, 1, 0x10, 0],
        &[0, 0, 0, 0, 0, 1, 0x20, 0],
        &[0, 0, 0, 0, 0],
    ]
    .concat();
    assert_eq!(section.version, 1);
    assert_eq!(section.data[..expected.len()], expected);
    // The entropy device's own: kind and generator.
    assert_eq!(section.data.len(), expected.len() + 1 + 32);
    assert_eq!(section.data[expected.len()], 1);
}
