//! The crate from outside, in one program: link once, share the machines.

mod codec;
mod common;
mod compatibility;
mod dtc;
mod tree;
