//! What may happen to commands and receipts, and how often.

use engine::request::{Ack, Settlement};
use proptest::prelude::*;
use proptest::sample::Index;

pub const DEVICES: usize = 3;

#[derive(Clone, Debug)]
pub enum Op {
    Create { device: usize },
    Delete { device: usize },
    SetEnabled { device: usize, enabled: bool },
    Attach { device: usize, by: u32 },
    CloseSession { device: usize },
    Leave { by: u32 },
    OpenReceiver { device: usize },
    CloseReceiver { pick: Index },
    OpenReceipts { by: u32 },
    Receive { pick: Index, count_max: u32 },
    CancelReceive { pick: Index },
    Enqueue(Enqueue),
    Poll { device: usize, timeout_ms: Option<u64> },
    Settle(Settle),
    Purge { device: usize },
    Pass { ms: u64, takes_turn: bool },
    Jump { ms: i64 },
    Jobs,
    Kill,
    CutPower { seed: u64 },
    CutDuring { change: Change, steps: u8, seed: u64 },
}

/// A change that a power cut may meet on its way to the disk.
#[derive(Clone, Debug)]
pub enum Change {
    Enqueue(Enqueue),
    Settle(Settle),
    Purge { device: usize },
    Delete { device: usize },
}

#[derive(Clone, Debug)]
pub struct Enqueue {
    pub device: usize,
    pub ack: Ack,
    pub ttl_ms: Option<i64>,
    pub bytes: usize,
}

#[derive(Clone, Debug)]
pub struct Settle {
    pub pick: Index,
    pub settlement: Settlement,
    pub wrong: Option<Wrong>,
}

/// What is wrong with an attempt to settle.
#[derive(Clone, Copy, Debug)]
pub enum Wrong {
    /// The token was never given.
    Nonce,
    /// Through the device where a receiver holds the lock, or the other way round.
    Holder,
    /// By another device.
    Device,
    /// By another connection.
    Connection,
}

fn enqueue() -> impl Strategy<Value = Enqueue> {
    let ack = prop::sample::select(vec![Ack::None, Ack::Positive, Ack::Negative, Ack::Full, Ack::Full]);
    let ttl_ms = prop::sample::select(vec![
        None,
        None,
        Some(20_000),
        Some(70_000),
        Some(600_000),
        Some(0),
        Some(172_800_001),
    ]);
    (0..DEVICES, ack, ttl_ms, 0..600_usize).prop_map(|(device, ack, ttl_ms, bytes)| Enqueue {
        device,
        ack,
        ttl_ms,
        bytes,
    })
}

fn settle() -> impl Strategy<Value = Settle> {
    let settlement = prop_oneof![
        4 => Just(Settlement::Complete),
        4 => Just(Settlement::Abandon),
        1 => Just(Settlement::Release),
        2 => Just(Settlement::Reject),
    ];
    let wrong = prop::sample::select(vec![Wrong::Nonce, Wrong::Holder, Wrong::Device, Wrong::Connection]);
    (any::<Index>(), settlement, prop::option::weighted(0.15, wrong))
        .prop_map(|(pick, settlement, wrong)| Settle { pick, settlement, wrong })
}

pub fn op() -> impl Strategy<Value = Op> {
    let (any_device, any_by) = (0..DEVICES, 0..3_u32);
    let change = prop_oneof![
        3 => enqueue().prop_map(Change::Enqueue),
        4 => settle().prop_map(Change::Settle),
        1 => any_device.clone().prop_map(|device| Change::Purge { device }),
        1 => any_device.clone().prop_map(|device| Change::Delete { device }),
    ];
    let timeout_ms = prop::sample::select(vec![None, Some(0), Some(5000), Some(1_000_000)]);
    let ms = prop::sample::select(vec![1, 5000, 15_000, 20_000, 60_000, 61_000, 600_000, 3_600_000]);
    prop_oneof![
        2 => any_device.clone().prop_map(|device| Op::Create { device }),
        1 => any_device.clone().prop_map(|device| Op::Delete { device }),
        1 => (any_device.clone(), any::<bool>()).prop_map(|(device, enabled)| Op::SetEnabled { device, enabled }),
        3 => (any_device.clone(), any_by.clone()).prop_map(|(device, by)| Op::Attach { device, by }),
        1 => any_device.clone().prop_map(|device| Op::CloseSession { device }),
        1 => any_by.clone().prop_map(|by| Op::Leave { by }),
        3 => any_device.clone().prop_map(|device| Op::OpenReceiver { device }),
        1 => any::<Index>().prop_map(|pick| Op::CloseReceiver { pick }),
        2 => any_by.prop_map(|by| Op::OpenReceipts { by }),
        12 => (any::<Index>(), 1..4_u32).prop_map(|(pick, count_max)| Op::Receive { pick, count_max }),
        2 => any::<Index>().prop_map(|pick| Op::CancelReceive { pick }),
        18 => enqueue().prop_map(Op::Enqueue),
        4 => (any_device.clone(), timeout_ms).prop_map(|(device, timeout_ms)| Op::Poll { device, timeout_ms }),
        20 => settle().prop_map(Op::Settle),
        1 => any_device.prop_map(|device| Op::Purge { device }),
        8 => (ms, any::<bool>()).prop_map(|(ms, takes_turn)| Op::Pass { ms, takes_turn }),
        1 => prop::sample::select(vec![-3_600_000, 3_600_000]).prop_map(|ms| Op::Jump { ms }),
        2 => Just(Op::Jobs),
        1 => Just(Op::Kill),
        1 => any::<u64>().prop_map(|seed| Op::CutPower { seed }),
        4 => (change, 0..8_u8, any::<u64>()).prop_map(|(change, steps, seed)| Op::CutDuring { change, steps, seed }),
    ]
}
