//! `ferry doctor`: what this host offers to machines, what is missing, and what that costs.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use devices::virtio::{BlockBackend, FileDisk, SECTOR_SIZE};
use machine::format_size;
use vmm::{Capabilities, Tier, probe_kvm};

/// Characters of what was found that are shown.
const SHOWN: usize = 90;

/// How a thing stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    Partly,
    Missing,
}

impl Standing {
    fn of(good: bool) -> Self {
        if good { Self::Good } else { Self::Missing }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Good => "yes",
            Self::Partly => "partly",
            Self::Missing => "no",
        }
    }
}

struct Line {
    thing: &'static str,
    standing: Standing,
    /// What was found.
    here: String,
    /// What it costs that it is not wholly there.
    costs: &'static str,
}

/// `ferry doctor`.
pub fn doctor() -> Result<ExitCode> {
    let mut lines = kvm();
    lines.extend([userfaultfd(), huge_pages(), memory(), locks(), tap()]);
    lines.extend(confinement());
    println!("{:<32}  {:<6}  FOUND", "WHAT", "THERE");
    for Line { thing, standing, here, .. } in &lines {
        println!("{thing:<32}  {:<6}  {}", standing.word(), shortened(here));
    }
    println!();
    let short: Vec<&Line> = lines
        .iter()
        .filter(|line| line.standing != Standing::Good && !line.costs.is_empty())
        .collect();
    if short.is_empty() {
        println!("Nothing is missing.");
    } else {
        println!("What is missing costs:");
        for Line { thing, costs, .. } in short {
            println!("  {thing}: {costs}");
        }
    }
    println!();
    match probe_kvm().tier() {
        Some(Tier::Full) => {
            println!("--accel auto takes kvm where it keeps what a machine promises.")
        }
        Some(Tier::Basic) => println!(
            "--accel auto takes the software CPU here. --accel kvm runs simple guests, such as the \
             embedded\none, in machines with --no-promise-tsc and --no-promise-cpuid."
        ),
        None => println!("--accel auto takes the software CPU here."),
    }
    Ok(ExitCode::SUCCESS)
}

/// What a receiving process is confined by.
fn confinement() -> [Line; 2] {
    let support = sandbox::support();
    let landlock = match support.landlock {
        0 => "this kernel has none, or it is turned off".to_owned(),
        version => format!("version {version}"),
    };
    let seccomp = if support.seccomp { "filters of system calls" } else { "no filters" };
    [
        Line {
            thing: "landlock",
            standing: Standing::of(support.landlock > 0),
            here: landlock,
            costs: "a process that receives a machine is not kept from other files",
        },
        Line {
            thing: "seccomp",
            standing: Standing::of(support.seccomp),
            here: seccomp.to_owned(),
            costs: "a machine is received with --no-sandbox only",
        },
    ]
}

/// What fits beside the other columns on a wide terminal.
fn shortened(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    let start: String = text.chars().take(SHOWN - 3).collect();
    format!("{start}...")
}

fn kvm() -> Vec<Line> {
    let probe = probe_kvm();
    let capabilities = match Capabilities::read() {
        Ok(capabilities) => capabilities,
        Err(error) => {
            return vec![Line {
                thing: "kvm",
                standing: Standing::Missing,
                here: error.to_string(),
                costs: "every guest runs on the software CPU, some ten times slower or more",
            }];
        }
    };
    let (standing, tier) = match probe.tier() {
        Some(Tier::Full) => (Standing::Good, "runs guests as hardware does"),
        Some(Tier::Basic) => (Standing::Partly, "runs simple guests only"),
        None => (Standing::Missing, "runs no guest"),
    };
    let mut lines = vec![Line {
        thing: "kvm",
        standing,
        here: format!("{}, API {}: {tier}", capabilities.vendor, capabilities.api_version),
        costs: "guests that do what fails under it, Linux among them, run on the software CPU",
    }];
    lines.extend(offered(&capabilities));
    for finding in &probe.findings {
        lines.push(Line {
            thing: finding.name,
            standing: Standing::of(finding.works),
            here: finding.detail.clone(),
            costs: "",
        });
    }
    lines
}

/// What KVM says of itself.
fn offered(kvm: &Capabilities) -> [Line; 5] {
    let there = |good: bool| if good { "offered" } else { "not offered" }.to_owned();
    let line = |thing, good, here, costs| Line { thing, standing: Standing::of(good), here, costs };
    [
        line(
            "kvm: local APICs alone",
            kvm.split_irqchip && kvm.signal_msi,
            there(kvm.split_irqchip && kvm.signal_msi),
            "no machine runs on kvm",
        ),
        line(
            "kvm: queue events",
            kvm.ioeventfd,
            there(kvm.ioeventfd),
            "no machine with a disk runs on kvm",
        ),
        line(
            "kvm: dirty log cleared by hand",
            kvm.manual_dirty_clear,
            there(kvm.manual_dirty_clear),
            "vCPUs wait longer while a round of a migration begins",
        ),
        line(
            "kvm: dirty ring",
            kvm.dirty_ring_bytes > 0,
            match kvm.dirty_ring_bytes {
                0 => there(false),
                bytes => format!("up to {}", format_size(bytes.into())),
            },
            "nothing today: the bitmap is used",
        ),
        line(
            "kvm: TSC of any frequency",
            kvm.tsc_control,
            format!("{}; this host's runs at {} kHz", there(kvm.tsc_control), kvm.tsc_khz),
            "machines that promise another TSC frequency run on the software CPU",
        ),
    ]
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn userfaultfd() -> Line {
    let device = OpenOptions::new().read(true).write(true).open("/dev/userfaultfd");
    let root = rustix::process::geteuid().is_root();
    let open_to_all = read("/proc/sys/vm/unprivileged_userfaultfd").as_deref() == Some("1");
    let here = if device.is_ok() {
        "/dev/userfaultfd can be opened"
    } else if root || open_to_all {
        "this user may handle faults"
    } else {
        "this user may not handle faults of the kernel"
    };
    Line {
        thing: "userfaultfd",
        standing: Standing::of(device.is_ok() || root || open_to_all),
        here: here.to_owned(),
        costs: "no post-copy to this host",
    }
}

fn huge_pages() -> Line {
    let modes = read("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    Line {
        thing: "huge pages",
        standing: Standing::of(modes.contains("[madvise]") || modes.contains("[always]")),
        here: if modes.is_empty() {
            "not in this kernel".into()
        } else {
            format!("transparent: {modes}")
        },
        costs: "guest memory takes longer to fill and to translate",
    }
}

fn memory() -> Line {
    let available = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    });
    Line {
        thing: "memory",
        standing: Standing::of(available.is_some()),
        here: available
            .map_or("unknown".into(), |kib| format!("{} available", format_size(kib * 1024))),
        costs: "a machine that does not fit is found out late",
    }
}

/// Takes a lock twice: the second must be refused.
fn locks() -> Line {
    let path = std::env::temp_dir().join(format!("ferry-doctor-{}.img", std::process::id()));
    let held = hold_twice(&path);
    // What cannot be removed is the system's to clean.
    let _ = fs::remove_file(&path);
    Line {
        thing: "file locks",
        standing: Standing::of(held == Some(true)),
        here: match held {
            Some(true) => "a disk that is in use is refused to others".into(),
            Some(false) => "a lock is given twice".into(),
            None => format!("no lock in {}", std::env::temp_dir().display()),
        },
        costs: "two machines may write one disk",
    }
}

fn hold_twice(path: &Path) -> Option<bool> {
    fs::write(path, vec![0; SECTOR_SIZE as usize]).ok()?;
    let (mut one, mut other) =
        (FileDisk::open(path, false).ok()?, FileDisk::open(path, false).ok()?);
    one.lock().ok()?;
    Some(other.lock().is_err())
}

fn tap() -> Line {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    Line {
        thing: "tap",
        standing: Standing::of(opened.is_ok()),
        here: match opened {
            Ok(_) => "/dev/net/tun can be opened".into(),
            Err(error) => format!("/dev/net/tun: {error}"),
        },
        costs: "no network for guests",
    }
}
