//! Each mutation as a value, and its stored form.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version of the form, 1 |
//! | 1 | kind |
//! | ... | the kind's fields, in the order of their declaration |
//!
//! Integers are little-endian; a text is its length (2 bytes) and its UTF-8 bytes; an optional field is preceded by one
//! byte, 0 or 1; keys are sealed (2 bytes of length, then the sealed pair). Nothing may follow the last field.

use crate::credential::DeviceKeys;
use crate::device::{Device, DeviceStatus, Life};
use crate::enrolment::{self, Enrolment, EnrolmentId, EnrolmentName, EnrolmentRef, Registration};
use crate::group::ConsumerGroup;
use crate::id::{ConsumerGroupId, DeviceId, ETag, GenerationId};
use crate::policy::{Policy, PolicyName, Rights};
use crate::seal::{KeySealer, SealError};

const VERSION: u8 = 1;

const PUT_DEVICE: u8 = 1;
const DELETE_DEVICE: u8 = 2;
const PUT_POLICY: u8 = 3;
const PUT_CONSUMER_GROUP: u8 = 4;
const DELETE_CONSUMER_GROUP: u8 = 5;
const PUT_LIVING_DEVICE: u8 = 6;
const PUT_ENROLMENT: u8 = 7;
const DELETE_ENROLMENT: u8 = 8;
const PUT_REGISTRATION: u8 = 9;
const DELETE_REGISTRATION: u8 = 10;
const DROP_REGISTRATIONS: u8 = 11;
const DELETE_POLICY: u8 = 12;

/// A mutation. Each says what is the case afterwards, so that applying it twice is applying it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The device exists and looks like this. Boxed: it is much larger than the others.
    PutDevice(Box<Device>),
    /// The device does not exist.
    DeleteDevice {
        /// Its id.
        device: DeviceId,
    },
    /// The policy exists and looks like this.
    PutPolicy(Policy),
    /// The policy does not exist.
    DeletePolicy {
        /// Its name.
        name: PolicyName,
    },
    /// The consumer group exists and looks like this.
    PutConsumerGroup(ConsumerGroup),
    /// The consumer group does not exist.
    DeleteConsumerGroup {
        /// Its incarnation.
        id: ConsumerGroupId,
    },
    /// The enrolment exists and looks like this.
    PutEnrolment(Box<Enrolment>),
    /// The enrolment does not exist, nor, of a single one, its registration.
    DeleteEnrolment {
        /// Which.
        name: EnrolmentName,
    },
    /// This came of the registration.
    PutRegistration(Box<Registration>),
    /// Nothing is known of the registration.
    DeleteRegistration {
        /// Which.
        id: EnrolmentId,
    },
    /// Nothing is known of any registration by the enrolment.
    DropRegistrations {
        /// Which.
        enrolment: EnrolmentRef,
    },
}

impl Change {
    /// Append the stored form to `out`; keys are sealed.
    pub fn encode(&self, sealer: &KeySealer, out: &mut Vec<u8>) {
        out.push(VERSION);
        match self {
            Self::PutDevice(device) => {
                let is_plain = device.life == Life::default();
                out.push(if is_plain { PUT_DEVICE } else { PUT_LIVING_DEVICE });
                put_text(out, device.id.as_str());
                out.extend_from_slice(&device.generation.0.to_le_bytes());
                out.extend_from_slice(&device.etag.0.to_le_bytes());
                out.extend_from_slice(&device.keys_version.to_le_bytes());
                put_keys(out, sealer, &device_owner(&device.id, device.generation), &device.keys);
                out.push(status_code(device.status));
                put_option(out, device.status_reason.as_ref(), |out, reason| put_text(out, reason));
                put_option(out, device.status_updated_ms, put_number);
                if !is_plain {
                    put_option(out, device.life.registration.as_ref(), |out, id| put_text(out, id.as_str()));
                    put_option(out, device.life.bootstrapped_ms, put_number);
                    put_option(out, device.life.activated_ms, put_number);
                }
            }
            Self::DeleteDevice { device } => {
                out.push(DELETE_DEVICE);
                put_text(out, device.as_str());
            }
            Self::PutPolicy(policy) => {
                out.push(PUT_POLICY);
                put_text(out, policy.name.as_str());
                out.push(policy.rights.bits());
                put_keys(out, sealer, &policy_owner(&policy.name), &policy.keys);
            }
            Self::DeletePolicy { name } => {
                out.push(DELETE_POLICY);
                put_text(out, name.as_str());
            }
            Self::PutConsumerGroup(group) => {
                out.push(PUT_CONSUMER_GROUP);
                out.extend_from_slice(&group.id.0.to_le_bytes());
                put_text(out, &group.name);
                out.extend_from_slice(&group.created_ms.to_le_bytes());
            }
            Self::DeleteConsumerGroup { id } => {
                out.push(DELETE_CONSUMER_GROUP);
                out.extend_from_slice(&id.0.to_le_bytes());
            }
            Self::PutEnrolment(enrolment) => {
                out.push(PUT_ENROLMENT);
                enrolment::put_single_or_group(out, enrolment, sealer);
            }
            Self::DeleteEnrolment { name } => {
                out.push(DELETE_ENROLMENT);
                enrolment::put_name(out, name);
            }
            Self::PutRegistration(registration) => {
                out.push(PUT_REGISTRATION);
                enrolment::put_registration(out, registration);
            }
            Self::DeleteRegistration { id } => {
                out.push(DELETE_REGISTRATION);
                put_text(out, id.as_str());
            }
            Self::DropRegistrations { enrolment } => {
                out.push(DROP_REGISTRATIONS);
                enrolment::put_reference(out, *enrolment);
            }
        }
    }

    /// Read what [`Change::encode`] wrote. A newer version or an unknown kind is an error, never skipped: a registry that
    /// forgets a change could let somebody in.
    pub fn decode(bytes: &[u8], sealer: &KeySealer) -> Result<Self, ChangeError> {
        let mut reader = Reader { rest: bytes };
        match reader.byte()? {
            VERSION => {}
            version => return Err(ChangeError::Version { version }),
        }
        let change = match reader.byte()? {
            PUT_DEVICE => Self::PutDevice(Box::new(reader.device(sealer)?)),
            DELETE_DEVICE => Self::DeleteDevice { device: reader.device_id()? },
            PUT_POLICY => {
                let name = PolicyName::parse(reader.text()?).map_err(|_| ChangeError::Malformed)?;
                let rights = Rights::from_bits(reader.byte()?).ok_or(ChangeError::Malformed)?;
                let keys = reader.keys(sealer, &policy_owner(&name))?;
                Self::PutPolicy(Policy { name, rights, keys })
            }
            DELETE_POLICY => {
                let name = PolicyName::parse(reader.text()?).map_err(|_| ChangeError::Malformed)?;
                Self::DeletePolicy { name }
            }
            PUT_CONSUMER_GROUP => Self::PutConsumerGroup(ConsumerGroup {
                id: ConsumerGroupId(reader.number()?),
                name: reader.text()?.to_owned(),
                created_ms: reader.number()?,
            }),
            DELETE_CONSUMER_GROUP => Self::DeleteConsumerGroup { id: ConsumerGroupId(reader.number()?) },
            PUT_LIVING_DEVICE => {
                let device = reader.device(sealer)?;
                let life = Life {
                    registration: reader.option(enrolment::read_id)?,
                    bootstrapped_ms: reader.option(Reader::number)?,
                    activated_ms: reader.option(Reader::number)?,
                };
                if life == Life::default() {
                    return Err(ChangeError::Malformed);
                }
                Self::PutDevice(Box::new(Device { life, ..device }))
            }
            PUT_ENROLMENT => Self::PutEnrolment(Box::new(enrolment::single_or_group(&mut reader, sealer)?)),
            DELETE_ENROLMENT => Self::DeleteEnrolment { name: enrolment::read_name(&mut reader)? },
            PUT_REGISTRATION => Self::PutRegistration(Box::new(enrolment::registration(&mut reader)?)),
            DELETE_REGISTRATION => Self::DeleteRegistration { id: enrolment::read_id(&mut reader)? },
            DROP_REGISTRATIONS => {
                Self::DropRegistrations { enrolment: enrolment::read_reference(&mut reader)? }
            }
            kind => return Err(ChangeError::Kind { kind }),
        };
        match reader.rest.is_empty() {
            true => Ok(change),
            false => Err(ChangeError::Malformed),
        }
    }
}

/// Why bytes are not a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Written by a newer version of this program.
    #[error("a registry change of version {version} is newer than this program")]
    Version {
        /// The version found.
        version: u8,
    },
    /// A kind that this program does not know.
    #[error("a registry change of kind {kind} is unknown to this program")]
    Kind {
        /// The kind found.
        kind: u8,
    },
    /// Cut, overlong, or with a value that no change has.
    #[error("a registry change is malformed")]
    Malformed,
    /// Its keys do not open.
    #[error(transparent)]
    Sealed(#[from] SealError),
}

/// Whose keys they are, for [`KeySealer`]: this device, in this incarnation.
pub(crate) fn device_owner(id: &DeviceId, generation: GenerationId) -> Vec<u8> {
    [b"device\0".as_slice(), id.as_str().as_bytes(), b"\0", &generation.0.to_le_bytes()].concat()
}

/// Whose keys they are, for [`KeySealer`]: this policy.
pub(crate) fn policy_owner(name: &PolicyName) -> Vec<u8> {
    [b"policy\0".as_slice(), name.as_str().as_bytes()].concat()
}

/// The stored form of a status.
pub(crate) fn status_code(status: DeviceStatus) -> u8 {
    match status {
        DeviceStatus::Enabled => 0,
        DeviceStatus::Disabled => 1,
    }
}

/// Read the stored form of a status.
pub(crate) fn status_of(code: u8) -> Option<DeviceStatus> {
    [DeviceStatus::Enabled, DeviceStatus::Disabled].into_iter().find(|status| status_code(*status) == code)
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length =
        u16::try_from(bytes.len()).expect("ids, names, reasons and sealed keys are far below 64 KiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(crate) fn put_keys(out: &mut Vec<u8>, sealer: &KeySealer, owner: &[u8], keys: &DeviceKeys) {
    let mut sealed = Vec::with_capacity(192);
    sealer.seal(owner, keys, &mut sealed);
    put_bytes(out, &sealed);
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

pub(crate) fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ChangeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(ChangeError::Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, ChangeError> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn number(&mut self) -> Result<u64, ChangeError> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    fn bytes(&mut self) -> Result<&'a [u8], ChangeError> {
        let length = u16::from_le_bytes(self.take(2)?.try_into().expect("two bytes"));
        self.take(usize::from(length))
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, ChangeError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ChangeError::Malformed)
    }

    pub(crate) fn device_id(&mut self) -> Result<DeviceId, ChangeError> {
        DeviceId::parse(self.text()?).map_err(|_| ChangeError::Malformed)
    }

    pub(crate) fn keys(&mut self, sealer: &KeySealer, owner: &[u8]) -> Result<DeviceKeys, ChangeError> {
        Ok(sealer.open(owner, self.bytes()?)?)
    }

    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, ChangeError>,
    ) -> Result<Option<T>, ChangeError> {
        match self.byte()? {
            0 => Ok(None),
            1 => Ok(Some(read(self)?)),
            _ => Err(ChangeError::Malformed),
        }
    }

    fn device(&mut self, sealer: &KeySealer) -> Result<Device, ChangeError> {
        let id = self.device_id()?;
        let generation = GenerationId(self.number()?);
        Ok(Device {
            etag: ETag(self.number()?),
            keys_version: self.number()?,
            keys: self.keys(sealer, &device_owner(&id, generation))?,
            status: status_of(self.byte()?).ok_or(ChangeError::Malformed)?,
            status_reason: self.option(|reader| Ok(reader.text()?.to_owned()))?,
            status_updated_ms: self.option(Self::number)?,
            life: Life::default(),
            generation,
            id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrolment::{Allocation, EnrolmentKind, EnrolmentSettings};
    use crate::policy::builtin_policies;
    use crate::seal::DataKey;

    fn sealer() -> KeySealer {
        KeySealer::new(&DataKey::from_bytes([1; 32]))
    }

    fn device() -> Device {
        Device {
            id: DeviceId::parse("pump-1").unwrap(),
            generation: GenerationId(7),
            etag: ETag(8),
            keys_version: 3,
            keys: DeviceKeys::generate(&mut |bytes| bytes.fill(9)),
            status: DeviceStatus::Disabled,
            status_reason: Some("out for répair".into()),
            status_updated_ms: Some(1_700_000_000_000),
            life: Life::default(),
        }
    }

    fn changes() -> Vec<Change> {
        let plain = Device {
            status_reason: None,
            status_updated_ms: None,
            status: DeviceStatus::Enabled,
            ..device()
        };
        let group = ConsumerGroup { id: ConsumerGroupId(4), name: "stream".into(), created_ms: 5 };
        let id = EnrolmentId::parse("r1").unwrap();
        let life = Life { registration: Some(id.clone()), bootstrapped_ms: Some(6), activated_ms: None };
        let name = EnrolmentName { kind: EnrolmentKind::Group, id: id.clone() };
        let enrolment = Enrolment {
            name: name.clone(),
            incarnation: 3,
            etag: ETag(4),
            keys: device().keys,
            status: DeviceStatus::Disabled,
            device: Some(device().id),
            settings: EnrolmentSettings { allocation: Allocation::Static, ..EnrolmentSettings::default() },
            created_ms: 5,
            updated_ms: 6,
        };
        let reference = enrolment.reference();
        let registration = Registration {
            id: id.clone(),
            enrolment: reference,
            device: device().id,
            generation: GenerationId(7),
            incarnation: 8,
            etag: ETag(9),
            created_ms: 10,
            updated_ms: 11,
        };
        vec![
            Change::PutDevice(Box::new(device())),
            Change::PutDevice(Box::new(plain)),
            Change::DeleteDevice { device: device().id },
            Change::PutPolicy(builtin_policies(&mut |bytes| bytes.fill(2)).remove(3)),
            Change::PutConsumerGroup(group),
            Change::DeleteConsumerGroup { id: ConsumerGroupId(4) },
            Change::PutDevice(Box::new(Device { life, ..device() })),
            Change::PutEnrolment(Box::new(enrolment)),
            Change::DeleteEnrolment { name },
            Change::PutRegistration(Box::new(registration)),
            Change::DeleteRegistration { id: id.clone() },
            Change::DropRegistrations { enrolment: reference },
            Change::DeletePolicy { name: PolicyName::parse("service").unwrap() },
        ]
    }

    fn encoded(change: &Change) -> Vec<u8> {
        let mut bytes = Vec::new();
        change.encode(&sealer(), &mut bytes);
        bytes
    }

    #[test]
    fn changes_survive_their_stored_form() {
        for change in changes() {
            assert_eq!(Change::decode(&encoded(&change), &sealer()), Ok(change));
        }
    }

    #[test]
    fn cut_and_overlong_changes_are_refused() {
        for change in changes() {
            let mut bytes = encoded(&change);
            for end in 0..bytes.len() {
                assert!(Change::decode(&bytes[..end], &sealer()).is_err(), "{change:?} cut at {end}");
            }
            bytes.push(0);
            assert_eq!(Change::decode(&bytes, &sealer()), Err(ChangeError::Malformed));
        }
    }

    #[test]
    fn what_a_newer_program_wrote_is_refused() {
        let mut bytes = encoded(&changes()[2]);
        bytes[1] = 200;
        assert_eq!(Change::decode(&bytes, &sealer()), Err(ChangeError::Kind { kind: 200 }));
        bytes[0] = 2;
        assert_eq!(Change::decode(&bytes, &sealer()), Err(ChangeError::Version { version: 2 }));
    }

    #[test]
    fn keys_are_sealed_and_bound_to_the_incarnation() {
        let bytes = encoded(&changes()[0]);
        assert!(!bytes.windows(16).any(|window| window == [9; 16]), "keys are readable");
        let other = KeySealer::new(&DataKey::from_bytes([2; 32]));
        assert_eq!(Change::decode(&bytes, &other), Err(ChangeError::Sealed(SealError)));
        // The generation lies behind version, kind and the six-character id.
        let mut moved = bytes;
        moved[2 + 2 + 6] ^= 1;
        assert_eq!(Change::decode(&moved, &sealer()), Err(ChangeError::Sealed(SealError)));
    }

    #[test]
    fn changed_bytes_are_refused_or_read_as_what_they_say() {
        for change in changes() {
            let bytes = encoded(&change);
            for index in 0..bytes.len() {
                for value in [0, 1, 0x7f, 0xff, bytes[index] ^ 0x20] {
                    let mut changed = bytes.clone();
                    changed[index] = value;
                    if let Ok(read) = Change::decode(&changed, &sealer()) {
                        assert_eq!(encoded(&read), changed, "byte {index} of {change:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_stored_form_is_frozen() {
        assert_eq!(encoded(&changes()[2]), b"\x01\x02\x06\x00pump-1");
        assert_eq!(encoded(&changes()[4]), b"\x01\x04\x04\0\0\0\0\0\0\0\x06\0stream\x05\0\0\0\0\0\0\0");
        let bytes = encoded(&changes()[0]);
        assert_eq!(bytes[..28], *b"\x01\x01\x06\0pump-1\x07\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x03\0");
        assert_eq!(bytes[bytes.len() - 9..], *b"\x01\x00\x68\xe5\xcf\x8b\x01\0\0");
        let living = encoded(&changes()[6]);
        assert_eq!((living[1], &living[2..bytes.len()]), (6, &bytes[2..]));
        assert_eq!(living[bytes.len()..], *b"\x01\x02\0r1\x01\x06\0\0\0\0\0\0\0\x00");
        let enrolment = encoded(&changes()[7]);
        let head =
            b"\x01\x07\x01\x02\0r1\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0";
        assert_eq!(enrolment[..head.len()], *head);
        assert_eq!(enrolment[enrolment.len() - 11..], *b"\x01\x01\x06\0pump-1\x0e");
        assert_eq!(encoded(&changes()[8]), b"\x01\x08\x01\x02\0r1");
        let registration = encoded(&changes()[9]);
        assert_eq!(registration[..24], *b"\x01\x09\x02\0r1\x01\x03\0\0\0\0\0\0\0\x06\0pump-1\x07");
        assert_eq!(registration.len(), 23 + 5 * 8);
        assert_eq!(encoded(&changes()[10]), b"\x01\x0a\x02\0r1");
        assert_eq!(encoded(&changes()[11]), b"\x01\x0b\x01\x03\0\0\0\0\0\0\0");
        assert_eq!(encoded(&changes()[12]), b"\x01\x0c\x07\0service");
    }
}
