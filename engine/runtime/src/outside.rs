//! A door for threads that are no core and may sleep: what they ask is asked by a task of a core, as by a connection.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use engine::door::Door;
use engine::request::{Caller, Reply, Request};

use crate::connections::Delivery;
use crate::context::CoreContext;

/// When a question that the engine was too busy to take is asked again.
const RETRY_MS: u64 = 20;

/// The hub does not answer any more: it stops, or never began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the hub is stopping")]
pub struct OutsideClosed;

/// The asking end. Clones ask the same desk. Each call sleeps until it is answered, so there is never more under way than one
/// batch for each thread that asks.
#[derive(Clone)]
pub struct OutsideDoor(Arc<Mutex<Line>>);

/// The core's end, see [`OutsideDesk::serve`]. When it goes, whoever waits is told [`OutsideClosed`].
pub struct OutsideDesk(Arc<Mutex<Line>>);

/// What waits to be asked. The lock is held for no longer than a push or a pop takes.
#[derive(Default)]
struct Line {
    errands: VecDeque<Errand>,
    waker: Option<Waker>,
    is_closed: bool,
}

struct Errand {
    request: Request,
    mark: Mark,
}

/// Where an answer belongs.
struct Mark {
    index: usize,
    told: Sender<(usize, Reply)>,
}

/// A door and the desk behind it.
pub fn outside_door() -> (OutsideDoor, OutsideDesk) {
    let line = Arc::new(Mutex::new(Line::default()));
    (OutsideDoor(Arc::clone(&line)), OutsideDesk(line))
}

impl OutsideDoor {
    /// Ask all of `requests`, which have answers and are no appends, and sleep until all are answered, in their order.
    ///
    /// # Errors
    ///
    /// [`OutsideClosed`]: some or all were not answered, although they may have been done.
    pub fn ask(&self, requests: Vec<Request>) -> Result<Vec<Reply>, OutsideClosed> {
        let mut replies = vec![None; requests.len()];
        let (told, answers) = channel();
        let mut line = lock(&self.0);
        if line.is_closed {
            return Err(OutsideClosed);
        }
        line.errands.extend(
            requests
                .into_iter()
                .enumerate()
                .map(|(index, request)| Errand { request, mark: Mark { index, told: told.clone() } }),
        );
        let waker = line.waker.take();
        drop((line, told));
        waker.into_iter().for_each(Waker::wake);
        for _ in 0..replies.len() {
            let (index, reply) = answers.recv().map_err(|_| OutsideClosed)?;
            replies[index] = Some(reply);
        }
        replies.into_iter().map(|reply| reply.ok_or(OutsideClosed)).collect()
    }
}

impl OutsideDesk {
    /// Ask for those outside until the hub stops. To be spawned on one core.
    pub async fn serve(self, context: CoreContext) {
        let Ok(handle) = context.connections.register() else {
            tracing::error!(core = context.core.0, "no connection is left for the hub's own jobs");
            return;
        };
        let mut door = context.door.clone();
        let mut asked: HashMap<u64, Mark> = HashMap::new();
        let mut token = 0;
        loop {
            let mut is_busy = false;
            while !is_busy && let Some(Errand { request, mark }) = self.take() {
                let caller = Caller { connection: handle.id(), token };
                match door.ask(caller, request.clone()) {
                    Ok(()) => {
                        asked.insert(token, mark);
                        token += 1;
                    }
                    Err(_) => {
                        lock(&self.0).errands.push_front(Errand { request, mark });
                        is_busy = true;
                    }
                }
            }
            handle.set_deadline(is_busy.then(|| context.clock.now().mono_ms + RETRY_MS));
            let delivery = poll_fn(|task| match !is_busy && self.has_work(task) {
                true => Poll::Ready(None),
                false => handle.poll_delivery(task).map(Some),
            });
            match delivery.await {
                Some(Delivery::Reply { token, reply }) => {
                    if let Some(Mark { index, told }) = asked.remove(&token) {
                        // Whoever asked may have ended meanwhile.
                        let _ = told.send((index, reply));
                    }
                }
                Some(Delivery::Stopping) => return,
                _ => {}
            }
        }
    }

    fn take(&self) -> Option<Errand> {
        lock(&self.0).errands.pop_front()
    }

    /// Whether something waits to be asked; when not, the task is woken when it does.
    fn has_work(&self, task: &Context<'_>) -> bool {
        let mut line = lock(&self.0);
        if line.errands.is_empty() {
            line.waker = Some(task.waker().clone());
        }
        !line.errands.is_empty()
    }
}

impl Drop for OutsideDesk {
    fn drop(&mut self) {
        let mut line = lock(&self.0);
        line.is_closed = true;
        line.errands.clear();
    }
}

/// A panic of somebody else who held the lock leaves nothing half done.
fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::request::PartitionId;

    #[test]
    fn a_desk_that_goes_tells_those_who_wait() {
        let (door, desk) = outside_door();
        let flush = || vec![Request::Flush { partition: PartitionId(0) }];
        let waiting = {
            let door = door.clone();
            std::thread::spawn(move || door.ask(flush()))
        };
        while lock(&door.0).errands.is_empty() {
            std::thread::yield_now();
        }
        drop(desk);
        assert_eq!(waiting.join().unwrap().unwrap_err(), OutsideClosed);
        assert_eq!(door.ask(flush()).unwrap_err(), OutsideClosed);
    }
}
