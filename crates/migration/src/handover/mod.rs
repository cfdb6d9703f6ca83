//! The hand-over: who may run the guest, at every instant, as two pure state machines.
//!
//! [`SourceMachine`] and [`DestinationMachine`] hold no socket, clock, thread or guest. They are
//! fed events and answer with actions; the threads in `source` and `destination` (and the model
//! check in this crate's tests) do nothing on their own account. Every rule about who may run is
//! here and nowhere else. [`Record`] is what an arbiter keeps; what a record means for whoever reads
//! it is in [`Dispute`], [`Taking`] and [`start`].
//!
//! # The way it goes
//!
//! ```text
//!  source        guest at    source                    destination        guest at   destination
//!  state         source      sends                     sends              dest.      state
//!  ------------  ----------  ------------------------  -----------------  ---------  ------------
//!  Greeting      runs        Hello ------------------>                    -          Greeting
//!                runs        <------------------------ Hello              -
//!  Building      runs        machine section --------->                   -          Building
//!                runs        <------------------------ MachineAccepted    built
//!  Streaming     runs        pages, Sync ------------->                   filled     Loading
//!                runs        <------------------------ Synced, Progress   filled
//!  Pausing       stops
//!  Paused        paused      last pages, sections, --->                   filled
//!                paused      digest
//!  Offered       paused      Offered(claim) ---------->                   loaded     (checking)
//!                paused                                (reads its record) loaded     Preparing
//!                paused      <- Ready(digest, claimant, shared)           paused     Ready
//!  Releasing     paused      (lets go of the disks)                       paused
//!  Granting      paused      (record: granted)                            paused
//!  Granted       paused      Grant(digest, claimant) ->                   paused     Claiming
//!                paused                                (record: owned)    owned      Starting
//!                paused      <------------------------ Running(claimant)  runs       Running
//!  Gone          ends
//! ```
//!
//! - Up to and including `Releasing`, **the source owns the guest**. Whatever fails, it resumes (if
//!   the guest ran before), and the destination, which has not run, discards what it built. In
//!   `Streaming` and `Paused` the source may also resume and send further rounds.
//! - `Granting` is the single step: the source writes that it is no longer the owner, and only
//!   then sends `Grant`. From there **the source never resumes by itself**, whatever it hears or
//!   does not hear.
//! - The destination runs only from `Starting`. `Ready` gives nothing away.
//! - Every message that passes something on names who it is for: one of an earlier connection, or
//!   for another destination, moves nobody.
//!
//! # With a record that both sides read
//!
//! The destination finds, before it says `Ready`, whether its own arbiter shows it the very record
//! by which the source claims the guest. If so (`shared`), the record decides, and only the record.
//! Each line is one compare-and-swap, and each raises the epoch:
//!
//! ```text
//!  record                        who may run    who may swap it, into what
//!  ----------------------------  -------------  ------------------------------------------------
//!  (e, source, owned)            source         source: grant
//!  (e+1, dest., granted)         nobody         dest.: take;  source: take back
//!  (e+2, dest., owned)           destination
//!  (e+2, source, owned)          source         (taken back: as before the move)
//! ```
//!
//! - The grant passes nothing on that cannot come back: between the grant and the taking **nobody**
//!   may run, and whoever wins the one swap that is left is the owner. So a destination that dies
//!   with the grant in its hands does not take the guest with it, and a source that dies right after
//!   the grant does not either.
//! - A destination that hears nothing reads the record. *Granted* to it, it takes the guest, as if
//!   it had heard. Anything else, it discards; it needs to refuse nothing, as a grant that comes
//!   later is not taken by anybody and is taken back. If the record cannot be read, it waits.
//! - A source that hears nothing after the grant reads the record. *Granted*: it takes the guest
//!   back, or loses that swap and reads again. Owned by the destination: it is gone. If the record
//!   cannot be read, the source is [`Unconfirmed`](SourceState::Unconfirmed), paused and whole, and
//!   asks again whenever it is told to.
//! - A swap whose answer is lost **may still be carried out later**. So a source that reads that it
//!   still owns (e) does not resume before it has swapped that record for (e+1, source, owned): what
//!   is late then finds another record than it expects. And a destination that cannot tell whether
//!   it has taken the guest keeps it until it can.
//! - A time limit or a lease that runs out lets nobody run.
//!
//! ```text
//!  the link fails after Grant               the grant's answer is lost
//!
//!  source       record       destination    source         record           destination
//!    | grant ---> granted                     | grant -?->  owned (e)           |
//!    | Grant -X                  |            | read ---->  owned (e)           |
//!    |            granted <- read|            | fence --->  owned (e+1)         |
//!    |            owned   <- take|            | resumes     granted? too late   |
//!    | read ----> owned (dest.)  | runs       | Cancel ------------------------>| discards
//!    | Gone                      |
//! ```
//!
//! # Without one
//!
//! If the destination cannot read the source's record (storage that is not shared, other arbiters,
//! or none at all by the operator's word), `Grant` alone passes the guest on. The source's record,
//! if it keeps one, says *away* from before `Grant` is sent, so that nobody starts the machine
//! there; the destination's, if it keeps one, says *owned* before the guest runs.
//!
//! - A destination that hears nothing discards.
//! - If the link fails after `Grant` was (or may have been) sent and before `Running` came, the
//!   source is `Unconfirmed`, and only the operator can tell: the destination runs, or has
//!   discarded.
//!
//! A one-way pipe uses the same two machines in this way. There the driver answers for the other
//! side: the source's own digest takes the place of `Ready`, the delivering step of the pipe (its
//! last byte, or the durable name of the file) takes the place of `Grant`; and for the reader a
//! complete stream, checked, is the grant.
//!
//! # After a crash
//!
//! The memory of a process that is killed is gone. [`start`] says what its record means for the
//! process that is started in its place, which is nobody's heir: it has made sure by the arbiter
//! that no living process has a copy of the guest (then it has nothing to say, whatever the record
//! is), and boots the machine from its disks under an epoch of its own.

mod destination;
mod record;
mod rules;
mod source;

pub use destination::{DestinationAction, DestinationEvent, DestinationMachine, DestinationState};
pub use record::{MAX_RECORD, OwnerId, Record, RecordError, RecordState, VmId};
pub use rules::{Dispute, Start, Taking, Verdict, start};
pub use source::{SourceAction, SourceEvent, SourceMachine, SourceState};

/// The digest over machine, memory and every section.
pub type Digest = [u8; 32];
