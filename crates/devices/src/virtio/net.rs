//! virtio-net (virtio 1.2, section 5.1): a receive, a transmit and a control queue.
//!
//! No offload is offered: the header before each frame says nothing, whatever the host could do,
//! so that a guest sees the same device on every host. Without offloads a frame fits in the one
//! buffer that a driver gives for it, hence no merged receive buffers either.
//!
//! A frame is sent before the driver's notification ends. One that the driver has no buffer for is
//! held back, and more stay with the back end; what is held when the machine moves is lost, as on
//! a cable that is pulled.

use std::io;

use memory::GuestMemory;
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_ERR, VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, VIRTIO_NET_OK,
    VIRTIO_NET_S_ANNOUNCE, VIRTIO_NET_S_LINK_UP,
};
use vmstate::VmState;

use super::VirtioDevice;
use super::mmio::VirtioMmio;
use super::net_backend::NetBackend;
use super::queue::{QueueError, Virtqueue};
use super::state::VirtioMmioState;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL: usize = 2;

const GUEST_ANNOUNCE: u64 = 1 << VIRTIO_NET_F_GUEST_ANNOUNCE;
const FEATURES: u64 =
    1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_STATUS | 1 << VIRTIO_NET_F_CTRL_VQ | GUEST_ANNOUNCE;

/// Length of the header before each frame (section 5.1.6): flags, type of segmentation, four
/// 16-bit numbers about it, and the number of buffers.
const HEADER: usize = 12;
/// Offset of the number of buffers in the header of a received frame.
const HEADER_BUFFERS: usize = 10;
/// Longest frame in bytes: the largest MTU of an interface, an Ethernet header and a VLAN tag.
pub const FRAME_MAX: usize = 65_535 + 14 + 4;
/// Shortest frame: an Ethernet header.
const FRAME_MIN: usize = 14;

/// Offset of the status in the configuration space, behind the MAC address.
const STATUS: usize = 6;
const LINK_UP: u8 = VIRTIO_NET_S_LINK_UP as u8;
const ANNOUNCE: u8 = VIRTIO_NET_S_ANNOUNCE as u8;

/// Saved state of a virtio-net slot.
///
/// MAC address, link status and the wish for an announcement are in the configuration space. What
/// else a network device can have (filters, merged buffers, offloads) belongs to features that are
/// not offered.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtio-net", version = 1)]
pub struct VirtioNetState {
    /// The transport.
    pub transport: VirtioMmioState,
}

/// A virtio-net device.
pub struct VirtioNet {
    /// MAC address and status.
    config: [u8; 8],
    backend: Box<dyn NetBackend>,
    /// Header and room for a frame that arrives. The header stays as it is.
    arriving: Vec<u8>,
    /// Length of the frame in `arriving` that waits for a buffer; the host's, hence not saved.
    held: Option<usize>,
    /// A request of the driver: header and frame.
    leaving: Vec<u8>,
}

impl VirtioNet {
    /// A device with this MAC address whose link is up.
    pub fn new(mac: [u8; 6], backend: Box<dyn NetBackend>) -> Self {
        let mut config = [0; 8];
        config[..STATUS].copy_from_slice(&mac);
        config[STATUS] = LINK_UP;
        let mut arriving = vec![0; HEADER + FRAME_MAX];
        arriving[HEADER_BUFFERS] = 1;
        Self { config, backend, arriving, held: None, leaving: Vec::new() }
    }

    /// The MAC address.
    pub fn mac(&self) -> [u8; 6] {
        std::array::from_fn(|index| self.config[index])
    }

    /// What is behind the device.
    pub fn backend(&self) -> &dyn NetBackend {
        &*self.backend
    }

    /// Holds a frame, if there is one. `Ok(false)` if there is none.
    fn hold(&mut self) -> io::Result<bool> {
        if self.held.is_none() {
            self.held = self.backend.receive(&mut self.arriving[HEADER..])?;
        }
        Ok(self.held.is_some())
    }

    /// Gives frames to the driver until there is none left or no buffer for it, but not many more
    /// than the queue has room for. True if there is none left.
    fn receive(&mut self, queue: &mut Virtqueue, memory: &GuestMemory) -> Result<bool, QueueError> {
        let mut turns = 2 * usize::from(queue.max_size());
        while turns > 0 {
            turns -= 1;
            match self.hold() {
                Ok(true) => (),
                Ok(false) => return Ok(true),
                // A back end that fails may have frames again some time.
                Err(_) => return Ok(false),
            }
            let Some(chain) = queue.pop(memory)? else {
                if queue.listen(memory)? {
                    continue;
                }
                return Ok(false);
            };
            if chain.readable_length() != 0 {
                return Err(chain.malformed("a buffer for a frame cannot be written"));
            }
            let Some(length) = self.held.take() else { continue };
            if chain.writable_length() < (HEADER + length) as u64 {
                // Longer than anything the driver can take: lost, as on a link with a smaller MTU.
                queue.put_back(chain);
                continue;
            }
            let written = chain.write(memory, 0, &self.arriving[..HEADER + length]);
            queue.push(memory, chain, written as u32)?;
        }
        Ok(false)
    }

    fn transmit(&mut self, queue: &mut Virtqueue, memory: &GuestMemory) -> Result<(), QueueError> {
        queue.serve(memory, |chain| {
            let length = chain.readable_length();
            if length < HEADER as u64 {
                return Err(chain.malformed("it has no header"));
            }
            if length > (HEADER + FRAME_MAX) as u64 {
                return Err(chain.malformed("it is longer than any frame"));
            }
            self.leaving.resize(length as usize, 0);
            chain.read(memory, 0, &mut self.leaving);
            let (header, frame) = self.leaving.split_at(HEADER);
            // Flags and type of segmentation.
            if header[..2] != [0, 0] {
                return Err(chain.malformed("it asks for an offload that was not agreed on"));
            }
            if frame.len() >= FRAME_MIN {
                self.backend.send(frame);
            }
            Ok(0)
        })
    }

    fn control(&mut self, queue: &mut Virtqueue, memory: &GuestMemory) -> Result<(), QueueError> {
        queue.serve(memory, |chain| {
            if chain.writable_length() == 0 {
                return Err(chain.malformed("it has no room for the answer"));
            }
            // Class and command (section 5.1.6.5); those of features that are not offered fail.
            let mut command = [0xff; 2];
            let complete = chain.read(memory, 0, &mut command) == command.len();
            let announced =
                [VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK].map(|byte| byte as u8);
            let answer = if complete && command == announced {
                self.config[STATUS] &= !ANNOUNCE;
                VIRTIO_NET_OK
            } else {
                VIRTIO_NET_ERR
            };
            Ok(chain.write(memory, 0, &[answer as u8]) as u32)
        })
    }

    /// Throws away all that has arrived. What arrives meanwhile may stay.
    fn discard(&mut self) {
        // No back end holds more than this without end.
        for _ in 0..65_536 {
            self.held = None;
            if !matches!(self.hold(), Ok(true)) {
                break;
            }
        }
        self.held = None;
    }
}

impl VirtioMmio<VirtioNet> {
    /// Gives the driver the frames that have arrived, as many as it has buffers for; a driver that
    /// is not there loses them. True if none is left.
    pub fn receive(&mut self) -> bool {
        let received = self
            .run(|device, queues, ram| device.receive(&mut queues[RECEIVE], ram.mmap()).map(Some));
        received.unwrap_or_else(|| {
            self.device_mut().discard();
            true
        })
    }

    /// The machine has come to this host: what has arrived for it so far it may have had at the
    /// other already. Asks the driver to announce where it is (section 5.1.6.5.4), if it can.
    pub fn arrive(&mut self) {
        self.device_mut().discard();
        if self.driver_agreed(GUEST_ANNOUNCE) {
            self.device_mut().config[STATUS] |= ANNOUNCE;
            self.config_changed();
        }
    }
}

impl VirtioDevice for VirtioNet {
    type State = VirtioNetState;
    const NAME: &'static str = "virtio-net";
    const DEVICE_ID: u32 = 1;
    const QUEUES: usize = 3;

    fn features(&self) -> u64 {
        FEATURES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn takes_config(&self, saved: &[u8]) -> bool {
        let with_status = |status: u8| {
            let mut config = self.config;
            config[STATUS] = status;
            config
        };
        saved == with_status(LINK_UP) || saved == with_status(LINK_UP | ANNOUNCE)
    }

    fn process(
        &mut self,
        index: usize,
        queues: &mut [Virtqueue],
        memory: &GuestMemory,
    ) -> Result<(), QueueError> {
        match index {
            RECEIVE => self.receive(&mut queues[RECEIVE], memory).map(|_| ()),
            TRANSMIT => self.transmit(&mut queues[TRANSMIT], memory),
            _ => self.control(&mut queues[CONTROL], memory),
        }
    }

    fn reset(&mut self) {
        self.config[STATUS] = LINK_UP;
        self.held = None;
    }

    fn save(&self, transport: VirtioMmioState) -> VirtioNetState {
        let Self { config: _, backend: _, arriving: _, held: _, leaving: _ } = self;
        VirtioNetState { transport }
    }

    fn transport(state: &VirtioNetState) -> &VirtioMmioState {
        let VirtioNetState { transport } = state;
        transport
    }

    fn check(&self, state: &VirtioNetState) -> Result<(), String> {
        let VirtioNetState { transport } = state;
        let announce = transport.config.get(STATUS).is_some_and(|status| status & ANNOUNCE != 0);
        if announce && transport.driver_features & GUEST_ANNOUNCE == 0 {
            return Err("it asks a driver to announce that cannot".to_owned());
        }
        Ok(())
    }

    fn restore(&mut self, state: &VirtioNetState) {
        let VirtioNetState { transport } = state;
        self.config.copy_from_slice(&transport.config);
        self.held = None;
    }
}
