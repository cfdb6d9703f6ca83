//! Registers of the HPET and their bits (IA-PC HPET specification 1.0a, section 2.3).

/// Number of timers.
pub(super) const TIMERS: usize = 3;
/// Nanoseconds in a tick of the main counter.
pub(super) const PERIOD_NS: u64 = 10;

pub(super) const CAPABILITIES: u64 = 0x000;
pub(super) const CONFIG: u64 = 0x010;
pub(super) const INTERRUPT_STATUS: u64 = 0x020;
pub(super) const COUNTER: u64 = 0x0f0;
pub(super) const TIMER: u64 = 0x100;
pub(super) const TIMER_SIZE: u64 = 0x20;
pub(super) const TIMER_CONFIG: u64 = 0x00;
pub(super) const TIMER_COMPARATOR: u64 = 0x08;

/// Period in femtoseconds (10 000 000), vendor 0x8086, legacy replacement and a 64-bit counter,
/// last timer 2, revision 1.
pub(super) const CAPABILITIES_VALUE: u64 = 0x0098_9680_8086_a201;

pub(super) const CONFIG_ENABLED: u64 = 1 << 0;
pub(super) const CONFIG_LEGACY: u64 = 1 << 1;
pub(super) const CONFIG_BITS: u64 = CONFIG_ENABLED | CONFIG_LEGACY;
pub(super) const ISR_BITS: u64 = (1 << TIMERS) - 1;

pub(super) const TIMER_LEVEL: u64 = 1 << 1;
pub(super) const TIMER_ENABLED: u64 = 1 << 2;
pub(super) const TIMER_PERIODIC: u64 = 1 << 3;
pub(super) const TIMER_SET_VALUE: u64 = 1 << 6;
pub(super) const TIMER_32BIT: u64 = 1 << 8;
pub(super) const TIMER_ROUTE: u64 = 0x1f << 9;
/// Bits that the guest writes.
pub(super) const TIMER_BITS: u64 =
    TIMER_LEVEL | TIMER_ENABLED | TIMER_PERIODIC | TIMER_SET_VALUE | TIMER_32BIT | TIMER_ROUTE;
/// Periodic mode and 64 bits, and the pins to choose from.
pub(super) const TIMER_CAPABILITIES: u64 = ROUTES << 32 | 1 << 5 | 1 << 4;
/// Pins 16 to 23 of I/O APIC 0.
pub(super) const ROUTES: u64 = 0x00ff_0000;

/// The pin of I/O APIC 0 that a timer's configuration chooses.
pub(super) fn route(config: u64) -> u32 {
    ((config & TIMER_ROUTE) >> 9) as u32
}

/// Whether the pin is offered; 0, as after reset, is none.
pub(super) fn valid_route(config: u64) -> bool {
    route(config) == 0 || ROUTES >> route(config) & 1 != 0
}

/// The bits of the counter that a timer compares.
pub(super) fn width_mask(config: u64) -> u64 {
    if config & TIMER_32BIT != 0 { 0xffff_ffff } else { u64::MAX }
}
