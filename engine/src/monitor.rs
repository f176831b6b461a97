//! What happened that an operator wants to know: typed events, and counters.

use registry::{DeviceId, GenerationId, PolicyName};

use crate::event::AuthMethod;
use crate::request::{Ack, EngineError, Outcome, PartitionId, SessionEnd};

/// How a caller came to the hub, for stamps, monitoring and texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// AMQP over TLS.
    Amqps,
    /// AMQP over WebSocket over TLS.
    AmqpsWebSocket,
    /// AMQP in the clear, on this machine only.
    AmqpPlain,
    /// HTTP over TLS.
    Https,
    /// MQTT over TLS.
    Mqtts,
    /// MQTT over WebSocket over TLS.
    MqttsWebSocket,
    /// In the process itself.
    Embedded,
    /// A protocol that the program was built with besides, by the scheme of its addresses.
    Further(&'static str),
}

/// Whom a refused caller claimed to be. Claimed only: the signature did not hold, or the right was missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A device.
    Device(DeviceId),
    /// A policy, by the name in the token.
    Policy(PolicyName),
    /// What was presented could not be read.
    Nobody,
}

/// One of a partition's two logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogName {
    /// Its events.
    Events,
    /// Its journal: identities, groups, checkpoints, commands, receipts.
    Journal,
}

impl std::fmt::Display for LogName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            LogName::Events => "events",
            LogName::Journal => "journal",
        })
    }
}

/// Something that happened, for the log and the counters. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MonitorEvent {
    /// A device attached.
    DeviceConnected {
        /// When.
        at_ms: u64,
        /// Which.
        device: DeviceId,
        /// Which of the identities of that id.
        generation: GenerationId,
        /// How it came.
        protocol: Protocol,
        /// How it proved who it is.
        auth: AuthMethod,
    },
    /// A device's session ended.
    DeviceDisconnected {
        /// When.
        at_ms: u64,
        /// Which.
        device: DeviceId,
        /// Which of the identities of that id.
        generation: GenerationId,
        /// How it had come.
        protocol: Protocol,
        /// Why; none: it left.
        reason: Option<SessionEnd>,
        /// How long it was attached, on the monotonic clock.
        duration_ms: u64,
    },
    /// Somebody was not let in.
    AccessRefused {
        /// When.
        at_ms: u64,
        /// Who it claimed to be.
        claim: Claim,
        /// How it came.
        protocol: Protocol,
        /// Why.
        error: EngineError,
    },
    /// A device's events were refused.
    EventsRefused {
        /// When.
        at_ms: u64,
        /// Whose.
        device: DeviceId,
        /// How many.
        event_count: u32,
        /// Why.
        error: EngineError,
    },
    /// A command was enqueued.
    CommandEnqueued {
        /// When.
        at_ms: u64,
        /// For which device.
        device: DeviceId,
        /// Size of the bare message.
        bytes: u64,
        /// Which outcomes are told.
        ack: Ack,
    },
    /// A command was refused.
    CommandRefused {
        /// When.
        at_ms: u64,
        /// For which device.
        device: DeviceId,
        /// Size of the bare message.
        bytes: u64,
        /// Which outcomes were to be told.
        ack: Ack,
        /// Why.
        error: EngineError,
    },
    /// Commands left a device's queue: completed, or dead-lettered for the reason that the outcome says.
    CommandsEnded {
        /// When.
        at_ms: u64,
        /// Whose queue.
        device: DeviceId,
        /// What became of them.
        outcome: Outcome,
        /// How many.
        command_count: u32,
    },
    /// Receipts were dropped that nobody took: their batch expired or was given back as often as may be.
    ReceiptsDropped {
        /// When.
        at_ms: u64,
        /// Where.
        partition: PartitionId,
        /// How many.
        receipt_count: u64,
    },
    /// An identity was created.
    DeviceCreated {
        /// When.
        at_ms: u64,
        /// Which.
        device: DeviceId,
    },
    /// An identity was changed.
    DeviceUpdated {
        /// When.
        at_ms: u64,
        /// Which.
        device: DeviceId,
    },
    /// An identity was deleted.
    DeviceDeleted {
        /// When.
        at_ms: u64,
        /// Which.
        device: DeviceId,
    },
    /// A policy was made, changed or deleted; what rested on it has ended.
    PolicyChanged {
        /// When.
        at_ms: u64,
        /// Which.
        name: PolicyName,
    },
    /// Stored bytes are damaged. Nothing of the range is served, nothing is deleted.
    LogDamaged {
        /// When it was found.
        at_ms: u64,
        /// Where.
        partition: PartitionId,
        /// In which log.
        log: LogName,
        /// First damaged record.
        first: u64,
        /// The next that can be read.
        resume: u64,
    },
    /// A write or sync failed: the log takes nothing until the hub is restarted.
    LogFailed {
        /// When.
        at_ms: u64,
        /// Where.
        partition: PartitionId,
        /// Which log.
        log: LogName,
        /// What the storage said.
        text: String,
    },
    /// The disk is full: the next segment could not be prepared.
    SpaceLacking {
        /// When.
        at_ms: u64,
        /// Where.
        partition: PartitionId,
        /// Which log.
        log: LogName,
        /// What the storage said.
        text: String,
    },
    /// There is room again.
    SpaceReturned {
        /// When.
        at_ms: u64,
        /// Where.
        partition: PartitionId,
        /// Which log.
        log: LogName,
    },
    /// Retention removed events.
    EventsRetired {
        /// When.
        at_ms: u64,
        /// Where.
        partition: PartitionId,
        /// The oldest that is kept now.
        first: u64,
    },
    /// A snapshot of the registry is durable.
    SnapshotTaken {
        /// When.
        at_ms: u64,
        /// Of which partition.
        partition: PartitionId,
        /// Size of the file.
        bytes: u64,
    },
    /// A snapshot could not be stored; the journal goes on without it.
    SnapshotFailed {
        /// When.
        at_ms: u64,
        /// Of which partition.
        partition: PartitionId,
        /// What the storage said.
        text: String,
    },
}

/// What a shard has counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events that are durable and acknowledged.
    pub events_appended: u64,
    /// Bytes of their messages and annotations.
    pub event_bytes_appended: u64,
    /// Events that were refused, for whatever reason.
    pub events_refused: u64,
    /// Appends that found no room and were asked to come again.
    pub appends_deferred: u64,
    /// Events handed to readers.
    pub events_read: u64,
    /// Sessions opened.
    pub connects: u64,
    /// Sessions ended, for whatever reason.
    pub disconnects: u64,
    /// Tokens, keys and sessions refused.
    pub refusals: u64,
    /// Devices that registered.
    pub registrations: u64,
    /// Readers opened.
    pub readers_opened: u64,
    /// Readers that another one took the place of.
    pub readers_stolen: u64,
    /// Checkpoints made durable.
    pub checkpoints: u64,
    /// Commands enqueued.
    pub commands_enqueued: u64,
    /// Bytes of their messages.
    pub command_bytes_enqueued: u64,
    /// Commands that were refused, for whatever reason.
    pub commands_refused: u64,
    /// Commands handed to receivers, again each time they are received again.
    pub commands_received: u64,
    /// Commands completed.
    pub commands_completed: u64,
    /// Commands that devices gave back and that wait again.
    pub commands_given_back: u64,
    /// Commands dead-lettered because a device rejected them or gave them back too often.
    pub commands_dead_lettered: u64,
    /// Commands that expired.
    pub commands_expired: u64,
    /// Commands purged.
    pub commands_purged: u64,
    /// Commands that ended with the identity they were for.
    pub commands_dropped: u64,
    /// Receipts gathered.
    pub receipts_gathered: u64,
    /// Batches of receipts made.
    pub receipt_batches_made: u64,
    /// Batches of receipts that the back end completed.
    pub receipt_batches_completed: u64,
    /// Receipts in batches that were dropped.
    pub receipts_dropped: u64,
    /// Identities created, changed and deleted.
    pub device_changes: u64,
    /// Policies made, changed and deleted.
    pub policy_changes: u64,
    /// Snapshots made durable.
    pub snapshots: u64,
    /// Monitoring events that nobody fetched in time.
    pub monitor_events_dropped: u64,
}
