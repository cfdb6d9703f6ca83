//! Rings that no honest driver makes.

use proptest::prelude::*;

use super::*;

fn started() -> Driver<VirtioConsole> {
    Driver::started(VirtioConsole::new(), 0)
}

/// Lets the device look at what `prepare` has put into its transmit ring and tells what it says.
fn fault(prepare: impl FnOnce(&mut Driver<VirtioConsole>)) -> String {
    let mut driver = started();
    prepare(&mut driver);
    driver.notify(1);
    assert_eq!(driver.get(STATUS), 0xf | NEEDS_RESET);
    assert_eq!(driver.take_interrupt(), 2);
    assert!(driver.take_used(1).is_empty());
    driver.notify(1);
    assert!(!driver.slot.irq_level(), "a device that needs a reset does nothing more");
    let text = driver.slot.fault().unwrap().to_string();
    driver.set(STATUS, 0);
    assert_eq!(driver.get(STATUS), 0);
    text
}

#[test]
fn every_fault_has_its_words() {
    let table = RINGS + RING_STRIDE;
    let endless = "descriptor chain at 0 does not end";
    assert_eq!(
        fault(|driver| {
            driver.descriptor(table, BUFFERS, 4, NEXT, 0);
            driver.offer(1, 0);
        }),
        endless,
    );
    assert_eq!(
        fault(|driver| {
            driver.descriptor(table, BUFFERS, 4, NEXT, 16);
            driver.offer(1, 0);
        }),
        endless,
    );
    assert_eq!(
        fault(|driver| {
            driver.descriptor(table, BUFFERS, 0xffff_ffff, WRITE | NEXT, 1);
            driver.offer(1, 0);
        }),
        "descriptor chain at 0 has a buffer at 0x40000 of 4294967295 bytes that is not in memory",
    );
    assert_eq!(fault(|driver| driver.offer(1, 16)), "descriptor chain at 16 does not end");
    assert_eq!(
        fault(|driver| {
            driver.descriptor(table, MEGABYTE - 3, 4, 0, 0);
            driver.offer(1, 0);
        }),
        "descriptor chain at 0 has a buffer at 0xffffd of 4 bytes that is not in memory",
    );
    assert_eq!(
        fault(|driver| {
            driver.descriptor(table, u64::MAX, 2, 0, 0);
            driver.offer(1, 0);
        }),
        "descriptor chain at 0 has a buffer at 0xffffffffffffffff of 2 bytes that is not in memory",
    );
    assert_eq!(
        fault(|driver| {
            driver.submit(1, &[Part::Take(4), Part::Give(b"late")]);
        }),
        "descriptor chain at 0 has its buffers out of order",
    );
    assert_eq!(
        fault(|driver| {
            driver.rings[1].next_available = 16;
            driver.offer(1, 0);
        }),
        "ring cannot be used",
    );
    // Indirect tables: of a length that is no table's, empty, nested, longer than a queue.
    for (length, flags) in [(24, INDIRECT), (0, INDIRECT), (16, INDIRECT), (17 * 16, INDIRECT)] {
        let text = fault(|driver| {
            let inner = driver.place(17 * 16);
            for index in 0..17u16 {
                let nested = if length == 16 { INDIRECT } else { 0 };
                let more = if index < 16 && length != 16 { NEXT } else { 0 };
                let entry = inner + 16 * u64::from(index);
                driver.descriptor(entry, BUFFERS, 16, nested | more, index + 1);
            }
            driver.descriptor(table, inner, length, flags, 0);
            driver.offer(1, 0);
        });
        assert_eq!(text, endless, "table of {length} bytes");
    }
}

/// A driver can make one request go round for ever by keeping the available index ahead of the
/// device from another CPU. The board gets its turn all the same, and what is left moves.
#[test]
fn requests_without_end_are_done_in_turns() {
    let device = || VirtioRng::new(RngSource::seeded(1));
    let mut driver = Driver::started(device(), 0);
    let ring = driver.rings[0].clone();
    let mut turns = 0;
    let mut shift = |memory: &GuestMemory, queue: &mut Virtqueue| {
        queue.serve(memory, |_| {
            turns += 1;
            let next = (turns as u16 + 1).to_le_bytes();
            vm_memory::Bytes::write_slice(
                memory,
                &next,
                vm_memory::GuestAddress(ring.available + 2),
            )
            .unwrap();
            Ok(0)
        })
    };
    driver.submit(0, &[Part::Take(4)]);
    driver.slot.run(|_, queues, ram| shift(ram.mmap(), &mut queues[0]));
    assert_eq!(turns, 17);
    assert_eq!(driver.take_used(0).len(), 17);
    assert_eq!(driver.slot.deadline(), Some(0));
    let mut driver = driver.moved(device());
    assert_eq!(driver.slot.deadline(), Some(0));
    driver.slot.advance(5);
    assert_eq!(driver.take_used(0).len(), 1, "the one that was left");
    assert_eq!(driver.take_interrupt(), 1);
    assert_eq!(driver.slot.deadline(), None);
}

/// A descriptor with its fields near to where they matter.
fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let address = prop_oneof![
        4 => 0x10000..0x60000u64,
        1 => MEGABYTE - 64..MEGABYTE + 64,
        1 => any::<u64>(),
    ];
    let length = prop_oneof![6 => 0..600u32, 1 => Just(16), 1 => any::<u32>()];
    let flags = prop_oneof![8 => 0..4u16, 1 => Just(INDIRECT), 1 => any::<u16>()];
    (address, length, flags, prop_oneof![8 => 0..16u16, 1 => any::<u16>()])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever lies in the rings, the device neither panics nor touches what is not RAM, and its
    /// state can be moved: a device that runs has nothing in flight.
    #[test]
    fn random_rings_break_nothing(
        descriptors in proptest::collection::vec(descriptor(), 16),
        heads in proptest::collection::vec(0..17u16, 1..6),
        jump in prop_oneof![4 => Just(0u16), 1 => 0..40u16],
        input in 0..300usize,
    ) {
        let mut console = started();
        for queue in 0..2 {
            let table = console.rings[queue].table;
            for (index, (address, length, flags, next)) in descriptors.iter().enumerate() {
                console.descriptor(table + 16 * index as u64, *address, *length, *flags, *next);
            }
            for head in &heads {
                console.offer(queue, *head);
            }
            console.rings[queue].next_available =
                console.rings[queue].next_available.wrapping_add(jump);
        }
        console.slot.receive(&vec![7; input]);
        console.notify(1);
        while !console.slot.take_output().is_empty() {}
        let state = console.slot.save();
        let mut other = VirtioMmio::new(BASE, Transport::FERRY_1, VirtioConsole::new(), console.ram.clone());
        prop_assert!(other.restore(&state).is_ok());
        prop_assert_eq!(other.save(), state);

        let mut rng = Driver::started(VirtioRng::new(RngSource::seeded(3)), EVENT_INDEX);
        for (index, (address, length, flags, next)) in descriptors.iter().enumerate() {
            let entry = rng.rings[0].table + 16 * index as u64;
            rng.descriptor(entry, *address, *length, flags | WRITE, *next);
        }
        for head in &heads {
            rng.offer(0, *head);
        }
        rng.notify(0);
        prop_assert_eq!(rng.slot.fault().is_some(), rng.get(STATUS) & NEEDS_RESET != 0);
    }

    /// Whatever is written to the registers, nothing panics and the state can be moved.
    #[test]
    fn random_registers_break_nothing(
        writes in proptest::collection::vec((0..0x50u64, prop_oneof![4 => 0..64u32, 1 => any::<u32>()]), 0..80),
    ) {
        let mut driver = Driver::idle(VirtioRng::new(RngSource::seeded(3)));
        driver.agree(0);
        driver.set_up_queues();
        for (register, value) in writes {
            driver.set(register * 4, value);
            driver.get(register * 4);
        }
        let state = driver.slot.save();
        let mut other = VirtioMmio::new(BASE, Transport::FERRY_1, VirtioRng::new(RngSource::seeded(4)), driver.ram.clone());
        prop_assert!(other.restore(&state).is_ok());
        prop_assert_eq!(other.save(), state);
    }
}
