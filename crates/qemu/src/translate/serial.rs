//! The serial port.

use devices::serial::{SerialState, SerialTimer};

use super::{Instant, Reason, require};
use crate::layout::*;

const FCR_STAYS: u8 = 0xc9;
const LSR_EMPTY: u8 = 0x40;
const IIR_CAUSE: u8 = 0x06;
const IIR_TRANSMIT: u8 = 0x02;
const IER_TRANSMIT: u8 = 0x02;
const FIFO_SIZE: usize = 16;

fn bytes(fifo: &Option<FifoLayout>, name: &str) -> Result<Vec<u8>, Reason> {
    let Some(FifoLayout { data, head, count }) = fifo else { return Ok(Vec::new()) };
    let (head, count) = (*head as usize, *count as usize);
    require(head < FIFO_SIZE && count <= FIFO_SIZE, format!("{name} is out of range"))?;
    Ok((0..count).map(|index| data[(head + index) % FIFO_SIZE]).collect())
}

fn fifo(bytes: &[u8]) -> Option<FifoLayout> {
    let mut data = [0; FIFO_SIZE];
    data[..bytes.len()].copy_from_slice(bytes);
    (!bytes.is_empty()).then_some(FifoLayout { data, head: 0, count: bytes.len() as u32 })
}

pub(super) fn from_qemu(layout: &SerialLayout, now: Instant) -> Result<SerialState, Reason> {
    let SerialLayout {
        divider,
        rbr,
        ier,
        iir,
        lcr,
        mcr,
        lsr,
        msr,
        scr,
        fcr,
        thr_ipending,
        tsr,
        recv_fifo,
        xmit_fifo,
        fifo_timeout_timer,
        timeout_ipending,
        // How often the host's modem lines are looked at.
        poll: _,
    } = layout;
    let busy = lsr & LSR_EMPTY == 0;
    require(tsr.is_some() == busy, "subsection serial/tsr contradicts the transmitter empty bit")?;
    let (holding, shift) =
        tsr.as_ref().map_or((0, 0), |TsrLayout { retry: _, thr, tsr }| (*thr, *tsr));
    let timer = |at: i64| -> Result<SerialTimer, Reason> {
        let at = u64::try_from(at).map_err(|_| "fifo_timeout_timer is negative")?;
        Ok(SerialTimer { armed: true, at })
    };
    let state = SerialState {
        divisor: *divider,
        receive_buffer: *rbr,
        transmit_holding: holding,
        interrupt_enable: *ier,
        fifo_control: fcr & FCR_STAYS,
        line_control: *lcr,
        modem_control: *mcr,
        line_status: *lsr,
        modem_status: *msr,
        scratch: *scr,
        transmit_interrupt: match thr_ipending {
            Some(ThrLayout { value }) => *value != 0,
            None => iir & IIR_CAUSE == IIR_TRANSMIT,
        },
        timeout_interrupt: timeout_ipending
            .as_ref()
            .is_some_and(|TimeoutPendingLayout { value }| *value != 0),
        receive_fifo: bytes(recv_fifo, "serial/recv_fifo")?,
        transmit_fifo: bytes(xmit_fifo, "serial/xmit_fifo")?,
        shift_busy: busy,
        shift,
        // The back end here takes what the one there did not.
        transmit: SerialTimer { armed: busy, at: if busy { now.virtual_ns } else { 0 } },
        receive_timeout: match fifo_timeout_timer {
            None | Some(TimeoutLayout { expiry: -1 }) => SerialTimer::default(),
            Some(TimeoutLayout { expiry }) => timer(*expiry)?,
        },
    };
    let identification = state.interrupt_identification();
    require(
        *iir == identification,
        format!("iir is {iir:#x}, and the other registers make it {identification:#x}"),
    )?;
    Ok(state)
}

pub(super) fn to_qemu(state: &SerialState) -> SerialLayout {
    let iir = state.interrupt_identification();
    let SerialState {
        divisor,
        receive_buffer,
        transmit_holding,
        interrupt_enable,
        fifo_control,
        line_control,
        modem_control,
        line_status,
        modem_status,
        scratch,
        transmit_interrupt,
        timeout_interrupt,
        receive_fifo,
        transmit_fifo,
        shift_busy,
        shift,
        // QEMU tries again when its back end is ready.
        transmit: _,
        receive_timeout,
    } = state;
    let busy = line_status & LSR_EMPTY == 0;
    let implied = interrupt_enable & IER_TRANSMIT != 0 && iir & IIR_CAUSE == IIR_TRANSMIT;
    let _ = shift_busy;
    SerialLayout {
        divider: *divisor,
        rbr: *receive_buffer,
        ier: *interrupt_enable,
        iir,
        lcr: *line_control,
        mcr: *modem_control,
        lsr: *line_status,
        msr: *modem_status,
        scr: *scratch,
        fcr: *fifo_control,
        thr_ipending: (*transmit_interrupt != implied)
            .then_some(ThrLayout { value: (*transmit_interrupt).into() }),
        tsr: busy.then_some(TsrLayout { retry: 1, thr: *transmit_holding, tsr: *shift }),
        recv_fifo: fifo(receive_fifo),
        xmit_fifo: fifo(transmit_fifo),
        fifo_timeout_timer: receive_timeout.armed.then(|| TimeoutLayout {
            expiry: i64::try_from(receive_timeout.at).unwrap_or(i64::MAX),
        }),
        timeout_ipending: timeout_interrupt.then_some(TimeoutPendingLayout { value: 1 }),
        poll: None,
    }
}
