//! How a core's loop is woken: by its own tasks, by other cores, by helper threads.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

/// One core's bell. Rung any number of times between two turns, it wakes the core once.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    rung: AtomicBool,
    waker: OnceLock<Waker>,
}

impl Signal {
    /// Remember the waker of the core's loop: one task for the whole run, so this happens once.
    fn register(&self, waker: &Waker) {
        if self.waker.get().is_none() {
            self.waker.get_or_init(|| waker.clone());
            // Who rang before that found no waker.
            self.ring();
            waker.wake_by_ref();
        }
    }

    /// Make the core take another turn. From any thread; what was made ready before the call is seen in that turn.
    pub(crate) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel)
            && let Some(waker) = self.waker.get()
        {
            waker.wake_by_ref();
        }
    }

    /// Whether it was rung since the last time; stops it.
    pub(crate) fn take(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }

    /// Wait for [`ring`](Self::ring).
    pub(crate) fn poll_rung(&self, context: &Context<'_>) -> Poll<()> {
        self.register(context.waker());
        if self.take() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_batch_wakes_once() {
        let (signal, count) = (Signal::default(), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        let context = Context::from_waker(&waker);
        assert!(signal.poll_rung(&context).is_ready(), "a first turn for who rang before");
        count.0.store(0, Ordering::Relaxed);
        (0..5).for_each(|_| signal.ring());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(signal.poll_rung(&context).is_ready());
        assert!(signal.poll_rung(&context).is_pending());
        signal.ring();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }
}
