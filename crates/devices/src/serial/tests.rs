//! The port as a driver meets it.

use vmstate::SavedSection;

use super::*;

const RBR_THR: u64 = 0;
const IER: u64 = 1;
const IIR_FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;

/// A port with a clock that stands still until it is moved.
struct Bench {
    port: Serial16550,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        Self { port: Serial16550::new(), now: 1000 }
    }

    fn get(&mut self, register: u64) -> u8 {
        let mut byte = [0];
        self.port.read(self.now, register, &mut byte);
        byte[0]
    }

    fn put(&mut self, register: u64, value: u8) {
        self.port.write(self.now, register, &[value]);
    }

    fn receive(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.port.receive(self.now, *byte);
        }
    }

    /// Moves the clock as the board does: from deadline to deadline.
    fn pass(&mut self, nanoseconds: u64) {
        let end = self.now + nanoseconds;
        while let Some(due) = self.port.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.port.advance(self.now);
        }
        self.now = end;
    }
}

#[test]
fn a_driver_finds_a_16550a() {
    let mut bench = Bench::new();
    // The steps of Linux's 8250 autoconfiguration that tell the types apart.
    bench.put(IER, 0);
    assert_eq!(bench.get(IER), 0);
    bench.put(IER, 0xff);
    assert_eq!(bench.get(IER), 0x0f, "the upper bits do not exist");
    bench.put(IER, 0);
    bench.put(MCR, 0x1a);
    assert_eq!(bench.get(MSR) & 0xf0, 0x90, "loopback shows OUT2 and RTS as DCD and CTS");
    bench.put(MCR, 0x08);
    bench.put(IIR_FCR, 0x01);
    assert_eq!(bench.get(IIR_FCR) >> 6, 3, "working FIFOs");
    bench.put(LCR, 0x80);
    assert_ne!(bench.get(IIR_FCR), 0, "no enhanced features register of a 16650");
    bench.put(LCR, 0xbf);
    assert_ne!(bench.get(IIR_FCR), 0);
    bench.put(LCR, 0x03);
    bench.put(SCR, 0xa5);
    assert_eq!(bench.get(SCR), 0xa5);
    assert_eq!(bench.get(LSR), 0x60);
    assert_eq!(bench.get(MSR), 0xb0);
}

#[test]
fn the_divisor_latch_hides_data_and_interrupt_enable() {
    let mut bench = Bench::new();
    bench.put(LCR, 0x83);
    assert_eq!((bench.get(0), bench.get(1)), (12, 0));
    bench.port.write(0, 0, &[0x34, 0x12]);
    assert_eq!((bench.get(0), bench.get(1)), (0x34, 0x12));
    bench.put(LCR, 0x03);
    assert_eq!((bench.get(RBR_THR), bench.get(IER)), (0, 0));
    assert!(bench.port.take_output().is_empty());
    assert_eq!(bench.port.save().divisor, 0x1234);
}

#[test]
fn what_is_written_goes_out_at_once() {
    let mut bench = Bench::new();
    for fifos in [0, 1] {
        bench.put(IIR_FCR, fifos);
        for byte in b"hello" {
            bench.put(RBR_THR, *byte);
            assert_eq!(bench.get(LSR), 0x60);
        }
        assert_eq!(bench.port.take_output(), b"hello");
        assert!(bench.port.take_output().is_empty());
        assert_eq!(bench.port.deadline(), None);
    }
}

#[test]
fn the_transmitter_interrupt_is_read_once_and_comes_back() {
    let mut bench = Bench::new();
    assert!(!bench.port.irq_level());
    bench.put(IER, IER_TRANSMIT);
    assert!(bench.port.irq_level(), "enabling raises it, as the transmitter is empty");
    assert_eq!(bench.get(IIR_FCR), 0x02);
    assert!(!bench.port.irq_level(), "reading it as the cause clears it");
    assert_eq!(bench.get(IIR_FCR), 0x01);
    bench.put(RBR_THR, b'a');
    assert!(bench.port.irq_level(), "it comes back when the byte has gone out");
    bench.put(IER, 0);
    assert!(!bench.port.irq_level());
    bench.put(IER, IER_TRANSMIT);
    assert_eq!(bench.get(IIR_FCR), 0x02, "enabling raises it anew");
}

#[test]
fn an_edge_is_seen_between_two_transmitter_interrupts() {
    let mut bench = Bench::new();
    bench.put(IER, IER_TRANSMIT);
    assert!(bench.port.irq_level());
    // A handler that writes without having read the cause.
    bench.put(RBR_THR, b'a');
    assert!(!bench.port.irq_level());
    assert_eq!(bench.port.deadline(), Some(bench.now));
    bench.pass(0);
    assert!(bench.port.irq_level());
    assert_eq!(bench.port.take_output(), b"a");
    // A driver that polls instead of waiting sees no delay.
    bench.put(RBR_THR, b'b');
    assert_eq!(bench.get(LSR), 0x60);
    assert_eq!(bench.port.take_output(), b"b");
}

#[test]
fn received_bytes_wait_for_the_trigger_level_or_the_time_out() {
    let mut bench = Bench::new();
    bench.put(IER, IER_RECEIVE);
    bench.put(IIR_FCR, 0x41);
    // 8 data bits and one stop bit at 115200 baud: 10 bits, 86.8 µs.
    bench.put(LCR, 0x80);
    bench.put(0, 1);
    bench.put(LCR, 0x03);
    bench.receive(b"abc");
    assert_eq!(bench.port.receive_space(), 13);
    assert!(!bench.port.irq_level());
    bench.receive(b"d");
    assert_eq!(bench.get(IIR_FCR), 0xc4);
    assert_eq!(bench.get(RBR_THR), b'a');
    assert!(!bench.port.irq_level());

    let time_out = 4 * (10 * 1_000_000_000 / 115_200);
    assert_eq!(bench.port.deadline(), Some(bench.now + time_out));
    bench.pass(time_out - 1);
    assert!(!bench.port.irq_level());
    bench.pass(1);
    assert_eq!(bench.get(IIR_FCR), 0xcc);
    assert_eq!(bench.get(RBR_THR), b'b');
    assert!(!bench.port.irq_level(), "reading a byte ends the time-out and starts it anew");
    assert!(bench.port.deadline().is_some());
    assert_eq!((bench.get(RBR_THR), bench.get(LSR)), (b'c', 0x61));
    assert_eq!((bench.get(RBR_THR), bench.get(LSR)), (b'd', 0x60));
    assert_eq!(bench.port.deadline(), None);
    assert_eq!(bench.get(RBR_THR), 0);
}

#[test]
fn trigger_levels_are_those_of_the_data_sheet() {
    for (level, bytes) in [(0x01, 1), (0x41, 4), (0x81, 8), (0xc1, 14)] {
        let mut bench = Bench::new();
        bench.put(IER, IER_RECEIVE);
        bench.put(IIR_FCR, level);
        for _ in 1..bytes {
            bench.receive(b"x");
            assert!(!bench.port.irq_level());
        }
        bench.receive(b"x");
        assert!(bench.port.irq_level());
    }
}

#[test]
fn causes_are_told_by_priority() {
    let mut bench = Bench::new();
    bench.put(IIR_FCR, 0x01);
    bench.put(IER, IER_MASK);
    bench.port.set_modem_lines(0, ModemLines { cts: false, dsr: true, ri: false, dcd: true });
    bench.receive(&[b'x'; FIFO_SIZE]);
    bench.receive(b"y");
    bench.pass(1_000_000_000);
    assert_eq!(bench.get(IIR_FCR), 0xc6, "line status first");
    assert_eq!(bench.get(LSR), 0x63, "overrun");
    assert_eq!(bench.get(LSR), 0x61);
    assert_eq!(bench.get(IIR_FCR), 0xcc, "then the time-out");
    assert_eq!(bench.get(RBR_THR), b'x');
    assert_eq!(bench.get(IIR_FCR), 0xc4, "then data");
    for _ in 1..FIFO_SIZE {
        assert_eq!(bench.get(RBR_THR), b'x');
    }
    assert_eq!(bench.get(IIR_FCR), 0xc2, "then the transmitter");
    assert_eq!(bench.get(IIR_FCR), 0xc0, "then the modem");
    assert_eq!(bench.get(MSR), 0xa1);
    assert_eq!(bench.get(MSR), 0xa0);
    assert_eq!(bench.get(IIR_FCR), 0xc1);
}

#[test]
fn without_fifos_a_second_byte_overruns_the_first() {
    let mut bench = Bench::new();
    bench.put(IER, IER_RECEIVE);
    assert_eq!(bench.port.receive_space(), 1);
    bench.receive(b"a");
    assert_eq!(bench.port.receive_space(), 0);
    assert_eq!(bench.get(IIR_FCR), 0x04);
    bench.receive(b"b");
    assert_eq!(bench.get(LSR), 0x63);
    assert_eq!(bench.get(RBR_THR), b'b');
    assert_eq!(bench.get(LSR), 0x60);
    assert_eq!(bench.port.deadline(), None, "no time-out without FIFOs");
}

#[test]
fn a_break_is_a_zero_with_its_mark() {
    let mut bench = Bench::new();
    bench.put(IIR_FCR, 0x01);
    bench.put(IER, IER_LINE);
    bench.port.receive_break(bench.now);
    assert_eq!(bench.get(IIR_FCR), 0xc6);
    assert_eq!(bench.get(LSR), 0x71);
    assert_eq!(bench.get(RBR_THR), 0);
    assert_eq!(bench.get(LSR), 0x60);
    assert!(!bench.port.sends_break());
    bench.put(LCR, 0x43);
    assert!(bench.port.sends_break());
}

#[test]
fn loopback_sends_to_itself_and_cuts_the_line() {
    let mut bench = Bench::new();
    bench.put(IIR_FCR, 0x01);
    bench.put(MCR, 0x10);
    assert_eq!(bench.port.receive_space(), 0);
    bench.receive(b"from outside");
    bench.put(RBR_THR, b'a');
    bench.put(RBR_THR, b'b');
    assert_eq!((bench.get(RBR_THR), bench.get(RBR_THR)), (b'a', b'b'));
    assert_eq!(bench.get(LSR), 0x60);
    assert!(bench.port.take_output().is_empty());
    for (control, status) in [(0x11, 0x20), (0x12, 0x10), (0x14, 0x40), (0x18, 0x80)] {
        bench.put(MCR, control);
        assert_eq!(bench.get(MSR), status);
    }
}

#[test]
fn clearing_the_fifos_forgets_their_bytes() {
    let mut bench = Bench::new();
    bench.put(IIR_FCR, 0x01);
    bench.receive(b"abc");
    bench.put(IIR_FCR, 0x03);
    assert_eq!(bench.get(LSR), 0x60);
    assert_eq!(bench.port.deadline(), None);
    bench.receive(b"abc");
    bench.put(IIR_FCR, 0x00);
    assert_eq!(bench.get(LSR), 0x60, "switching the FIFOs clears them");
    assert_eq!(bench.get(IIR_FCR), 0x01);
}

#[test]
fn the_ring_indicator_counts_when_it_ends() {
    let mut bench = Bench::new();
    let idle = ModemLines { cts: true, dsr: true, ri: false, dcd: true };
    bench.port.set_modem_lines(0, ModemLines { ri: true, ..idle });
    assert_eq!(bench.get(MSR), 0xf0);
    bench.port.set_modem_lines(0, idle);
    assert_eq!(bench.get(MSR), 0xb4);
}

/// A port in the middle of everything: bytes received, a time-out running, a byte on its way.
fn busy() -> Bench {
    let mut bench = Bench::new();
    bench.put(IIR_FCR, 0x81);
    bench.put(IER, IER_RECEIVE | IER_TRANSMIT);
    bench.receive(b"ab");
    bench.put(RBR_THR, b'z');
    bench
}

#[test]
fn a_moved_port_goes_on() {
    let mut source = busy();
    let state = source.port.save();
    assert!(state.transmit.armed && state.receive_timeout.armed);
    assert_eq!(state.transmit_fifo, b"z");
    let mut port = Serial16550::new();
    port.restore(&state).unwrap();
    assert_eq!(port.save(), state);
    let mut destination = Bench { port, now: source.now };
    for bench in [&mut source, &mut destination] {
        bench.pass(10_000_000);
        assert_eq!(bench.port.take_output(), b"z");
        assert_eq!(bench.get(IIR_FCR), 0xcc);
        assert_eq!((bench.get(RBR_THR), bench.get(RBR_THR)), (b'a', b'b'));
    }
    assert_eq!(source.port.save(), destination.port.save());
}

#[test]
fn a_transmitter_that_was_busy_sends_all_it_held() {
    let idle = Serial16550::new().save();
    let state = SerialState {
        fifo_control: 0x01,
        line_status: 0,
        transmit_fifo: b"bcd".to_vec(),
        shift_busy: true,
        shift: b'a',
        transmit: SerialTimer { armed: true, at: 5000 },
        ..idle
    };
    let mut bench = Bench::new();
    bench.port.restore(&state).unwrap();
    bench.pass(4000);
    assert_eq!(bench.port.take_output(), b"abcd");
    assert_eq!(bench.get(LSR), 0x60);

    bench.now = 1000;
    bench.port.restore(&state).unwrap();
    bench.put(IIR_FCR, 0x05);
    assert_eq!(bench.get(LSR), 0x20, "the shift register is not cleared");
    assert_eq!(bench.port.save().check(), Ok(()));
    bench.pass(4000);
    assert_eq!(bench.port.take_output(), b"a");
}

#[test]
fn the_interrupt_identification_follows_from_the_state() {
    let mut bench = busy();
    bench.pass(0);
    assert_eq!(bench.port.take_output(), b"z");
    let said = bench.port.save().interrupt_identification();
    assert_eq!(said, 0xc2);
    assert_eq!(bench.get(IIR_FCR), said);
}

/// The layout of the section is a promise: this fails when it changes without a new version.
#[test]
fn the_section_keeps_its_layout() {
    let section = SavedSection::encode("serial", 0, &busy().port.save());
    let expected = [
        [0, 12, 0, b'z', 3, 0x81, 0, 8, 1, 0xb0].as_slice(),
        &[0, 0, 0],
        &[0, 0, 0, 2, b'a', b'b'],
        &[0, 0, 0, 1, b'z'],
        &[0, 0],
        &[1, 0, 0, 0, 0, 0, 0, 3, 0xe8],
        // 1000 + 4 characters of 7 bits (start, 5 data bits, stop) at 9600 baud, 729166 ns each.
        &[1, 0, 0, 0, 0, 0, 0x2c, 0x85, 0x20],
    ];
    assert_eq!(section.version, 1);
    assert_eq!(section.data, expected.concat());
}

#[test]
fn states_that_cannot_be_are_refused_and_change_nothing() {
    let good = busy().port.save();
    type Change = fn(&mut SerialState);
    let changes: [Change; 15] = [
        |state| state.interrupt_enable = 0x10,
        |state| state.fifo_control |= 0x02,
        |state| state.modem_control = 0x20,
        |state| state.receive_fifo = vec![0; 17],
        |state| state.transmit_fifo = vec![0; 17],
        |state| state.receive_fifo.clear(),
        |state| state.line_status &= !LSR_DATA,
        |state| state.fifo_control = 0,
        |state| state.line_status |= LSR_EMPTY,
        |state| state.line_status |= LSR_HOLDING_EMPTY,
        |state| state.transmit_fifo.clear(),
        |state| state.transmit = SerialTimer::default(),
        |state| state.transmit.armed = false,
        |state| state.receive_timeout.armed = false,
        |state| state.shift = 1,
    ];
    let mut port = Serial16550::new();
    let before = port.save();
    for (index, change) in changes.iter().enumerate() {
        let mut state = good.clone();
        change(&mut state);
        assert!(port.restore(&state).is_err(), "change {index}");
        assert_eq!(port.save(), before);
    }
}

proptest::proptest! {
    /// Whatever a guest and a line do, what is saved can be restored and goes on the same.
    #[test]
    fn every_reachable_state_travels(steps in proptest::collection::vec((0u8..12, 0u8..=255), 0..60)) {
        let mut bench = Bench::new();
        for (index, (action, value)) in steps.iter().enumerate() {
            match action {
                0..8 => bench.put(u64::from(*action), *value),
                8 => bench.port.receive(bench.now, *value),
                9 => { bench.get(u64::from(value % 8)); }
                10 => bench.pass(u64::from(*value) * 10_000),
                _ => bench.port.receive_break(bench.now),
            }
            bench.port.take_output();
            let state = bench.port.save();
            proptest::prop_assert_eq!(state.check(), Ok(()), "after step {}", index);
            let section = SavedSection::encode("serial", 0, &state);
            let mut moved = Serial16550::new();
            moved.restore(&section.decode().unwrap()).unwrap();
            proptest::prop_assert_eq!(moved.save(), state);
            proptest::prop_assert_eq!(moved.irq_level(), bench.port.irq_level());
            proptest::prop_assert_eq!(moved.deadline(), bench.port.deadline());
        }
    }
}
