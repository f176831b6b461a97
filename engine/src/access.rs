//! Who may come in: tokens and keys to grants, and grants to sessions, each time against the identities as they are now.

use registry::{
    Device, DeviceId, DeviceKey, DeviceStatus, Policy, PolicyName, Rights, SasError, SasToken, Store,
    audience,
};

use crate::event::AuthMethod;
use crate::monitor::Claim;
use crate::request::{EngineError, Grant, Principal, UnauthorizedReason};

/// What tokens are held against, besides keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRules {
    /// Hosts that a token may be for, without ports, in lower case. Empty: any, as the key already says which hub.
    pub host_names: Vec<String>,
    /// How long after its expiry a token still counts, seconds, 0 to 300.
    pub token_skew_s: u64,
}

/// A refusal, and who it was that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Claimed, not proven.
    pub claim: Claim,
    /// Why.
    pub error: EngineError,
}

impl Refusal {
    fn unauthorized(claim: Claim, reason: UnauthorizedReason) -> Self {
        Self { claim, error: EngineError::Unauthorized(reason) }
    }
}

/// Verify a token.
pub(crate) fn verify_token(
    store: &Store,
    rules: &AccessRules,
    text: &str,
    now_s: u64,
) -> Result<Grant, Refusal> {
    let malformed = |_| Refusal::unauthorized(Claim::Nobody, UnauthorizedReason::Malformed);
    let token = SasToken::parse(text).map_err(malformed)?;
    let (claim, principal, keys, status) = match token.policy() {
        Some(name) => {
            let name = PolicyName::parse(name)
                .map_err(|_| Refusal::unauthorized(Claim::Nobody, UnauthorizedReason::Malformed))?;
            let claim = Claim::Policy(name);
            let policy = store
                .policy(token.policy().unwrap_or_default())
                .ok_or_else(|| Refusal::unauthorized(claim.clone(), UnauthorizedReason::Signature))?;
            (claim, policy_principal(policy), policy.keys.clone(), DeviceStatus::Enabled)
        }
        None => {
            let id = token.device().and_then(|id| DeviceId::parse(id).ok());
            let id = id.ok_or_else(|| Refusal::unauthorized(Claim::Nobody, UnauthorizedReason::Malformed))?;
            let claim = Claim::Device(id.clone());
            let device = find_device(store, &id, &claim)?;
            let device =
                device.ok_or_else(|| Refusal::unauthorized(claim.clone(), UnauthorizedReason::Signature))?;
            (claim, device_principal(&device), device.keys.clone(), device.status)
        }
    };
    token.verify_with_keys(&keys.both(), now_s, rules.token_skew_s).map_err(|error| {
        let reason = match error {
            SasError::Expired => UnauthorizedReason::Expired,
            SasError::Signature => UnauthorizedReason::Signature,
            _ => UnauthorizedReason::Malformed,
        };
        Refusal::unauthorized(claim.clone(), reason)
    })?;
    let host = &token.resource().host;
    if !rules.host_names.is_empty() && !rules.host_names.iter().any(|name| name.eq_ignore_ascii_case(host)) {
        return Err(Refusal::unauthorized(claim, UnauthorizedReason::NotCovered));
    }
    // Only the key's holder is told that the device is disabled.
    if status == DeviceStatus::Disabled {
        return Err(Refusal { claim, error: EngineError::DeviceDisabled });
    }
    Ok(Grant { principal, resource: token.resource().segments.clone(), expires_s: token.expires_s() })
}

/// Verify the text of a policy's key. The grant covers the whole hub and does not end by itself.
pub(crate) fn verify_policy_key(store: &Store, name: &str, key: &str) -> Result<Grant, Refusal> {
    let claim = PolicyName::parse(name).map_or(Claim::Nobody, Claim::Policy);
    let refused = || Refusal::unauthorized(claim.clone(), UnauthorizedReason::Signature);
    let policy = store.policy(name).ok_or_else(refused)?;
    match is_one_of(key, policy.keys.both()) {
        true => Ok(Grant { principal: policy_principal(policy), resource: Vec::new(), expires_s: u64::MAX }),
        false => Err(refused()),
    }
}

/// Verify the text of a device's key. The grant covers the device and does not end by itself.
pub(crate) fn verify_device_key(store: &Store, id: &DeviceId, key: &str) -> Result<Grant, Refusal> {
    let claim = Claim::Device(id.clone());
    let refused = || Refusal::unauthorized(claim.clone(), UnauthorizedReason::Signature);
    let device = find_device(store, id, &claim)?.ok_or_else(refused)?;
    if !is_one_of(key, device.keys.both()) {
        return Err(refused());
    }
    if device.status == DeviceStatus::Disabled {
        return Err(Refusal { claim, error: EngineError::DeviceDisabled });
    }
    let resource = vec!["devices".to_owned(), id.as_str().to_owned()];
    Ok(Grant { principal: device_principal(&device), resource, expires_s: u64::MAX })
}

/// Whether a grant still lets a device attach, now. What it gives besides the identity is how the device proved itself.
pub(crate) fn check_session(
    store: &Store,
    rules: &AccessRules,
    id: &DeviceId,
    grant: &Grant,
    now_s: u64,
) -> Result<(Device, AuthMethod), EngineError> {
    let unauthorized = |reason| Err(EngineError::Unauthorized(reason));
    if !audience::covers(&grant.resource, &["devices", id.as_str()]) {
        return unauthorized(UnauthorizedReason::NotCovered);
    }
    let auth = match &grant.principal {
        Principal::Device { device, .. } if device == id => AuthMethod::DeviceSas,
        Principal::Policy { rights, .. } if rights.contains(Rights::DEVICE_CONNECT) => AuthMethod::HubSas,
        _ => return unauthorized(UnauthorizedReason::NotCovered),
    };
    if now_s > grant.expires_s.saturating_add(rules.token_skew_s) {
        return unauthorized(UnauthorizedReason::Expired);
    }
    let device = store.device(id)?.ok_or(EngineError::DeviceNotFound)?;
    if let Principal::Device { generation, keys_version, .. } = &grant.principal
        && (*generation, *keys_version) != (device.generation, device.keys_version)
    {
        return unauthorized(UnauthorizedReason::Stale);
    }
    if device.status == DeviceStatus::Disabled {
        return Err(EngineError::DeviceDisabled);
    }
    Ok((device, auth))
}

fn find_device(store: &Store, id: &DeviceId, claim: &Claim) -> Result<Option<Device>, Refusal> {
    store.device(id).map_err(|error| Refusal { claim: claim.clone(), error: error.into() })
}

fn policy_principal(policy: &Policy) -> Principal {
    Principal::Policy { name: policy.name.clone(), rights: policy.rights }
}

fn device_principal(device: &Device) -> Principal {
    Principal::Device {
        device: device.id.clone(),
        generation: device.generation,
        keys_version: device.keys_version,
    }
}

/// Keys compare in constant time; both are always compared.
fn is_one_of(text: &str, keys: [&DeviceKey; 2]) -> bool {
    let Ok(presented) = DeviceKey::from_base64(text) else { return false };
    keys.into_iter().fold(false, |found, key| found | (*key == presented))
}
