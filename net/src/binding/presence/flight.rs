//! A device's events between their arrival and their answer, in order.
//!
//! Their bytes lie one behind the other in one buffer, from which they are handed to the engine, the first time and again
//! after it was full; the buffer goes when nothing waits, so an idle connection has none. Acknowledgements leave in the
//! order of arrival [MQTT-4.6.0-2], whatever the order of the engine's answers.

use std::collections::VecDeque;

use engine::request::EventView;

use super::limits::{EVENT_WAITING_BYTES_MAX, EVENT_WAITING_MAX};

/// How long the parts of an event are that were appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventShape {
    /// Annotations, at the front.
    pub annotations_bytes: usize,
    /// AMQP values in them.
    pub annotation_value_count: u16,
    /// The message behind them.
    pub message_bytes: usize,
}

impl EventShape {
    /// Append an event as it is stored.
    pub fn append(event: &EventView<'_>, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(event.annotations);
        out.extend_from_slice(event.message);
        Self {
            annotations_bytes: event.annotations.len(),
            annotation_value_count: event.annotation_value_count,
            message_bytes: event.message.len(),
        }
    }
}

/// The events that have no answer yet. `A`: what the protocol acknowledges an event by.
#[derive(Debug)]
pub struct Flight<A> {
    bytes: Vec<u8>,
    entries: VecDeque<Entry<A>>,
    /// The number of the first entry.
    first: u64,
    refused_count: u32,
}

#[derive(Debug)]
struct Entry<A> {
    /// None: nobody waits for an acknowledgement.
    id: Option<A>,
    /// Where its bytes begin.
    start: usize,
    shape: EventShape,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Asked,
    Refused,
    Done,
}

impl<A> Default for Flight<A> {
    fn default() -> Self {
        Self { bytes: Vec::new(), entries: VecDeque::new(), first: 0, refused_count: 0 }
    }
}

impl<A> Flight<A> {
    /// An event arrived, which `encode` appends; the number that its answer goes by.
    ///
    /// # Errors
    ///
    /// Those of `encode`: nothing was kept.
    pub fn push<E>(
        &mut self,
        id: Option<A>,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<EventShape, E>,
    ) -> Result<u64, E> {
        let start = self.bytes.len();
        let shape = encode(&mut self.bytes).inspect_err(|_| self.bytes.truncate(start))?;
        self.entries.push_back(Entry { id, start, shape, state: State::Asked });
        Ok(self.first + self.entries.len() as u64 - 1)
    }

    /// A message arrived that needs nobody's answer; it is acknowledged behind those before it.
    pub fn push_done(&mut self, id: Option<A>) {
        let shape = EventShape::default();
        self.entries.push_back(Entry { id, start: self.bytes.len(), shape, state: State::Done });
    }

    /// The event of this number, to be handed over.
    pub fn view(&self, number: u64) -> Option<EventView<'_>> {
        let entry = self.entries.get(self.index(number)?)?;
        let EventShape { annotations_bytes, annotation_value_count, message_bytes } = entry.shape;
        let bytes = &self.bytes[entry.start..][..annotations_bytes + message_bytes];
        let (annotations, message) = bytes.split_at(annotations_bytes);
        Some(EventView { message, annotations, annotation_value_count })
    }

    /// The engine is full: the event is to be handed over again.
    pub fn refuse(&mut self, number: u64) {
        if self.set(number, State::Asked, State::Refused) {
            self.refused_count += 1;
        }
    }

    /// The first event that is to be handed over again; it counts as asked from now.
    pub fn ask_again(&mut self) -> Option<u64> {
        if self.refused_count == 0 {
            return None;
        }
        let index = self.entries.iter().position(|entry| entry.state == State::Refused)?;
        self.entries[index].state = State::Asked;
        self.refused_count -= 1;
        Some(self.first + index as u64)
    }

    /// The event is durable.
    pub fn complete(&mut self, number: u64) {
        self.set(number, State::Asked, State::Done);
    }

    /// The next acknowledgement that may leave. None: the first message waits, or there is none.
    pub fn poll_acknowledged(&mut self) -> Option<A> {
        while self.entries.front().is_some_and(|entry| entry.state == State::Done) {
            self.first += 1;
            let entry = self.entries.pop_front()?;
            if entry.id.is_some() {
                return entry.id;
            }
        }
        None
    }

    /// Give back the room of what is answered; all of it when nothing waits.
    pub fn trim(&mut self) {
        match self.entries.front().map(|entry| entry.start) {
            None => {
                self.bytes = Vec::new();
                self.entries = VecDeque::new();
            }
            Some(start) if start > self.bytes.len() / 2 => {
                self.bytes.drain(..start);
                for entry in &mut self.entries {
                    entry.start -= start;
                }
            }
            Some(_) => {}
        }
    }

    /// Whether an event waits to be handed over again.
    pub fn has_refused(&self) -> bool {
        self.refused_count > 0
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether another event may come.
    pub fn has_room(&self) -> bool {
        self.refused_count == 0
            && self.entries.len() < EVENT_WAITING_MAX
            && self.waiting_bytes() < EVENT_WAITING_BYTES_MAX
    }

    /// From the first event without an answer to the last; the buffer is up to twice as long.
    fn waiting_bytes(&self) -> usize {
        self.entries.front().map_or(0, |first| self.bytes.len() - first.start)
    }

    fn index(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }

    fn set(&mut self, number: u64, from: State, to: State) -> bool {
        let entry = self.index(number).and_then(|index| self.entries.get_mut(index));
        match entry {
            Some(entry) if entry.state == from => {
                entry.state = to;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(flight: &mut Flight<u16>, number: u16) -> u64 {
        let encode = |out: &mut Vec<u8>| {
            out.extend([number as u8; 100]);
            Ok::<_, ()>(EventShape { message_bytes: 100, ..EventShape::default() })
        };
        flight.push(Some(number), encode).unwrap()
    }

    fn acknowledged(flight: &mut Flight<u16>) -> Vec<u16> {
        std::iter::from_fn(|| flight.poll_acknowledged()).collect()
    }

    #[test]
    fn acknowledgements_keep_the_order_of_arrival() {
        let mut flight = Flight::default();
        let numbers: Vec<u64> = (1..=4).map(|number| push(&mut flight, number)).collect();
        flight.push_done(Some(5));
        flight.complete(numbers[2]);
        flight.complete(numbers[1]);
        assert_eq!(acknowledged(&mut flight), [0; 0]);
        flight.complete(numbers[0]);
        assert_eq!(acknowledged(&mut flight), [1, 2, 3]);
        flight.trim();
        assert_eq!(flight.view(numbers[3]).unwrap().message.last(), Some(&4));
        flight.complete(numbers[3]);
        assert_eq!(acknowledged(&mut flight), [4, 5]);
        flight.trim();
        assert!(flight.is_empty() && flight.bytes.capacity() == 0 && flight.view(numbers[3]).is_none());
        assert_eq!(push(&mut flight, 6), 5, "numbers go on");
    }

    #[test]
    fn what_was_refused_is_asked_again_in_order() {
        let mut flight = Flight::default();
        let numbers: Vec<u64> = (1..=3).map(|number| push(&mut flight, number)).collect();
        for number in [numbers[1], numbers[0], numbers[0]] {
            flight.refuse(number);
        }
        assert!(flight.has_refused() && !flight.has_room());
        flight.complete(numbers[2]);
        flight.complete(numbers[0]);
        assert_eq!(acknowledged(&mut flight), [0; 0], "what is to be asked again is not done");
        assert_eq!((flight.ask_again(), flight.ask_again(), flight.ask_again()), (Some(0), Some(1), None));
        flight.complete(numbers[0]);
        flight.complete(numbers[1]);
        assert_eq!(acknowledged(&mut flight), [1, 2, 3]);
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_in_bytes() {
        let mut flight = Flight::default();
        let mut numbers = Vec::new();
        while flight.has_room() {
            numbers.push(push(&mut flight, numbers.len() as u16));
        }
        assert_eq!(numbers.len(), EVENT_WAITING_MAX);
        flight.complete(numbers[0]);
        assert_eq!(acknowledged(&mut flight), [0]);
        assert!(flight.has_room());

        let mut flight = Flight::default();
        let large = |out: &mut Vec<u8>| {
            out.extend([1; EVENT_WAITING_BYTES_MAX / 2]);
            Ok::<_, ()>(EventShape { message_bytes: EVENT_WAITING_BYTES_MAX / 2, ..EventShape::default() })
        };
        let first = flight.push(Some(1), large).unwrap();
        assert!(flight.has_room());
        flight.push(Some(2), large).unwrap();
        assert!(!flight.has_room());
        // Its bytes are still in the buffer, but wait for nothing.
        flight.complete(first);
        assert_eq!(acknowledged(&mut flight), [1]);
        flight.trim();
        assert!(flight.has_room() && flight.bytes.len() == EVENT_WAITING_BYTES_MAX);
    }

    #[test]
    fn what_is_no_event_leaves_nothing_behind() {
        let mut flight = Flight::<u16>::default();
        let encode = |out: &mut Vec<u8>| {
            out.extend([1; 7]);
            Err("half of it")
        };
        assert_eq!(flight.push(Some(1), encode), Err("half of it"));
        assert!(flight.is_empty() && flight.bytes.is_empty());
    }
}
