//! virtio devices on the legacy MMIO transport, which QEMU's `microvm` has by default.

use devices::virtio::{QueueState, VirtioLegacyState, VirtioMmioState, legacy_rings};

use super::virtio::{DRIVER_OK, check_offered, check_ring_sizes, is_marked, ring_sizes};
use super::{Reason, require};
use crate::layout::*;

/// Queue numbers below this can be selected.
const QUEUE_NUMBERS: u16 = QUEUES as u16;

fn queue_from_qemu(
    index: usize,
    layout: &VirtioQueueLayout,
    used_index: &dyn Fn(u64) -> Option<u16>,
    started: bool,
    broken: bool,
) -> Result<QueueState, Reason> {
    let of = |what: &str| format!("queue {index}: {what}");
    let VirtioQueueLayout { num, align, desc, last_avail } = *layout;
    let size = u16::try_from(num).ok().filter(|size| (1..=QUEUE_NUMBERS).contains(size));
    let size = size.ok_or_else(|| of(&format!("num {num} is not 1 to {QUEUE_NUMBERS}")))?;
    require(align != 0, of("align is 0"))?;
    let nowhere = QueueState { size, descriptor_table: desc, ..QueueState::default() };
    if desc == 0 {
        require(last_avail == 0, of("it is not in use and has served requests"))?;
        return Ok(nowhere);
    }
    if broken {
        // Nothing is looked at before a reset, and what the driver has said may be impossible.
        return Ok(QueueState { next_available: last_avail, ..nowhere });
    }
    let rings = legacy_rings(desc, size, align);
    let (available_ring, used_ring) = rings.ok_or_else(|| of("it is not in memory"))?;
    let next_used = used_index(used_ring).ok_or_else(|| of("its used ring is not in memory"))?;
    require(
        next_used == last_avail,
        of("a request is in flight, which QEMU's stream does not carry"),
    )?;
    Ok(QueueState {
        ready: true,
        available_ring,
        used_ring,
        next_available: last_avail,
        next_used,
        // QEMU looks at the ring again after every load.
        unfinished: started,
        ..nowhere
    })
}

/// The state of a slot with the legacy transport. `ring` is the size of a queue out of reset.
pub(super) fn from_qemu(
    head: VirtioHeadLayout,
    tail: &VirtioTailLayout,
    offered: u64,
    ring: u32,
    used_index: &dyn Fn(u64) -> Option<u16>,
) -> Result<(VirtioMmioState, VirtioLegacyState), Reason> {
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
    require(
        virtqueues.is_none() && extra_state.is_none(),
        "the device has the interface of virtio 1, and the machine is to have the legacy one: give \
         the machine virtio = \"modern\", or start QEMU with -global \
         virtio-mmio.force-legacy=on, which is its default",
    )?;
    require(device_endian.is_none(), "subsection virtio/device_endian: it is big-endian")?;
    require(disabled.is_none(), "subsection virtio/disabled: the device is disabled")?;
    let broken = is_marked("virtio/broken", broken.as_ref().map(|BrokenLayout { value }| *value))?;
    let started =
        is_marked("virtio/started", started.as_ref().map(|StartedLayout { value }| *value))?;
    require(
        started || status & DRIVER_OK == 0,
        "subsection virtio/started is missing, and status says that the driver runs",
    )?;
    let driver_features = u64::from(features);
    if let Some(FeaturesLayout { value }) = features64 {
        require(
            *value == driver_features,
            format!("subsection virtio/64bit_features: {value:#x} is not features"),
        )?;
    }
    let foreign = driver_features & !offered;
    require(foreign == 0, format!("features: {foreign:#x} is not offered"))?;
    require(
        host_features_select <= 1 && guest_features_select <= 1,
        "host_features_sel or guest_features_sel is neither 0 nor 1",
    )?;
    require(guest_page_shift < 32, format!("guest_page_shift {guest_page_shift} is not 0 to 31"))?;
    require(
        queue_select < QUEUE_NUMBERS,
        format!("queue_sel {queue_select} is not 0 to {}", QUEUE_NUMBERS - 1),
    )?;
    check_ring_sizes(ringsize.as_ref(), queues.len(), ring)?;
    require(
        ringsize.is_some() == queues.iter().any(|queue| queue.num != ring),
        "subsection virtio/ringsize contradicts num",
    )?;
    let mut into = Vec::with_capacity(queues.len());
    for (index, queue) in queues.iter().enumerate() {
        into.push(queue_from_qemu(index, queue, used_index, started, broken)?);
    }
    let transport = VirtioMmioState {
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
    };
    let alignments = queues.iter().map(|queue| queue.align).collect();
    Ok((transport, VirtioLegacyState { page_shift: guest_page_shift, broken, started, alignments }))
}

/// QEMU's section of a slot with the legacy transport.
pub(super) fn to_qemu(
    transport: &VirtioMmioState,
    legacy: &VirtioLegacyState,
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
        // The interface does not show it.
        config_generation: _,
        config,
        queues,
    } = transport;
    let VirtioLegacyState { page_shift, broken, started, alignments } = legacy;
    check_offered(*device_features, offered)?;
    require(alignments.len() == queues.len(), "a queue has no alignment")?;
    let mut into = Vec::with_capacity(queues.len());
    for (queue, align) in queues.iter().zip(alignments) {
        let QueueState {
            size,
            // Follows from its place, and where its rings are from that, size and alignment.
            ready: _,
            descriptor_table,
            available_ring: _,
            used_ring: _,
            next_available,
            // In guest memory.
            next_used: _,
            // QEMU looks at the ring after every load.
            unfinished: _,
        } = *queue;
        into.push(VirtioQueueLayout {
            num: size.into(),
            align: *align,
            desc: descriptor_table,
            last_avail: next_available,
        });
    }
    let chosen = into.iter().any(|queue| queue.num != ring);
    let head = VirtioHeadLayout {
        host_features_select: *device_features_select,
        guest_features_select: *driver_features_select,
        guest_page_shift: *page_shift,
        status: *status,
        isr: *interrupt_status,
        queue_select: u16::try_from(*queue_select).map_err(|_| "queue_select is out of range")?,
        features: *driver_features as u32,
        config: config.clone(),
        queues: into,
    };
    let tail = VirtioTailLayout {
        device_endian: None,
        features64: Some(FeaturesLayout { value: *driver_features }),
        virtqueues: None,
        ringsize: chosen.then(|| ring_sizes(queues.len(), ring)),
        broken: broken.then_some(BrokenLayout { value: 1 }),
        extra_state: None,
        started: started.then_some(StartedLayout { value: 1 }),
        disabled: None,
    };
    Ok((head, tail))
}
