//! `ferry make-test-ca`: certificates to try encryption out with.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::cli::TestCaOptions;

/// For how long the certificates are good.
const GOOD_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// Clocks of hosts differ.
const BEFORE: Duration = Duration::from_secs(3600);

/// Writes a file that is not there yet.
fn write(path: &Path, mode: u32, text: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn parameters(names: Vec<String>, called: &str) -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name.push(DnType::CommonName, called);
    let now = SystemTime::now();
    parameters.not_before = (now - BEFORE).into();
    parameters.not_after = (now + GOOD_FOR).into();
    Ok(parameters)
}

/// `ferry make-test-ca`.
///
/// # Errors
/// If the files cannot be written, or one of them is there already.
pub fn make(options: &TestCaOptions) -> Result<ExitCode> {
    let folder = &options.folder;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let key = KeyPair::generate()?;
    let mut authority = parameters(Vec::new(), "Ferry test authority, not for production")?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    write(&folder.join("ca.pem"), 0o644, &authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    for name in &options.names {
        let name = name.to_string();
        let key = KeyPair::generate()?;
        let mut host = parameters(vec![name.clone()], &name)?;
        host.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        host.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let file = |suffix| folder.join(format!("{name}.{suffix}"));
        write(&file("key"), 0o600, &key.serialize_pem())?;
        write(&file("pem"), 0o644, &host.signed_by(&key, &issuer)?.pem())?;
        println!(
            "{name}: --tls-cert {} --tls-key {} --tls-ca {}",
            file("pem").display(),
            file("key").display(),
            folder.join("ca.pem").display()
        );
    }
    println!("For trying out only: good for 30 days, and the authority's key is not kept.");
    Ok(ExitCode::SUCCESS)
}
