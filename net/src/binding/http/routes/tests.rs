//! What each first line is taken for.

use super::*;

fn parse(line: &str) -> Result<Route, u32> {
    let (method, target) = line.split_once(' ').unwrap();
    Route::parse(method, target, 4).map_err(|refused| refused.status.code)
}

fn id(text: &str) -> DeviceId {
    DeviceId::parse(text).unwrap()
}

#[test]
fn routes_of_the_client_packages() {
    let version = "?api-version=2021-04-12";
    assert_eq!(parse(&format!("PUT /devices/a{version}")), Ok(Route::PutDevice(id("a"))));
    assert_eq!(parse(&format!("GET /Devices/a{version}")), Ok(Route::GetDevice(id("a"))));
    assert_eq!(parse("DELETE /devices/a"), Ok(Route::DeleteDevice(id("a"))));
    assert_eq!(parse(&format!("GET /devices/{version}")), Ok(Route::ListDevices { count_max: 1000 }));
    assert_eq!(parse("GET /devices?TOP=5"), Ok(Route::ListDevices { count_max: 5 }));
    assert_eq!(parse("GET /statistics/Devices"), Ok(Route::DeviceStatistics));
    assert_eq!(parse("GET /statistics/service"), Ok(Route::ServiceStatistics));
    assert_eq!(parse("GET /consumergroups"), Ok(Route::ListGroups));
    assert_eq!(parse("PUT /consumerGroups/%24Default"), Ok(Route::PutGroup("$Default".into())));
    assert_eq!(parse("DELETE /consumerGroups/g"), Ok(Route::DeleteGroup("g".into())));
    assert_eq!(parse("GET /consumerGroups/g/checkpoints"), Ok(Route::ListCheckpoints("g".into())));
    let checkpoint = Route::PutCheckpoint("g".into(), PartitionId(3));
    assert_eq!(parse("PUT /consumerGroups/g/checkpoints/3"), Ok(checkpoint));
    let policy = |route: fn(String) -> PolicyRoute| Ok(Route::Policy(route("service".into())));
    assert_eq!(parse("GET /policies"), Ok(Route::Policy(PolicyRoute::List)));
    assert_eq!(parse("PUT /policies/service"), policy(PolicyRoute::Put));
    assert_eq!(parse("DELETE /policies/service"), policy(PolicyRoute::Delete));
    assert_eq!(parse("POST /Policies/service/Keys/Regenerate"), policy(PolicyRoute::Renew));
    assert_eq!(parse("GET /messages/servicebound/Feedback/"), Ok(Route::ReceiveReceipts));
    assert_eq!(parse("GET /policies/service"), Ok(Route::Policy(PolicyRoute::Get("service".into()))));
}

#[test]
fn ids_are_decoded_once_and_lead_nowhere_else() {
    assert_eq!(parse("GET /devices/%23%3F%25"), Ok(Route::GetDevice(id("#?%"))));
    assert_eq!(parse("GET /devices/%252e"), Ok(Route::GetDevice(id("%2e"))));
    assert_eq!(parse("GET /devices/a+b"), Ok(Route::GetDevice(id("a+b"))));
    assert_eq!(parse("GET /devices/.."), Ok(Route::GetDevice(id(".."))));
    assert_eq!(parse("GET /devices/%2e%2e"), Ok(Route::GetDevice(id(".."))));
    assert_eq!(parse("GET /devices/..%2fpolicies%2fservice"), Err(400_004));
    assert_eq!(parse("GET /devices/a%00"), Err(400_004));
    assert_eq!(parse("GET /devices/a%20b"), Err(400_004));
    assert_eq!(parse("GET /devices/a%2"), Err(400_004));
    assert_eq!(parse("GET /devices/a%ff"), Err(400_004));
    assert_eq!(parse("GET /devices/../policies/service"), Err(404_000));
    assert_eq!(parse("GET /devices//"), Err(400_004));
    assert_eq!(parse(&format!("GET /devices/{}", "x".repeat(129))), Err(400_004));
    assert_eq!(parse("GET /DEVICES%2fa"), Err(404_000));
}

#[test]
fn everything_else_is_not_there() {
    for line in [
        "GET /",
        "GET /nothing",
        "GET /devices/a/b",
        "GET /devices/a/messages/devicebound/x/y",
        "GET /consumerGroups/g/checkpoints/0/x",
        "GET /policies/service/keys",
        "GET /messages/serviceBound/filenotifications",
    ] {
        assert_eq!(parse(line), Err(404_000), "{line}");
    }
    for line in [
        "POST /devices/a",
        "GET /devices/a/commands",
        "POST /devices/a/messages/devicebound",
        "GET /devices/a/messages/devicebound/x",
        "DELETE /devices",
        "PUT /policies",
        "POST /policies/service",
        "GET /policies/service/keys/regenerate",
        "DELETE /messages/serviceBound/feedback",
        "HEAD /devices/a",
        "put /devices/a",
        "DELETE /consumerGroups/g/checkpoints/1",
    ] {
        assert_eq!(parse(line), Err(405_000), "{line}");
    }
    for partition in ["4", "-1", "+1", "x", "", "65536"] {
        let expected = if partition.is_empty() { Err(405_000) } else { Err(404_003) };
        assert_eq!(parse(&format!("PUT /consumerGroups/g/checkpoints/{partition}")), expected);
    }
    for top in ["0", "1001", "-1", "x", ""] {
        assert_eq!(parse(&format!("GET /devices?top={top}")), Err(400_004), "{top}");
    }
    assert_eq!(parse("GET *"), Err(400_004));
}

#[test]
fn routes_of_devices() {
    assert_eq!(
        parse("POST /devices/a/messages/events?api-version=2021-04-12"),
        Ok(Route::SendEvents(id("a")))
    );
    assert_eq!(parse("POST /DEVICES/A/MESSAGES/EVENTS/"), Ok(Route::SendEvents(id("A"))));
    assert_eq!(parse("GET /devices/a/messages/events"), Err(405_000));
    assert_eq!(parse("POST /devices/a/messages"), Err(404_000));
    assert_eq!(parse("POST /devices/a/messages/events/b"), Err(404_000));
    assert_eq!(parse("POST /devices/a%2fmessages%2fevents"), Err(405_000));
}

#[test]
fn routes_of_commands() {
    let lock = "01000200-0000-0000-0300-000000000000";
    let token = engine::request::LockToken::parse(lock).unwrap();
    let settle = |settlement| Ok(Route::SettleCommand(id("a"), token, settlement));
    let bound = "/devices/a/messages/deviceBound";
    assert_eq!(parse(&format!("GET {bound}?api-version=2021-04-12")), Ok(Route::ReceiveCommand(id("a"))));
    assert_eq!(parse(&format!("DELETE {bound}/{lock}?api-version=2021-04-12")), settle(Settlement::Complete));
    assert_eq!(
        parse(&format!("DELETE {bound}/{lock}?api-version=2021-04-12&reject")),
        settle(Settlement::Reject)
    );
    assert_eq!(parse(&format!("DELETE {bound}/%22{lock}%22?reject=")), settle(Settlement::Reject));
    assert_eq!(parse(&format!("POST {bound}/{lock}/abandon")), settle(Settlement::Abandon));
    assert_eq!(parse(&format!("DELETE {bound}/nonsense")), Err(412_002));
    assert_eq!(parse("DELETE /devices/a/commands"), Ok(Route::PurgeCommands(id("a"))));
}

#[test]
fn lists_and_queries() {
    assert_eq!(parse("POST /devices?api-version=2021-04-12"), Ok(Route::ChangeDevices));
    assert_eq!(parse("POST /devices/"), Ok(Route::ChangeDevices));
    assert_eq!(parse("POST /devices/query?api-version=2021-04-12"), Ok(Route::Query));
    assert_eq!(parse("GET /devices/query"), Ok(Route::GetDevice(id("query"))));
}
