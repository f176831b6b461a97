//! The crate from outside: the codec against an oracle, two machines face to face, and peers that break the rules.
#![forbid(unsafe_code)]

mod codec;
mod conversation;
mod fuzz;
mod malformed;
mod pair;
