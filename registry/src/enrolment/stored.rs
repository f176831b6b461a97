//! The stored forms of enrolments and registrations, in the journal and in snapshots.

use super::{
    Allocation, Enrolment, EnrolmentId, EnrolmentKind, EnrolmentName, EnrolmentRef, EnrolmentSettings,
    Registration,
};
use crate::change::{ChangeError, Reader, put_keys, put_option, put_text, status_code, status_of};
use crate::id::{ETag, GenerationId};
use crate::seal::KeySealer;

/// Bits of the settings' byte above the allocation's two.
const UPDATE_HUB_ASSIGNMENT: u8 = 4;
const MIGRATE_DEVICE_DATA: u8 = 8;

pub(crate) fn put_single_or_group(out: &mut Vec<u8>, enrolment: &Enrolment, sealer: &KeySealer) {
    put_name(out, &enrolment.name);
    put_numbers(out, [enrolment.incarnation, enrolment.etag.0, enrolment.created_ms, enrolment.updated_ms]);
    put_keys(out, sealer, &owner(&enrolment.name, enrolment.incarnation), &enrolment.keys);
    out.push(status_code(enrolment.status));
    put_option(out, enrolment.device.as_ref(), |out, device| put_text(out, device.as_str()));
    out.push(settings_code(enrolment.settings));
}

pub(crate) fn single_or_group(reader: &mut Reader<'_>, sealer: &KeySealer) -> Result<Enrolment, ChangeError> {
    let name = read_name(reader)?;
    let incarnation = reader.number()?;
    Ok(Enrolment {
        incarnation,
        etag: ETag(reader.number()?),
        created_ms: reader.number()?,
        updated_ms: reader.number()?,
        keys: reader.keys(sealer, &owner(&name, incarnation))?,
        status: status_of(reader.byte()?).ok_or(ChangeError::Malformed)?,
        device: reader.option(Reader::device_id)?,
        settings: settings_of(reader.byte()?)?,
        name,
    })
}

pub(crate) fn put_registration(out: &mut Vec<u8>, registration: &Registration) {
    put_text(out, registration.id.as_str());
    put_reference(out, registration.enrolment);
    put_text(out, registration.device.as_str());
    let Registration { generation, incarnation, etag, created_ms, updated_ms, .. } = registration;
    put_numbers(out, [generation.0, *incarnation, etag.0, *created_ms, *updated_ms]);
}

pub(crate) fn registration(reader: &mut Reader<'_>) -> Result<Registration, ChangeError> {
    Ok(Registration {
        id: read_id(reader)?,
        enrolment: read_reference(reader)?,
        device: reader.device_id()?,
        generation: GenerationId(reader.number()?),
        incarnation: reader.number()?,
        etag: ETag(reader.number()?),
        created_ms: reader.number()?,
        updated_ms: reader.number()?,
    })
}

pub(crate) fn put_name(out: &mut Vec<u8>, name: &EnrolmentName) {
    out.push(kind_code(name.kind));
    put_text(out, name.id.as_str());
}

pub(crate) fn read_name(reader: &mut Reader<'_>) -> Result<EnrolmentName, ChangeError> {
    Ok(EnrolmentName { kind: kind_of(reader.byte()?)?, id: read_id(reader)? })
}

pub(crate) fn put_reference(out: &mut Vec<u8>, reference: EnrolmentRef) {
    out.push(kind_code(reference.kind));
    put_numbers(out, [reference.incarnation]);
}

pub(crate) fn read_reference(reader: &mut Reader<'_>) -> Result<EnrolmentRef, ChangeError> {
    Ok(EnrolmentRef { kind: kind_of(reader.byte()?)?, incarnation: reader.number()? })
}

/// An id in any but its own spelling was not written by this program.
pub(crate) fn read_id(reader: &mut Reader<'_>) -> Result<EnrolmentId, ChangeError> {
    let text = reader.text()?;
    let id = EnrolmentId::parse(text).ok().filter(|id| id.as_str() == text);
    id.ok_or(ChangeError::Malformed)
}

/// Whose keys they are, for [`KeySealer`]: this enrolment, in this incarnation.
fn owner(name: &EnrolmentName, incarnation: u64) -> Vec<u8> {
    let mut owner = b"enrolment\0".to_vec();
    put_name(&mut owner, name);
    put_numbers(&mut owner, [incarnation]);
    owner
}

fn put_numbers<const N: usize>(out: &mut Vec<u8>, numbers: [u64; N]) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

fn kind_code(kind: EnrolmentKind) -> u8 {
    match kind {
        EnrolmentKind::Single => 0,
        EnrolmentKind::Group => 1,
    }
}

fn kind_of(code: u8) -> Result<EnrolmentKind, ChangeError> {
    let kinds = [EnrolmentKind::Single, EnrolmentKind::Group];
    kinds.into_iter().find(|kind| kind_code(*kind) == code).ok_or(ChangeError::Malformed)
}

fn settings_code(settings: EnrolmentSettings) -> u8 {
    let allocation = match settings.allocation {
        Allocation::Hashed => 0,
        Allocation::GeoLatency => 1,
        Allocation::Static => 2,
    };
    allocation
        | if settings.update_hub_assignment { UPDATE_HUB_ASSIGNMENT } else { 0 }
        | if settings.migrate_device_data { MIGRATE_DEVICE_DATA } else { 0 }
}

fn settings_of(code: u8) -> Result<EnrolmentSettings, ChangeError> {
    let allocation = match code & !(UPDATE_HUB_ASSIGNMENT | MIGRATE_DEVICE_DATA) {
        0 => Allocation::Hashed,
        1 => Allocation::GeoLatency,
        2 => Allocation::Static,
        _ => return Err(ChangeError::Malformed),
    };
    Ok(EnrolmentSettings {
        allocation,
        update_hub_assignment: code & UPDATE_HUB_ASSIGNMENT != 0,
        migrate_device_data: code & MIGRATE_DEVICE_DATA != 0,
    })
}
