//! What is not exactly a machine's stream gives a named error: never a panic, a hang, or a machine.

mod common;

use std::thread;

use common::{configuration, machine, restored, run_to, saved};
use machine::{HostConfig, MachineConfig, RngSource, VirtioKind};
use vmstate::SavedSection;

/// A machine as small as the embedded guest takes, some way into its work.
fn small() -> (MachineConfig, Vec<u8>, Vec<SavedSection>) {
    let mut config = configuration(256 << 10, 1);
    let source = RngSource::Seeded { seed: 1 };
    config.plug(VirtioKind::Rng { id: "rng0".into(), source }).unwrap();
    let mut machine = machine(&config, 3);
    assert!(run_to(&mut machine, 30_000).is_none());
    let stream = saved(&mut machine);
    let sections = machine.save().unwrap();
    (config, stream, sections)
}

fn refusal(stream: Vec<u8>, host: &HostConfig) -> String {
    match restored(stream, host) {
        Ok(_) => panic!("the machine was taken"),
        Err(error) => error.failure.sentence(),
    }
}

/// Runs a check for every byte of a stream, on two threads.
fn for_every_byte(length: usize, check: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        let check = &check;
        for half in 0..2 {
            scope.spawn(move || (half..length).step_by(2).for_each(check));
        }
    });
}

#[test]
fn the_whole_stream_is_taken() {
    let (config, stream, _) = small();
    println!("{} bytes", stream.len());
    let machine = restored(stream, &HostConfig::default()).unwrap();
    assert_eq!(machine.config(), &config);
}

#[test]
fn a_stream_cut_at_any_byte_is_refused() {
    let (_, stream, _) = small();
    for_every_byte(stream.len(), |length| {
        let text = refusal(stream[..length].to_vec(), &HostConfig::default());
        assert!(!text.is_empty(), "cut at {length}");
    });
}

#[test]
fn a_stream_with_any_byte_flipped_is_refused() {
    let (_, stream, _) = small();
    for_every_byte(stream.len(), |place| {
        let mut flipped = stream.clone();
        flipped[place] ^= 1 << (place % 8);
        let text = refusal(flipped, &HostConfig::default());
        assert!(!text.is_empty(), "flipped at {place}");
    });
}

#[test]
fn a_byte_after_the_end_is_refused() {
    let (_, mut stream, _) = small();
    stream.push(0);
    let text = refusal(stream, &HostConfig::default());
    assert!(text.contains("end"), "{text}");
}

/// Numbers the device sections and the digest anew, as a sender would that sends just these.
fn renumbered(mut stream: Vec<u8>, sections: &[SavedSection]) -> Vec<u8> {
    let mut places: Vec<(usize, usize)> = Vec::new();
    let digest =
        SavedSection { name: "digest".into(), instance: 0, version: 1, data: vec![0; 1 + 32 + 32] };
    for section in sections.iter().chain([&digest]) {
        let header = header(section);
        let starts = stream.windows(header.len()).enumerate();
        for (at, _) in starts.filter(|(_, window)| *window == header) {
            places.push((at - 4, at + header.len() + section.data.len() + 1));
        }
    }
    places.sort_unstable();
    for (index, (number, footer)) in places.into_iter().enumerate() {
        // The machine is section 0, memory section 1.
        let bytes = (index as u32 + 2).to_be_bytes();
        stream[number..number + 4].copy_from_slice(&bytes);
        stream[footer..footer + 4].copy_from_slice(&bytes);
    }
    stream
}

fn header(section: &SavedSection) -> Vec<u8> {
    let mut header = vec![section.name.len() as u8];
    header.extend(section.name.as_bytes());
    header.extend(section.instance.to_be_bytes());
    header.extend(section.version.to_be_bytes());
    header
}

/// Where a section lies in a stream: from its type byte to the end of its footer.
fn place(stream: &[u8], sections: &[SavedSection], name: &str) -> std::ops::Range<usize> {
    let section = sections.iter().find(|section| section.name == name).expect("the section");
    let header = header(section);
    let at = stream
        .windows(header.len())
        .position(|window| window == header)
        .expect("the section is in the stream");
    // Type and section id before the name; the footer's mark and id after the data.
    at - 5..at + header.len() + section.data.len() + 5
}

#[test]
fn an_unknown_section_is_refused_by_name() {
    let (_, mut stream, sections) = small();
    let range = place(&stream, &sections, "serial");
    stream[range.start + 6..range.start + 12].copy_from_slice(b"cereal");
    let text = refusal(stream, &HostConfig::default());
    assert!(text.contains("cereal"), "{text}");
}

#[test]
fn a_section_that_comes_twice_is_refused_by_name() {
    let (_, mut stream, sections) = small();
    let range = place(&stream, &sections, "serial");
    let copy = stream[range.clone()].to_vec();
    stream.splice(range.end..range.end, copy);
    let text = refusal(renumbered(stream, &sections), &HostConfig::default());
    assert!(text.contains("serial"), "{text}");
}

#[test]
fn a_missing_section_is_refused_by_name() {
    for name in ["cpu", "lapic", "clock", "serial", "virtio-mmio@00000000feb02e00/virtio-rng"] {
        let (_, mut stream, sections) = small();
        let range = place(&stream, &sections, name);
        stream.drain(range);
        let text = refusal(renumbered(stream, &sections), &HostConfig::default());
        assert!(text.contains(name), "{name}: {text}");
    }
}

#[test]
fn a_version_too_new_is_refused_by_name() {
    let (_, mut stream, sections) = small();
    let range = place(&stream, &sections, "i8254");
    // The version's last byte, behind type, id, name and instance.
    let version = range.start + 5 + 1 + "i8254".len() + 4 + 3;
    stream[version] = 9;
    let text = refusal(stream, &HostConfig::default());
    assert!(text.contains("i8254") && text.contains("version"), "{text}");
}

/// Replaces a text by another of the same length, in the machine section.
fn forged(stream: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut forged = stream.to_vec();
    let at = forged
        .windows(from.len())
        .position(|window| window == from.as_bytes())
        .expect("the text is in the stream");
    forged[at..at + to.len()].copy_from_slice(to.as_bytes());
    forged
}

#[test]
fn a_device_that_nobody_knows_is_refused_by_name() {
    let (_, stream, _) = small();
    let text = refusal(forged(&stream, "virtio-rng", "virtio-gun"), &HostConfig::default());
    assert!(text.contains("virtio-gun"), "{text}");
}

#[test]
fn a_cpu_model_that_nobody_knows_is_refused_by_name() {
    let (_, stream, _) = small();
    let text = refusal(forged(&stream, "qemu64", "qemu65"), &HostConfig::default());
    assert!(text.contains("qemu65"), "{text}");
}

#[test]
fn a_machine_type_that_nobody_knows_is_refused_by_name() {
    let (_, stream, _) = small();
    let text = refusal(forged(&stream, "ferry-1", "ferry-9"), &HostConfig::default());
    assert!(text.contains("ferry-9"), "{text}");
}

/// Whoever sends a stream cannot name a file in it: names are of the machine's own, and which file
/// backs one is the receiver's word.
#[test]
fn a_name_that_is_a_path_is_refused() {
    let mut config = configuration(256 << 10, 1);
    config.name = "machine-1".into();
    config.serial_id = "outlet-01".into();
    let disk = |id: &str| VirtioKind::Block {
        id: id.into(),
        serial: String::new(),
        sectors: 64,
        read_only: false,
    };
    config.plug(disk("harmless0")).unwrap();
    config.plug(VirtioKind::Console { id: "console-0".into() }).unwrap();
    config.plug(VirtioKind::Net { id: "network-0".into(), mac: [2, 0, 0, 0, 0, 1] }).unwrap();
    let path = std::env::temp_dir().join(format!("ferry-bad-names-{}.img", std::process::id()));
    std::fs::write(&path, vec![0; 64 * 512]).unwrap();
    let text = format!(
        "[disk.harmless0]\npath = {:?}\n[net.network-0]\nkind = \"null\"\n",
        path.display().to_string()
    );
    let host = HostConfig::from_toml(&text).unwrap();
    let stream = saved(&mut vmm::Machine::build(&config, &host).unwrap());
    for name in ["machine-1", "outlet-01", "harmless0", "console-0", "network-0"] {
        for path in ["/dev/null", "../../a/b", "a/../b/cd", "file:/a/b"] {
            let text = refusal(forged(&stream, name, path), &host);
            assert!(text.contains(path) && text.contains("is not a name"), "{name}: {text}");
        }
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn too_little_memory_is_refused() {
    let (_, stream, _) = small();
    let host = HostConfig::from_toml("memory-limit = \"128K\"").unwrap();
    let text = refusal(stream, &host);
    assert!(text.contains("memory"), "{text}");
}

#[test]
fn a_disk_without_a_file_is_refused_by_name() {
    let mut config = configuration(256 << 10, 1);
    config
        .plug(VirtioKind::Block {
            id: "disk0".into(),
            serial: String::new(),
            sectors: 64,
            read_only: false,
        })
        .unwrap();
    let path = std::env::temp_dir().join(format!("ferry-bad-input-{}.img", std::process::id()));
    std::fs::write(&path, vec![0; 64 * 512]).unwrap();
    let text = format!("[disk.disk0]\npath = {:?}\n", path.display().to_string());
    let host = HostConfig::from_toml(&text).unwrap();
    let mut machine = vmm::Machine::build(&config, &host).unwrap();
    let stream = saved(&mut machine);
    restored(stream.clone(), &host).unwrap();
    let missing = refusal(stream.clone(), &HostConfig::default());
    std::fs::write(&path, vec![0; 32 * 512]).unwrap();
    let shrunk = refusal(stream, &host);
    std::fs::remove_file(&path).unwrap();
    assert!(missing.contains("disk0"), "{missing}");
    assert!(shrunk.contains("disk0"), "{shrunk}");
}
