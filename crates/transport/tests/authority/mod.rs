//! Certificates for tests.

#![allow(dead_code, reason = "each program uses its part")]

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use transport::tls::Pem;

/// For when a certificate is good.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    Now,
    Ended,
    Later,
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn pem(&self) -> String {
        self.pem.clone()
    }

    pub fn issue(&self, name: &str) -> Pem {
        self.issue_valid(name, Valid::Now)
    }

    pub fn issue_valid(&self, name: &str, valid: Valid) -> Pem {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = match valid {
            Valid::Now => (date_time_ymd(2000, 1, 1), date_time_ymd(4000, 1, 1)),
            Valid::Ended => (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1)),
            Valid::Later => (date_time_ymd(3999, 1, 1), date_time_ymd(4000, 1, 1)),
        };
        Pem {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
            authorities: self.pem(),
        }
    }
}
