//! The deliveries of a connection between their arrival and their answer, in the order in which they came.

use std::collections::VecDeque;

use net_amqp::LinkId;

/// A delivery of a telemetry link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its link.
    pub link: LinkId,
    /// Its id.
    pub delivery_id: u32,
    /// Whether the sender settled it and wants no answer.
    pub settled: bool,
}

/// Marks the token of an append, which is the delivery's number and needs no entry in the table of waiting requests.
const APPEND_TOKEN: u64 = 1 << 63;

/// The number of the delivery whose append has this token; none: it is another request's token.
pub fn append_number(token: u64) -> Option<u64> {
    (token & APPEND_TOKEN != 0).then_some(token & !APPEND_TOKEN)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Asked,
    Accepted,
    /// Answered otherwise.
    Done,
}

/// All deliveries since the oldest one without an answer.
#[derive(Debug, Default)]
pub struct Flight {
    entries: VecDeque<(Delivery, State)>,
    /// The number of the first entry.
    first: u64,
    asked_count: usize,
}

impl Flight {
    /// A delivery came in; the number that its answer goes by.
    pub fn push(&mut self, delivery: Delivery) -> u64 {
        self.entries.push_back((delivery, State::Asked));
        self.asked_count += 1;
        self.first + self.entries.len() as u64 - 1
    }

    /// The token to ask the engine with.
    pub fn token(number: u64) -> u64 {
        APPEND_TOKEN | number
    }

    /// A delivery's events are durable.
    pub fn accept(&mut self, number: u64) {
        self.answer(number, State::Accepted);
    }

    /// A delivery is answered otherwise, now. None: it was answered before.
    pub fn take(&mut self, number: u64) -> Option<Delivery> {
        self.answer(number, State::Done)
    }

    /// The next accepted delivery with none before it that waits. It leaves.
    pub fn pop_accepted(&mut self) -> Option<Delivery> {
        loop {
            match self.entries.front()? {
                (_, State::Asked) => return None,
                (delivery, state) => {
                    let accepted = (*state == State::Accepted).then_some(*delivery);
                    self.entries.pop_front();
                    self.first += 1;
                    if accepted.is_some() {
                        return accepted;
                    }
                }
            }
        }
    }

    /// Deliveries that wait for their answer or for that of an earlier one.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether any waits for its answer.
    pub fn is_waiting(&self) -> bool {
        self.asked_count > 0
    }

    /// Give memory back that a busy time has left.
    pub fn shrink(&mut self) {
        if self.entries.is_empty() && self.entries.capacity() > 0 {
            self.entries = VecDeque::new();
        }
    }

    fn answer(&mut self, number: u64, state: State) -> Option<Delivery> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let (delivery, known) = self.entries.get_mut(index)?;
        if *known != State::Asked {
            return None;
        }
        *known = state;
        self.asked_count -= 1;
        Some(*delivery)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(delivery_id: u32) -> Delivery {
        let link = crate::binding::amqp::tests::wire::any_link();
        Delivery { link, delivery_id, settled: false }
    }

    fn popped(flight: &mut Flight) -> Vec<u32> {
        std::iter::from_fn(|| flight.pop_accepted()).map(|delivery| delivery.delivery_id).collect()
    }

    #[test]
    fn acceptances_leave_in_the_order_of_arrival() {
        let mut flight = Flight::default();
        let numbers: Vec<u64> = (1..=5).map(|id| flight.push(delivery(id))).collect();
        flight.accept(numbers[1]);
        flight.accept(numbers[2]);
        assert!(popped(&mut flight).is_empty(), "the first one waits");
        flight.accept(numbers[0]);
        assert_eq!(popped(&mut flight), [1, 2, 3]);
        assert_eq!(flight.take(numbers[3]), Some(delivery(4)));
        assert_eq!(flight.take(numbers[3]), None, "once");
        flight.accept(numbers[4]);
        assert_eq!(popped(&mut flight), [5]);
        assert_eq!((flight.len(), flight.is_waiting()), (0, false));
        flight.accept(numbers[4]);
        assert_eq!(flight.push(delivery(6)), 5);
    }

    #[test]
    fn tokens_of_appends_are_told_from_others() {
        assert_eq!(append_number(Flight::token(7)), Some(7));
        assert_eq!(append_number(7), None);
    }
}
