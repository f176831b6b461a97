//! What a peer or a damaged disk can feed, as functions of bytes.
//!
//! A target takes any bytes and panics when a promise is broken: not only that nothing panics, but that bytes in one piece
//! or in many come to the same events, that what was accepted means the same once encoded again (also to another
//! implementation, where there is one), that what a peer makes us hold has its bound, and that a machine ends after an error.
//!
//! `tests/corpus.rs` runs each target over its kept corpus and over seeded damage of it; `libfuzzer/` lets coverage lead.
//! The corpora lie in `corpus/`, one file per target, which [`corpus`] reads and writes. [`seeds`] is what they
//! began with.
#![forbid(unsafe_code)]

mod amqp;
mod amqp_value;
mod client;
pub mod corpus;
mod http;
mod hub;
mod input;
mod journal;
mod log;
mod mqtt;
pub mod mutate;
mod one;
mod sas;
pub mod seeds;
mod shard;
mod wire;

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of its corpus.
    pub name: &'static str,
    /// Takes any bytes; panics when a promise is broken.
    pub run: fn(&[u8]),
    /// How many damaged forms of each entry of its corpus the tests try: fewer where a run is dear.
    pub mutation_count: u32,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "amqp_server", run: amqp::server, mutation_count: 8 },
    Target { name: "amqp_client", run: amqp::client, mutation_count: 8 },
    Target { name: "amqp_value", run: amqp_value::value, mutation_count: 30 },
    Target { name: "amqp_message", run: amqp_value::message, mutation_count: 20 },
    Target { name: "http", run: http::connection, mutation_count: 20 },
    Target { name: "websocket", run: http::websocket, mutation_count: 30 },
    Target { name: "mqtt", run: mqtt::connection, mutation_count: 20 },
    Target { name: "mqtt_packet", run: mqtt::packet, mutation_count: 30 },
    Target { name: "sas", run: sas::token, mutation_count: 20 },
    Target { name: "hub_amqp", run: hub::amqp, mutation_count: 2 },
    Target { name: "hub_http", run: hub::http, mutation_count: 2 },
    Target { name: "hub_mqtt", run: hub::mqtt, mutation_count: 2 },
    Target { name: "hub_stomp", run: hub::stomp, mutation_count: 2 },
    Target { name: "node", run: one::message, mutation_count: 2 },
    Target { name: "mqtt_text", run: one::text, mutation_count: 2 },
    Target { name: "rest", run: one::body, mutation_count: 2 },
    Target { name: "query", run: one::query, mutation_count: 2 },
    Target { name: "log", run: log::recovery, mutation_count: 2 },
    Target { name: "journal", run: journal::entries, mutation_count: 2 },
    Target { name: "snapshot", run: journal::snapshot, mutation_count: 2 },
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}
