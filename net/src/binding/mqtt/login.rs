//! Who connects: what a CONNECT says of the device, its token and its will.

use engine::monitor::Protocol;
use engine::request::{EventView, UnauthorizedReason};
use net_mqtt::{Connect, ConnectCode};
use percent_encoding::percent_decode_str;
use registry::DeviceId;

use super::bag::{RETAIN_PROPERTY, WILL_PROPERTY, encode_event};
use super::topic::Target;
use crate::binding::presence::{Credentials, EventShape};
use crate::binding::{Context, Transport};

/// A CONNECT, read.
#[derive(Debug)]
pub struct Login {
    /// Who it says that it is, and how it proves it.
    pub credentials: Credentials,
    /// Whether its subscription of earlier connections is to be forgotten.
    pub clean_session: bool,
    /// What is published when the connection breaks.
    pub will: Option<Box<StoredWill>>,
}

/// How a connection's bytes travel, as the engine names it.
pub fn protocol(transport: Transport) -> Protocol {
    match transport {
        Transport::WebSocket => Protocol::MqttsWebSocket,
        Transport::Tls | Transport::Plain => Protocol::Mqtts,
    }
}

impl Login {
    /// Read a CONNECT: client id `{device}`, user name `{host}/{device}/?api-version=...`, a SAS token as password
    /// [IoT Hub: iot-mqtt-connect-to-iot-hub]. What the user name says of versions and kinds of clients is not needed.
    ///
    /// # Errors
    ///
    /// The code to refuse it with.
    pub fn read(connect: &Connect<'_>, hub: &Context<'_>) -> Result<Self, ConnectCode> {
        // A client id with a slash is a module's; this hub has none.
        if connect.client_id.contains('/') {
            return Err(ConnectCode::NotAuthorized);
        }
        let device = DeviceId::parse(connect.client_id).map_err(|_| ConnectCode::ClientId)?;
        if !connect.user_name.is_some_and(|text| names(text, &device)) {
            return Err(ConnectCode::BadCredentials);
        }
        let password = connect.password.ok_or(ConnectCode::NotAuthorized)?;
        let text = std::str::from_utf8(password).map_err(|_| ConnectCode::BadCredentials)?;
        let will = match &connect.will {
            None => None,
            Some(will) => match Target::of(will.topic, &device) {
                // Its quality of service says how it would be handed on to subscribers, which there are none of.
                Target::Telemetry { bag } => {
                    let will = StoredWill::new(bag, will.payload, will.retain);
                    Some(Box::new(will.ok_or(ConnectCode::NotAuthorized)?))
                }
                Target::Twin { .. } | Target::Foreign => return Err(ConnectCode::NotAuthorized),
            },
        };
        let protocol = protocol(hub.transport);
        let credentials = Credentials::with_token(device, text, protocol, hub.hub.partition_count);
        let credentials = credentials.map_err(|reason| match reason {
            UnauthorizedReason::Malformed => ConnectCode::BadCredentials,
            _ => ConnectCode::NotAuthorized,
        })?;
        Ok(Self { credentials, clean_session: connect.clean_session, will })
    }
}

/// Whether a user name is the device's. The id stands in it raw or percent-encoded. The host is the token's to prove.
fn names(user_name: &str, device: &DeviceId) -> bool {
    let Some((host, rest)) = user_name.split_once('/') else { return false };
    let id = rest.split_once('/').map_or(rest, |(id, _options)| id);
    let is_it =
        id == device.as_str() || percent_decode_str(id).eq(device.as_str().as_bytes().iter().copied());
    is_it && !host.is_empty()
}

/// A will as the event that it becomes.
#[derive(Debug)]
pub struct StoredWill {
    bytes: Vec<u8>,
    shape: EventShape,
}

impl StoredWill {
    /// None: its properties cannot be read.
    fn new(bag: &str, payload: &[u8], retain: bool) -> Option<Self> {
        let marks = [WILL_PROPERTY, RETAIN_PROPERTY];
        let mut bytes = Vec::new();
        let shape = encode_event(bag, payload, &marks[..1 + usize::from(retain)], &mut bytes).ok()?;
        bytes.shrink_to_fit();
        Some(Self { bytes, shape })
    }

    /// The event.
    pub fn view(&self) -> EventView<'_> {
        let (annotations, message) = self.bytes.split_at(self.shape.annotations_bytes);
        EventView { message, annotations, annotation_value_count: self.shape.annotation_value_count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_of_all_clients() {
        let check = |user_name: &str, id: &str, expected: bool| {
            assert_eq!(names(user_name, &DeviceId::parse(id).unwrap()), expected, "{user_name} {id}");
        };
        check("hub.test/d/?api-version=2021-04-12&DeviceClientType=node%2F1.0", "d", true);
        check("hub.test/d/api-version=2016-11-14", "d", true);
        check("hub.test/d", "d", true);
        check("hub.test/d/", "d", true);
        check("hub.test/a+b%25/?api-version=1", "a+b%25", true);
        check("hub.test/a%2Bb/?api-version=1", "a+b", true);
        check("hub.test/why?#/?api-version=1", "why?#", true);
        check("hub.test/d2/?api-version=1", "d", false);
        check("hub.test/D/?api-version=1", "d", false);
        check("hub.test/?api-version=1", "d", false);
        check("hub.test", "d", false);
        check("d", "d", false);
        check("/d/?api-version=1", "d", false);
        check("", "d", false);
    }
}
