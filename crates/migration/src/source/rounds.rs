//! The rounds of pre-copy, and the last one with the guest stopped.

use crate::time::Instant;
use std::time::Duration;

use memory::{DirtyBitmap, PAGE_SIZE};

use super::Engine;
use super::link::SourceLink;
use crate::convergence::{Decision, RoundStats};
use crate::error::Failure;
use crate::handover::SourceEvent;
use crate::observer::Phase;
use crate::random::random;
use crate::settings::PostCopy;

const DOING: &str = "memory is sent";
/// Pages between two looks at the clock and at whoever wants the migration to end.
const LOOK: u64 = 64;
/// How often the observer hears of progress within a round.
const REPORT: Duration = Duration::from_millis(100);

impl<L: SourceLink> Engine<'_, L> {
    /// Rounds while the guest runs, until what is left fits into the limit.
    pub(super) fn stream(&mut self) -> Result<SourceEvent, Failure> {
        if !self.settings.live || !self.was_running {
            self.post_copy = self.is_post_copy_due();
            return Ok(SourceEvent::Converged);
        }
        if !self.logging {
            self.source
                .start_dirty_log()
                .map_err(|source| Failure::Machine { doing: "log stores to memory", source })?;
            self.logging = true;
            self.harvested_at = Instant::now();
        }
        loop {
            if self.is_post_copy_due() {
                self.post_copy = true;
                return Ok(SourceEvent::Converged);
            }
            let (mut stats, _) = self.round(Phase::Memory, None)?;
            let dirty = self.harvest(&mut stats)?;
            self.pending.merge(&dirty);
            let decision = self.convergence.round_done(stats, self.pending.count() as u64);
            self.round_over(stats);
            match decision {
                _ if self.is_post_copy_due() => {}
                Decision::Pause => return Ok(SourceEvent::Converged),
                // It would not converge: that is what post-copy is allowed for.
                Decision::GiveUp(_) if self.settings.post_copy.is_some() => {
                    self.post_copy = true;
                    return Ok(SourceEvent::Converged);
                }
                decision => self.go_on(decision)?,
            }
        }
    }

    /// True if the guest is to go now, with all of its memory or without.
    fn is_post_copy_due(&self) -> bool {
        self.settings.post_copy.as_ref().is_some_and(|wanted| wanted.is_due(self.rounds.len()))
    }

    /// The guest stands still and goes without the pages that are left: says which these are.
    fn leave_pages(&mut self) -> Result<(), Failure> {
        let missing = std::mem::replace(&mut self.pending, DirtyBitmap::none(self.ram.pages()));
        let session = random().map_err(Failure::Channel)?;
        self.push_out(DOING)?;
        self.link.borrow_mut().send_missing(&session, &missing)?;
        self.missing = Some((session, missing));
        Ok(())
    }

    /// What is left, with the guest stopped: pages, then everything else. If the pages turn out to
    /// be too many, the guest goes on for another round.
    pub(super) fn send_rest(&mut self) -> Result<SourceEvent, Failure> {
        if self.logging {
            let mut last = RoundStats::default();
            let dirty = self.harvest(&mut last)?;
            self.pending.merge(&dirty);
        }
        if self.post_copy && !self.pending.is_empty() {
            self.leave_pages()?;
            return self.complete();
        }
        let deadline = self.pause_ends().map(|until| until - self.settings.reserve());
        let left = self.pending.count() as u64;
        if let Some(deadline) = deadline
            && Instant::now() + self.convergence.transfer(left) > deadline
        {
            return self.pull_back();
        }
        let (stats, complete) = self.round(Phase::SwitchOver, deadline)?;
        self.round_over(stats);
        if !complete {
            self.convergence.learn(&stats);
            return self.pull_back();
        }
        self.complete()
    }

    /// Ends memory, which went in rounds before so that the guest could still be let go on, and
    /// sends everything else.
    fn complete(&mut self) -> Result<SourceEvent, Failure> {
        let ended = self.writer.end_memory();
        self.wrote(ended, DOING)?;
        self.send_state()?;
        Ok(SourceEvent::Complete(self.digest))
    }

    fn pull_back(&mut self) -> Result<SourceEvent, Failure> {
        let decision = self.convergence.pulled_back(self.pending.count() as u64);
        self.go_on(decision)?;
        Ok(SourceEvent::PulledBack)
    }

    fn go_on(&mut self, decision: Decision) -> Result<(), Failure> {
        match decision {
            Decision::Pause | Decision::Again => Ok(()),
            Decision::Throttle(percent) => self
                .source
                .throttle(percent)
                .map_err(|source| Failure::Machine { doing: "slow the vCPUs", source }),
            Decision::GiveUp(why) => Err(Failure::NotConverging(why)),
        }
    }

    fn harvest(&mut self, stats: &mut RoundStats) -> Result<DirtyBitmap, Failure> {
        let dirty = self
            .source
            .harvest_dirty()
            .map_err(|source| Failure::Machine { doing: "take the log of stores", source })?;
        let now = Instant::now();
        stats.dirtied = dirty.count() as u64;
        stats.dirtied_over = now.duration_since(self.harvested_at);
        self.harvested_at = now;
        Ok(dirty)
    }

    fn round_over(&mut self, stats: RoundStats) {
        self.rounds.push(stats);
        self.observer.round(&stats);
    }

    /// Sends the pending pages. With a deadline it may end before all are sent; those that are not
    /// stay pending, and `false` comes back.
    fn round(
        &mut self,
        phase: Phase,
        deadline: Option<Instant>,
    ) -> Result<(RoundStats, bool), Failure> {
        let started = Instant::now();
        let bytes = self.link.borrow_mut().out().stream_bytes();
        let mut stats = RoundStats {
            round: self.rounds.len() as u32 + 1,
            throttle: self.convergence.throttle(),
            paused: phase == Phase::SwitchOver,
            ..RoundStats::default()
        };
        let pages = self.ram.pages();
        let pending = std::mem::replace(&mut self.pending, DirtyBitmap::none(pages));
        let total = pending.count() as u64;
        self.report(phase, 0, total);

        let begun = self.writer.begin_round();
        self.wrote(begun, DOING)?;
        let mut rest = pending.iter();
        let mut content = [0; PAGE_SIZE];
        let (mut block, mut first, mut end) = (0u16, 0, self.pages_of(0));
        let mut done = 0;
        let mut complete = true;
        while let Some(page) = rest.next() {
            while page >= end {
                block += 1;
                (first, end) = (end, end + self.pages_of(block));
            }
            let offset = ((page - first) * PAGE_SIZE) as u64;
            self.ram.read_page(page, &mut content);
            let written = self.writer.page(page, block, offset, &content);
            if self.wrote(written, DOING)? {
                stats.zero_pages += 1;
            } else {
                stats.pages += 1;
            }
            done += 1;
            if u64::is_multiple_of(done, LOOK) {
                if self.link.borrow_mut().out().is_interrupted() {
                    let mut link = self.link.borrow_mut();
                    return Err(link.explain(crate::outbound::SendError::Interrupted, DOING));
                }
                let enough = phase == Phase::Memory
                    && self.settings.post_copy.as_ref().is_some_and(PostCopy::is_wanted_now);
                if enough || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    rest.by_ref().for_each(|page| self.pending.insert(page));
                    complete = self.pending.is_empty();
                } else if self.reported_at.elapsed() >= REPORT {
                    self.report(phase, done, total);
                }
            }
        }
        let ended = self.writer.end_round();
        self.wrote(ended, DOING)?;
        self.push_out(DOING)?;
        if !stats.paused {
            self.link.borrow_mut().sync()?;
        }
        stats.bytes = self.link.borrow_mut().out().stream_bytes() - bytes;
        stats.duration = started.elapsed();
        self.report(phase, done, total);
        Ok((stats, complete))
    }

    fn pages_of(&self, block: u16) -> usize {
        self.ram
            .blocks()
            .get(usize::from(block))
            .map_or(usize::MAX / 2, |block| block.length as usize / PAGE_SIZE)
    }
}
