//! Threads for work that can sleep: making, sealing and mapping segment files, snapshots.
//!
//! There are three lanes, so that a segment of 256 MiB being filled with zeros never holds up a reader that waits for a map,
//! nor a snapshot the next segment.
//! glommio's own thread is not used for this: it is one per core, and pinned to that core.

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::{io, thread};

use crate::fatal::FatalOnPanic;

/// Which work waits for which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Milliseconds, and somebody waits: maps, reads, seals, removals.
    Quick,
    /// As long as it takes: snapshots.
    Slow,
    /// New segments, one after the other: a disk that is filled from two sides at once keeps every commit waiting.
    Fill,
}

type Work = Box<dyn FnOnce() + Send>;

/// The way to the helper threads. They end once all clones are gone and what was asked is done.
#[derive(Clone)]
pub(crate) struct Helpers {
    quick: Sender<Work>,
    slow: Sender<Work>,
    fill: Sender<Work>,
}

/// The threads themselves.
pub(crate) struct HelperThreads(Vec<JoinHandle<()>>);

impl Helpers {
    /// Start `thread_count` threads for each lane, and one for [`Lane::Fill`].
    ///
    /// # Errors
    ///
    /// The operating system's, when it gives no thread.
    pub(crate) fn start(thread_count: usize) -> io::Result<(Self, HelperThreads)> {
        let mut threads = Vec::new();
        let quick = start_lane("quick", thread_count, &mut threads)?;
        let slow = start_lane("slow", thread_count, &mut threads)?;
        let fill = start_lane("fill", 1, &mut threads)?;
        Ok((Self { quick, slow, fill }, HelperThreads(threads)))
    }

    /// Have `work` done by a thread of `lane`, beginning now, whether the answer is awaited or not. A panic in it ends the
    /// process: a log whose disk work vanished cannot go on.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Answer<T> {
        let answer = Answer(Arc::new(Mutex::new(AnswerState { value: None, waker: None })));
        let told = Arc::clone(&answer.0);
        let work = Box::new(move || {
            let value = work();
            let mut state = lock(&told);
            state.value = Some(value);
            let waker = state.waker.take();
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        });
        let sender = match lane {
            Lane::Quick => &self.quick,
            Lane::Slow => &self.slow,
            Lane::Fill => &self.fill,
        };
        sender.send(work).expect("a lane's threads live as long as its senders");
        answer
    }
}

impl HelperThreads {
    /// Wait until all work is done; every [`Helpers`] must be gone.
    pub(crate) fn join(self) {
        for thread in self.0 {
            // A panic has ended the process before it could be seen here.
            let _ = thread.join();
        }
    }

    /// Whether all of them have ended.
    pub(crate) fn are_finished(&self) -> bool {
        self.0.iter().all(JoinHandle::is_finished)
    }
}

/// What a helper thread will tell.
pub(crate) struct Answer<T>(Arc<Mutex<AnswerState<T>>>);

struct AnswerState<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

impl<T> Future for Answer<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut state = lock(&self.0);
        if let Some(value) = state.value.take() {
            return Poll::Ready(value);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

fn start_lane(
    name: &str,
    thread_count: usize,
    threads: &mut Vec<JoinHandle<()>>,
) -> io::Result<Sender<Work>> {
    let (sender, receiver) = channel::<Work>();
    let receiver = Arc::new(Mutex::new(receiver));
    for index in 0..thread_count {
        let receiver = Arc::clone(&receiver);
        let thread = thread::Builder::new().name(format!("{name}-{index}"));
        threads.push(thread.spawn(move || work_off(&receiver))?);
    }
    Ok(sender)
}

fn work_off(receiver: &Mutex<Receiver<Work>>) {
    let _fatal = FatalOnPanic::new("helper thread");
    loop {
        // Idle threads queue at the lock; the one that holds it sleeps in the channel.
        let work = lock(receiver).recv();
        match work {
            Ok(work) => work(),
            Err(_) => return,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn block_on<T>(answer: Answer<T>) -> T {
        let mut answer = std::pin::pin!(answer);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            match answer.as_mut().poll(&mut context) {
                Poll::Ready(value) => return value,
                Poll::Pending => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    #[test]
    fn slow_work_does_not_hold_up_quick_work() {
        let (helpers, threads) = Helpers::start(1).expect("threads");
        let (release, held) = mpsc::channel::<()>();
        let slow = helpers.run(Lane::Slow, move || held.recv().is_ok());
        assert_eq!(block_on(helpers.run(Lane::Quick, || 6 * 7)), 42);
        release.send(()).expect("the slow work waits");
        assert!(block_on(slow));
        drop(helpers);
        threads.join();
    }

    #[test]
    fn work_asked_is_done_although_nobody_waits() {
        let (helpers, threads) = Helpers::start(2).expect("threads");
        let (sender, receiver) = mpsc::channel();
        for number in 0..100 {
            let sender = sender.clone();
            drop(helpers.run(Lane::Quick, move || sender.send(number)));
        }
        drop((helpers, sender));
        threads.join();
        assert_eq!(receiver.iter().count(), 100);
    }
}
