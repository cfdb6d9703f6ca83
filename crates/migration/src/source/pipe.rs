//! The way out through a one-way pipe. Nobody answers: the rules of the pipe say when what was
//! written can be read, and that step is the grant.

use crate::time::Instant;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use transport::{Control, Delivered, Delivery, Sink};

use memory::DirtyBitmap;

use super::envelope::EnvelopeLink;
use super::link::{Answer, SourceLink};
use crate::cancel::Cancel;
use crate::error::Failure;
use crate::handover::{Digest, OwnerId, Record};
use crate::outbound::{Framing, Interrupt, Outbound, SendError};
use crate::postcopy::Session;
use crate::settings::Settings;

pub(super) struct PipeLink {
    out: Outbound<Box<dyn Sink>>,
    control: Arc<dyn Control>,
    delivery: Delivery,
    limit: Duration,
    cancel: Cancel,
    committed: Arc<AtomicBool>,
    /// The pipe with all in it but, where it delivers, the last byte.
    prepared: Option<(Box<dyn Sink>, Option<u8>)>,
}

impl PipeLink {
    pub(super) fn new(
        sink: Box<dyn Sink>,
        settings: &Settings,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        let (control, delivery) = (sink.control(), sink.delivery());
        let committed = Arc::new(AtomicBool::new(false));
        let interrupt = Interrupt {
            cancel: cancel.clone(),
            peer_spoke: Arc::default(),
            committed: committed.clone(),
        };
        let out = Outbound::start(
            sink,
            Framing::Bare,
            settings.bandwidth_limit,
            settings.io_timeout,
            interrupt,
        )
        .map_err(Failure::Channel)?;
        Ok(Self {
            out,
            control,
            delivery,
            limit: settings.downtime_limit,
            cancel: cancel.clone(),
            committed,
            prepared: None,
        })
    }

    fn drained(&mut self, doing: &'static str) -> Result<(), Failure> {
        self.out.drain().map_err(|error| self.explain(error, doing))
    }
}

impl SourceLink for PipeLink {
    type Output = Box<dyn Sink>;

    fn out(&mut self) -> &mut Outbound<Self::Output> {
        &mut self.out
    }

    fn explain(&mut self, error: SendError, doing: &'static str) -> Failure {
        match error {
            SendError::TimedOut(limit) => Failure::TimedOut { doing, limit },
            SendError::Overdue => Failure::PauseTooLong { doing, limit: self.limit },
            SendError::Io(source) if !self.cancel.is_cancelled() => Failure::Send { doing, source },
            SendError::Io(_) | SendError::Interrupted => Failure::Cancelled,
        }
    }

    fn greet(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn machine_accepted(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Failure> {
        const DOING: &str = "the pipe takes memory in";
        self.out.push_out().map_err(|error| self.explain(error, DOING))?;
        self.drained(DOING)
    }

    fn offer(
        &mut self,
        own: Digest,
        _claim: Option<Record>,
        until: Option<Instant>,
    ) -> Result<Answer, Failure> {
        const DOING: &str = "the pipe takes the state in";
        let last = match self.delivery {
            Delivery::LastByte => self.out.hold_back_last(),
            Delivery::Commit => None,
        };
        self.out.push_out().map_err(|error| self.explain(error, DOING))?;
        self.drained(DOING)?;
        let mut sink = self.out.end().ok_or_else(|| {
            Failure::Channel(std::io::Error::other("the writing thread has failed"))
        })?;
        let ready = sink.prepare();
        self.prepared = Some((sink, last));
        ready?;
        match until {
            Some(until) if Instant::now() >= until => {
                Err(Failure::PauseTooLong { doing: DOING, limit: self.limit })
            }
            // Whoever reads it, some day: nobody of whom this side will hear.
            _ => {
                let claimant = OwnerId::new("pipe", [0; 16]);
                Ok(Answer { digest: own, claimant, shared: false })
            }
        }
    }

    fn commit(&mut self) {
        self.committed.store(true, Ordering::Release);
    }

    fn grant(&mut self, _digest: Digest, _claimant: &OwnerId) -> Result<bool, Failure> {
        const DOING: &str = "the last byte is written";
        let (mut sink, last) = self
            .prepared
            .take()
            .ok_or_else(|| Failure::Channel(std::io::Error::other("nothing was prepared")))?;
        if let Some(last) = last {
            sink.write_all(&[last]).map_err(|source| Failure::Send { doing: DOING, source })?;
        }
        Ok(sink.commit()? == Delivered::Confirmed)
    }

    fn send_missing(&mut self, _: &Session, _: &DirtyBitmap) -> Result<(), Failure> {
        Err(Failure::Protocol("nobody can be served pages through a one-way pipe".to_owned()))
    }

    fn into_envelope(self) -> Option<EnvelopeLink> {
        None
    }

    fn cancel(&mut self, _reason: &str) {
        // A reader that has everything but the last byte will find that the stream is cut.
        self.control.shutdown();
        if let Some((sink, _)) = self.prepared.take() {
            sink.discard();
        }
    }

    fn finish(&mut self) {
        self.control.shutdown();
        if let Some(sink) = self.out.end() {
            sink.discard();
        }
    }
}
