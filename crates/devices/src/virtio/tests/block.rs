//! Requests to the disk.

use std::io;
use std::sync::{Arc, Mutex};

use super::*;

pub(super) const SECTORS: u64 = 700;
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;

/// A disk in the test's memory, which outlives the device and fails when it is told to.
#[derive(Clone)]
pub(super) struct MemoryDisk(Arc<Mutex<Inner>>);

struct Inner {
    bytes: Vec<u8>,
    fail: bool,
    flushes: usize,
}

impl MemoryDisk {
    pub(super) fn new() -> Self {
        let bytes = (0..SECTORS * SECTOR_SIZE).map(|index| (index / 512 + index) as u8).collect();
        Self(Arc::new(Mutex::new(Inner { bytes, fail: false, flushes: 0 })))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }

    pub(super) fn flushes(&self) -> usize {
        self.with(|inner| inner.flushes)
    }

    pub(super) fn sector(&self, sector: u64) -> Vec<u8> {
        let start = (sector * SECTOR_SIZE) as usize;
        self.with(|inner| inner.bytes[start..start + 512].to_vec())
    }

    fn access<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> io::Result<T> {
        self.with(|inner| {
            if inner.fail { Err(io::Error::other("the disk is broken")) } else { Ok(work(inner)) }
        })
    }
}

impl BlockBackend for MemoryDisk {
    fn sectors(&self) -> u64 {
        SECTORS
    }

    fn read_at(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        self.access(|inner| data.copy_from_slice(&inner.bytes[start..start + data.len()]))
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = offset as usize;
        self.access(|inner| inner.bytes[start..start + data.len()].copy_from_slice(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.access(|inner| inner.flushes += 1)
    }

    fn lock(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn unlock(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn device(disk: &MemoryDisk, read_only: bool) -> VirtioBlock {
    let config = BlockConfig {
        sectors: SECTORS,
        read_only,
        id: "disk0".to_owned(),
        kind: BlockKind::Ferry1,
    };
    VirtioBlock::new(config, Box::new(disk.clone())).unwrap()
}

fn started(disk: &MemoryDisk) -> Driver<VirtioBlock> {
    Driver::started(device(disk, false), 1 << 2 | 1 << 6 | 1 << 9)
}

pub(super) fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}

/// Does one request and returns its status, the used length, and where its parts are.
pub(super) fn request(driver: &mut Driver<VirtioBlock>, parts: &[Part]) -> (u8, u32, Vec<u64>) {
    let (head, places) = driver.submit(0, parts);
    driver.notify(0);
    let used = driver.take_used(0);
    assert_eq!(used.len(), 1);
    assert_eq!(used[0].0, u32::from(head));
    assert_eq!(driver.take_interrupt(), 1);
    let Some(Part::Take(length)) = parts.last() else { panic!("the last part is the status") };
    let [status] = driver.load(places.last().unwrap() + u64::from(*length) - 1);
    (status, used[0].1, places)
}

#[test]
fn the_configuration_is_that_of_the_machine() {
    let disk = MemoryDisk::new();
    let mut driver = Driver::idle(device(&disk, true));
    assert_eq!(driver.get(0x08), 2);
    let features = VERSION_1 | EVENT_INDEX | 1 << 28 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 9;
    assert_eq!(driver.offered(), features);
    assert_eq!(driver.get(0x100), SECTORS as u32);
    assert_eq!(driver.get(0x104), 0);
    assert_eq!(driver.get(0x10c), 254);
    assert_eq!(driver.get(0x114), 512);
    let mut whole = [0xee; 8];
    driver.slot.read(0, 0x114, &mut whole);
    assert_eq!(whole, [0, 2, 0, 0, 0, 0, 0, 0], "past its end the space is zero");
    assert_eq!(driver.get(0x1fc), 0);
    driver.set(0x100, 5);
    assert_eq!(driver.get(0x100), SECTORS as u32);

    let config = BlockConfig {
        sectors: SECTORS + 1,
        read_only: false,
        id: String::new(),
        kind: BlockKind::Ferry1,
    };
    let error = VirtioBlock::new(config, Box::new(disk.clone())).unwrap_err();
    assert_eq!(error.to_string(), "disk has 700 sectors, the machine has one of 701");
    let config = BlockConfig {
        sectors: SECTORS,
        read_only: false,
        id: "x".repeat(21),
        kind: BlockKind::Ferry1,
    };
    assert!(matches!(VirtioBlock::new(config, Box::new(disk)), Err(BlockError::Id(_))));
}

#[test]
fn sectors_are_read_into_all_segments() {
    let disk = MemoryDisk::new();
    let mut driver = started(&disk);
    driver.ram.harvest();
    // Header and data in odd pieces: nothing says how a request is cut.
    let whole = header(IN, 3);
    let parts = [
        Part::Give(&whole[..5]),
        Part::Give(&whole[5..]),
        Part::Take(100),
        Part::Take(924),
        Part::Take(1),
    ];
    let (status, length, places) = request(&mut driver, &parts);
    assert_eq!((status, length), (0, 1025));
    let mut data = driver.bytes(places[2], 100);
    data.extend(driver.bytes(places[3], 924));
    assert_eq!(data[..512], disk.sector(3));
    assert_eq!(data[512..], disk.sector(4));
    let page = driver.ram.page_of(places[2]).unwrap();
    assert!(driver.ram.harvest().contains(page), "what the device stores is in the dirty log");
}

#[test]
fn status_may_share_a_segment_with_data() {
    let disk = MemoryDisk::new();
    let mut driver = started(&disk);
    let (status, length, places) =
        request(&mut driver, &[Part::Give(&header(IN, 699)), Part::Take(513)]);
    assert_eq!((status, length), (0, 513));
    assert_eq!(driver.bytes(places[1], 512), disk.sector(699));
}

#[test]
fn sectors_are_written_from_all_segments() {
    let disk = MemoryDisk::new();
    let mut driver = started(&disk);
    let mut first = header(OUT, 10).to_vec();
    first.extend([1; 500]);
    let (status, length, _) =
        request(&mut driver, &[Part::Give(&first), Part::Give(&[2; 524]), Part::Take(1)]);
    assert_eq!((status, length), (0, 1));
    assert_eq!(disk.sector(10), [vec![1; 500], vec![2; 12]].concat());
    assert_eq!(disk.sector(11), [2; 512]);
}

#[test]
fn requests_longer_than_a_chunk_are_done_whole() {
    let disk = MemoryDisk::new();
    let mut driver = started(&disk);
    let length = 600 * 512;
    let (status, used, places) =
        request(&mut driver, &[Part::Give(&header(IN, 50)), Part::Take(length), Part::Take(1)]);
    assert_eq!((status, used), (0, length + 1));
    let expected = disk.with(|inner| inner.bytes[50 * 512..650 * 512].to_vec());
    assert_eq!(driver.bytes(places[1], length as usize), expected);

    driver.ram.write(places[1], &vec![9; length as usize]).unwrap();
    let data = vec![9; length as usize];
    let (status, _, _) = {
        driver.next_buffer = BUFFERS;
        request(&mut driver, &[Part::Give(&header(OUT, 50)), Part::Give(&data), Part::Take(1)])
    };
    assert_eq!(status, 0);
    assert_eq!((disk.sector(50), disk.sector(649)), (vec![9; 512], vec![9; 512]));
    assert_ne!(disk.sector(650), [9; 512]);
}

#[test]
fn flush_and_identifier() {
    let disk = MemoryDisk::new();
    let mut driver = started(&disk);
    let (status, length, _) = request(&mut driver, &[Part::Give(&header(FLUSH, 0)), Part::Take(1)]);
    assert_eq!((status, length), (0, 1));
    assert_eq!(disk.with(|inner| inner.flushes), 1);
    let parts = [Part::Give(&header(GET_ID, 0)), Part::Take(20), Part::Take(1)];
    let (status, length, places) = request(&mut driver, &parts);
    assert_eq!((status, length), (0, 21));
    assert_eq!(driver.bytes(places[1], 20), *b"disk0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let parts = [Part::Give(&header(GET_ID, 0)), Part::Take(30), Part::Take(1)];
    let (status, length, places) = request(&mut driver, &parts);
    assert_eq!((status, length), (0, 20), "a longer place is filled as far as the identifier goes");
    assert_eq!(driver.bytes(places[1] + 20, 10), [0xee; 10]);
}

#[test]
fn what_cannot_be_done_has_a_status() {
    let disk = MemoryDisk::new();
    let before = disk.with(|inner| inner.bytes.clone());
    let mut driver = started(&disk);
    for sector in [SECTORS, SECTORS - 1, u64::MAX, 1 << 55] {
        let (status, length, _) = request(
            &mut driver,
            &[Part::Give(&header(IN, sector)), Part::Take(1024), Part::Take(1)],
        );
        assert_eq!((status, length), (1, 0), "read of sector {sector}");
        let data = [0; 1024];
        let parts = [Part::Give(&header(OUT, sector)), Part::Give(&data), Part::Take(1)];
        let (status, length, _) = request(&mut driver, &parts);
        assert_eq!((status, length), (1, 1), "write to sector {sector}");
    }
    let (status, _, _) =
        request(&mut driver, &[Part::Give(&header(IN, 0)), Part::Take(511), Part::Take(1)]);
    assert_eq!(status, 1, "no whole sector");
    for kind in [2, 11, 13, u32::MAX] {
        let (status, _, _) = request(&mut driver, &[Part::Give(&header(kind, 0)), Part::Take(1)]);
        assert_eq!(status, 2, "kind {kind}");
    }
    disk.with(|inner| inner.fail = true);
    for parts in [
        [Part::Give(&header(IN, 0)), Part::Take(512), Part::Take(1)],
        [Part::Give(&header(OUT, 0)), Part::Give(&[7; 512]), Part::Take(1)],
    ] {
        assert_eq!(request(&mut driver, &parts).0, 1);
    }
    assert_eq!(request(&mut driver, &[Part::Give(&header(FLUSH, 0)), Part::Take(1)]).0, 1);
    assert!(disk.with(|inner| inner.bytes == before));
}

#[test]
fn a_read_only_disk_is_not_written() {
    let disk = MemoryDisk::new();
    let before = disk.sector(0);
    let mut driver = Driver::started(device(&disk, true), 0);
    let parts = [Part::Give(&header(OUT, 0)), Part::Give(&[7; 512]), Part::Take(1)];
    assert_eq!(request(&mut driver, &parts).0, 1);
    assert_eq!(disk.sector(0), before);
}

#[test]
fn chains_that_are_no_requests_need_a_reset() {
    let disk = MemoryDisk::new();
    let short = [0; 15];
    let whole = header(IN, 0);
    for parts in [
        vec![Part::Give(&short[..]), Part::Take(1)],
        vec![Part::Give(&whole[..])],
        vec![Part::Take(100)],
    ] {
        let mut driver = started(&disk);
        driver.submit(0, &parts);
        driver.notify(0);
        assert!(driver.take_used(0).is_empty());
        assert_eq!(driver.get(STATUS), 0xf | NEEDS_RESET);
        assert_eq!(driver.take_interrupt(), 2);
        // A broken device moves as such.
        let mut driver = driver.moved(device(&disk, false));
        driver.notify(0);
        assert_eq!(driver.get(STATUS), 0xf | NEEDS_RESET);
    }
}

#[test]
fn requests_that_were_not_notified_are_done_after_a_move() {
    let disk = MemoryDisk::new();
    let mut driver = started(&disk);
    request(&mut driver, &[Part::Give(&header(FLUSH, 0)), Part::Take(1)]);
    let parts = [Part::Give(&header(OUT, 1)), Part::Give(&[5; 512]), Part::Take(1)];
    let (written, _) = driver.submit(0, &parts);
    let (read, places) =
        driver.submit(0, &[Part::Give(&header(IN, 1)), Part::Take(512), Part::Take(1)]);
    let mut driver = driver.moved(device(&disk, false));
    assert_ne!(disk.sector(1), [5; 512]);
    driver.notify(0);
    assert_eq!(driver.take_used(0), [(u32::from(written), 1), (u32::from(read), 513)]);
    assert_eq!(driver.take_interrupt(), 1);
    assert_eq!(driver.bytes(places[1], 512), [5; 512]);
    assert_eq!(driver.load(places[2]), [0]);
    let mut driver = driver.moved(device(&disk, false));
    assert_eq!(request(&mut driver, &[Part::Give(&header(FLUSH, 0)), Part::Take(1)]).0, 0);
}

#[test]
fn an_interrupt_that_was_not_taken_moves() {
    let disk = MemoryDisk::new();
    let mut driver = started(&disk);
    driver.submit(0, &[Part::Give(&header(FLUSH, 0)), Part::Take(1)]);
    driver.notify(0);
    assert!(driver.slot.irq_level());
    let mut driver = driver.moved(device(&disk, false));
    assert_eq!(driver.take_interrupt(), 1);
}

#[test]
fn another_disk_is_refused() {
    let disk = MemoryDisk::new();
    let state = started(&disk).slot.save();
    let mut other = Driver::idle(device(&disk, true)).slot;
    assert!(other.restore(&state).is_err(), "a disk that cannot be written");
    struct Small(MemoryDisk);
    impl BlockBackend for Small {
        fn sectors(&self) -> u64 {
            SECTORS - 1
        }
        fn read_at(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()> {
            self.0.read_at(offset, data)
        }
        fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write_at(offset, data)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
        fn lock(&mut self) -> io::Result<()> {
            self.0.lock()
        }
        fn unlock(&mut self) -> io::Result<()> {
            self.0.unlock()
        }
    }
    let config = BlockConfig {
        sectors: SECTORS - 1,
        read_only: false,
        id: "disk0".to_owned(),
        kind: BlockKind::Ferry1,
    };
    let small = VirtioBlock::new(config, Box::new(Small(disk))).unwrap();
    let refusal = Driver::idle(small).slot.restore(&state).unwrap_err();
    assert!(refusal.to_string().contains("configuration space differs"));
}

#[test]
fn a_file_is_a_disk() {
    let path = std::env::temp_dir().join(format!("ferry-disk-{}", std::process::id()));
    std::fs::write(&path, vec![3; 4 * 512 + 100]).unwrap();
    let mut disk = FileDisk::open(&path, false).unwrap();
    assert_eq!(disk.sectors(), 4);
    let mut sector = [0; 512];
    assert!(disk.read_at(0, &mut sector).is_err(), "it is not this process's yet");
    assert!(disk.write_at(0, &sector).is_err());
    disk.lock().unwrap();
    disk.write_at(512, &[8; 512]).unwrap();
    disk.flush().unwrap();
    let mut reader = FileDisk::open(&path, true).unwrap();
    let refused = reader.lock().unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    disk.unlock().unwrap();
    assert!(disk.write_at(512, &sector).is_err(), "it was given back");
    reader.lock().unwrap();
    reader.read_at(512, &mut sector).unwrap();
    assert_eq!(sector, [8; 512]);
    assert!(reader.write_at(0, &sector).is_err());
    let mut other = FileDisk::open(&path, true).unwrap();
    other.lock().unwrap();
    assert!(disk.lock().is_err());
    assert!(reader.read_at(4 * 512, &mut sector).is_err(), "past the end");
    drop((reader, other));
    std::fs::write(&path, vec![3; 5 * 512]).unwrap();
    let changed = disk.lock().unwrap_err();
    assert_eq!(changed.to_string(), "it has 5 sectors, and had 4");
    std::fs::remove_file(&path).unwrap();
}

/// A disk as QEMU's guests see it, once the driver runs.
fn started_as_in_qemu(disk: &MemoryDisk) -> Driver<VirtioBlock> {
    let config = BlockConfig {
        sectors: SECTORS,
        read_only: false,
        id: String::new(),
        kind: BlockKind::Qemu,
    };
    let device = VirtioBlock::new(config, Box::new(disk.clone())).unwrap();
    Driver::started(device, 1 << 9 | 1 << 11 | 1 << 13 | 1 << 14)
}

fn range(sector: u64, count: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&count.to_le_bytes());
    bytes[12..].copy_from_slice(&flags.to_le_bytes());
    bytes
}

#[test]
fn zeroes_are_written_and_discarding_changes_nothing() {
    let disk = MemoryDisk::new();
    disk.with(|inner| inner.bytes.fill(7));
    let mut driver = started_as_in_qemu(&disk);
    let mut ask = |kind, range: [u8; 16]| {
        request(&mut driver, &[Part::Give(&header(kind, 0)), Part::Give(&range), Part::Take(1)]).0
    };
    let (discard, zeroes) = (11, 13);
    assert_eq!(ask(discard, range(2, 3, 0)), 0);
    assert!(disk.with(|inner| inner.bytes.iter().all(|byte| *byte == 7)));
    assert_eq!(ask(zeroes, range(2, 3, 1)), 0);
    let bytes = disk.with(|inner| inner.bytes.clone());
    assert!(bytes[2 * 512..5 * 512].iter().all(|byte| *byte == 0));
    assert!(bytes[..2 * 512].iter().chain(&bytes[5 * 512..]).all(|byte| *byte == 7));
    // Past the end; with flags that are not there.
    assert_eq!(ask(zeroes, range(SECTORS - 1, 2, 0)), 1);
    assert_eq!(ask(discard, range(0, 1, 1)), 2);
    // Of the disk of ferry-1 nobody can ask for either.
    let mut driver = started(&disk);
    let parts = [Part::Give(&header(zeroes, 0)[..]), Part::Give(&range(0, 1, 0)), Part::Take(1)];
    assert_eq!(request(&mut driver, &parts).0, 2);
}

#[test]
fn a_guest_that_switches_the_cache_off_has_its_writes_flushed() {
    let disk = MemoryDisk::new();
    let mut driver = started_as_in_qemu(&disk);
    let write = |driver: &mut Driver<VirtioBlock>| {
        let data = [9; 512];
        let parts = [Part::Give(&header(1, 0)[..]), Part::Give(&data), Part::Take(1)];
        assert_eq!(request(driver, &parts).0, 0);
        disk.with(|inner| inner.flushes)
    };
    assert_eq!(write(&mut driver), 0);
    driver.slot.write(0, 0x100 + 32, &[0]);
    assert_eq!(write(&mut driver), 1);
    // It is state: it goes where the disk goes.
    let saved = driver.slot.save();
    let other = MemoryDisk::new();
    let mut there = started_as_in_qemu(&other);
    there.slot.restore(&saved).unwrap();
    let mut writeback = [7];
    there.slot.read(0, 0x100 + 32, &mut writeback);
    assert_eq!(writeback, [0]);
    let mut wrong = saved;
    wrong.transport.config[0] ^= 1;
    assert!(there.slot.restore(&wrong).unwrap_err().to_string().contains("configuration space"));
}
