//! SASL PLAIN as IoT Hub and Event Hubs clients fill it in [IoT Hub: iot-hub-amqp-support].

use engine::request::{Grant, Principal, SecretText};
use net_amqp::sasl::PlainResponse;
use percent_encoding::percent_decode_str;
use registry::{DeviceId, Rights, audience};

/// The mechanisms offered, in IoT Hub's order. EXTERNAL is absent until devices can have certificates.
pub const MECHANISMS: [&str; 3] = ["MSSBCBS", "ANONYMOUS", "PLAIN"];

/// Who says it is, by the user name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// `<device id>@sas.<hub>`, `<device id>@<hub>`: the ids that the name may mean, the likelier first.
    Device(Vec<DeviceId>),
    /// `<policy>@sas.root.<hub>`, `<policy>@root.<hub>`, `<policy>`.
    Policy(String),
}

/// What PLAIN carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Who.
    pub user: User,
    /// The token or the key.
    pub password: Password,
}

/// How the user proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// A SAS token.
    Token(SecretText),
    /// The text of a key.
    Key(SecretText),
}

/// The response is not what PLAIN has [RFC 4616], or names nobody that may exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPlain;

impl Plain {
    /// Read a response: authorization id, NUL, user name, NUL, password. What stands behind the `@` names the hub in
    /// several ways and is not compared: a client may know the hub by another name.
    pub fn parse(response: &[u8]) -> Result<Self, InvalidPlain> {
        let PlainResponse { user, password, .. } = PlainResponse::parse(response).ok_or(InvalidPlain)?;
        let user = User::parse(user)?;
        let password = match password.starts_with("SharedAccessSignature ") {
            true => Password::Token(SecretText::new(password)),
            false => Password::Key(SecretText::new(password)),
        };
        Ok(Self { user, password })
    }
}

impl User {
    fn parse(name: &str) -> Result<Self, InvalidPlain> {
        let Some((local, scope)) = name.rsplit_once('@') else { return Self::policy(name) };
        let scope = scope.strip_prefix("sas.").unwrap_or(scope);
        if scope.starts_with("root.") {
            return Self::policy(local);
        }
        let raw = DeviceId::parse(local).ok();
        let decoded = percent_decode_str(local).decode_utf8().ok();
        let decoded = decoded.filter(|text| text != local).and_then(|text| DeviceId::parse(&text).ok());
        let ids: Vec<DeviceId> = raw.into_iter().chain(decoded).collect();
        if ids.is_empty() { Err(InvalidPlain) } else { Ok(Self::Device(ids)) }
    }

    fn policy(name: &str) -> Result<Self, InvalidPlain> {
        if name.is_empty() { Err(InvalidPlain) } else { Ok(Self::Policy(name.to_owned())) }
    }

    /// Whether a grant, verified from the password, is this user's: a token of one device does not log another one in.
    pub fn owns(&self, grant: &Grant) -> bool {
        match (self, &grant.principal) {
            (Self::Policy(name), Principal::Policy { name: owner, .. }) => {
                owner.as_str().eq_ignore_ascii_case(name)
            }
            (Self::Policy(_), Principal::Device { .. }) => false,
            (Self::Device(ids), Principal::Device { device, .. }) => ids.contains(device),
            (Self::Device(ids), Principal::Policy { rights, .. }) => {
                let covers = |id: &DeviceId| audience::covers(&grant.resource, &["devices", id.as_str()]);
                rights.contains(Rights::DEVICE_CONNECT) && ids.iter().any(covers)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Result<User, InvalidPlain> {
        Plain::parse(format!("\0{name}\0c2VjcmV0").as_bytes()).map(|plain| plain.user)
    }

    fn device(ids: &[&str]) -> Result<User, InvalidPlain> {
        Ok(User::Device(ids.iter().map(|id| DeviceId::parse(id).unwrap()).collect()))
    }

    fn policy(name: &str) -> Result<User, InvalidPlain> {
        Ok(User::Policy(name.to_owned()))
    }

    #[test]
    fn user_names_of_every_form() {
        assert_eq!(parse("dev-1@sas.plant7"), device(&["dev-1"]));
        assert_eq!(parse("dev-1@plant7"), device(&["dev-1"]));
        assert_eq!(parse("d@1@sas.plant7"), device(&["d@1"]));
        assert_eq!(parse("a%2Bb@sas.plant7"), device(&["a%2Bb", "a+b"]));
        assert_eq!(parse("service@sas.root.plant7"), policy("service"));
        assert_eq!(parse("service@root.plant7"), policy("service"));
        assert_eq!(parse("iothubowner"), policy("iothubowner"));
        assert_eq!(parse("d/modules/m@sas.plant7"), Err(InvalidPlain));
        assert_eq!(parse("@sas.plant7"), Err(InvalidPlain));
        assert_eq!(parse(""), Err(InvalidPlain));
    }

    #[test]
    fn a_response_has_three_parts() {
        for bad in [&b""[..], b"user", b"\0user", b"\0user\0pass\0more", b"\0us\xffer\0pass"] {
            assert_eq!(Plain::parse(bad), Err(InvalidPlain));
        }
        let token = Plain::parse(b"\0d@sas.h\0SharedAccessSignature sr=x").unwrap();
        assert_eq!(token.password, Password::Token(SecretText::new("SharedAccessSignature sr=x")));
        assert!(!format!("{token:?}").contains("sr=x"));
    }
}
