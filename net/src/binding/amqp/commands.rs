//! Commands and receipts: links on which back ends send commands ([`Inlets`]), and links on which something goes out under a
//! lock ([`Outlets`]): commands to their device, receipts to back ends.

mod encode;
mod inlets;
mod outlets;
mod sent;

pub use inlets::{EnqueueTicket, Inlets};
pub use outlets::Outlets;
