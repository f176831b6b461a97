//! Limits, each with its unit, reason and source.

/// Characters (all ASCII, so bytes) of a device id \[IoT Hub: quotas and throttling\].
pub const DEVICE_ID_BYTES_MAX: usize = 128;

/// Shortest device or policy key, in bytes \[IoT Hub: identity registry\].
pub const KEY_BYTES_MIN: usize = 16;

/// Longest device or policy key, in bytes; also HMAC-SHA256's block, beyond which a key is hashed first
/// \[IoT Hub: identity registry; RFC 2104 2\].
pub const KEY_BYTES_MAX: usize = 64;

/// Bytes of a key that the hub makes itself \[IoT Hub: identity registry\].
pub const KEY_BYTES_GENERATED: usize = 32;

/// Characters of a status reason \[IoT Hub: identity registry\].
pub const STATUS_REASON_CHARS_MAX: usize = 128;

/// Characters (ASCII) of a policy name \[IoT Hub: identity registry\].
pub const POLICY_NAME_BYTES_MAX: usize = 64;

/// Policies of one hub \[IoT Hub: access permissions\].
pub const POLICY_COUNT_MAX: usize = 16;

/// Characters (ASCII) of a consumer group's name \[IoT Hub: quotas and throttling\].
pub const GROUP_NAME_BYTES_MAX: usize = 50;

/// Consumer groups of the hub, `$Default` among them \[IoT Hub: quotas and throttling\].
pub const GROUP_COUNT_MAX: usize = 20;

/// Enrolment groups of one hub \[Device Provisioning Service: quotas, 100 groups with symmetric keys\]. Also bounds how many
/// keys a token of an unknown device is tried with.
pub const ENROLMENT_GROUP_COUNT_MAX: usize = 100;

/// Single enrolments of one partition \[Device Provisioning Service: quotas, 1 000 000 of one service\].
pub const ENROLMENT_COUNT_MAX: usize = 1_000_000;

/// Registrations of one partition \[Device Provisioning Service: quotas, 1 000 000 of one service\].
pub const REGISTRATION_COUNT_MAX: usize = 1_000_000;

/// Bytes of a SAS token's text. Real ones stay below 600; this leaves room for 128-character ids with every character
/// escaped and long host names, and bounds what a peer can make us hash.
pub const TOKEN_BYTES_MAX: usize = 4096;

const _: () = assert!(KEY_BYTES_MIN <= KEY_BYTES_GENERATED && KEY_BYTES_GENERATED <= KEY_BYTES_MAX);
const _: () = assert!(KEY_BYTES_MAX < 256, "a key's length is stored in one byte");
const _: () = assert!(TOKEN_BYTES_MAX > 3 * (DEVICE_ID_BYTES_MAX + 256 + POLICY_NAME_BYTES_MAX));
