//! Serving pages to a guest that runs at the destination already.

use crate::time::Instant;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use memory::{DirtyBitmap, GuestRam, PAGE_SIZE};
use transport::Channel;

use super::envelope::EnvelopeLink;
use super::link::SourceLink;
use crate::cancel::Cancel;
use crate::digest::is_zero;
use crate::envelope::{
    FrameError, FromDestination, FromSource, Kind, PagesFromDestination, PagesFromSource,
    RECORD_HEADER, encode_frame, put_record,
};
use crate::error::Failure;
use crate::observer::{Observer, Phase, Progress};
use crate::peer::{Heard, Silence};
use crate::postcopy::{Key, SetReader, SourcePages, SourcePhase, ToDestination, ToSource, Turn};
use crate::random::random;
use crate::settings::{PostCopy, Settings};

const DOING: &str = "sending the missing pages";
/// Pages that are pushed in one frame: few, so that a page that is waited for is never far behind.
const BATCH: usize = 16;
/// How often a wait looks whether the operator wants it to end.
const LOOK: Duration = Duration::from_millis(50);
/// How often the observer hears of progress.
const REPORT: Duration = Duration::from_millis(100);

/// What was served over one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Pages that were sent.
    pub pages: u64,
    /// Those of them that somebody at the destination waited for.
    pub requested: u64,
}

#[derive(Debug)]
struct Inner {
    ram: GuestRam,
    pages: SourcePages,
    link: Option<EnvelopeLink>,
    settings: Settings,
    served: Served,
    started: Instant,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    total: u64,
    left: AtomicU64,
    linked: AtomicBool,
    done: AtomicBool,
}

/// A guest that was given away before all of its memory was: what the destination still needs of
/// this side. Clones are handles on the same.
///
/// Everything that was missing at the hand-over is kept until the destination has said that it has
/// all of it, so that a link, or any number of links, may be lost on the way.
#[derive(Clone, Debug)]
pub struct Serving {
    shared: Arc<Shared>,
}

impl PartialEq for Serving {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Serving {
    /// `link`: the one on which the destination has said that the guest runs there, if it has.
    pub(super) fn new(
        ram: GuestRam,
        missing: DirtyBitmap,
        key: Key,
        link: Option<EnvelopeLink>,
        settings: &Settings,
    ) -> Self {
        let total = missing.count() as u64;
        let mut pages = SourcePages::new(missing, key);
        let linked = link.is_some();
        if linked {
            pages.begin();
        }
        let inner = Inner {
            ram,
            pages,
            link,
            settings: settings.clone(),
            served: Served::default(),
            started: Instant::now(),
        };
        let shared = Shared {
            inner: Mutex::new(inner),
            total,
            left: AtomicU64::new(total),
            linked: AtomicBool::new(linked),
            done: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Pages that were missing at the hand-over.
    pub fn pages(&self) -> u64 {
        self.shared.total
    }

    /// Pages that are not known to be on their way.
    pub fn left(&self) -> u64 {
        self.shared.left.load(Ordering::Acquire)
    }

    /// True while there is a link to the destination.
    pub fn is_linked(&self) -> bool {
        self.shared.linked.load(Ordering::Acquire)
    }

    /// True once the destination has everything, and said so.
    pub fn is_done(&self) -> bool {
        self.shared.done.load(Ordering::Acquire)
    }

    /// Serves over the link on which the guest was handed over, until the destination has
    /// everything.
    ///
    /// # Errors
    /// If the link is lost, or there is none, or the operator wants it to end. Everything is kept;
    /// [`Self::recover`] goes on.
    pub fn serve(&self, observer: &mut dyn Observer, cancel: &Cancel) -> Result<Served, Failure> {
        let mut inner = self.lock()?;
        if inner.pages.is_done() {
            return Ok(Served::default());
        }
        let link = inner.link.take().ok_or(Failure::NoLink)?;
        self.follow(&mut inner, link, observer, cancel)
    }

    /// Goes on over a new link, to the same destination, until it has everything.
    ///
    /// # Errors
    /// If the peer is not that destination, or as [`Self::serve`]. Both sides then have what they
    /// had.
    pub fn recover(
        &self,
        channel: Channel,
        observer: &mut dyn Observer,
        cancel: &Cancel,
    ) -> Result<Served, Failure> {
        let mut inner = self.lock()?;
        if inner.pages.is_done() {
            return Ok(Served::default());
        }
        // Whatever link there was, it is not used any more.
        if let Some(mut old) = inner.link.take() {
            old.finish();
            inner.pages.lost();
        }
        let settings = Settings { post_copy: Some(PostCopy::default()), ..inner.settings.clone() };
        let mut link = EnvelopeLink::new(channel, &settings, cancel)?;
        if let Err(failure) = inner.join(&mut link) {
            inner.pages.lost();
            link.cancel(&failure.sentence());
            link.finish();
            return Err(failure);
        }
        self.follow(&mut inner, link, observer, cancel)
    }

    fn lock(&self) -> Result<MutexGuard<'_, Inner>, Failure> {
        match self.shared.inner.try_lock() {
            Ok(inner) => Ok(inner),
            // Between any two statements that hold the lock the pages are whole.
            Err(TryLockError::Poisoned(error)) => Ok(PoisonError::into_inner(error)),
            Err(TryLockError::WouldBlock) => {
                Err(Failure::Protocol("the pages are being served already".to_owned()))
            }
        }
    }

    fn follow(
        &self,
        inner: &mut Inner,
        mut link: EnvelopeLink,
        observer: &mut dyn Observer,
        cancel: &Cancel,
    ) -> Result<Served, Failure> {
        inner.served = Served::default();
        inner.started = Instant::now();
        self.shared.linked.store(true, Ordering::Release);
        let result = inner.serve(&mut link, &self.shared, observer, cancel);
        self.shared.linked.store(false, Ordering::Release);
        inner.pages.lost();
        self.shared.left.store(inner.pages.left() as u64, Ordering::Release);
        self.shared.done.store(inner.pages.is_done(), Ordering::Release);
        match &result {
            Ok(()) => link.await_end(),
            Err(failure) => link.cancel(&failure.sentence()),
        }
        link.finish();
        inner.report(observer, Phase::Over, link.out().stream_bytes());
        result.map(|()| inner.served)
    }
}

fn unexpected(message: &FromDestination) -> Failure {
    Failure::Protocol(format!("{message:?} came while {DOING}"))
}

fn frame_of(message: ToDestination) -> PagesFromSource {
    match message {
        ToDestination::Page(_) => unreachable!("pages go with their content"),
        ToDestination::AllSent => PagesFromSource::AllSent,
        ToDestination::Released => PagesFromSource::Released,
        ToDestination::Recover(nonce) => PagesFromSource::Recover(nonce),
        ToDestination::Proof(mac) => PagesFromSource::Proof(mac),
    }
}

impl Inner {
    /// Shows on a new link who this is, and learns what the destination has.
    fn join(&mut self, link: &mut EnvelopeLink) -> Result<(), Failure> {
        const DOING: &str = "finding the destination again";
        link.greet()?;
        let first = self.pages.recover(random().map_err(Failure::Channel)?);
        link.say(frame_of(first), DOING)?;
        let mut set = SetReader::new(self.ram.pages());
        loop {
            let heard = match link.answer(DOING)? {
                FromDestination::Pages(PagesFromDestination::Recovering(nonce, mac)) => {
                    ToSource::Recovering(nonce, mac)
                }
                FromDestination::Pages(PagesFromDestination::ReceivedSet { last, part }) => {
                    if *self.pages.phase() != SourcePhase::Listing {
                        return Err(Failure::Protocol(format!(
                            "a set of pages came while {DOING}"
                        )));
                    }
                    match set.part(last, &part)? {
                        None => continue,
                        Some(received) => ToSource::Received(received),
                    }
                }
                other => return Err(unexpected(&other)),
            };
            if let Some(reply) = self.pages.heard(&heard)? {
                link.say(frame_of(reply), DOING)?;
            }
            if *self.pages.phase() == SourcePhase::Sending {
                return Ok(());
            }
        }
    }

    fn serve(
        &mut self,
        link: &mut EnvelopeLink,
        gauge: &Shared,
        observer: &mut dyn Observer,
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        link.serve_from_here();
        let batch = (link.out().chunk() / (RECORD_HEADER + PAGE_SIZE)).clamp(1, BATCH);
        let limit = self.settings.io_timeout;
        let (mut moved, mut reported) = (Instant::now(), Instant::now());
        loop {
            if cancel.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                self.report(observer, Phase::PostCopy, 0);
            }
            gauge.left.store(self.pages.left() as u64, Ordering::Release);
            // What is asked for is heard before more is pushed.
            let sending = *self.pages.phase() == SourcePhase::Sending;
            match link.listen(if sending { Duration::ZERO } else { LOOK }) {
                Ok(Heard::Frame(FromDestination::Pages(message))) => {
                    moved = Instant::now();
                    self.hear(link, message)?;
                    if self.pages.is_done() {
                        return Ok(());
                    }
                    continue;
                }
                Ok(Heard::Frame(FromDestination::Refused { reason })) => {
                    return Err(Failure::RefusedByDestination(reason));
                }
                Ok(Heard::Frame(other)) => return Err(unexpected(&other)),
                Ok(Heard::Hello(_)) => return Err(Failure::Protocol("a second hello".to_owned())),
                Ok(Heard::NoAgreement(error)) => return Err(Failure::Hello(error)),
                Ok(Heard::Lost(source)) => return Err(Failure::Link { doing: DOING, source }),
                Err(Silence::TimedOut) if sending => {}
                Err(Silence::TimedOut) => {
                    if moved.elapsed() >= limit {
                        return Err(Failure::TimedOut { doing: DOING, limit });
                    }
                }
                Err(Silence::Over | Silence::Cancelled) => {
                    return Err(Failure::Link { doing: DOING, source: FrameError::Closed });
                }
            }
            if sending {
                self.push(link, batch)?;
                moved = Instant::now();
            }
        }
    }

    fn hear(
        &mut self,
        link: &mut EnvelopeLink,
        message: PagesFromDestination,
    ) -> Result<(), Failure> {
        let heard = match message {
            PagesFromDestination::Request(page) => {
                ToSource::Request(usize::try_from(page).unwrap_or(usize::MAX))
            }
            PagesFromDestination::AllReceived(pages) => ToSource::AllReceived(pages),
            other => return Err(unexpected(&FromDestination::Pages(other))),
        };
        if let Some(reply) = self.pages.heard(&heard)? {
            link.say(frame_of(reply), DOING)?;
        }
        Ok(())
    }

    /// Sends a handful of pages: each that is waited for in a frame of its own, before everything
    /// that waits to be written.
    fn push(&mut self, link: &mut EnvelopeLink, batch: usize) -> Result<(), Failure> {
        let mut payload = Vec::with_capacity(batch * (RECORD_HEADER + PAGE_SIZE));
        let mut all_sent = false;
        for _ in 0..batch {
            match self.pages.take_turn() {
                None => break,
                Some(Turn::AllSent) => {
                    all_sent = true;
                    break;
                }
                Some(Turn::Page { page, requested }) => {
                    self.served.pages += 1;
                    if requested {
                        let mut alone = Vec::with_capacity(RECORD_HEADER + PAGE_SIZE);
                        self.put(&mut alone, page);
                        self.served.requested += 1;
                        link.send_page_first(encode_frame(Kind::Pages, &alone), DOING)?;
                    } else {
                        self.put(&mut payload, page);
                    }
                }
            }
        }
        if !payload.is_empty() {
            link.send_frame(encode_frame(Kind::Pages, &payload), DOING)?;
        }
        if all_sent {
            link.send_frame(FromSource::Pages(PagesFromSource::AllSent).encode(), DOING)?;
        }
        Ok(())
    }

    fn put(&self, payload: &mut Vec<u8>, page: usize) {
        let mut content = [0; PAGE_SIZE];
        self.ram.read_page(page, &mut content);
        put_record(payload, page, (!is_zero(&content)).then_some(&content));
    }

    fn report(&self, observer: &mut dyn Observer, phase: Phase, bytes: u64) {
        let (of, left) = (self.pages.missing() as u64, self.pages.left() as u64);
        observer.progress(&Progress {
            phase,
            round: 0,
            round_pages_done: of - left,
            round_pages: of,
            memory_pages: self.ram.pages() as u64,
            bytes,
            elapsed: self.started.elapsed(),
            link_rate: None,
            dirty_rate: None,
            estimated_downtime: None,
            throttle: 0,
        });
    }
}
