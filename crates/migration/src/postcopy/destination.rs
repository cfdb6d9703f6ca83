//! The side that has the guest.

use std::collections::BTreeSet;

use memory::DirtyBitmap;

use super::{Key, Mac, Nonce, ToSource, Violation};

/// What to do about somebody who touched a page and waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The page is here, or was never elsewhere: it holds what it holds, or nothing.
    Here,
    /// Ask the source for it.
    Ask,
    /// It was asked for, or will be as soon as there is a link.
    Wait,
}

/// A new link on which somebody says to be the source, and was asked to show it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    source: Nonce,
    destination: Nonce,
}

/// What is missing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DestinationPages {
    key: Key,
    /// What was missing at the hand-over. It never changes.
    all: DirtyBitmap,
    /// What is still missing.
    missing: DirtyBitmap,
    left: usize,
    /// Missing pages that somebody waits for.
    wanted: BTreeSet<usize>,
    linked: bool,
    released: bool,
}

impl DestinationPages {
    /// A destination that has taken the guest without these pages. There is no link yet.
    pub fn new(missing: DirtyBitmap, key: Key) -> Self {
        let left = missing.count();
        let (all, wanted) = (missing.clone(), BTreeSet::new());
        Self { key, all, missing, left, wanted, linked: false, released: false }
    }

    /// How many pages are missing.
    pub fn left(&self) -> usize {
        self.left
    }

    /// True once every page is here.
    pub fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// True once the source knows that it is not needed any more.
    pub fn is_released(&self) -> bool {
        self.released
    }

    /// True while there is a link to the source.
    pub fn is_linked(&self) -> bool {
        self.linked
    }

    /// Somebody waits for a page.
    ///
    /// # Panics
    /// If it is not a page of the machine.
    pub fn fault(&mut self, page: usize) -> Fault {
        if !self.missing.contains(page) {
            Fault::Here
        } else if self.wanted.insert(page) && self.linked {
            Fault::Ask
        } else {
            Fault::Wait
        }
    }

    /// Pages will come over a link, the first or a new one: gives what is to be asked for on it.
    pub fn linked(&mut self) -> Vec<ToSource> {
        self.linked = true;
        self.wanted.iter().map(|page| ToSource::Request(*page)).collect()
    }

    /// The link is lost, or was let go.
    pub fn lost(&mut self) {
        self.linked = false;
    }

    /// Whether a page that came may be put where the guest will see it.
    ///
    /// # Errors
    /// If it was not missing, or not any more. The link is then to be ended.
    pub fn expects(&self, page: usize) -> Result<(), Violation> {
        if !self.linked {
            return Err(Violation::Order { message: "Page", phase: "without a link" });
        }
        if page >= self.all.pages() || !self.all.contains(page) {
            return Err(Violation::Page(page));
        }
        if !self.missing.contains(page) {
            return Err(Violation::Twice(page));
        }
        Ok(())
    }

    /// An expected page was put in its place.
    pub fn arrived(&mut self, page: usize) {
        if self.missing.contains(page) {
            self.missing.remove(page);
            self.wanted.remove(&page);
            self.left -= 1;
        }
    }

    /// The source says that it has sent everything; gives the answer.
    ///
    /// # Errors
    /// If something is missing. The link is then to be ended.
    pub fn all_sent(&mut self) -> Result<ToSource, Violation> {
        if !self.linked {
            return Err(Violation::Order { message: "AllSent", phase: "without a link" });
        }
        let (theirs, ours) = (self.all.count() as u64, (self.all.count() - self.left) as u64);
        if ours != theirs {
            return Err(Violation::Count { ours, theirs });
        }
        Ok(ToSource::AllReceived(ours))
    }

    /// The source needs nothing more.
    ///
    /// # Errors
    /// If something is missing. The link is then to be ended.
    pub fn release(&mut self) -> Result<(), Violation> {
        if !self.linked || !self.is_complete() {
            return Err(Violation::Order { message: "Released", phase: "missing" });
        }
        self.released = true;
        Ok(())
    }

    /// On a new link somebody says `Recover`; gives the answer, and what to hold the proof against.
    /// The link that is in use stays in use.
    pub fn challenge(&self, source: Nonce, own: Nonce) -> (ToSource, Candidate) {
        let mac = self.key.of_destination(&source, &own);
        (ToSource::Recovering(own, mac), Candidate { source, destination: own })
    }

    /// The candidate gives its proof; what came so far is the answer. The link that was in use must
    /// be let go before, with all that is in it.
    ///
    /// # Errors
    /// If it is a stranger's. The candidate's link is then to be ended, the other stays in use.
    pub fn proven(&self, candidate: &Candidate, proof: &Mac) -> Result<ToSource, Violation> {
        if !self.key.is_source(&candidate.source, &candidate.destination, proof) {
            return Err(Violation::Stranger);
        }
        let mut received = self.all.clone();
        received.subtract(&self.missing);
        Ok(ToSource::Received(received))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(missing: &[usize]) -> DestinationPages {
        let mut set = DirtyBitmap::none(8);
        missing.iter().for_each(|page| set.insert(*page));
        DestinationPages::new(set, Key::new(&[1; 32], &[2; 32]))
    }

    #[test]
    fn a_page_is_asked_for_once_a_link() {
        let mut here = pages(&[1, 2, 3]);
        assert_eq!(here.fault(0), Fault::Here);
        assert_eq!(here.fault(2), Fault::Wait, "there is no link");
        assert_eq!(here.linked(), [ToSource::Request(2)]);
        assert_eq!(here.fault(2), Fault::Wait);
        assert_eq!(here.fault(3), Fault::Ask);
        here.expects(3).unwrap();
        here.arrived(3);
        assert_eq!(here.fault(3), Fault::Here);
        here.lost();
        assert_eq!(here.fault(1), Fault::Wait);
        assert_eq!(here.linked(), [ToSource::Request(1), ToSource::Request(2)]);
    }

    #[test]
    fn what_does_not_belong_is_refused() {
        let mut here = pages(&[1, 2]);
        assert!(matches!(here.expects(1), Err(Violation::Order { .. })));
        assert!(matches!(here.all_sent(), Err(Violation::Order { .. })));
        here.linked();
        for page in [0, 8, usize::MAX] {
            assert_eq!(here.expects(page), Err(Violation::Page(page)));
        }
        here.arrived(1);
        assert_eq!(here.expects(1), Err(Violation::Twice(1)));
        assert_eq!(here.all_sent(), Err(Violation::Count { ours: 1, theirs: 2 }));
        assert!(matches!(here.release(), Err(Violation::Order { .. })));
        here.arrived(2);
        assert_eq!(here.all_sent(), Ok(ToSource::AllReceived(2)));
        here.release().unwrap();
        assert!(here.is_released());
    }

    #[test]
    fn a_stranger_learns_and_changes_nothing() {
        let here = pages(&[1, 2]);
        let (_, candidate) = here.challenge([5; 32], [6; 32]);
        let stranger = Key::new(&[1; 32], &[3; 32]).of_source(&[5; 32], &[6; 32]);
        assert_eq!(here.proven(&candidate, &stranger), Err(Violation::Stranger));
        let proof = Key::new(&[1; 32], &[2; 32]).of_source(&[5; 32], &[6; 32]);
        assert!(here.proven(&candidate, &proof).is_ok());
        // The proof for one nonce is none for another.
        let (_, other) = here.challenge([5; 32], [7; 32]);
        assert_eq!(here.proven(&other, &proof), Err(Violation::Stranger));
    }
}
