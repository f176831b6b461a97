//! The mailboxes between cores: one for each direction of each pair, bounded, crossed in batches.
//!
//! A core gathers what it has for another in an [`Outbox`] during its turn and hands it over at the end, under one short
//! lock and with one ring of the other's bell. The taker takes all batches under one lock too, so neither side ever waits
//! for the other's work.
//!
//! What is bounded, and how: a request that is answered takes a place in the answer's mailbox when it is sent and keeps it
//! until the answer has arrived, so answers are never refused and two full mailboxes never wait for each other. The bytes
//! of events and the number of requests without an answer are bounded while they lie in the mailbox. A refusal is
//! [`Busy`]. Notices and ends of connections are not refused: there is at most one for each live session, receiver, reader,
//! connection, and policy that let a connection in, and those have bounds of their own.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use engine::door::Busy;
use engine::request::{
    AppendView, Appended, Caller, ConnectionId, CoreId, EventSpan, EventView, Notice, Reply, Request,
    SessionId,
};

use crate::context::Call;
use crate::limits::{
    MAILBOX_BLOCK_BYTES_MAX, MAILBOX_BLOCK_KEPT_BYTES_MAX, MAILBOX_BYTES_MAX, MAILBOX_OUTSTANDING_MAX,
    MAILBOX_UNANSWERED_MAX,
};

/// What crosses from one core to another, but for appends and the answers to them.
pub(crate) enum Item {
    /// A request for a partition of the target.
    Request(Caller, Request),
    /// An answer for a connection of the target.
    Reply(Caller, Reply),
    /// News for a connection of the target.
    Notice(ConnectionId, Notice),
    /// A connection of the sender has ended.
    ConnectionClosed(ConnectionId),
    /// Anything else.
    Call(Call),
}

/// What crosses, in its order. Small, for there is one for every event: the large and rare things lie beside it.
enum Entry {
    /// An append: its events are the next `event_count` spans of the batch.
    Append { caller: Caller, session: SessionId, event_count: u32 },
    /// The answer to an append of this connection.
    Appended(ConnectionId, Appended),
    /// The next of the batch's items.
    Item,
}

/// One turn's things from one core for another. Events' bytes lie in one block, in the order of their appends.
#[derive(Default)]
pub(crate) struct Batch {
    entries: Vec<Entry>,
    items: Vec<Item>,
    bytes: Vec<u8>,
    spans: Vec<EventSpan>,
    unanswered_count: u32,
}

impl Batch {
    fn clear(&mut self) {
        self.entries.clear();
        self.items.clear();
        self.spans.clear();
        self.bytes.clear();
        self.unanswered_count = 0;
        if self.bytes.capacity() > MAILBOX_BLOCK_KEPT_BYTES_MAX {
            self.bytes = Vec::new();
        }
    }

    /// Take everything out in order; an append is given with its bytes, where they lie.
    pub(crate) fn take_each(&mut self, mut take: impl FnMut(Taken<'_>)) {
        let mut spans = self.spans.iter();
        let mut items = self.items.drain(..);
        let mut views = Vec::new();
        for entry in self.entries.drain(..) {
            match entry {
                Entry::Append { caller, session, event_count } => {
                    views.clear();
                    views.extend(
                        spans.by_ref().take(event_count as usize).map(|span| view(&self.bytes, span)),
                    );
                    take(Taken::Append(caller, AppendView { session, events: &views }));
                }
                Entry::Appended(connection, appended) => take(Taken::Appended(connection, appended)),
                Entry::Item => take(Taken::Item(items.next().expect("each has its entry"))),
            }
        }
    }
}

/// What comes out of a [`Batch`].
pub(crate) enum Taken<'a> {
    /// An append, borrowed from the batch's block.
    Append(Caller, AppendView<'a>),
    /// The answer to one, for a connection of the target.
    Appended(ConnectionId, Appended),
    /// Anything else.
    Item(Item),
}

fn view<'a>(bytes: &'a [u8], span: &EventSpan) -> EventView<'a> {
    let (annotations, rest) = bytes[span.start as usize..].split_at(span.annotations_bytes as usize);
    EventView {
        annotations,
        annotation_value_count: span.annotation_value_count,
        message: &rest[..span.message_bytes as usize],
    }
}

/// One direction between two cores.
#[derive(Default)]
struct Mailbox {
    state: Mutex<MailboxState>,
    /// Bytes of events in it, not taken yet.
    bytes: AtomicUsize,
    /// Requests without an answer in it, not taken yet.
    unanswered_count: AtomicU32,
}

#[derive(Default)]
struct MailboxState {
    full: Vec<Batch>,
    /// Emptied batches on their way back to the sender.
    empty: Vec<Batch>,
}

impl Mailbox {
    fn state(&self) -> MutexGuard<'_, MailboxState> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All mailboxes of a run, shared by its cores.
pub(crate) struct Mailboxes {
    core_count: usize,
    /// By source, then target.
    boxes: Vec<Mailbox>,
}

impl Mailboxes {
    pub(crate) fn new(core_count: u16) -> Self {
        let core_count = usize::from(core_count);
        Self { core_count, boxes: (0..core_count * core_count).map(|_| Mailbox::default()).collect() }
    }

    fn between(&self, source: CoreId, target: CoreId) -> &Mailbox {
        &self.boxes[usize::from(source.0) * self.core_count + usize::from(target.0)]
    }

    /// Take everything that `source` has sent to `target` so far, oldest first, into `batches` (empty before).
    pub(crate) fn take(&self, source: CoreId, target: CoreId, batches: &mut Vec<Batch>) {
        let mailbox = self.between(source, target);
        std::mem::swap(&mut mailbox.state().full, batches);
        let bytes = batches.iter().map(|batch| batch.bytes.len()).sum();
        let unanswered_count = batches.iter().map(|batch| batch.unanswered_count).sum();
        mailbox.bytes.fetch_sub(bytes, Ordering::Relaxed);
        mailbox.unanswered_count.fetch_sub(unanswered_count, Ordering::Relaxed);
    }

    /// Bytes of events that were taken are kept by the target all the same: the sender is to count them still.
    pub(crate) fn charge_bytes(&self, source: CoreId, target: CoreId, bytes: usize) {
        self.between(source, target).bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// They are kept no longer.
    pub(crate) fn release_bytes(&self, source: CoreId, target: CoreId, bytes: usize) {
        self.between(source, target).bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes of events that the sender counts.
    #[cfg(test)]
    pub(crate) fn bytes(&self, source: CoreId, target: CoreId) -> usize {
        self.between(source, target).bytes.load(Ordering::Relaxed)
    }

    /// Give emptied batches back, so that their memory is used again. Leaves `batches` empty.
    pub(crate) fn give_back(&self, source: CoreId, target: CoreId, batches: &mut Vec<Batch>) {
        batches.iter_mut().for_each(Batch::clear);
        // Two are enough for a steady exchange: one being filled, one being emptied.
        batches.truncate(2);
        let mut state = self.between(source, target).state();
        if state.empty.is_empty() {
            std::mem::swap(&mut state.empty, batches);
        }
        drop(state);
        batches.clear();
    }
}

/// What a core has gathered for one other core, and its account of the mailbox there. Lives on the sender's core.
pub(crate) struct Outbox {
    source: CoreId,
    target: CoreId,
    batch: Batch,
    /// Requests sent whose answers have not arrived: places taken in the mailbox back.
    outstanding_count: u32,
}

impl Outbox {
    pub(crate) fn new(source: CoreId, target: CoreId) -> Self {
        Self { source, target, batch: Batch::default(), outstanding_count: 0 }
    }

    /// Take the place for an answer.
    ///
    /// # Errors
    ///
    /// [`Busy`]: too many requests wait for answers of that core.
    pub(crate) fn reserve_reply(&mut self) -> Result<(), Busy> {
        if self.outstanding_count >= MAILBOX_OUTSTANDING_MAX {
            return Err(Busy);
        }
        self.outstanding_count += 1;
        Ok(())
    }

    /// Answers have arrived, or nobody waits for them any more.
    pub(crate) fn release_replies(&mut self, count: u32) {
        self.outstanding_count = self.outstanding_count.checked_sub(count).expect("each place was reserved");
    }

    /// Send something that needs no room of its own, or whose room is reserved.
    pub(crate) fn push(&mut self, item: Item) {
        self.batch.entries.push(Entry::Item);
        self.batch.items.push(item);
    }

    /// Send the answer to an append; the append has reserved its room.
    pub(crate) fn push_appended(&mut self, connection: ConnectionId, appended: Appended) {
        self.batch.entries.push(Entry::Appended(connection, appended));
    }

    /// Take the room for something that is not answered; it must be pushed then.
    ///
    /// # Errors
    ///
    /// [`Busy`]: the mailbox is full.
    pub(crate) fn reserve_unanswered(&mut self, mailboxes: &Mailboxes) -> Result<(), Busy> {
        let lying = mailboxes.between(self.source, self.target).unanswered_count.load(Ordering::Relaxed);
        if lying + self.batch.unanswered_count >= MAILBOX_UNANSWERED_MAX {
            return Err(Busy);
        }
        self.batch.unanswered_count += 1;
        Ok(())
    }

    /// Send an append: its bytes are copied behind those of the turn's earlier ones. The place for the answer is reserved
    /// by the caller.
    ///
    /// # Errors
    ///
    /// [`Busy`]: the bytes do not fit. An append that is larger than the mailbox goes alone.
    pub(crate) fn push_append(
        &mut self,
        mailboxes: &Mailboxes,
        caller: Caller,
        append: AppendView<'_>,
    ) -> Result<(), Busy> {
        let lying = mailboxes.between(self.source, self.target).bytes.load(Ordering::Relaxed);
        let before = lying + self.batch.bytes.len();
        let bytes: usize =
            append.events.iter().map(|event| event.annotations.len() + event.message.len()).sum();
        let fits = before == 0 || before.saturating_add(bytes) <= MAILBOX_BYTES_MAX;
        if !fits || bytes > MAILBOX_BLOCK_BYTES_MAX {
            return Err(Busy);
        }
        let batch = &mut self.batch;
        batch.bytes.reserve(bytes);
        for event in append.events {
            batch.spans.push(EventSpan {
                start: narrow(batch.bytes.len()),
                annotations_bytes: narrow(event.annotations.len()),
                annotation_value_count: event.annotation_value_count,
                message_bytes: narrow(event.message.len()),
            });
            batch.bytes.extend_from_slice(event.annotations);
            batch.bytes.extend_from_slice(event.message);
        }
        let event_count = narrow(append.events.len());
        batch.entries.push(Entry::Append { caller, session: append.session, event_count });
        Ok(())
    }

    /// Hand over what was gathered. True: the target is to be woken.
    pub(crate) fn flush(&mut self, mailboxes: &Mailboxes) -> bool {
        if self.batch.entries.is_empty() {
            return false;
        }
        let mailbox = mailboxes.between(self.source, self.target);
        mailbox.bytes.fetch_add(self.batch.bytes.len(), Ordering::Relaxed);
        mailbox.unanswered_count.fetch_add(self.batch.unanswered_count, Ordering::Relaxed);
        let mut state = mailbox.state();
        let next = state.empty.pop().unwrap_or_default();
        state.full.push(std::mem::replace(&mut self.batch, next));
        true
    }
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("a block is smaller than MAILBOX_BLOCK_BYTES_MAX")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use engine::request::{PartitionId, SequenceNumber};

    use super::*;

    const HERE: CoreId = CoreId(0);
    const THERE: CoreId = CoreId(1);

    fn caller(token: u64) -> Caller {
        Caller { connection: ConnectionId { core: HERE, slot: 1, generation: 2 }, token }
    }

    fn session(slot: u32) -> SessionId {
        SessionId { partition: PartitionId(1), slot, generation: 0 }
    }

    fn event(message: &[u8]) -> EventView<'_> {
        EventView { message, annotations: &[], annotation_value_count: 0 }
    }

    fn take_all(mailboxes: &Mailboxes) -> Vec<Batch> {
        let mut batches = Vec::new();
        mailboxes.take(HERE, THERE, &mut batches);
        batches
    }

    #[test]
    fn a_mailbox_full_of_bytes_refuses_until_it_is_taken() {
        let mailboxes = Mailboxes::new(2);
        let mut outbox = Outbox::new(HERE, THERE);
        let quarter = vec![7; MAILBOX_BYTES_MAX / 4];
        let events = [event(&quarter)];
        let append = AppendView { session: session(0), events: &events };
        for turn in 0..4 {
            outbox.push_append(&mailboxes, caller(turn), append).expect("room");
            // What lies in the outbox counts as well as what was handed over.
            if turn % 2 == 0 {
                assert!(outbox.flush(&mailboxes));
            }
        }
        assert_eq!(outbox.push_append(&mailboxes, caller(9), append), Err(Busy));
        assert!(outbox.flush(&mailboxes));
        assert!(!outbox.flush(&mailboxes), "nothing to hand over, nobody to wake");
        assert_eq!(outbox.push_append(&mailboxes, caller(9), append), Err(Busy));

        let mut batches = take_all(&mailboxes);
        assert_eq!(batches.len(), 3);
        mailboxes.give_back(HERE, THERE, &mut batches);
        outbox.push_append(&mailboxes, caller(9), append).expect("room again");
    }

    #[test]
    fn one_append_larger_than_the_mailbox_goes_alone() {
        let mailboxes = Mailboxes::new(2);
        let mut outbox = Outbox::new(HERE, THERE);
        let large = vec![7; MAILBOX_BYTES_MAX + 1];
        let (large, small) = ([event(&large)], [event(b"small")]);
        let large = AppendView { session: session(0), events: &large };
        let small = AppendView { session: session(0), events: &small };
        outbox.push_append(&mailboxes, caller(0), small).expect("room");
        assert_eq!(outbox.push_append(&mailboxes, caller(1), large), Err(Busy));
        outbox.flush(&mailboxes);
        take_all(&mailboxes);
        outbox.push_append(&mailboxes, caller(1), large).expect("alone");
        assert_eq!(outbox.push_append(&mailboxes, caller(2), small), Err(Busy));
    }

    #[test]
    fn answers_have_their_room_before_the_request_goes() {
        let mut outbox = Outbox::new(HERE, THERE);
        for _ in 0..MAILBOX_OUTSTANDING_MAX {
            outbox.reserve_reply().expect("room");
        }
        assert_eq!(outbox.reserve_reply(), Err(Busy));
        outbox.release_replies(1);
        outbox.reserve_reply().expect("room again");
    }

    #[test]
    fn what_is_not_answered_is_bounded_while_it_lies_there() {
        let mailboxes = Mailboxes::new(2);
        let mut outbox = Outbox::new(HERE, THERE);
        let close = |outbox: &mut Outbox| -> Result<(), Busy> {
            outbox.reserve_unanswered(&mailboxes)?;
            outbox.push(Item::Request(caller(0), Request::CloseSession { session: session(0) }));
            Ok(())
        };
        for number in 0..MAILBOX_UNANSWERED_MAX {
            close(&mut outbox).expect("room");
            // What lies in the outbox counts as well as what was handed over.
            if number % 1000 == 0 {
                outbox.flush(&mailboxes);
            }
        }
        assert_eq!(close(&mut outbox), Err(Busy));
        outbox.flush(&mailboxes);
        assert_eq!(close(&mut outbox), Err(Busy));
        take_all(&mailboxes);
        close(&mut outbox).expect("room again");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        // Whatever is sent, in however many turns, comes out once, whole and in order, and both accounts return to zero.
        #[test]
        fn items_cross_whole_and_in_order(
            turns in prop::collection::vec(
                prop::collection::vec(
                    prop::option::of(prop::collection::vec(
                        (prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 0..9)),
                        1..4,
                    )),
                    0..6,
                ),
                1..8,
            ),
            taken_every in 1_usize..4,
        ) {
            let mailboxes = Mailboxes::new(2);
            let mut outbox = Outbox::new(HERE, THERE);
            let (mut sent, mut received, mut token) = (Vec::new(), Vec::new(), 0);
            let mut take = || {
                let mut batches = take_all(&mailboxes);
                for batch in &mut batches {
                    batch.take_each(|taken| received.push(match taken {
                        Taken::Append(caller, append) => {
                            let events = append.events.iter();
                            let events = events.map(|event| (event.message.to_vec(), event.annotations.to_vec()));
                            (caller.token, Some(events.collect::<Vec<_>>()))
                        }
                        Taken::Item(Item::Request(caller, _)) => (caller.token, None),
                        Taken::Appended(_, appended) => (appended.token, None),
                        Taken::Item(_) => unreachable!("not sent here"),
                    }));
                }
                mailboxes.give_back(HERE, THERE, &mut batches);
            };
            for (number, turn) in turns.into_iter().enumerate() {
                for append in turn {
                    token += 1;
                    match &append {
                        Some(events) => {
                            let views: Vec<_> = events
                                .iter()
                                .map(|(message, annotations)| EventView {
                                    message,
                                    annotations,
                                    annotation_value_count: 2,
                                })
                                .collect();
                            let append = AppendView { session: session(3), events: &views };
                            outbox.push_append(&mailboxes, caller(token), append).expect("room");
                        }
                        None if token % 2 == 0 => {
                            let appended = Appended { token, first: SequenceNumber(token), event_count: 1 };
                            outbox.push_appended(caller(token).connection, appended);
                        }
                        None => outbox.push(Item::Request(caller(token), Request::ListConsumerGroups)),
                    }
                    sent.push((token, append));
                }
                outbox.flush(&mailboxes);
                if number % taken_every == 0 {
                    take();
                }
            }
            take();
            prop_assert_eq!(sent, received);
            let mailbox = mailboxes.between(HERE, THERE);
            prop_assert_eq!(mailbox.bytes.load(Ordering::Relaxed), 0);
            prop_assert_eq!(mailbox.unanswered_count.load(Ordering::Relaxed), 0);
        }
    }
}
