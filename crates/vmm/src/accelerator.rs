//! Which accelerator runs a machine on this host, and why.
//!
//! KVM is taken by itself only where it was seen to run guests as hardware does
//! ([`accel_kvm::Tier::Full`]) and can keep everything that the machine promises. Who insists on
//! KVM gets it wherever it can keep the promises and runs a guest at all.

use std::sync::OnceLock;

use accel_kvm::{Capabilities, KvmAccelerator, Probe, Tier};
use cpu::{CpuModel, MODELS, QEMU_MODELS};
use machine::{
    AcceleratorChoice, AcceleratorOffer, CpuModelOffer, Difference, HOST_MODEL, MAX_CPUS,
    MachineConfig, MachineType, TscOffer,
};

/// What runs the vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The software CPU.
    Soft,
    /// The host's processor, by KVM.
    Kvm,
}

impl std::fmt::Display for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Soft => "soft",
            Self::Kvm => "kvm",
        })
    }
}

/// An accelerator that was chosen for a machine.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The accelerator.
    pub accelerator: Accelerator,
    /// Why this one, in words.
    pub reason: String,
    pub(crate) model: &'static CpuModel,
}

/// No accelerator of this host runs the machine.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// A CPU model that nobody here knows.
    #[error("cpu model {0:?} is unknown")]
    CpuModel(String),
    /// KVM was asked for and there is none that runs a guest.
    #[error("kvm: {0}")]
    NoKvm(String),
    /// The accelerator that was asked for cannot keep what the machine promises.
    #[error("{accelerator}: {}", reasons.join("; "))]
    Promises {
        /// The accelerator.
        accelerator: Accelerator,
        /// What it cannot, each a sentence.
        reasons: Vec<String>,
    },
}

/// What KVM was seen to do on this host; looked at once.
pub fn probe_kvm() -> &'static Probe {
    static PROBE: OnceLock<Probe> = OnceLock::new();
    PROBE.get_or_init(Probe::run)
}

/// The digest of what CPUID says on this host under KVM, for the model `host`; `None` where KVM
/// runs no guest.
pub fn host_cpuid() -> Option<[u8; 32]> {
    probe_kvm().tier()?;
    accel_kvm::host_model().ok().map(CpuModel::fingerprint)
}

/// The named CPU models of a machine type: QEMU's machines have more to them than a name.
fn models(machine_type: MachineType) -> &'static [CpuModel] {
    match machine_type {
        MachineType::Ferry1 => MODELS,
        MachineType::Microvm => QEMU_MODELS,
    }
}

fn known(
    machine_type: MachineType,
    lacks: impl Fn(&CpuModel) -> Vec<String>,
) -> Vec<CpuModelOffer> {
    models(machine_type)
        .iter()
        .map(|model| CpuModelOffer { name: model.name().to_owned(), lacks: lacks(model) })
        .collect()
}

/// What an accelerator offers to a machine of this type.
pub(crate) fn offer(machine_type: MachineType, accelerator: Accelerator) -> AcceleratorOffer {
    match accelerator {
        Accelerator::Soft => AcceleratorOffer {
            cpu_models: known(machine_type, |_| Vec::new()),
            max_cpus: MAX_CPUS,
            host_cpuid: None,
            // The software CPU computes its time-stamp counter.
            tsc: TscOffer::Any,
            icount: true,
        },
        Accelerator::Kvm => AcceleratorOffer {
            cpu_models: known(machine_type, |model| {
                KvmAccelerator::missing_features(model)
                    .unwrap_or_else(|error| vec![error.to_string()])
            }),
            max_cpus: MAX_CPUS,
            host_cpuid: host_cpuid(),
            tsc: kvm_tsc(),
            icount: false,
        },
    }
}

fn kvm_tsc() -> TscOffer {
    match Capabilities::read() {
        Ok(kvm) if kvm.tsc_offset && accel_kvm::tsc_write_is_seen() => {
            if kvm.tsc_control {
                TscOffer::Any
            } else {
                TscOffer::Fixed(kvm.tsc_khz)
            }
        }
        Ok(_) | Err(_) => TscOffer::HostCounter,
    }
}

/// What of the machine an accelerator cannot keep.
fn broken_promises(config: &MachineConfig, accelerator: Accelerator) -> Vec<String> {
    machine::check_accelerator(config, &offer(config.machine_type, accelerator))
        .iter()
        .map(Difference::to_string)
        .collect()
}

fn model(config: &MachineConfig) -> Result<&'static CpuModel, ChoiceError> {
    let unknown = || ChoiceError::CpuModel(config.cpus.model.clone());
    if config.cpus.model == HOST_MODEL {
        return accel_kvm::host_model().map_err(|_| unknown());
    }
    models(config.machine_type)
        .iter()
        .find(|model| model.name() == config.cpus.model)
        .ok_or_else(unknown)
}

/// Chooses the accelerator for a machine.
///
/// # Errors
/// If the one that is wanted does not run it.
pub fn choose(config: &MachineConfig, wanted: AcceleratorChoice) -> Result<Choice, ChoiceError> {
    let chosen =
        |accelerator, reason: String| Ok(Choice { accelerator, reason, model: model(config)? });
    let refused = |accelerator, reasons| Err(ChoiceError::Promises { accelerator, reasons });
    let against_soft = || broken_promises(config, Accelerator::Soft);
    match wanted {
        AcceleratorChoice::Soft => match against_soft() {
            none if none.is_empty() => chosen(Accelerator::Soft, "asked for".to_owned()),
            reasons => refused(Accelerator::Soft, reasons),
        },
        AcceleratorChoice::Kvm => {
            if probe_kvm().tier().is_none() {
                return Err(ChoiceError::NoKvm(why_not_full()));
            }
            match broken_promises(config, Accelerator::Kvm) {
                none if none.is_empty() => chosen(Accelerator::Kvm, "asked for".to_owned()),
                reasons => refused(Accelerator::Kvm, reasons),
            }
        }
        AcceleratorChoice::Auto => {
            let against = if probe_kvm().tier() == Some(Tier::Full) {
                broken_promises(config, Accelerator::Kvm)
            } else {
                vec![why_not_full()]
            };
            if against.is_empty() {
                let reason = "kvm runs guests as hardware does here".to_owned();
                return chosen(Accelerator::Kvm, reason);
            }
            match against_soft() {
                none if none.is_empty() => {
                    chosen(Accelerator::Soft, format!("not kvm: {}", against.join("; ")))
                }
                reasons => refused(Accelerator::Soft, reasons),
            }
        }
    }
}

/// What keeps KVM from being taken by itself, in words.
fn why_not_full() -> String {
    let probe = probe_kvm();
    match probe.findings.iter().find(|finding| !finding.works) {
        Some(finding) if probe.tier().is_some() => {
            format!("it runs only simple guests here ({} fails)", finding.name)
        }
        Some(finding) => format!("{}: {}", finding.name, finding.detail),
        None => "it was not probed".to_owned(),
    }
}

/// The accelerator that would run this machine, or that it is refused for.
pub(crate) fn candidate(config: &MachineConfig, wanted: AcceleratorChoice) -> Accelerator {
    match choose(config, wanted) {
        Ok(choice) => choice.accelerator,
        Err(ChoiceError::Promises { accelerator, .. }) => accelerator,
        Err(ChoiceError::NoKvm(_)) => Accelerator::Kvm,
        Err(ChoiceError::CpuModel(_)) => Accelerator::Soft,
    }
}
