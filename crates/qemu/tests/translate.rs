//! States that QEMU 7.2 saved, in Ferry's terms and back.

mod common;

use std::collections::BTreeSet;
use std::io::Cursor;

use common::{Store, golden, microvm, receive};
use cpu::{Activity, CpuModel, CpuState, Segment};
use devices::virtio::{
    BlockBackend, BlockConfig, BlockKind, RngSource, VirtioBlock, VirtioBlockState,
    VirtioLegacyState, VirtioMmio, VirtioRng, VirtioRngState, VirtioSlot,
};
use devices::{I8254, I8254State, IoApic, IoApicState, Lapic, LapicState, PicPair, Rtc, RtcState};
use machine::{MachineConfig, VirtioInterface, board};
use memory::GuestRam;
use qemu::layout::layouts;
use qemu::send::Sender;
use qemu::translate::{Instant, Received, from_qemu, to_qemu};
use qemu::walk::walk;
use vmstate::{SavedSection, VmState};

/// What a wall clock shows when the streams are received: some time after they were sent.
const WALL_NS: i64 = 1_795_500_000_250_000_000;

fn received(name: &str) -> (MachineConfig, Vec<SavedSection>, Result<Received, String>) {
    let config = microvm(name);
    let mut memory = Store::default();
    let sections = receive(&golden(name)[..], &layouts(&config), &mut memory).unwrap();
    let translated = from_qemu(&sections, &config, WALL_NS, &|ring| memory.used_index(ring));
    (config, sections, translated.map_err(|error| error.to_string()))
}

/// Why QEMU's state is refused once a section of it was changed.
fn refusal(name: &str, section: &str, change: &dyn Fn(&mut Vec<u8>)) -> String {
    let config = microvm(name);
    let mut memory = Store::default();
    let mut sections = receive(&golden(name)[..], &layouts(&config), &mut memory).unwrap();
    let found = sections.iter_mut().find(|of| of.name == section).unwrap();
    change(&mut found.data);
    let used_index = |ring| memory.used_index(ring);
    from_qemu(&sections, &config, WALL_NS, &used_index).unwrap_err().to_string()
}

fn state<T: VmState>(from: &[SavedSection], name: &str, instance: u32) -> T {
    let found = from.iter().find(|of| of.name == name && of.instance == instance).unwrap();
    found.decode().unwrap()
}

/// The fields in which QEMU's own sections and those that come back differ.
fn changed(name: &str) -> BTreeSet<String> {
    let (config, sections, translated) = received(name);
    let Received { sections: ours, virtual_ns, running } = translated.unwrap();
    let now = Instant { virtual_ns, wall_ns: WALL_NS };
    let back = to_qemu(&ours, &config, now, running).unwrap();
    let layouts = layouts(&config);
    assert_eq!(back.len(), sections.len());
    let mut changed = BTreeSet::new();
    for ((theirs, back), layout) in sections.iter().zip(&back).zip(&layouts) {
        assert_eq!((&theirs.name, theirs.instance), (&back.name, back.instance));
        assert_eq!(theirs.version, back.version, "{}", theirs.name);
        let found = layout.schema.compare(back.version, &theirs.data, &back.data).unwrap();
        changed.extend(found.iter().map(|of| format!("{}.{}", theirs.name, of.path)));
    }
    // A second time nothing is left to change.
    let again = from_qemu(&back, &config, WALL_NS, &|_| None);
    let indices = |ring: u64| {
        let mut memory = Store::default();
        receive(&golden(name)[..], &layouts, &mut memory).unwrap();
        memory.used_index(ring)
    };
    assert!(again.is_err(), "the used rings are needed");
    let again = from_qemu(&back, &config, WALL_NS, &indices).unwrap();
    assert_eq!(to_qemu(&again.sections, &config, now, running).unwrap(), back);
    changed
}

#[test]
fn a_cpu_is_what_qemu_says_of_it() {
    for (name, index, running) in [("idle", 0, true), ("linux2", 0, false), ("linux2", 1, false)] {
        let (_, _, translated) = received(name);
        let Received { sections, virtual_ns, running: ran } = translated.unwrap();
        assert_eq!((virtual_ns > 4_000_000_000, ran), (true, running));
        let cpu: CpuState = state(&sections, "cpu", index);
        assert!(name != "idle" || cpu.activity == Activity::Halted);
        assert_eq!(cpu.msrs.efer, 0xd01);
        cpu.check_model(CpuModel::find_of_qemu("qemu64").unwrap()).unwrap();
        let error = cpu.check_model(CpuModel::find("qemu64").unwrap()).unwrap_err();
        assert_eq!(error, "mcg_capabilities is 0x100010a, and cpu model qemu64 has 0x10a");
        let code = cpu.segments[CpuState::CS];
        assert!(code.is_present() && code.attributes & Segment::LONG != 0);
        assert_eq!(cpu.tr.attributes & 0xf, 0xb, "the task register is busy");
        assert_eq!(cpu.x87.tags, 0xffff);
        assert_eq!(cpu.msrs.machine_check_banks.len(), 10);
        // Software emulation counts the host's ticks, at 2.6 GHz.
        let khz = u128::from(cpu.tsc) * 1_000_000 / u128::from(virtual_ns);
        assert!((2_590_000..2_600_000).contains(&khz), "{khz}");
    }
}

#[test]
fn devices_take_the_states() {
    for name in ["idle", "linux2"] {
        let (config, _, translated) = received(name);
        let Received { sections, virtual_ns, .. } = translated.unwrap();
        for index in 0..config.cpus.count {
            let saved: LapicState = state(&sections, "lapic", index);
            let mut lapic = Lapic::new(index as u8, machine::board::LAPIC_HZ.into());
            lapic.restore(&saved).unwrap();
            // Linux's tick: the timer runs, and ends within 4 ms of its last end.
            let next = lapic.deadline().unwrap();
            assert!(next + 4_100_000 > virtual_ns && next < virtual_ns + 4_100_000, "{next}");
        }
        for index in 0..2 {
            let saved: IoApicState = state(&sections, "ioapic", index);
            IoApic::new(0, 24 * index).restore(&saved).unwrap();
        }
        let pics = [state(&sections, "i8259", 0), state(&sections, "i8259", 1)];
        PicPair::new().restore(&pics).unwrap();
        let saved: I8254State = state(&sections, "i8254", 0);
        I8254::new().restore(&saved).unwrap();
        let saved: RtcState = state(&sections, "mc146818rtc", 0);
        let mut rtc = Rtc::new(0);
        rtc.restore(&saved).unwrap();
        // 2026-11-23 in BCD, as the host's clock says.
        assert_eq!(saved.cmos[7..10], [0x24, 0x11, 0x26]);
        let disk: VirtioBlockState = state(&sections, "virtio-mmio@00000000feb02e00/virtio-blk", 0);
        let [queue] = &disk.transport.queues[..] else { panic!("one queue") };
        assert!(queue.ready && queue.size == 1024 && queue.next_available == queue.next_used);
        assert_eq!(disk.transport.status, 0xf);
        assert_eq!(disk.transport.config[..8], 8192u64.to_le_bytes());
        let entropy: VirtioRngState =
            state(&sections, "virtio-mmio@00000000feb02c00/virtio-rng", 0);
        assert!(entropy.transport.queues[0].ready);
    }
}

/// What a state loses on its way through Ferry: every field that comes back different, of a guest
/// that is idle and of one with two CPUs that work.
#[test]
fn what_comes_back_to_qemu_differs_where_it_is_said_to() {
    let allowed = [
        // The lengths of tables that firmware has used are the destination's own.
        "fw_cfg.fw_cfg/acpi_mr",
        // "Look at the APIC."
        "cpu_common.interrupt_request",
        // Bits of a descriptor that do not belong to its attributes; the task register is busy.
        "cpu.segs[",
        "cpu.tr.flags",
        // The timer ends at the same instant, and counts from an earlier or later one.
        "apic.initial_count_load_time",
        // The output is looked at again at once.
        "i8254.channels[0].next_transition_time",
        "i8254.next_transition_time",
        // A control word that never came is one for both bytes.
        "i8254.channels[0].read_state",
        "i8254.channels[0].rw_mode",
        "i8254.channels[0].write_state",
        "i8254.channels[1].read_state",
        "i8254.channels[1].rw_mode",
        "i8254.channels[1].write_state",
        // A byte that was written and used; the gate stops the count, which QEMU's does not heed.
        "i8254.channels[2].write_latch",
        "i8254.channels[2].count_load_time",
        // The same bytes in the same order, from another place of the ring.
        "serial.serial/xmit_fifo.data[",
        "serial.serial/xmit_fifo.head",
        // The time is the same, said of another instant.
        "mc146818rtc.",
    ];
    for name in ["idle", "linux1", "linux2"] {
        for path in changed(name) {
            assert!(allowed.iter().any(|allowed| path.starts_with(allowed)), "{name}: {path}");
        }
    }
}

#[test]
fn what_has_no_place_is_refused_by_name() {
    let refused = |section: &str, change: &dyn Fn(&mut Vec<u8>)| refusal("idle", section, change);
    // cpu_common: an SMI is pending.
    let said = refused("cpu_common", &|data| data[7] |= 0x40);
    assert!(said.contains("interrupt_request 0x40: an SMI"), "{said}");
    // cpu: hflags are behind 18 registers of 8 bytes.
    let said = refused("cpu", &|data| data[18 * 8 + 3] ^= 0x80);
    assert!(said.contains("hflags") && said.contains("disagrees"), "{said}");
    let said = refused("acpi-ged", &|data| data[27] = 1);
    assert!(said.contains("a memory slot is selected"), "{said}");
    let said = refused("serial", &|data| data[4] = 0xc4);
    assert!(said.contains("iir is 0xc4"), "{said}");
    let said = refused("globalstate", &|data| {
        data[3] = 12;
        data[4..16].copy_from_slice(b"guest-panic\0");
    });
    assert!(said.contains("run state \"guest-panic\" is not supported"), "{said}");
    let said = refused("timer", &|data| data[16] = 0x80);
    assert!(said.contains("cpu_clock_offset is negative"), "{said}");
    let said = refused("kvm-tpr-opt", &|data| data[20] = 1);
    assert!(said.contains("firmware has installed a patch"), "{said}");
    let (config, sections, _) = received("idle");
    let said = from_qemu(&sections, &config, WALL_NS, &|_| Some(0xfff0)).unwrap_err().to_string();
    assert!(said.contains("queue 0: a request is in flight"), "{said}");
}

#[test]
fn a_state_of_the_modern_interface_that_cannot_be_is_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Vec<u8>)| refusal("linux2", DISK, change);
    // The last thing in the section is subsection virtio/started: its name, version and 1.
    let subsection = 2 + 14 + 4 + 1;
    let said = refused(&|data| *data.last_mut().unwrap() = 2);
    assert!(said.contains("virtio/started is not 1"), "{said}");
    let said = refused(&|data| data.truncate(data.len() - subsection));
    assert!(said.contains("virtio/started is not what status says"), "{said}");
    let broken = |value: u8| {
        refused(&|data| {
            let behind = b"\x05\x12virtio/extra_state";
            let at = data.windows(behind.len()).position(|bytes| bytes == behind).unwrap();
            data.splice(at..at, [&b"\x05\x0dvirtio/broken\0\0\0\x01"[..], &[value]].concat());
        })
    };
    let said = broken(1);
    assert!(said.contains("virtio/broken is not what status says"), "{said}");
    let said = broken(2);
    assert!(said.contains("virtio/broken is not 1"), "{said}");
    // The status is behind three registers.
    let said = refused(&|data| data[12] |= 0x40);
    assert!(said.contains("virtio/broken is not what status says"), "{said}");
}

/// QEMU fills a disk's configuration space when it is first read: a guest that has not done so can
/// be moved too, and finds there what it would have found.
#[test]
fn a_disk_that_nobody_has_looked_at_is_as_qemus() {
    let config = |name: &str| {
        let (_, _, translated) = received(name);
        let sections = translated.unwrap().sections;
        let found = sections.iter().find(|of| of.name.ends_with("/virtio-blk")).unwrap();
        found.decode::<VirtioBlockState>().unwrap().transport.config
    };
    assert_eq!(config("reset"), config("idle"));
    assert_eq!(config("reset")[16..20], [8, 0, 16, 63]);
}

#[test]
fn what_is_written_for_qemu_can_be_walked_and_received() {
    let (config, _, translated) = received("linux2");
    let Received { sections, virtual_ns, running } = translated.unwrap();
    let now = Instant { virtual_ns, wall_ns: WALL_NS };
    let sections = to_qemu(&sections, &config, now, running).unwrap();
    let layouts = layouts(&config);
    let blocks = [("microvm.ram".to_owned(), 192 << 20), ("pc.bios".to_owned(), 65536)];
    let mut sender = Sender::new(Vec::new()).unwrap();
    sender.begin_memory(&blocks).unwrap();
    sender.begin_round(false).unwrap();
    sender.page(0, 0x2000, &[7; 4096]).unwrap();
    sender.page(0, 0x3000, &[0; 4096]).unwrap();
    sender.end_round().unwrap();
    sender.begin_round(true).unwrap();
    sender.page(1, 0xf000, &[9; 4096]).unwrap();
    assert!(sender.page(1, 0x10000, &[9; 4096]).is_err());
    sender.end_round().unwrap();
    sender.sections(&sections, &layouts).unwrap();
    let bytes = sender.finish().unwrap();
    let stream = walk(Cursor::new(&bytes)).unwrap();
    assert!(stream.whole && stream.sections.len() == layouts.len());
    assert_eq!(stream.blocks[0].records, 2);
    let again = receive(&bytes[..], &layouts, &mut Store::default()).unwrap();
    assert_eq!(again, sections);
    let mut foreign = sections.clone();
    foreign[0].name = "hpet".to_owned();
    let error = Sender::new(Vec::new()).unwrap().sections(&foreign, &layouts).unwrap_err();
    assert!(error.to_string().contains("\"hpet\""), "{error}");
}

/// A disk that nobody reads.
struct NoDisk;

impl BlockBackend for NoDisk {
    fn sectors(&self) -> u64 {
        8192
    }

    fn read_at(&mut self, _: u64, _: &mut [u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn write_at(&mut self, _: u64, _: &[u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    fn lock(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    fn unlock(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const DISK: &str = "virtio-mmio@00000000feb02e00/virtio-blk";
const ENTROPY: &str = "virtio-mmio@00000000feb02c00/virtio-rng";

#[test]
fn legacy_slots_take_the_states() {
    let (config, _, translated) = received("linux1");
    let sections = translated.unwrap().sections;
    let ram = GuestRam::new(config.memory_bytes).unwrap();
    let section = |name: &str| sections.iter().find(|section| section.name == name).unwrap();
    let promised =
        BlockConfig { sectors: 8192, read_only: false, id: String::new(), kind: BlockKind::Qemu };
    let disk = VirtioBlock::new(promised, Box::new(NoDisk)).unwrap();
    let mut slot = VirtioMmio::new_legacy(board::virtio_region(23).base, disk, ram.clone());
    slot.restore_section(section(DISK)).unwrap();
    let VirtioBlockState { transport, legacy } = slot.save();
    let alignments = vec![4096];
    let expected = VirtioLegacyState { page_shift: 12, broken: false, started: true, alignments };
    assert_eq!(legacy, Some(expected));
    assert_eq!((transport.status, transport.driver_features), (7, 0x3000_6e54));
    let [queue] = &transport.queues[..] else { panic!("one queue") };
    assert_eq!((queue.size, queue.next_available, queue.next_used), (1024, 12, 12));
    assert_eq!((queue.descriptor_table, queue.used_ring), (0x28c_8000, 0x28c_d000));
    assert_eq!(slot.deadline(), Some(0), "QEMU looks at its rings after a load, and so do we");

    let entropy = VirtioRng::new(RngSource::host().unwrap());
    let mut slot = VirtioMmio::new_legacy(board::virtio_region(22).base, entropy, ram);
    slot.restore_section(section(ENTROPY)).unwrap();
    assert_eq!(slot.save().transport.queues[0].next_available, 70);
}

#[test]
fn a_legacy_slot_comes_back_byte_for_byte() {
    for name in ["reset", "firmware", "linux1"] {
        let (config, sections, translated) = received(name);
        let Received { sections: ours, virtual_ns, running } = translated.unwrap();
        let now = Instant { virtual_ns, wall_ns: WALL_NS };
        let back = to_qemu(&ours, &config, now, running).unwrap();
        for slot in [DISK, ENTROPY] {
            let of = |sections: &[SavedSection]| {
                sections.iter().find(|section| section.name == slot).cloned().unwrap().data
            };
            let (back, mut theirs) = (of(&back), of(&sections));
            // What nobody has looked at is filled here already.
            let config = 24..24 + 57;
            if slot == DISK && theirs[config.clone()] == [0; 57] {
                theirs[config.clone()].copy_from_slice(&back[config]);
                assert_ne!(name, "linux1", "Linux has looked");
            }
            assert!(back == theirs, "{name} {slot}");
        }
    }
}

#[test]
fn a_stream_of_the_other_interface_is_refused_with_what_to_change() {
    for (name, other, words) in [
        (
            "linux1",
            VirtioInterface::Modern,
            ["the machine virtio = \"legacy\"", "virtio-mmio.force-legacy=false"],
        ),
        (
            "idle",
            VirtioInterface::Legacy,
            ["the machine virtio = \"modern\"", "virtio-mmio.force-legacy=on"],
        ),
    ] {
        let (config, sections, translated) = received(name);
        let other = MachineConfig { virtio_interface: other, ..config };
        let refused = from_qemu(&sections, &other, WALL_NS, &|_| Some(0)).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("section {DISK:?} instance 0: ")), "{refused}");
        assert!(words.iter().all(|words| refused.contains(words)), "{refused}");
        let Received { sections, virtual_ns, running } = translated.unwrap();
        let now = Instant { virtual_ns, wall_ns: WALL_NS };
        let refused = to_qemu(&sections, &other, now, running).unwrap_err().to_string();
        let interface = other.virtio_interface;
        assert!(refused.contains(&format!("has the {interface} interface")), "{refused}");
    }
}

#[test]
fn a_legacy_state_that_cannot_be_is_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Vec<u8>)| refusal("linux1", DISK, change);
    // Behind 24 bytes of registers come 57 of configuration space, and the number of queues.
    let queue = 24 + 57 + 4;
    let cases: [(usize, u8, &str); 11] = [
        (3, 2, "host_features_sel or guest_features_sel"),
        (7, 2, "host_features_sel or guest_features_sel"),
        (11, 32, "guest_page_shift 32 is not 0 to 31"),
        (14, 4, "queue_sel 1024 is not 0 to 1023"),
        (16, 0x32, "virtio/64bit_features: 0x30006e54 is not features"),
        (queue + 3, 1, "queue 0: num 1025 is not 1 to 1024"),
        (queue + 2, 0, "queue 0: num 0 is not 1 to 1024"),
        (queue + 6, 0, "queue 0: align is 0"),
        (queue + 8, 0xff, "queue 0: its used ring is not in memory"),
        (queue + 12, 0x12, "queue 0: its used ring is not in memory"),
        (queue + 17, 13, "queue 0: a request is in flight"),
    ];
    for (at, byte, words) in cases {
        let said = refused(&|data| {
            if words.contains("num 0") {
                data[at + 1] = 0;
            }
            data[at] = byte;
        });
        assert!(said.contains(DISK) && said.contains(words), "byte {at}: {said}");
    }
    let within = |name: &str, change: &dyn Fn(&mut Vec<u8>, usize)| {
        refused(&|data| {
            let name = name.as_bytes();
            let at = data.windows(name.len()).position(|bytes| bytes == name).unwrap();
            change(data, at + name.len() + 4);
        })
    };
    let said = within("virtio/64bit_features", &|data, at| data[at + 3] = 1);
    assert!(said.contains("0x130006e54 is not features"), "{said}");
    let said = within("virtio/64bit_features", &|data, at| {
        data[at + 7] |= 1;
        data[19] |= 1;
    });
    assert!(said.contains("features: 0x1 is not offered"), "{said}");
    let said = within("virtio/ringsize", &|data, at| data[at + 2] = 2);
    assert!(said.contains("not every queue has 256 entries at reset"), "{said}");
    let said = within("virtio/ringsize", &|data, _| data[queue + 2] = 1);
    assert!(said.contains("virtio/ringsize contradicts num"), "{said}");
    let said = within("virtio/started", &|data, at| data[at] = 2);
    assert!(said.contains("virtio/started is not 1"), "{said}");
    let said = within("virtio/started", &|data, at| data.truncate(at - 4 - 14 - 2));
    assert!(said.contains("virtio/started is missing"), "{said}");
    let more = |name: &[u8], body: &[u8]| {
        refused(&|data| {
            let at = data.len() - 1 - 4 - 14 - 2;
            let subsection = [&[5, name.len() as u8], name, &[0, 0, 0, 1], body].concat();
            let at = if name == b"virtio/disabled" { data.len() } else { at };
            data.splice(at..at, subsection);
        })
    };
    let said = more(b"virtio/broken", &[3]);
    assert!(said.contains("virtio/broken is not 1"), "{said}");
    let said = more(b"virtio/disabled", &[1]);
    assert!(said.contains("the device is disabled"), "{said}");
}
