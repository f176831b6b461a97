//! What the sockets of a core have seen, counted.

use std::cell::Cell;
use std::fmt;

/// Counters of one core; they stay there, so they need no atomics.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: Counter,
    pub(super) refused_full: Counter,
    pub(super) accept_failures: Counter,
    pub(super) handshake_failures: Counter,
    pub(super) faults: Counter,
    pub(super) stalled: Counter,
    pub(super) moved_in: Counter,
    pub(super) moves_failed: Counter,
    pub(super) panics: Counter,
    pub(super) logins_refused: Counter,
    pub(super) logins_delayed: Counter,
    pub(super) bytes_received: Counter,
    pub(super) bytes_sent: Counter,
}

/// Counts up.
#[derive(Debug, Default)]
pub(super) struct Counter(Cell<u64>);

impl Counter {
    pub(super) fn add(&self, count: usize) {
        self.0.set(self.0.get().wrapping_add(count as u64));
    }

    pub(super) fn count(&self) {
        self.add(1);
    }
}

/// [`Counters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Connections accepted.
    accepted: u64,
    /// Connections closed at once because there were as many as there may be.
    refused_full: u64,
    /// Times that no connection could be accepted: descriptors or memory were used up.
    accept_failures: u64,
    /// Connections that ended before they said a word: no TLS, a bad certificate's alert, silence.
    handshake_failures: u64,
    /// Connections ended for breaking their protocol or its limits.
    faults: u64,
    /// Connections ended because they did not take what was sent to them.
    stalled: u64,
    /// Connections that came from another core, to their device.
    moved_in: u64,
    /// Connections lost because they could not be moved.
    moves_failed: u64,
    /// Connections ended by a panic: a defect of the hub.
    panics: u64,
    /// Logins refused.
    logins_refused: u64,
    /// Of these, those whose answer had to wait.
    logins_delayed: u64,
    /// Bytes received, TLS included.
    bytes_received: u64,
    /// Bytes sent, TLS included.
    bytes_sent: u64,
}

impl Counters {
    pub(super) fn snapshot(&self) -> Counts {
        Counts {
            accepted: self.accepted.0.get(),
            refused_full: self.refused_full.0.get(),
            accept_failures: self.accept_failures.0.get(),
            handshake_failures: self.handshake_failures.0.get(),
            faults: self.faults.0.get(),
            stalled: self.stalled.0.get(),
            moved_in: self.moved_in.0.get(),
            moves_failed: self.moves_failed.0.get(),
            panics: self.panics.0.get(),
            logins_refused: self.logins_refused.0.get(),
            logins_delayed: self.logins_delayed.0.get(),
            bytes_received: self.bytes_received.0.get(),
            bytes_sent: self.bytes_sent.0.get(),
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "accepted {}, refused for number {}, not acceptable {}, failed before a word {}, faults {}, stalled {}, \
             moved in {}, not movable {}, panics {}, logins refused {}, delayed {}, received {} bytes, sent {} bytes",
            self.accepted,
            self.refused_full,
            self.accept_failures,
            self.handshake_failures,
            self.faults,
            self.stalled,
            self.moved_in,
            self.moves_failed,
            self.panics,
            self.logins_refused,
            self.logins_delayed,
            self.bytes_received,
            self.bytes_sent
        )
    }
}
