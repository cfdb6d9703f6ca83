//! The machine as the migration engine sees it: a source that runs behind a [`Vm`], and a target
//! that is built from what arrives.

use std::sync::{Arc, OnceLock};

use machine::{HostConfig, MachineConfig};
use memory::{DirtyBitmap, GuestRam};
use migration::{Cause, Filling, MigrationSource, MigrationTarget, Refusal, SharedSchemas};
use vmstate::SavedSection;

use crate::machine::Machine;
use crate::offer::host_offer;
use crate::schemas::schemas;
use crate::vm::{Command, Endpoints, Vm, VmError, VmState};

/// A machine that can be moved away.
pub struct VmSource {
    vm: Vm,
    was_running: bool,
}

impl Vm {
    /// This machine as the source of a migration.
    pub fn source(&self) -> VmSource {
        VmSource { vm: self.clone(), was_running: self.status().state == VmState::Running }
    }
}

impl MigrationSource for VmSource {
    fn machine_type(&self) -> String {
        self.vm.config().machine_type.to_string()
    }

    fn machine(&self) -> Vec<u8> {
        self.vm.config().to_fdt().expect("a machine that runs has a valid configuration")
    }

    fn schemas(&self) -> SharedSchemas {
        schemas(self.vm.config())
    }

    fn ram(&self) -> GuestRam {
        self.vm.ram()
    }

    fn was_running(&self) -> bool {
        self.was_running
    }

    fn start_dirty_log(&mut self) -> Result<(), Cause> {
        self.vm.check_complete()?;
        self.vm.ask(Command::StartDirtyLog)??;
        // What was dirtied before now goes with the first round.
        self.harvest_dirty().map(|_| ())
    }

    fn stop_dirty_log(&mut self) {
        self.vm.tell(Command::StopDirtyLog);
    }

    fn harvest_dirty(&mut self) -> Result<DirtyBitmap, Cause> {
        Ok(self.vm.ask(Command::Harvest)??)
    }

    fn pause(&mut self) -> Result<(), Cause> {
        Ok(self.vm.pause()?)
    }

    fn resume(&mut self) -> Result<(), Cause> {
        Ok(self.vm.resume()?)
    }

    fn save(&mut self) -> Result<Vec<SavedSection>, Cause> {
        let mut sections = self.vm.save()?;
        Machine::set_run_state(&mut sections, self.was_running);
        Ok(sections)
    }

    fn release(&mut self) -> Result<(), Cause> {
        Ok(self.vm.ask(Command::UnlockDisks)??)
    }

    fn retake(&mut self) -> Result<(), Cause> {
        Ok(self.vm.ask(Command::LockDisks)??)
    }

    fn throttle(&mut self, percent: u8) -> Result<(), Cause> {
        self.vm.tell(Command::Throttle(percent));
        Ok(())
    }
}

/// Makes the outputs of a machine once its configuration is known.
type MakeEndpoints = Box<dyn FnOnce(&MachineConfig) -> Endpoints + Send>;

/// A machine that is to be built from a stream.
pub struct VmTarget {
    host: HostConfig,
    endpoints: Option<MakeEndpoints>,
    config: Arc<OnceLock<MachineConfig>>,
    machine: Option<Machine>,
    run_at_once: bool,
    without_thread: bool,
    filling: Option<Filling>,
    vm: Option<Vm>,
}

impl VmTarget {
    /// A target on a host with this configuration. `endpoints` is asked once, when the machine's
    /// configuration has arrived.
    pub fn new(
        host: HostConfig,
        endpoints: impl FnOnce(&MachineConfig) -> Endpoints + Send + 'static,
    ) -> Self {
        Self {
            host,
            endpoints: Some(Box::new(endpoints)),
            config: Arc::default(),
            machine: None,
            run_at_once: false,
            without_thread: false,
            filling: None,
            vm: None,
        }
    }

    /// Leaves the machine to the caller, who runs it himself; see [`Self::into_machine`].
    #[must_use]
    pub fn without_thread(mut self) -> Self {
        self.without_thread = true;
        self
    }

    /// The machine, loaded and owned, paused and without a thread.
    pub fn into_machine(self) -> Option<Machine> {
        self.machine
    }

    /// The machine's configuration, once it has arrived.
    pub fn config(&self) -> Arc<OnceLock<MachineConfig>> {
        Arc::clone(&self.config)
    }

    /// The machine, once it was taken over. One that is owned here and could not be started is
    /// paused, and may lack its disks' locks.
    pub fn into_vm(mut self) -> Option<Vm> {
        if let (None, Some(machine)) = (&self.vm, self.machine.take()) {
            self.vm = Some(self.adopt(machine));
        }
        self.vm
    }

    fn adopt(&mut self, machine: Machine) -> Vm {
        let endpoints =
            self.endpoints.take().map_or_else(Endpoints::default, |make| make(machine.config()));
        let vm = Vm::adopt(machine, endpoints).with_filling(self.filling.clone());
        vm.tell(Command::Arrived);
        vm
    }

    fn built(&mut self) -> &mut Machine {
        self.machine.as_mut().expect("the engine builds before it asks")
    }
}

impl MigrationTarget for VmTarget {
    fn build(&mut self, machine_type: &str, machine: &[u8]) -> Result<(), Refusal> {
        let config =
            MachineConfig::from_fdt(machine).map_err(|error| Refusal::new(chain(&error)))?;
        if config.machine_type.to_string() != machine_type {
            return Err(Refusal::new(format!(
                "the stream is of machine type {machine_type:?}, its machine of {:?}",
                config.machine_type.to_string()
            )));
        }
        let differences = machine::check(&config, &host_offer(&config, &self.host));
        let reasons = differences.iter().map(ToString::to_string).collect();
        if let Some(refusal) = Refusal::from_reasons(reasons) {
            return Err(refusal);
        }
        let built =
            Machine::build(&config, &self.host).map_err(|error| Refusal::new(chain(&error)))?;
        // Built once only; a second configuration never comes.
        let _ = self.config.set(config);
        self.machine = Some(built);
        Ok(())
    }

    fn schemas(&self) -> SharedSchemas {
        schemas(self.machine.as_ref().expect("the engine builds before it asks").config())
    }

    fn ram(&self) -> GuestRam {
        self.machine.as_ref().expect("the engine builds before it asks").ram().clone()
    }

    fn load(&mut self, sections: &[SavedSection]) -> Result<(), Refusal> {
        let running =
            self.built().restore(sections).map_err(|error| Refusal::new(chain(&error)))?;
        self.run_at_once = running;
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<SavedSection>, Cause> {
        let running = self.run_at_once;
        let mut sections = self.built().save()?;
        Machine::set_run_state(&mut sections, running);
        Ok(sections)
    }

    fn filling(&mut self, filling: &Filling) {
        self.filling = Some(filling.clone());
    }

    fn run(&mut self) -> Result<(), Cause> {
        if self.without_thread {
            return Ok(self.built().lock_disks()?);
        }
        let Some(mut machine) = self.machine.take() else { return Err(VmError::Over.into()) };
        let locked = machine.lock_disks();
        let vm = self.adopt(machine);
        self.vm = Some(vm.clone());
        locked?;
        if self.run_at_once {
            vm.resume()?;
        }
        Ok(())
    }

    fn discard(&mut self) {
        self.machine = None;
    }
}

/// An error with its causes, in one sentence.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
