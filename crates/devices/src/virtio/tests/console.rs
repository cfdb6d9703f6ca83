//! The console's two directions.

use super::*;

fn started(features: u64) -> Driver<VirtioConsole> {
    Driver::started(VirtioConsole::new(), features)
}

#[test]
fn output_comes_in_order() {
    let mut driver = started(0);
    driver.submit(1, &[Part::Give(b"hel"), Part::Give(b"lo ")]);
    driver.submit(1, &[Part::Give(b"world")]);
    driver.notify(1);
    assert_eq!(driver.take_used(1), [(0, 0), (2, 0)]);
    assert_eq!(driver.take_interrupt(), 1);
    assert_eq!(driver.slot.take_output(), b"hello world");
    assert!(driver.slot.take_output().is_empty());
}

#[test]
fn output_waits_in_the_ring_while_the_board_is_slow() {
    let mut driver = started(0);
    let big = driver.place(500_000);
    for head in 0..8u16 {
        let entry = driver.rings[1].table + 16 * u64::from(head);
        driver.descriptor(entry, big, 500_000, 0, 0);
        driver.offer(1, head);
    }
    driver.notify(1);
    assert_eq!(driver.take_used(1).len(), 3, "no more is taken than is bounded");
    let mut total = 0;
    loop {
        let output = driver.slot.take_output();
        if output.is_empty() {
            break;
        }
        total += output.len();
    }
    assert_eq!(total, 8 * 500_000);
    assert_eq!(driver.take_used(1).len(), 5);
    assert_eq!(driver.take_interrupt(), 1);
}

#[test]
fn an_endless_write_is_no_request() {
    let mut driver = started(0);
    let part = driver.place(0);
    for index in 0..5u16 {
        let entry = driver.rings[1].table + 16 * u64::from(index);
        let more = if index < 4 { NEXT } else { 0 };
        driver.descriptor(entry, part, 0x40000, more, index + 1);
    }
    driver.offer(1, 0);
    driver.notify(1);
    assert_eq!(driver.get(STATUS), 0xf | NEEDS_RESET);
    assert!(driver.slot.take_output().is_empty());
}

#[test]
fn input_fills_buffers_and_the_rest_waits() {
    let mut driver = started(0);
    assert_eq!(driver.slot.receive(b"early"), 0);
    let (first, places) = driver.submit(0, &[Part::Take(2), Part::Take(2)]);
    let (second, more) = driver.submit(0, &[Part::Take(100)]);
    driver.notify(0);
    assert!(driver.take_used(0).is_empty(), "buffers wait for input");
    assert_eq!(driver.slot.receive(b"abcdef"), 6);
    assert_eq!(driver.take_used(0), [(u32::from(first), 4), (u32::from(second), 2)]);
    assert_eq!(driver.take_interrupt(), 1);
    assert_eq!(driver.bytes(places[0], 2), *b"ab");
    assert_eq!(driver.bytes(places[1], 2), *b"cd");
    assert_eq!(driver.bytes(more[0], 3), *b"ef\xee");
    driver.submit(0, &[Part::Take(4)]);
    assert_eq!(driver.slot.receive(b"0123456"), 4);
    assert_eq!(driver.slot.receive(b"456"), 0);
    driver.set(STATUS, 0);
    assert_eq!(driver.slot.receive(b"456"), 0, "nobody is there");
}

#[test]
fn a_starved_receiver_asks_to_be_told() {
    let mut driver = started(EVENT_INDEX);
    let available_event = driver.rings[0].used + 4 + 8 * 16;
    driver.submit(0, &[Part::Take(1)]);
    driver.submit(0, &[Part::Take(1)]);
    assert_eq!(driver.slot.receive(b"abc"), 2);
    assert_eq!(driver.load16(available_event), 2, "the next buffer is to be told of");
}

#[test]
fn buffers_and_output_move() {
    let mut driver = started(0);
    driver.submit(0, &[Part::Take(8)]);
    driver.notify(0);
    driver.submit(1, &[Part::Give(b"later")]);
    let mut driver = driver.moved(VirtioConsole::new());
    driver.notify(1);
    assert_eq!(driver.slot.take_output(), b"later");
    assert_eq!(driver.slot.receive(b"in"), 2);
    assert_eq!((driver.take_used(0), driver.take_used(1)), (vec![(0, 2)], vec![(0, 0)]));
}

#[test]
fn a_console_says_nothing_of_its_size() {
    let mut driver = Driver::idle(VirtioConsole::new());
    assert_eq!(driver.get(0x08), 3);
    assert_eq!(driver.offered(), VERSION_1 | EVENT_INDEX | 1 << 28);
    assert_eq!(driver.get(0x100), 0);
}
