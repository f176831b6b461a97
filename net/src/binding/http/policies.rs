//! Shared access policies, for the administrator alone, in the shape of Azure's resource manager.

use engine::request::{KeyWish, PolicyDraft, PolicyRequest, PolicyView, Request};
use registry::{PolicyName, Rights};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::invalid;
use super::identity::{read_key, read_object};
use super::keys::Which;
use crate::binding::status::Status;

/// The rights and their names.
const RIGHTS: [(Rights, &str); 4] = [
    (Rights::REGISTRY_READ, "RegistryRead"),
    (Rights::REGISTRY_WRITE, "RegistryWrite"),
    (Rights::SERVICE_CONNECT, "ServiceConnect"),
    (Rights::DEVICE_CONNECT, "DeviceConnect"),
];

/// What a request about policies asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PolicyRoute {
    /// `GET /policies`.
    List,
    /// `GET /policies/{name}`.
    Get(String),
    /// `PUT /policies/{name}`.
    Put(String),
    /// `POST /policies/{name}/keys/regenerate`.
    Renew(String),
    /// `DELETE /policies/{name}`.
    Delete(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WishedPolicy {
    rights: Option<String>,
    primary_key: Option<String>,
    secondary_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WishedRenewal {
    policy_key: Which,
}

impl PolicyRoute {
    /// The path below the host.
    pub(super) fn resource(&self) -> Vec<&str> {
        match self {
            Self::List => vec!["policies"],
            Self::Get(name) | Self::Put(name) | Self::Renew(name) | Self::Delete(name) => {
                vec!["policies", name]
            }
        }
    }

    /// What to ask the engine.
    pub(super) fn question(self, body: &[u8]) -> Result<Request, Status> {
        let parse = |name: &str| PolicyName::parse(name).map_err(|error| invalid(error.to_string()));
        Ok(Request::Policy(match self {
            Self::List => PolicyRequest::List,
            Self::Get(name) => PolicyRequest::Find { name },
            Self::Delete(name) => PolicyRequest::Delete { name },
            Self::Put(name) => {
                let wish: WishedPolicy = read_object(body)?;
                let key = |text| Ok::<_, Status>(read_key(text)?.map_or(KeyWish::Keep, KeyWish::Given));
                PolicyRequest::Put(PolicyDraft {
                    name: parse(&name)?,
                    rights: wish.rights.as_deref().map(read_rights).transpose()?,
                    primary_key: key(wish.primary_key)?,
                    secondary_key: key(wish.secondary_key)?,
                })
            }
            Self::Renew(name) => {
                let wish: WishedRenewal = read_object(body)?;
                let (primary_key, secondary_key) = match wish.policy_key {
                    Which::Primary => (KeyWish::New, KeyWish::Keep),
                    Which::Secondary => (KeyWish::Keep, KeyWish::New),
                };
                PolicyRequest::Put(PolicyDraft {
                    name: parse(&name)?,
                    rights: None,
                    primary_key,
                    secondary_key,
                })
            }
        }))
    }
}

/// Read names of rights with commas between them. The empty text is no right.
fn read_rights(text: &str) -> Result<Rights, Status> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.into_iter().try_fold(Rights::NONE, |rights, word| {
        let known = RIGHTS.iter().find(|(_, name)| name.eq_ignore_ascii_case(word));
        let (right, _) = known.ok_or_else(|| {
            invalid("rights are RegistryRead, RegistryWrite, ServiceConnect and DeviceConnect")
        })?;
        Ok(rights | *right)
    })
}

/// A policy as it is told.
pub(super) fn policy_json(policy: &PolicyView) -> Value {
    let held = RIGHTS.iter().filter(|(right, _)| policy.rights.contains(*right)).map(|(_, name)| *name);
    json!({
        "keyName": policy.name.as_str(),
        "rights": held.collect::<Vec<_>>().join(", "),
        "primaryKey": policy.keys.primary.to_base64(),
        "secondaryKey": policy.keys.secondary.to_base64(),
    })
}
