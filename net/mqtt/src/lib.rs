//! The MQTT 3.1.1 codec and connection machine, without I/O, in both roles.
//!
//! Bytes go in, events come out, and answers are appended to a buffer that the caller owns: [`Connection`] is one end of
//! one connection. It owns no socket, file, clock or task; time comes in as milliseconds of any monotonic clock.
//!
//! - Packets are decoded in place and borrow from the input ([`packet`]); only one that arrives in pieces is put together,
//!   in [`Inbound`]. A PUBLISH in and its PUBACK out allocate nothing.
//! - Messages go at quality of service 0 and 1. A PUBLISH with 2, and with it the packets that only belong to it, end the
//!   connection.
//! - Bytes of a peer end in an event or a [`Fault`], never in a panic, and whatever a peer makes the connection hold has
//!   a bound ([`Config`], [`limits`]).
//!
//! # Example
//!
//! ```
//! use net_mqtt::{Config, Connect, ConnectCode, Connection, Event, Inbound, Role};
//!
//! let (mut hub, mut hub_in) = (Connection::new(Role::Server, Config::default().into(), 0), Inbound::default());
//! let (mut device, mut device_in) = (Connection::new(Role::Client, Config::default().into(), 0), Inbound::default());
//! let (mut to_hub, mut to_device) = (Vec::new(), Vec::new());
//! device.connect(&Connect::new("device-1"), 0, &mut to_hub);
//!
//! let mut input = &to_hub[..];
//! let Ok(Some(Event::Connect(connect))) = hub.handle(&mut hub_in, &mut input, &mut to_device, 0) else { panic!() };
//! assert_eq!(connect.client_id, "device-1");
//! hub.accept(false, 0, &mut to_device);
//!
//! let mut input = &to_device[..];
//! let Ok(Some(Event::ConnAck(answer))) = device.handle(&mut device_in, &mut input, &mut to_hub, 0) else { panic!() };
//! assert_eq!(answer.code, ConnectCode::Accepted);
//! assert!(hub.is_open() && device.is_open());
//! ```
#![forbid(unsafe_code)]

mod connection;
mod error;
mod inbound;
pub mod limits;
pub mod packet;
mod topic;

pub use connection::{Config, Connection, Draft, Event, Role, SendRefused};
pub use error::{DecodeError, Fault};
pub use inbound::Inbound;
pub use packet::{
    ConnAck, Connect, ConnectCode, Filters, Packet, PacketId, Publish, Qos, SubAck, Subscribe, Unsubscribe,
    Will,
};
pub use topic::{is_filter, is_topic};
