//! Direct boot of Linux by the 64-bit entry of a bzImage (the kernel's Documentation/arch/x86/boot,
//! "64-bit boot protocol"), or of an ELF image by its PVH entry point (Xen's
//! public/arch-x86/hvm/start_info.h).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use cpu::{CpuModel, CpuState, Segment, flags as f};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult};
use memory::{GuestRam, HIGH_MEMORY_START, LOW_MEMORY_LIMIT, MemoryError};
use vm_memory::{ByteValued, GuestAddress};

use super::acpi::{TABLES, TABLES_END};
use super::long_mode;

/// Where the structures of the boot protocols lie.
const START_INFO: u64 = 0x6000;
const BOOT_PARAMETERS: u64 = 0x7000;
const COMMAND_LINE: u64 = 0x2_0000;
const COMMAND_LINE_LENGTH: usize = 0x1_0000;
const CONVENTIONAL_END: u64 = 0x9_fc00;
const HIGH_START: u64 = 0x10_0000;
/// Where a bzImage's protected-mode part goes.
const KERNEL: u64 = 0x20_0000;
/// The 64-bit entry point lies this far in.
const LONG_ENTRY: u64 = 0x200;
const MIB: u64 = 1 << 20;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
const E820_ACPI: u32 = 3;
/// A boot loader without an id of its own.
const LOADER_UNDEFINED: u8 = 0xff;
const XLOADFLAGS_64_BIT_ENTRY: u16 = 1;

/// A kernel could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LinuxError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no kernel that can be started.
    #[error("{} is no bzImage with a 64-bit entry and no ELF image with a PVH entry", .0.display())]
    NotKernel(PathBuf),
    /// The kernel could not be loaded.
    #[error("cannot load {}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: linux_loader::loader::Error,
    },
    /// The kernel and the RAM disk do not fit into memory together.
    #[error("kernel and initrd do not fit into {0} MiB of memory")]
    TooLarge(u64),
    /// The command line is too long.
    #[error("the kernel's command line is longer than {0} bytes")]
    CommandLine(usize),
    /// A structure lies outside memory.
    #[error("the boot data does not fit into memory")]
    Memory(#[from] MemoryError),
}

/// The command line with what this board tells Linux because it cannot be measured well.
///
/// With ACPI's reduced hardware Linux uses neither 8254 nor HPET for more than the frequency of its
/// time-stamp counter, and a host that takes the CPU away for a moment spoils that measurement:
/// without a frequency Linux has no timer at all and hangs. On several CPUs of this model it
/// distrusts the counters, which here are views of one clock, and is left with jiffies. Whoever
/// sets these options has the last word.
pub(super) fn command_line(given: &str, tsc_khz: u64) -> String {
    let mut text = given.to_owned();
    for (option, value) in [("tsc_early_khz=", tsc_khz.to_string()), ("tsc=", "reliable".into())] {
        if !given.split_ascii_whitespace().any(|word| word.starts_with(option)) {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(option);
            text.push_str(&value);
        }
    }
    text
}

/// Loads kernel, RAM disk and command line, and returns the state that starts the kernel.
pub(super) fn load(
    kernel: &Path,
    initrd: Option<&Path>,
    command_line: &str,
    rsdp: u64,
    model: &'static CpuModel,
    ram: &GuestRam,
) -> Result<CpuState, LinuxError> {
    let read = |source| LinuxError::Read { path: kernel.to_owned(), source };
    let mut file = File::open(kernel).map_err(read)?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic).map_err(read)?;
    file.seek(SeekFrom::Start(0)).map_err(read)?;
    let failed = |source| LinuxError::Load { path: kernel.to_owned(), source };
    if command_line.len() >= COMMAND_LINE_LENGTH {
        return Err(LinuxError::CommandLine(COMMAND_LINE_LENGTH - 1));
    }
    let mut text = command_line.as_bytes().to_vec();
    text.push(0);
    ram.write(COMMAND_LINE, &text)?;
    let high = Some(GuestAddress(HIGH_START));
    if magic == *b"\x7fELF" {
        let loaded = Elf::load(ram.mmap(), None, &mut file, high).map_err(failed)?;
        let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
            return Err(LinuxError::NotKernel(kernel.to_owned()));
        };
        let disk = load_initrd(initrd, loaded.kernel_end, LOW_MEMORY_LIMIT, ram)?;
        return start_pvh(entry.0, disk, rsdp, model, ram);
    }
    let at = Some(GuestAddress(KERNEL));
    let loaded = BzImage::load(ram.mmap(), at, &mut file, high).map_err(failed)?;
    start_bzimage(kernel, &loaded, initrd, rsdp, model, ram)
}

fn start_bzimage(
    kernel: &Path,
    loaded: &KernelLoaderResult,
    initrd: Option<&Path>,
    rsdp: u64,
    model: &'static CpuModel,
    ram: &GuestRam,
) -> Result<CpuState, LinuxError> {
    let header = loaded
        .setup_header
        .filter(|header| header.xloadflags & XLOADFLAGS_64_BIT_ENTRY != 0)
        .ok_or_else(|| LinuxError::NotKernel(kernel.to_owned()))?;
    // The kernel unpacks itself within `init_size` bytes of its load address.
    let kernel_end = (KERNEL + u64::from(header.init_size)).max(loaded.kernel_end);
    let highest = u64::from(header.initrd_addr_max) + 1;
    let disk = load_initrd(initrd, kernel_end, highest, ram)?;
    let mut parameters = boot_params { hdr: header, acpi_rsdp_addr: rsdp, ..Default::default() };
    parameters.hdr.type_of_loader = LOADER_UNDEFINED;
    parameters.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    if let Some((start, length)) = disk {
        parameters.hdr.ramdisk_image = start as u32;
        parameters.hdr.ramdisk_size = length as u32;
    }
    let map = memory_map(ram);
    parameters.e820_entries = map.len() as u8;
    for (entry, (start, end, kind)) in parameters.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr: start, size: end - start, r#type: kind };
    }
    ram.write(BOOT_PARAMETERS, parameters.as_slice())?;
    let mut state = long_mode::enter(model, ram, KERNEL + LONG_ENTRY)?;
    // RSI holds the address of the parameters.
    state.general[6] = BOOT_PARAMETERS;
    Ok(state)
}

/// Puts the RAM disk as high as it may lie; returns its start and length.
fn load_initrd(
    initrd: Option<&Path>,
    kernel_end: u64,
    highest: u64,
    ram: &GuestRam,
) -> Result<Option<(u64, u64)>, LinuxError> {
    let Some(path) = initrd else { return Ok(None) };
    let bytes =
        std::fs::read(path).map_err(|source| LinuxError::Read { path: path.to_owned(), source })?;
    let top = highest.min(ram.size()).min(LOW_MEMORY_LIMIT);
    let start = top.checked_sub(bytes.len() as u64).map(|start| start & !0xfff);
    let Some(start) = start.filter(|start| *start >= kernel_end) else {
        return Err(LinuxError::TooLarge(ram.size() / MIB));
    };
    ram.write(start, &bytes)?;
    Ok(Some((start, bytes.len() as u64)))
}

/// Ranges of memory and what they are, in ascending order.
fn memory_map(ram: &GuestRam) -> Vec<(u64, u64, u32)> {
    let low_end = ram.size().min(LOW_MEMORY_LIMIT);
    let mut map = vec![
        (0, CONVENTIONAL_END, E820_RAM),
        (CONVENTIONAL_END, 0xa_0000, E820_RESERVED),
        (TABLES, TABLES_END, E820_ACPI),
        (TABLES_END, HIGH_START, E820_RESERVED),
        (HIGH_START, low_end, E820_RAM),
    ];
    if ram.size() > low_end {
        map.push((HIGH_MEMORY_START, HIGH_MEMORY_START + ram.size() - low_end, E820_RAM));
    }
    map
}

fn start_pvh(
    entry: u64,
    disk: Option<(u64, u64)>,
    rsdp: u64,
    model: &'static CpuModel,
    ram: &GuestRam,
) -> Result<CpuState, LinuxError> {
    const MAGIC: u32 = 0x336e_c578;
    const VERSION: u32 = 1;
    const MODULES: u64 = START_INFO + 0x40;
    const MAP: u64 = START_INFO + 0x80;
    let map = memory_map(ram);
    let mut info = Vec::new();
    for word in [MAGIC, VERSION, 0, u32::from(disk.is_some())] {
        info.extend(word.to_le_bytes());
    }
    for word in [if disk.is_some() { MODULES } else { 0 }, COMMAND_LINE, rsdp, MAP] {
        info.extend(word.to_le_bytes());
    }
    info.extend((map.len() as u64).to_le_bytes());
    ram.write(START_INFO, &info)?;
    if let Some((start, length)) = disk {
        let module: Vec<u8> =
            [start, length, 0, 0].into_iter().flat_map(u64::to_le_bytes).collect();
        ram.write(MODULES, &module)?;
    }
    for (index, (start, end, kind)) in map.into_iter().enumerate() {
        let words = [start, end - start, u64::from(kind)];
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        ram.write(MAP + 24 * index as u64, &bytes)?;
    }
    // 32-bit protected mode without paging, flat segments, EBX at the information.
    let mut state = CpuState::at_reset(model, 0);
    let data = Segment { selector: 0x10, base: 0, limit: u32::MAX, attributes: 0xc93 };
    state.segments = [data; 6];
    state.segments[CpuState::CS] = Segment { selector: 0x8, attributes: 0xc9b, ..data };
    state.tr.limit = 0x67;
    state.cr0 = f::CR0_PE | f::CR0_ET;
    state.rip = entry;
    state.general[3] = START_INFO;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::command_line;

    #[test]
    fn linux_is_told_of_its_counter_unless_somebody_did() {
        assert_eq!(command_line("", 2_000_000), "tsc_early_khz=2000000 tsc=reliable");
        assert_eq!(
            command_line("console=ttyS0 tsc_early_khz=5", 1_000_000),
            "console=ttyS0 tsc_early_khz=5 tsc=reliable"
        );
        assert_eq!(command_line("tsc=unstable", 7), "tsc=unstable tsc_early_khz=7");
    }
}
