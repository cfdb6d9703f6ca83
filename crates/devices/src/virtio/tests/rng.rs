//! Requests to the entropy device.

use super::*;

fn seeded() -> VirtioRng {
    VirtioRng::new(RngSource::seeded(42))
}

fn draw(driver: &mut Driver<VirtioRng>, length: u32) -> Vec<u8> {
    let (head, places) = driver.submit(0, &[Part::Take(length)]);
    driver.notify(0);
    let used = driver.take_used(0);
    assert_eq!(used.len(), 1);
    assert_eq!(used[0].0, u32::from(head));
    assert_eq!(driver.take_interrupt(), 1);
    driver.bytes(places[0], used[0].1 as usize)
}

#[test]
fn seeded_bytes_go_on_after_a_move() {
    let mut stays = Driver::started(seeded(), 0);
    let mut moves = Driver::started(seeded(), 0);
    for length in [1, 8, 13, 64] {
        moves = moves.moved(VirtioRng::new(RngSource::seeded(0)));
        let bytes = draw(&mut moves, length);
        assert_eq!(bytes.len(), length as usize);
        assert_eq!(bytes, draw(&mut stays, length));
    }
}

#[test]
fn host_bytes_differ() {
    let device = || VirtioRng::new(RngSource::host().unwrap());
    let mut driver = Driver::started(device(), 0);
    let first = draw(&mut driver, 32);
    let mut driver = driver.moved(device());
    assert_ne!(first, draw(&mut driver, 32));
}

#[test]
fn a_long_request_is_answered_in_part() {
    let mut driver = Driver::started(seeded(), 0);
    assert_eq!(draw(&mut driver, 100_000).len(), 65536);
    let (_, _) = driver.submit(0, &[Part::Give(b"x")]);
    driver.notify(0);
    assert_eq!(driver.take_used(0)[0].1, 0, "a request without room");
}

#[test]
fn another_source_is_refused() {
    let host = || VirtioRng::new(RngSource::host().unwrap());
    let seeded_state = Driver::started(seeded(), 0).slot.save();
    let mut slot = Driver::idle(host()).slot;
    let before = slot.save();
    assert!(slot.restore(&seeded_state).is_err());
    assert_eq!(slot.save(), before);
    let host_state = Driver::started(host(), 0).slot.save();
    let mut slot = Driver::idle(seeded()).slot;
    let before = slot.save();
    assert!(slot.restore(&host_state).is_err());
    let dead = VirtioRngState { generator: [0; 4], ..seeded_state };
    assert!(slot.restore(&dead).is_err(), "a generator that gives only zeroes");
    assert_eq!(slot.save(), before);
}
