//! The record in a file: locks that only the living hold, and a disk that is full.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use migration::arbiter::{Arbiter, FileArbiter, Hold, Ownership, OwnershipError, Swap};
use migration::handover::{OwnerId, Record, RecordState};
use support::arbiter::VM;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ferry-file-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("disk.img"), b"a disk").unwrap();
        Self(path)
    }

    fn disk(&self) -> PathBuf {
        self.0.join("disk.img")
    }

    fn arbiter(&self) -> Box<FileArbiter> {
        Box::new(FileArbiter::beside_disk(VM, &self.disk()))
    }

    fn start(&self, by_force: bool) -> Result<Ownership, OwnershipError> {
        Ownership::start(self.arbiter(), by_force)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An error with its causes.
fn said(error: &dyn std::error::Error) -> String {
    let cause = error.source().map_or(String::new(), said);
    format!("{error}: {cause}")
}

#[test]
fn a_second_start_is_refused_while_the_first_lives_and_names_it() {
    let folder = Folder::new("second");
    let first = folder.start(false).unwrap();
    let link = folder.0.join("other-name.img");
    std::os::unix::fs::symlink(folder.disk(), &link).unwrap();
    for by_force in [false, true] {
        let refused = said(&folder.start(by_force).unwrap_err());
        assert!(refused.contains(&first.me().to_string()), "{refused}");
        let by_link = Ownership::start(Box::new(FileArbiter::beside_disk(VM, &link)), by_force);
        assert!(said(&by_link.unwrap_err()).contains("in use"));
    }
    let record = first.owned().cloned().unwrap();
    // It dies.
    drop(first);
    assert_eq!(folder.arbiter().read().unwrap(), Some(record.clone()));
    let second = folder.start(false).unwrap();
    assert_eq!(second.owned().unwrap().epoch, record.epoch + 1);
    second.end().unwrap();
    let free = folder.arbiter().read().unwrap().unwrap();
    assert_eq!((free.epoch, free.state), (record.epoch + 2, RecordState::Free));
    // Another machine may have the disk now.
    let other = Box::new(FileArbiter::beside_disk([8; 16], &folder.disk()));
    let other = Ownership::start(other, false).unwrap();
    assert_eq!(other.owned().unwrap().epoch, record.epoch + 3);
}

#[test]
fn whoever_has_a_copy_keeps_others_from_starting() {
    let folder = Folder::new("copy");
    let source = folder.start(false).unwrap();
    let mut destination = folder.arbiter();
    let me = OwnerId::new("there", [2; 16]);
    assert!(destination.hold(Hold::Alone { by_force: false }, &me).is_err());
    destination.hold(Hold::Beside, &me).unwrap();
    // The source dies; its copy is gone, the destination's is not.
    drop(source);
    assert!(folder.start(false).is_err());
    destination.let_go();
    folder.start(false).unwrap();
}

#[test]
fn one_of_many_starts_wins() {
    let folder = Folder::new("race");
    for _ in 0..20 {
        let started: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..4).map(|_| scope.spawn(|| folder.start(false).ok())).collect();
            racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(started.len(), 1);
    }
}

#[test]
fn what_is_no_record_is_not_taken_for_none() {
    let folder = Folder::new("damaged");
    folder.start(false).unwrap().end().unwrap();
    let path = folder.arbiter().path().to_owned();
    for bytes in [&b""[..], b"ferry ownership 1\n", &[b'x'; 5000]] {
        fs::write(&path, bytes).unwrap();
        let refused = said(&folder.start(true).unwrap_err());
        assert!(refused.contains("disk.img.ferry"), "{refused}");
        let mut arbiter = folder.arbiter();
        let record = Record::first(VM, OwnerId::new("a", [1; 16]));
        assert!(matches!(arbiter.compare_and_swap(None, &record), Swap::Refused(_)));
        assert_eq!(fs::read(&path).unwrap(), bytes, "it is left for somebody to look at");
    }
}

#[test]
fn a_folder_of_this_host_is_left_clean() {
    let folder = Folder::new("state");
    let state = folder.0.join("state");
    let arbiter = || Box::new(FileArbiter::in_folder(VM, &state).unwrap());
    let files = || fs::read_dir(&state).unwrap().count();
    let owner = Ownership::start(arbiter(), false).unwrap();
    assert_eq!(files(), 2);
    drop(owner);
    assert_eq!(files(), 2, "what died leaves its record");
    let owner = Ownership::start(arbiter(), false).unwrap();
    owner.end().unwrap();
    assert_eq!(files(), 0, "what ends in order leaves nothing");
}

/// A file system of a few pages, if this process may mount one.
fn tiny(at: &Path) -> bool {
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8k", "tmpfs"])
        .arg(at)
        .output();
    mount.is_ok_and(|output| output.status.success())
}

#[test]
fn a_full_disk_changes_nothing() {
    let folder = Folder::new("full");
    let small = folder.0.join("small");
    fs::create_dir(&small).unwrap();
    if !tiny(&small) {
        eprintln!("left out: this process may not mount a file system");
        return;
    }
    let arbiter = || Box::new(FileArbiter::in_folder(VM, &small).unwrap());
    let owner = Ownership::start(arbiter(), false).unwrap();
    let record = owner.owned().cloned().unwrap();
    let fill = small.join("fill");
    // All that is left.
    let _ = fs::write(&fill, vec![1; 16384]);
    let granted = record.next(OwnerId::new("b", [2; 16]), RecordState::Owned);
    let full = arbiter().compare_and_swap(Some(&record), &granted);
    let kept = arbiter().read();
    fs::remove_file(&fill).unwrap();
    let room = arbiter().compare_and_swap(Some(&record), &granted);
    drop(owner);
    assert!(std::process::Command::new("umount").arg(&small).status().unwrap().success());
    assert!(matches!(full, Swap::Refused(_)), "{full:?}");
    assert_eq!(kept.unwrap(), Some(record));
    assert!(matches!(room, Swap::Swapped), "{room:?}");
}
