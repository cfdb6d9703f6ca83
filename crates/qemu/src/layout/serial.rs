//! The serial port.

use vmstate::VmState;

/// Section `serial`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "serial", version = 3, minimum_version = 3)]
pub struct SerialLayout {
    /// Divisor latch.
    pub divider: u16,
    /// Receiver buffer.
    pub rbr: u8,
    /// Interrupt enable.
    pub ier: u8,
    /// Interrupt identification.
    pub iir: u8,
    /// Line control.
    pub lcr: u8,
    /// Modem control.
    pub mcr: u8,
    /// Line status.
    pub lsr: u8,
    /// Modem status.
    pub msr: u8,
    /// Scratch.
    pub scr: u8,
    /// FIFO control.
    pub fcr: u8,
    /// There unless it follows from `iir`.
    #[vmstate(subsection = "thr_ipending")]
    pub thr_ipending: Option<ThrLayout>,
    /// There while the shift register waits for its back end.
    #[vmstate(subsection = "tsr")]
    pub tsr: Option<TsrLayout>,
    /// There unless empty.
    #[vmstate(subsection = "recv_fifo")]
    pub recv_fifo: Option<FifoLayout>,
    /// There unless empty.
    #[vmstate(subsection = "xmit_fifo")]
    pub xmit_fifo: Option<FifoLayout>,
    /// There while it runs.
    #[vmstate(subsection = "fifo_timeout_timer")]
    pub fifo_timeout_timer: Option<TimeoutLayout>,
    /// There while it is pending.
    #[vmstate(subsection = "timeout_ipending")]
    pub timeout_ipending: Option<TimeoutPendingLayout>,
    /// There while the modem lines of the host are polled.
    #[vmstate(subsection = "poll")]
    pub poll: Option<PollLayout>,
}

/// Subsection `serial/thr_ipending`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "thr_ipending", version = 1)]
pub struct ThrLayout {
    /// The transmitter-empty interrupt is pending.
    pub value: i32,
}

/// Subsection `serial/tsr`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "tsr", version = 1)]
pub struct TsrLayout {
    /// Times the back end has refused it.
    pub retry: u32,
    /// Transmitter holding register.
    pub thr: u8,
    /// Shift register.
    pub tsr: u8,
}

/// A queue of bytes.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "fifo8", version = 1)]
pub struct FifoLayout {
    /// Its memory.
    pub data: [u8; 16],
    /// Where its first byte is.
    pub head: u32,
    /// How many there are.
    pub count: u32,
}

/// Subsection `serial/fifo_timeout_timer`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "fifo_timeout_timer", version = 1)]
pub struct TimeoutLayout {
    /// Virtual nanoseconds at which it is due.
    pub expiry: i64,
}

/// Subsection `serial/timeout_ipending`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "timeout_ipending", version = 1)]
pub struct TimeoutPendingLayout {
    /// The receive time-out interrupt is pending.
    pub value: i32,
}

/// Subsection `serial/poll`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "poll", version = 1)]
pub struct PollLayout {
    /// 1: lines are polled.
    pub poll_msl: i32,
    /// Virtual nanoseconds of the next look.
    pub expiry: i64,
}
