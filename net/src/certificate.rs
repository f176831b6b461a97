//! The hub's own CA and the server certificate that it issues.
//!
//! `tls/ca.pem` is what clients trust; `ca.key`, `server.pem` and `server.key` are made beside it at the first start. A
//! server certificate of this CA is issued again when the hub's names change or its end comes near; one that somebody else
//! issued and put there is served as it is and never touched.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::files::{self, Readers};

const DAY_S: u64 = 24 * 60 * 60;

/// How long a server certificate lasts: some clients refuse more than 398 days.
const SERVER_VALID_S: u64 = 397 * DAY_S;

/// It is issued again when less than this is left of it.
const SERVER_RENEW_S: u64 = 60 * DAY_S;

/// How long the CA lasts: longer than the devices that carry it.
const CA_VALID_S: u64 = 25 * 365 * DAY_S;

/// Certificates begin this long before they are made, for devices whose clocks are late.
const BACKDATE_S: u64 = 2 * DAY_S;

/// What went wrong with the certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is there but cannot be used.
    #[error("{}: {reason}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it, and what helps.
        reason: String,
    },
    /// A name that no certificate can carry.
    #[error("{0:?} is neither a host name nor an address")]
    Name(String),
    /// The certificate could not be made.
    #[error("making a certificate: {0}")]
    Issue(#[from] rcgen::Error),
}

/// A name that clients may use for the hub.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// A host name, in lower case.
    Host(String),
    /// An address.
    Address(IpAddr),
}

impl Name {
    /// Read a host name or an address; IPv6 also in brackets.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Name`].
    pub fn parse(text: &str) -> Result<Self, CertificateError> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Self::Address(address));
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if text.len() <= 253 && text.split('.').all(is_label) {
            Ok(Self::Host(text.to_ascii_lowercase()))
        } else {
            Err(CertificateError::Name(text.to_string()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => formatter.write_str(name),
            Self::Address(address) => address.fmt(formatter),
        }
    }
}

/// What [`Certificates::prepare`] did or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// The certificate that was there serves.
    Unchanged,
    /// There was none.
    First,
    /// The names it covers were not those of the hub.
    NamesChanged,
    /// Its end was near, or it was unreadable or did not fit its key.
    Renewed,
    /// Somebody else issued it: it is served as it is. The names that it does not cover.
    Foreign {
        /// Names of the hub for which clients will refuse it.
        missing: Vec<Name>,
    },
}

/// The directory `tls` of a data directory.
#[derive(Clone, Debug)]
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// The certificates in `directory`, which is made by [`prepare`](Certificates::prepare).
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// What clients are to trust.
    pub fn ca_path(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The server's certificate, with its chain.
    pub fn server_path(&self) -> PathBuf {
        self.directory.join("server.pem")
    }

    /// The server's private key.
    pub fn server_key_path(&self) -> PathBuf {
        self.directory.join("server.key")
    }

    /// The server's chain and key, PEM.
    ///
    /// # Errors
    ///
    /// [`CertificateError::File`].
    pub fn load(&self) -> Result<(Vec<u8>, Vec<u8>), CertificateError> {
        Ok((read(&self.server_path())?, read(&self.server_key_path())?))
    }

    /// Make what is missing, and issue the server's certificate again when it is due. `names` in the order of importance:
    /// the first becomes the common name; at least one. `now_s` in seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`CertificateError`]; what was there before is still there.
    pub fn prepare(&self, names: &[Name], now_s: u64) -> Result<Prepared, CertificateError> {
        files::create_directory(&self.directory).map_err(at(&self.directory))?;
        let due = match files::read_if_there(&self.server_path()).map_err(at(&self.server_path()))? {
            None => Prepared::First,
            Some(pem) => self.judge(&pem, names, now_s)?,
        };
        if !matches!(due, Prepared::Unchanged | Prepared::Foreign { .. }) {
            let issuer = self.issuer(now_s)?;
            self.issue(&issuer, names, now_s)?;
        }
        Ok(due)
    }

    /// What is to be done about the certificate that is there.
    fn judge(&self, pem: &[u8], names: &[Name], now_s: u64) -> Result<Prepared, CertificateError> {
        let path = self.server_path();
        let unreadable = |reason: String| CertificateError::Content { path: path.clone(), reason };
        let (_, block) = x509_parser::pem::parse_x509_pem(pem)
            .map_err(|error| unreadable(format!("not a PEM file: {error}")))?;
        let (_, certificate) = X509Certificate::from_der(&block.contents)
            .map_err(|error| unreadable(format!("not a certificate: {error}")))?;
        let wanted: BTreeSet<Name> = names.iter().cloned().collect();
        let covered = covered_names(&certificate);
        if !self.is_ours(&certificate)? {
            let missing = wanted.difference(&covered).cloned().collect();
            return Ok(Prepared::Foreign { missing });
        }
        let end_s = certificate.validity().not_after.timestamp();
        let begin_s = certificate.validity().not_before.timestamp();
        let now_s = i64::try_from(now_s).unwrap_or(i64::MAX);
        let is_due = end_s.saturating_sub(now_s) < SERVER_RENEW_S as i64 || now_s < begin_s;
        Ok(if covered != wanted {
            Prepared::NamesChanged
        } else if is_due || !self.fits_key(&certificate)? {
            Prepared::Renewed
        } else {
            Prepared::Unchanged
        })
    }

    /// Whether our CA issued it: the CA's name is of this data directory alone.
    fn is_ours(&self, certificate: &X509Certificate<'_>) -> Result<bool, CertificateError> {
        let path = self.ca_path();
        let Some(pem) = files::read_if_there(&path).map_err(at(&path))? else { return Ok(false) };
        let content = |reason: String| CertificateError::Content { path: path.clone(), reason };
        let (_, block) =
            x509_parser::pem::parse_x509_pem(&pem).map_err(|error| content(error.to_string()))?;
        let (_, ca) =
            X509Certificate::from_der(&block.contents).map_err(|error| content(error.to_string()))?;
        Ok(certificate.issuer().as_raw() == ca.subject().as_raw() && self.ca_key_path().exists())
    }

    fn fits_key(&self, certificate: &X509Certificate<'_>) -> Result<bool, CertificateError> {
        let Some(pem) = files::read_if_there(&self.server_key_path()).map_err(at(&self.server_key_path()))?
        else {
            return Ok(false);
        };
        let key = std::str::from_utf8(&pem).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
        Ok(key.is_some_and(|key| {
            *certificate.public_key().subject_public_key.data == *rcgen::PublicKeyData::der_bytes(&key)
        }))
    }

    fn ca_key_path(&self) -> PathBuf {
        self.directory.join("ca.key")
    }

    /// The CA, made when it is not there.
    fn issuer(&self, now_s: u64) -> Result<Issuer<'static, KeyPair>, CertificateError> {
        let (certificate_path, key_path) = (self.ca_path(), self.ca_key_path());
        let certificate = files::read_if_there(&certificate_path).map_err(at(&certificate_path))?;
        let key = files::read_if_there(&key_path).map_err(at(&key_path))?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => {
                let key = KeyPair::from_pem(&text(&key_path, key)?)
                    .map_err(|error| unusable(&key_path, &error))?;
                Issuer::from_ca_cert_pem(&text(&certificate_path, certificate)?, key)
                    .map_err(|error| unusable(&certificate_path, &error))
            }
            // The key is written first: with the key alone the certificate was never given to anybody.
            (None, _) => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                let params = ca_params(&key, now_s)?;
                let certificate = params.self_signed(&key)?;
                write(&key_path, key.serialize_pem().as_bytes(), Readers::Owner)?;
                write(&certificate_path, certificate.pem().as_bytes(), Readers::All)?;
                Ok(Issuer::new(params, key))
            }
            (Some(_), None) => Err(CertificateError::Content {
                path: key_path,
                reason: "is missing, but clients may trust the ca.pem beside it: put the key back, or remove ca.pem and \
                         server.pem to start with a new CA"
                    .into(),
            }),
        }
    }

    /// Issue the server's certificate. Its key stays the same, so that one rename changes all.
    fn issue(
        &self,
        issuer: &Issuer<'static, KeyPair>,
        names: &[Name],
        now_s: u64,
    ) -> Result<(), CertificateError> {
        let key_path = self.server_key_path();
        let old = files::read_if_there(&key_path).map_err(at(&key_path))?;
        let old = old.and_then(|pem| KeyPair::from_pem(std::str::from_utf8(&pem).ok()?).ok());
        let key = match old {
            Some(key) => key,
            None => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                write(&key_path, key.serialize_pem().as_bytes(), Readers::Owner)?;
                key
            }
        };
        let certificate = server_params(names, now_s)?.signed_by(&key, issuer)?;
        write(&self.server_path(), certificate.pem().as_bytes(), Readers::All)
    }
}

/// When a certificate ends, seconds since 1970; none when it cannot be read.
pub fn end_s(pem: &[u8]) -> Option<i64> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn covered_names(certificate: &X509Certificate<'_>) -> BTreeSet<Name> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return BTreeSet::new() };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(Name::Host(name.to_ascii_lowercase())),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| Name::Address(bytes.into())),
                16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| Name::Address(bytes.into())),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

fn ca_params(key: &KeyPair, now_s: u64) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::default();
    // The tail of the key makes the name one of a kind: clients choose among CAs by name.
    let public = rcgen::PublicKeyData::der_bytes(key);
    let tail: String = public[public.len() - 6..].iter().map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Corehub");
    params.distinguished_name.push(DnType::CommonName, format!("Corehub CA {tail}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now_s, CA_VALID_S);
    Ok(params)
}

fn server_params(names: &[Name], now_s: u64) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // A common name is limited to 64 characters and only decoration: clients look at the alternative names.
    let shown = names.iter().map(Name::to_string).find(|name| name.len() <= 64);
    params.distinguished_name.push(DnType::CommonName, shown.unwrap_or_else(|| "corehub".into()));
    let unique: BTreeSet<&Name> = names.iter().collect();
    for name in unique {
        params.subject_alt_names.push(match name {
            Name::Host(name) => SanType::DnsName(name.clone().try_into()?),
            Name::Address(address) => SanType::IpAddress(*address),
        });
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, now_s, SERVER_VALID_S);
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, now_s: u64, valid_s: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + std::time::Duration::from_secs(now_s.saturating_sub(BACKDATE_S));
    params.not_after = epoch + std::time::Duration::from_secs(now_s + valid_s);
}

fn at(path: &Path) -> impl Fn(io::Error) -> CertificateError {
    move |source| CertificateError::File { path: path.to_path_buf(), source }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(at(path))
}

fn write(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), CertificateError> {
    files::replace(path, bytes, readers).map_err(at(path))
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, CertificateError> {
    String::from_utf8(bytes)
        .map_err(|_| CertificateError::Content { path: path.to_path_buf(), reason: "not a PEM file".into() })
}

fn unusable(path: &Path, error: &rcgen::Error) -> CertificateError {
    CertificateError::Content { path: path.to_path_buf(), reason: format!("cannot be used: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_790_000_000;

    fn names(texts: &[&str]) -> Vec<Name> {
        texts.iter().map(|text| Name::parse(text).unwrap()).collect()
    }

    fn fresh() -> (tempfile::TempDir, Certificates) {
        let directory = tempfile::tempdir().unwrap();
        let certificates = Certificates::new(directory.path().join("tls"));
        (directory, certificates)
    }

    #[test]
    fn names_are_hosts_or_addresses() {
        assert_eq!(Name::parse("Plant.Example").unwrap(), Name::Host("plant.example".into()));
        assert_eq!(Name::parse("127.0.0.1").unwrap(), Name::Address([127, 0, 0, 1].into()));
        assert_eq!(Name::parse("[::1]").unwrap(), Name::parse("::1").unwrap());
        for bad in ["", "a..b", "a b", "host:443", "ümlaut", &"a".repeat(64)] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn is_issued_again_only_when_it_must() {
        let (_directory, certificates) = fresh();
        let here = names(&["localhost", "127.0.0.1"]);
        assert_eq!(certificates.prepare(&here, NOW_S).unwrap(), Prepared::First);
        let first = certificates.load().unwrap();
        let ca = std::fs::read(certificates.ca_path()).unwrap();

        assert_eq!(certificates.prepare(&here, NOW_S + 300 * DAY_S).unwrap(), Prepared::Unchanged);
        let swapped = names(&["127.0.0.1", "localhost"]);
        assert_eq!(certificates.prepare(&swapped, NOW_S).unwrap(), Prepared::Unchanged);
        assert_eq!(certificates.load().unwrap(), first);

        let more = names(&["hub.example", "localhost", "127.0.0.1", "::1"]);
        assert_eq!(certificates.prepare(&more, NOW_S).unwrap(), Prepared::NamesChanged);
        let (chain, key) = certificates.load().unwrap();
        assert_ne!(chain, first.0);
        assert_eq!(key, first.1, "the key stays, so that certificate and key never part");
        assert_eq!(end_s(&chain), Some((NOW_S + SERVER_VALID_S) as i64));

        let late_s = NOW_S + SERVER_VALID_S - SERVER_RENEW_S + 1;
        assert_eq!(certificates.prepare(&more, late_s).unwrap(), Prepared::Renewed);
        assert_eq!(certificates.prepare(&more, late_s).unwrap(), Prepared::Unchanged);
        assert_eq!(std::fs::read(certificates.ca_path()).unwrap(), ca, "clients' trust is not touched");
    }

    #[test]
    fn a_certificate_that_lost_its_key_is_issued_again() {
        let (_directory, certificates) = fresh();
        let here = names(&["localhost"]);
        certificates.prepare(&here, NOW_S).unwrap();
        std::fs::remove_file(certificates.server_key_path()).unwrap();
        assert_eq!(certificates.prepare(&here, NOW_S).unwrap(), Prepared::Renewed);
        assert_eq!(certificates.prepare(&here, NOW_S).unwrap(), Prepared::Unchanged);
    }

    #[test]
    fn a_foreign_certificate_is_left_alone() {
        let (_one, ours) = fresh();
        let (_two, theirs) = fresh();
        ours.prepare(&names(&["localhost"]), NOW_S).unwrap();
        theirs.prepare(&names(&["hub.example"]), NOW_S).unwrap();
        std::fs::copy(theirs.server_path(), ours.server_path()).unwrap();
        std::fs::copy(theirs.server_key_path(), ours.server_key_path()).unwrap();
        let before = ours.load().unwrap();
        let prepared = ours.prepare(&names(&["hub.example", "localhost"]), NOW_S).unwrap();
        assert_eq!(prepared, Prepared::Foreign { missing: names(&["localhost"]) });
        assert_eq!(ours.load().unwrap(), before);
    }

    #[test]
    fn a_lost_ca_key_is_said_and_nothing_is_overwritten() {
        let (_directory, certificates) = fresh();
        certificates.prepare(&names(&["localhost"]), NOW_S).unwrap();
        std::fs::remove_file(certificates.ca_key_path()).unwrap();
        std::fs::remove_file(certificates.server_path()).unwrap();
        let ca = std::fs::read(certificates.ca_path()).unwrap();
        let error = certificates.prepare(&names(&["localhost"]), NOW_S).unwrap_err();
        assert!(error.to_string().contains("put the key back"), "{error}");
        assert_eq!(std::fs::read(certificates.ca_path()).unwrap(), ca);
    }
}
