//! Who fails to log in, by address and by device, and how long the next refusal waits.
//!
//! Only refusals wait: whoever has the right credential comes in at once, from whatever address and however often others failed in
//! its name, so that nobody can lock a device out. One table of each kind per core, each bounded; a core counts what failed on it.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};

use engine::request::EngineError;
use foldhash::fast::RandomState;
use registry::DeviceId;

/// Failures that nobody waits for: a client that wakes with an old token, a typing error.
const FREE_COUNT: u32 = 20;

/// The first delay, milliseconds; each further failure doubles it.
const DELAY_MS_FIRST: u64 = 50;

/// In this time half of the failures are forgotten, milliseconds.
const HALF_LIFE_MS: u64 = 60_000;

/// Entries of each table. The one that failed longest ago makes room.
const ENTRY_COUNT_MAX: usize = 4096;

/// A login that was refused, as a binding tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedLogin {
    /// Which device it was to be, as far as that could be read.
    pub device: Option<DeviceId>,
    /// Whether the connection rests on nothing else and may wait as a whole.
    pub may_wait: bool,
}

/// Whether an error of the engine is a failed login, and not the hub's own trouble.
pub fn is_refused_login(error: &EngineError) -> bool {
    matches!(error, EngineError::Unauthorized(_) | EngineError::DeviceNotFound | EngineError::DeviceDisabled)
}

/// What follows from a refused login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How long its answer waits, milliseconds.
    pub delay_ms: u64,
    /// Failures of the address, and of the device, that are not forgotten yet.
    pub address_count: u32,
    /// Of the device, from any address.
    pub device_count: u32,
    /// Whether it is worth a line: at 10, 100, 1000 ... failures of either.
    pub is_news: bool,
}

/// The tables of one core.
#[derive(Debug)]
pub struct Strangers {
    delay_ms_max: u64,
    addresses: Table<IpAddr>,
    devices: Table<DeviceId>,
}

impl Strangers {
    /// With a longest delay, 0: nobody waits.
    pub fn new(delay_ms_max: u64) -> Self {
        Self { delay_ms_max, addresses: Table::default(), devices: Table::default() }
    }

    /// A login from `address` was refused.
    pub fn refuse(&mut self, address: IpAddr, device: Option<&DeviceId>, now_ms: u64) -> Verdict {
        let address_count = self.addresses.count(network(address), now_ms);
        let device_count = device.map_or(0, |device| self.devices.count(device.clone(), now_ms));
        let over = address_count.max(device_count).saturating_sub(FREE_COUNT);
        let delay_ms = match over {
            0 => 0,
            over => DELAY_MS_FIRST.saturating_mul(1 << (over - 1).min(32)).min(self.delay_ms_max),
        };
        let is_news = is_power_of_ten(address_count) || is_power_of_ten(device_count);
        Verdict { delay_ms, address_count, device_count, is_news }
    }
}

/// Failures by whoever failed.
#[derive(Debug)]
struct Table<K>(HashMap<K, Entry, RandomState>);

#[derive(Clone, Copy, Debug)]
struct Entry {
    count: u32,
    last_ms: u64,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<K: Hash + Eq + Clone> Table<K> {
    /// One more; how many that makes.
    fn count(&mut self, key: K, now_ms: u64) -> u32 {
        if self.0.len() >= ENTRY_COUNT_MAX && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, entry)| entry.last_ms).map(|(key, _)| key.clone());
            oldest.map(|key| self.0.remove(&key));
        }
        let entry = self.0.entry(key).or_insert(Entry { count: 0, last_ms: now_ms });
        let half_lives = now_ms.saturating_sub(entry.last_ms) / HALF_LIFE_MS;
        entry.count = entry.count.checked_shr(u32::try_from(half_lives).unwrap_or(u32::MAX)).unwrap_or(0);
        entry.count = entry.count.saturating_add(1);
        entry.last_ms = now_ms;
        entry.count
    }
}

/// Whoever has one address of IPv6 has the 2^64 of its network.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_none() => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)))
        }
        other => other.to_canonical(),
    }
}

fn is_power_of_ten(count: u32) -> bool {
    count >= 10 && 10_u32.pow(count.ilog10()) == count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn device(text: &str) -> DeviceId {
        DeviceId::parse(text).unwrap()
    }

    #[test]
    fn delays_grow_to_the_limit_and_are_forgotten() {
        let mut strangers = Strangers::new(1000);
        let mut delays = Vec::new();
        for _ in 0..30 {
            delays.push(strangers.refuse(address("10.0.0.1"), None, 0).delay_ms);
        }
        assert!(delays[..20].iter().all(|delay| *delay == 0), "{delays:?}");
        assert_eq!(delays[20..], [50, 100, 200, 400, 800, 1000, 1000, 1000, 1000, 1000]);
        assert_eq!(strangers.refuse(address("10.0.0.2"), None, 0).delay_ms, 0, "another address");
        let later = strangers.refuse(address("10.0.0.1"), None, 60_000);
        assert_eq!((later.address_count, later.delay_ms), (16, 0), "half of 30 and one");
        assert_eq!(strangers.refuse(address("10.0.0.1"), None, u64::MAX).address_count, 1);
        let mut off = Strangers::new(0);
        assert!((0..100).all(|_| off.refuse(address("10.0.0.1"), None, 0).delay_ms == 0));
    }

    #[test]
    fn a_device_is_counted_from_all_addresses() {
        let mut strangers = Strangers::new(1000);
        let mut news = Vec::new();
        for number in 0..25_u8 {
            let verdict = strangers.refuse(IpAddr::from([10, 0, 0, number]), Some(&device("d")), 0);
            assert_eq!((verdict.address_count, verdict.device_count), (1, u32::from(number) + 1));
            assert_eq!(verdict.delay_ms > 0, number >= 20);
            news.extend(verdict.is_news.then_some(verdict.device_count));
        }
        assert_eq!(news, [10]);
        assert_eq!(strangers.refuse(address("10.9.9.9"), Some(&device("D")), 0).device_count, 1);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let mut strangers = Strangers::new(1000);
        strangers.refuse(address("2001:db8::1"), None, 0);
        assert_eq!(strangers.refuse(address("2001:db8::ffff:2"), None, 0).address_count, 2);
        assert_eq!(strangers.refuse(address("2001:db8:0:1::1"), None, 0).address_count, 1);
        strangers.refuse(address("10.0.0.1"), None, 0);
        assert_eq!(strangers.refuse(address("::ffff:10.0.0.1"), None, 0).address_count, 2);
    }

    #[test]
    fn tables_are_bounded_and_keep_the_newest() {
        let mut strangers = Strangers::new(1000);
        for number in 0..10_000_u32 {
            let device = device(&format!("d{number}"));
            strangers.refuse(IpAddr::from(number.to_be_bytes()), Some(&device), u64::from(number));
        }
        assert_eq!(
            (strangers.addresses.0.len(), strangers.devices.0.len()),
            (ENTRY_COUNT_MAX, ENTRY_COUNT_MAX)
        );
        assert_eq!(strangers.refuse(IpAddr::from(9_999_u32.to_be_bytes()), None, 10_000).address_count, 2);
        assert_eq!(strangers.refuse(IpAddr::from(1_u32.to_be_bytes()), None, 10_000).address_count, 1);
    }
}
