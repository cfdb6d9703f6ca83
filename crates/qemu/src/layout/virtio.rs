//! virtio devices on the MMIO transport. A description does not show their inside: this is what the
//! bytes of QEMU 7.2's streams are.

use vmstate::{Invalid, VmState};

/// Queues that QEMU's fixed tables have room for.
pub const QUEUES: usize = 1024;

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtqueue", version = 1)]
pub struct VirtioQueueLayout {
    /// Descriptors; 0 if the device has no such queue.
    pub num: u32,
    /// Alignment of the used ring, of the legacy transport.
    pub align: u32,
    /// Guest-physical address of the descriptor table; of the legacy transport, of all rings.
    pub desc: u64,
    /// Index of the next request.
    pub last_avail: u16,
}

/// What every virtio section begins with.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtio-head", version = 1)]
pub struct VirtioHeadLayout {
    /// Which word of the offered features is read.
    pub host_features_select: u32,
    /// Which word of the driver's features is written.
    pub guest_features_select: u32,
    /// Page size of the legacy transport, as a power of two.
    pub guest_page_shift: u32,
    /// Device status.
    pub status: u8,
    /// Interrupt status.
    pub isr: u8,
    /// Selected queue.
    pub queue_select: u16,
    /// The driver's features, low half.
    pub features: u32,
    /// Configuration space.
    #[vmstate(max = 256)]
    pub config: Vec<u8>,
    /// The queues.
    #[vmstate(max = 64)]
    pub queues: Vec<VirtioQueueLayout>,
}

/// What every virtio section ends with.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtio", version = 1)]
pub struct VirtioTailLayout {
    /// There unless little-endian as the target.
    #[vmstate(subsection = "device_endian")]
    pub device_endian: Option<EndianLayout>,
    /// There if the device offers features above bit 31.
    #[vmstate(subsection = "64bit_features")]
    pub features64: Option<FeaturesLayout>,
    /// There if the device offers virtio 1.
    #[vmstate(subsection = "virtqueues")]
    pub virtqueues: Option<RingsLayout>,
    /// There if queues have another size than at reset.
    #[vmstate(subsection = "ringsize")]
    pub ringsize: Option<RingSizesLayout>,
    /// There once the driver has broken a rule.
    #[vmstate(subsection = "broken")]
    pub broken: Option<BrokenLayout>,
    /// There if the transport has more to say.
    #[vmstate(subsection = "extra_state")]
    pub extra_state: Option<ExtraLayout>,
    /// There while the driver runs.
    #[vmstate(subsection = "started")]
    pub started: Option<StartedLayout>,
    /// There if the device is disabled.
    #[vmstate(subsection = "disabled")]
    pub disabled: Option<DisabledLayout>,
}

/// Section of a virtio entropy source.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtio-rng", version = 1)]
pub struct VirtioRngLayout {
    /// Transport and queues.
    pub head: VirtioHeadLayout,
    /// What does not always come.
    pub tail: VirtioTailLayout,
}

/// Section of a virtio disk.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(
    name = "virtio-blk",
    version = 2,
    minimum_version = 2,
    validate = "VirtioBlockLayout::check"
)]
pub struct VirtioBlockLayout {
    /// Transport and queues.
    pub head: VirtioHeadLayout,
    /// A request in flight follows; QEMU finishes them before it saves, unless the host's disk has
    /// failed.
    pub in_flight: u8,
    /// What does not always come.
    pub tail: VirtioTailLayout,
}

impl VirtioBlockLayout {
    fn check(&self) -> Result<(), Invalid> {
        // What would follow is a structure of the host's, in the host's byte order.
        if self.in_flight != 0 {
            return Err(Invalid::new("a request is in flight: the source's disk has failed"));
        }
        Ok(())
    }
}

/// Subsection `virtio/device_endian`: Byte order of the device.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "device_endian", version = 1)]
pub struct EndianLayout {
    /// 1 little, 2 big.
    pub value: u8,
}

/// Subsection `virtio/64bit_features`: The driver's features, whole.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "64bit_features", version = 1)]
pub struct FeaturesLayout {
    /// They.
    pub value: u64,
}

/// Subsection `virtio/ringsize`: Sizes at reset.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "ringsize", version = 1)]
pub struct RingSizesLayout {
    /// Of each queue.
    pub sizes: [u32; QUEUES],
}

/// Subsection `virtio/broken`: The driver has broken a rule.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "broken", version = 1)]
pub struct BrokenLayout {
    /// 1.
    pub value: u8,
}

/// Subsection `virtio/started`: The driver runs.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "started", version = 1)]
pub struct StartedLayout {
    /// 1.
    pub value: u8,
}

/// Subsection `virtio/disabled`: The device is disabled.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "disabled", version = 1)]
pub struct DisabledLayout {
    /// 1.
    pub value: u8,
}

/// Rings of a queue.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtqueue_state", version = 1)]
pub struct RingAddressesLayout {
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
}

/// Subsection `virtio/virtqueues`: the rings of all queues.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtqueues", version = 1)]
pub struct RingsLayout {
    /// Of each queue.
    pub queues: [RingAddressesLayout; QUEUES],
}

/// Subsection `virtio/extra_state`: a transport's own structure.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtio_mmio", version = 1)]
pub struct ExtraLayout {
    /// There for the transport of virtio 1.
    #[vmstate(subsection = "state")]
    pub state: Option<MmioLayout>,
}

/// What the driver has written of a queue.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtio_mmio-queue_state", version = 1)]
pub struct MmioQueueLayout {
    /// Size.
    pub num: u16,
    /// Ready.
    pub enabled: u8,
    /// Descriptor table, low and high.
    pub desc: [u32; 2],
    /// Available ring.
    pub avail: [u32; 2],
    /// Used ring.
    pub used: [u32; 2],
}

/// Subsection `virtio_mmio/state`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtio_mmio-state", version = 1)]
pub struct MmioLayout {
    /// The driver's features as they are being written.
    pub guest_features: [u32; 2],
    /// The queues.
    pub queues: [MmioQueueLayout; QUEUES],
}
