//! A machine behind its control socket: what it does when it is asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use control::{
    Controlled, MachineReport, MigrateSettings, OwnerReport, ProgressReport, Status, Summary,
};
use machine::{HostConfig, format_uuid};
use migration::{
    Cancel, Failure, Filling, MigrationError, MigrationSource, Observer, Outcome, Ownership,
    PostCopy, Progress, Served, Serving, Settled, Standing, Witness, Word,
};
use transport::{Address, Listener};
use vmm::{Vm, VmState};

use crate::confinement;
use crate::foreign;
use crate::recovery;
use crate::secure::Route;

/// How long a destination may take to answer the call.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a pipe may take no bytes.
const PIPE_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at the record of a move that nobody could confirm.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// A machine, the right to run it, and the one migration that it can be in.
pub struct ControlledVm {
    vm: Vm,
    /// The files behind its disks. They are named here, where relative names mean something.
    disks: BTreeMap<String, PathBuf>,
    ownership: Mutex<Ownership>,
    /// The record can be asked for whatever is done with the ownership meanwhile.
    witness: Mutex<Witness>,
    moving: Mutex<()>,
    /// Ends the migration that is under way.
    cancel: Mutex<Cancel>,
    answering: AtomicBool,
    /// A grant was not confirmed. The guest is paused, and may run elsewhere.
    doubt: AtomicBool,
    /// The guest ran when the move began that is in doubt.
    ran: AtomicBool,
    /// The guest is this process's, and its disks could not be taken.
    without_disks: AtomicBool,
    /// How the migration that is under way is told to go on by post-copy.
    post_copy: Mutex<Option<PostCopy>>,
    /// The guest runs elsewhere, or may, and some of its memory is only here.
    owed: Mutex<Option<Serving>>,
    itself: Weak<Self>,
}

struct Report<'a>(&'a mut dyn FnMut(ProgressReport));

impl Observer for Report<'_> {
    fn progress(&mut self, progress: &Progress) {
        (self.0)(progress.into());
    }
}

fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

impl ControlledVm {
    /// A machine that this process owns, on a host.
    pub fn new(vm: Vm, ownership: Ownership, host: &HostConfig) -> Arc<Self> {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let disks = host.disk.iter().map(|(id, disk)| (id.clone(), absolute(&disk.path))).collect();
        Arc::new_cyclic(|itself| Self {
            vm,
            witness: Mutex::new(ownership.witness()),
            disks,
            ownership: Mutex::new(ownership),
            moving: Mutex::new(()),
            cancel: Mutex::default(),
            answering: AtomicBool::new(false),
            doubt: AtomicBool::new(false),
            ran: AtomicBool::new(false),
            without_disks: AtomicBool::new(false),
            post_copy: Mutex::default(),
            owed: Mutex::default(),
            itself: itself.clone(),
        })
    }

    /// The machine.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The guest could not be started for want of its disks, perhaps.
    pub fn set_without_disks(&self) {
        self.without_disks.store(true, Ordering::Release);
    }

    /// Waits until the answer to a migration that is over has been sent.
    pub fn wait_for_move(&self) {
        while self.answering.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The right to the machine, which has ended; so does its migration.
    pub fn take_ownership(&self) -> Ownership {
        self.cancel.lock().unwrap_or_else(PoisonError::into_inner).cancel();
        std::mem::replace(&mut *self.ownership(), Ownership::without_record())
    }

    fn ownership(&self) -> MutexGuard<'_, Ownership> {
        // It is whole between any two calls on it.
        self.ownership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a guest that runs elsewhere, or may, still needs of this process.
    fn owed(&self) -> Option<Serving> {
        let owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        owed.clone().filter(|owed| !owed.is_done())
    }

    fn set_owed(&self, owed: Option<Serving>) {
        *self.owed.lock().unwrap_or_else(PoisonError::into_inner) = owed;
    }

    fn check_nothing_owed(&self) -> Result<(), String> {
        match self.owed() {
            None => Ok(()),
            Some(owed) => Err(format!(
                "its guest has moved, and {} pages of its memory are known to be here only; use \
                 `ferry migrate --recover {} ADDRESS`",
                owed.left(),
                self.vm.config().name
            )),
        }
    }

    /// The guest runs elsewhere: ends this process's part, unless that is needed there.
    fn leave(&self) {
        match self.check_nothing_owed() {
            Ok(()) => self.vm.set_gone(),
            Err(reason) => eprintln!("ferry: {}: {reason}", self.vm.config().name),
        }
    }

    /// Serves, until the destination has everything.
    fn serve(
        &self,
        serve: impl FnOnce(&Serving) -> Result<Served, Failure>,
    ) -> Result<Option<Serving>, String> {
        let Some(owed) = self.owed() else { return Ok(None) };
        match serve(&owed) {
            Ok(_) => Ok(Some(owed)),
            Err(failure) => {
                let reason = self.check_nothing_owed().err().unwrap_or_default();
                Err(format!("{}: {reason}", failure.sentence()))
            }
        }
    }

    /// Goes on with serving over a new link.
    fn recover(
        &self,
        address: &str,
        settings: &MigrateSettings,
        observer: &mut dyn Observer,
        cancel: &Cancel,
    ) -> Result<Summary, String> {
        if self.owed().is_none() {
            return Err("the destination needs nothing of this machine".to_owned());
        }
        let address: Address = address.parse().map_err(|error| format!("{error}"))?;
        let channel = Route::new(&address, settings)
            .and_then(|route| route.open(&address, CONNECT_LIMIT))
            .map_err(|error| format!("{error:#}"))?;
        let served = self.serve(|owed| owed.recover(channel, observer, cancel))?;
        // Whoever answered as the destination of this move runs the guest.
        if self.doubt.load(Ordering::Acquire) {
            self.settle(Some(Word::Gone));
        }
        self.answering.store(true, Ordering::Release);
        Ok(Summary {
            total_us: 0,
            downtime_us: 0,
            bytes: 0,
            rounds: Vec::new(),
            confirmed: true,
            late_pages: served.map_or(0, |served| served.pages()),
        })
    }

    fn idle(&self) -> Result<MutexGuard<'_, ()>, String> {
        self.moving.try_lock().map_err(|_| "a migration is under way".to_owned())
    }

    fn check_no_doubt(&self) -> Result<(), String> {
        if !self.doubt.load(Ordering::Acquire) {
            return Ok(());
        }
        let name = &self.vm.config().name;
        Err(format!(
            "its last move was not confirmed, and it may run at the destination; look there, and \
             then use `ferry resolve {name} --run-here` or `--gone`"
        ))
    }

    fn run_migration(
        &self,
        address: &str,
        settings: &MigrateSettings,
        ownership: &mut Ownership,
        observer: &mut dyn Observer,
        cancel: &Cancel,
    ) -> Result<Result<Outcome, MigrationError>, String> {
        let address: Address = address.parse().map_err(|error| format!("{error}"))?;
        let route = Route::new(&address, settings).map_err(|error| format!("{error:#}"))?;
        let to_qemu = settings.to_qemu;
        let settings = settings.resolve(address.is_two_way());
        *self.post_copy.lock().unwrap_or_else(PoisonError::into_inner) = settings.post_copy.clone();
        let mut source = self.vm.source();
        let stays = |error| format!("{}; the guest goes on here", sentence(&error));
        if to_qemu {
            if !address.is_two_way() {
                confinement::check_sink(&address)?;
            }
            let limits = (CONNECT_LIMIT, PIPE_LIMIT);
            let sink = foreign::sink(&self.vm, &address, &route, &settings, limits)
                .map_err(|error| format!("{error:#}; the guest goes on here"))?;
            return Ok(migration::save_to(
                &mut source,
                sink,
                ownership,
                &settings,
                observer,
                cancel,
            ));
        }
        Ok(if address.is_two_way() {
            let channel = route
                .open(&address, CONNECT_LIMIT)
                .map_err(|error| format!("{error:#}; the guest goes on here"))?;
            migration::migrate(&mut source, channel, ownership, &settings, observer, cancel)
        } else {
            confinement::check_sink(&address)?;
            let sink = transport::open_sink(&address, Some(PIPE_LIMIT)).map_err(stays)?;
            migration::save_to(&mut source, sink, ownership, &settings, observer, cancel)
        })
    }

    /// Asks the record, or takes the operator's word.
    fn settle(&self, word: Option<Word>) -> Settled {
        let resume = self.ran.load(Ordering::Acquire);
        let settled = migration::settle(&mut self.vm.source(), &mut self.ownership(), resume, word);
        if !matches!(settled, Settled::Undecided(_)) {
            self.doubt.store(false, Ordering::Release);
        }
        if matches!(settled, Settled::Here | Settled::NotResumed(_)) {
            self.set_owed(None);
        }
        if let Settled::NotResumed(_) = settled {
            self.set_without_disks();
        }
        settled
    }

    /// A move was not confirmed. Where a record can tell, it is asked until it does.
    fn enter_doubt(&self, ran: bool, in_dispute: bool) {
        self.ran.store(ran, Ordering::Release);
        self.doubt.store(true, Ordering::Release);
        if !in_dispute {
            return;
        }
        let itself = self.itself.clone();
        let ask = move || {
            loop {
                thread::sleep(LOOK_AGAIN);
                let Some(vm) = itself.upgrade() else { return };
                let Ok(_idle) = vm.idle() else { continue };
                if !vm.doubt.load(Ordering::Acquire) {
                    return;
                }
                let name = &vm.vm.config().name;
                match vm.settle(None) {
                    Settled::Undecided(_) => {}
                    Settled::Here => {
                        eprintln!("ferry: the record leaves {name} here: it goes on");
                        return;
                    }
                    Settled::NotResumed(why) => {
                        eprintln!("ferry: the record leaves {name} here, paused: {why}");
                        return;
                    }
                    Settled::Gone => {
                        vm.leave();
                        return;
                    }
                }
            }
        };
        // Without the thread the operator's word is what is left.
        let _ = thread::Builder::new().name("ownership".to_owned()).spawn(ask);
    }
}

impl Controlled for ControlledVm {
    fn status(&self) -> Status {
        let config = self.vm.config();
        let status = self.vm.status();
        Status {
            name: config.name.clone(),
            state: match status.state {
                _ if self.owed().is_some() => self.owed().map_or_else(String::new, |owed| {
                    let (left, of) = (owed.left(), owed.pages());
                    if owed.is_linked() {
                        format!("moved, {left} of {of} pages still to be served")
                    } else {
                        format!("moved, link lost, {left} of {of} pages still to be served")
                    }
                }),
                VmState::Running | VmState::Paused if self.vm.missing_pages() > 0 => {
                    let (pages, filling) = (self.vm.missing_pages(), self.vm.filling());
                    if filling.is_some_and(Filling::is_linked) {
                        format!("running, {pages} pages to come")
                    } else {
                        format!("waiting for the source, {pages} pages missing")
                    }
                }
                VmState::Running => "running".to_owned(),
                VmState::Paused if self.doubt.load(Ordering::Acquire) => "unconfirmed".to_owned(),
                VmState::Paused => "paused".to_owned(),
                VmState::Gone => "gone".to_owned(),
                VmState::Ended(end) => format!("{end:?}").to_lowercase(),
            },
            pid: std::process::id(),
            memory: config.memory_bytes,
            cpus: config.cpus.count,
            instructions: status.instructions,
            virtual_ns: status.virtual_ns,
            throttle: status.throttle,
        }
    }

    fn pause(&self) -> Result<(), String> {
        let _idle = self.idle()?;
        self.check_nothing_owed()?;
        self.vm.pause().map_err(|error| error.to_string())
    }

    fn resume(&self) -> Result<(), String> {
        let _idle = self.idle()?;
        self.check_no_doubt()?;
        self.check_nothing_owed()?;
        if self.without_disks.load(Ordering::Acquire) {
            self.vm.source().retake().map_err(|error| sentence(error.as_ref()))?;
            self.without_disks.store(false, Ordering::Release);
        }
        self.vm.resume().map_err(|error| error.to_string())
    }

    fn check_quit(&self) -> Result<(), String> {
        self.check_nothing_owed()
    }

    fn quit(&self) {
        self.vm.quit();
    }

    fn post_copy(&self) -> Result<(), String> {
        let post_copy = self.post_copy.lock().unwrap_or_else(PoisonError::into_inner);
        match &*post_copy {
            Some(post_copy) => {
                post_copy.switch();
                Ok(())
            }
            None => Err("it is not being moved, or its migration was started without \
                         --allow-postcopy"
                .to_owned()),
        }
    }

    fn listen(&self, address: &str) -> Result<String, String> {
        let Some(filling) = self.vm.filling() else {
            return Err("it waits for nobody".to_owned());
        };
        let address: Address = address.parse().map_err(|error| format!("{error}"))?;
        let listener = Listener::bind(&address).map_err(|error| sentence(&error))?;
        recovery::check(&listener).map_err(|error| format!("{error:#}"))?;
        let address = listener.address().to_string();
        recovery::listen(self.vm.config().name.clone(), listener, filling.clone());
        Ok(address)
    }

    fn power_button(&self) {
        self.vm.press_power_button();
    }

    fn migrate(
        &self,
        address: &str,
        settings: &MigrateSettings,
        progress: &mut dyn FnMut(ProgressReport),
        cancel: &Cancel,
    ) -> Result<Summary, String> {
        let _moving = self.idle()?;
        if settings.recover {
            return self.recover(address, settings, &mut Report(progress), cancel);
        }
        self.check_no_doubt()?;
        self.check_nothing_owed()?;
        self.vm.check_complete().map_err(|error| error.to_string())?;
        let ran = self.vm.status().state == VmState::Running;
        *self.cancel.lock().unwrap_or_else(PoisonError::into_inner) = cancel.clone();
        let mut ownership = self.ownership();
        let mut report = Report(progress);
        let outcome = self.run_migration(address, settings, &mut ownership, &mut report, cancel)?;
        *self.post_copy.lock().unwrap_or_else(PoisonError::into_inner) = None;
        match outcome {
            Ok(outcome) => {
                drop(ownership);
                self.set_owed(outcome.owed.clone());
                // The guest is there: what it still needs is not cancelled by a word.
                self.serve(|owed| owed.serve(&mut report, &Cancel::new()))?;
                self.answering.store(true, Ordering::Release);
                Ok((&outcome).into())
            }
            Err(error) => {
                self.set_owed(error.owed.clone());
                match error.standing {
                    Standing::Unconfirmed => self.enter_doubt(ran, ownership.is_in_dispute()),
                    Standing::NotResumed(_) => self.set_without_disks(),
                    _ => {}
                }
                Err(error.to_string())
            }
        }
    }

    fn machine(&self) -> Result<MachineReport, String> {
        let tree = self.vm.config().to_fdt().map_err(|error| sentence(&error))?;
        let named = |(id, path): (&String, &PathBuf)| match path.to_str() {
            Some(path) => Ok((id.clone(), path.to_owned())),
            None => Err(format!("{id}: the name of its file is no text: {}", path.display())),
        };
        Ok(MachineReport { tree, disks: self.disks.iter().map(named).collect::<Result<_, _>>()? })
    }

    fn owner(&self) -> OwnerReport {
        let mut witness = self.witness.lock().unwrap_or_else(PoisonError::into_inner);
        let record = match witness.read() {
            Ok(record) => record.map(|record| record.to_string()),
            Err(error) => Some(sentence(error.as_ref())),
        };
        OwnerReport {
            vm: format_uuid(&self.vm.config().uuid),
            process: witness.me().to_string(),
            place: witness.place(),
            record,
            unconfirmed: self.doubt.load(Ordering::Acquire),
        }
    }

    fn resolve(&self, run_here: bool) -> Result<bool, String> {
        let _idle = self.idle()?;
        if !self.doubt.load(Ordering::Acquire) {
            return Err("nothing about it is in doubt".to_owned());
        }
        let word = if run_here { Word::RunHere } else { Word::Gone };
        match (self.settle(Some(word)), run_here) {
            (Settled::Here, true) => Ok(false),
            (Settled::Here, false) => Err("the record says that it is here: it goes on".to_owned()),
            (Settled::Gone, false) => {
                if self.owed().is_none() {
                    self.answering.store(true, Ordering::Release);
                }
                Ok(true)
            }
            (Settled::Gone, true) => {
                self.leave();
                Err("the record says that it is elsewhere: it ends here".to_owned())
            }
            (Settled::NotResumed(why), _) => Err(format!("it is here, paused: {why}")),
            (Settled::Undecided(why), _) => Err(why),
        }
    }

    fn after_move(&self) {
        self.leave();
        self.answering.store(false, Ordering::Release);
    }
}
