//! The control socket of a running machine: a Unix socket on which an operator's command asks and
//! the machine's process answers, one JSON object a line. It carries words only; what a machine
//! does about them is behind [`Controlled`], and no machine is known here.
//!
//! A client sends one [`Request`]. The server answers with any number of [`Reply::Progress`] and
//! then one last reply. Closing the connection, or sending [`Request::Cancel`], while a migration
//! runs cancels it.

mod client;
mod folder;
mod message;
mod server;

pub use client::{Client, ControlError};
pub use folder::{Found, running, runtime_folder, socket_path};
pub use message::{
    MAX_LINE, MachineReport, MigrateSettings, OwnerReport, ProgressReport, Reply, Request,
    RoundReport, Status, Summary, TlsSettings,
};
pub use server::{Controlled, Server};
