//! The board as a vCPU's thread reaches it, and KVM's local APICs as the board reaches them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use accel_kvm::{Kicker, KvmAccelerator, MsiRoute};
use cpu::{AcceleratorError, Bus, GeneralProtection};

use super::threads::{Shared, Threads};
use crate::board::Board;
use crate::interrupts::{AcceleratorLapics, Message};
use crate::machine::{SharedBoard, lock};

/// What one vCPU's thread sees of the machine.
pub(super) struct KvmBus {
    vcpu: usize,
    board: SharedBoard,
    shared: Arc<Shared>,
}

impl KvmBus {
    pub(super) fn new(vcpu: usize, board: SharedBoard, shared: Arc<Shared>) -> Self {
        Self { vcpu, board, shared }
    }

    /// Takes the board for one access, and wakes the machine's thread if that gave it work.
    fn access<T>(&self, action: impl FnOnce(&mut Board) -> T) -> T {
        let board = &mut *lock(&self.board);
        board.current = self.vcpu;
        let result = action(board);
        if board.has_request() {
            self.shared.set_request();
        }
        if Bus::attention(board) || board.has_output() {
            self.shared.waker().wake();
        }
        result
    }
}

impl Bus for KvmBus {
    fn port_in(&mut self, _: u64, port: u16, size: u8) -> u32 {
        self.access(|board| board.port_in(0, port, size))
    }

    fn port_out(&mut self, _: u64, port: u16, size: u8, value: u32) {
        self.access(|board| board.port_out(0, port, size, value));
    }

    fn mmio_read(&mut self, _: u64, address: u64, data: &mut [u8]) {
        self.access(|board| board.mmio_read(0, address, data));
    }

    fn mmio_write(&mut self, _: u64, address: u64, data: &[u8]) {
        self.access(|board| board.mmio_write(0, address, data));
    }

    fn tsc(&mut self, _: u64) -> u64 {
        self.access(|board| board.tsc(0))
    }

    // KVM's local APIC answers for itself; nobody asks here.
    fn apic_base(&mut self) -> u64 {
        0
    }

    fn set_apic_base(&mut self, _: u64, _: u64) -> Result<(), GeneralProtection> {
        Err(GeneralProtection)
    }

    fn task_priority(&mut self) -> u8 {
        0
    }

    fn set_task_priority(&mut self, _: u64, _: u8) {}

    fn interrupt_pending(&mut self) -> bool {
        self.vcpu == 0 && self.shared.external.load(Ordering::Acquire)
    }

    fn acknowledge_interrupt(&mut self, _: u64) -> Option<u8> {
        self.access(|board| board.acknowledge_interrupt(0))
    }

    fn end_of_interrupt(&mut self, vector: u8) {
        self.access(|board| board.end_of_interrupt(vector));
    }

    /// Only what ends the machine ends a run: all else is the machine's thread's to see to.
    fn attention(&mut self) -> bool {
        self.shared.has_request()
    }
}

/// KVM's local APICs.
pub(super) struct KvmLapics {
    accelerator: KvmAccelerator,
    shared: Arc<Shared>,
    bootstrap: Kicker,
}

impl KvmLapics {
    pub(super) fn new(accelerator: KvmAccelerator, threads: &Threads) -> Self {
        Self { accelerator, shared: threads.shared(), bootstrap: threads.kicker(0) }
    }

    /// An error of the accelerator's ends the machine: an interrupt that is not delivered is one
    /// that is lost.
    fn check(&self, result: Result<(), accel_kvm::KvmError>) {
        if let Err(error) = result {
            self.shared.fail(AcceleratorError::from(error));
        }
    }
}

impl AcceleratorLapics for KvmLapics {
    fn send(&self, message: Message) {
        let Message { address, data } = message;
        // That nobody takes it is as on the bus: the message is gone.
        self.check(self.accelerator.send_message(address, data).map(|_| ()));
    }

    fn set_routes(&self, routes: &[(u32, Message)]) {
        let routes: Vec<MsiRoute> = routes
            .iter()
            .map(|(gsi, Message { address, data })| MsiRoute {
                gsi: *gsi,
                address: *address,
                data: *data,
            })
            .collect();
        self.check(self.accelerator.set_routes(&routes));
    }

    fn set_external(&self, level: bool) {
        self.shared.external.store(level, Ordering::Release);
        if level {
            self.bootstrap.kick();
        }
    }
}

/// Something that a thread is to see soon.
#[derive(Default)]
pub(super) struct Flag(AtomicBool);

impl Flag {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}
