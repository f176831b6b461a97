//! The AMQP 1.0 codec and machines, without I/O, in both roles.
#![forbid(unsafe_code)]
