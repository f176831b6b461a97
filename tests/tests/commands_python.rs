//! The client package for Python, unchanged: azure-iot-hub sends commands.
#![forbid(unsafe_code)]

use std::time::Duration;

use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::types::messaging::MessageId;
use fe2o3_amqp::types::primitives::SimpleValue;
use serde_json::json;
use tests::amqp::{Peer, converse};
use tests::clients::Script;
use tests::commands::{body, next};
use tests::hub::Hub;
use tests::namespace::{Needs, run};

/// What an answer may take on a machine that builds at the same time.
const PATIENCE: Duration = Duration::from_secs(20);

/// The package writes the device's id raw into `to` and a whole number as ulong correlation id; the device gets text.
#[test]
fn commands_of_the_package_arrive_as_text() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let device = hub.service().create_device("Dev#1%");
        let Some(mut back_end) = Script::start("service.py", &hub) else { return };
        let connection_string = hub.policy_connection_string("service");
        back_end.ask("open", json!({ "connectionString": connection_string, "caFile": hub.ca_file() }));
        let properties = json!({
            "messageId": "m-1",
            "correlationId": 7,
            "contentType": "text/plain",
            "contentEncoding": "utf-8",
            "iothub-ack": "none",
            "unit": "C",
        });
        let messages = json!([{ "body": "open", "properties": properties }, { "body": "close" }]);
        back_end.ask("send", json!({ "device": "Dev#1%", "messages": messages }));
        let refused = back_end.try_ask("send", json!({ "device": "nobody", "messages": [{ "body": "x" }] }));
        assert!(refused.is_err(), "{refused:?}");
        converse(async {
            let mut peer = Peer::device(&hub, &device).await;
            let mut link =
                peer.commands("Dev#1%", CreditMode::Auto(5)).await.expect("the device may receive");
            let first = next(&mut link, PATIENCE).await.expect("it was sent");
            let properties = first.message().properties.clone().expect("properties");
            assert_eq!(properties.message_id, Some(MessageId::String("m-1".to_owned())));
            assert_eq!(properties.correlation_id, Some(MessageId::String("7".to_owned())));
            assert_eq!(
                properties.content_type.map(|symbol| symbol.to_string()).as_deref(),
                Some("text/plain")
            );
            assert_eq!(properties.to.as_deref(), Some("/devices/Dev#1%/messages/devicebound"));
            let application = first.message().application_properties.clone().expect("properties");
            assert_eq!(application.get("unit"), Some(&SimpleValue::String("C".to_owned())));
            let second = next(&mut link, PATIENCE).await.expect("it was sent");
            assert_eq!([body(&first), body(&second)], ["open", "close"]);
            link.accept(&first).await.expect("the link stands");
            link.accept(&second).await.expect("the link stands");
            peer.close().await;
        });
    });
}
