//! From a running QEMU to a machine file.

use machine::{
    ConfigError, CpuFile, FreshFacts, MAX_CPUS, MAX_MEMORY_BYTES, MachineFile, MachineType,
    exact_size, format_uuid, parse_uuid,
};
use serde_json::Value;

use super::monitor::{Ask, MonitorError};
use super::qom::{Qom, shorten};
use super::{ImportError, Reasons, board, cpu, virtio};

/// The release whose microvm Ferry builds.
const RELEASE: (u64, u64) = (7, 2);
/// The name of a machine that has none.
const NO_NAME: &str = "ferry";

/// What QEMU does not say.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// The machine's name, instead of QEMU's.
    pub name: Option<&'a str>,
    /// A new UUID, for a machine that has none.
    pub uuid: [u8; 16],
    /// Frequency of the time-stamp counter that the guest sees, in kHz.
    pub tsc_khz: u64,
}

/// A machine that Ferry can take over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The machine.
    pub file: MachineFile,
    /// What there is to know of it besides, a line each.
    pub notes: Vec<String>,
}

/// Lines for whoever reads the file.
#[derive(Default)]
pub(super) struct Notes(Vec<String>);

impl Notes {
    pub fn add(&mut self, line: &str) {
        if !self.0.iter().any(|known| known == line) {
            self.0.push(line.to_owned());
        }
    }
}

/// Asks a QEMU for its machine.
///
/// # Errors
/// If the monitor does not answer as it should, or with every reason why Ferry does not have this
/// machine.
pub fn import(monitor: &mut dyn Ask, given: &Given<'_>) -> Result<Imported, ImportError> {
    let mut qom = Qom::new(monitor);
    let (mut notes, mut reasons) = (Notes::default(), Reasons::default());
    check_program(&mut qom, &mut notes, &mut reasons)?;
    let kind = qom.text("/machine", "type")?;
    let kind = kind.strip_suffix("-machine").unwrap_or(&kind);
    if kind != MachineType::Microvm.name() {
        reasons.add("machine", format!("its type is {}, and has to be microvm", shorten(kind)));
        // The rest is what a microvm has.
        return Err(ImportError::Refused(reasons));
    }
    qom.check("machine", "/machine", board::MACHINE, &mut reasons)?;
    let memory_bytes = check_memory(&mut qom, &mut reasons)?;
    let (model, cpus) = cpu::check(&mut qom, &mut reasons)?;
    check_topology(&mut qom, cpus, &mut reasons)?;
    let interface = board::check(&mut qom, memory_bytes, &mut reasons)?;
    let devices = virtio::check(&mut qom, &mut notes, &mut reasons)?;
    let uuid = uuid(&mut qom, given.uuid, &mut notes)?;
    let name = name(&mut qom, given.name, &mut notes)?;
    if !virtio::is_name(&name) {
        let reason =
            format!("{:?} is no name for a machine of Ferry's: use --name", shorten(&name));
        reasons.add("name", reason);
    }
    let file = MachineFile {
        machine_type: Some(MachineType::Microvm.name().to_owned()),
        name: Some(name),
        uuid: Some(format_uuid(&uuid)),
        memory: Some(exact_size(memory_bytes)),
        serial: None,
        hpet: None,
        virtio: Some(interface),
        cpu: CpuFile {
            model: Some(model),
            count: Some(cpus),
            tsc_khz: Some(given.tsc_khz),
            promise_tsc: None,
            promise_cpuid: None,
        },
        clock: None,
        devices,
    };
    // What the tables have let through, the machine's own rules may still refuse.
    if reasons.0.is_empty()
        && let Err(ConfigError { subject, reason }) = resolves(&file, uuid)
    {
        reasons.add(subject, reason);
    }
    if !reasons.0.is_empty() {
        return Err(ImportError::Refused(reasons));
    }
    Ok(Imported { file, notes: notes.0 })
}

fn resolves(file: &MachineFile, uuid: [u8; 16]) -> Result<(), ConfigError> {
    let nothing = |_: &str| None;
    file.resolve(&FreshFacts { uuid, disk_sectors: &nothing, host_cpuid: None })?.validate()
}

/// Release, target and accelerator.
fn check_program(
    qom: &mut Qom<'_>,
    notes: &mut Notes,
    reasons: &mut Reasons,
) -> Result<(), MonitorError> {
    let misunderstood = |command: &str| MonitorError::Answer { command: command.to_owned() };
    let version = qom.query("query-version")?;
    let part = |name: &str| {
        let number = version.pointer(&format!("/qemu/{name}")).and_then(Value::as_u64);
        number.ok_or_else(|| misunderstood("query-version"))
    };
    let (major, minor, micro) = (part("major")?, part("minor")?, part("micro")?);
    if (major, minor) != RELEASE {
        let (ours, of) = RELEASE;
        reasons.add(
            "release",
            format!(
                "it is QEMU {major}.{minor}.{micro}, and Ferry knows the microvm of {ours}.{of}"
            ),
        );
    }
    notes.add(&format!("from QEMU {major}.{minor}.{micro}"));
    let target = qom.query("query-target")?;
    let target = target.get("arch").and_then(Value::as_str);
    if target != Some("x86_64") {
        let target = shorten(target.unwrap_or("unknown"));
        reasons.add("target", format!("it is {target}, and has to be x86_64"));
    }
    let kvm = qom.query("query-kvm")?;
    if kvm.get("enabled").and_then(Value::as_bool).ok_or_else(|| misunderstood("query-kvm"))? {
        reasons.add(
            "accelerator",
            "it is KVM, and Ferry reads the state of CPUs and timers, and knows what CPUID says, \
             of TCG alone",
        );
    } else if !qom.carries_out("x-query-jit")? {
        reasons.add("accelerator", "it has to be TCG");
    }
    let replay = qom.query("query-replay")?;
    let counted = replay.get("icount").and_then(Value::as_i64) != Some(0);
    if counted || replay.get("mode").and_then(Value::as_str) != Some("none") {
        reasons.add("clock", "time is counted in instructions, and has to be the host's");
    }
    Ok(())
}

fn check_memory(qom: &mut Qom<'_>, reasons: &mut Reasons) -> Result<u64, MonitorError> {
    let misunderstood = |command: &str| MonitorError::Answer { command: command.to_owned() };
    let command = "qom-get /machine memory";
    let memory = qom.get("/machine", "memory")?;
    let bytes = |key: &str| memory.get(key).and_then(Value::as_u64);
    let size = bytes("size").ok_or_else(|| misunderstood(command))?;
    if bytes("slots").unwrap_or(0) != 0 || bytes("max-size").is_some_and(|most| most != size) {
        reasons.add("memory", "more of it can be plugged, and Ferry cannot do that");
    }
    let command = "query-memory-size-summary";
    let summary = qom.query(command)?;
    let base = summary.get("base-memory").and_then(Value::as_u64);
    let plugged = summary.get("plugged-memory").and_then(Value::as_u64).unwrap_or(0);
    if base.ok_or_else(|| misunderstood(command))? != size || plugged != 0 {
        reasons
            .add("memory", format!("{plugged} bytes of it were plugged, and Ferry cannot do that"));
    }
    if size > MAX_MEMORY_BYTES {
        let most = exact_size(MAX_MEMORY_BYTES);
        reasons.add("memory", format!("{size} bytes are more than Ferry's {most}"));
    }
    Ok(size)
}

/// What the guest is told of packages, cores and threads.
fn check_topology(qom: &mut Qom<'_>, cpus: u32, reasons: &mut Reasons) -> Result<(), MonitorError> {
    let smp = qom.get("/machine", "smp")?;
    let count = |key: &str| {
        let command = || "qom-get /machine smp".to_owned();
        let count = smp.get(key).and_then(Value::as_u64);
        count.ok_or_else(|| MonitorError::Answer { command: command() })
    };
    let (now, most) = (count("cpus")?, count("maxcpus")?);
    if now != u64::from(cpus) || most != now {
        reasons.add("cpus", format!("{now} are there and {most} can be, which has to be the same"));
    }
    if cpus > MAX_CPUS {
        reasons.add("cpus", format!("{cpus} are more than Ferry's {MAX_CPUS}"));
    }
    for key in ["sockets", "dies", "clusters", "threads"] {
        let there = count(key)?;
        if there != 1 {
            reasons.add(
                "cpus",
                format!(
                    "{key} is {there}, and has to be 1: in Ferry all are cores of one package, as \
                     with -smp {cpus}"
                ),
            );
        }
    }
    Ok(())
}

fn name(qom: &mut Qom<'_>, given: Option<&str>, notes: &mut Notes) -> Result<String, MonitorError> {
    let theirs = qom.query("query-name")?;
    Ok(match (given, theirs.get("name").and_then(Value::as_str)) {
        (Some(name), _) | (None, Some(name)) => name.to_owned(),
        (None, None) => {
            notes.add("QEMU has no name for it");
            NO_NAME.to_owned()
        }
    })
}

fn uuid(qom: &mut Qom<'_>, fresh: [u8; 16], notes: &mut Notes) -> Result<[u8; 16], MonitorError> {
    let command = "query-uuid";
    let answer = qom.query(command)?;
    let text = answer.get("UUID").and_then(Value::as_str).unwrap_or_default();
    let uuid =
        parse_uuid(text).map_err(|_| MonitorError::Answer { command: command.to_owned() })?;
    if uuid != [0; 16] {
        return Ok(uuid);
    }
    notes.add("QEMU has no UUID for it, so this one is new");
    Ok(fresh)
}
