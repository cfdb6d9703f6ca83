//! The 8254. QEMU's counts from the instant at which a count was written, whatever its gate does,
//! and knows no count that waits for another to end.

use devices::{I8254State, PitChannelState, PitPhase};

use super::{Instant, Reason, require};
use crate::layout::*;

const HZ: u128 = machine::board::PIT_HZ as u128;
const NANOSECONDS: u128 = 1_000_000_000;

const NONE: u8 = 0;
const LOW: u8 = 1;
const HIGH: u8 = 2;
const LOW_OF_TWO: u8 = 3;
const HIGH_OF_TWO: u8 = 4;

fn channel_from_qemu(layout: &PitChannelLayout, now: i64) -> Result<PitChannelState, Reason> {
    let PitChannelLayout {
        count,
        latched_count,
        count_latched,
        status_latched,
        status,
        read_state,
        write_state,
        write_latch,
        rw_mode,
        mode,
        bcd,
        gate,
        count_load_time,
        next_transition_time: _,
    } = *layout;
    let reload = u32::try_from(count).map_err(|_| "count is negative")?;
    require(bcd == 0, "bcd: QEMU counts in binary where the guest asked for BCD")?;
    require(gate <= 1 && status_latched <= 1, "gate or status_latched is neither 0 nor 1")?;
    require(read_state <= HIGH_OF_TWO && write_state <= HIGH_OF_TWO, "read_state or write_state")?;
    require(count_latched <= HIGH_OF_TWO, "count_latched")?;
    let since = u64::try_from(count_load_time).map_err(|_| "count_load_time is negative")?;
    // Firmware that never wrote a control word leaves 0.
    let access = if rw_mode == 0 { 3 } else { rw_mode };
    let triggered = matches!(mode, 1 | 5);
    let held = gate == 0 && !triggered;
    let elapsed = u128::from((now - count_load_time).max(0) as u64) * HZ / NANOSECONDS;
    let both = access == 3;
    let read_high = both && (read_state == HIGH_OF_TWO || count_latched == HIGH);
    let write_high = both && write_state == HIGH_OF_TWO;
    Ok(PitChannelState {
        mode,
        bcd: false,
        access,
        reload,
        count: reload,
        null_count: false,
        transfer_pending: false,
        transfer_at: 0,
        gate: gate == 1,
        phase: if held { PitPhase::Held } else { PitPhase::Counting },
        count_load_time: if held { 0 } else { since },
        held_ticks: if held { elapsed as u64 & u64::MAX >> 8 } else { 0 },
        read_high,
        write_high,
        write_low: if write_high { write_latch } else { 0 },
        count_latched: count_latched != NONE,
        latched_count: if count_latched == NONE { 0 } else { latched_count },
        status_latched: status_latched == 1,
        latched_status: if status_latched == 1 { status } else { 0 },
    })
}

pub(super) fn from_qemu(layout: &I8254Layout, now: Instant) -> Result<I8254State, Reason> {
    let I8254Layout { irq_disabled, channels, next_transition_time: _ } = layout;
    require(
        *irq_disabled == 0,
        "irq_disabled: an HPET has taken the interrupt, and there is none",
    )?;
    let virtual_now = i64::try_from(now.virtual_ns).map_err(|_| "the clock is past its range")?;
    let channel = |index: usize| {
        channel_from_qemu(&channels[index], virtual_now)
            .map_err(|reason| format!("channels[{index}]: {reason}"))
    };
    Ok(I8254State {
        channels: [channel(0)?, channel(1)?, channel(2)?],
        // QEMU's microvm has no port 0x61.
        speaker: false,
        shown_until: now.virtual_ns,
    })
}

fn channel_to_qemu(state: &PitChannelState, now: i64) -> Result<PitChannelLayout, Reason> {
    let PitChannelState {
        mode,
        bcd,
        access,
        reload,
        count: _,
        null_count: _,
        transfer_pending: _,
        transfer_at: _,
        gate,
        phase,
        count_load_time,
        held_ticks,
        read_high,
        write_high,
        write_low,
        count_latched,
        latched_count,
        status_latched,
        latched_status,
    } = *state;
    require(!bcd, "bcd: QEMU does not count in BCD")?;
    let since = match phase {
        PitPhase::Counting => {
            i64::try_from(count_load_time).map_err(|_| "count_load_time is past QEMU's range")?
        }
        PitPhase::Held => {
            let gone = (u128::from(held_ticks) * NANOSECONDS).div_ceil(HZ);
            now.saturating_sub(i64::try_from(gone).unwrap_or(i64::MAX)).max(0)
        }
        PitPhase::Waiting | PitPhase::Ready => now,
    };
    let byte = |high: bool| match access {
        1 => LOW,
        2 => HIGH,
        _ if high => HIGH_OF_TWO,
        _ => LOW_OF_TWO,
    };
    Ok(PitChannelLayout {
        count: i32::try_from(reload).map_err(|_| "reload is past QEMU's range")?,
        latched_count,
        count_latched: match (count_latched, access) {
            (false, _) => NONE,
            // The low byte of the two has been read.
            (true, 3) if read_high => HIGH,
            (true, _) => byte(false),
        },
        status_latched: status_latched.into(),
        status: latched_status,
        read_state: byte(read_high && !count_latched),
        write_state: byte(write_high),
        write_latch: write_low,
        rw_mode: access,
        mode,
        bcd: 0,
        gate: gate.into(),
        count_load_time: since,
        next_transition_time: 0,
    })
}

pub(super) fn to_qemu(state: &I8254State, now: Instant) -> Result<I8254Layout, Reason> {
    let I8254State { channels, speaker: _, shown_until: _ } = state;
    let virtual_now = i64::try_from(now.virtual_ns).map_err(|_| "the clock is past its range")?;
    let channel = |index: usize| {
        channel_to_qemu(&channels[index], virtual_now)
            .map_err(|reason| format!("channels[{index}]: {reason}"))
    };
    let mut channels = [channel(0)?, channel(1)?, channel(2)?];
    // QEMU looks at once what the output is, and when it changes next.
    channels[0].next_transition_time = virtual_now;
    Ok(I8254Layout { irq_disabled: 0, channels, next_transition_time: virtual_now })
}
