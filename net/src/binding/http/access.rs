//! Who asks, by the `Authorization` header of each request, and whether that is enough.

use engine::monitor::Protocol;
use engine::placement::{HUB_PARTITION, device_partition};
use engine::request::{Attested, Grant, Principal, Request, SecretText};
use registry::{DeviceId, Rights, SasToken, audience};

use crate::binding::HubInfo;
use crate::binding::http::answer::{unauthenticated, unauthorized};
use crate::binding::http::routes::{Needs, Route};
use crate::binding::status::Status;

/// Who asks, once it is known.
#[derive(Clone, Debug)]
pub(super) enum Who {
    /// The administrator of this run.
    Administrator,
    /// The holder of a verified token.
    Granted(Grant),
    /// A device that its enrolment lets register.
    Attested(Box<Attested>),
}

impl Who {
    /// What a device's request rests on. The administrator is no device.
    pub(super) fn of_device(self) -> Result<Grant, Status> {
        match self {
            Self::Granted(grant) => Ok(grant),
            Self::Administrator | Self::Attested(_) => Err(unauthorized()),
        }
    }
}

/// What the header says.
#[derive(Debug)]
pub(super) enum Access {
    /// The administrator of this run.
    Administrator,
    /// A token, to be verified by this question.
    Token(Request),
}

impl Access {
    /// Read `SharedAccessSignature ...` or `Bearer ...`. A token is read only as far as it takes to find who verifies it.
    pub(super) fn read(header: Option<&SecretText>, hub: &HubInfo) -> Result<Self, Status> {
        let text = header.ok_or_else(|| unauthenticated("the request has no Authorization field"))?.reveal();
        if let Some((scheme, token)) = text.split_once(' ')
            && scheme.eq_ignore_ascii_case("Bearer")
        {
            return match hub.is_administrator(token.trim()) {
                true => Ok(Self::Administrator),
                false => Err(unauthenticated("the bearer token is not this run's administration token")),
            };
        }
        let token = SasToken::parse(text).map_err(|_| unauthenticated("malformed token"))?;
        let partition = match token.policy() {
            Some(_) => HUB_PARTITION,
            None => {
                let id = token.device().and_then(|id| DeviceId::parse(id).ok());
                let id =
                    id.ok_or_else(|| unauthenticated("the token names neither a policy nor a device"))?;
                device_partition(&id, hub.partition_count)
            }
        };
        Ok(Self::Token(Request::Authenticate {
            partition,
            token: SecretText::new(text),
            protocol: Protocol::Https,
        }))
    }
}

/// Whether somebody who is known may ask for `route`.
pub(super) fn check(who: &Who, route: &Route) -> Result<(), Status> {
    match (who, route.registering()) {
        (Who::Granted(grant), _) => check_grant(grant, route),
        (Who::Attested(attested), Some(device)) if attested.registration == device.registration => Ok(()),
        (Who::Administrator, None) => Ok(()),
        _ => Err(unauthorized()),
    }
}

/// Whether the holder of a verified token may ask for `route`. What a device does is checked again by the engine, against its
/// identity as it is then.
fn check_grant(grant: &Grant, route: &Route) -> Result<(), Status> {
    let may = match (route.needs(), &grant.principal) {
        (Needs::Rights(needed), Principal::Policy { rights, .. }) => rights.contains(needed),
        (Needs::Device, Principal::Policy { rights, .. }) => rights.contains(Rights::DEVICE_CONNECT),
        (Needs::Device, Principal::Device { device, .. }) => route.device() == Some(device),
        _ => false,
    };
    let may = may && audience::covers(&grant.resource, &route.resource());
    if may { Ok(()) } else { Err(unauthorized()) }
}

#[cfg(test)]
mod tests {
    use engine::request::PartitionId;
    use registry::{DeviceKey, GenerationId, KeyForm, PolicyName, Rights, sas};

    use super::*;
    use crate::binding::http::policies::PolicyRoute;

    fn hub() -> HubInfo {
        HubInfo { administration_token: SecretText::new("the-token"), ..HubInfo::new("hub", "hub.test", 4) }
    }

    fn read(header: &str) -> Result<Access, Status> {
        Access::read(Some(&SecretText::new(header)), &hub())
    }

    #[test]
    fn tokens_go_to_whom_they_concern() {
        let key = DeviceKey::from_bytes(&[1; 32]).unwrap();
        let sign = |resource, policy| sas::sign(resource, &key, KeyForm::Decoded, 9, policy);
        let partition = |header: &str| match read(header) {
            Ok(Access::Token(Request::Authenticate { partition, .. })) => partition,
            other => panic!("{other:?}"),
        };
        assert_eq!(partition(&sign("hub.test", Some("service"))), PartitionId(0));
        let device = DeviceId::parse("pump-7").unwrap();
        assert_eq!(partition(&sign("hub.test/devices/pump-7", None)), device_partition(&device, 4));
        for bad in [
            &sign("hub.test", None),
            "SharedAccessSignature x",
            "Basic dXNlcg==",
            "",
            "Bearer",
            "Bearer wrong",
            "Bearer the-toke",
        ] {
            assert_eq!(read(bad).unwrap_err().http, 401, "{bad}");
        }
        assert!(matches!(read("bearer the-token"), Ok(Access::Administrator)));
        assert_eq!(Access::read(None, &hub()).unwrap_err().http, 401);
    }

    #[test]
    fn rights_and_resource_both_count() {
        let device = |text| DeviceId::parse(text).unwrap();
        let check = |rights, resource: &[&str], route: Route, expected: bool| {
            let principal = Principal::Policy { name: PolicyName::parse("p").unwrap(), rights };
            let resource = resource.iter().map(|segment| segment.to_string()).collect();
            let grant = Grant { principal, resource, expires_s: 0 };
            assert_eq!(check_grant(&grant, &route).is_ok(), expected, "{grant:?} {route:?}");
        };
        let get = || Route::GetDevice(device("dev1"));
        check(Rights::REGISTRY_READ, &[], get(), true);
        check(Rights::REGISTRY_WRITE, &[], get(), true);
        check(Rights::REGISTRY_READ, &["devices"], get(), true);
        check(Rights::REGISTRY_READ, &["devices", "dev1"], get(), true);
        check(Rights::REGISTRY_READ, &["devices", "dev1"], Route::GetDevice(device("dev10")), false);
        check(Rights::REGISTRY_READ, &["devices", "dev1"], Route::ListDevices { count_max: 1 }, false);
        check(Rights::REGISTRY_READ, &[], Route::PutDevice(device("dev1")), false);
        check(Rights::REGISTRY_READ, &[], Route::DeleteDevice(device("dev1")), false);
        check(Rights::SERVICE_CONNECT | Rights::DEVICE_CONNECT, &[], get(), false);
        check(Rights::SERVICE_CONNECT, &[], Route::ListGroups, true);
        check(Rights::REGISTRY_WRITE, &[], Route::PutGroup("g".into()), false);
        check(Rights::ALL, &[], Route::Policy(PolicyRoute::Get("service".into())), false);
        let principal =
            Principal::Device { device: device("dev1"), generation: GenerationId(1), keys_version: 1 };
        let grant = Grant { principal, resource: Vec::new(), expires_s: 0 };
        assert!(check_grant(&grant, &get()).is_err());
    }
}
