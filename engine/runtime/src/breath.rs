//! Letting the core's rings go first.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use glommio::timer::Timer;

/// Ready once the executor has looked at its rings and timers after this was polled first.
///
/// glommio does that only when no task is ready to run, so tasks that keep waking each other would never learn that the
/// disk or a socket has answered. Its preemption timer is no way out: where that fires before the first task of a round
/// has run, the executor sleeps on its ready tasks. A timer of its own is noticed exactly when the rings are looked at.
#[derive(Default)]
pub(crate) struct Breath {
    timer: Option<Timer>,
    taken: bool,
}

impl Breath {
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.taken {
            return Poll::Ready(());
        }
        if let Some(timer) = &mut self.timer {
            if Pin::new(timer).poll(context).is_pending() {
                return Poll::Pending;
            }
            self.timer = None;
            self.taken = true;
            return Poll::Ready(());
        }
        // As short as can be, or the core would sleep for it; but one that is over already would not wait for the rings.
        let mut nanoseconds = 500;
        loop {
            let mut timer = Timer::new(Duration::from_nanos(nanoseconds));
            if Pin::new(&mut timer).poll(context).is_pending() {
                self.timer = Some(timer);
                return Poll::Pending;
            }
            nanoseconds *= 2;
        }
    }
}

/// Wait for a [`Breath`].
pub(crate) async fn breathe() {
    let mut breath = Breath::default();
    poll_fn(|context| breath.poll(context)).await;
}
