//! Performatives against fe2o3-amqp's, in both directions.

use fe2o3_amqp_types::definitions as theirs_def;
use fe2o3_amqp_types::messaging as theirs_msg;
use fe2o3_amqp_types::performatives as theirs;
use net_amqp::performative::{
    Attach, Begin, Close, Detach, Disposition, End, Flow, Open, Performative, Transfer,
};
use net_amqp::value::Map;
use net_amqp::{
    DeliveryState, Error, LinkRole, ReceiverSettleMode, SenderSettleMode, Source, Symbols, Target,
};
use proptest::prelude::*;
use serde_amqp::Value as TheirValue;
use serde_amqp::primitives::{Array, OrderedMap, Symbol};
use serde_amqp::{from_slice, to_vec};

use crate::oracle::seeded;

/// The parts that composites are made of.
#[derive(Clone, Debug)]
struct Parts {
    text: String,
    other_text: Option<String>,
    numbers: [u32; 4],
    optional: [Option<u32>; 6],
    short: Option<u16>,
    long: Option<u64>,
    flags: [bool; 4],
    bytes: Vec<u8>,
    symbols: Option<Vec<String>>,
    entries: Option<Vec<(String, i64)>>,
    condition: Option<String>,
    state: u8,
}

fn parts() -> impl Strategy<Value = Parts> {
    let number = || prop_oneof![Just(0), 1..300u32, any::<u32>()];
    let text = || prop_oneof!["\\PC{0,20}", "[a-z/]{300}"];
    let name = "[a-z:.-]{1,20}";
    (
        (
            text(),
            prop::option::of(text()),
            prop::array::uniform4(number()),
            prop::array::uniform6(prop::option::of(number())),
            any::<Option<u16>>(),
            any::<Option<u64>>(),
        ),
        (
            any::<[bool; 4]>(),
            prop::collection::vec(any::<u8>(), 0..33),
            prop::option::of(prop::collection::vec(name, 1..4)),
            prop::option::of(prop::collection::btree_map(name, any::<i64>(), 0..4)),
            prop::option::of("[a-z]{3,8}:[a-z-]{3,20}"),
            0..6u8,
        ),
    )
        .prop_map(
            |(
                (text, other_text, numbers, optional, short, long),
                (flags, bytes, symbols, entries, condition, state),
            )| {
                let entries = entries.map(|entries| entries.into_iter().collect());
                Parts {
                    text,
                    other_text,
                    numbers,
                    optional,
                    short,
                    long,
                    flags,
                    bytes,
                    symbols,
                    entries,
                    condition,
                    state,
                }
            },
        )
}

/// Borrowed forms of the parts, which our composites hold.
struct Borrowed<'p> {
    symbols: Vec<&'p str>,
    map: Vec<u8>,
    parts: &'p Parts,
}

impl<'p> Borrowed<'p> {
    fn new(parts: &'p Parts) -> Borrowed<'p> {
        let symbols = parts.symbols.iter().flatten().map(String::as_str).collect();
        Borrowed { symbols, map: to_vec(&parts.their_fields().unwrap_or_default()).unwrap(), parts }
    }

    fn symbols(&self) -> Symbols<'_> {
        if self.parts.symbols.is_some() { Symbols::Listed(&self.symbols) } else { Symbols::Absent }
    }

    fn map(&self) -> Option<Map<'_>> {
        self.parts.entries.as_ref().map(|_| Map::from_encoded(&self.map).unwrap())
    }

    fn error(&self) -> Option<Error<'_>> {
        self.parts.condition.as_deref().map(|condition| Error {
            condition: condition.into(),
            description: self.parts.other_text.as_deref().map(Into::into),
            info: self.map().map(|map| {
                // As we write it, so that it can be compared.
                let mut bytes = Vec::new();
                net_amqp::value::encode::map(&mut bytes, &map);
                bytes.into()
            }),
        })
    }

    fn state(&self) -> Option<DeliveryState<'_>> {
        Some(match self.parts.state {
            0 => return None,
            1 => DeliveryState::Accepted,
            2 => DeliveryState::Released,
            3 => DeliveryState::Rejected(self.error()),
            4 => DeliveryState::Received {
                section_number: self.parts.numbers[0],
                section_offset: self.parts.numbers[1].into(),
            },
            _ => DeliveryState::Modified {
                delivery_failed: self.parts.flags[0],
                undeliverable_here: self.parts.flags[1],
                annotations: self.map().map(|map| {
                    let mut bytes = Vec::new();
                    net_amqp::value::encode::map(&mut bytes, &map);
                    bytes.into()
                }),
            },
        })
    }
}

impl Parts {
    fn their_fields(&self) -> Option<theirs_def::Fields> {
        self.entries.as_ref().map(|entries| {
            let entries =
                entries.iter().map(|(key, value)| (Symbol::from(key.as_str()), TheirValue::Long(*value)));
            OrderedMap::from_iter(entries)
        })
    }

    fn their_symbols(&self) -> Option<Array<Symbol>> {
        self.symbols.as_ref().map(|symbols| Array(symbols.iter().map(|s| Symbol::from(s.as_str())).collect()))
    }

    fn their_error(&self) -> Option<theirs_def::Error> {
        self.condition.as_ref().map(|condition| theirs_def::Error {
            condition: theirs_def::ErrorCondition::Custom(Symbol::from(condition.as_str())),
            description: self.other_text.clone(),
            info: self.their_fields().map(Box::new),
        })
    }

    fn their_state(&self) -> Option<theirs_msg::DeliveryState> {
        use theirs_msg::{Accepted, Modified, Received, Rejected, Released};
        Some(match self.state {
            0 => return None,
            1 => theirs_msg::DeliveryState::Accepted(Accepted {}),
            2 => theirs_msg::DeliveryState::Released(Released {}),
            3 => theirs_msg::DeliveryState::Rejected(Rejected { error: self.their_error() }),
            4 => theirs_msg::DeliveryState::Received(Received {
                section_number: self.numbers[0],
                section_offset: self.numbers[1].into(),
            }),
            _ => theirs_msg::DeliveryState::Modified(Modified {
                delivery_failed: Some(self.flags[0]),
                undeliverable_here: Some(self.flags[1]),
                message_annotations: self.their_fields(),
            }),
        })
    }

    fn their_role(&self) -> theirs_def::Role {
        if self.flags[3] { theirs_def::Role::Receiver } else { theirs_def::Role::Sender }
    }

    fn role(&self) -> LinkRole {
        if self.flags[3] { LinkRole::Receiver } else { LinkRole::Sender }
    }
}

/// Checks that the two are the same on the wire, whoever writes and whoever reads.
fn check<T>(ours: &Performative<'_>, theirs: &T) -> Result<(), TestCaseError>
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let mut bytes = Vec::new();
    match ours {
        Performative::Open(open) => open.encode(&mut bytes),
        Performative::Begin(begin) => begin.encode(&mut bytes),
        Performative::Attach(attach) => attach.encode(&mut bytes),
        Performative::Flow(flow) => flow.encode(&mut bytes),
        Performative::Transfer(transfer, payload) => {
            transfer.encode(&mut bytes);
            bytes.extend_from_slice(payload);
        }
        Performative::Disposition(disposition) => disposition.encode(&mut bytes),
        Performative::Detach(detach) => detach.encode(&mut bytes),
        Performative::End(end) => end.encode(&mut bytes),
        Performative::Close(close) => close.encode(&mut bytes),
    }
    prop_assert_eq!(&from_slice::<T>(&bytes).unwrap(), theirs);
    prop_assert_eq!(&Performative::decode(&bytes).unwrap(), ours);
    let written = to_vec(theirs).unwrap();
    prop_assert_eq!(&Performative::decode(&written).unwrap(), ours);
    Ok(())
}

proptest! {
    #![proptest_config(seeded(200))]

    #[test]
    fn open_begin_end_close(parts in parts()) {
        let borrowed = Borrowed::new(&parts);
        let ours = Open {
            container_id: &parts.text,
            hostname: parts.other_text.as_deref(),
            max_frame_bytes: parts.numbers[0],
            channel_max: parts.short.unwrap_or(7),
            idle_timeout_ms: parts.optional[0],
            offered_capabilities: borrowed.symbols(),
            desired_capabilities: Symbols::Absent,
            properties: borrowed.map(),
        };
        let theirs = theirs::Open {
            container_id: parts.text.clone(),
            hostname: parts.other_text.clone(),
            max_frame_size: parts.numbers[0].into(),
            channel_max: parts.short.unwrap_or(7).into(),
            idle_time_out: parts.optional[0],
            outgoing_locales: None,
            incoming_locales: None,
            offered_capabilities: parts.their_symbols(),
            desired_capabilities: None,
            properties: parts.their_fields(),
        };
        check(&Performative::Open(Box::new(ours)), &theirs)?;
        let ours = Begin {
            remote_channel: parts.short,
            next_outgoing_id: parts.numbers[0],
            incoming_window: parts.numbers[1],
            outgoing_window: parts.numbers[2],
            handle_max: parts.numbers[3],
            offered_capabilities: Symbols::Absent,
            desired_capabilities: borrowed.symbols(),
            properties: borrowed.map(),
        };
        let theirs = theirs::Begin {
            remote_channel: parts.short,
            next_outgoing_id: parts.numbers[0],
            incoming_window: parts.numbers[1],
            outgoing_window: parts.numbers[2],
            handle_max: theirs_def::Handle(parts.numbers[3]),
            offered_capabilities: None,
            desired_capabilities: parts.their_symbols(),
            properties: parts.their_fields(),
        };
        check(&Performative::Begin(Box::new(ours)), &theirs)?;
        check(&Performative::End(End { error: borrowed.error() }), &theirs::End { error: parts.their_error() })?;
        check(&Performative::Close(Close { error: borrowed.error() }), &theirs::Close { error: parts.their_error() })?;
        let ours = Detach { handle: parts.numbers[0], closed: parts.flags[0], error: borrowed.error() };
        let theirs = theirs::Detach {
            handle: theirs_def::Handle(parts.numbers[0]),
            closed: parts.flags[0],
            error: parts.their_error(),
        };
        check(&Performative::Detach(ours), &theirs)?;
    }

    #[test]
    fn attach(parts in parts()) {
        let borrowed = Borrowed::new(&parts);
        let outcome = (parts.state == 1).then_some(DeliveryState::Accepted);
        let ours = Attach {
            name: &parts.text,
            handle: parts.numbers[0],
            role: parts.role(),
            sender_settle_mode: if parts.flags[0] { SenderSettleMode::Settled } else { SenderSettleMode::Mixed },
            receiver_settle_mode: if parts.flags[1] { ReceiverSettleMode::Second } else { ReceiverSettleMode::First },
            source: parts.other_text.as_deref().map(|address| Source {
                address: Some(address),
                durable: 1,
                expiry_policy: Some("never"),
                timeout_s: parts.numbers[1],
                dynamic: parts.flags[2],
                dynamic_node_properties: None,
                distribution_mode: Some("copy"),
                filter: None,
                default_outcome: outcome.clone(),
                outcomes: borrowed.symbols(),
                capabilities: Symbols::Absent,
            }),
            target: parts.optional[0].map(|timeout_s| Target {
                address: None,
                durable: 2,
                expiry_policy: Some("link-detach"),
                timeout_s,
                dynamic: parts.flags[2],
                dynamic_node_properties: None,
                capabilities: borrowed.symbols(),
                is_coordinator: false,
            }),
            unsettled: None,
            incomplete_unsettled: parts.flags[2],
            initial_delivery_count: parts.optional[1],
            max_message_bytes: parts.long,
            offered_capabilities: Symbols::Absent,
            desired_capabilities: borrowed.symbols(),
            properties: borrowed.map(),
        };
        let theirs = theirs::Attach {
            name: parts.text.clone(),
            handle: theirs_def::Handle(parts.numbers[0]),
            role: parts.their_role(),
            snd_settle_mode: if parts.flags[0] { theirs_def::SenderSettleMode::Settled } else { theirs_def::SenderSettleMode::Mixed },
            rcv_settle_mode: if parts.flags[1] { theirs_def::ReceiverSettleMode::Second } else { theirs_def::ReceiverSettleMode::First },
            source: parts.other_text.clone().map(|address| Box::new(theirs_msg::Source {
                address: Some(address),
                durable: theirs_msg::TerminusDurability::Configuration,
                expiry_policy: theirs_msg::TerminusExpiryPolicy::Never,
                timeout: parts.numbers[1],
                dynamic: parts.flags[2],
                dynamic_node_properties: None,
                distribution_mode: Some(theirs_msg::DistributionMode::Copy),
                filter: None,
                default_outcome: outcome.map(|_| theirs_msg::Outcome::Accepted(theirs_msg::Accepted {})),
                outcomes: parts.their_symbols(),
                capabilities: None,
            })),
            target: parts.optional[0].map(|timeout| Box::new(theirs_msg::TargetArchetype::Target(theirs_msg::Target {
                address: None,
                durable: theirs_msg::TerminusDurability::UnsettledState,
                expiry_policy: theirs_msg::TerminusExpiryPolicy::LinkDetach,
                timeout,
                dynamic: parts.flags[2],
                dynamic_node_properties: None,
                capabilities: parts.their_symbols(),
            }))),
            unsettled: None,
            incomplete_unsettled: parts.flags[2],
            initial_delivery_count: parts.optional[1],
            max_message_size: parts.long,
            offered_capabilities: None,
            desired_capabilities: parts.their_symbols(),
            properties: parts.their_fields(),
        };
        check(&Performative::Attach(Box::new(ours)), &theirs)?;
    }

    #[test]
    fn flow_transfer_disposition(parts in parts()) {
        let borrowed = Borrowed::new(&parts);
        let [a, b, c, d, e, f] = parts.optional;
        let ours = Flow {
            next_incoming_id: a,
            incoming_window: parts.numbers[0],
            next_outgoing_id: parts.numbers[1],
            outgoing_window: parts.numbers[2],
            handle: b,
            delivery_count: c,
            link_credit: d,
            available: e,
            drain: parts.flags[0],
            echo: parts.flags[1],
            properties: borrowed.map(),
        };
        let theirs = theirs::Flow {
            next_incoming_id: a,
            incoming_window: parts.numbers[0],
            next_outgoing_id: parts.numbers[1],
            outgoing_window: parts.numbers[2],
            handle: b.map(theirs_def::Handle),
            delivery_count: c,
            link_credit: d,
            available: e,
            drain: parts.flags[0],
            echo: parts.flags[1],
            properties: parts.their_fields(),
        };
        check(&Performative::Flow(ours), &theirs)?;
        let ours = Transfer {
            handle: parts.numbers[0],
            delivery_id: a,
            delivery_tag: b.map(|_| &parts.bytes[..]),
            message_format: c,
            settled: f.map(|_| parts.flags[0]),
            more: parts.flags[1],
            receiver_settle_mode: d.map(|_| 1),
            state: borrowed.state(),
            resume: parts.flags[2],
            aborted: parts.flags[3],
            batchable: parts.flags[0],
        };
        let theirs = theirs::Transfer {
            handle: theirs_def::Handle(parts.numbers[0]),
            delivery_id: a,
            delivery_tag: b.map(|_| parts.bytes.clone().into()),
            message_format: c,
            settled: f.map(|_| parts.flags[0]),
            more: parts.flags[1],
            rcv_settle_mode: d.map(|_| theirs_def::ReceiverSettleMode::Second),
            state: parts.their_state(),
            resume: parts.flags[2],
            aborted: parts.flags[3],
            batchable: parts.flags[0],
        };
        check(&Performative::Transfer(ours, &[]), &theirs)?;
        let ours = Disposition {
            role: parts.role(),
            first: parts.numbers[0],
            last: a,
            settled: parts.flags[0],
            state: borrowed.state(),
            batchable: parts.flags[1],
        };
        let theirs = theirs::Disposition {
            role: parts.their_role(),
            first: parts.numbers[0],
            last: a,
            settled: parts.flags[0],
            state: parts.their_state(),
            batchable: parts.flags[1],
        };
        check(&Performative::Disposition(ours), &theirs)?;
    }
}
