//! What is behind a network device on this host.

use std::io;
use std::os::fd::BorrowedFd;

/// The other end of a network device's cable.
pub trait NetBackend: Send {
    /// Sends an Ethernet frame without its check sequence. A frame that cannot be sent at once is
    /// lost, as on any network.
    fn send(&mut self, frame: &[u8]);

    /// Takes the next frame that has arrived, without waiting for one, and returns its length. A
    /// frame is cut to the room there is.
    ///
    /// # Errors
    /// If the back end cannot be asked; it may work again later.
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>>;

    /// A descriptor that becomes readable when a frame arrives, and that takes whole frames by
    /// write(2). None if no frame ever comes.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
}

/// A cable that ends nowhere.
#[derive(Debug)]
pub struct NullNet;

impl NetBackend for NullNet {
    fn send(&mut self, _frame: &[u8]) {}

    fn receive(&mut self, _frame: &mut [u8]) -> io::Result<Option<usize>> {
        Ok(None)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
