//! The gate that handshakes go through, so that a flood of them does not hold up those who are connected.
//!
//! A full handshake keeps its core busy for a hundred microseconds and more, a thousand times an ordinary turn's. A thousand
//! that arrive together, as after a restart, would be taken one after the other while everybody else waits. So only
//! [`ADMITTED_PER_BREATH`] steps of handshakes run between two breaths of the core, in the order in which they came: on an idle
//! core that costs nothing, on a busy one everybody else goes in between.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// Steps of handshakes between two breaths: half a millisecond of a core at most.
const ADMITTED_PER_BREATH: u64 = 4;

/// The gate of one core.
#[derive(Default)]
pub(super) struct Gate {
    /// Tickets given out.
    ticket_count: Cell<u64>,
    /// Tickets below this may pass.
    admitted: Cell<u64>,
    /// Those who may not yet.
    waiting: RefCell<VecDeque<Waker>>,
    keeper: RefCell<Option<Waker>>,
}

/// One connection's place in the queue; it is given up by forgetting it.
#[derive(Debug, Default)]
pub(super) struct Ticket(Option<u64>);

impl Gate {
    /// Pass once; when it is not the ticket's turn, the task is woken when it is.
    pub(super) fn poll_pass(&self, ticket: &mut Ticket, task: &Context<'_>) -> Poll<()> {
        let number = match ticket.0 {
            Some(number) => number,
            None => {
                let number = self.ticket_count.replace(self.ticket_count.get() + 1);
                if number >= self.admitted.get() {
                    self.waiting.borrow_mut().push_back(task.waker().clone());
                }
                // Whoever passes starts the clock for those behind.
                self.keeper.take().into_iter().for_each(Waker::wake);
                number
            }
        };
        if number < self.admitted.get() {
            ticket.0 = None;
            Poll::Ready(())
        } else {
            ticket.0 = Some(number);
            Poll::Pending
        }
    }

    /// Wait until somebody has asked to pass since the last [`admit`](Gate::admit).
    pub(super) async fn asked(&self) {
        poll_fn(|task| {
            if self.is_asked() {
                return Poll::Ready(());
            }
            *self.keeper.borrow_mut() = Some(task.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The core has breathed: let the next ones pass.
    pub(super) fn admit(&self) {
        let admitted = self.admitted.get().min(self.ticket_count.get()) + ADMITTED_PER_BREATH;
        self.admitted.set(admitted);
        let mut waiting = self.waiting.borrow_mut();
        for _ in 0..ADMITTED_PER_BREATH {
            let Some(waker) = waiting.pop_front() else { break };
            waker.wake();
        }
    }

    fn is_asked(&self) -> bool {
        self.ticket_count.get() + ADMITTED_PER_BREATH != self.admitted.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn few_pass_between_two_breaths_in_their_order() {
        let gate = Gate::default();
        let woken = Arc::new(Count::default());
        let waker = Waker::from(woken.clone());
        let task = Context::from_waker(&waker);
        gate.admit();
        assert!(!gate.is_asked(), "nobody there: the keeper sleeps");
        let mut tickets: Vec<Ticket> = (0..10).map(|_| Ticket::default()).collect();
        let passed = |tickets: &mut Vec<Ticket>, range: std::ops::Range<usize>| {
            range
                .map(|index| gate.poll_pass(&mut tickets[index], &task).is_ready())
                .filter(|ready| *ready)
                .count()
        };
        assert_eq!(passed(&mut tickets, 0..10), 4);
        assert!(gate.is_asked());
        assert_eq!(passed(&mut tickets, 4..10), 0, "asking again does not help");
        gate.admit();
        assert_eq!(woken.0.load(Ordering::Relaxed), 4);
        assert_eq!(passed(&mut tickets, 8..10), 0, "not before those who came first");
        assert_eq!(passed(&mut tickets, 4..8), 4);
        gate.admit();
        assert_eq!(woken.0.load(Ordering::Relaxed), 6);
        assert_eq!(passed(&mut tickets, 8..10), 2);
        // Unused admissions do not pile up.
        (0..100).for_each(|_| gate.admit());
        let mut more: Vec<Ticket> = (0..10).map(|_| Ticket::default()).collect();
        assert_eq!(passed(&mut more, 0..10), 4);
    }

    #[test]
    fn the_keeper_sleeps_until_somebody_comes() {
        let gate = Gate::default();
        gate.admit();
        let woken = Arc::new(Count::default());
        let keeper = Waker::from(woken.clone());
        let mut asked = Box::pin(gate.asked());
        let mut task = Context::from_waker(&keeper);
        assert!(asked.as_mut().poll(&mut task).is_pending());
        assert!(gate.poll_pass(&mut Ticket::default(), &Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(asked.as_mut().poll(&mut task).is_ready());
        gate.admit();
        assert!(!gate.is_asked());
    }
}
