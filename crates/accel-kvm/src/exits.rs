//! What ended a KVM_RUN, taken out of the page that the vCPU shares with the kernel.

use cpu::Bus;
use kvm_bindings::{
    KVM_EXIT_DIRTY_RING_FULL, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR,
    KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN, kvm_run,
};
use kvm_ioctls::VcpuFd;

/// What is left for the vCPU to do after an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    /// Go on.
    Done,
    /// Go on; the kernel finishes the instruction on the next entry.
    Access,
    /// Empty the dirty rings and go on.
    RingFull,
    /// A triple fault.
    Shutdown,
    /// The kernel gave up.
    Failed(String),
}

/// Serves the exit that the last KVM_RUN ended with.
#[expect(unsafe_code, reason = "a union whose tag is the exit reason")]
pub(crate) fn serve(vcpu: &mut VcpuFd, bus: &mut dyn Bus) -> Handled {
    let run: *mut kvm_run = vcpu.get_kvm_run();
    // SAFETY: the page is mapped as long as the vCPU, and the kernel leaves it alone outside
    // KVM_RUN.
    let shared = unsafe { &mut *run };
    let exit = &mut shared.__bindgen_anon_1;
    match shared.exit_reason {
        KVM_EXIT_IO => {
            // SAFETY: the reason says that this is the member.
            let io = unsafe { exit.io };
            let bytes = usize::from(io.size) * io.count as usize;
            // SAFETY: the kernel puts the data into the mapping, at this offset from its start,
            // which is where `run` points, and they are this long.
            let data = unsafe {
                let first = run.cast::<u8>().add(io.data_offset as usize);
                std::slice::from_raw_parts_mut(first, bytes)
            };
            let inward = u32::from(io.direction) == KVM_EXIT_IO_IN;
            port(bus, io.port, io.size, inward, data);
            Handled::Access
        }
        KVM_EXIT_MMIO => {
            // SAFETY: the reason says that this is the member.
            let mmio = unsafe { &mut exit.mmio };
            let data = &mut mmio.data[..(mmio.len as usize).min(8)];
            if mmio.is_write != 0 {
                bus.mmio_write(0, mmio.phys_addr, data);
            } else {
                bus.mmio_read(0, mmio.phys_addr, data);
            }
            Handled::Access
        }
        KVM_EXIT_IOAPIC_EOI => {
            // SAFETY: the reason says that this is the member.
            let vector = unsafe { exit.eoi.vector };
            bus.end_of_interrupt(vector);
            Handled::Done
        }
        KVM_EXIT_IRQ_WINDOW_OPEN => {
            shared.request_interrupt_window = 0;
            Handled::Done
        }
        KVM_EXIT_INTR => Handled::Done,
        KVM_EXIT_DIRTY_RING_FULL => Handled::RingFull,
        KVM_EXIT_SHUTDOWN => Handled::Shutdown,
        KVM_EXIT_INTERNAL_ERROR => {
            // SAFETY: the reason says that this is the member.
            let suberror = unsafe { exit.internal.suberror };
            Handled::Failed(match suberror {
                1 => "KVM cannot emulate the instruction".to_owned(),
                other => format!("KVM failed inside (suberror {other})"),
            })
        }
        KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: the reason says that this is the member.
            let reason = unsafe { exit.fail_entry.hardware_entry_failure_reason };
            Handled::Failed(format!("the processor refuses to enter the guest ({reason:#x})"))
        }
        other => Handled::Failed(format!(
            "KVM left the guest for reason {other}, which has no meaning here"
        )),
    }
}

/// One or, for a string instruction, several accesses to a port.
fn port(bus: &mut dyn Bus, port: u16, size: u8, inward: bool, data: &mut [u8]) {
    for item in data.chunks_exact_mut(usize::from(size.max(1))) {
        let mut word = [0; 4];
        let length = item.len().min(4);
        if inward {
            word = bus.port_in(0, port, size).to_le_bytes();
            item[..length].copy_from_slice(&word[..length]);
        } else {
            word[..length].copy_from_slice(&item[..length]);
            bus.port_out(0, port, size, u32::from_le_bytes(word));
        }
    }
}
