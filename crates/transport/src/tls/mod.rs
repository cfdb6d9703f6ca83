//! TLS 1.3 with certificates on both sides, over any two-way channel.
//!
//! Each side verifies the other against a certificate authority before it says anything: the side
//! that connects also the name of the other, the side that was called, if it has a list, that the
//! caller is on it. There is no session ticket, no early data and no older version, so every
//! session begins with fresh randomness from both sides and nothing recorded can be played again.
//!
//! In TLS 1.3 the side that connects is done before the other has looked at its certificate. The
//! side that was called therefore sends one byte as the first of its session once it is satisfied,
//! and [`Identity::connect`] comes back when it has arrived, or with the reason why it did not.

mod refusal;
mod session;
mod verifier;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};

use crate::{Channel, TransportError};
use session::Failed;
use verifier::{Claimed, Listed};

/// What runs inside the session (ALPN, RFC 7301): a certificate that was issued for another
/// service does not let anybody play that service's session to Ferry.
const PROTOCOL: &[u8] = b"ferry-migration";
/// The first byte of the session, from the side that was called: the caller is let in.
const LET_IN: u8 = 0x06;

/// An identity that cannot be had from what was given.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A text that is no PEM.
    #[error("{what} cannot be read: {why}")]
    Pem {
        /// Which of the three.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing of the kind is in the text.
    #[error("{0} holds none")]
    Empty(&'static str),
    /// Certificate and key do not fit, or are of a kind that is not taken.
    #[error("the certificate and its key cannot be used: {0}")]
    Unusable(String),
    /// A name that is none.
    #[error("{0:?} is neither a host name nor an address")]
    Name(String),
}

/// The name of a host, as in its certificate: a DNS name or an IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName(ServerName<'static>);

impl std::str::FromStr for PeerName {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        ServerName::try_from(text.to_owned())
            .map(Self)
            .map_err(|_| IdentityError::Name(text.to_owned()))
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.to_str())
    }
}

/// A host's certificate with its chain, its private key, and the authorities whose word is taken
/// for others: three texts in PEM (RFC 7468).
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// The host's certificate, followed by those of intermediate authorities.
    pub certificate: String,
    /// Its private key: PKCS#8, PKCS#1 or SEC1.
    pub key: String,
    /// Certificates of authorities.
    pub authorities: String,
}

impl fmt::Debug for Pem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pem(..)")
    }
}

/// Who this host is, and whom it trusts.
#[derive(Clone)]
pub struct Identity {
    caller: Arc<ClientConfig>,
    called: Arc<Called>,
}

/// What a session with a caller is made from.
struct Called {
    provider: Arc<CryptoProvider>,
    chained: Arc<dyn ClientCertVerifier>,
    callers: Arc<[ServerName<'static>]>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Called {
    /// For one session, which leaves there who its caller says it is.
    fn config(&self, claimed: &Claimed) -> Result<ServerConfig, rustls::Error> {
        let listed = Listed::new(self.chained.clone(), self.callers.clone(), claimed.clone());
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(listed))
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(config)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Identity(..)")
    }
}

fn certificates(
    text: &str,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| IdentityError::Pem { what, why: error.to_string() })?;
    if found.is_empty() { Err(IdentityError::Empty(what)) } else { Ok(found) }
}

impl Identity {
    /// An identity out of its texts. `callers` are the names that may call this host; with none,
    /// everybody to whom an authority gave a certificate may.
    ///
    /// # Errors
    /// If the texts are wrong, or certificate and key do not fit together.
    pub fn new(pem: &Pem, callers: &[PeerName]) -> Result<Self, IdentityError> {
        let unusable = |error: rustls::Error| IdentityError::Unusable(error.to_string());
        let chain = certificates(&pem.certificate, "the certificate")?;
        let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes())
            .map_err(|error| IdentityError::Pem { what: "the key", why: error.to_string() })?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(&pem.authorities, "the list of authorities")? {
            roots.add(authority).map_err(|error| IdentityError::Pem {
                what: "the certificate of an authority",
                why: error.to_string(),
            })?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(ring::default_provider());

        let mut caller = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(unusable)?;
        caller.resumption = Resumption::disabled();
        caller.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Nothing here serves several names, and a name in the clear tells others who is called.
        caller.enable_sni = false;

        let chained = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| IdentityError::Unusable(error.to_string()))?;
        let callers = callers.iter().map(|name| name.0.clone()).collect();
        let called = Called { provider, chained, callers, chain, key };
        called.config(&Claimed::default()).map_err(unusable)?;
        Ok(Self { caller: Arc::new(caller), called: Arc::new(called) })
    }

    /// Secures a channel that this side has opened, within `limit`. The peer must be `name`, and
    /// must have let this side in.
    ///
    /// # Errors
    /// If either side does not trust the other, or the channel fails.
    pub fn connect(
        &self,
        channel: Channel,
        name: &PeerName,
        limit: Duration,
    ) -> Result<Channel, TransportError> {
        let deadline = Instant::now() + limit;
        let connection = ClientConnection::new(self.caller.clone(), name.0.clone())
            .map_err(|error| refusal::not_secured(&channel.peer, Failed::Tls(error), None))?;
        let mut channel =
            secure(channel, Connection::Client(connection), deadline, limit, &Claimed::default())?;
        let mut word = [0];
        let let_in = session::within(&*channel.control, deadline)
            .and_then(|()| channel.reader.read_exact(&mut word).map_err(Failed::from));
        let let_in = match let_in {
            Ok(()) if word[0] == LET_IN => channel.control.set_read_timeout(None),
            Ok(()) => return Err(refusal::not_secured(&channel.peer, Failed::Protocol, None)),
            Err(failed) => return Err(refusal::not_secured(&channel.peer, failed, Some(limit))),
        };
        let_in.map_err(|error| refusal::not_secured(&channel.peer, error.into(), None))?;
        Ok(channel)
    }

    /// Secures a channel that the peer has opened, within `limit`. Nothing is said to a peer that
    /// is not trusted, but that it is not.
    ///
    /// # Errors
    /// If either side does not trust the other, or the channel fails.
    pub fn accept(&self, channel: Channel, limit: Duration) -> Result<Channel, TransportError> {
        let deadline = Instant::now() + limit;
        let claimed = Claimed::default();
        let connection = self
            .called
            .config(&claimed)
            .and_then(|config| ServerConnection::new(Arc::new(config)))
            .map_err(|error| refusal::not_secured(&channel.peer, Failed::Tls(error), None))?;
        let connection = Connection::Server(connection);
        let mut channel = secure(channel, connection, deadline, limit, &claimed)?;
        channel
            .writer
            .write_all(&[LET_IN])
            .and_then(|()| channel.control.set_write_timeout(None))
            .map_err(|error| refusal::not_secured(&channel.peer, error.into(), Some(limit)))?;
        Ok(channel)
    }
}

/// Shakes hands, and makes a channel of it.
fn secure(
    channel: Channel,
    connection: Connection,
    deadline: Instant,
    limit: Duration,
    claimed: &Claimed,
) -> Result<Channel, TransportError> {
    let mut session = session::Session::new(channel, connection);
    let failed = match session.shake_hands(deadline) {
        Ok(()) if session.protocol() == Some(PROTOCOL) => {
            let peer = match session.names() {
                Some(names) => format!("{} ({names})", session.peer()),
                None => session.peer().to_owned(),
            };
            return Ok(session.into_channel(peer));
        }
        Ok(()) => Failed::Protocol,
        Err(failed) => failed,
    };
    session.end();
    let peer = match claimed.get() {
        Some(names) => format!("{}, which says it is {names}", session.peer()),
        None => session.peer().to_owned(),
    };
    Err(refusal::not_secured(&peer, failed, Some(limit)))
}
