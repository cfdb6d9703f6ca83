//! Callers: whoever an authority vouches for and, if there is a list, is on it.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// The names that a caller says it has, whether it may use them or not.
pub(super) type Claimed = Arc<OnceLock<String>>;

/// Verifies the chain first, then that the certificate is for one of the names. For one session.
#[derive(Debug)]
pub(super) struct Listed {
    chained: Arc<dyn ClientCertVerifier>,
    names: Arc<[ServerName<'static>]>,
    claimed: Claimed,
}

/// The DNS names in a certificate, which is all that can stand in them unchanged.
pub(super) fn dns_names(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let names = certificate.valid_dns_names().collect::<Vec<_>>().join(", ");
    if names.is_empty() { None } else { Some(names) }
}

impl Listed {
    pub(super) fn new(
        chained: Arc<dyn ClientCertVerifier>,
        names: Arc<[ServerName<'static>]>,
        claimed: Claimed,
    ) -> Self {
        Self { chained, names, claimed }
    }
}

impl ClientCertVerifier for Listed {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // The names of the authorities are nothing for a stranger to know.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(names) = dns_names(end_entity) {
            self.claimed.get_or_init(|| names);
        }
        let verified = self.chained.verify_client_cert(end_entity, intermediates, now)?;
        if self.names.is_empty() {
            return Ok(verified);
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let on_list = |name| verify_server_name(&certificate, name).is_ok();
        if self.names.iter().any(on_list) {
            return Ok(verified);
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidForName))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chained.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chained.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chained.supported_verify_schemes()
    }
}
