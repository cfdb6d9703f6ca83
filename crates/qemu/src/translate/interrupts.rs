//! The interrupt controllers.

use cpu::{Activity, CpuState};
use devices::{I8259State, IoApicState, LapicState};

use super::{Instant, Reason, require};
use crate::layout::*;

const LVT_MASKED: u32 = 1 << 16;
const LVT_PERIODIC: u32 = 1 << 17;
const LEVEL: u64 = 1 << 15;

/// Pins of I/O APIC 0 for levels of the legacy interrupts: interrupt 0 is at pin 2.
pub(super) fn pins_of_lines(lines: u32) -> u32 {
    lines & 0xfff8 | lines & 0x2 | (lines & 1) << 2
}

/// QEMU's timer counts one tick past its end: it fires after `initial + 1` ticks of `1 << shift`
/// nanoseconds.
fn period(initial: u32, shift: u32) -> i64 {
    (i64::from(initial) + 1) << shift
}

pub(super) fn lapic_from_qemu(layout: &ApicLayout, now: Instant) -> Result<LapicState, Reason> {
    let ApicLayout {
        apicbase,
        id,
        arb_id,
        tpr,
        spurious_vec,
        log_dest,
        dest_mode,
        isr,
        tmr,
        irr,
        lvt,
        esr,
        icr,
        divide_conf,
        count_shift,
        initial_count,
        initial_count_load_time,
        next_time,
        timer_expiry,
        // In the state of the CPU.
        sipi: _,
    } = layout;
    let divide = u8::try_from(*divide_conf).map_err(|_| "divide_conf is out of range")?;
    let shift = u32::from(((divide & 3 | divide >> 1 & 4) + 1) & 7);
    require(
        i64::from(*count_shift) == i64::from(shift) || *divide_conf == 0,
        "count_shift is not what divide_conf says",
    )?;
    // Out of reset QEMU has a shift of 0, which no register shows; the timer is then off.
    let shift = if *count_shift == 0 && *divide_conf == 0 { 1 } else { shift };
    require(
        *timer_expiry == -1 || timer_expiry == next_time,
        "timer_expiry is neither -1 nor next_time",
    )?;
    let now = i64::try_from(now.virtual_ns).map_err(|_| "the clock is past its range")?;
    let periodic = lvt[0] & LVT_PERIODIC != 0;
    let next = match (*initial_count, *timer_expiry) {
        (0, _) => None,
        (_, expiry) if expiry != -1 => Some(expiry),
        // QEMU does not arm the timer while its entry is masked; the count goes on.
        (initial, _) if lvt[0] & LVT_MASKED != 0 => {
            let period = period(initial, shift);
            let gone = now.saturating_sub(*initial_count_load_time).max(0) / period;
            (periodic || gone == 0)
                .then(|| initial_count_load_time.saturating_add((gone + 1).saturating_mul(period)))
        }
        _ => None,
    };
    // The count from here to its end is kept; a period is one tick shorter from then on.
    let load_time = match next {
        Some(next) => next.saturating_sub(i64::from(*initial_count) << shift),
        None => *initial_count_load_time,
    };
    Ok(LapicState {
        apic_base: (*apicbase).into(),
        id: *id,
        arbitration_id: *arb_id,
        task_priority: *tpr,
        spurious_vector: *spurious_vec,
        logical_destination: *log_dest,
        destination_format: *dest_mode,
        isr: *isr,
        tmr: *tmr,
        irr: *irr,
        lvt: *lvt,
        esr: *esr,
        errors: 0,
        icr: *icr,
        divide,
        initial_count: *initial_count,
        initial_count_load_time: load_time,
        timer_armed: next.is_some(),
        timer_next: next.unwrap_or(0).max(0) as u64,
        lint: [false; 2],
    })
}

pub(super) fn lapic_to_qemu(state: &LapicState, cpu: &CpuState) -> Result<ApicLayout, Reason> {
    let LapicState {
        apic_base,
        id,
        arbitration_id,
        task_priority,
        spurious_vector,
        logical_destination,
        destination_format,
        isr,
        tmr,
        irr,
        lvt,
        esr,
        errors,
        icr,
        divide,
        initial_count,
        initial_count_load_time,
        timer_armed,
        timer_next,
        // QEMU keeps no levels of these pins.
        lint: _,
    } = state;
    let shift = u32::from(((divide & 3 | divide >> 1 & 4) + 1) & 7);
    let next = i64::try_from(*timer_next).map_err(|_| "timer_next is past QEMU's range")?;
    let load_time = if *timer_armed {
        next.saturating_sub(period(*initial_count, shift))
    } else {
        *initial_count_load_time
    };
    let fires = *timer_armed && lvt[0] & LVT_MASKED == 0;
    let waits = cpu.activity == Activity::WaitForStartup;
    Ok(ApicLayout {
        apicbase: u32::try_from(*apic_base).map_err(|_| "apic_base is above 4 GiB")?,
        id: *id,
        arb_id: *arbitration_id,
        tpr: *task_priority,
        spurious_vec: *spurious_vector,
        log_dest: *logical_destination,
        dest_mode: *destination_format,
        isr: *isr,
        tmr: *tmr,
        irr: *irr,
        lvt: *lvt,
        // QEMU shows errors without the write that fetches them.
        esr: *esr | *errors,
        icr: *icr,
        divide_conf: (*divide).into(),
        count_shift: shift as i32,
        initial_count: *initial_count,
        initial_count_load_time: load_time,
        next_time: if *timer_armed { next } else { 0 },
        timer_expiry: if fires { next } else { -1 },
        sipi: waits.then_some(SipiLayout { sipi_vector: 0, wait_for_sipi: 1 }),
    })
}

/// `lines` are the levels of pins, as far as other devices know them; those of level-triggered pins
/// are their requests.
pub(super) fn ioapic_from_qemu(layout: &IoApicLayout, lines: u32) -> Result<IoApicState, Reason> {
    let IoApicLayout { id, ioregsel, unused, irr, ioredtbl } = layout;
    require(*unused == [0; 8], "unused bytes are used")?;
    let level = ioredtbl
        .iter()
        .enumerate()
        .fold(0, |pins, (pin, entry)| pins | u32::from(entry & LEVEL != 0) << pin);
    Ok(IoApicState {
        id: *id,
        select: *ioregsel,
        lines: irr & level | lines & !level,
        irr: *irr,
        redirection: *ioredtbl,
    })
}

pub(super) fn ioapic_to_qemu(state: &IoApicState) -> IoApicLayout {
    // QEMU keeps the levels of edge-triggered pins where they come from.
    let IoApicState { id, select, lines: _, irr, redirection } = state;
    IoApicLayout { id: *id, ioregsel: *select, unused: [0; 8], irr: *irr, ioredtbl: *redirection }
}

fn flag(value: u8, name: &str) -> Result<bool, Reason> {
    require(value <= 1, format!("{name} is neither 0 nor 1"))?;
    Ok(value == 1)
}

pub(super) fn pic_from_qemu(layout: &I8259Layout) -> Result<I8259State, Reason> {
    require(layout.init_state <= 3, "init_state is not 0 to 3")?;
    Ok(I8259State {
        lines: layout.last_irr & !layout.elcr | layout.irr & layout.elcr,
        irr: layout.irr,
        imr: layout.imr,
        isr: layout.isr,
        highest_priority: layout.priority_add,
        vector_base: layout.irq_base,
        read_isr: flag(layout.read_reg_select, "read_reg_select")?,
        poll: flag(layout.poll, "poll")?,
        special_mask: flag(layout.special_mask, "special_mask")?,
        awaited_icw: if layout.init_state == 0 { 0 } else { layout.init_state + 1 },
        icw4_needed: flag(layout.init4, "init4")?,
        single: flag(layout.single_mode, "single_mode")?,
        auto_eoi: flag(layout.auto_eoi, "auto_eoi")?,
        rotate_on_auto_eoi: flag(layout.rotate_on_auto_eoi, "rotate_on_auto_eoi")?,
        special_fully_nested: flag(layout.special_fully_nested_mode, "special_fully_nested_mode")?,
        elcr: layout.elcr,
    })
}

pub(super) fn pic_to_qemu(state: &I8259State) -> I8259Layout {
    let I8259State {
        lines,
        irr,
        imr,
        isr,
        highest_priority,
        vector_base,
        read_isr,
        poll,
        special_mask,
        awaited_icw,
        icw4_needed,
        single,
        auto_eoi,
        rotate_on_auto_eoi,
        special_fully_nested,
        elcr,
    } = *state;
    I8259Layout {
        last_irr: lines & !elcr,
        irr,
        imr,
        isr,
        priority_add: highest_priority,
        irq_base: vector_base,
        read_reg_select: read_isr.into(),
        poll: poll.into(),
        special_mask: special_mask.into(),
        init_state: awaited_icw.saturating_sub(1),
        auto_eoi: auto_eoi.into(),
        rotate_on_auto_eoi: rotate_on_auto_eoi.into(),
        special_fully_nested_mode: special_fully_nested.into(),
        init4: icw4_needed.into(),
        single_mode: single.into(),
        elcr,
    }
}
