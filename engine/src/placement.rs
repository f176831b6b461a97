//! Which partition a device belongs to, for ever, and which core runs a partition, in this run.
//!
//! The hash is Azure's public algorithm for keyed events, over the device id as it stands: Jenkins' lookup3, both results
//! xored to a signed 16-bit number, and the range below 32767 split into contiguous parts
//! [azure-eventhub: _producer/partition_resolver.py]. It is written on disk by where a device's events lie, so it is frozen
//! by golden tests.

use registry::DeviceId;

use crate::request::{CoreId, Holder, PartitionId, Request};

/// Size of the range that is split among the partitions.
const RANGE: u32 = i16::MAX as u32;

/// The partition of a device in a hub of `partition_count` partitions (1 to 32767).
///
/// The range 0..32767 is cut into contiguous parts, of which the first `32767 mod partition_count` are one wider. With 4
/// partitions, 0..8192 is partition 0, 8192..16384 partition 1, 16384..24576 partition 2 and 24576..32767 partition 3.
pub fn device_partition(device: &DeviceId, partition_count: u16) -> PartitionId {
    key_partition(device.as_str().as_bytes(), partition_count)
}

/// The core that runs a partition while the hub has `core_count` cores (at least 1).
pub fn partition_core(partition: PartitionId, core_count: u16) -> CoreId {
    assert!(core_count > 0, "a hub runs on at least one core");
    CoreId(partition.0 % core_count)
}

/// Hub-wide records, policies and consumer groups, live with this partition.
pub const HUB_PARTITION: PartitionId = PartitionId(0);

impl Request {
    /// Whose partition answers this.
    pub fn partition(&self, partition_count: u16) -> PartitionId {
        match self {
            Request::Authenticate { partition, .. }
            | Request::OpenReader { partition, .. }
            | Request::DescribePartition { partition }
            | Request::PutCheckpoint { partition, .. }
            | Request::FindCheckpoint { partition, .. }
            | Request::DropConsumerGroup { partition, .. }
            | Request::ListDevices { partition, .. }
            | Request::ChangeDevices { partition, .. }
            | Request::CountDevices { partition }
            | Request::OpenReceiptReceiver { partition }
            | Request::ReceiveReceipts { partition }
            | Request::Flush { partition } => *partition,
            Request::AuthenticateDeviceKey { device, .. }
            | Request::OpenSession { device, .. }
            | Request::DeleteDevice { device, .. }
            | Request::ReceiveCommand { device, .. }
            | Request::PurgeCommands { device }
            | Request::DescribeCommandQueue { device }
            | Request::FindDevice { device } => device_partition(device, partition_count),
            Request::CreateDevice(draft) | Request::UpdateDevice { draft, .. } => {
                device_partition(&draft.device, partition_count)
            }
            Request::EnqueueCommand(draft) => device_partition(&draft.device, partition_count),
            Request::Enrolment(request) => request.partition(partition_count),
            Request::AppendUnattached(append) => device_partition(&append.device, partition_count),
            Request::Settle { holder: Holder::Device { device, .. }, .. } => {
                device_partition(device, partition_count)
            }
            Request::Settle { holder: Holder::BackEnd, token, .. } => token.partition(),
            Request::Settle { holder: Holder::Receiver(receiver), .. }
            | Request::Receive { receiver, .. }
            | Request::CancelReceive { receiver }
            | Request::CloseReceiver { receiver } => receiver.partition,
            Request::CloseSession { session }
            | Request::OpenCommandReceiver { session }
            | Request::PutSubscription { session, .. }
            | Request::FindSubscription { session } => session.partition,
            Request::Append(block) => block.session.partition,
            Request::Read { reader, .. }
            | Request::CancelRead { reader }
            | Request::CloseReader { reader } => reader.partition,
            Request::AuthenticatePolicyKey { .. }
            | Request::Policy(_)
            | Request::FindConsumerGroup { .. }
            | Request::CreateConsumerGroup { .. }
            | Request::DeleteConsumerGroup { .. }
            | Request::ListConsumerGroups => HUB_PARTITION,
        }
    }
}

fn key_partition(key: &[u8], partition_count: u16) -> PartitionId {
    assert!(partition_count > 0, "a hub has at least one partition");
    range_partition(range_value(key), partition_count)
}

fn range_partition(value: u32, partition_count: u16) -> PartitionId {
    let count = u32::from(partition_count);
    let (narrow, wide_count) = (RANGE / count, RANGE % count);
    let wide_end = wide_count * (narrow + 1);
    let index =
        if value < wide_end { value / (narrow + 1) } else { wide_count + (value - wide_end) / narrow };
    PartitionId(u16::try_from(index).expect("an index below a count of 16 bits"))
}

/// The key's place in 0..32767.
fn range_value(key: &[u8]) -> u32 {
    let (first, second) = lookup3(key);
    let hash = (first ^ second) as u16 as i16;
    u32::from((hash % i16::MAX).unsigned_abs())
}

/// Bob Jenkins' `hashlittle2` with both seeds 0 [lookup3.c, public domain]; first the word he calls c, then b.
fn lookup3(key: &[u8]) -> (u32, u32) {
    let start = 0xdead_beef_u32.wrapping_add(key.len() as u32);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut rest = key;
    // The last block, of 1 to 12 bytes, is mixed differently.
    while rest.len() > 12 {
        let (block, behind) = rest.split_at(12);
        a = a.wrapping_add(word(block, 0));
        b = b.wrapping_add(word(block, 4));
        c = c.wrapping_add(word(block, 8));
        (a, b, c) = mix(a, b, c);
        rest = behind;
    }
    if rest.is_empty() {
        return (c, b);
    }
    let mut last = [0_u8; 12];
    last[..rest.len()].copy_from_slice(rest);
    a = a.wrapping_add(word(&last, 0));
    b = b.wrapping_add(word(&last, 4));
    c = c.wrapping_add(word(&last, 8));
    (b, c) = finish(a, b, c);
    (c, b)
}

fn word(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    (a, b, c)
}

fn finish(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32) {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    c = (c ^ b).wrapping_sub(b.rotate_left(24));
    (b, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two vectors with both seeds 0 in lookup3.c's own self-test (driver5).
    #[test]
    fn lookup3_agrees_with_its_author() {
        assert_eq!(lookup3(b""), (0xdead_beef, 0xdead_beef));
        assert_eq!(lookup3(b"Four score and seven years ago"), (0x1777_0551, 0xce72_26e6));
    }

    /// Where devices live is on disk: these numbers must never change.
    #[test]
    fn devices_stay_where_they_are() {
        for (id, value, partitions) in GOLDEN {
            assert_eq!(range_value(id.as_bytes()), value, "{id}");
            let found = [2, 4, 5, 32].map(|count| key_partition(id.as_bytes(), count).0);
            assert_eq!(found, partitions, "{id}");
        }
    }

    /// Id, value in the range, and the partition in hubs of 2, 4, 5 and 32; computed by another implementation.
    const GOLDEN: [(&str, u32, [u16; 4]); 8] = [
        ("a", 16220, [0, 1, 2, 15]),
        ("A", 9517, [0, 1, 1, 9]),
        ("device-1", 26788, [1, 3, 4, 26]),
        ("Device-1", 22448, [1, 2, 3, 21]),
        ("device-2", 12622, [0, 1, 1, 12]),
        ("truck#7?(north)", 27462, [1, 3, 4, 26]),
        ("123456789012", 21621, [1, 2, 3, 21]),
        ("1234567890123", 7770, [0, 0, 1, 7]),
    ];

    #[test]
    fn ranges_are_contiguous_and_the_first_ones_wider() {
        for count in [1_u16, 2, 3, 4, 5, 7, 31, 32] {
            let mut widths = vec![0_u32; usize::from(count)];
            let mut last = 0;
            for value in 0..RANGE {
                let index = u32::from(range_partition(value, count).0);
                assert!(index == last || index == last + 1);
                last = index;
                widths[index as usize] += 1;
            }
            assert_eq!(widths.iter().sum::<u32>(), RANGE);
            assert!(widths.windows(2).all(|pair| pair[0] == pair[1] || pair[0] == pair[1] + 1));
        }
    }

    #[test]
    fn every_partition_gets_its_share() {
        let mut counts = [0_u32; 32];
        for number in 0..32_000 {
            counts[usize::from(key_partition(format!("device-{number}").as_bytes(), 32).0)] += 1;
        }
        assert!(counts.iter().all(|count| (700..1300).contains(count)), "{counts:?}");
    }

    #[test]
    fn cores_take_partitions_in_turn() {
        let cores = [0, 1, 2, 3, 4].map(|partition| partition_core(PartitionId(partition), 2).0);
        assert_eq!(cores, [0, 1, 0, 1, 0]);
    }
}
