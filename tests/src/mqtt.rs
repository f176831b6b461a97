//! A device over MQTT, as little of it as a test needs: CONNECT, its answer, and the bytes behind it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::https;

/// The port of MQTT over TLS.
pub const PORT: u16 = 8883;

/// A connection as its TLS has it.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A CONNECT with a clean session and a keep-alive of four minutes.
pub fn connect_packet(host: &str, device: &str, token: &str) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 0b1100_0010, 0, 240];
    for text in [device, &format!("{host}/{device}/?api-version=2021-04-12"), token] {
        body.extend_from_slice(&u16::try_from(text.len()).expect("a short text").to_be_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    let mut packet = vec![0x10];
    let mut left = body.len();
    loop {
        let byte = u8::try_from(left % 128).expect("below 128");
        left /= 128;
        packet.push(if left > 0 { byte | 0x80 } else { byte });
        if left == 0 {
            break;
        }
    }
    packet.extend_from_slice(&body);
    packet
}

/// Connect as a device; the stream and the code of the CONNACK, 0 where it is let in.
pub fn connect(host: &str, tls: Arc<ClientConfig>, device: &str, token: &str) -> io::Result<(Stream, u8)> {
    let mut stream = https::connect(host, PORT, tls)?;
    stream.write_all(&connect_packet(host, device, token))?;
    stream.flush()?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    match answer {
        [0x20, 2, _, code] => Ok((stream, code)),
        other => Err(io::Error::other(format!("not a CONNACK: {other:?}"))),
    }
}
