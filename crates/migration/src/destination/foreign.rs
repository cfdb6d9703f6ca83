//! The way in from another monitor: its bytes, put into Ferry's terms by a [`ForeignSource`].

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use memory::GuestRam;
use transport::{Channel, Control, Intake};

use super::inbox::{Heard, Inbox, Way};
use super::link::DestinationLink;
use crate::cancel::Cancel;
use crate::error::Failure;
use crate::foreign::{Callers, ForeignSource, Piece};
use crate::handover::{Digest, OwnerId};
use crate::settings::Settings;

/// How often a wait looks whether the operator wants it to end.
const LOOK: Duration = Duration::from_millis(50);
const DOING: &str = "receiving the state stream";

pub(super) struct ForeignLink {
    source: Box<dyn ForeignSource>,
    inbox: Inbox,
    control: Arc<dyn Control>,
    /// What is said goes here, if anybody listens.
    output: Option<Box<dyn Write + Send>>,
    ram: Option<GuestRam>,
    cancel: Cancel,
    limit: Duration,
    answer_limit: Duration,
}

impl ForeignLink {
    pub(super) fn two_way(
        source: Box<dyn ForeignSource>,
        channel: Channel,
        callers: Option<Callers>,
        settings: &Settings,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        let Channel { reader, writer, control, peer: _, stays_here: _ } = channel;
        control.set_write_timeout(Some(settings.io_timeout)).map_err(Failure::Channel)?;
        let way = Way::Channel(reader);
        Self::new(source, way, control, Some(writer), callers, settings, cancel)
    }

    pub(super) fn one_way(
        source: Box<dyn ForeignSource>,
        intake: Box<dyn Intake>,
        settings: &Settings,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        let control = intake.control();
        Self::new(source, Way::Pipe(intake), control, None, None, settings, cancel)
    }

    fn new(
        source: Box<dyn ForeignSource>,
        way: Way,
        control: Arc<dyn Control>,
        output: Option<Box<dyn Write + Send>>,
        callers: Option<Callers>,
        settings: &Settings,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        Ok(Self {
            source,
            inbox: Inbox::start(way, control.clone(), callers).map_err(Failure::Channel)?,
            control,
            output,
            ram: None,
            cancel: cancel.clone(),
            limit: settings.io_timeout,
            answer_limit: settings.switchover_timeout,
        })
    }

    /// Says what the source has to say.
    fn speak(&mut self) -> io::Result<()> {
        let words = self.source.replies();
        match &mut self.output {
            Some(output) if !words.is_empty() => {
                output.write_all(&words)?;
                output.flush()
            }
            _ => Ok(()),
        }
    }

    /// Hands the next thing that is heard to the source.
    fn listen(&mut self, limit: Duration) -> Result<(), Failure> {
        let started = Instant::now();
        let (channel, heard) = loop {
            if self.cancel.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            let source = &self.source;
            if let Some(heard) = self.inbox.pop(LOOK, |channel| source.wants(channel)) {
                break heard;
            }
            if started.elapsed() >= limit {
                return Err(Failure::TimedOut { doing: DOING, limit });
            }
        };
        self.take(channel, heard)
    }

    fn take(&mut self, channel: usize, heard: Heard) -> Result<(), Failure> {
        match heard {
            Heard::Bytes(bytes) => self.source.heard(channel, &bytes),
            Heard::End(ended) => {
                ended?;
                self.source.ended(channel);
            }
            Heard::Failed(error) => return Err(Failure::Channel(error)),
            Heard::Deaf(source) => {
                return Err(Failure::Machine { doing: "wait for further channels", source });
            }
        }
        Ok(())
    }
}

impl DestinationLink for ForeignLink {
    fn next_chunk(
        &mut self,
        chunk: &mut Vec<u8>,
        _placed: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        chunk.clear();
        loop {
            if self.cancel.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            let piece = self.source.next(self.ram.as_ref(), chunk).map_err(Failure::Stream)?;
            self.speak().map_err(|source| Failure::Send { doing: DOING, source })?;
            match piece {
                Piece::Made => return Ok(true),
                Piece::Over => return Ok(false),
                Piece::Wanting => self.listen(self.limit)?,
            }
        }
    }

    fn ready(
        &mut self,
        own: Digest,
        me: &OwnerId,
        _shared: bool,
    ) -> Result<(Digest, OwnerId), Failure> {
        if self.cancel.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        // A source that has left by now has kept the guest.
        while let Some((channel, heard)) =
            self.inbox.pop(Duration::ZERO, |channel| self.source.wants(channel))
        {
            self.take(channel, heard)?;
        }
        self.source.accept().map_err(Failure::Stream)?;
        let unsure = |failure: Failure| Failure::NotGivenAway(failure.sentence());
        let sending = |source| unsure(Failure::Send { doing: "the guest is asked for", source });
        self.speak().map_err(sending)?;
        let deadline = Instant::now() + self.answer_limit;
        while !self.source.is_released() {
            let left = deadline.saturating_duration_since(Instant::now());
            self.listen(left).map_err(unsure)?;
        }
        // It may have left before it heard the answer.
        let left = deadline.saturating_duration_since(Instant::now());
        self.control.wait_delivered(left).map_err(sending)?;
        Ok((own, me.clone()))
    }

    fn set_memory(&mut self, ram: &GuestRam) {
        self.ram = Some(ram.clone());
    }

    fn refuse(&mut self, _reason: &str) {
        self.source.refuse();
        // The end of the channel says it too.
        let _ = self.speak();
    }

    fn finish(&mut self) {
        self.inbox.end();
    }
}
