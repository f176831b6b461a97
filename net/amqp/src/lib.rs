//! The AMQP 1.0 codec and machines, without I/O, in both roles.
//!
//! Bytes go in, events come out, and answers are appended to a buffer that the caller owns: [`Connection`] is the whole
//! protocol for one peer, SASL and plain header, sessions, links, credit, windows, heartbeats. It owns no socket, file,
//! clock or task; time comes in as milliseconds of any monotonic clock.
//!
//! - The codec decodes in place: values, performatives and messages borrow from the frame ([`value`], [`performative`],
//!   [`message`]); no allocation per field or per message of one frame.
//! - Performatives are always written with all their fields, which strict clients need.
//! - Bytes of a peer end in an event or in the error that the specification names, never in a panic, and whatever a peer
//!   makes the connection hold has a bound ([`Config`], [`limits`]).
//!
//! # Example
//!
//! ```
//! use net_amqp::{Config, Connection, Event, Inbound, Role};
//!
//! let (mut hub, mut hub_in) = (Connection::new(Role::Server, Config::default().into(), 0), Inbound::default());
//! let (mut device, mut device_in) = (Connection::new(Role::Client, Config::default().into(), 0), Inbound::default());
//! let (mut to_hub, mut to_device) = (Vec::new(), Vec::new());
//! device.start(&mut to_hub);
//! let mut input = &to_hub[..];
//! while let Some(event) = hub.handle(&mut hub_in, &mut input, &mut to_device, 0).expect("a good peer") {
//!     if let Event::Opened(open) = event {
//!         assert_eq!(open.container_id, "corehub");
//!     }
//! }
//! to_hub.clear();
//! let mut input = &to_device[..];
//! while device.handle(&mut device_in, &mut input, &mut to_hub, 0).expect("a good peer").is_some() {}
//! assert!(device.is_open());
//! ```
#![forbid(unsafe_code)]

pub mod condition;
mod connection;
pub mod frame;
pub mod limits;
mod link;
pub mod message;
pub mod performative;
pub mod sasl;
pub mod serial;
mod session;
mod table;
pub mod value;

pub use condition::Error;
pub use connection::{
    AttachReply, AttachRequest, Closed, Config, Connection, Event, LinkId, Role, SaslRole, SendDelivery,
    SendRefused, SessionId,
};
pub use frame::Inbound;
pub use message::{Body, MessageBuilder, Properties, Sections};
pub use performative::{
    Attach, DeliveryState, LinkRole, Open, ReceiverSettleMode, SenderSettleMode, Source, Symbols, Target,
};
pub use value::{DecodeError, Decoder, Value};
