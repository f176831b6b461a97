//! A relay between clients and a hub, on an address of its own: what goes through it can be cut off while both ends live.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::hub::own_address;

/// The ports that devices know.
const PORTS: [u16; 3] = [443, 5671, 8883];

/// Relays until its test ends.
#[derive(Debug)]
pub struct Relay {
    address: Ipv4Addr,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    /// Relay the ports of devices to the hub at `host`, which need not listen yet.
    pub fn start(host: &str) -> Self {
        let relay = Self { address: own_address(), streams: Arc::default() };
        for port in PORTS {
            let listener = TcpListener::bind((relay.address, port)).expect("an address of our own is free");
            let (target, streams) = ((host.to_owned(), port), Arc::clone(&relay.streams));
            std::thread::spawn(move || {
                for client in listener.incoming() {
                    // Where the hub does not listen, the client finds its connection closed.
                    let joined = client.and_then(|client| join(client, &target));
                    locked(&streams).extend(joined.into_iter().flatten());
                }
            });
        }
        relay
    }

    /// Its address as clients write it.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Close all that is open, in both directions; how many connections that were. New ones are taken as before.
    pub fn cut(&self) -> usize {
        let streams = std::mem::take(&mut *locked(&self.streams));
        // Who has gone already needs no closing.
        let cut = streams.iter().filter(|stream| stream.shutdown(Shutdown::Both).is_ok()).count();
        cut.div_ceil(2)
    }
}

/// Connect the client with its target; the two streams.
fn join(client: TcpStream, target: &(String, u16)) -> io::Result<[TcpStream; 2]> {
    let hub = TcpStream::connect((target.0.as_str(), target.1))?;
    for (from, to) in [(&client, &hub), (&hub, &client)] {
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        std::thread::spawn(move || {
            // Either end may go at any time; the other one is told.
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok([client, hub])
}

fn locked(streams: &Mutex<Vec<TcpStream>>) -> MutexGuard<'_, Vec<TcpStream>> {
    streams.lock().expect("nobody panics while the list is held")
}
