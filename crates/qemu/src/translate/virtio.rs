//! virtio devices on the MMIO transport: that of virtio 1 here, the legacy one in a file of its own.

use devices::virtio::{
    QueueState, RngKind, VirtioBlockState, VirtioLegacyState, VirtioMmioState, VirtioRngState,
};
use machine::{RngSource, VirtioDevice, VirtioInterface, VirtioKind};
use vmstate::{SavedSection, VmState};

use super::{Reason, TranslateError, decode, failed, require, virtio_legacy};
use crate::layout::*;

const NEEDS_RESET: u8 = 0x40;
pub(super) const DRIVER_OK: u8 = 0x04;
/// The page size of a transport whose driver is one of virtio 1, as a power of two: it was never
/// set.
const NO_PAGE_SHIFT: u32 = 0;
/// Sizes of QEMU's queues out of reset.
const BLOCK_RING: u32 = 256;
const RNG_RING: u32 = 8;

/// Features that QEMU 7.2 offers for a disk with its defaults; its stream does not say.
pub const BLOCK_FEATURES: u64 = 0x101_3000_6e54;
/// The same for an entropy source.
pub const RNG_FEATURES: u64 = 0x101_3000_0000;
/// Features that it offers for a disk with the legacy transport: a driver can see 32 of them.
pub const BLOCK_LEGACY_FEATURES: u64 = 0x3100_6ed4;
/// The same for an entropy source.
pub const RNG_LEGACY_FEATURES: u64 = 0x3900_0000;
/// What else QEMU offers for a disk that the guest cannot write (virtio 1.2, section 5.2.3).
const READ_ONLY: u64 = 1 << 5;

/// Of a device, by which interface its driver reaches it.
fn offered(kind: &VirtioKind, interface: VirtioInterface) -> u64 {
    let (block, rng) = match interface {
        VirtioInterface::Legacy => (BLOCK_LEGACY_FEATURES, RNG_LEGACY_FEATURES),
        VirtioInterface::Modern => (BLOCK_FEATURES, RNG_FEATURES),
    };
    match kind {
        VirtioKind::Block { read_only, .. } => block | if *read_only { READ_ONLY } else { 0 },
        VirtioKind::Rng { .. } | VirtioKind::Console { .. } | VirtioKind::Net { .. } => rng,
    }
}

/// The sizes of `count` queues at reset, as they stand in a stream.
pub(super) fn ring_sizes(count: usize, ring: u32) -> RingSizesLayout {
    RingSizesLayout { sizes: table(vec![ring; count], 0) }
}

/// Whether queues have the sizes at reset that they have here.
pub(super) fn check_ring_sizes(
    found: Option<&RingSizesLayout>,
    count: usize,
    ring: u32,
) -> Result<(), Reason> {
    let right = found.is_none_or(|found| *found == ring_sizes(count, ring));
    let reason = format!(
        "subsection virtio/ringsize: not every queue has {ring} entries at reset: start QEMU \
         without queue-size and num-queues"
    );
    require(right, reason)
}

/// Whether a mark is there: a subsection that holds 1 where it comes at all.
pub(super) fn is_marked(subsection: &str, found: Option<u8>) -> Result<bool, Reason> {
    require(matches!(found, None | Some(1)), format!("subsection {subsection} is not 1"))?;
    Ok(found.is_some())
}

/// Whether the guest was offered what QEMU offers.
pub(super) fn check_offered(found: u64, offered: u64) -> Result<(), Reason> {
    let reason = format!("features {found:#x} were offered to the guest; QEMU offers {offered:#x}");
    require(found == offered, reason)
}

fn queue_from_qemu(
    index: usize,
    legacy: &VirtioQueueLayout,
    rings: &RingAddressesLayout,
    mmio: &MmioQueueLayout,
    used_index: &dyn Fn(u64) -> Option<u16>,
    running: bool,
    broken: bool,
) -> Result<QueueState, Reason> {
    let of = |what: &str| format!("queue {index}: {what}");
    let address = |[low, high]: [u32; 2]| u64::from(high) << 32 | u64::from(low);
    let ready = match mmio.enabled {
        0 => false,
        1 => true,
        _ => return Err(of("enabled is neither 0 nor 1")),
    };
    let size = |value: u32| u16::try_from(value).map_err(|_| of("num has more than 16 bits"));
    let written = (address(mmio.desc), address(mmio.avail), address(mmio.used));
    let (descriptors, available, used) =
        if ready { (legacy.desc, rings.avail, rings.used) } else { written };
    require(!ready || written == (descriptors, available, used), of("its rings are given twice"))?;
    let next_used = match ready {
        false => 0,
        true => used_index(used).ok_or_else(|| of("its used ring is not in memory"))?,
    };
    require(
        broken || !ready || next_used == legacy.last_avail,
        of("a request is in flight, which QEMU's stream does not carry"),
    )?;
    Ok(QueueState {
        size: if ready { size(legacy.num)? } else { mmio.num },
        ready,
        descriptor_table: descriptors,
        available_ring: available,
        used_ring: used,
        next_available: legacy.last_avail,
        next_used,
        // QEMU looks at the ring again after every load.
        unfinished: ready && running && !broken,
    })
}

fn transport_from_qemu(
    head: VirtioHeadLayout,
    tail: &VirtioTailLayout,
    offered: u64,
    ring: u32,
    used_index: &dyn Fn(u64) -> Option<u16>,
) -> Result<VirtioMmioState, Reason> {
    let VirtioHeadLayout {
        host_features_select,
        guest_features_select,
        guest_page_shift,
        status,
        isr,
        queue_select,
        features,
        config,
        queues,
    } = head;
    let VirtioTailLayout {
        device_endian,
        features64,
        virtqueues,
        ringsize,
        broken,
        extra_state,
        started,
        disabled,
    } = tail;
    let state = extra_state.as_ref().and_then(|extra| extra.state.as_ref());
    let (Some(state), Some(rings), NO_PAGE_SHIFT) = (state, virtqueues, guest_page_shift) else {
        return Err(
            "the device has the legacy interface, and the machine is to have that of virtio 1: give \
             the machine virtio = \"legacy\", or start QEMU with -global \
             virtio-mmio.force-legacy=false"
                .to_owned(),
        );
    };
    check_ring_sizes(ringsize.as_ref(), queues.len(), ring)?;
    require(device_endian.is_none(), "subsection virtio/device_endian: it is big-endian")?;
    require(disabled.is_none(), "subsection virtio/disabled: the device is disabled")?;
    let running = status & DRIVER_OK != 0;
    require(
        is_marked("virtio/started", started.as_ref().map(|StartedLayout { value }| *value))?
            == running,
        "subsection virtio/started is not what status says of the driver",
    )?;
    let broken = is_marked("virtio/broken", broken.as_ref().map(|BrokenLayout { value }| *value))?;
    require(
        broken == (status & NEEDS_RESET != 0),
        "subsection virtio/broken is not what status says of the device",
    )?;
    let MmioLayout { guest_features, queues: mmio } = state;
    let [low, high] = *guest_features;
    let agreed = features64.as_ref().map_or(features.into(), |FeaturesLayout { value }| *value);
    require(agreed as u32 == features, "subsection virtio/64bit_features contradicts features")?;
    let written = u64::from(high) << 32 | u64::from(low);
    // Before the driver has agreed only the transport knows what it writes.
    let driver_features = if status & 0x08 != 0 { agreed } else { written };
    require(offered & driver_features == driver_features, "a feature that is not offered")?;
    let mut into = Vec::with_capacity(queues.len());
    for (index, legacy) in queues.iter().enumerate() {
        let (rings, mmio) = (&rings.queues[index], &mmio[index]);
        into.push(queue_from_qemu(index, legacy, rings, mmio, used_index, running, broken)?);
    }
    Ok(VirtioMmioState {
        device_features: offered,
        device_features_select: host_features_select,
        driver_features,
        driver_features_select: guest_features_select,
        queue_select: queue_select.into(),
        status,
        interrupt_status: isr,
        config_generation: 0,
        config,
        queues: into,
    })
}

/// Bytes of a disk's configuration space.
const BLOCK_CONFIG: usize = 57;

/// A disk's configuration space as QEMU 7.2 fills it upon the first read, which is when it becomes
/// state: before that it is all zeroes, and no guest has seen it. Geometry is that of a disk without
/// a partition table: 16 heads and 63 sectors.
fn block_config(sectors: u64) -> Vec<u8> {
    const HEADS: u8 = 16;
    const SECTORS: u8 = 63;
    const RANGE: u32 = 0x3f_ffff;
    let cylinders = (sectors / (u64::from(HEADS) * u64::from(SECTORS))).clamp(2, 16383) as u16;
    let mut config = Vec::with_capacity(BLOCK_CONFIG);
    config.extend(sectors.to_le_bytes());
    // No limit of a segment's size; segments of a request.
    config.extend([0u32, BLOCK_RING - 2].map(u32::to_le_bytes).as_flattened());
    config.extend(cylinders.to_le_bytes());
    config.extend([HEADS, SECTORS]);
    config.extend(512u32.to_le_bytes());
    // Topology; the cache is on; one queue.
    config.extend([0; 8]);
    config.extend([1, 0, 1, 0]);
    // Sectors, segments and alignment of discarding; sectors and segments of zeroes, which unmap.
    config.extend([RANGE, 1, 1, RANGE, 1].map(u32::to_le_bytes).as_flattened());
    config.push(1);
    config
}

/// The section of a device, from QEMU's.
pub(super) fn from_qemu(
    sections: &[SavedSection],
    interface: VirtioInterface,
    device: &VirtioDevice,
    used_index: &dyn Fn(u64) -> Option<u16>,
) -> Result<SavedSection, TranslateError> {
    let name = virtio_section(device.slot, virtio_device(&device.kind));
    let offered = offered(&device.kind, interface);
    let either = |head, tail: &VirtioTailLayout, ring| match interface {
        VirtioInterface::Legacy => virtio_legacy::from_qemu(head, tail, offered, ring, used_index)
            .map(|(transport, legacy)| (transport, Some(legacy))),
        VirtioInterface::Modern => transport_from_qemu(head, tail, offered, ring, used_index)
            .map(|transport| (transport, None)),
    };
    match &device.kind {
        VirtioKind::Block { sectors, .. } => {
            let layout: VirtioBlockLayout = decode(sections, &name, 0)?;
            let VirtioBlockLayout { mut head, in_flight: _, tail } = layout;
            if head.config == [0; BLOCK_CONFIG] {
                head.config = block_config(*sectors);
            }
            let (transport, legacy) = either(head, &tail, BLOCK_RING).map_err(failed(&name, 0))?;
            Ok(SavedSection::encode(name, 0, &VirtioBlockState { transport, legacy }))
        }
        VirtioKind::Rng { source, .. } => {
            let layout: VirtioRngLayout = decode(sections, &name, 0)?;
            let VirtioRngLayout { head, tail } = layout;
            let fail = failed(&name, 0);
            if *source != RngSource::Host {
                return Err(fail("QEMU's entropy comes from the host".to_owned()));
            }
            let (transport, legacy) = either(head, &tail, RNG_RING).map_err(fail)?;
            let state =
                VirtioRngState { transport, kind: RngKind::Host, generator: [0; 4], legacy };
            Ok(SavedSection::encode(name, 0, &state))
        }
        VirtioKind::Net { .. } | VirtioKind::Console { .. } => Err(none(&name)),
    }
}

fn none(name: &str) -> TranslateError {
    failed(name, 0)("a device of this type has no translation".to_owned())
}

fn table<T: Clone, const N: usize>(first: Vec<T>, rest: T) -> [T; N] {
    std::array::from_fn(|index| first.get(index).cloned().unwrap_or_else(|| rest.clone()))
}

fn transport_to_qemu(
    state: &VirtioMmioState,
    offered: u64,
    ring: u32,
) -> Result<(VirtioHeadLayout, VirtioTailLayout), Reason> {
    let VirtioMmioState {
        device_features,
        device_features_select,
        driver_features,
        driver_features_select,
        queue_select,
        status,
        interrupt_status,
        config_generation: _,
        config,
        queues,
    } = state;
    check_offered(*device_features, offered)?;
    let words = |address: u64| [address as u32, (address >> 32) as u32];
    let mut legacy = Vec::new();
    let (mut rings, mut mmio) = (Vec::new(), Vec::new());
    for queue in queues {
        let QueueState {
            size,
            ready,
            descriptor_table,
            available_ring,
            used_ring,
            next_available,
            // In guest memory.
            next_used: _,
            // QEMU looks at the ring after every load.
            unfinished: _,
        } = *queue;
        let set = |address: u64| if ready { address } else { 0 };
        legacy.push(VirtioQueueLayout {
            num: if ready { size.into() } else { ring },
            align: 4096,
            desc: set(descriptor_table),
            last_avail: next_available,
        });
        rings.push(RingAddressesLayout { avail: set(available_ring), used: set(used_ring) });
        mmio.push(MmioQueueLayout {
            num: size,
            enabled: ready.into(),
            desc: words(descriptor_table),
            avail: words(available_ring),
            used: words(used_ring),
        });
    }
    let none = RingAddressesLayout { avail: 0, used: 0 };
    let nothing = MmioQueueLayout { num: 0, enabled: 0, desc: [0; 2], avail: [0; 2], used: [0; 2] };
    let broken = status & NEEDS_RESET != 0;
    let head = VirtioHeadLayout {
        host_features_select: *device_features_select,
        guest_features_select: *driver_features_select,
        guest_page_shift: NO_PAGE_SHIFT,
        status: *status,
        isr: *interrupt_status,
        queue_select: u16::try_from(*queue_select).map_err(|_| "queue_select is out of range")?,
        features: *driver_features as u32,
        config: config.clone(),
        queues: legacy,
    };
    let tail = VirtioTailLayout {
        device_endian: None,
        features64: Some(FeaturesLayout { value: *driver_features }),
        virtqueues: Some(RingsLayout { queues: table(rings, none) }),
        ringsize: Some(ring_sizes(queues.len(), ring)),
        broken: broken.then_some(BrokenLayout { value: 1 }),
        extra_state: Some(ExtraLayout {
            state: Some(MmioLayout {
                guest_features: words(*driver_features),
                queues: table(mmio, nothing),
            }),
        }),
        started: (status & DRIVER_OK != 0).then_some(StartedLayout { value: 1 }),
        disabled: None,
    };
    Ok((head, tail))
}

/// QEMU's section of a device.
pub(super) fn to_qemu(
    sections: &[SavedSection],
    interface: VirtioInterface,
    device: &VirtioDevice,
) -> Result<SavedSection, TranslateError> {
    let name = virtio_section(device.slot, virtio_device(&device.kind));
    let offered = offered(&device.kind, interface);
    let either = |transport: &VirtioMmioState, legacy: &Option<VirtioLegacyState>, ring| match (
        interface, legacy,
    ) {
        (VirtioInterface::Modern, None) => transport_to_qemu(transport, offered, ring),
        (VirtioInterface::Legacy, Some(legacy)) => {
            virtio_legacy::to_qemu(transport, legacy, offered, ring)
        }
        (VirtioInterface::Modern, Some(_)) | (VirtioInterface::Legacy, None) => {
            Err(format!("the machine has the {interface} interface, and the device has not"))
        }
    };
    match &device.kind {
        VirtioKind::Block { .. } => {
            let VirtioBlockState { transport, legacy } = decode(sections, &name, 0)?;
            let (head, tail) = either(&transport, &legacy, BLOCK_RING).map_err(failed(&name, 0))?;
            let layout = VirtioBlockLayout { head, in_flight: 0, tail };
            Ok(encoded(name, &layout))
        }
        VirtioKind::Rng { .. } => {
            let VirtioRngState { transport, kind, generator: _, legacy } =
                decode(sections, &name, 0)?;
            if kind != RngKind::Host {
                return Err(failed(&name, 0)("QEMU has no seeded entropy".to_owned()));
            }
            let (head, tail) = either(&transport, &legacy, RNG_RING).map_err(failed(&name, 0))?;
            Ok(encoded(name, &VirtioRngLayout { head, tail }))
        }
        VirtioKind::Net { .. } | VirtioKind::Console { .. } => Err(none(&name)),
    }
}

fn encoded<T: VmState>(name: String, layout: &T) -> SavedSection {
    SavedSection::encode(name, 0, layout)
}
