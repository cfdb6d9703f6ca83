//! Handshakes that failed, in the words of an operator.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use super::session::{Broken, Failed};
use crate::TransportError;

/// The error of a handshake with `peer`; `limit` is how long it could take.
pub(super) fn not_secured(peer: &str, failed: Failed, limit: Option<Duration>) -> TransportError {
    let why = match failed {
        Failed::Tls(error) => sentence(&error),
        Failed::Protocol => "it speaks TLS, but not to move a machine".to_owned(),
        Failed::Closed => "it ended the connection during the TLS handshake".to_owned(),
        Failed::Io(error) => match (error.kind(), limit) {
            (io::ErrorKind::TimedOut, Some(limit)) => {
                format!("the TLS handshake was not done within {} s", limit.as_secs_f32())
            }
            (io::ErrorKind::UnexpectedEof, _) => {
                "it ended the connection during the TLS handshake".to_owned()
            }
            _ => match error.get_ref().and_then(|inner| inner.downcast_ref::<Broken>()) {
                Some(broken) => broken.to_string(),
                None => format!("the connection failed: {error}"),
            },
        },
    };
    TransportError::NotSecured { peer: peer.to_owned(), why }
}

/// What a TLS error means.
pub(super) fn sentence(error: &Error) -> String {
    match error {
        Error::NoCertificatesPresented => "it shows no certificate".to_owned(),
        Error::InvalidCertificate(error) => certificate(error),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => "it does not speak TLS (does it move in plain text?)".to_owned(),
        Error::PeerIncompatible(what) => {
            format!("it does not speak TLS 1.3 as this side does: {what:?}")
        }
        Error::AlertReceived(alert) => format!("it refuses this host: {}", refused(*alert)),
        Error::NoApplicationProtocol => "it speaks TLS, but not to move a machine".to_owned(),
        Error::DecryptError => "a record was changed on the way".to_owned(),
        Error::PeerSentOversizedRecord | Error::InvalidMessage(InvalidMessage::MessageTooLarge) => {
            "it sent a record that is longer than TLS allows".to_owned()
        }
        other => other.to_string(),
    }
}

fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet".to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is of no authority that is trusted here".to_owned()
        }
        CertificateError::NotValidForName => {
            "its certificate is for none of the names that may move machines here".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, .. } => {
            format!("its certificate is not for {}", expected.to_str())
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not made for this side of a connection".to_owned()
        }
        other => format!("its certificate is not good: {other:?}"),
    }
}

/// What the peer means by an alert about a certificate of ours (RFC 8446, section 6.2).
fn refused(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => "no certificate was shown",
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "the certificate shown is of no authority that is trusted there"
        }
        AlertDescription::CertificateExpired => "the certificate shown has expired or is not valid yet",
        AlertDescription::BadCertificate => {
            "the certificate shown is not good, or is for none of the names that may move machines there"
        }
        AlertDescription::UnsupportedCertificate => {
            "the certificate shown is not made for this side of a connection"
        }
        AlertDescription::CertificateUnknown | AlertDescription::AccessDenied => {
            "the certificate shown is not accepted"
        }
        AlertDescription::NoApplicationProtocol => "it speaks TLS, but not to move a machine",
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3",
        other => return format!("alert {other:?}"),
    }
    .to_owned()
}
