//! What a confined process can do and what ends it. Each case runs in a process of its own: this
//! program, started again.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

use sandbox::{Needed, Policy, Use, confine, is_confined, support};

const CASE: &str = "FERRY_SANDBOX_CASE";

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("ferry-sandbox-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("own")).unwrap();
        fs::write(path.join("disk"), "disk").unwrap();
        fs::write(path.join("secret"), "secret").unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs one case in a process of its own.
fn run(case: &str) -> Output {
    let folder = Folder::new(case);
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "in_a_process_of_its_own", "--nocapture", "--test-threads=1"])
        .env(CASE, case)
        .env("FERRY_SANDBOX_FOLDER", &folder.0)
        .output()
        .unwrap()
}

/// The case that this process was started for, if it was.
#[test]
fn in_a_process_of_its_own() {
    let Ok(case) = std::env::var(CASE) else { return };
    let folder = PathBuf::from(std::env::var_os("FERRY_SANDBOX_FOLDER").unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let needed = |name: &str, access| Needed::new(folder.join(name), access);
    let files = vec![
        needed("disk", Use::ReadWrite),
        needed("own", Use::Folder),
        needed("not-there", Use::ReadWrite),
    ];
    confine(&Policy { files, has_command: false }).unwrap();
    assert!(is_confined());
    match case.as_str() {
        "needed" => {
            // In a thread: those that come later are confined, and can come.
            let inside = folder.clone();
            let thread = thread::spawn(move || {
                let mut disk =
                    File::options().read(true).write(true).open(inside.join("disk")).unwrap();
                disk.write_all(b"DISK").unwrap();
                fs::write(inside.join("own/new"), "new").unwrap();
                fs::rename(inside.join("own/new"), inside.join("own/record")).unwrap();
                fs::remove_file(inside.join("own/record")).unwrap();
                fs::read(inside.join("secret")).map(|_| ()).map_err(|error| error.kind())
            });
            let denied = Err(ErrorKind::PermissionDenied);
            if support().landlock > 0 {
                assert_eq!(thread.join().unwrap(), denied);
                assert_eq!(fs::read("/etc/passwd").map(|_| ()).map_err(|e| e.kind()), denied);
                assert_eq!(fs::write(folder.join("new"), "").map_err(|error| error.kind()), denied);
            }
            let address = listener.local_addr().unwrap();
            TcpStream::connect(address).unwrap().write_all(b"x").unwrap();
            listener.accept().unwrap();
            println!("all of it");
        }
        "command" => drop(Command::new("/bin/true").status()),
        "program" => {
            let path = c"/bin/true".as_ptr();
            let arguments = [path, std::ptr::null()];
            #[expect(unsafe_code, reason = "it takes the place of this process, if it can")]
            // SAFETY: both outlive the call, and the list ends with a null pointer.
            let _ = unsafe { libc::execv(path, arguments.as_ptr()) };
        }
        "packets" => {
            #[expect(unsafe_code, reason = "no safe wrapper makes such a socket")]
            // SAFETY: no memory is passed.
            let _ = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
        }
        "trace" => {
            #[expect(unsafe_code, reason = "no safe wrapper does this")]
            // SAFETY: no memory is passed.
            let _ = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        }
        "unnamed" => {
            #[expect(unsafe_code, reason = "no safe wrapper does this")]
            // SAFETY: no memory is passed. A call that is not on the list: with filters it fails.
            let answer = unsafe { libc::syscall(libc::SYS_sched_get_priority_max, 0) };
            assert_eq!(answer, -1);
            assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ENOSYS));
            println!("it goes on");
        }
        other => panic!("no case {other}"),
    }
}

#[test]
fn what_is_needed_can_be_done_and_other_files_are_out_of_reach() {
    let done = run("needed");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("all of it"), "{said}");
}

#[test]
fn a_call_that_nobody_thought_of_fails_and_the_process_goes_on() {
    let done = run("unnamed");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("it goes on"), "{said}");
}

#[test]
fn a_forbidden_call_ends_the_process_and_is_named() {
    for (case, name) in [
        ("program", "the system call execve is not"),
        ("packets", "the system call socket is not"),
        ("trace", "the system call ptrace is not"),
    ] {
        let ended = run(case);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(128 + libc::SIGSYS), "{case}: {said}");
        assert!(said.contains(name), "{case}: {said}");
    }
    // The C library starts a command with all signals blocked: the end comes without a sentence.
    assert_eq!(run("command").status.signal(), Some(libc::SIGSYS));
}
