//! Identifiers of messages that are not acknowledged.

use std::collections::VecDeque;

use crate::packet::PacketId;

/// Identifiers there are.
const ID_COUNT: u64 = u16::MAX as u64;

/// Messages that may be in flight: one identifier is always left for what is acknowledged elsewhere.
const MESSAGE_COUNT_MAX: usize = u16::MAX as usize - 1;

/// Gives identifiers in turn, and knows which are in use. Acknowledgements nearly always come in the order of the messages
/// [MQTT 4.6], so the oldest one is looked at first.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// In the order in which they were sent, each as how many identifiers were given before it.
    numbers: VecDeque<u64>,
    given: u64,
}

impl InFlight {
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// How many messages may be sent until `max` are in flight.
    pub(super) fn room(&self, max: u16) -> usize {
        usize::from(max).min(MESSAGE_COUNT_MAX).saturating_sub(self.len())
    }

    /// An identifier that is not in use, for what is acknowledged elsewhere.
    pub(super) fn give(&mut self) -> PacketId {
        loop {
            let number = self.given;
            self.given += 1;
            let id = id_of(number);
            // Before a whole round has passed since the oldest, none comes twice.
            let is_new = self.numbers.front().is_none_or(|oldest| number - oldest < ID_COUNT);
            if is_new || self.numbers.iter().all(|other| id_of(*other) != id) {
                return id;
            }
        }
    }

    /// An identifier that is in use from now on.
    pub(super) fn begin(&mut self) -> PacketId {
        let id = self.give();
        self.numbers.push_back(self.given - 1);
        id
    }

    /// A message is acknowledged. False: there is none of this identifier.
    pub(super) fn end(&mut self, id: PacketId) -> bool {
        let place = self.numbers.iter().position(|number| id_of(*number) == id);
        place.and_then(|place| self.numbers.remove(place)).is_some()
    }
}

fn id_of(number: u64) -> PacketId {
    PacketId::new((number % ID_COUNT) as u16 + 1).expect("it is not zero")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_in_use_is_passed_over_round_after_round() {
        let mut in_flight = InFlight::default();
        let (kept, gone) = (in_flight.begin(), in_flight.begin());
        assert_eq!((kept.number(), gone.number()), (1, 2));
        assert!(in_flight.end(gone));
        assert!(!in_flight.end(gone), "once");
        for _ in 0..3 * ID_COUNT {
            let id = in_flight.begin();
            assert_ne!(id, kept);
            assert!(in_flight.end(id));
        }
        assert_eq!(in_flight.len(), 1);
        assert!(in_flight.end(kept));
    }

    #[test]
    fn there_is_an_identifier_left_when_no_message_may_be_sent() {
        let mut in_flight = InFlight::default();
        while in_flight.room(u16::MAX) > 0 {
            in_flight.begin();
        }
        let left = in_flight.give();
        assert!(in_flight.numbers.iter().all(|number| id_of(*number) != left));
    }

    #[test]
    fn acknowledgements_may_come_in_any_order() {
        let mut in_flight = InFlight::default();
        let ids: Vec<PacketId> = (0..100).map(|_| in_flight.begin()).collect();
        assert!(ids.iter().rev().step_by(2).all(|id| in_flight.end(*id)));
        assert!(ids.iter().step_by(2).all(|id| in_flight.end(*id)));
        assert_eq!(in_flight.len(), 0);
    }
}
