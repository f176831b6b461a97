//! Where a token is verified.

use engine::placement::{HUB_PARTITION, device_partition};
use engine::request::{PartitionId, UnauthorizedReason};
use registry::{DeviceId, SasToken};

/// The device that a token claims to be of, whether or not that holds: for counting those that do not.
pub fn claimed_device(token: &str) -> Option<DeviceId> {
    DeviceId::parse(SasToken::parse(token).ok()?.device()?).ok()
}

/// The partition that can verify a token: a device's own token the device's, a policy's the hub's.
///
/// # Errors
///
/// The token names neither a policy nor a device.
pub fn partition_of(token: &SasToken<'_>, partition_count: u16) -> Result<PartitionId, UnauthorizedReason> {
    if token.policy().is_some() {
        return Ok(HUB_PARTITION);
    }
    let device = token.device().ok_or(UnauthorizedReason::Signature)?;
    let device = DeviceId::parse(device).map_err(|_| UnauthorizedReason::Signature)?;
    Ok(device_partition(&device, partition_count))
}
