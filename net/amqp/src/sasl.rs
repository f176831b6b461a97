//! The frames of the SASL layer, and PLAIN's response [AMQP 5.3, RFC 4616].

use crate::performative::{Fields, Symbols, code, describe, known_code};
use crate::value::{DecodeError, Decoder, encode};

/// The code of a SASL outcome [AMQP 5.3.3.6].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslCode {
    /// Authenticated.
    Ok = 0,
    /// The credentials are wrong.
    Auth = 1,
    /// A fault of the server.
    Sys = 2,
    /// The same, for good.
    SysPerm = 3,
    /// The same, for now.
    SysTemp = 4,
}

/// A frame of the SASL layer. Challenges and responses do not exist here: no mechanism in use needs them.
#[derive(Clone, Debug, PartialEq)]
pub enum SaslFrame<'a> {
    /// The server's offer.
    Mechanisms(Symbols<'a>),
    /// The client's choice.
    Init {
        /// The mechanism.
        mechanism: &'a str,
        /// Its initial response. Secret.
        initial_response: Option<&'a [u8]>,
        /// The host that the client means.
        hostname: Option<&'a str>,
    },
    /// The server's verdict.
    Outcome {
        /// Whether it is good.
        code: SaslCode,
        /// Whatever the mechanism adds.
        additional_data: Option<&'a [u8]>,
    },
}

impl<'a> SaslFrame<'a> {
    /// Decodes the body of a SASL frame.
    pub fn decode(body: &'a [u8]) -> Result<SaslFrame<'a>, DecodeError> {
        let mut decoder = Decoder::new(body);
        let code = known_code(decoder.descriptor()?).ok_or(DecodeError::UnexpectedDescriptor)?;
        let mut fields = Fields::decode(&mut decoder)?;
        Ok(match code {
            code::SASL_MECHANISMS => SaslFrame::Mechanisms(fields.symbols("sasl-server-mechanisms")?),
            code::SASL_INIT => SaslFrame::Init {
                mechanism: fields.symbol("mechanism")?.ok_or(DecodeError::MissingField("mechanism"))?,
                initial_response: fields.binary("initial-response")?,
                hostname: fields.string("hostname")?,
            },
            code::SASL_OUTCOME => SaslFrame::Outcome {
                code: match fields.ubyte("code")?.ok_or(DecodeError::MissingField("code"))? {
                    0 => SaslCode::Ok,
                    1 => SaslCode::Auth,
                    2 => SaslCode::Sys,
                    3 => SaslCode::SysPerm,
                    4 => SaslCode::SysTemp,
                    _ => return Err(DecodeError::WrongType("code")),
                },
                additional_data: fields.binary("additional-data")?,
            },
            _ => return Err(DecodeError::UnexpectedDescriptor),
        })
    }

    /// Appends the frame's body with all its fields. Mechanisms are always an array: uamqp takes nothing else.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            SaslFrame::Mechanisms(mechanisms) => {
                describe(out, code::SASL_MECHANISMS);
                let list = encode::begin_list(out);
                encode::symbol_array(out, mechanisms.iter());
                list.end(out, 1);
            }
            SaslFrame::Init { mechanism, initial_response, hostname } => {
                describe(out, code::SASL_INIT);
                let list = encode::begin_list(out);
                encode::symbol(out, mechanism);
                match initial_response {
                    Some(response) => encode::binary(out, response),
                    None => encode::null(out),
                }
                match hostname {
                    Some(hostname) => encode::string(out, hostname),
                    None => encode::null(out),
                }
                list.end(out, 3);
            }
            SaslFrame::Outcome { code, additional_data } => {
                describe(out, code::SASL_OUTCOME);
                let list = encode::begin_list(out);
                encode::ubyte(out, *code as u8);
                match additional_data {
                    Some(data) => encode::binary(out, data),
                    None => encode::null(out),
                }
                list.end(out, 2);
            }
        }
    }
}

/// PLAIN's initial response for a user and a password, without an authorization identity.
pub fn plain_response(user: &str, password: &str) -> Vec<u8> {
    [&[0], user.as_bytes(), &[0], password.as_bytes()].concat()
}

/// What PLAIN's initial response says. The password is secret: do not log it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PlainResponse<'a> {
    /// Who to act as; usually empty.
    pub authorization_id: &'a str,
    /// Who it is.
    pub user: &'a str,
    /// The password, a token or a key.
    pub password: &'a str,
}

impl<'a> PlainResponse<'a> {
    /// Takes the response apart: three texts, two NULs. `None` when it is anything else.
    pub fn parse(response: &'a [u8]) -> Option<PlainResponse<'a>> {
        let mut parts = std::str::from_utf8(response).ok()?.split('\0');
        let plain =
            PlainResponse { authorization_id: parts.next()?, user: parts.next()?, password: parts.next()? };
        parts.next().is_none().then_some(plain)
    }
}

impl std::fmt::Debug for PlainResponse<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainResponse").field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_has_three_parts() {
        let response = plain_response("device@sas.hub", "secret");
        let plain = PlainResponse::parse(&response).unwrap();
        assert_eq!((plain.authorization_id, plain.user, plain.password), ("", "device@sas.hub", "secret"));
        assert_eq!(PlainResponse::parse(b"\0user"), None);
        assert_eq!(PlainResponse::parse(b"\0user\0pass\0more"), None);
        assert!(!format!("{plain:?}").contains("secret"));
    }

    #[test]
    fn mechanisms_are_an_array_even_for_one() {
        let mut bytes = Vec::new();
        SaslFrame::Mechanisms(Symbols::Listed(&["PLAIN"])).encode(&mut bytes);
        assert_eq!(bytes[..3], [0x00, 0x53, 0x40]);
        assert!(matches!(
            SaslFrame::decode(&bytes),
            Ok(SaslFrame::Mechanisms(Symbols::Array(array))) if array.count() == 1
        ));
    }
}
