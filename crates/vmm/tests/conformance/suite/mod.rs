//! The programs of the conformance suite, and how one is run. Other tests use them as guests.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod identity;
pub mod image;
pub mod integer;
pub mod layout;
pub mod programs;
pub mod run;
