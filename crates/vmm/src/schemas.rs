//! Which sections the stream of a machine has, and how each is laid out.

use std::sync::Arc;

use cpu::CpuState;
use devices::acpi_ged::AcpiGedState;
use devices::exit_device::ExitState;
use devices::firmware::FirmwareState;
use devices::fw_cfg::FwCfgState;
use devices::serial::SerialState;
use devices::virtio::{
    VirtioBlockState, VirtioConsoleState, VirtioNetState, VirtioRngState, virtio_section_name,
};
use devices::{HpetState, I8254State, I8259State, IoApicState, LapicState, RtcState};
use machine::{MachineConfig, VirtioKind, board};
use vmstate::{Schema, VmState};

use crate::clock::ClockState;
use crate::state::{RunState, SchedulerState};

/// One section of a machine.
struct Section {
    name: String,
    instance: u32,
    schema: Schema,
}

/// The sections of one machine, in the order of the stream.
pub struct MachineSchemas {
    sections: Vec<Section>,
}

/// The sections of a machine with this configuration.
pub fn schemas(config: &MachineConfig) -> migration::SharedSchemas {
    Arc::new(MachineSchemas::new(config))
}

impl MachineSchemas {
    pub(crate) fn new(config: &MachineConfig) -> Self {
        let mut sections = Vec::new();
        let mut add = |name: &str, instance: u32, schema: Schema| {
            sections.push(Section { name: name.to_owned(), instance, schema });
        };
        add(RunState::NAME, 0, RunState::schema());
        add(ClockState::NAME, 0, ClockState::schema());
        add(SchedulerState::NAME, 0, SchedulerState::schema());
        for vcpu in 0..config.cpus.count {
            add(CpuState::NAME, vcpu, CpuState::schema());
            add(LapicState::NAME, vcpu, LapicState::schema());
        }
        for instance in 0..2 {
            add(IoApicState::NAME, instance, IoApicState::schema());
        }
        for instance in 0..2 {
            add(I8259State::NAME, instance, I8259State::schema());
        }
        add(I8254State::NAME, 0, I8254State::schema());
        if config.hpet {
            add(HpetState::NAME, 0, HpetState::schema());
        }
        add(RtcState::NAME, 0, RtcState::schema());
        add(SerialState::NAME, 0, SerialState::schema());
        add(AcpiGedState::NAME, 0, AcpiGedState::schema());
        add(FwCfgState::NAME, 0, FwCfgState::schema());
        if config.machine_type.has_exit_port() {
            add(ExitState::NAME, 0, ExitState::schema());
        }
        if config.machine_type.has_firmware() {
            add(FirmwareState::NAME, 0, FirmwareState::schema());
        }
        for plugged in &config.virtio {
            let (device, schema) = match &plugged.kind {
                VirtioKind::Block { .. } => (VirtioBlockState::NAME, VirtioBlockState::schema()),
                VirtioKind::Rng { .. } => (VirtioRngState::NAME, VirtioRngState::schema()),
                VirtioKind::Console { .. } => {
                    (VirtioConsoleState::NAME, VirtioConsoleState::schema())
                }
                VirtioKind::Net { .. } => (VirtioNetState::NAME, VirtioNetState::schema()),
            };
            let base = board::virtio_region(plugged.slot).base;
            add(&virtio_section_name(base, device), 0, schema);
        }
        Self { sections }
    }
}

impl stream::Schemas for MachineSchemas {
    fn schema(&self, name: &str, instance: u32) -> Option<&Schema> {
        self.sections
            .iter()
            .find(|section| section.name == name && section.instance == instance)
            .map(|section| &section.schema)
    }

    fn expected(&self) -> Vec<(String, u32)> {
        self.sections.iter().map(|section| (section.name.clone(), section.instance)).collect()
    }
}
