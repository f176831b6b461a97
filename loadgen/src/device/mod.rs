//! Client machines without I/O: a gateway that sends for many devices, and a reader of one partition.

mod cbs;
pub mod gateway;
pub mod reader;

use net_amqp::Config;

/// The settings of a client's connection to `host`: room for the outcomes of all that may be in flight.
fn client_config(container_id: &str, host: &str) -> Config {
    Config {
        container_id: container_id.to_owned(),
        hostname: Some(host.to_owned()),
        unsettled_count_max: 1 << 20,
        incoming_window: 1 << 20,
        ..Config::default()
    }
}

/// One connection's client: bytes in, bytes out.
pub trait Client {
    /// Plaintext from the hub; answers go to `output`.
    ///
    /// # Errors
    ///
    /// The hub refused something, or broke a rule that the run checks.
    fn handle(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<(), String>;

    /// Send what may be sent now.
    fn fill(&mut self, output: &mut Vec<u8>);

    /// Whether the connection has nothing more to do.
    fn is_finished(&self) -> bool;
}
