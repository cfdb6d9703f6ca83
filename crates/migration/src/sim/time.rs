//! The clock and the scheduler. A thread outside of any simulation has the system's time.

use std::cell::RefCell;
use std::io;
use std::ops::{Add, AddAssign, Sub};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

thread_local! {
    static CURRENT: RefCell<Option<(Arc<Simulation>, usize)>> = const { RefCell::new(None) };
}

fn current() -> Option<(Arc<Simulation>, usize)> {
    CURRENT.with_borrow(Clone::clone)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Thread {
    Runnable,
    /// Waits for a change of this number, or for this time.
    Blocked(u64, Option<Duration>),
    Done,
}

#[derive(Default)]
struct State {
    now: Duration,
    threads: Vec<(Thread, Arc<Condvar>)>,
    running: usize,
}

/// One simulation.
#[derive(Default)]
pub(crate) struct Simulation(Mutex<State>);

impl Simulation {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs something as the first thread of a new simulation, until every thread has ended.
    pub(crate) fn run<T: Send>(first: impl FnOnce() -> T + Send) -> T {
        let simulation = Arc::new(Self::default());
        simulation.lock().threads.push((Thread::Runnable, Arc::default()));
        std::thread::scope(|scope| {
            let inside = simulation.clone();
            scope.spawn(move || inside.live(0, first)).join().expect("a simulated thread panicked")
        })
    }

    fn live<T>(self: Arc<Self>, me: usize, run: impl FnOnce() -> T) -> T {
        CURRENT.set(Some((self.clone(), me)));
        self.wait_for_turn(self.lock(), me);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        let mut state = self.lock();
        state.threads[me].0 = Thread::Done;
        wake(&mut state, join_key(me));
        pass_on(&mut state);
        drop(state);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn wait_for_turn(&self, mut state: MutexGuard<'_, State>, me: usize) {
        let turn = state.threads[me].1.clone();
        while state.running != me {
            state = turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn block(&self, me: usize, key: u64, limit: Option<Duration>) {
        let mut state = self.lock();
        let until = limit.map(|limit| state.now + limit);
        state.threads[me].0 = Thread::Blocked(key, until);
        pass_on(&mut state);
        self.wait_for_turn(state, me);
    }

    fn is_done(&self, thread: usize) -> bool {
        self.lock().threads[thread].0 == Thread::Done
    }
}

fn wake(state: &mut State, key: u64) {
    for (thread, _) in &mut state.threads {
        if matches!(thread, Thread::Blocked(waits, _) if *waits == key) {
            *thread = Thread::Runnable;
        }
    }
}

/// The next thread in order runs; if all wait, time goes on to the first wait that ends.
fn pass_on(state: &mut State) {
    let count = state.threads.len();
    let order = (1..=count).map(|step| (state.running + step) % count);
    let mut next = order.clone().find(|at| state.threads[*at].0 == Thread::Runnable);
    if next.is_none() {
        let ends = state.threads.iter().filter_map(|(thread, _)| match thread {
            Thread::Blocked(_, until) => *until,
            _ => None,
        });
        let Some(first) = ends.min() else {
            let done = state.threads.iter().all(|(thread, _)| *thread == Thread::Done);
            assert!(done, "every thread waits for ever");
            return;
        };
        state.now = state.now.max(first);
        for (thread, _) in &mut state.threads {
            if matches!(thread, Thread::Blocked(_, Some(until)) if *until <= first) {
                *thread = Thread::Runnable;
            }
        }
        let mut order = order;
        next = order.find(|at| state.threads[*at].0 == Thread::Runnable);
    }
    state.running = next.expect("a wait has just ended");
    state.threads[state.running].1.notify_all();
}

/// Numbers of changes: those of threads' ends come first.
static NEXT_KEY: AtomicU64 = AtomicU64::new(1 << 32);

fn join_key(thread: usize) -> u64 {
    thread as u64
}

/// What `std::time::Instant` is outside of a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        static START: OnceLock<std::time::Instant> = OnceLock::new();
        match current() {
            Some((simulation, _)) => Self(simulation.lock().now),
            None => Self(START.get_or_init(std::time::Instant::now).elapsed()),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Self::now().saturating_duration_since(*self)
    }

    pub(crate) fn duration_since(&self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }

    pub(crate) fn checked_sub(&self, less: Duration) -> Option<Self> {
        self.0.checked_sub(less).map(Self)
    }

    pub(crate) fn saturating_duration_since(&self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, more: Duration) -> Self {
        Self(self.0 + more)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, more: Duration) {
        self.0 += more;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, less: Duration) -> Self {
        Self(self.0.saturating_sub(less))
    }
}

pub(crate) fn sleep(limit: Duration) {
    match current() {
        Some((simulation, me)) => {
            let key = NEXT_KEY.fetch_add(1, Ordering::Relaxed);
            simulation.block(me, key, Some(limit));
        }
        None => std::thread::sleep(limit),
    }
}

/// A thread, simulated or not.
#[derive(Debug)]
pub(crate) struct JoinHandle<T> {
    inner: std::thread::JoinHandle<T>,
    simulated: Option<usize>,
}

impl<T> JoinHandle<T> {
    pub(crate) fn join(self) -> std::thread::Result<T> {
        if let (Some((simulation, me)), Some(other)) = (current(), self.simulated) {
            while !simulation.is_done(other) {
                simulation.block(me, join_key(other), None);
            }
        }
        self.inner.join()
    }
}

pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    let Some((simulation, _)) = current() else {
        return Ok(JoinHandle { inner: builder.spawn(run)?, simulated: None });
    };
    let me = {
        let mut state = simulation.lock();
        state.threads.push((Thread::Runnable, Arc::default()));
        state.threads.len() - 1
    };
    let inner = builder.spawn(move || simulation.live(me, run))?;
    Ok(JoinHandle { inner, simulated: Some(me) })
}

/// What a condition variable is outside of a simulation.
#[derive(Debug)]
pub(crate) struct Changed {
    key: u64,
    system: Condvar,
}

impl Default for Changed {
    fn default() -> Self {
        Self { key: NEXT_KEY.fetch_add(1, Ordering::Relaxed), system: Condvar::new() }
    }
}

impl Changed {
    pub(crate) fn notify_all(&self) {
        match current() {
            Some((simulation, _)) => wake(&mut simulation.lock(), self.key),
            None => self.system.notify_all(),
        }
    }

    pub(crate) fn wait<'a, T>(
        &self,
        lock: impl FnOnce() -> MutexGuard<'a, T>,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> MutexGuard<'a, T> {
        match current() {
            Some((simulation, me)) => {
                // Nobody else runs before this thread waits.
                drop(guard);
                simulation.block(me, self.key, Some(limit));
                lock()
            }
            None => {
                self.system.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }
}
