//! A deterministic simulator: the engine, its links, queues and threads as they are, on a clock
//! that moves only when every thread waits, over channels in memory. One thread runs at a time, and
//! which one is next is decided by their order alone: a run is the same whenever it is repeated, and
//! a wait of hours takes no time.

mod every_byte;
mod pipe;
pub(crate) mod time;
