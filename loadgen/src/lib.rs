//! A load generator for AMQP 1.0 brokers and the hub.
#![forbid(unsafe_code)]
