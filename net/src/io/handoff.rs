//! The way of a connection to another core: its machine moves, its socket gets a new stream there.
//!
//! Every request of a device's connection goes to the core of the device's partition. A connection that lands elsewhere and
//! belongs to one device moves there once, as soon as it has proved who it is, and crosses no mailbox from then on. A stream
//! of glommio belongs to the core that made it, so the socket is duplicated, and a new stream is made from it over there.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;

use engine::placement::{device_partition, partition_core};
use engine::request::CoreId;
use glommio::net::TcpStream;
use tracing::{debug, warn};

use super::listener::{self, Shared};
use crate::stack::Stack;

thread_local! {
    /// What the connections of this thread's core share: a call from another core has no other way to it.
    static HERE: RefCell<Option<Rc<Shared>>> = const { RefCell::new(None) };
}

/// From now on connections may move to this core.
pub(super) fn open_core(shared: &Rc<Shared>) {
    HERE.replace(Some(Rc::clone(shared)));
}

/// Where the connection should go; none: it is there, or has no one place.
pub(super) fn destination(shared: &Shared, stack: &Stack) -> Option<CoreId> {
    if shared.context.core_count == 1 {
        return None;
    }
    let partition = device_partition(&stack.home()?, shared.hub.partition_count);
    let core = partition_core(partition, shared.context.core_count);
    (core != shared.context.core).then_some(core)
}

/// Send a connection to `core`. Nothing of it may be under way but what lies in the socket. Where `core` has no room for
/// messages it goes on here.
pub(super) fn depart(shared: &Shared, core: CoreId, stream: TcpStream, stack: Stack, peer: SocketAddr) {
    let socket = match duplicate(&stream) {
        Ok(socket) => socket,
        Err(error) => {
            shared.counters.moves_failed.count();
            warn!(%peer, "a connection is lost: it cannot be moved to its device's core: {error}");
            return;
        }
    };
    drop(stream);
    if let Err(call) = shared.context.send_to_core(core, Box::new(move |_| arrive(socket, stack, peer))) {
        call(&shared.context);
    }
}

/// Go on with a connection on this core.
fn arrive(socket: OwnedFd, stack: Stack, peer: SocketAddr) {
    let Some(shared) = HERE.with_borrow(Clone::clone) else {
        debug!(%peer, "a connection is lost: it moved to a core that does not listen yet");
        return;
    };
    shared.counters.moved_in.count();
    if !listener::spawn(&shared, stream(socket), stack, peer, true) {
        debug!(%peer, "a connection is lost: its device's core has as many as it takes");
    }
}

/// A second descriptor of the stream's socket.
fn duplicate(stream: &TcpStream) -> io::Result<OwnedFd> {
    // SAFETY: the stream owns the descriptor and outlives the borrow, which ends with this function.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    socket.try_clone_to_owned()
}

/// A stream on this core over a socket that nobody else uses.
fn stream(socket: OwnedFd) -> TcpStream {
    // SAFETY: the descriptor is open, is a TCP socket's (`duplicate` is the only source), and its only owner gives it up here.
    unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }
}
