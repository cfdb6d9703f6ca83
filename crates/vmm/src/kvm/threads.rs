//! The vCPUs' threads: each waits until the machine runs, runs its vCPU until it is told to stop,
//! and says so.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use accel_kvm::{Kicker, KvmVcpu, Reading};
use cpu::{AcceleratorError, Exit, Vcpu};

use super::Waker as Callback;
use super::bus::{Flag, KvmBus};
use crate::machine::{SharedBoard, lock};

/// How long a thread that was kicked may take before it is kicked again.
const KICK_AGAIN: Duration = Duration::from_millis(1);

/// Why a vCPU cannot go on.
pub(super) enum Ended {
    Shutdown(u32),
    Failed(AcceleratorError),
}

/// Wakes the machine's thread; once, until it has looked.
#[derive(Clone, Default)]
pub(super) struct Waker(Arc<WakerInner>);

#[derive(Default)]
struct WakerInner {
    callback: Mutex<Option<Callback>>,
    asked: Flag,
}

impl Waker {
    pub(super) fn set(&self, callback: Callback) {
        *self.0.callback.lock().unwrap_or_else(PoisonError::into_inner) = Some(callback);
    }

    pub(super) fn wake(&self) {
        if self.0.asked.is_set() {
            return;
        }
        self.0.asked.set();
        if let Some(callback) = &*self.0.callback.lock().unwrap_or_else(PoisonError::into_inner) {
            callback();
        }
    }

    /// The machine's thread looks: the next wake is a new one.
    pub(super) fn looked(&self) {
        self.0.asked.take();
    }
}

#[derive(Default)]
struct Progress {
    /// The threads are to run their vCPUs.
    run: bool,
    /// They are to end.
    quit: bool,
    /// How many run.
    running: usize,
    ended: Option<Ended>,
}

/// What the threads, the board and the machine share.
pub(super) struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
    /// The output of the 8259A pair.
    pub(super) external: AtomicBool,
    /// The guest asked for what ends the machine.
    request: Flag,
    waker: Waker,
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    pub(super) fn set_request(&self) {
        self.request.set();
    }

    pub(super) fn has_request(&self) -> bool {
        self.request.is_set()
    }

    /// Ends the machine with an error.
    pub(super) fn fail(&self, error: AcceleratorError) {
        self.end(Ended::Failed(error));
    }

    fn end(&self, ended: Ended) {
        let mut progress = self.progress();
        progress.run = false;
        progress.ended.get_or_insert(ended);
        drop(progress);
        self.waker.wake();
    }

    /// True if the vCPUs are to run on.
    fn goes_on(&self) -> bool {
        let progress = self.progress();
        progress.run && !progress.quit && !self.has_request()
    }

    /// Waits until the vCPU is to run; false if it is to end.
    fn wait_to_run(&self) -> bool {
        let mut progress = self.progress();
        loop {
            if progress.quit {
                return false;
            }
            if progress.run && !self.has_request() {
                progress.running += 1;
                return true;
            }
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Counts a thread out, also when it panics.
struct Running<'a>(&'a Shared, u32);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(AcceleratorError::State {
                vcpu: self.1,
                reason: "its thread failed".to_owned(),
            });
        }
        self.0.progress().running -= 1;
        self.0.changed.notify_all();
    }
}

/// A vCPU, and what its thread has seen when it stopped.
pub(super) struct Stoppable {
    pub(super) vcpu: KvmVcpu,
    /// Its local APIC at a virtual time; none if it never ran, or cannot go on.
    pub(super) seen: Option<Reading>,
}

struct One {
    vcpu: Arc<Mutex<Stoppable>>,
    kicker: Kicker,
    thread: Option<JoinHandle<()>>,
}

/// All vCPUs with their threads.
pub(super) struct Threads {
    all: Vec<One>,
    shared: Arc<Shared>,
}

fn take(vcpu: &Mutex<Stoppable>) -> MutexGuard<'_, Stoppable> {
    vcpu.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work(index: u32, vcpu: &Mutex<Stoppable>, board: SharedBoard, shared: &Arc<Shared>) {
    let mut bus = KvmBus::new(index as usize, Arc::clone(&board), Arc::clone(shared));
    let clock = || lock(&board).clock.now(0);
    while shared.wait_to_run() {
        let _running = Running(shared, index);
        let Stoppable { vcpu, seen } = &mut *take(vcpu);
        *seen = None;
        match run(vcpu, &mut bus, shared) {
            Ok(Exit::Shutdown) => shared.end(Ended::Shutdown(index)),
            Ok(_) => match vcpu.settle(&mut bus, clock) {
                Ok(reading) => *seen = Some(reading),
                Err(error) => shared.fail(error),
            },
            Err(error) => shared.fail(error),
        }
    }
}

/// Runs a vCPU until it is to stop, or cannot go on.
fn run(vcpu: &mut KvmVcpu, bus: &mut KvmBus, shared: &Shared) -> Result<Exit, AcceleratorError> {
    loop {
        let exit = vcpu.run(bus, u64::MAX)?.exit;
        if exit == Exit::Shutdown || !shared.goes_on() {
            return Ok(exit);
        }
    }
}

impl Threads {
    /// Starts a thread for each vCPU; none runs before [`Self::go`].
    pub(super) fn new(vcpus: Vec<KvmVcpu>, board: &SharedBoard) -> Self {
        let shared = Arc::new(Shared {
            progress: Mutex::default(),
            changed: Condvar::new(),
            external: AtomicBool::new(false),
            request: Flag::default(),
            waker: Waker::default(),
        });
        let all = (0..)
            .zip(vcpus)
            .map(|(index, vcpu)| {
                let kicker = vcpu.kicker();
                let vcpu = Arc::new(Mutex::new(Stoppable { vcpu, seen: None }));
                let (own, board, shared) =
                    (Arc::clone(&vcpu), Arc::clone(board), Arc::clone(&shared));
                let thread = std::thread::Builder::new()
                    .name(format!("vcpu{index}"))
                    .spawn(move || work(index, &own, board, &shared))
                    .expect("a thread can be started");
                One { vcpu, kicker, thread: Some(thread) }
            })
            .collect();
        Self { all, shared }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(super) fn waker(&self) -> Waker {
        self.shared.waker.clone()
    }

    pub(super) fn kicker(&self, index: usize) -> Kicker {
        self.all[index].kicker.clone()
    }

    /// A vCPU whose thread does not run it.
    pub(super) fn vcpu(&self, index: usize) -> MutexGuard<'_, Stoppable> {
        take(&self.all[index].vcpu)
    }

    /// What ended the vCPUs, since the last call.
    pub(super) fn take_ended(&self) -> Option<Ended> {
        self.shared.progress().ended.take()
    }

    /// Lets the vCPUs run.
    pub(super) fn go(&self) {
        self.shared.progress().run = true;
        self.shared.changed.notify_all();
    }

    /// Stops the vCPUs, and waits until none runs. The board must be free meanwhile.
    pub(super) fn stop(&self) {
        let mut progress = self.shared.progress();
        progress.run = false;
        while progress.running > 0 {
            for one in &self.all {
                one.kicker.kick();
            }
            (progress, _) = self
                .shared
                .changed
                .wait_timeout(progress, KICK_AGAIN)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
        self.shared.progress().quit = true;
        self.shared.changed.notify_all();
        for one in &mut self.all {
            if let Some(thread) = one.thread.take() {
                // A thread that panicked has said so.
                let _ = thread.join();
            }
        }
    }
}
