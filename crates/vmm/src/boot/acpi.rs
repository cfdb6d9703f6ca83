//! ACPI tables of a hardware-reduced machine (ACPI 6.5): what a kernel finds the virtio slots, the
//! interrupt controllers, the processors and the power button by. They lie where QEMU's microvm
//! reserves room for them.

use acpi_tables::Aml;
use acpi_tables::aml::{And, Field, If};
use acpi_tables::aml::{
    Device, EISAName, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO, Interrupt,
    Local, Memory32Fixed, Method, Name, Notify, OpRegion, OpRegionSpace, Package, Path,
    ResourceTemplate, Scope, Store,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::{GenericAddress, Sdt};
use machine::{MachineConfig, board};
use memory::{GuestRam, MemoryError};

/// Guest-physical address of the first table.
pub(super) const TABLES: u64 = 0xe_0000;
/// First address past the room for tables.
pub(super) const TABLES_END: u64 = 0xf_0000;

const OEM: [u8; 6] = *b"FERRY ";
const TABLE: [u8; 8] = *b"FERRY1  ";

const FADT_REVISION: u8 = 6;
const FADT_LENGTH: u32 = 276;
const FADT_HARDWARE_REDUCED: u32 = 1 << 20;
const FADT_RESET_REGISTER: u32 = 1 << 10;
/// The power button is a control method device, as is the sleep button.
const FADT_METHOD_BUTTONS: u32 = 1 << 4 | 1 << 5;
/// Legacy devices, no VGA; no 8042.
const FADT_BOOT_ARCHITECTURE: u16 = 1 << 0 | 1 << 2;
/// Writes of this value to the reset register reset the machine.
const RESET_VALUE: u8 = 0x42;
const MADT_DUAL_8259: u32 = 1;
const SLEEP_TYPE_OFF: u8 = 5;
/// Event of the power button in the GED's selector.
const POWER_BUTTON: u8 = 2;
const NOTIFY_PRESSED: u8 = 0x80;

/// Writes all tables and returns the address of the RSDP.
pub(super) fn write_tables(config: &MachineConfig, ram: &GuestRam) -> Result<u64, MemoryError> {
    let mut next = TABLES + 64;
    let mut place = |bytes: &[u8]| -> Result<u64, MemoryError> {
        let at = next;
        ram.write(at, bytes)?;
        next = (at + bytes.len() as u64 + 63) & !63;
        debug_assert!(next <= TABLES_END, "the tables fit their room");
        Ok(at)
    };
    let dsdt = place(dsdt(config).as_slice())?;
    let mut entries = vec![place(fadt(dsdt).as_slice())?, place(madt(config).as_slice())?];
    if config.hpet {
        entries.push(place(hpet().as_slice())?);
    }
    let mut xsdt = table(*b"XSDT", 1);
    for entry in entries {
        xsdt.append_slice(&entry.to_le_bytes());
    }
    let xsdt = place(xsdt.as_slice())?;
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    ram.write(TABLES, &rsdp)?;
    Ok(TABLES)
}

fn table(signature: [u8; 4], revision: u8) -> Sdt {
    Sdt::new(signature, 36, revision, OEM, TABLE, 1)
}

fn fadt(dsdt: u64) -> Sdt {
    let mut fadt = Sdt::new(*b"FACP", FADT_LENGTH, FADT_REVISION, OEM, TABLE, 1);
    fadt.write_u16(109, FADT_BOOT_ARCHITECTURE);
    fadt.write_u32(112, FADT_HARDWARE_REDUCED | FADT_RESET_REGISTER | FADT_METHOD_BUTTONS);
    fadt.write(116, GenericAddress::mmio_address::<u8>(board::GED_REGISTERS.base + 2));
    fadt.write_u8(128, RESET_VALUE);
    fadt.write_u64(140, dsdt);
    fadt.write(244, GenericAddress::mmio_address::<u8>(board::GED_REGISTERS.base));
    fadt.write(256, GenericAddress::mmio_address::<u8>(board::GED_REGISTERS.base + 1));
    fadt.update_checksum();
    fadt
}

fn madt(config: &MachineConfig) -> Sdt {
    let mut madt = table(*b"APIC", 5);
    madt.append_slice(&(board::LAPIC.base as u32).to_le_bytes());
    madt.append_slice(&MADT_DUAL_8259.to_le_bytes());
    for vcpu in 0..config.cpus.count as u8 {
        // Processor local APIC: uid, APIC id, enabled.
        madt.append_slice(&[0, 8, vcpu, vcpu, 1, 0, 0, 0]);
    }
    let controllers = [(board::IOAPIC_0, 0), (board::IOAPIC_1, board::IOAPIC_1_GSI)];
    for (index, (region, first)) in controllers.into_iter().enumerate() {
        let id = config.cpus.count as u8 + index as u8;
        madt.append_slice(&[1, 12, id, 0]);
        madt.append_slice(&(region.base as u32).to_le_bytes());
        madt.append_slice(&first.to_le_bytes());
    }
    // ISA interrupt 0 is wired to pin 2.
    madt.append_slice(&[2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    // NMI on LINT1 of every processor.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    madt.update_checksum();
    madt
}

fn hpet() -> Sdt {
    let mut hpet = table(*b"HPET", 1);
    // Intel, legacy replacement, 64-bit counter, three comparators, revision 1.
    hpet.append_slice(&0x8086_a201u32.to_le_bytes());
    hpet.append(GenericAddress::mmio_address::<u64>(board::HPET.base));
    // Number 0, minimal period in ticks, no page protection.
    hpet.append_slice(&[0, 100, 0, 0]);
    hpet.update_checksum();
    hpet
}

fn dsdt(config: &MachineConfig) -> Sdt {
    let mut aml = Vec::new();
    legacy_device("COM1", "PNP0501", board::SERIAL, board::SERIAL_IRQ, &mut aml);
    legacy_device("RTC0", "PNP0B00", board::RTC, board::RTC_IRQ, &mut aml);
    for device in &config.virtio {
        virtio_slot(device.slot, &mut aml);
    }
    power_button(&mut aml);
    Name::new("_S5_".into(), &Package::new(vec![&SLEEP_TYPE_OFF, &0u8, &0u8, &0u8]))
        .to_aml_bytes(&mut aml);
    let mut dsdt = table(*b"DSDT", 2);
    dsdt.append_slice(&aml);
    dsdt.update_checksum();
    dsdt
}

/// A device with ports and an edge-triggered interrupt of its own.
fn legacy_device(name: &str, id: &str, ports: board::Region, irq: u32, aml: &mut Vec<u8>) {
    let io = IO::new(ports.base as u16, ports.base as u16, 0, ports.length as u8);
    let interrupt = Interrupt::new(true, true, false, false, irq);
    let resources = ResourceTemplate::new(vec![&io, &interrupt]);
    let hid = Name::new("_HID".into(), &EISAName::new(id));
    let uid = Name::new("_UID".into(), &1u8);
    let crs = Name::new("_CRS".into(), &resources);
    let device = Device::new(name.into(), vec![&hid, &uid, &crs]);
    Scope::new("_SB_".into(), vec![&device]).to_aml_bytes(aml);
}

fn virtio_slot(slot: u8, aml: &mut Vec<u8>) {
    let base = board::virtio_region(slot).base as u32;
    let gsi = board::virtio_gsi(slot);
    let memory = Memory32Fixed::new(true, base, board::VIRTIO_SLOT_BYTES as u32);
    let interrupt = Interrupt::new(true, false, false, false, gsi);
    let resources = ResourceTemplate::new(vec![&memory, &interrupt]);
    let name = format!("VR{slot:02}");
    let hid = Name::new("_HID".into(), &"LNRO0005");
    let uid = Name::new("_UID".into(), &slot);
    let crs = Name::new("_CRS".into(), &resources);
    let device = Device::new(name.as_str().into(), vec![&hid, &uid, &crs]);
    Scope::new("_SB_".into(), vec![&device]).to_aml_bytes(aml);
}

/// The generic event device, and the button that it speaks for.
fn power_button(aml: &mut Vec<u8>) {
    let interrupt = Interrupt::new(true, true, false, false, board::GED_IRQ);
    let resources = ResourceTemplate::new(vec![&interrupt]);
    let selector_base = board::GED_EVENTS.base as u32;
    let region = OpRegion::new("EREG".into(), OpRegionSpace::SystemMemory, &selector_base, &4u8);
    let field = Field::new(
        "EREG".into(),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![FieldEntry::Named(*b"ESEL", 32)],
    );
    let selector = Path::new("ESEL");
    let load = Store::new(&Local(0), &selector);
    let masked = And::new(&Local(1), &Local(0), &POWER_BUTTON);
    let button_path = Path::new("\\_SB_.PWRB");
    let notify = Notify::new(&button_path, &NOTIFY_PRESSED);
    let pressed = If::new(&Local(1), vec![&notify]);
    let event = Method::new("_EVT".into(), 1, true, vec![&load, &masked, &pressed]);
    let button_hid = Name::new("_HID".into(), &EISAName::new("PNP0C0C"));
    let uid = Name::new("_UID".into(), &0u8);
    let button = Device::new("PWRB".into(), vec![&button_hid, &uid]);
    let hid = Name::new("_HID".into(), &"ACPI0013");
    let crs = Name::new("_CRS".into(), &resources);
    let ged = Device::new("GED_".into(), vec![&hid, &uid, &crs, &region, &field, &event]);
    Scope::new("_SB_".into(), vec![&button, &ged]).to_aml_bytes(aml);
}
