//! Queue notifications without a stop of the vCPU: KVM turns the guest's write to a slot's
//! notification register into an event, and a thread of its own hands it to the device.
//!
//! At a pause the events that wait are taken by whoever pauses. The thread takes an event only with
//! the board in hand and while the machine runs, so none is ever between the two.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use accel_kvm::KvmAccelerator;
use cpu::Bus;
use machine::{MachineConfig, board as map};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::threads::Waker;
use crate::board::Board;
use crate::machine::{BuildError, SharedBoard, lock};

/// Offset of the register by which the driver says that a queue has something (virtio 1.2, section
/// 4.2.2: QueueNotify).
const QUEUE_NOTIFY: u64 = 0x50;

struct Event {
    fd: EventFd,
    address: u64,
    queue: u32,
}

struct Inner {
    events: Vec<Event>,
    /// Waits for [`Self::wake`] always, and for the events while the machine runs.
    epoll: Epoll,
    /// Tells the thread to look at the two flags.
    wake: EventFd,
    /// Changed only with the board in hand.
    active: AtomicBool,
    quit: AtomicBool,
    waker: Waker,
}

/// The events of all queues, and the thread that waits for them.
pub(super) struct Notifier {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl Inner {
    /// Hands the events that wait to their devices.
    fn take_waiting(&self, board: &mut Board) {
        for Event { fd, address, queue } in &self.events {
            // An error says that nothing waits.
            if fd.read().is_ok() {
                board.mmio_write(0, *address, &queue.to_le_bytes());
            }
        }
        if Bus::attention(board) || board.has_output() {
            self.waker.wake();
        }
    }

    fn watch(&self, fd: &EventFd, operation: ControlOperation) -> io::Result<()> {
        let readable = EpollEvent::new(EventSet::IN, 0);
        self.epoll.ctl(operation, fd.as_raw_fd(), readable)
    }

    /// Waits for an event, or for a change of the flags.
    fn wait(&self) {
        match self.epoll.wait(-1, &mut [EpollEvent::default()]) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => panic!("the queues' events cannot be waited for: {error}"),
        }
        // Nothing to read says that it was an event.
        let _ = self.wake.read();
    }
}

impl Notifier {
    /// Asks KVM for an event for each queue of each slot, and starts the thread.
    pub(super) fn new(
        accelerator: &KvmAccelerator,
        config: &MachineConfig,
        board: &SharedBoard,
        waker: Waker,
    ) -> Result<Self, BuildError> {
        let fd = || EventFd::new(EFD_NONBLOCK).map_err(BuildError::Events);
        let mut events = Vec::new();
        for plugged in &config.virtio {
            let address = map::virtio_region(plugged.slot).base + QUEUE_NOTIFY;
            let queues = lock(board).queues_of(plugged.slot);
            for queue in 0..queues {
                let event = Event { fd: fd()?, address, queue };
                accelerator.attach_ioevent(&event.fd, address, Some(queue))?;
                events.push(event);
            }
        }
        let inner = Arc::new(Inner {
            events,
            epoll: Epoll::new().map_err(BuildError::Events)?,
            wake: fd()?,
            active: AtomicBool::new(false),
            quit: AtomicBool::new(false),
            waker,
        });
        inner.watch(&inner.wake, ControlOperation::Add).map_err(BuildError::Events)?;
        let (own, board) = (Arc::clone(&inner), Arc::clone(board));
        let thread = std::thread::Builder::new()
            .name("queues".to_owned())
            .spawn(move || {
                while !own.quit.load(Ordering::Acquire) {
                    own.wait();
                    let board = &mut *lock(&board);
                    if own.active.load(Ordering::Acquire) {
                        own.take_waiting(board);
                    }
                }
            })
            .map_err(BuildError::Events)?;
        Ok(Self { inner, thread: Some(thread) })
    }

    /// Hands the events that wait to their devices.
    pub(super) fn take_waiting(&self, board: &mut Board) {
        self.inner.take_waiting(board);
    }

    /// Lets the thread take events, or keeps it from it. The caller has the board.
    pub(super) fn set_active(&self, active: bool) {
        if self.inner.active.swap(active, Ordering::AcqRel) == active {
            return;
        }
        for event in &self.inner.events {
            let operation = if active { ControlOperation::Add } else { ControlOperation::Delete };
            self.inner.watch(&event.fd, operation).expect("an open event can be watched");
        }
    }

    fn wake(&self) {
        let woken: io::Result<()> = self.inner.wake.write(1);
        woken.expect("an event can be raised by one");
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.inner.quit.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}
