//! The crate from outside: two machines face to face, the codec against an oracle, and peers that break the rules.
#![forbid(unsafe_code)]

mod codec;
mod conversation;
mod fuzz;
mod golden;
mod malformed;
mod oracle;
mod oracle_messages;
mod oracle_performatives;
mod pair;
mod windows;
mod wire;
