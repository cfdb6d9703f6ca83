//! The networks of a machine: the machine's thread learns that frames have arrived, and a network
//! learns that the machine has.
//!
//! A thread for each network waits until it has a frame, and wakes the machine's thread, which
//! takes frames out of the back end itself, only while the machine runs and only as many as the
//! guest has buffers for. So a frame that arrives during a pause stays with the back end: the
//! machine has it if it runs on here, and loses it if it has moved.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::machine::{Machine, lock};
use crate::slots::SlotDevice;

/// Milliseconds from one announcement to the next. The first is made at once; a switch that has
/// just come up, or is busy, may lose some.
const ANNOUNCEMENTS: [u64; 6] = [0, 50, 150, 250, 350, 450];
/// Shortest Ethernet frame without its check sequence (IEEE 802.3, section 3.2.8).
const SHORTEST: usize = 60;

/// A reverse-ARP request that this station sends (RFC 903): nobody has to answer it, but every
/// switch on its way learns where the station is.
fn announcement(mac: [u8; 6]) -> [u8; SHORTEST] {
    let mut frame = [0; SHORTEST];
    let parts: [&[u8]; 8] = [
        &[0xff; 6],
        &mac,
        &[0x80, 0x35], // type: RARP
        // Ethernet and IPv4, their address lengths, "request reverse"
        &[0, 1, 8, 0, 6, 4, 0, 3],
        &mac,
        &[0; 4],
        &mac,
        &[0; 4],
    ];
    let mut at = 0;
    for part in parts {
        frame[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    frame
}

/// What the thread of a network is to do.
struct Orders {
    /// Wake the machine once when a frame arrives.
    armed: bool,
    /// When the next announcement is due, and which one it is.
    announce: Option<(Instant, usize)>,
    over: bool,
}

struct Shared {
    orders: Mutex<Orders>,
    /// Makes the thread look at its orders.
    poke: OwnedFd,
    /// A frame has arrived since the machine last looked.
    arrived: AtomicBool,
    /// The back end.
    descriptor: OwnedFd,
    mac: [u8; 6],
}

impl Shared {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders());
        // A counter that is full pokes as well.
        let _ = rustix::io::write(&self.poke, &1_u64.to_ne_bytes());
    }

    /// Makes the announcement that is due. Returns for how long to wait for the next. The orders
    /// are held meanwhile, so that none is made after somebody has taken them back.
    fn announce(&self, orders: &mut Orders) -> Option<Duration> {
        loop {
            let (due, number) = orders.announce?;
            let left = due.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return Some(left);
            }
            // One that is lost is made again.
            let _ = rustix::io::write(&self.descriptor, &announcement(self.mac));
            orders.announce = ANNOUNCEMENTS
                .get(number + 1)
                .map(|pause| (due + Duration::from_millis(*pause), number + 1));
        }
    }

    fn work(&self, wake: impl Fn() -> bool) {
        loop {
            let (armed, longest) = {
                let mut orders = self.orders();
                if orders.over {
                    return;
                }
                (orders.armed, self.announce(&mut orders))
            };
            let Ok((poked, readable)) = self.wait(armed, longest) else { return };
            if poked {
                let _ = rustix::io::read(&self.poke, &mut [0; 8]);
            }
            if armed && readable {
                self.orders().armed = false;
                self.arrived.store(true, Ordering::Release);
                if !wake() {
                    return;
                }
            }
        }
    }

    /// Waits for a poke or a frame: which of them came.
    fn wait(&self, armed: bool, longest: Option<Duration>) -> io::Result<(bool, bool)> {
        let mut both =
            [&self.poke, &self.descriptor].map(|watched| PollFd::new(watched, PollFlags::IN));
        let count = if armed { 2 } else { 1 };
        let longest = longest.map(|longest| Timespec {
            tv_sec: longest.as_secs() as i64,
            tv_nsec: longest.subsec_nanos().into(),
        });
        match poll(&mut both[..count], longest.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok((false, false)),
            Err(error) => return Err(error.into()),
        }
        let [poke, descriptor] = both.map(|fd| fd.revents());
        if armed && descriptor.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
            return Err(io::Error::other("the interface is gone"));
        }
        Ok((!poke.is_empty(), armed && !descriptor.is_empty()))
    }
}

/// A network device with a network behind it, and the thread that waits for its frames.
pub(crate) struct Network {
    slot: usize,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    fn start(
        slot: usize,
        mac: [u8; 6],
        descriptor: BorrowedFd<'_>,
        wake: impl Fn() -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            orders: Mutex::new(Orders { armed: true, announce: None, over: false }),
            poke: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            arrived: AtomicBool::new(false),
            descriptor: descriptor.try_clone_to_owned()?,
            mac,
        });
        let own = Arc::clone(&shared);
        let thread =
            thread::Builder::new().name("network".to_owned()).spawn(move || own.work(wake))?;
        Ok(Self { slot, shared, thread: Some(thread) })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.shared.change(|orders| orders.over = true);
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Machine {
    /// Calls `wake`, from any thread, when a frame has arrived and [`Self::receive_frames`] has
    /// something to do; it says whether there is anybody to wake.
    ///
    /// # Panics
    /// If the host gives no thread or no descriptor.
    pub(crate) fn watch_networks(&mut self, wake: &(impl Fn() -> bool + Clone + Send + 'static)) {
        let board = lock(&self.board);
        let mut networks = Vec::new();
        for (index, slot) in board.slots.iter().enumerate() {
            let SlotDevice::Net(net) = &slot.device else { continue };
            let device = net.device();
            if let Some(descriptor) = device.backend().descriptor() {
                let network = Network::start(index, device.mac(), descriptor, wake.clone());
                networks.push(network.expect("a network can be waited for"));
            }
        }
        drop(board);
        self.networks = networks;
    }

    /// Gives the guest what has arrived, as far as it has buffers.
    pub(crate) fn receive_frames(&mut self) {
        for Network { slot, shared, thread: _ } in &self.networks {
            if !shared.arrived.load(Ordering::Acquire) {
                continue;
            }
            let board = &mut *lock(&self.board);
            let SlotDevice::Net(net) = &mut board.slots[*slot].device else { continue };
            let none_left = net.receive();
            board.slot_line(*slot);
            if none_left {
                shared.arrived.store(false, Ordering::Release);
                shared.change(|orders| orders.armed = true);
            }
        }
    }

    /// The machine has come from another host: what its networks have for it so far is thrown
    /// away, and they learn where it is, from here and from the guest.
    pub(crate) fn arrive(&mut self) {
        for Network { slot, shared, thread: _ } in &self.networks {
            let board = &mut *lock(&self.board);
            let SlotDevice::Net(net) = &mut board.slots[*slot].device else { continue };
            net.arrive();
            board.slot_line(*slot);
            shared.change(|orders| orders.announce = Some((Instant::now(), 0)));
        }
    }

    /// Announces nothing any more: the machine may go elsewhere.
    pub(crate) fn hush_networks(&self) {
        for network in &self.networks {
            network.shared.change(|orders| orders.announce = None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;
    use std::sync::mpsc::{RecvTimeoutError, channel};

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn an_announcement_is_a_reverse_arp_request() {
        let mut expected = Vec::new();
        expected.write_all(&[0xff; 6]).unwrap();
        expected.write_all(&[2, 0, 0, 0, 0, 7, 0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]).unwrap();
        expected.write_all(&[2, 0, 0, 0, 0, 7, 0, 0, 0, 0, 2, 0, 0, 0, 0, 7]).unwrap();
        expected.resize(60, 0);
        assert_eq!(announcement(MAC)[..], expected);
    }

    /// A network with the other end of its cable, and what its thread says.
    fn network() -> (Network, UnixDatagram, std::sync::mpsc::Receiver<()>) {
        let (near, far) = UnixDatagram::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let (sender, woken) = channel();
        let network =
            Network::start(0, MAC, near.as_fd(), move || sender.send(()).is_ok()).unwrap();
        (network, far, woken)
    }

    #[test]
    fn the_machine_is_woken_once_until_it_has_looked() {
        let (network, far, woken) = network();
        far.send(&[1; 60]).unwrap();
        far.send(&[2; 60]).unwrap();
        woken.recv_timeout(PATIENCE).unwrap();
        assert!(network.shared.arrived.load(Ordering::Acquire));
        let again = woken.recv_timeout(Duration::from_millis(50));
        assert_eq!(again, Err(RecvTimeoutError::Timeout));
        // Nothing was taken: to be armed again is to be woken again.
        network.shared.change(|orders| orders.armed = true);
        woken.recv_timeout(PATIENCE).unwrap();
        drop(network);
        assert_eq!(woken.recv(), Err(std::sync::mpsc::RecvError), "the thread has ended");
    }

    #[test]
    fn announcements_are_made_until_the_machine_pauses() {
        let (network, far, _woken) = network();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        network.shared.change(|orders| orders.announce = Some((Instant::now(), 0)));
        let mut frame = [0; 100];
        for _ in ANNOUNCEMENTS {
            assert_eq!(far.recv(&mut frame).unwrap(), SHORTEST);
            assert_eq!(frame[..SHORTEST], announcement(MAC));
        }
        far.set_nonblocking(true).unwrap();
        let tomorrow = Instant::now() + Duration::from_secs(86_400);
        network.shared.change(|orders| orders.announce = Some((tomorrow, 0)));
        network.shared.change(|orders| orders.announce = None);
        drop(network);
        assert!(far.recv(&mut frame).is_err(), "nothing more is sent");
    }
}
