//! Sockets and TLS of the load generator, on one glommio executor.

mod transport;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;
use glommio::{LocalExecutorBuilder, Placement};

use crate::device::Client;
use transport::Transport;

pub use transport::client_config;

const READ_BYTES: usize = 256 * 1024;

/// Run `job` on an executor of this thread, pinned to a CPU when one is given.
pub fn run<T>(cpu: Option<usize>, job: impl Future<Output = T>) -> Result<T, String> {
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    let executor = LocalExecutorBuilder::new(placement)
        .make()
        .map_err(|error| format!("the executor cannot start (is io_uring allowed?): {error}"))?;
    Ok(executor.run(job))
}

/// Sleep on the executor.
pub async fn sleep(duration: Duration) {
    glommio::timer::sleep(duration).await;
}

/// The connections of a run: how many are open, and the first error.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    open: Rc<Cell<u32>>,
    error: Rc<RefCell<Option<String>>>,
}

impl Connections {
    /// Start a client on a connection of its own. `begin` makes the machine and its first bytes.
    pub fn start<C: Client + 'static>(
        &self,
        address: SocketAddr,
        tls: Option<(Arc<rustls::ClientConfig>, String)>,
        begin: impl FnOnce(&mut Vec<u8>) -> C + 'static,
    ) {
        self.open.set(self.open.get() + 1);
        let connections = self.clone();
        glommio::spawn_local(async move {
            if let Err(error) = drive(address, tls, begin).await {
                connections.fail(error);
            }
            connections.open.set(connections.open.get() - 1);
        })
        .detach();
    }

    /// How many still run.
    pub fn open_count(&self) -> u32 {
        self.open.get()
    }

    /// The first error of any of them, once.
    pub fn take_error(&self) -> Option<String> {
        self.error.take()
    }

    fn fail(&self, error: String) {
        self.error.borrow_mut().get_or_insert(error);
    }
}

async fn drive<C: Client>(
    address: SocketAddr,
    tls: Option<(Arc<rustls::ClientConfig>, String)>,
    begin: impl FnOnce(&mut Vec<u8>) -> C,
) -> Result<(), String> {
    let mut stream =
        TcpStream::connect(address).await.map_err(|error| format!("cannot connect to {address}: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut transport = Transport::new(tls)?;
    let mut plaintext = Vec::new();
    let mut client = begin(&mut plaintext);
    let mut ciphertext = Vec::new();
    let mut received = vec![0; READ_BYTES];
    loop {
        client.fill(&mut plaintext);
        transport.seal(&mut plaintext, &mut ciphertext)?;
        if !ciphertext.is_empty() {
            stream.write_all(&ciphertext).await.map_err(|error| format!("write: {error}"))?;
            ciphertext.clear();
        }
        if client.is_finished() {
            return Ok(());
        }
        let count = stream.read(&mut received).await.map_err(|error| format!("read: {error}"))?;
        if count == 0 {
            return Err("the hub closed the connection".to_owned());
        }
        transport.open(&received[..count], &mut |bytes| client.handle(bytes, &mut plaintext))?;
    }
}
