//! The life of a core's loop: serve, say goodbye, flush, end.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use glommio::timer::Timer;

use crate::breath::Breath;
use crate::context::CoreContext;
use crate::core::Core;
use crate::fatal::FatalOnPanic;
use crate::limits::{SLEEP_MS_MAX, STOP_CONNECTIONS_PERCENT};
use crate::shared::Shared;

/// Run a core until it is stopped: its turns, and `application` beside them. Returns whether its end was orderly.
///
/// The stop has three steps. Connections say goodbye while everything still works. When no core asks anything any more,
/// each one flushes its partitions and seals their logs. Then the shards and their files go. Each step has a deadline, so that a peer that does
/// not answer, or a disk that hangs, cannot hold up the end.
pub(crate) async fn run_core<F: Future<Output = ()> + 'static>(
    core: Rc<Core>,
    shared: Arc<Shared>,
    disk_idle: impl Fn() -> bool,
    application: impl FnOnce(CoreContext) -> F,
) -> bool {
    let context = CoreContext::new(&core);
    let application_ended = Rc::new(Cell::new(false));
    {
        let (core, ended, context) = (Rc::clone(&core), Rc::clone(&application_ended), context.clone());
        let application = application(context);
        glommio::spawn_local(async move {
            let _fatal = FatalOnPanic::new("application's task of a core");
            application.await;
            ended.set(true);
            core.ring();
        })
        .detach();
    }

    let mut sleeper = Sleeper::default();
    let mut step = Step::Serving;
    let mut clean = true;
    loop {
        let turn_timeout_ms = core.turn(&context);
        let now_ms = core.clock.mono_ms();
        let begun_ms = shared.stop_begun_ms();
        let after = |percent| begun_ms.map(|begun| begun + shared.stop_timeout_ms * percent / 100);
        let (quiet_by_ms, end_by_ms) = (after(STOP_CONNECTIONS_PERCENT), after(100));
        let is_past = |deadline: Option<u64>| deadline.is_some_and(|deadline| deadline <= now_ms);

        let before = step;
        match step {
            Step::Serving if begun_ms.is_some() => {
                core.connections.borrow_mut().begin_stop();
                core.stopping.set();
                step = Step::Leaving;
            }
            Step::Leaving => {
                let connection_count = core.connections.borrow().live_count();
                let gone = connection_count == 0 && application_ended.get();
                if gone || is_past(quiet_by_ms) {
                    if !gone {
                        clean = false;
                        tracing::warn!(core = core.id.0, connection_count, "connections did not end in time");
                    }
                    shared.note_quiet();
                    step = Step::Quiet;
                }
            }
            Step::Quiet if shared.all_are_quiet() || is_past(end_by_ms) => {
                core.begin_flush();
                step = Step::Flushing;
            }
            Step::Flushing => {
                let flushed = core.flushed();
                if flushed.is_some() {
                    clean &= flushed == Some(true);
                    core.begin_close();
                    step = Step::Sealing;
                }
                if is_past(end_by_ms) {
                    clean = false;
                    tracing::error!(core = core.id.0, "the disk did not take everything in time");
                    break;
                }
            }
            Step::Sealing => {
                if core.is_closed() && disk_idle() {
                    break;
                }
                if is_past(end_by_ms) {
                    // Nothing is lost: the next start looks through the last segments.
                    clean = false;
                    tracing::error!(core = core.id.0, "the logs were not sealed in time");
                    break;
                }
            }
            Step::Serving | Step::Quiet => {}
        }
        if step == before {
            let stop_timeout_ms = if step == Step::Leaving { quiet_by_ms } else { end_by_ms };
            let timeout_ms = [turn_timeout_ms, stop_timeout_ms].into_iter().flatten().min();
            sleeper.sleep(&core, &shared, timeout_ms).await;
        }
    }
    core.end();
    clean
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Serving,
    Leaving,
    Quiet,
    Flushing,
    Sealing,
}

/// Sleeps until the core's bell rings or a time has come, at least until the rings have been looked at. Keeps its timer
/// from one sleep to the next while the time only moves later: a needless turn is cheaper than a new timer in each.
#[derive(Default)]
struct Sleeper {
    timer: Option<(u64, Timer)>,
}

impl Sleeper {
    async fn sleep(&mut self, core: &Core, shared: &Shared, timeout_ms: Option<u64>) {
        let now_ms = core.clock.mono_ms();
        let timeout_ms = timeout_ms.unwrap_or(u64::MAX).min(now_ms + SLEEP_MS_MAX);
        if self.timer.as_ref().is_none_or(|(armed_ms, _)| *armed_ms > timeout_ms || *armed_ms <= now_ms) {
            let duration = Duration::from_millis(timeout_ms.saturating_sub(now_ms));
            self.timer = Some((timeout_ms, Timer::new(duration)));
        }
        let signal = shared.signal(core.id);
        let mut breath = Breath::default();
        poll_fn(|context| {
            if breath.poll(context).is_pending() {
                return Poll::Pending;
            }
            if signal.poll_rung(context).is_ready() {
                return Poll::Ready(());
            }
            let (_, timer) = self.timer.as_mut().expect("it was armed");
            if Pin::new(timer).poll(context).is_pending() {
                return Poll::Pending;
            }
            self.timer = None;
            Poll::Ready(())
        })
        .await;
    }
}
