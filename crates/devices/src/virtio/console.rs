//! virtio-console with a single port (virtio 1.2, section 5.3): a receive and a transmit queue.
//!
//! Input that the guest has no buffer for stays with the board. Output is taken from the transmit
//! queue until [`OUTPUT_MAX`] bytes wait for the board; the rest stays in the ring until it has
//! taken them.

use memory::GuestMemory;
use vmstate::VmState;

use super::VirtioDevice;
use super::mmio::VirtioMmio;
use super::queue::{QueueError, Virtqueue};
use super::state::VirtioMmioState;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// Bytes of output from which on no further request is taken.
const OUTPUT_MAX: usize = 1 << 20;
/// Longest single request of output. Drivers write a page or so; a longer one is a broken ring.
const REQUEST_MAX: u64 = 1 << 20;

/// Saved state of a virtio-console slot.
///
/// A single port without the multiport feature has nothing of its own: it is always open, and a
/// request is taken whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtio-console", version = 1)]
pub struct VirtioConsoleState {
    /// The transport.
    pub transport: VirtioMmioState,
}

/// A virtio-console device.
#[derive(Debug, Default)]
pub struct VirtioConsole {
    /// What the guest has written and the board has not taken: the host's, hence not saved.
    output: Vec<u8>,
}

impl VirtioConsole {
    /// A console that nothing was written to.
    pub fn new() -> Self {
        Self::default()
    }

    fn transmit(&mut self, queue: &mut Virtqueue, memory: &GuestMemory) -> Result<(), QueueError> {
        while self.output.len() < OUTPUT_MAX {
            let Some(chain) = queue.pop(memory)? else {
                if queue.listen(memory)? {
                    continue;
                }
                break;
            };
            let length = chain.readable_length();
            if length > REQUEST_MAX {
                return Err(chain.malformed("it is longer than 1 MiB"));
            }
            let start = self.output.len();
            self.output.resize(start + length as usize, 0);
            chain.read(memory, 0, &mut self.output[start..]);
            queue.push(memory, chain, 0)?;
        }
        Ok(())
    }

    fn receive(
        queue: &mut Virtqueue,
        memory: &GuestMemory,
        bytes: &[u8],
    ) -> Result<usize, QueueError> {
        let mut taken = 0;
        while taken < bytes.len() {
            let Some(chain) = queue.pop(memory)? else {
                if queue.listen(memory)? {
                    continue;
                }
                break;
            };
            let written = chain.write(memory, 0, &bytes[taken..]);
            queue.push(memory, chain, written as u32)?;
            taken += written;
        }
        Ok(taken)
    }
}

impl VirtioMmio<VirtioConsole> {
    /// True if the guest has written something that was not taken.
    pub fn has_output(&self) -> bool {
        !self.device().output.is_empty()
    }

    /// Takes what the guest has written. If it may have written more than is given at once, it is
    /// to be called again until there is nothing.
    pub fn take_output(&mut self) -> Vec<u8> {
        let output = std::mem::take(&mut self.device_mut().output);
        if !output.is_empty() {
            self.run(|device, queues, ram| device.transmit(&mut queues[TRANSMIT], ram.mmap()));
        }
        output
    }

    /// Gives input to the guest; returns how many of the bytes it had buffers for. The board keeps
    /// the others and tries again after the guest's next write to the slot.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        self.run(|_, queues, ram| VirtioConsole::receive(&mut queues[RECEIVE], ram.mmap(), bytes))
    }
}

impl VirtioDevice for VirtioConsole {
    type State = VirtioConsoleState;
    const NAME: &'static str = "virtio-console";
    const DEVICE_ID: u32 = 3;
    const QUEUES: usize = 2;

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> &[u8] {
        // Every field belongs to a feature that is not offered; the space is there all the same.
        &[0; 12]
    }

    fn process(
        &mut self,
        index: usize,
        queues: &mut [Virtqueue],
        memory: &GuestMemory,
    ) -> Result<(), QueueError> {
        match index {
            TRANSMIT => self.transmit(&mut queues[TRANSMIT], memory),
            // New room for input: the board tries again by itself.
            _ => Ok(()),
        }
    }

    fn reset(&mut self) {}

    fn save(&self, transport: VirtioMmioState) -> VirtioConsoleState {
        let Self { output } = self;
        debug_assert!(output.is_empty(), "console output was not taken before the save");
        VirtioConsoleState { transport }
    }

    fn transport(state: &VirtioConsoleState) -> &VirtioMmioState {
        let VirtioConsoleState { transport } = state;
        transport
    }

    fn check(&self, _state: &VirtioConsoleState) -> Result<(), String> {
        Ok(())
    }

    fn restore(&mut self, _state: &VirtioConsoleState) {}
}
