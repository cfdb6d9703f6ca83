//! Every order of what can happen to a handful of missing pages.
//!
//! The two machines, joined by links that lose what is on them at any moment, are run through every
//! state that can be reached: pages pushed and asked for, faults at any time, links that die with
//! any part of what was on them still arriving, either side noticing first or late, recoveries
//! that are themselves cut, one message said twice. There is no bound on cuts and recoveries.
//! Checked in every state: a page is filled at most once, with its own content, and the source
//! never believes to be done while something is missing. Checked of the whole: from every state
//! the end is reached without a further failure.

use std::collections::{HashMap, VecDeque};

use memory::DirtyBitmap;

use super::*;

/// A link between the two sides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Link {
    to_destination: VecDeque<ToDestination>,
    to_source: VecDeque<ToSource>,
    /// A dead link carries what was on it, or a part of that, and nothing more.
    alive: bool,
    source_holds: bool,
    destination_holds: bool,
    /// The destination waits for the proof on it.
    candidate: Option<Candidate>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    source: SourcePages,
    destination: DestinationPages,
    /// Oldest first; at most the one in use at each side, and a new one.
    links: Vec<Link>,
    /// How often each page was filled.
    filled: Vec<u8>,
    said_twice: bool,
}

fn nonce(byte: u8) -> Nonce {
    [byte; 32]
}

impl World {
    /// All pages but the first are missing.
    fn new(pages: usize) -> Self {
        let mut missing = DirtyBitmap::all(pages);
        missing.remove(0);
        let key = Key::new(&[1; 32], &[2; 32]);
        let mut source = SourcePages::new(missing.clone(), key.clone());
        source.begin();
        let mut destination = DestinationPages::new(missing, key);
        destination.linked();
        let link = Link {
            to_destination: VecDeque::new(),
            to_source: VecDeque::new(),
            alive: true,
            source_holds: true,
            destination_holds: true,
            candidate: None,
        };
        Self { source, destination, links: vec![link], filled: vec![0; pages], said_twice: false }
    }

    fn is_over(&self) -> bool {
        self.source.is_done() && self.destination.is_complete()
    }

    fn settle(mut self) -> Self {
        self.links.retain(|link| link.source_holds || link.destination_holds);
        for link in &mut self.links {
            if !link.source_holds {
                link.to_source.clear();
                link.alive = false;
            }
            if !link.destination_holds {
                link.to_destination.clear();
                link.alive = false;
            }
        }
        for (page, times) in self.filled.iter().enumerate() {
            assert!(*times <= 1, "page {page} was filled {times} times");
        }
        let there = self.filled.iter().filter(|times| **times == 1).count();
        assert_eq!(there + self.destination.left(), self.filled.len() - 1);
        assert!(!self.source.is_done() || self.destination.is_complete());
        self
    }

    fn say_to_source(link: &mut Link, message: ToSource) {
        if link.alive {
            link.to_source.push_back(message);
        }
    }

    /// The link that the destination takes pages from.
    fn main(&mut self) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.destination_holds && link.candidate.is_none())
    }

    fn source_lost(&mut self, index: usize) {
        self.links[index].source_holds = false;
        self.source.lost();
    }

    fn destination_lost(&mut self, index: usize) {
        let link = &mut self.links[index];
        link.destination_holds = false;
        if link.candidate.take().is_none() && self.destination.is_linked() {
            self.destination.lost();
        }
    }

    /// The destination hears the next message of a link.
    fn hear(&mut self, index: usize) {
        let message = self.links[index].to_destination.pop_front().expect("there is one");
        let heard = match message {
            ToDestination::Page(page) => self.destination.expects(page).map(|()| {
                self.filled[page] += 1;
                self.destination.arrived(page);
                None
            }),
            ToDestination::AllSent => self.destination.all_sent().map(Some),
            ToDestination::Released => self.destination.release().map(|()| None),
            ToDestination::Recover(source) => {
                let (answer, candidate) = self.destination.challenge(source, nonce(2));
                self.links[index].candidate = Some(candidate);
                Ok(Some(answer))
            }
            ToDestination::Proof(proof) => match self.links[index].candidate.clone() {
                None => Err(Violation::Stranger),
                Some(candidate) => match self.destination.proven(&candidate, &proof) {
                    Err(violation) => Err(violation),
                    Ok(received) => {
                        // The old link goes, with all that is on it.
                        if let Some(old) = self.main() {
                            old.destination_holds = false;
                        }
                        let link = &mut self.links[index];
                        link.candidate = None;
                        Self::say_to_source(link, received);
                        for request in self.destination.linked() {
                            Self::say_to_source(link, request);
                        }
                        Ok(None)
                    }
                },
            },
        };
        match heard {
            Ok(Some(answer)) => Self::say_to_source(&mut self.links[index], answer),
            Ok(None) => {}
            Err(violation) => {
                assert!(self.said_twice, "{violation} without a message said twice");
                self.destination_lost(index);
            }
        }
    }

    /// Every state that can follow, and whether something failed on the way there.
    fn steps(&self) -> Vec<(World, bool)> {
        let mut next = Vec::new();
        let mut push = |world: World, failure: bool| next.push((world.settle(), failure));
        // The source's turn.
        let held = self.links.iter().position(|link| link.source_holds);
        if let Some(index) = held {
            let mut world = self.clone();
            if let Some(turn) = world.source.take_turn() {
                let message = match turn {
                    Turn::Page { page, .. } => ToDestination::Page(page),
                    Turn::AllSent => ToDestination::AllSent,
                };
                if world.links[index].alive {
                    world.links[index].to_destination.push_back(message);
                }
                push(world, false);
            }
        } else if !self.source.is_done() && self.links.len() < 3 {
            let mut world = self.clone();
            let message = world.source.recover(nonce(1));
            world.links.push(Link {
                to_destination: [message].into(),
                to_source: VecDeque::new(),
                alive: true,
                source_holds: true,
                destination_holds: true,
                // Nothing but `Recover` is listened to yet.
                candidate: Some(self.destination.challenge(nonce(9), nonce(9)).1),
            });
            push(world, false);
        }
        for (index, link) in self.links.iter().enumerate() {
            if link.destination_holds && !link.to_destination.is_empty() {
                let mut world = self.clone();
                world.hear(index);
                push(world, false);
                if !self.said_twice {
                    let mut world = self.clone();
                    world.said_twice = true;
                    let again = link.to_destination[0].clone();
                    world.links[index].to_destination.push_front(again);
                    push(world, true);
                }
            }
            if link.source_holds && !link.to_source.is_empty() {
                let mut world = self.clone();
                let message = world.links[index].to_source.pop_front().expect("there is one");
                match world.source.heard(&message) {
                    Ok(Some(answer)) => {
                        if world.links[index].alive {
                            world.links[index].to_destination.push_back(answer);
                        }
                    }
                    Ok(None) => {}
                    Err(violation) => {
                        assert!(world.said_twice, "{violation} without a message said twice");
                        world.source_lost(index);
                    }
                }
                push(world, false);
            }
            if link.alive {
                let mut world = self.clone();
                world.links[index].alive = false;
                push(world, true);
            } else {
                // Either side notices, with all or a part of what was on the link heard before.
                if link.source_holds {
                    let mut world = self.clone();
                    world.source_lost(index);
                    push(world, false);
                }
                if link.destination_holds {
                    let mut world = self.clone();
                    world.destination_lost(index);
                    push(world, false);
                }
            }
        }
        for page in 0..self.filled.len() {
            let mut world = self.clone();
            match world.destination.fault(page) {
                Fault::Here => {}
                Fault::Wait => {
                    if world.destination != self.destination {
                        push(world, false);
                    }
                }
                Fault::Ask => {
                    let link = world.main().expect("who asks has a link");
                    Self::say_to_source(link, ToSource::Request(page));
                    push(world, false);
                }
            }
        }
        next
    }
}

/// Explores everything; gives the number of states.
fn explore(pages: usize) -> usize {
    let mut known: HashMap<World, usize> = HashMap::new();
    let mut worlds = vec![World::new(pages)];
    known.insert(worlds[0].clone(), 0);
    // For each state, the states from which it follows without a failure.
    let mut from: Vec<Vec<usize>> = vec![Vec::new()];
    let mut steps = 0u64;
    let mut done = 0;
    while done < worlds.len() {
        for (world, failure) in worlds[done].clone().steps() {
            steps += 1;
            let index = *known.entry(world.clone()).or_insert_with(|| {
                worlds.push(world);
                from.push(Vec::new());
                worlds.len() - 1
            });
            if !failure {
                from[index].push(done);
            }
        }
        done += 1;
    }
    // Backwards from the end.
    let mut reaches = vec![false; worlds.len()];
    let mut queue: Vec<usize> =
        (0..worlds.len()).filter(|index| worlds[*index].is_over()).collect();
    assert!(!queue.is_empty());
    queue.iter().for_each(|index| reaches[*index] = true);
    while let Some(index) = queue.pop() {
        for before in &from[index] {
            if !std::mem::replace(&mut reaches[*before], true) {
                queue.push(*before);
            }
        }
    }
    if let Some(stuck) = reaches.iter().position(|reaches| !reaches) {
        panic!("the end cannot be reached from {:#?}", worlds[stuck]);
    }
    println!("{pages} pages: {} states, {steps} steps", worlds.len());
    worlds.len()
}

#[test]
fn every_page_arrives_once_whatever_fails() {
    assert!(explore(3) > 10_000);
}

#[test]
#[ignore = "a million and a half states take a minute and two gigabytes"]
fn every_page_of_three_arrives_once_whatever_fails() {
    assert!(explore(4) > 1_000_000);
}
