//! Whether an address is free, asked once before the cores listen on it.
//!
//! The cores' listeners share their port by SO_REUSEPORT, and so would a second hub's: both would start and split the
//! connections. So each address is first bound without it.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// How long a listener may go on answering before it counts as another program's: the kernel takes down what a killed hub's
/// rings still hold, its listeners among it, a moment after the process has gone.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(2);
const ASK_AGAIN_PAUSE: Duration = Duration::from_millis(50);

/// A local connection is answered at once, or there is a listener that is too busy to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// The first port that everybody may bind on an ordinary system.
const PORT_UNPRIVILEGED_MIN: u16 = 1024;

/// Why an address cannot be listened on; one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// Somebody listens there.
    #[error("{0} is in use by another program: stop it, or choose another port or another --bind address")]
    InUse(SocketAddr),
    /// The right to bind it is missing.
    #[error(
        "{0} may not be bound: ports below 1024 need a right (setcap cap_net_bind_service=+ep on the program, \
         AmbientCapabilities=CAP_NET_BIND_SERVICE in the service's unit, or sysctl net.ipv4.ip_unprivileged_port_start), \
         or choose another port"
    )]
    Forbidden(SocketAddr),
    /// It is not this machine's address.
    #[error("{0} cannot be bound: this machine has no such address")]
    NotHere(SocketAddr),
    /// Something else.
    #[error("{0} cannot be bound: {1}")]
    Other(SocketAddr, io::Error),
}

/// Find out whether `address` can be listened on. Waits up to two seconds for a listener there to go.
///
/// # Errors
///
/// [`ReserveError`].
pub fn reserve(address: SocketAddr) -> Result<(), ReserveError> {
    let began = Instant::now();
    loop {
        match bind_once(address) {
            Err(ReserveError::InUse(_)) if began.elapsed() < PREDECESSOR_PATIENCE => {
                thread::sleep(ASK_AGAIN_PAUSE);
            }
            result => return result,
        }
    }
}

fn bind_once(address: SocketAddr) -> Result<(), ReserveError> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        // Connections of an earlier run that are still closing count as users of the port, but do not keep the cores'
        // listeners from it. A listener does, and answers.
        Err(error) if error.kind() == ErrorKind::AddrInUse => match is_listening(address) {
            true => Err(ReserveError::InUse(address)),
            false => Ok(()),
        },
        Err(error)
            if error.kind() == ErrorKind::PermissionDenied && address.port() < PORT_UNPRIVILEGED_MIN =>
        {
            Err(ReserveError::Forbidden(address))
        }
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Err(ReserveError::NotHere(address)),
        Err(error) => Err(ReserveError::Other(address, error)),
    }
}

fn is_listening(address: SocketAddr) -> bool {
    let reachable = match address.ip() {
        IpAddr::V4(all) if all.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(all) if all.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        one => one,
    };
    match TcpStream::connect_timeout(&SocketAddr::new(reachable, address.port()), CONNECT_TIMEOUT) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::ConnectionRefused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_listener_is_found_and_what_a_dead_one_left_behind_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(matches!(reserve(address), Err(ReserveError::InUse(_))));
        drop(listener);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // The server closes first, so that its end of the connection stays for a while.
        let mut client = TcpStream::connect(address).unwrap();
        drop(listener.accept().unwrap());
        drop(listener);
        client.read_to_end(&mut Vec::new()).unwrap();
        drop(client);
        reserve(address).unwrap();
    }

    #[test]
    fn a_listener_that_is_about_to_go_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let leaving = thread::spawn(move || {
            thread::sleep(4 * ASK_AGAIN_PAUSE);
            drop(listener);
        });
        reserve(address).unwrap();
        leaving.join().unwrap();
    }

    #[test]
    fn the_sentences_say_what_to_do() {
        let elsewhere = "192.0.2.1:9".parse().unwrap();
        assert!(matches!(reserve(elsewhere), Err(ReserveError::NotHere(_))));
        assert!(ReserveError::Forbidden(elsewhere).to_string().contains("cap_net_bind_service"));
    }
}
