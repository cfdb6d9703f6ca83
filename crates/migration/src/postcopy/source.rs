//! The side that has the pages.

use std::collections::VecDeque;

use memory::DirtyBitmap;

use super::{Key, Nonce, ToDestination, ToSource, Violation};

/// Where the source stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourcePhase {
    /// There is no link: nothing can be sent before a recovery.
    Detached,
    /// A new link: `Recover` was sent with this nonce.
    Challenging(Nonce),
    /// The destination is known to be the right one; it will say what it has.
    Listing,
    /// Pages flow.
    Sending,
    /// `AllSent` was sent.
    Sent,
    /// The destination has everything, and said so.
    Done,
}

/// What the source is to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A page.
    Page {
        /// Its number.
        page: usize,
        /// Somebody at the destination waits for it.
        requested: bool,
    },
    /// [`ToDestination::AllSent`].
    AllSent,
}

/// What the source owes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourcePages {
    phase: SourcePhase,
    key: Key,
    /// What was missing at the hand-over. It never changes.
    missing: DirtyBitmap,
    /// What was not sent on this link, and had not come when it began.
    owed: DirtyBitmap,
    left: usize,
    wanted: VecDeque<usize>,
    /// Where the background push goes on.
    cursor: usize,
}

impl SourcePages {
    /// A source that has given the guest away without these pages.
    pub fn new(missing: DirtyBitmap, key: Key) -> Self {
        let (owed, left) = (missing.clone(), missing.count());
        let phase = SourcePhase::Detached;
        Self { phase, key, missing, owed, left, wanted: VecDeque::new(), cursor: 0 }
    }

    /// Where it stands.
    pub fn phase(&self) -> &SourcePhase {
        &self.phase
    }

    /// True once the destination has said that everything is there.
    pub fn is_done(&self) -> bool {
        self.phase == SourcePhase::Done
    }

    /// How many pages were missing at the hand-over.
    pub fn missing(&self) -> usize {
        self.missing.count()
    }

    /// How many pages are not known to be on their way. They are known to have arrived only at the
    /// end.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The link on which the guest was handed over goes on with pages.
    ///
    /// # Panics
    /// If there is a link.
    pub fn begin(&mut self) {
        assert_eq!(self.phase, SourcePhase::Detached, "a second link");
        self.phase = SourcePhase::Sending;
    }

    /// A new link: gives what is to be said first.
    ///
    /// # Panics
    /// If there is a link, or everything is done.
    pub fn recover(&mut self, nonce: Nonce) -> ToDestination {
        assert_eq!(self.phase, SourcePhase::Detached, "a second link");
        self.phase = SourcePhase::Challenging(nonce);
        ToDestination::Recover(nonce)
    }

    /// The link is lost, or was let go.
    pub fn lost(&mut self) {
        if !self.is_done() {
            self.phase = SourcePhase::Detached;
        }
        self.wanted.clear();
    }

    /// Takes in what the destination says; gives the answer, if there is one.
    ///
    /// # Errors
    /// If it does not belong there. The link is then to be ended.
    pub fn heard(&mut self, message: &ToSource) -> Result<Option<ToDestination>, Violation> {
        match (&self.phase, message) {
            (SourcePhase::Sending | SourcePhase::Sent, ToSource::Request(page)) => {
                if *page >= self.missing.pages() || !self.missing.contains(*page) {
                    return Err(Violation::Page(*page));
                }
                // One that is on its way is answered already.
                if self.owed.contains(*page) && !self.wanted.contains(page) {
                    self.wanted.push_back(*page);
                }
                Ok(None)
            }
            (SourcePhase::Sent, ToSource::AllReceived(theirs)) => {
                let (ours, theirs) = (self.missing.count() as u64, *theirs);
                if ours != theirs {
                    return Err(Violation::Count { ours, theirs });
                }
                self.phase = SourcePhase::Done;
                Ok(Some(ToDestination::Released))
            }
            (SourcePhase::Challenging(nonce), ToSource::Recovering(theirs, mac)) => {
                if !self.key.is_destination(nonce, theirs, mac) {
                    return Err(Violation::Stranger);
                }
                let proof = self.key.of_source(nonce, theirs);
                self.phase = SourcePhase::Listing;
                Ok(Some(ToDestination::Proof(proof)))
            }
            (SourcePhase::Listing, ToSource::Received(received)) => {
                let mut unknown = received.clone();
                unknown.subtract(&self.missing);
                if let Some(page) = unknown.iter().next() {
                    return Err(Violation::Page(page));
                }
                self.owed = self.missing.clone();
                self.owed.subtract(received);
                self.left = self.owed.count();
                self.phase = SourcePhase::Sending;
                Ok(None)
            }
            (phase, message) => {
                Err(Violation::Order { message: name(message), phase: described(phase) })
            }
        }
    }

    /// What to send next, if it is the source's turn: pages that somebody waits for first, then the
    /// others in order from the last of those on. Whatever it gives counts as sent.
    pub fn take_turn(&mut self) -> Option<Turn> {
        if self.phase != SourcePhase::Sending {
            return None;
        }
        let wanted = self.wanted.pop_front();
        let next =
            wanted.or_else(|| self.owed.next_from(self.cursor)).or_else(|| self.owed.next_from(0));
        let Some(page) = next else {
            self.phase = SourcePhase::Sent;
            return Some(Turn::AllSent);
        };
        self.owed.remove(page);
        self.wanted.retain(|other| *other != page);
        self.left -= 1;
        self.cursor = page + 1;
        Some(Turn::Page { page, requested: wanted.is_some() })
    }
}

fn name(message: &ToSource) -> &'static str {
    match message {
        ToSource::Request(_) => "Request",
        ToSource::AllReceived(_) => "AllReceived",
        ToSource::Recovering(..) => "Recovering",
        ToSource::Received(_) => "Set",
    }
}

fn described(phase: &SourcePhase) -> &'static str {
    match phase {
        SourcePhase::Detached => "without a link",
        SourcePhase::Challenging(_) => "to be recovered",
        SourcePhase::Listing => "being listed",
        SourcePhase::Sending => "being sent",
        SourcePhase::Sent => "all sent",
        SourcePhase::Done => "all there",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pages: usize, set: &[usize]) -> DirtyBitmap {
        let mut bitmap = DirtyBitmap::none(pages);
        set.iter().for_each(|page| bitmap.insert(*page));
        bitmap
    }

    fn key() -> Key {
        Key::new(&[1; 32], &[2; 32])
    }

    fn sent(source: &mut SourcePages, turns: usize) -> Vec<usize> {
        (0..turns)
            .map(|_| match source.take_turn() {
                Some(Turn::Page { page, .. }) => page,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn wanted_pages_come_first_and_the_push_goes_on_from_there() {
        let mut source = SourcePages::new(set(200, &[1, 5, 70, 71, 72, 150]), key());
        assert_eq!(source.take_turn(), None, "there is no link");
        source.begin();
        assert_eq!(sent(&mut source, 1), [1]);
        source.heard(&ToSource::Request(71)).unwrap();
        source.heard(&ToSource::Request(1)).unwrap();
        source.heard(&ToSource::Request(71)).unwrap();
        assert_eq!(source.take_turn(), Some(Turn::Page { page: 71, requested: true }));
        assert_eq!(sent(&mut source, 4), [72, 150, 5, 70], "1 is on its way and not sent again");
        assert_eq!((source.left(), source.take_turn()), (0, Some(Turn::AllSent)));
        assert_eq!(source.take_turn(), None);
        // A request that crossed `AllSent` is answered by what was sent.
        source.heard(&ToSource::Request(150)).unwrap();
        assert_eq!(source.take_turn(), None);
        assert_eq!(
            source.heard(&ToSource::AllReceived(5)),
            Err(Violation::Count { ours: 6, theirs: 5 })
        );
        let answer = source.heard(&ToSource::AllReceived(6)).unwrap();
        assert_eq!(answer, Some(ToDestination::Released));
        source.lost();
        assert!(source.is_done());
    }

    #[test]
    fn only_what_did_not_come_is_sent_again() {
        let mut source = SourcePages::new(set(8, &[1, 2, 3, 4]), key());
        source.begin();
        assert_eq!(sent(&mut source, 3), [1, 2, 3]);
        source.heard(&ToSource::Request(4)).unwrap();
        source.lost();
        assert_eq!(source.take_turn(), None);
        let ToDestination::Recover(nonce) = source.recover([7; 32]) else { panic!() };
        let mac = key().of_destination(&nonce, &[8; 32]);
        let proof = source.heard(&ToSource::Recovering([8; 32], mac)).unwrap();
        assert_eq!(proof, Some(ToDestination::Proof(key().of_source(&nonce, &[8; 32]))));
        source.heard(&ToSource::Received(set(8, &[1, 3]))).unwrap();
        assert_eq!(sent(&mut source, 2), [4, 2]);
        assert_eq!(source.take_turn(), Some(Turn::AllSent));
    }

    #[test]
    fn strangers_and_messages_out_of_place_change_nothing() {
        let fresh = SourcePages::new(set(8, &[1, 2]), key());
        let messages = [
            ToSource::Request(1),
            ToSource::AllReceived(2),
            ToSource::Recovering([8; 32], key().of_destination(&[7; 32], &[8; 32])),
            ToSource::Received(set(8, &[1])),
        ];
        let mut states = vec![fresh.clone()];
        let mut challenging = fresh.clone();
        challenging.recover([7; 32]);
        states.push(challenging.clone());
        let mut listing = challenging.clone();
        listing.heard(&messages[2]).unwrap();
        states.push(listing.clone());
        let mut sending = fresh;
        sending.begin();
        states.push(sending.clone());
        let mut sent = sending.clone();
        while sent.take_turn().is_some() {}
        states.push(sent.clone());
        let mut done = sent;
        done.heard(&messages[1]).unwrap();
        states.push(done);
        let allowed =
            [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [1, 1, 0, 0], [0; 4]];
        for (state, allowed) in states.iter().zip(allowed) {
            for (message, allowed) in messages.iter().zip(allowed) {
                let mut next = state.clone();
                let heard = next.heard(message);
                assert_eq!(heard.is_ok(), allowed == 1, "{message:?} in {:?}", state.phase());
                if heard.is_err() {
                    assert_eq!(&next, state);
                }
            }
        }
        let stranger = Key::new(&[9; 32], &[2; 32]).of_destination(&[7; 32], &[8; 32]);
        assert_eq!(
            challenging.heard(&ToSource::Recovering([8; 32], stranger)),
            Err(Violation::Stranger)
        );
        assert_eq!(listing.heard(&ToSource::Received(set(8, &[1, 6]))), Err(Violation::Page(6)));
        for page in [0, 8, usize::MAX] {
            assert_eq!(sending.heard(&ToSource::Request(page)), Err(Violation::Page(page)));
        }
    }
}
