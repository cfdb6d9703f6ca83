//! The CPUs: which of Ferry's models says of itself what QEMU's say.

use cpu::{CpuModel, QEMU_MODELS, Topology, feature_name};
use serde_json::Value;

use super::Reasons;
use super::monitor::MonitorError;
use super::qom::{Qom, Table, Want, shorten};

/// What the type of every CPU of x86-64 ends with, behind the name of its model.
pub(super) const CPU_SUFFIX: &str = "-x86_64-cpu";

/// What makes up a CPU in QEMU besides its features: the guest sees another machine if one of these
/// is not as QEMU has it if told nothing.
const FIXED: Table = &[
    ("cpuid-0xb", Want::Flag(true)),
    ("l3-cache", Want::Flag(true)),
    ("legacy-cache", Want::Flag(true)),
    ("level-func7", Want::Number(0)),
    ("lmce", Want::Flag(false)),
    ("node-id", Want::Number(-1)),
    ("pmu", Want::Flag(false)),
    ("start-powered-off", Want::Flag(false)),
    ("tcg-cpuid", Want::Flag(true)),
    ("tsc-frequency", Want::Number(0)),
    ("x-vendor-cpuid-only", Want::Flag(true)),
    ("xlevel2", Want::Number(0)),
];

const LAPIC: Table = &[
    ("id", Want::Any),
    ("legacy-instance-id", Want::Flag(false)),
    ("vapic", Want::Flag(true)),
    ("version", Want::Number(0x14)),
];

/// QEMU's words of features say what every CPU has, wherever it is. How many share a package is asked
/// apart.
const ALONE: Topology = Topology { apic_id: 0, count: 1 };

/// Holds all CPUs against Ferry's models; gives the name of the one that they are, and how many
/// there are.
pub(super) fn check(
    qom: &mut Qom<'_>,
    reasons: &mut Reasons,
) -> Result<(String, u32), MonitorError> {
    let command = "query-cpus-fast";
    let answer = qom.query(command)?;
    let misunderstood = || MonitorError::Answer { command: command.to_owned() };
    let cpus = answer.as_array().ok_or_else(misunderstood)?;
    let count = u32::try_from(cpus.len()).map_err(|_| misunderstood())?;
    let mut model = None;
    for (index, cpu) in (0..).zip(cpus) {
        let path = cpu.get("qom-path").and_then(Value::as_str).ok_or_else(misunderstood)?;
        let named = check_one(qom, path, index, reasons)?;
        model.get_or_insert(named);
    }
    Ok((model.unwrap_or_default(), count))
}

fn check_one(
    qom: &mut Qom<'_>,
    path: &str,
    index: u32,
    reasons: &mut Reasons,
) -> Result<String, MonitorError> {
    let kind = qom.text(path, "type")?;
    let name = kind.strip_suffix(CPU_SUFFIX).unwrap_or(&kind);
    for (property, want) in FIXED {
        let found = qom.try_get(path, property)?;
        if !found.as_ref().is_ok_and(|value| want.fits(value)) {
            let shown = found.map_or_else(|reason| reason, |value| value.to_string());
            let wanted = want.in_words();
            reasons
                .add("cpu", format!("{property} is {}, and has to be {wanted}", shorten(&shown)));
        }
    }
    let id = qom.number(path, "apic-id")?;
    if id != u64::from(index) {
        reasons.add("cpu", format!("CPU {index} has APIC id {id}, and has to have {index}"));
    }
    let lapic = format!("{path}/lapic");
    if qom.text(&lapic, "type")? == "apic" {
        qom.check("local APIC", &lapic, LAPIC, reasons)?;
    } else {
        reasons.add("local APIC", "it is not QEMU's own model");
    }
    let mut models = Vec::new();
    for model in QEMU_MODELS {
        models.push((model, differences(qom, path, model)?));
    }
    let exact = models.iter().find(|(_, differences)| differences.is_empty());
    let named = models.iter().find(|(model, _)| model.name() == name);
    let Some((model, differences)) = exact.or(named) else {
        let known: Vec<&str> = QEMU_MODELS.iter().map(CpuModel::name).collect();
        let known = known.join(", ");
        reasons.add("cpu", format!("Ferry has no model {name:?}; it has {known}"));
        return Ok(name.to_owned());
    };
    for difference in differences {
        reasons.add("cpu", difference.as_str());
    }
    Ok(model.name().to_owned())
}

fn differences(
    qom: &mut Qom<'_>,
    path: &str,
    model: &CpuModel,
) -> Result<Vec<String>, MonitorError> {
    let mut differences = Vec::new();
    for (property, ours) in [
        ("family", u64::from(family(model))),
        ("model", u64::from(model.signature() >> 12 & 0xf0 | model.signature() >> 4 & 0xf)),
        ("stepping", u64::from(model.signature() & 0xf)),
        ("level", u64::from(model.cpuid(0, 0, ALONE).eax)),
        ("xlevel", u64::from(model.cpuid(0x8000_0000, 0, ALONE).eax)),
        ("phys-bits", u64::from(model.physical_bits())),
        ("ucode-rev", model.microcode_revision()),
    ] {
        let theirs = qom.number(path, property)?;
        if theirs != ours {
            differences.push(format!("{property} is {theirs}, and {ours} in {}", model.name()));
        }
    }
    for (property, ours) in [("vendor", vendor(model)), ("model-id", brand(model))] {
        let theirs = qom.text(path, property)?;
        if theirs != ours {
            let theirs = shorten(&theirs);
            differences.push(format!("{property} is {theirs:?}, and {ours:?} in {}", model.name()));
        }
    }
    let words = qom.get(path, "feature-words")?;
    let misunderstood =
        || MonitorError::Answer { command: format!("qom-get {path} feature-words") };
    for word in words.as_array().ok_or_else(misunderstood)? {
        let number = |key| word.get(key).and_then(Value::as_u64);
        let leaf = number("cpuid-input-eax").ok_or_else(misunderstood)?;
        let index = number("cpuid-input-ecx").unwrap_or(0);
        let theirs = number("features").ok_or_else(misunderstood)?;
        // Past its highest leaf a CPU answers as for that one, and QEMU's words say nothing.
        let highest = match leaf {
            0..0x4000_0000 => model.cpuid(0, 0, ALONE).eax,
            0x4000_0000..0x8000_0000 => u32::MAX,
            _ => model.cpuid(0x8000_0000, 0, ALONE).eax,
        };
        if leaf > u64::from(highest) {
            continue;
        }
        let register = word.get("cpuid-register").and_then(Value::as_str);
        let register = ["EAX", "EBX", "ECX", "EDX"]
            .iter()
            .position(|known| Some(*known) == register)
            .ok_or_else(misunderstood)?;
        let said = model.cpuid(leaf as u32, index as u32, ALONE);
        let ours = u64::from([said.eax, said.ebx, said.ecx, said.edx][register]);
        for bit in (0..32).filter(|bit| (theirs ^ ours) >> bit & 1 != 0) {
            let feature = feature_name(leaf as u32, index as u32, register as u8, bit);
            let words = if theirs >> bit & 1 != 0 {
                format!("QEMU's has the feature {feature}, and {} in Ferry has not", model.name())
            } else {
                format!("QEMU's has no feature {feature}, and {} in Ferry has it", model.name())
            };
            differences.push(words);
        }
    }
    Ok(differences)
}

/// Base and extended family together (AMD APM volume 3, section E.3.2).
fn family(model: &CpuModel) -> u32 {
    (model.signature() >> 8 & 0xf) + (model.signature() >> 20 & 0xff)
}

fn vendor(model: &CpuModel) -> String {
    let leaf = model.cpuid(0, 0, ALONE);
    text(&[leaf.ebx, leaf.edx, leaf.ecx])
}

fn brand(model: &CpuModel) -> String {
    let mut words = Vec::new();
    for function in 0x8000_0002..=0x8000_0004 {
        let leaf = model.cpuid(function, 0, ALONE);
        words.extend([leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]);
    }
    text(&words)
}

fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}
