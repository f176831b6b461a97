//! Every address with every kind of credential, by `$cbs` and by SASL PLAIN: exactly those come in that may.

use engine::request::{IfMatch, Reply, Request};
use net_amqp::SaslRole;
use net_amqp::condition::{NOT_ALLOWED, NOT_FOUND, NOT_IMPLEMENTED, UNAUTHORIZED_ACCESS};
use net_amqp::sasl::plain_response;
use registry::{DeviceId, DeviceStatus};
use segment_log::storage::sim::SimDisk;

use super::hub::{Hub, START_S, config};
use crate::binding::credentials::{Credential, DEVICES, SECOND_LIFE, credentials};

/// Which way a link goes, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Sends,
    Receives,
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Whose {
    Device,
    Service,
    /// Nobody's: whoever has a token that is good is told this.
    Nobody(&'static str),
}

/// `{d}` is the device that the bearer says to be.
const PLACES: [(Way, &str, Whose); 22] = [
    (Way::Sends, "/devices/{d}/messages/events", Whose::Device),
    (Way::Receives, "/devices/{d}/messages/devicebound", Whose::Device),
    (Way::Sends, "/messages/devicebound", Whose::Service),
    (Way::Receives, "/messages/serviceBound/feedback", Whose::Service),
    (Way::Receives, "plant7/ConsumerGroups/$Default/Partitions/0", Whose::Service),
    (Way::Receives, "messages/events/ConsumerGroups/$Default/Partitions/1", Whose::Service),
    (Way::Sends, "$management", Whose::Service),
    (Way::Receives, "$management", Whose::Service),
    (Way::Receives, "/devices/{d}/messages/events", Whose::Nobody(NOT_ALLOWED)),
    (Way::Sends, "/devices/{d}/messages/devicebound", Whose::Nobody(NOT_ALLOWED)),
    (Way::Receives, "/messages/devicebound", Whose::Nobody(NOT_ALLOWED)),
    (Way::Sends, "/messages/serviceBound/feedback", Whose::Nobody(NOT_ALLOWED)),
    (Way::Sends, "/devices/{d}/twin", Whose::Device),
    (Way::Receives, "/devices/{d}/twin", Whose::Device),
    (Way::Sends, "/devices/{d}/methods/devicebound", Whose::Device),
    (Way::Receives, "/devices/{d}/methods/devicebound", Whose::Nobody(NOT_IMPLEMENTED)),
    (Way::Sends, "/devices/{d}/modules/m/messages/events", Whose::Nobody(NOT_IMPLEMENTED)),
    (Way::Receives, "/devices/{d}/modules/m/messages/devicebound", Whose::Nobody(NOT_IMPLEMENTED)),
    (Way::Receives, "/messages/serviceBound/filenotifications", Whose::Nobody(NOT_IMPLEMENTED)),
    (Way::Receives, "/messages/operationsMonitoringEvents", Whose::Nobody(NOT_IMPLEMENTED)),
    (Way::Sends, "plant7", Whose::Nobody(NOT_ALLOWED)),
    (Way::Sends, "/devices/{d}/elsewhere", Whose::Nobody(NOT_FOUND)),
];

fn hub() -> Hub {
    let mut config = config(2, 4 << 20, 256 << 10);
    config.access.host_names = vec!["plant7.example".to_owned()];
    let mut hub = Hub::open(SimDisk::new(1), config, START_S * 1000);
    for (id, number) in DEVICES {
        hub.create_device(id, number);
    }
    hub.update_device("disabled", 12, DeviceStatus::Disabled);
    for id in ["deleted", "recreated"] {
        let device = DeviceId::parse(id).unwrap();
        let reply = hub.ask(Request::DeleteDevice { device, if_match: IfMatch::Any });
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }
    hub.create_device("recreated", SECOND_LIFE);
    hub
}

/// Hold what a connection opens against the table.
fn check(hub: &mut Hub, wire: usize, who: &Credential, how: &str) {
    for (way, address, whose) in PLACES {
        let address = address.replace("{d}", who.device);
        let found = match way {
            Way::Sends => hub.attach_sender(wire, &address),
            Way::Receives => hub.attach_receiver(wire, &address),
        };
        let found = found.map(|_| ()).map_err(|(condition, _)| condition);
        let expected = match whose {
            _ if !who.is_good => Err(UNAUTHORIZED_ACCESS),
            Whose::Device if who.opens_device => Ok(()),
            Whose::Service if who.opens_service => Ok(()),
            Whose::Device | Whose::Service => Err(UNAUTHORIZED_ACCESS),
            Whose::Nobody(condition) => Err(condition),
        };
        assert_eq!(found, expected.map_err(str::to_owned), "{way:?} {address} by {} {how}", who.what);
    }
}

#[test]
fn every_address_with_every_credential() {
    let mut hub = hub();
    for who in credentials(START_S) {
        let wire = hub.connect();
        if let Some(token) = &who.token {
            let (status, _) = hub.put_token(wire, token);
            assert_eq!(status, if who.is_good { 200 } else { 401 }, "{}", who.what);
        }
        check(&mut hub, wire, &who, "by $cbs");
    }
}

#[test]
fn every_address_with_every_credential_in_sasl_plain() {
    let mut hub = hub();
    for who in credentials(START_S) {
        let Some(token) = &who.token else { continue };
        let user = match who.policy {
            Some(policy) => format!("{policy}@sas.root.plant7"),
            None => format!("{}@sas.plant7", who.device),
        };
        let response = plain_response(&user, token);
        let wire = hub.accept_with(SaslRole::Choose { mechanism: "PLAIN", response });
        hub.run();
        // A token that is good, but another's, does not log its bearer in as this device.
        let may_log_in = who.is_good && (who.policy.is_some() || who.opens_device);
        assert_eq!(hub.wires[wire].closing.is_none(), may_log_in, "{}", who.what);
        if may_log_in {
            check(&mut hub, wire, &who, "in PLAIN");
        }
    }
}

/// The keys themselves, as the oldest clients send them.
#[test]
fn raw_keys_open_what_is_theirs() {
    let mut hub = hub();
    for (user, number, is_let_in) in [
        ("owner", 4, true),
        ("service@sas.root.plant7", 101, true),
        ("service", 4, false),
        ("Owner", 4, false),
        ("dev1@sas.plant7", 10, true),
        ("dev1@sas.plant7", 11, false),
        ("dev1@sas.plant7", 4, false),
        ("disabled@sas.plant7", 12, false),
        ("deleted@sas.plant7", 13, false),
        ("recreated@sas.plant7", 14, false),
        ("recreated@sas.plant7", SECOND_LIFE, true),
        ("service", 10, false),
    ] {
        let response = plain_response(user, &super::hub::key(number).to_base64());
        let wire = hub.accept_with(SaslRole::Choose { mechanism: "PLAIN", response });
        hub.run();
        assert_eq!(hub.wires[wire].closing.is_none(), is_let_in, "{user} with key {number}");
    }
}
