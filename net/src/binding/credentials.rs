//! Every kind of credential, for the tables that hold each of them against every place where a token opens something.

use registry::{DeviceKey, DeviceKeys, KeyForm, Policy, PolicyName, Rights, sas};

/// The host that tokens are for.
pub const HOST: &str = "plant7.example";

/// A device's token and key are for this device where nothing else is said.
pub const DEVICE: &str = "dev1";

/// Devices and the numbers of their keys. `disabled` is to be disabled, `deleted` to be deleted, and `recreated` to be deleted and
/// made again with the keys of [`SECOND_LIFE`].
pub const DEVICES: [(&str, u8); 5] =
    [(DEVICE, 10), ("dev10", 11), ("disabled", 12), ("deleted", 13), ("recreated", 14)];

/// The number of the keys that `recreated` has in its second life.
pub const SECOND_LIFE: u8 = 15;

/// A credential, and what it opens.
pub struct Credential {
    /// Who it is.
    pub what: &'static str,
    /// None: nothing is shown.
    pub token: Option<String>,
    /// The policy that it names.
    pub policy: Option<&'static str>,
    /// The token itself is good.
    pub is_good: bool,
    /// Who its bearer says to be.
    pub device: &'static str,
    /// Whether it opens what is that device's.
    pub opens_device: bool,
    /// Whether it opens what is the back end's.
    pub opens_service: bool,
}

/// A key that is the same in every run.
pub fn key(number: u8) -> DeviceKey {
    DeviceKey::from_bytes(&[number; 32]).unwrap()
}

/// The policies that the credentials name.
pub fn policies() -> Vec<Policy> {
    let policy = |(name, rights, number): (&str, Rights, u8)| {
        let keys = DeviceKeys { primary: key(number), secondary: key(number + 100) };
        Policy { name: PolicyName::parse(name).unwrap(), rights, keys }
    };
    let table = [
        ("service", Rights::SERVICE_CONNECT, 1),
        ("device", Rights::DEVICE_CONNECT, 2),
        ("registryRead", Rights::REGISTRY_READ, 3),
        ("owner", Rights::ALL, 4),
        ("registryReadWrite", Rights::REGISTRY_WRITE, 5),
    ];
    table.into_iter().map(policy).collect()
}

/// All of them, for a hub whose clock says `now_s`.
pub fn credentials(now_s: u64) -> Vec<Credential> {
    let expires_s = now_s + 3600;
    let make = |what, token, policy, [is_good, opens_device, opens_service]: [bool; 3]| Credential {
        what,
        token,
        policy,
        is_good,
        device: DEVICE,
        opens_device,
        opens_service,
    };
    let sign = |resource: &str, number: u8, expires_s: u64, policy| {
        let resource = if resource.is_empty() { HOST.to_owned() } else { format!("{HOST}/{resource}") };
        sas::sign(&resource, &key(number), KeyForm::Decoded, expires_s, policy)
    };
    let of_policy = |what, resource: &str, number, name, opens| {
        make(what, Some(sign(resource, number, expires_s, Some(name))), Some(name), opens)
    };
    let of_device = |what, resource: &str, number, opens| {
        make(what, Some(sign(resource, number, expires_s, None)), None, opens)
    };
    let text = |what, token: &str| make(what, Some(token.to_owned()), None, [false; 3]);
    let own = "devices/dev1";
    let whole = of_device("", own, 10, [false; 3]).token.unwrap();
    let elsewhere = sas::sign("other.example", &key(4), KeyForm::Decoded, expires_s, Some("owner"));
    let of_text = sas::sign(&format!("{HOST}/{own}"), &key(10), KeyForm::Text, expires_s, None);
    let mut all = vec![
        make("nobody", None, None, [false; 3]),
        text("nonsense", "SharedAccessSignature x"),
        text("the token of administrators over HTTPS", "Bearer administrator"),
        of_policy("all rights", "", 4, "owner", [true; 3]),
        of_policy("the second key", "", 104, "owner", [true; 3]),
        of_policy("service connect", "", 1, "service", [true, false, true]),
        of_policy("device connect", "", 2, "device", [true, true, false]),
        of_policy("registry read", "", 3, "registryRead", [true, false, false]),
        of_policy("registry write", "", 5, "registryReadWrite", [true, false, false]),
        of_policy("device connect, for all devices", "devices", 2, "device", [true, true, false]),
        of_policy("device connect, for this device", own, 2, "device", [true, true, false]),
        of_policy("device connect, for another", "devices/dev10", 2, "device", [true, false, false]),
        of_policy("device connect, for a shorter name", "devices/dev", 2, "device", [true, false, false]),
        of_policy("all rights, for this device", own, 4, "owner", [true, true, false]),
        of_policy("all rights, for nothing here", "twins", 4, "owner", [true, false, false]),
        make("all rights, elsewhere", Some(elsewhere), Some("owner"), [false; 3]),
        make("all rights, expired", Some(sign("", 4, now_s - 1, Some("owner"))), Some("owner"), [false; 3]),
        of_policy("a wrong key", "", 9, "owner", [false; 3]),
        of_policy("another policy's key", "", 3, "service", [false; 3]),
        of_policy("no such policy", "", 4, "Owner", [false; 3]),
        of_policy("a device's key as a policy's", "", 10, "service", [false; 3]),
        of_device("the device", own, 10, [true, true, false]),
        of_device("the device by its second key", own, 110, [true, true, false]),
        make("the device by its key's text", Some(of_text), None, [true, true, false]),
        of_device("the device with another's key", own, 11, [false; 3]),
        of_device("the device with a policy's key", own, 4, [false; 3]),
        of_device("a device of a longer name", "devices/dev10", 11, [true, false, false]),
        of_device("a device of a shorter name", "devices/dev", 10, [false; 3]),
        of_device("the device in another case", "devices/DEV1", 10, [false; 3]),
        of_device("the device, for all devices", "devices", 10, [false; 3]),
        of_device("the device, for the whole hub", "", 10, [false; 3]),
        make("the device, expired", Some(sign(own, 10, now_s - 1, None)), None, [false; 3]),
        text("the device, for ever", whole.split_once("&se=").unwrap().0),
    ];
    for (what, device, number) in [
        ("a disabled device", "disabled", 12),
        ("a deleted device", "deleted", 13),
        ("a device's earlier life", "recreated", 14),
    ] {
        let refused = of_device(what, &format!("devices/{device}"), number, [false; 3]);
        all.push(Credential { device, ..refused });
    }
    all
}
