//! The real-time clock. QEMU's follows the host's wall clock, Ferry's the virtual one.

use devices::RtcState;

use super::{Instant, Reason, require};
use crate::layout::RtcLayout;

const NANOSECONDS: i128 = 1_000_000_000;
const CLOCK_HZ: i128 = 32_768;
const REGISTER_B: usize = 0x0b;
const REGISTER_C: usize = 0x0c;
const REQUEST: u8 = 0x80;
const PERIODIC: u8 = 0x40;

pub(super) fn from_qemu(layout: &RtcLayout, now: Instant) -> Result<RtcState, Reason> {
    let RtcLayout {
        cmos_data,
        cmos_index,
        unused0,
        // When QEMU looks next follows from the rest.
        periodic_timer: _,
        next_periodic_time,
        unused1,
        irq_coalesced,
        period: _,
        base_rtc,
        last_update,
        offset,
        update_timer: _,
        next_alarm_time: _,
    } = layout;
    require(*unused0 == [0; 28] && *unused1 == [0; 24], "unused bytes are used")?;
    let mut cmos = *cmos_data;
    cmos[REGISTER_C] &= !REQUEST;
    let elapsed = i128::from(now.wall_ns) - i128::from(*last_update) + i128::from(*offset);
    let time = i128::from(*base_rtc) * NANOSECONDS + elapsed;
    let base = time - i128::from(now.virtual_ns);
    let seconds = |of: i128| {
        i64::try_from(of.div_euclid(NANOSECONDS)).map_err(|_| "base_rtc is out of range")
    };
    let mut state = RtcState {
        cmos,
        index: *cmos_index,
        nmi_masked: false,
        base_seconds: seconds(base)?,
        base_nanoseconds: base.rem_euclid(NANOSECONDS) as u32,
        second: 0,
        periodic_origin: 0,
        periodic_count: 0,
        irq_coalesced: if cmos[REGISTER_B] & PERIODIC != 0 { *irq_coalesced } else { 0 },
    };
    if state.runs() {
        state.show(seconds(time)?);
    }
    if let Some(ticks) = state.periodic_ticks() {
        let span = i128::from(ticks) * NANOSECONDS / CLOCK_HZ;
        // The next one comes when QEMU's would, if that is near.
        let left = i128::from(*next_periodic_time) - i128::from(now.wall_ns);
        let left = if (1..=span).contains(&left) { left } else { span };
        let origin = i128::from(now.virtual_ns) + left - span;
        state.periodic_origin = u64::try_from(origin).unwrap_or(0);
    }
    Ok(state)
}

pub(super) fn to_qemu(state: &RtcState, now: Instant) -> RtcLayout {
    let RtcState {
        cmos,
        index,
        nmi_masked: _,
        base_seconds,
        base_nanoseconds,
        second: _,
        periodic_origin,
        periodic_count: _,
        irq_coalesced,
    } = state;
    let base = i128::from(*base_seconds) * NANOSECONDS + i128::from(*base_nanoseconds);
    let time = base + i128::from(now.virtual_ns);
    let (second, within) = (time.div_euclid(NANOSECONDS), time.rem_euclid(NANOSECONDS));
    let wall = i128::from(now.wall_ns);
    let narrow = |of: i128| i64::try_from(of).unwrap_or(i64::MAX);
    let mut cmos = *cmos;
    if cmos[REGISTER_B] & cmos[REGISTER_C] & 0x70 != 0 {
        cmos[REGISTER_C] |= REQUEST;
    }
    // When the clock next changes its second. QEMU looks then what is to be done.
    let update = narrow(wall + NANOSECONDS - within);
    let alarm = state.next_alarm(second as i64).map_or(i64::MAX, |alarm| {
        narrow(wall + (i128::from(alarm) - second) * NANOSECONDS - within)
    });
    let (period, next) = match state.periodic_ticks() {
        None => (0, 0),
        Some(ticks) => {
            let span = i128::from(ticks) * NANOSECONDS / CLOCK_HZ;
            let gone = i128::from(now.virtual_ns) - i128::from(*periodic_origin);
            (ticks as u32, narrow(wall + span - gone.rem_euclid(span)))
        }
    };
    let asks = cmos[REGISTER_B] & PERIODIC != 0 && period != 0;
    RtcLayout {
        cmos_data: cmos,
        cmos_index: *index,
        unused0: [0; 28],
        periodic_timer: if asks { next } else { -1 },
        next_periodic_time: if asks { next } else { 0 },
        unused1: [0; 24],
        irq_coalesced: *irq_coalesced,
        period: if asks { period } else { 0 },
        base_rtc: u64::try_from(second).unwrap_or(0),
        last_update: now.wall_ns as u64,
        offset: within as i64,
        update_timer: if state.runs() { update } else { -1 },
        next_alarm_time: alarm as u64,
    }
}
