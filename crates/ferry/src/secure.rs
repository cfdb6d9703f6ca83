//! Who may speak to whom: certificates from the command line, and the rule that a guest's memory
//! does not cross a network in plain text unless the operator says so.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use control::{MigrateSettings, TlsSettings};
use transport::tls::{Identity, PeerName, Pem};
use transport::{Address, Channel, Listener, TransportError};

use crate::cli::TlsOptions;

/// What is said when plain text may cross a network.
pub const WARNING: &str = "warning: --insecure: the guest's memory may cross a network in plain \
                           text, and nobody proves who they are";
/// The longest certificate file: a bundle of many authorities.
const MAX_PEM: u64 = 256 * 1024;
/// How long a peer may take to show who it is.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Callers who are being looked at, at most.
const MAX_CALLERS: usize = 16;
/// Between two looks for a caller who has been let in.
const LOOK: Duration = Duration::from_millis(5);

fn read(path: &Path) -> Result<String> {
    let doing = || format!("cannot read {}", path.display());
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_PEM + 1).read_to_string(&mut text))
        .with_context(doing)?;
    if text.len() as u64 > MAX_PEM {
        bail!("{} is longer than {} KiB", path.display(), MAX_PEM / 1024);
    }
    Ok(text)
}

/// The texts that options name; `None` if there is to be no TLS.
fn pem(options: &TlsOptions) -> Result<Option<Pem>> {
    let (Some(certificate), Some(key), Some(authorities)) =
        (&options.tls_cert, &options.tls_key, &options.tls_ca)
    else {
        return Ok(None);
    };
    Ok(Some(Pem {
        certificate: read(certificate)?,
        key: read(key)?,
        authorities: read(authorities)?,
    }))
}

/// What `ferry migrate` sends to the machine's process. Files that are wrong are found here.
///
/// # Errors
/// If the files cannot be read or used.
pub fn settings(options: &TlsOptions, peer: Option<&PeerName>) -> Result<Option<TlsSettings>> {
    let Some(pem) = pem(options)? else { return Ok(None) };
    Identity::new(&pem, &[])?;
    let Pem { certificate, key, authorities } = pem;
    let peer = peer.map(PeerName::to_string);
    Ok(Some(TlsSettings { certificate, key, authorities, peer }))
}

/// TLS is between two sides that answer each other.
///
/// # Errors
/// If certificates are given for a one-way pipe.
pub fn check_one_way(address: &Address, tls: bool) -> Result<()> {
    if tls && !address.is_two_way() {
        bail!("{address}: --tls-cert is for tcp: and unix:, where both sides speak");
    }
    Ok(())
}

/// How a machine's process speaks to a destination.
pub struct Route {
    secured: Option<(Identity, PeerName)>,
    insecure: bool,
}

impl Route {
    /// From the settings of a move.
    ///
    /// # Errors
    /// If they make no sense.
    pub fn new(address: &Address, settings: &MigrateSettings) -> Result<Self> {
        check_one_way(address, settings.tls.is_some())?;
        let Some(tls) = &settings.tls else {
            return Ok(Self { secured: None, insecure: settings.insecure });
        };
        let TlsSettings { certificate, key, authorities, peer } = tls.clone();
        let identity = Identity::new(&Pem { certificate, key, authorities }, &[])?;
        let peer = match (peer, address) {
            (Some(peer), _) => peer,
            (None, Address::Tcp { host, .. }) => host.clone(),
            (None, _) => {
                bail!("{address} names no host: --tls-peer must say who is expected there")
            }
        };
        Ok(Self { secured: Some((identity, peer.parse()?)), insecure: false })
    }

    /// Connects. Nothing of Ferry's is said before the peer is known to be the right one, or the
    /// operator's word is taken for it.
    ///
    /// # Errors
    /// If there is no connection, or it may not be used.
    pub fn open(&self, address: &Address, limit: Duration) -> Result<Channel> {
        let channel = transport::connect(address, limit)?;
        if let Some((identity, peer)) = &self.secured {
            return Ok(identity.connect(channel, peer, limit)?);
        }
        if !channel.stays_here {
            if !self.insecure {
                bail!(
                    "{address} is not on this host: a move there in plain text is refused; use \
                     --tls-cert, --tls-key and --tls-ca, or --insecure"
                );
            }
            eprintln!("ferry: {WARNING}: {address}");
        }
        Ok(channel)
    }
}

/// Who may move a machine here.
pub struct Guard {
    identity: Option<Identity>,
    insecure: bool,
}

impl Guard {
    /// From options.
    ///
    /// # Errors
    /// If the files cannot be read or used.
    pub fn new(options: &TlsOptions, callers: &[PeerName]) -> Result<Self> {
        let identity = match pem(options)? {
            Some(pem) => Some(Identity::new(&pem, callers)?),
            None => None,
        };
        Ok(Self { identity, insecure: options.insecure })
    }

    /// Whether it may be listened there.
    ///
    /// # Errors
    /// If other hosts could connect, in plain text.
    pub fn check(&self, listener: &Listener) -> Result<()> {
        if self.identity.is_some() || listener.stays_here() {
            return Ok(());
        }
        let address = listener.address();
        if !self.insecure {
            bail!(
                "other hosts can reach {address}: receiving there in plain text is refused; use \
                 --tls-cert, --tls-key and --tls-ca, or --insecure"
            );
        }
        eprintln!("ferry: {WARNING}: {address}");
        Ok(())
    }

    /// Waits for a source that may move a machine here. Others are turned away with a sentence,
    /// and the wait goes on.
    ///
    /// # Errors
    /// If the wait ends.
    pub fn accept(&self, listener: &Listener, stop: &AtomicBool) -> Result<Channel> {
        let Some(identity) = &self.identity else { return Ok(listener.accept(None, stop)?) };
        let mut callers = Callers::new(identity);
        loop {
            // Nobody can keep others waiting by saying nothing: each is heard by itself.
            let limit = if callers.any() { Some(LOOK) } else { None };
            match listener.accept(limit, stop) {
                Ok(channel) => callers.hear(channel)?,
                Err(TransportError::TimedOut { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(channel) = callers.let_in() {
                return Ok(channel);
            }
        }
    }
}

type Heard = Result<Channel, TransportError>;

/// Those who have called, until one of them has shown that it may.
struct Callers<'a> {
    identity: &'a Identity,
    sender: Sender<Heard>,
    heard: Receiver<Heard>,
    waiting: Arc<AtomicUsize>,
}

impl<'a> Callers<'a> {
    fn new(identity: &'a Identity) -> Self {
        let (sender, heard) = channel();
        Self { identity, sender, heard, waiting: Arc::default() }
    }

    fn any(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    fn hear(&mut self, caller: Channel) -> Result<()> {
        if self.waiting.load(Ordering::Acquire) >= MAX_CALLERS {
            eprintln!("ferry: {} is turned away: too many call at once", caller.peer);
            caller.control.shutdown();
            return Ok(());
        }
        let (identity, sender) = (self.identity.clone(), self.sender.clone());
        let waiting = self.waiting.clone();
        waiting.fetch_add(1, Ordering::AcqRel);
        let hear = move || {
            // Whoever waited for this may be content with another.
            let _ = sender.send(identity.accept(caller, HANDSHAKE_LIMIT));
            waiting.fetch_sub(1, Ordering::AcqRel);
        };
        thread::Builder::new().name("handshake".to_owned()).spawn(hear)?;
        Ok(())
    }

    fn let_in(&self) -> Option<Channel> {
        for heard in self.heard.try_iter() {
            match heard {
                Ok(channel) => return Some(channel),
                Err(error) => eprintln!("ferry: refused: {error}"),
            }
        }
        None
    }
}
