//! Small requests and small answers over TCP and the loopback, with nothing behind them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Longest wait for readiness, before the end is looked at.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
const EVENTS_MAX: usize = 1024;

/// What is said, and between whom.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Connections at once; both ends are this process's, two descriptors each.
    pub connection_count: usize,
    /// Bytes of a request and of an answer.
    pub request_bytes: usize,
    /// Likewise.
    pub answer_bytes: usize,
    /// How many round trips a connection makes before another one takes its place; none: as many as there is time for.
    pub trips: Option<u32>,
    /// How long.
    pub time: Duration,
    /// The CPUs of server and client; none: any.
    pub cpus: Option<(usize, usize)>,
}

/// What was found.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Round trips per second.
    pub trips_per_s: f64,
    /// Connections that ended per second, opened and closed anew.
    pub connections_per_s: f64,
}

/// Measure on one address of the loopback.
///
/// # Errors
///
/// What the system says.
pub fn run(size: Size) -> Result<Figures, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("listen: {error}"))?;
    let address = listener.local_addr().map_err(|error| format!("listen: {error}"))?;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(listener, size, &is_over));
        // A thread of its own: the caller is not to stay on the client's CPU.
        let client = scope.spawn(|| load(address, size));
        let found = client.join().map_err(|_| "the client has panicked".to_owned());
        is_over.store(true, Ordering::Relaxed);
        server.join().map_err(|_| "the server has panicked")??;
        found?
    })
}

/// Connections, found by their descriptors.
struct Table {
    epoll: OwnedFd,
    connections: Vec<Option<(TcpStream, u32)>>,
    events: Vec<epoll::Event>,
}

impl Table {
    fn new() -> Result<Self, String> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
        Ok(Self { epoll, connections: Vec::new(), events: Vec::with_capacity(EVENTS_MAX) })
    }

    fn add(&mut self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let index = stream.as_raw_fd() as usize;
        epoll::add(&self.epoll, &stream, EventData::new_u64(index as u64), EventFlags::IN)?;
        if index >= self.connections.len() {
            self.connections.resize_with(index + 1, || None);
        }
        self.connections[index] = Some((stream, 0));
        Ok(())
    }

    /// Wait for those that may be read. The caller takes the list out.
    fn wait(&mut self) -> Result<Vec<usize>, String> {
        self.events.clear();
        epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&WAIT))
            .map_err(|error| format!("epoll: {error}"))?;
        Ok(self.events.iter().map(|event| event.data.u64() as usize).collect())
    }
}

fn serve(listener: TcpListener, size: Size, is_over: &AtomicBool) -> Result<(), String> {
    pin(size.cpus.map(|(server, _)| server))?;
    let mut table = Table::new()?;
    let door = listener.as_raw_fd() as usize;
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    epoll::add(&table.epoll, &listener, EventData::new_u64(door as u64), EventFlags::IN)
        .map_err(|error| format!("epoll: {error}"))?;
    let (mut bytes, answer) = (vec![0; 64 << 10], vec![0x5a; size.answer_bytes]);
    while !is_over.load(Ordering::Relaxed) {
        for index in table.wait()? {
            if index == door {
                loop {
                    match listener.accept().and_then(|(stream, _)| table.add(stream)) {
                        Ok(()) => {}
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(format!("accept: {error}")),
                    }
                }
                continue;
            }
            let Some((stream, _)) = &mut table.connections[index] else { continue };
            let answered = match stream.read(&mut bytes) {
                Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => stream.write_all(&answer),
                Err(error) => Err(error),
            };
            if answered.is_err_and(|error| error.kind() != ErrorKind::WouldBlock) {
                table.connections[index] = None;
            }
        }
    }
    Ok(())
}

fn load(address: SocketAddr, size: Size) -> Result<Figures, String> {
    pin(size.cpus.map(|(_, client)| client))?;
    let (mut table, request) = (Table::new()?, vec![0x5a; size.request_bytes]);
    let open = |table: &mut Table| {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(&request)?;
        table.add(stream)
    };
    for _ in 0..size.connection_count {
        open(&mut table).map_err(|error| format!("connect: {error}"))?;
    }
    let (mut trips, mut ended) = (0_u64, 0_u64);
    let (mut bytes, began) = (vec![0; 64 << 10], Instant::now());
    while began.elapsed() < size.time {
        for index in table.wait()? {
            let Some((stream, made)) = &mut table.connections[index] else { continue };
            match stream.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(format!("read: {error}")),
                Ok(0) => return Err("the server has gone".to_owned()),
                Ok(_) => {}
            }
            trips += 1;
            *made += 1;
            if size.trips == Some(*made) {
                ended += 1;
                table.connections[index] = None;
                open(&mut table).map_err(|error| format!("connect: {error}"))?;
            } else {
                stream.write_all(&request).map_err(|error| format!("write: {error}"))?;
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Figures { trips_per_s: trips as f64 / seconds, connections_per_s: ended as f64 / seconds })
}

fn pin(cpu: Option<usize>) -> Result<(), String> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut cpus = CpuSet::new();
    if cpu < CpuSet::MAX_CPU {
        cpus.set(cpu);
    }
    sched_setaffinity(None, &cpus).map_err(|error| format!("cannot run on CPU {cpu}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Size = Size {
        connection_count: 5,
        request_bytes: 330,
        answer_bytes: 60,
        trips: None,
        time: Duration::from_millis(100),
        cpus: None,
    };

    #[test]
    fn requests_are_answered() {
        let found = run(SMALL).unwrap();
        assert!(found.trips_per_s > 0.0 && found.connections_per_s == 0.0, "{found:?}");
    }

    #[test]
    fn connections_take_the_place_of_others() {
        let found = run(Size { trips: Some(2), ..SMALL }).unwrap();
        assert!(found.connections_per_s > 0.0, "{found:?}");
        assert!(found.trips_per_s >= 2.0 * found.connections_per_s, "{found:?}");
    }
}
