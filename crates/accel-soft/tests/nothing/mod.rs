//! A machine without devices, for guests that need none.

use cpu::{Bus, GeneralProtection};

/// A machine without devices.
pub struct Nothing;

impl Bus for Nothing {
    fn port_in(&mut self, _: u64, port: u16, _: u8) -> u32 {
        panic!("port {port:#x} read")
    }
    fn port_out(&mut self, _: u64, port: u16, _: u8, _: u32) {
        panic!("port {port:#x} written")
    }
    fn mmio_read(&mut self, _: u64, address: u64, _: &mut [u8]) {
        panic!("{address:#x} read")
    }
    fn mmio_write(&mut self, _: u64, address: u64, _: &[u8]) {
        panic!("{address:#x} written")
    }
    fn tsc(&mut self, at: u64) -> u64 {
        at
    }
    fn apic_base(&mut self) -> u64 {
        0xfee0_0900
    }
    fn set_apic_base(&mut self, _: u64, _: u64) -> Result<(), GeneralProtection> {
        Err(GeneralProtection)
    }
    fn task_priority(&mut self) -> u8 {
        0
    }
    fn set_task_priority(&mut self, _: u64, _: u8) {}
    fn interrupt_pending(&mut self) -> bool {
        false
    }
    fn acknowledge_interrupt(&mut self, _: u64) -> Option<u8> {
        None
    }
    fn end_of_interrupt(&mut self, _: u8) {}
    fn attention(&mut self) -> bool {
        false
    }
}
