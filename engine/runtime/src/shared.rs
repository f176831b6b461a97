//! What the cores of a run share: mailboxes, bells, the stop.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use engine::request::CoreId;

use crate::clock::Clock;
use crate::mailbox::Mailboxes;
use crate::signal::Signal;

/// Shared by all cores of a run and by whoever stops it. Everything in it is atomic or behind a short lock.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) mailboxes: Mailboxes,
    pub(crate) stop_timeout_ms: u64,
    signals: Vec<Signal>,
    /// When the stop began, on the monotonic clock; 0: it has not.
    stop_begun_ms: AtomicU64,
    /// Cores that ask nothing any more.
    quiet_count: AtomicU32,
    busy_count: AtomicU64,
    news: Sender<News>,
}

/// What the thread that waits for the end learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The stop has begun.
    StopBegun,
    /// A core has ended; whether everything on it was orderly.
    CoreEnded {
        /// Connections had gone and logs were flushed in time.
        clean: bool,
    },
}

impl Shared {
    pub(crate) fn new(core_count: u16, stop_timeout_ms: u64, news: Sender<News>) -> Self {
        Self {
            clock: Clock::start(),
            mailboxes: Mailboxes::new(core_count),
            stop_timeout_ms,
            signals: (0..core_count).map(|_| Signal::default()).collect(),
            stop_begun_ms: AtomicU64::new(0),
            quiet_count: AtomicU32::new(0),
            busy_count: AtomicU64::new(0),
            news,
        }
    }

    pub(crate) fn core_count(&self) -> u16 {
        u16::try_from(self.signals.len()).expect("made from 16 bits")
    }

    pub(crate) fn signal(&self, core: CoreId) -> &Signal {
        &self.signals[usize::from(core.0)]
    }

    fn ring_all(&self) {
        self.signals.iter().for_each(Signal::ring);
    }

    /// Begin the stop; later calls change nothing.
    pub(crate) fn begin_stop(&self) {
        let now = self.clock.mono_ms();
        if self.stop_begun_ms.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.tell(News::StopBegun);
            self.ring_all();
        }
    }

    /// When the stop began, if it has.
    pub(crate) fn stop_begun_ms(&self) -> Option<u64> {
        Some(self.stop_begun_ms.load(Ordering::Acquire)).filter(|&begun| begun != 0)
    }

    /// A core's connections have gone: it asks nothing any more.
    pub(crate) fn note_quiet(&self) {
        self.quiet_count.fetch_add(1, Ordering::AcqRel);
        self.ring_all();
    }

    /// Whether no core asks any more.
    pub(crate) fn all_are_quiet(&self) -> bool {
        self.quiet_count.load(Ordering::Acquire) >= u32::from(self.core_count())
    }

    pub(crate) fn tell(&self, news: News) {
        // Nobody listens when the start has failed.
        let _ = self.news.send(news);
    }

    /// Count a refusal.
    pub(crate) fn count_busy(&self) {
        self.busy_count.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were refused because a mailbox or a connection was full.
    pub(crate) fn busy_count(&self) -> u64 {
        self.busy_count.load(Ordering::Relaxed)
    }
}
