//! Registers and bits of the MMIO transport (virtio 1.2, section 4.2.2, and 2.1 for the status).

use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_ANY_LAYOUT, VIRTIO_F_NOTIFY_ON_EMPTY, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};

/// "virt", least significant byte first.
pub(super) const MAGIC: u32 = 0x7472_6976;
pub(super) const VERSION: u32 = 2;
pub(super) const VERSION_LEGACY: u32 = 1;
/// "QEMU", least significant byte first: the board is laid out as QEMU's.
pub(super) const VENDOR: u32 = 0x554d_4551;

pub(super) const REG_MAGIC: u64 = 0x000;
pub(super) const REG_VERSION: u64 = 0x004;
pub(super) const REG_DEVICE_ID: u64 = 0x008;
pub(super) const REG_VENDOR_ID: u64 = 0x00c;
pub(super) const REG_DEVICE_FEATURES: u64 = 0x010;
pub(super) const REG_DEVICE_FEATURES_SELECT: u64 = 0x014;
pub(super) const REG_DRIVER_FEATURES: u64 = 0x020;
pub(super) const REG_DRIVER_FEATURES_SELECT: u64 = 0x024;
/// Of the legacy interface alone (section 4.2.4), as are the two of a queue below.
pub(super) const REG_PAGE_SIZE: u64 = 0x028;
pub(super) const REG_QUEUE_SELECT: u64 = 0x030;
pub(super) const REG_QUEUE_SIZE_MAX: u64 = 0x034;
pub(super) const REG_QUEUE_SIZE: u64 = 0x038;
pub(super) const REG_QUEUE_ALIGN: u64 = 0x03c;
pub(super) const REG_QUEUE_PAGE: u64 = 0x040;
pub(super) const REG_QUEUE_READY: u64 = 0x044;
pub(super) const REG_QUEUE_NOTIFY: u64 = 0x050;
pub(super) const REG_INTERRUPT_STATUS: u64 = 0x060;
pub(super) const REG_INTERRUPT_ACKNOWLEDGE: u64 = 0x064;
pub(super) const REG_STATUS: u64 = 0x070;
pub(super) const REG_DESCRIPTORS_LOW: u64 = 0x080;
pub(super) const REG_DESCRIPTORS_HIGH: u64 = 0x084;
pub(super) const REG_AVAILABLE_LOW: u64 = 0x090;
pub(super) const REG_AVAILABLE_HIGH: u64 = 0x094;
pub(super) const REG_USED_LOW: u64 = 0x0a0;
pub(super) const REG_USED_HIGH: u64 = 0x0a4;
/// Shared memory regions, of which there are none: length and base read as all ones.
pub(super) const REG_SHARED_MEMORY: std::ops::Range<u64> = 0x0b0..0x0c0;
/// The length alone, which is all that QEMU answers.
pub(super) const REG_SHARED_MEMORY_LENGTH: std::ops::Range<u64> = 0x0b0..0x0b8;
pub(super) const REG_CONFIG_GENERATION: u64 = 0x0fc;
pub(super) const CONFIG_SPACE: u64 = 0x100;

pub(super) const ACKNOWLEDGE: u8 = VIRTIO_CONFIG_S_ACKNOWLEDGE as u8;
pub(super) const DRIVER: u8 = VIRTIO_CONFIG_S_DRIVER as u8;
pub(super) const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
pub(super) const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
pub(super) const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
pub(super) const FAILED: u8 = VIRTIO_CONFIG_S_FAILED as u8;
/// The status bits that the driver may set.
pub(super) const DRIVER_BITS: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;

pub(super) const INTERRUPT_USED: u8 = 1;
pub(super) const INTERRUPT_CONFIG: u8 = 2;

pub(super) const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
pub(super) const RING_RESET: u64 = 1 << VIRTIO_F_RING_RESET;
/// Of the legacy interface: the driver is told when the device has used up what was available,
/// whether or not it wants interrupts (section 6.3).
pub(super) const NOTIFY_ON_EMPTY: u64 = 1 << VIRTIO_F_NOTIFY_ON_EMPTY;
/// Of the legacy interface: the device cares not how a request is cut into buffers (section 6.3).
pub(super) const ANY_LAYOUT: u64 = 1 << VIRTIO_F_ANY_LAYOUT;
pub(super) const EVENT_INDEX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
pub(super) const INDIRECT: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;
