//! The listeners of a core, and the tasks of the connections that they accept.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine_runtime::{CoreContext, OutsideDesk};
use futures_lite::{FutureExt, future};
use glommio::GlommioError;
use glommio::net::{TcpListener, TcpStream};
use glommio::timer::sleep;
use tracing::{debug, error, info, warn};

use super::counters::Counters;
use super::gate::Gate;
use super::handoff;
use super::pending::WireBuffer;
use super::pump::{self, Pump};
use crate::binding::HubInfo;
use crate::stack::{Port, Stack, open_binding};
use crate::strangers::Strangers;
use crate::tls::Acceptor;

/// What one read may bring: one buffer of a core, shared by all its connections.
const SCRATCH_BYTES: usize = 256 * 1024;

/// Waits after an accept that failed for lack of descriptors or memory: from, to.
const ACCEPT_BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Connections of an earlier run that nobody acknowledges any more can hold a port for a moment.
const LISTEN_RETRIES: u32 = 25;
const LISTEN_RETRY_PAUSE: Duration = Duration::from_millis(200);

/// A log line about a repeated trouble comes at most this often.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// One address that the hub listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What it speaks.
    pub port: Port,
    /// Where.
    pub address: SocketAddr,
}

/// The hub's front, the same on all cores.
#[derive(Clone)]
pub struct Front {
    /// Where it listens.
    pub endpoints: Vec<Endpoint>,
    /// How it does TLS.
    pub acceptor: Acceptor,
    /// Whom it speaks for.
    pub hub: Arc<HubInfo>,
    /// Told once by each core: it listens, or why it cannot.
    pub listening: Sender<Result<(), String>>,
    /// How long the answer to a failed login waits at most, milliseconds.
    pub failed_login_delay_ms_max: u64,
    /// For the hub's own jobs; the first core takes it.
    pub desk: Arc<Mutex<Option<OutsideDesk>>>,
}

/// What the connections of a core share. The buffers are used within one turn of one connection and hold nothing between
/// turns.
pub(super) struct Shared {
    pub(super) context: CoreContext,
    pub(super) acceptor: Acceptor,
    pub(super) hub: Arc<HubInfo>,
    pub(super) scratch: RefCell<Vec<u8>>,
    pub(super) plaintext: RefCell<Vec<u8>>,
    pub(super) wire: WireBuffer,
    pub(super) gate: Gate,
    pub(super) counters: Counters,
    pub(super) strangers: RefCell<Strangers>,
}

/// Listen on this core until the hub stops; its connections run on beside it and end by themselves.
pub async fn serve_core(context: CoreContext, front: Front) {
    let shared = Rc::new(Shared {
        context: context.clone(),
        acceptor: front.acceptor,
        hub: front.hub,
        scratch: RefCell::new(vec![0; SCRATCH_BYTES]),
        plaintext: RefCell::default(),
        wire: WireBuffer::default(),
        gate: Gate::default(),
        counters: Counters::default(),
        strangers: RefCell::new(Strangers::new(front.failed_login_delay_ms_max)),
    });
    handoff::open_core(&shared);
    if context.core.0 == 0
        && let Some(desk) = front.desk.lock().unwrap_or_else(PoisonError::into_inner).take()
    {
        glommio::spawn_local(desk.serve(context.clone())).detach();
    }
    let mut listeners = Vec::new();
    for endpoint in &front.endpoints {
        match listen(endpoint.address).await {
            Ok(listener) => listeners.push((*endpoint, listener)),
            Err(error) => {
                // The receiver stops the hub; should it have gone, the hub is stopping already.
                let _ = front.listening.send(Err(format!("{}: {error}", endpoint.address)));
                return;
            }
        }
    }
    let _ = front.listening.send(Ok(()));
    for (endpoint, listener) in listeners {
        let shared = shared.clone();
        glommio::spawn_local(async move { accept_all(&shared, endpoint, listener).await }).detach();
    }
    let keeper = {
        let shared = shared.clone();
        async move {
            loop {
                shared.gate.asked().await;
                shared.context.breathe().await;
                shared.gate.admit();
            }
        }
    };
    future::or(context.stopping.wait(), keeper).await;
    info!(core = context.core.0, "connections: {}", shared.counters.snapshot());
}

async fn listen(address: SocketAddr) -> Result<TcpListener, GlommioError<()>> {
    let mut tries = 0;
    loop {
        match TcpListener::bind(address) {
            Err(GlommioError::IoError(error))
                if error.kind() == io::ErrorKind::AddrInUse && tries < LISTEN_RETRIES =>
            {
                tries += 1;
                sleep(LISTEN_RETRY_PAUSE).await;
            }
            result => return result,
        }
    }
}

async fn accept_all(shared: &Rc<Shared>, endpoint: Endpoint, listener: TcpListener) {
    let stopping = &shared.context.stopping;
    let mut spare = Spare::new();
    let mut pause = ACCEPT_BACKOFF.0;
    let mut troubles = Seldom::default();
    let mut fulls = Seldom::default();
    while !stopping.is_set() {
        let accepted = async { Some(listener.accept().await) };
        let stopped = async {
            stopping.wait().await;
            None
        };
        match future::or(accepted, stopped).await {
            None => return,
            Some(Ok(stream)) => {
                pause = ACCEPT_BACKOFF.0;
                match stream.peer_addr() {
                    Ok(peer) => {
                        if !open(shared, endpoint.port, stream, peer) && fulls.is_due() {
                            warn!(
                                core = shared.context.core.0,
                                "{} connections are as many as this core takes: new ones are closed at once",
                                shared.context.connections.len()
                            );
                        }
                    }
                    // It has gone again.
                    Err(error) => debug!("a connection vanished: {error}"),
                }
            }
            Some(Err(error)) => {
                shared.counters.accept_failures.count();
                if troubles.is_due() {
                    warn!(core = shared.context.core.0, "cannot accept on {}: {error}", endpoint.address);
                }
                // A descriptor kept aside for this takes one waiting client off the queue, so that it learns at once.
                if spare.release() {
                    let next = async { drop(listener.accept().await) };
                    future::or(next, async {
                        sleep(ACCEPT_BACKOFF.0).await;
                    })
                    .await;
                    spare = Spare::new();
                }
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_BACKOFF.1);
            }
        }
    }
}

/// Start an accepted connection; false when there are too many.
fn open(shared: &Rc<Shared>, port: Port, stream: TcpStream, peer: SocketAddr) -> bool {
    // Replies are small and waited for. A socket that refuses this has been closed.
    let _ = stream.set_nodelay(true);
    let now_ms = shared.context.clock.now().mono_ms;
    match Stack::open(port, &shared.acceptor, open_binding, now_ms) {
        Ok(stack) => {
            let has_room = spawn(shared, stream, stack, peer, false);
            if has_room {
                shared.counters.accepted.count();
            }
            has_room
        }
        Err(error) => {
            debug!(%peer, "{error}");
            true
        }
    }
}

/// Start a connection's task on this core; false when there are too many. `has_moved`: it stays here.
pub(super) fn spawn(
    shared: &Rc<Shared>,
    stream: TcpStream,
    stack: Stack,
    peer: SocketAddr,
    has_moved: bool,
) -> bool {
    let Ok(handle) = shared.context.connections.register() else {
        shared.counters.refused_full.count();
        return false;
    };
    let shared = shared.clone();
    let id = handle.id();
    let pump = Pump::new(shared.clone(), stack, peer, handle, has_moved);
    let stream = Box::new(stream);
    let task = async move {
        let connection = pump::run(pump, stream);
        // One connection's defect must not take down the core and everybody on it.
        if AssertUnwindSafe(connection).catch_unwind().await.is_err() {
            shared.counters.panics.count();
            error!(%peer, ?id, "a connection's task panicked and was closed: please report this");
        }
    };
    glommio::spawn_local(task).detach();
    true
}

/// A descriptor held in reserve for when there are no others.
struct Spare(Option<File>);

impl Spare {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Give it back to the system; false when there was none.
    fn release(&mut self) -> bool {
        self.0.take().is_some()
    }
}

/// Lets a repeated log line through now and then.
#[derive(Default)]
struct Seldom(Option<Instant>);

impl Seldom {
    fn is_due(&mut self) -> bool {
        let is_due = self.0.is_none_or(|last| last.elapsed() >= WARN_INTERVAL);
        if is_due {
            self.0 = Some(Instant::now());
        }
        is_due
    }
}
