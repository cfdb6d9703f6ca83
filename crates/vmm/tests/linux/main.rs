//! Real Linux, Debian's own kernel, run by the software CPU and moved while it works.
//!
//! `tools/linux-guest` brings the guest, gcc compiles what runs in it.

mod console;
mod files;
mod guest;
mod programs;
mod work;

use std::fs;
use std::path::Path;
use std::time::Duration;

use machine::HostConfig;
use migration::Standing;

use files::{Archive, GuestFiles};
use guest::{Guest, configuration};
use programs::Built;
use work::Work;

/// It counts, computes, and reads and writes its disk; it is moved twice over TCP and once through
/// a file, and some attempts fail in between; and nothing in it notices.
#[test]
fn linux_moves_while_it_works() {
    const DISK_BYTES: u64 = 8 << 20;
    let Some(files) = files::wanted("linux_moves_while_it_works") else { return };
    let folder = files::scratch("moves");
    let disk = folder.join("disk.img");
    fs::File::create(&disk).and_then(|file| file.set_len(DISK_BYTES)).expect("a disk");
    let files = work::with_programs(&files, &folder);
    let (mut config, mut host) = (configuration("moves", 1), HostConfig::default());
    guest::add_disk(&mut config, &mut host, &disk);
    guest::add_console_and_entropy(&mut config, &mut host);
    let mut guest = Guest::boot(&config, &host, &files);

    let warnings = work::warnings(&mut guest);
    let digest = files::sha256(&folder.join("blob"));
    let mut work = Work::start(&mut guest, &digest, Some(DISK_BYTES));
    work.goes_on(&mut guest, "over TCP", |guest| guest.move_over_tcp());
    work.goes_on(&mut guest, "nowhere", |guest| {
        assert_eq!(guest.is_refused_without_disk(), Standing::Running);
        assert_eq!(guest.is_called_back(), Standing::Running);
        assert_eq!(guest.loses_its_link(40 << 20), Standing::Running);
        Duration::ZERO
    });
    work.goes_on(&mut guest, "back over TCP", |guest| guest.move_over_tcp());
    let saved = folder.join("saved");
    work.goes_on(&mut guest, "through a file", |guest| guest.move_through_file(&saved));
    work.finish(&mut guest);

    // What the guest has on its disk is what is in the file.
    guest.run("sync; echo 3 >/proc/sys/vm/drop_caches");
    let of_guest = guest.run("sha256sum /dev/vda");
    assert_eq!(work::warnings(&mut guest), warnings, "the kernel warns of something");
    assert_eq!(of_guest, format!("{}  /dev/vda\n", files::sha256(&disk)));
    guest.end();
    assert_eq!(of_guest, format!("{}  /dev/vda\n", files::sha256(&disk)));
    fs::remove_dir_all(&folder).expect("the scratch folder goes");
}

/// The same with two CPUs, both of which work before and after.
#[test]
fn two_cpus_move_while_they_work() {
    let Some(files) = files::wanted("two_cpus_move_while_they_work") else { return };
    let folder = files::scratch("cpus");
    let files = work::with_programs(&files, &folder);
    let mut guest = Guest::boot(&configuration("cpus", 2), &HostConfig::default(), &files);
    assert_eq!(guest.run("nproc"), "2\n");
    let warnings = work::warnings(&mut guest);
    let digest = files::sha256(&folder.join("blob"));
    let mut work = Work::start(&mut guest, &digest, None);
    guest.run("for turn in 1 2 3 4; do /work/threads; done >/tmp/threads & true");
    let before = work::timer_interrupts(&mut guest);
    work.goes_on(&mut guest, "over TCP", |guest| guest.move_over_tcp());
    let after = work::timer_interrupts(&mut guest);
    assert_eq!((before.len(), after.len()), (2, 2));
    for (before, after) in before.iter().zip(&after) {
        assert!(after > before, "a CPU has no timer interrupts any more: {before}, then {after}");
    }
    work.finish(&mut guest);
    let threads = programs::run_here(&folder.join("threads")).repeat(4);
    assert_eq!(guest.run("cat /tmp/threads").as_bytes(), threads);
    assert_eq!(guest.run("nproc"), "2\n");
    assert_eq!(work::warnings(&mut guest), warnings, "the kernel warns of something");
    guest.end();
    fs::remove_dir_all(&folder).expect("the scratch folder goes");
}

/// Programs compiled by gcc do in the guest what they do on the host's own CPU.
#[test]
fn programs_do_what_they_do_on_the_host() {
    let Some(files) = files::wanted("programs_do_what_they_do_on_the_host") else { return };
    let folder = files::scratch("programs");
    let built = programs::all(&folder);
    let files = with_built(&files, &folder, &built);
    let mut guest = Guest::boot(&configuration("programs", 1), &HostConfig::default(), &files);
    let wrong = compare(&mut guest, &folder, &built);
    guest.end();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    fs::remove_dir_all(&folder).expect("the scratch folder goes");
}

/// The same on the CPU model Nehalem, with programs for it; the kernel finds the features that it
/// finds on QEMU's Nehalem, and none is lost by a move.
#[test]
fn nehalem_does_what_the_host_does() {
    /// What Debian's kernel shows under QEMU 7.2 with `-accel tcg -cpu Nehalem`.
    const FLAGS: &str = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 \
                         clflush mmx fxsr sse sse2 syscall nx lm constant_tsc rep_good nopl \
                         xtopology cpuid pni ssse3 cx16 sse4_1 sse4_2 popcnt hypervisor lahf_lm \
                         pti";
    let Some(files) = files::wanted("nehalem_does_what_the_host_does") else { return };
    if !["ssse3", "sse4_1", "sse4_2", "popcnt"].iter().all(|name| programs::host_has(name)) {
        println!("nehalem_does_what_the_host_does is left out: this host is no x86-64-v2");
        return;
    }
    let folder = files::scratch("nehalem");
    let built = programs::all_for_nehalem(&folder);
    let files = with_built(&files, &folder, &built);
    let mut config = configuration("nehalem", 1);
    config.cpus.model = "Nehalem".to_owned();
    let mut guest = Guest::boot(&config, &HostConfig::default(), &files);
    let flags = "grep -m1 ^flags /proc/cpuinfo | cut -d: -f2";
    assert_eq!(guest.run(flags).trim(), FLAGS);
    let mut wrong = compare(&mut guest, &folder, &built);
    guest.move_over_tcp();
    assert_eq!(guest.run(flags).trim(), FLAGS);
    wrong.extend(compare(&mut guest, &folder, &built));
    guest.end();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    fs::remove_dir_all(&folder).expect("the scratch folder goes");
}

/// The guest's files with these programs.
fn with_built(files: &GuestFiles, folder: &Path, built: &[Built]) -> GuestFiles {
    let mut archive = Archive::default();
    archive.folder("programs");
    for program in built {
        let executable = fs::read(&program.file).expect("an executable");
        archive.file(&format!("programs/{}", program.name), &executable);
    }
    let initrd = folder.join("initrd");
    archive.add_to(&files.initrd, &initrd);
    GuestFiles { initrd, kernel: files.kernel.clone() }
}

/// Runs programs in the guest; which of them did not do what they do here, and how.
fn compare(guest: &mut Guest, folder: &Path, built: &[Built]) -> Vec<String> {
    let mut wrong = Vec::new();
    for program in built {
        let command = format!("/programs/{0} >/tmp/out 2>&1", program.name);
        let (status, errors, span) = guest.try_run(&command);
        let transcript = folder.join(format!("{}.here", program.name));
        let digest = guest.run("sha256sum </tmp/out");
        let took = span.ended - span.began;
        println!("{}: {:.1} s", program.name, took.as_secs_f64());
        if status == 0 && digest.starts_with(&files::sha256(&transcript)) {
            continue;
        }
        let here = String::from_utf8_lossy(&program.transcript).into_owned();
        let there = guest.run("cat /tmp/out");
        let difference = programs::difference(&here, &there);
        wrong.push(format!("{} ends with {status}{errors}; {difference}", program.name));
    }
    wrong
}
