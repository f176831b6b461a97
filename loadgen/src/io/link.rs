//! One socket with its transport: connecting without waiting, reading and writing what goes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::transport::{Tls, Transport};

/// With more than this waiting for the server nothing more is made for it.
const WIRE_BYTES_MAX: usize = 1024 * 1024;

/// A socket that is connecting or stands.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: TcpStream,
    pub(super) transport: Transport,
    pub(super) is_connected: bool,
    /// Sealed bytes that the socket has not taken yet, from `wire_start` on.
    wire: Vec<u8>,
    wire_start: usize,
}

/// What reading came to.
pub(super) enum Got {
    Bytes(usize),
    Nothing,
    End,
}

impl Link {
    /// Begin to connect.
    pub(super) fn open(address: SocketAddr, tls: Option<&Tls>) -> Result<Self, String> {
        let failed = |error: Errno| match error {
            Errno::MFILE | Errno::NFILE => {
                "too few file descriptors: raise ulimit -n, or use more --processes".to_owned()
            }
            error => format!("cannot connect to {address}: {error}"),
        };
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(failed)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(failed(error)),
        }
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let transport = Transport::new(tls)?;
        Ok(Self { stream, transport, is_connected: false, wire: Vec::new(), wire_start: 0 })
    }

    /// Whether connecting has come to an end, and what end.
    pub(super) fn finish_connecting(&mut self, address: SocketAddr) -> Result<(), String> {
        match self.stream.take_error() {
            Ok(None) => {
                self.is_connected = true;
                Ok(())
            }
            Ok(Some(error)) | Err(error) => Err(format!("cannot connect to {address}: {error}")),
        }
    }

    pub(super) fn read(&mut self, room: &mut [u8]) -> Result<Got, String> {
        loop {
            return match self.stream.read(room) {
                Ok(0) => Ok(Got::End),
                Ok(count) => Ok(Got::Bytes(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Got::Nothing),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // To whoever speaks the protocol it is the same as an end.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Got::End),
                Err(error) => Err(format!("read: {error}")),
            };
        }
    }

    /// Seal plaintext and write what the socket takes. True: all of it.
    pub(super) fn write(&mut self, plaintext: &mut Vec<u8>) -> Result<bool, String> {
        self.transport.seal(plaintext, &mut self.wire)?;
        while self.wire_start < self.wire.len() {
            match self.stream.write(&self.wire[self.wire_start..]) {
                Ok(count) => self.wire_start += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.forget_written();
                    return Ok(false);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What the server said before it hung up is still to be read.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    self.wire_start = self.wire.len();
                }
                Err(error) => return Err(format!("write: {error}")),
            }
        }
        self.wire_start = 0;
        self.wire.clear();
        if plaintext.capacity() == 0 {
            // Without TLS the buffers were exchanged: the shared one goes back.
            std::mem::swap(plaintext, &mut self.wire);
        }
        Ok(true)
    }

    /// A socket that never takes everything would otherwise have all that was ever sent kept.
    fn forget_written(&mut self) {
        if self.wire_start > WIRE_BYTES_MAX {
            self.wire.drain(..self.wire_start);
            self.wire_start = 0;
        }
    }

    /// Whether so much waits for the server that nothing more is to be made for it.
    pub(super) fn is_full(&self) -> bool {
        self.wire.len() - self.wire_start > WIRE_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

    use super::*;

    #[test]
    fn what_a_server_that_stays_behind_has_taken_is_forgotten() {
        const CHUNK_BYTES: usize = 64 * 1024;
        const SENT_BYTES: usize = 16 * WIRE_BYTES_MAX;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // However much this host's sockets would take.
        set_socket_recv_buffer_size(&listener, CHUNK_BYTES).unwrap();
        let address = listener.local_addr().unwrap();
        let mut link = Link::open(address, None).unwrap();
        set_socket_send_buffer_size(&link.stream, CHUNK_BYTES).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        link.finish_connecting(address).unwrap();

        // Each byte tells its place, with a period that divides no buffer's length.
        let of = |position: usize| (position % 251) as u8;
        let (mut sent, mut taken, mut room) = (0, 0, vec![0; CHUNK_BYTES / 2]);
        let (mut plaintext, mut wire_bytes_max) = (Vec::new(), 0);
        while taken < SENT_BYTES {
            if !link.is_full() && sent < SENT_BYTES {
                plaintext.extend((sent..sent + CHUNK_BYTES).map(of));
                sent += CHUNK_BYTES;
            }
            link.write(&mut plaintext).unwrap();
            wire_bytes_max = wire_bytes_max.max(link.wire.len());
            server.read_exact(&mut room).unwrap();
            assert!(room.iter().enumerate().all(|(index, &byte)| byte == of(taken + index)), "at {taken}");
            taken += room.len();
        }
        assert!(link.write(&mut plaintext).unwrap() && link.wire.is_empty());
        // What waits, and as much that was taken.
        assert!(wire_bytes_max > WIRE_BYTES_MAX, "the server did not stay behind: {wire_bytes_max}");
        assert!(wire_bytes_max <= 2 * (WIRE_BYTES_MAX + CHUNK_BYTES), "{wire_bytes_max}");
    }
}
