//! The network device's three queues, and what of it moves.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use super::*;

const MAC: [u8; 6] = [0x02, 1, 2, 3, 4, 5];
const GUEST_ANNOUNCE: u64 = 1 << 21;
const CTRL_VQ: u64 = 1 << 17;
/// MAC, status, control queue, announcement.
const ALL: u64 = 1 << 5 | 1 << 16 | CTRL_VQ | GUEST_ANNOUNCE;

/// A cable whose other end the test holds.
#[derive(Clone, Default)]
struct Wire {
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
    arriving: Arc<Mutex<VecDeque<Vec<u8>>>>,
}

impl Wire {
    fn sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }

    fn arrives(&self, frame: &[u8]) {
        self.arriving.lock().unwrap().push_back(frame.to_vec());
    }

    fn waiting(&self) -> usize {
        self.arriving.lock().unwrap().len()
    }

    fn device(&self) -> VirtioNet {
        VirtioNet::new(MAC, Box::new(self.clone()))
    }

    fn started(&self, features: u64) -> Driver<VirtioNet> {
        Driver::started(self.device(), features)
    }
}

impl NetBackend for Wire {
    fn send(&mut self, frame: &[u8]) {
        self.sent.lock().unwrap().push(frame.to_vec());
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        let next = self.arriving.lock().unwrap().pop_front();
        Ok(next.map(|bytes| {
            frame[..bytes.len()].copy_from_slice(&bytes);
            bytes.len()
        }))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn frame(byte: u8, length: usize) -> Vec<u8> {
    vec![byte; length]
}

fn status(driver: &mut Driver<VirtioNet>) -> u16 {
    let mut bytes = [0; 2];
    driver.slot.read(0, 0x106, &mut bytes);
    u16::from_le_bytes(bytes)
}

/// Says on the control queue that the announcement was made; returns the answer.
fn command(driver: &mut Driver<VirtioNet>, bytes: &[u8]) -> u8 {
    let (head, places) = driver.submit(2, &[Part::Give(bytes), Part::Take(1)]);
    driver.notify(2);
    assert_eq!(driver.take_used(2), [(head.into(), 1)]);
    driver.take_interrupt();
    driver.load::<1>(places[1])[0]
}

#[test]
fn the_guest_sees_its_address_and_a_link() {
    let mut driver = Driver::idle(Wire::default().device());
    assert_eq!(driver.get(0x08), 1);
    assert_eq!(driver.offered() & 0xff_ffff, ALL);
    let mut config = [0xee; 12];
    driver.slot.read(0, 0x100, &mut config);
    assert_eq!(config, [0x02, 1, 2, 3, 4, 5, 1, 0, 0, 0, 0, 0]);
}

#[test]
fn frames_leave_without_their_header() {
    let wire = Wire::default();
    let mut driver = wire.started(ALL);
    let long = frame(7, 1514);
    driver.submit(1, &[Part::Give(&[0; 12]), Part::Give(&long)]);
    // Header and frame may be cut anywhere (section 2.7.4).
    let mut whole = vec![0; 12];
    whole.extend(frame(8, 60));
    driver.submit(1, &[Part::Give(&whole[..5]), Part::Give(&whole[5..])]);
    driver.submit(1, &[Part::Give(&whole[..20])]);
    driver.notify(1);
    assert_eq!(driver.take_used(1), [(0, 0), (2, 0), (4, 0)]);
    assert_eq!(driver.take_interrupt(), 1);
    assert_eq!(wire.sent(), [long, frame(8, 60)], "less than an Ethernet header is no frame");
}

#[test]
fn frames_arrive_with_a_header_that_says_one_buffer() {
    let wire = Wire::default();
    let mut driver = wire.started(ALL);
    let (first, places) = driver.submit(0, &[Part::Take(12), Part::Take(1514)]);
    let (second, _) = driver.submit(0, &[Part::Take(1526)]);
    wire.arrives(&frame(9, 60));
    assert!(driver.slot.receive());
    assert_eq!(driver.take_used(0), [(first.into(), 72)]);
    assert_eq!(driver.take_interrupt(), 1);
    assert_eq!(driver.bytes(places[0], 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(driver.bytes(places[1], 61), [frame(9, 60), vec![0xee]].concat());
    wire.arrives(&frame(1, 1514));
    assert!(driver.slot.receive());
    assert_eq!(driver.take_used(0), [(second.into(), 1526)]);
}

#[test]
fn frames_wait_for_buffers_and_keep_their_order() {
    let wire = Wire::default();
    let mut driver = wire.started(ALL);
    for byte in 0..4 {
        wire.arrives(&frame(byte, 60));
    }
    assert!(!driver.slot.receive());
    assert_eq!(wire.waiting(), 3, "one is held, the others stay where they are");
    let mut places = Vec::new();
    for _ in 0..3 {
        places.push(driver.submit(0, &[Part::Take(1526)]).1[0]);
    }
    driver.notify(0);
    assert_eq!(driver.take_used(0).len(), 3);
    places.push(driver.submit(0, &[Part::Take(1526)]).1[0]);
    assert!(driver.slot.receive());
    for (byte, place) in places.into_iter().enumerate() {
        assert_eq!(driver.bytes(place + 12, 60), frame(byte as u8, 60));
    }
}

#[test]
fn a_frame_that_no_buffer_can_take_is_lost_alone() {
    let wire = Wire::default();
    let mut driver = wire.started(ALL);
    let (head, places) = driver.submit(0, &[Part::Take(1526)]);
    wire.arrives(&frame(1, 9000));
    wire.arrives(&frame(2, 60));
    assert!(driver.slot.receive());
    assert_eq!(driver.take_used(0), [(head.into(), 72)]);
    assert_eq!(driver.bytes(places[0] + 12, 60), frame(2, 60));
}

#[test]
fn without_a_driver_nothing_waits() {
    let wire = Wire::default();
    let mut driver = Driver::idle(wire.device());
    wire.arrives(&frame(1, 60));
    wire.arrives(&frame(2, 60));
    assert!(driver.slot.receive());
    assert_eq!(wire.waiting(), 0);
    driver.agree(ALL);
    driver.set_up_queues();
    driver.set(STATUS, 0xf);
    driver.submit(0, &[Part::Take(1526)]);
    assert!(driver.slot.receive());
    assert!(driver.take_used(0).is_empty());
}

#[test]
fn what_is_no_request_stops_the_device() {
    let header = [0; 12];
    let checksum = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let segments = [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let payload = frame(1, 60);
    let cases: [(usize, Vec<Part>, &str); 6] = [
        (1, vec![Part::Give(&header[..11])], "no header"),
        (1, vec![Part::Give(&checksum), Part::Give(&payload)], "offload"),
        (1, vec![Part::Give(&segments), Part::Give(&payload)], "offload"),
        (1, vec![Part::Take(100)], "no header"),
        (0, vec![Part::Give(&header), Part::Take(1514)], "cannot be written"),
        (2, vec![Part::Give(&[3, 0])], "no room for the answer"),
    ];
    for (queue, parts, reason) in cases {
        let wire = Wire::default();
        let mut driver = wire.started(ALL);
        wire.arrives(&payload);
        driver.submit(queue, &parts);
        driver.notify(queue);
        assert_eq!(driver.get(STATUS), 0xf | NEEDS_RESET, "{reason}");
        let fault = driver.slot.fault().unwrap().to_string();
        assert!(fault.contains(reason), "{fault}");
        assert!(wire.sent().is_empty());
        // A device that has stopped takes nothing more, and a reset brings it back.
        assert!(driver.slot.receive());
        driver.set(STATUS, 0);
        assert_eq!(driver.get(STATUS), 0);
    }
}

#[test]
fn a_frame_without_end_is_no_request() {
    let wire = Wire::default();
    let mut driver = wire.started(ALL);
    let place = driver.place(0);
    for index in 0..3u16 {
        let entry = driver.rings[1].table + 16 * u64::from(index);
        let more = if index < 2 { NEXT } else { 0 };
        driver.descriptor(entry, place, 0x8000, more, index + 1);
    }
    driver.offer(1, 0);
    driver.notify(1);
    assert_eq!(driver.get(STATUS), 0xf | NEEDS_RESET);
    assert!(wire.sent().is_empty());
}

#[test]
fn only_what_is_offered_is_commanded() {
    let mut driver = Wire::default().started(ALL);
    assert_eq!(command(&mut driver, &[3, 0]), 0);
    for bytes in [&[3, 1][..], &[0, 0, 1], &[1, 1, 2, 0, 0, 0, 0, 1], &[3], &[]] {
        assert_eq!(command(&mut driver, bytes), 1, "{bytes:?}");
    }
}

#[test]
fn a_guest_that_has_arrived_is_asked_to_announce_itself_until_it_has() {
    let wire = Wire::default();
    let mut driver = wire.started(ALL);
    let generation = driver.get(0xfc);
    driver.slot.arrive();
    assert_eq!(status(&mut driver), 3);
    assert_ne!(driver.get(0xfc), generation);
    assert_eq!(driver.take_interrupt(), 2);
    // It is moved on before it comes to it.
    let mut driver = driver.moved(wire.device());
    assert_eq!(status(&mut driver), 3);
    assert_eq!(command(&mut driver, &[3, 0]), 0);
    assert_eq!(status(&mut driver), 1);
    let mut driver = driver.moved(wire.device());
    assert_eq!(status(&mut driver), 1);
}

#[test]
fn a_guest_that_cannot_announce_is_not_asked() {
    for features in [ALL & !GUEST_ANNOUNCE, CTRL_VQ, 0] {
        let mut driver = Wire::default().started(features);
        driver.slot.arrive();
        assert_eq!(status(&mut driver), 1);
        assert_eq!(driver.take_interrupt(), 0);
    }
}

#[test]
fn a_reset_takes_the_wish_for_an_announcement_back() {
    let wire = Wire::default();
    let mut driver = wire.started(ALL);
    driver.slot.arrive();
    wire.arrives(&frame(1, 60));
    assert!(!driver.slot.receive());
    driver.set(STATUS, 0);
    assert_eq!(status(&mut driver), 1);
    driver.agree(ALL);
    driver.set_up_queues();
    driver.set(STATUS, 0xf);
    driver.submit(0, &[Part::Take(1526)]);
    assert!(driver.slot.receive());
    assert!(driver.take_used(0).is_empty(), "a frame of the time before is gone");
}

#[test]
fn nothing_is_delivered_twice_by_a_move() {
    let here = Wire::default();
    let mut driver = here.started(ALL);
    let places: Vec<u64> = (0..3).map(|_| driver.submit(0, &[Part::Take(1526)]).1[0]).collect();
    // A bridge floods a frame to both hosts.
    let there = Wire::default();
    here.arrives(&frame(1, 60));
    there.arrives(&frame(1, 60));
    assert!(driver.slot.receive());
    let mut driver = driver.moved(there.device());
    driver.slot.arrive();
    there.arrives(&frame(2, 60));
    assert!(driver.slot.receive());
    assert_eq!(driver.take_used(0).len(), 2);
    assert_eq!(driver.bytes(places[0] + 12, 60), frame(1, 60));
    assert_eq!(driver.bytes(places[1] + 12, 60), frame(2, 60));
}

#[test]
fn a_state_that_is_not_this_device_is_refused() {
    let wire = Wire::default();
    let mut driver = wire.started(ALL & !GUEST_ANNOUNCE);
    let state = driver.slot.save();
    let other = VirtioNet::new([2, 0, 0, 0, 0, 1], Box::new(NullNet));
    let refused = |device: VirtioNet, change: &dyn Fn(&mut VirtioMmioState)| {
        let mut state = state.clone();
        change(&mut state.transport);
        let mut slot =
            VirtioMmio::new(BASE, Transport::FERRY_1, device, GuestRam::new(MEGABYTE).unwrap());
        let before = slot.save();
        let error = slot.restore(&state).unwrap_err().to_string();
        assert_eq!(slot.save(), before);
        error
    };
    for (error, reason) in [
        (refused(other, &|_| ()), "configuration space differs"),
        (refused(wire.device(), &|state| state.config[6] = 3), "announce that cannot"),
        (refused(wire.device(), &|state| state.config[6] = 0), "configuration space differs"),
        (refused(wire.device(), &|state| state.config[7] = 1), "configuration space differs"),
        (refused(wire.device(), &|state| state.config.truncate(7)), "configuration space differs"),
        (refused(wire.device(), &|state| state.queues.truncate(2)), "2 queues, here there are 3"),
    ] {
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(status(&mut driver), 1);
}
