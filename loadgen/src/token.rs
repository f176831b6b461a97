//! SAS tokens of a hub policy, as Azure IoT clients sign them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;

const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A policy's name and key, from a connection string. `Debug` leaves the key out.
#[derive(Clone)]
pub struct Credential {
    /// The host that tokens are for.
    pub host: String,
    policy: String,
    key: Vec<u8>,
}

impl Credential {
    /// Read `HostName=...;SharedAccessKeyName=...;SharedAccessKey=...`.
    pub fn parse(connection_string: &str) -> Result<Self, String> {
        let field = |name: &str| {
            connection_string
                .trim()
                .split(';')
                .filter_map(|part| part.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
                .ok_or_else(|| format!("the connection string has no {name}"))
        };
        let key = STANDARD
            .decode(field("SharedAccessKey")?)
            .map_err(|_| "the connection string's key is not base64".to_owned())?;
        Ok(Self { host: field("HostName")?, policy: field("SharedAccessKeyName")?, key })
    }

    /// A token for the whole hub, or for one device, that ends at `expires_s`, seconds since 1970.
    pub fn sign(&self, device: Option<&str>, expires_s: u64) -> String {
        let resource = match device {
            None => self.host.clone(),
            Some(device) => format!("{}/devices/{device}", self.host),
        };
        let resource = utf8_percent_encode(&resource, COMPONENT).to_string();
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        mac.update(format!("{resource}\n{expires_s}").as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        let signature = utf8_percent_encode(&signature, COMPONENT);
        format!("SharedAccessSignature sr={resource}&sig={signature}&se={expires_s}&skn={}", self.policy)
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credential").field("host", &self.host).finish_non_exhaustive()
    }
}
