//! The rules of commands and receipts that a hub's owner may set.

use std::ops::RangeInclusive;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// How commands are kept, locked, counted and told of. The defaults are the documented values
/// \[IoT Hub: iot-hub-devguide-messages-c2d\].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRules {
    /// Commands in one device's queue at most, locked ones too: 1 to 1000, default 50.
    pub queue_depth_max: u32,
    /// Largest bare message of a command in bytes: 1 KiB to 256 KiB, default 64 KiB.
    pub command_bytes_max: u32,
    /// Time to live of a command that names none, in milliseconds: 1 minute to 2 days, default 1 hour. Not more than
    /// `ttl_ms_max`.
    pub ttl_ms_default: u64,
    /// Longest time to live that a command may ask for, in milliseconds: 1 minute to 2 days, default 2 days.
    pub ttl_ms_max: u64,
    /// How long a command stays locked, in milliseconds: 5 s to 5 minutes, default 1 minute. HTTPS may ask for less.
    pub lock_timeout_ms: u64,
    /// How often a command may be given back; with the last time it is dead-lettered: 1 to 100, default 10.
    pub delivery_count_max: u8,
    /// The rule of 2015: every lock that ends without settlement counts as a delivery, also by time and by a receiver that
    /// goes. Default no: only abandoning counts. A restart of the hub never counts.
    pub counts_every_lock: bool,
    /// Bytes of all commands that wait in one partition, each with 128 bytes for its place in memory; more are refused as busy.
    /// From `command_bytes_max` on, default 1 GiB.
    pub waiting_bytes_max: u64,
    /// Receipts that one partition may owe: those not yet taken by the back end, and one for each waiting command whose sender
    /// asked. More such commands are refused as busy. At least 1, default 1 048 576.
    pub receipt_count_max: u64,
    /// How long a batch of receipts waits, in milliseconds: 1 minute to 2 days, default 1 hour.
    pub receipt_ttl_ms: u64,
    /// How long a batch of receipts stays locked, in milliseconds: 5 s to 5 minutes, default 1 minute.
    pub receipt_lock_timeout_ms: u64,
    /// How often a batch of receipts may be given back; with the last time it is dropped: 1 to 100, default 10.
    pub receipt_delivery_count_max: u8,
}

impl CommandRules {
    const DEPTHS: RangeInclusive<u32> = 1..=1000;
    const BYTES: RangeInclusive<u32> = 1024..=256 * 1024;
    const TTLS: RangeInclusive<u64> = MINUTE_MS..=2 * DAY_MS;
    const LOCK_TIMEOUTS: RangeInclusive<u64> = 5_000..=5 * MINUTE_MS;
    const DELIVERY_COUNTS: RangeInclusive<u8> = 1..=100;

    /// Check each rule.
    ///
    /// # Errors
    ///
    /// The first that is out of its range, in words.
    pub fn check(&self) -> Result<(), &'static str> {
        let checks = [
            (Self::DEPTHS.contains(&self.queue_depth_max), "queue_depth_max is not within 1 to 1000"),
            (
                Self::BYTES.contains(&self.command_bytes_max),
                "command_bytes_max is not within 1 KiB to 256 KiB",
            ),
            (Self::TTLS.contains(&self.ttl_ms_max), "ttl_ms_max is not within 1 minute to 2 days"),
            (
                (MINUTE_MS..=self.ttl_ms_max).contains(&self.ttl_ms_default),
                "ttl_ms_default is not within 1 minute to ttl_ms_max",
            ),
            (
                Self::LOCK_TIMEOUTS.contains(&self.lock_timeout_ms),
                "lock_timeout_ms is not within 5 s to 5 minutes",
            ),
            (
                Self::DELIVERY_COUNTS.contains(&self.delivery_count_max),
                "delivery_count_max is not within 1 to 100",
            ),
            (
                self.waiting_bytes_max >= u64::from(self.command_bytes_max),
                "waiting_bytes_max is less than command_bytes_max",
            ),
            (self.receipt_count_max >= 1, "receipt_count_max is not at least 1"),
            (Self::TTLS.contains(&self.receipt_ttl_ms), "receipt_ttl_ms is not within 1 minute to 2 days"),
            (
                Self::LOCK_TIMEOUTS.contains(&self.receipt_lock_timeout_ms),
                "receipt_lock_timeout_ms is not within 5 s to 5 minutes",
            ),
            (
                Self::DELIVERY_COUNTS.contains(&self.receipt_delivery_count_max),
                "receipt_delivery_count_max is not within 1 to 100",
            ),
        ];
        match checks.iter().find(|(is_good, _)| !is_good) {
            Some((_, text)) => Err(text),
            None => Ok(()),
        }
    }
}

impl Default for CommandRules {
    fn default() -> Self {
        Self {
            queue_depth_max: 50,
            command_bytes_max: 64 * 1024,
            ttl_ms_default: HOUR_MS,
            ttl_ms_max: 2 * DAY_MS,
            lock_timeout_ms: MINUTE_MS,
            delivery_count_max: 10,
            counts_every_lock: false,
            waiting_bytes_max: 1 << 30,
            receipt_count_max: 1 << 20,
            receipt_ttl_ms: HOUR_MS,
            receipt_lock_timeout_ms: MINUTE_MS,
            receipt_delivery_count_max: 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range_and_each_rule_is_checked() {
        let good = CommandRules::default;
        assert_eq!(good().check(), Ok(()));
        let wrong = [
            CommandRules { queue_depth_max: 0, ..good() },
            CommandRules { command_bytes_max: 1023, ..good() },
            CommandRules { ttl_ms_max: 3 * DAY_MS, ..good() },
            CommandRules { ttl_ms_max: HOUR_MS - 1, ..good() },
            CommandRules { ttl_ms_default: 59_999, ..good() },
            CommandRules { lock_timeout_ms: 4999, ..good() },
            CommandRules { delivery_count_max: 101, ..good() },
            CommandRules { waiting_bytes_max: 1024, ..good() },
            CommandRules { receipt_count_max: 0, ..good() },
            CommandRules { receipt_ttl_ms: 0, ..good() },
            CommandRules { receipt_lock_timeout_ms: 300_001, ..good() },
            CommandRules { receipt_delivery_count_max: 0, ..good() },
        ];
        for rules in wrong {
            assert!(rules.check().is_err(), "{rules:?}");
        }
    }
}
