//! Source and target [AMQP 3.5.3, 3.5.4].

use super::fields::optional;
use super::{DeliveryState, Fields, Symbols, code, describe};
use crate::value::{DecodeError, Map, Value, encode};

/// Where the messages of a link come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source<'a> {
    /// Its address; `None` for an anonymous terminus.
    pub address: Option<&'a str>,
    /// What to keep after a detach (0 none, 1 configuration, 2 unsettled state).
    pub durable: u32,
    /// When to expire; `session-end` when null.
    pub expiry_policy: Option<&'a str>,
    /// Seconds until it expires.
    pub timeout_s: u32,
    /// Whether the peer is to make the node up.
    pub dynamic: bool,
    /// Properties of a node made up.
    pub dynamic_node_properties: Option<Map<'a>>,
    /// `move` or `copy`.
    pub distribution_mode: Option<&'a str>,
    /// Filters by name; see [`Value::Described`] for their usual form.
    pub filter: Option<Map<'a>>,
    /// Outcome of what was neither settled nor given one.
    pub default_outcome: Option<DeliveryState<'a>>,
    /// Outcomes that may be used.
    pub outcomes: Symbols<'a>,
    /// Capabilities.
    pub capabilities: Symbols<'a>,
}

impl<'a> Source<'a> {
    /// A source with this address and nothing else.
    pub fn at(address: &'a str) -> Source<'a> {
        Source { address: Some(address), ..Source::default() }
    }

    pub(crate) fn decode(fields: &mut Fields<'a>) -> Result<Option<Source<'a>>, DecodeError> {
        let Some((code, mut fields)) = fields.composite()? else { return Ok(None) };
        if code != code::SOURCE {
            return Err(DecodeError::UnexpectedDescriptor);
        }
        Ok(Some(Source {
            address: address(&mut fields)?,
            durable: fields.uint("durable")?.unwrap_or(0),
            expiry_policy: fields.symbol("expiry-policy")?,
            timeout_s: fields.uint("timeout")?.unwrap_or(0),
            dynamic: fields.boolean("dynamic")?.unwrap_or(false),
            dynamic_node_properties: fields.map("dynamic-node-properties")?,
            distribution_mode: fields.symbol("distribution-mode")?,
            filter: fields.map("filter")?,
            default_outcome: DeliveryState::decode(&mut fields)?,
            outcomes: fields.symbols("outcomes")?,
            capabilities: fields.symbols("capabilities")?,
        }))
    }

    /// Appends the source with its eleven fields.
    pub fn encode(&self, out: &mut Vec<u8>) {
        describe(out, code::SOURCE);
        let list = encode::begin_list(out);
        optional(out, self.address, encode::string);
        encode::uint(out, self.durable);
        encode::symbol(out, self.expiry_policy.unwrap_or("session-end"));
        encode::uint(out, self.timeout_s);
        encode::boolean(out, self.dynamic);
        optional(out, self.dynamic_node_properties.as_ref(), encode::map);
        optional(out, self.distribution_mode, encode::symbol);
        optional(out, self.filter.as_ref(), encode::map);
        optional(out, self.default_outcome.as_ref(), |out, outcome| outcome.encode(out));
        self.outcomes.encode(out);
        self.capabilities.encode(out);
        list.end(out, 11);
    }
}

/// Where the messages of a link go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target<'a> {
    /// Its address; `None` for an anonymous terminus.
    pub address: Option<&'a str>,
    /// See [`Source::durable`].
    pub durable: u32,
    /// See [`Source::expiry_policy`].
    pub expiry_policy: Option<&'a str>,
    /// See [`Source::timeout_s`].
    pub timeout_s: u32,
    /// See [`Source::dynamic`].
    pub dynamic: bool,
    /// See [`Source::dynamic_node_properties`].
    pub dynamic_node_properties: Option<Map<'a>>,
    /// Capabilities.
    pub capabilities: Symbols<'a>,
    /// Whether it is the coordinator of transactions, of which nothing else is read. The connection refuses such a link.
    pub is_coordinator: bool,
}

impl<'a> Target<'a> {
    /// A target with this address and nothing else.
    pub fn at(address: &'a str) -> Target<'a> {
        Target { address: Some(address), ..Target::default() }
    }

    pub(crate) fn decode(fields: &mut Fields<'a>) -> Result<Option<Target<'a>>, DecodeError> {
        let Some((code, mut fields)) = fields.composite()? else { return Ok(None) };
        match code {
            code::TARGET => {}
            code::COORDINATOR => return Ok(Some(Target { is_coordinator: true, ..Target::default() })),
            _ => return Err(DecodeError::UnexpectedDescriptor),
        }
        Ok(Some(Target {
            address: address(&mut fields)?,
            durable: fields.uint("durable")?.unwrap_or(0),
            expiry_policy: fields.symbol("expiry-policy")?,
            timeout_s: fields.uint("timeout")?.unwrap_or(0),
            dynamic: fields.boolean("dynamic")?.unwrap_or(false),
            dynamic_node_properties: fields.map("dynamic-node-properties")?,
            capabilities: fields.symbols("capabilities")?,
            is_coordinator: false,
        }))
    }

    /// Appends the target with its seven fields.
    pub fn encode(&self, out: &mut Vec<u8>) {
        describe(out, code::TARGET);
        let list = encode::begin_list(out);
        optional(out, self.address, encode::string);
        encode::uint(out, self.durable);
        encode::symbol(out, self.expiry_policy.unwrap_or("session-end"));
        encode::uint(out, self.timeout_s);
        encode::boolean(out, self.dynamic);
        optional(out, self.dynamic_node_properties.as_ref(), encode::map);
        self.capabilities.encode(out);
        list.end(out, 7);
    }
}

/// An address may be of any type in the specification; all in use are strings..
fn address<'a>(fields: &mut Fields<'a>) -> Result<Option<&'a str>, DecodeError> {
    match fields.value()? {
        None => Ok(None),
        Some(Value::String(address) | Value::Symbol(address)) => Ok(Some(address)),
        Some(_) => Err(DecodeError::WrongType("address")),
    }
}
