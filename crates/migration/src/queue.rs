//! A bounded queue between two threads, either end of which can end it.

use crate::time::Changed;
use crate::time::Instant;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    closed: bool,
    /// Whether the consumer is still busy with the item it took last.
    busy: bool,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Changed,
    bound: usize,
}

/// A handle on a queue; all handles are equal.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

/// Nothing was put in or taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueError {
    /// The time is over.
    TimedOut,
    /// The queue was closed (and, for whoever takes out, is empty).
    Closed,
}

impl<T> Queue<T> {
    /// A queue of at most `bound` items.
    pub(crate) fn new(bound: usize) -> Self {
        let state = State { items: VecDeque::with_capacity(bound), closed: false, busy: false };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changed: Changed::default(),
                bound,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // The state is whole between any two statements that hold the lock.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<T>>,
        deadline: Instant,
        done: impl Fn(&State<T>) -> bool,
    ) -> Result<MutexGuard<'a, State<T>>, QueueError> {
        while !done(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(QueueError::TimedOut);
            }
            state = self.shared.changed.wait(|| self.lock(), state, left);
        }
        Ok(state)
    }

    /// Puts an item in, once there is room. Gives the item back if it cannot.
    pub(crate) fn push(&self, item: T, limit: Duration) -> Result<(), (T, QueueError)> {
        let bound = self.shared.bound;
        let room = |state: &State<T>| state.closed || state.items.len() < bound;
        match self.wait_until(self.lock(), Instant::now() + limit, room) {
            Ok(state) if state.closed => Err((item, QueueError::Closed)),
            Ok(mut state) => {
                state.items.push_back(item);
                self.shared.changed.notify_all();
                Ok(())
            }
            Err(error) => Err((item, error)),
        }
    }

    /// Puts an item in before all others, once there is room. A few more than the bound find room
    /// there, so that who is in a hurry does not wait for who is not.
    pub(crate) fn push_first(&self, item: T, limit: Duration) -> Result<(), (T, QueueError)> {
        let bound = 2 * self.shared.bound;
        let room = |state: &State<T>| state.closed || state.items.len() < bound;
        match self.wait_until(self.lock(), Instant::now() + limit, room) {
            Ok(state) if state.closed => Err((item, QueueError::Closed)),
            Ok(mut state) => {
                state.items.push_front(item);
                self.shared.changed.notify_all();
                Ok(())
            }
            Err(error) => Err((item, error)),
        }
    }

    /// Drops all items but those to keep, and puts this one in behind them, bound or not.
    pub(crate) fn replace(&self, item: T, keep: impl Fn(&T) -> bool) {
        let mut state = self.lock();
        state.items.retain(keep);
        state.items.push_back(item);
        self.shared.changed.notify_all();
    }

    /// Takes the oldest item out, once there is one. Whoever takes an item is done with the one
    /// before.
    pub(crate) fn pop(&self, limit: Duration) -> Result<T, QueueError> {
        let mut state = self.lock();
        state.busy = false;
        self.shared.changed.notify_all();
        let some = |state: &State<T>| state.closed || !state.items.is_empty();
        let mut state = self.wait_until(state, Instant::now() + limit, some)?;
        let item = state.items.pop_front().ok_or(QueueError::Closed)?;
        state.busy = true;
        self.shared.changed.notify_all();
        Ok(item)
    }

    /// True if nothing waits to be taken out.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().items.is_empty()
    }

    /// Waits until every item is taken out and done with, or the queue is closed.
    pub(crate) fn drain(&self, limit: Duration) -> Result<(), QueueError> {
        let done = |state: &State<T>| state.closed || (state.items.is_empty() && !state.busy);
        let state = self.wait_until(self.lock(), Instant::now() + limit, done)?;
        if state.items.is_empty() && !state.busy { Ok(()) } else { Err(QueueError::Closed) }
    }

    /// Takes nothing more in; what is in can still be taken out.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.shared.changed.notify_all();
    }

    /// Closes the queue and drops what is in it.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.items.clear();
        self.shared.changed.notify_all();
    }

    /// Waits until the queue is closed, but not longer than this; true if it is.
    pub(crate) fn closed_within(&self, limit: Duration) -> bool {
        self.wait_until(self.lock(), Instant::now() + limit, |state| state.closed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const SOON: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_secs(10);

    #[test]
    fn it_is_bounded_and_keeps_the_order() {
        let queue = Queue::new(2);
        queue.push(1, SOON).unwrap();
        queue.push(2, SOON).unwrap();
        assert_eq!(queue.push(3, SOON), Err((3, QueueError::TimedOut)));
        let other = queue.clone();
        let taker =
            thread::spawn(move || (0..3).map(|_| other.pop(LATE).unwrap()).collect::<Vec<_>>());
        queue.push(3, LATE).unwrap();
        assert_eq!(taker.join().unwrap(), [1, 2, 3]);
        assert_eq!(queue.pop(SOON), Err(QueueError::TimedOut));
    }

    #[test]
    fn who_is_in_a_hurry_goes_first() {
        let queue = Queue::new(1);
        queue.push(1, SOON).unwrap();
        queue.push_first(2, SOON).unwrap();
        assert_eq!(queue.push_first(3, SOON), Err((3, QueueError::TimedOut)));
        assert_eq!([queue.pop(SOON), queue.pop(SOON)], [Ok(2), Ok(1)]);
    }

    #[test]
    fn drained_means_done_with() {
        let queue = Queue::new(2);
        queue.push(1, SOON).unwrap();
        assert_eq!(queue.drain(SOON), Err(QueueError::TimedOut));
        queue.pop(SOON).unwrap();
        assert_eq!(queue.drain(SOON), Err(QueueError::TimedOut), "taken, not done with");
        assert_eq!(queue.pop(SOON), Err(QueueError::TimedOut));
        assert_eq!(queue.drain(SOON), Ok(()));
    }

    #[test]
    fn a_closed_queue_wakes_both_ends_and_gives_its_rest() {
        let queue = Queue::new(1);
        queue.push(1, SOON).unwrap();
        let pusher = queue.clone();
        let blocked = thread::spawn(move || pusher.push(2, LATE));
        thread::sleep(SOON);
        queue.close();
        assert_eq!(blocked.join().unwrap(), Err((2, QueueError::Closed)));
        assert_eq!(queue.pop(LATE), Ok(1));
        assert_eq!(queue.pop(LATE), Err(QueueError::Closed));
        let full = Queue::new(1);
        full.push(1, SOON).unwrap();
        full.abandon();
        assert_eq!(full.pop(LATE), Err(QueueError::Closed));
    }
}
