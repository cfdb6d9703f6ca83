//! Filling the pages of a guest that runs here without them.
//!
//! One thread catches faults and asks for pages; one for each link takes in what comes over it. A
//! thread that touches a missing page sleeps in the kernel until the page is filled; neither of
//! these two ever touches guest memory by itself.

use crate::time::Instant;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use memory::{DirtyBitmap, GuestRam, MissingPages, Userfault, UserfaultError};
use transport::Channel;

use super::envelope::{EnvelopeLink, Mouth, Piece};
use super::link::DestinationLink;
use crate::cancel::Cancel;
use crate::envelope::{
    FrameError, FromDestination, FromSource, PageRecords, PagesFromDestination, PagesFromSource,
};
use crate::error::{Failure, sentence};
use crate::handover::Digest;
use crate::peer::{Ear, Heard, Silence};
use crate::postcopy::{
    Candidate, DestinationPages, Fault, Key, Mac, Session, ToSource, Violation, parts,
};
use crate::random::random;
use crate::settings::Settings;

const DOING: &str = "receiving the missing pages";
/// How long the source may take to hear why a link ends.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What the pages are waiting for.
#[derive(Debug)]
enum Stage {
    /// The state is being loaded: nobody may touch a missing page yet.
    Loading {
        /// Somebody did.
        touched: Option<usize>,
    },
    /// Whoever touches a missing page waits for it.
    Filling(DestinationPages),
}

struct State {
    stage: Stage,
    /// The one in use.
    link: Option<Mouth>,
    /// Counts links, so that the thread of an old one knows that it is not needed any more.
    generation: u64,
    /// Why there is no link, or why faults are not caught any more.
    trouble: Option<String>,
}

struct Shared {
    memory: MissingPages,
    state: Mutex<State>,
    changed: Condvar,
    missing: DirtyBitmap,
    session: Session,
    settings: Settings,
}

/// A guest that runs here before all of its memory is here. Clones are handles on the same.
///
/// Pages come by themselves as long as there is a link. Without one, whoever touches a missing page
/// waits, and everything else goes on; [`Self::recover`] takes a new link.
#[derive(Clone)]
pub struct Filling {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Filling {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Filling").field("left", &self.left()).finish_non_exhaustive()
    }
}

impl PartialEq for Filling {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Filling {
    /// Drops the missing pages and catches faults on them from here on.
    pub(super) fn arm(
        fault: Userfault,
        ram: &GuestRam,
        session: Session,
        missing: DirtyBitmap,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let memory = fault.arm(ram, &missing)?;
        let state = State {
            stage: Stage::Loading { touched: None },
            link: None,
            generation: 0,
            trouble: None,
        };
        let shared = Arc::new(Shared {
            memory,
            state: Mutex::new(state),
            changed: Condvar::new(),
            missing,
            session,
            settings: settings.clone(),
        });
        let catching = Arc::clone(&shared);
        thread::Builder::new()
            .name("page-faults".to_owned())
            .spawn(move || catching.catch())
            .map_err(Failure::Channel)?;
        Ok(Self { shared })
    }

    /// The session and the pages that are missing.
    pub(super) fn missing(&self) -> (&Session, &DirtyBitmap) {
        (&self.shared.session, &self.shared.missing)
    }

    /// A missing page that somebody touched while the state was being loaded.
    pub(super) fn touched(&self) -> Option<usize> {
        match self.shared.lock().stage {
            Stage::Loading { touched } => touched,
            Stage::Filling(_) => None,
        }
    }

    /// Both sides have agreed: from here on whoever touches a missing page waits for it.
    pub(super) fn agreed(&self, digest: &Digest) {
        let key = Key::new(&self.shared.session, digest);
        let pages = DestinationPages::new(self.shared.missing.clone(), key);
        self.shared.lock().stage = Stage::Filling(pages);
    }

    /// The guest does not come: nobody waits for its memory any more.
    pub(super) fn abandon(&self) {
        // The mapping goes away with the guest in any case.
        let _ = self.shared.memory.disarm();
        self.shared.memory.stop();
    }

    /// The guest runs; the link on which that was said goes on with pages.
    pub(super) fn attach(&self, link: EnvelopeLink) {
        self.shared.take_link(link, None);
    }

    /// Pages that are missing.
    pub fn left(&self) -> u64 {
        match &self.shared.lock().stage {
            Stage::Loading { .. } => self.shared.missing.count() as u64,
            Stage::Filling(pages) => pages.left() as u64,
        }
    }

    /// Pages that were missing at the hand-over.
    pub fn pages(&self) -> u64 {
        self.shared.missing.count() as u64
    }

    /// True once every page is here: the source is not needed any more.
    pub fn is_complete(&self) -> bool {
        self.left() == 0
    }

    /// True once the source knows that, too.
    pub fn is_released(&self) -> bool {
        matches!(&self.shared.lock().stage, Stage::Filling(pages) if pages.is_released())
    }

    /// True while there is a link to the source.
    pub fn is_linked(&self) -> bool {
        self.shared.lock().link.is_some()
    }

    /// Why there is no link, or why no fault is answered any more.
    pub fn trouble(&self) -> Option<String> {
        self.shared.lock().trouble.clone()
    }

    /// Waits until every page is here, or there is no link, or the time is over; true if every page
    /// is here.
    pub fn wait(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut state = self.shared.lock();
        loop {
            let complete = matches!(&state.stage, Stage::Filling(pages) if pages.is_complete());
            let left = until.saturating_duration_since(Instant::now());
            if complete || state.link.is_none() || left.is_zero() {
                return complete;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Hears out whoever has connected, and if it is the source of this move, takes pages from
    /// there. A link that is in use stays in use until the new one is proven.
    ///
    /// # Errors
    /// If it is somebody else, or the new link fails. Everything is then as it was before.
    pub fn recover(&self, channel: Channel, cancel: &Cancel) -> Result<(), Failure> {
        let mut link = EnvelopeLink::new(channel, &self.shared.settings, cancel)?;
        match self.join(&mut link) {
            Ok(proof) => {
                self.shared.take_link(link, Some(proof));
                Ok(())
            }
            Err(failure) => {
                link.refuse(&failure.sentence());
                link.finish();
                Err(failure)
            }
        }
    }

    /// Challenges whoever is at the other end; gives what it has shown.
    fn join(&self, link: &mut EnvelopeLink) -> Result<Proof, Failure> {
        const DOING: &str = "hearing out the source on a new link";
        link.greet()?;
        let own = random().map_err(Failure::Channel)?;
        let source = match link.next_message(DOING)? {
            FromSource::Pages(PagesFromSource::Recover(nonce)) => nonce,
            other => return Err(unexpected(&other, DOING)),
        };
        let (answer, candidate) = self.shared.lock().pages()?.challenge(source, own);
        for message in frames_of(&answer, link.longest_part()) {
            link.say(message, DOING)?;
        }
        let mac = match link.next_message(DOING)? {
            FromSource::Pages(PagesFromSource::Proof(mac)) => mac,
            other => return Err(unexpected(&other, DOING)),
        };
        self.shared.lock().pages()?.proven(&candidate, &mac)?;
        Ok(Proof { candidate, mac })
    }
}

/// What the source has shown on a new link.
struct Proof {
    candidate: Candidate,
    mac: Mac,
}

fn unexpected(message: &FromSource, doing: &str) -> Failure {
    Failure::Protocol(format!("{message:?} came while {doing}"))
}

/// The messages that say this, with parts of a set of at most `longest` bytes.
fn frames_of(message: &ToSource, longest: usize) -> Vec<PagesFromDestination> {
    match message {
        ToSource::Request(page) => vec![PagesFromDestination::Request(*page as u64)],
        ToSource::AllReceived(pages) => vec![PagesFromDestination::AllReceived(*pages)],
        ToSource::Recovering(nonce, mac) => vec![PagesFromDestination::Recovering(*nonce, *mac)],
        ToSource::Received(set) => parts(set, longest)
            .into_iter()
            .map(|(last, part)| PagesFromDestination::ReceivedSet { last, part })
            .collect(),
    }
}

impl State {
    fn pages(&mut self) -> Result<&mut DestinationPages, Failure> {
        match &mut self.stage {
            Stage::Filling(pages) => Ok(pages),
            Stage::Loading { .. } => {
                Err(Failure::Protocol("the guest does not run here yet".to_owned()))
            }
        }
    }

    /// Says something, if there is a link. It does not wait: these messages are short.
    fn say(&self, message: &ToSource, longest: usize) {
        if let Some(link) = &self.link {
            for message in frames_of(message, longest) {
                link.out.send_at_once(FromDestination::Pages(message).encode());
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Between any two statements that hold the lock the state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Catches faults until every page is here.
    fn catch(&self) {
        let trouble = loop {
            let faults = match self.memory.faults() {
                Ok(Some(faults)) => faults,
                Ok(None) => return,
                Err(error) => break error,
            };
            let mut state = self.lock();
            if let Err(error) = faults.into_iter().try_for_each(|page| self.fault(&mut state, page))
            {
                break error;
            }
        };
        self.lock().trouble = Some(sentence(&trouble));
    }

    fn fault(&self, state: &mut State, page: usize) -> Result<(), UserfaultError> {
        match &mut state.stage {
            Stage::Loading { touched } => {
                // What loading sees there does not matter: the guest is refused.
                if self.missing.contains(page) {
                    touched.get_or_insert(page);
                }
                self.memory.fill_zero(page)?;
            }
            Stage::Filling(pages) => match pages.fault(page) {
                // It never held anything, or came just now.
                Fault::Here => {
                    self.memory.fill_zero(page)?;
                }
                Fault::Ask => state.say(&ToSource::Request(page), 0),
                Fault::Wait => {}
            },
        }
        Ok(())
    }

    /// Takes pages from a link from here on, and lets the one before it go.
    fn take_link(self: &Arc<Self>, link: EnvelopeLink, proof: Option<Proof>) {
        let longest = link.longest_part();
        let (ear, mouth) = link.into_halves();
        let mut state = self.lock();
        state.generation += 1;
        let (generation, old) = (state.generation, state.link.take());
        state.link = Some(mouth);
        state.trouble = None;
        // Nothing of the old link counts any more: what is here now is what is here.
        let said = match &mut state.stage {
            Stage::Loading { .. } => Vec::new(),
            Stage::Filling(pages) => {
                let received = proof.and_then(|proof| {
                    // It was found to be right, and nothing that it depends on ever changes.
                    pages.proven(&proof.candidate, &proof.mac).ok()
                });
                received.into_iter().chain(pages.linked()).collect()
            }
        };
        said.iter().for_each(|message| state.say(message, longest));
        self.changed.notify_all();
        drop(state);
        if let Some(old) = old {
            old.end();
        }
        let hearing = Arc::clone(self);
        let heard = thread::Builder::new()
            .name("page-filling".to_owned())
            .spawn(move || hearing.follow(&ear, generation));
        if let Err(error) = heard {
            self.let_go(generation, Some(Failure::Channel(error)));
        }
    }

    /// Takes in what comes over one link, until it ends.
    fn follow(&self, ear: &Ear<Piece>, generation: u64) {
        let limit = self.settings.io_timeout;
        let end = loop {
            let heard = match ear.hear(limit, None) {
                Ok(Heard::Frame(Piece::Pages(payload))) => self.place(&payload, generation),
                Ok(Heard::Frame(Piece::Message(message))) => self.message(message, generation),
                Ok(Heard::Frame(Piece::Stream(_))) => {
                    Err(Failure::Protocol(format!("bytes of stream came while {DOING}")))
                }
                Ok(Heard::Hello(_) | Heard::NoAgreement(_)) => {
                    Err(Failure::Protocol("a second hello".to_owned()))
                }
                Ok(Heard::Lost(source)) => Err(Failure::Link { doing: DOING, source }),
                Err(Silence::TimedOut) => Err(Failure::TimedOut { doing: DOING, limit }),
                Err(Silence::Over | Silence::Cancelled) => {
                    Err(Failure::Link { doing: DOING, source: FrameError::Closed })
                }
            };
            match heard {
                Ok(false) => {}
                Ok(true) => break None,
                Err(failure) => break Some(failure),
            }
        };
        self.let_go(generation, end);
    }

    /// Puts the pages of a frame where the guest sees them. True if the link is not used any more.
    fn place(&self, payload: &[u8], generation: u64) -> Result<bool, Failure> {
        for record in PageRecords::new(payload) {
            let (page, content) =
                record.map_err(|source| Failure::Link { doing: DOING, source })?;
            let page = usize::try_from(page).unwrap_or(usize::MAX);
            let mut state = self.lock();
            if state.generation != generation {
                return Ok(true);
            }
            let pages = state.pages()?;
            pages.expects(page)?;
            let placed = match content {
                Some(content) => self.memory.fill(page, content)?,
                None => self.memory.fill_zero(page)?,
            };
            if !placed {
                // Memory knows better than the books: whatever is there stays there.
                return Err(Violation::Twice(page).into());
            }
            pages.arrived(page);
            if pages.is_complete() {
                self.memory.disarm()?;
                self.memory.stop();
                self.changed.notify_all();
            }
        }
        Ok(false)
    }

    /// True if the link is not used any more.
    fn message(&self, message: FromSource, generation: u64) -> Result<bool, Failure> {
        let mut state = self.lock();
        if state.generation != generation {
            return Ok(true);
        }
        match message {
            FromSource::Pages(PagesFromSource::AllSent) => {
                let answer = state.pages()?.all_sent()?;
                state.say(&answer, 0);
                Ok(false)
            }
            FromSource::Pages(PagesFromSource::Released) => {
                state.pages()?.release()?;
                Ok(true)
            }
            FromSource::Cancel { reason } => Err(Failure::CancelledBySource(reason)),
            other => Err(unexpected(&other, DOING)),
        }
    }

    /// A link has ended, or is to end for this reason. If there is a newer one, that is none of its
    /// concern.
    fn let_go(&self, generation: u64, failure: Option<Failure>) {
        let mut state = self.lock();
        if state.generation != generation {
            return;
        }
        if let Stage::Filling(pages) = &mut state.stage {
            pages.lost();
        }
        let reason = failure.as_ref().map(Failure::sentence);
        state.trouble.clone_from(&reason);
        let link = state.link.take();
        self.changed.notify_all();
        drop(state);
        let Some(mut link) = link else { return };
        if let Some(reason) = reason {
            link.out.send_at_once(FromDestination::Refused { reason }.encode());
            link.out.settle(LAST_WORD);
        }
        link.end();
    }
}
