//! The deliveries of one session between their arrival and their answer, in order.
//!
//! The engine refuses an append while it is full. The delivery is then asked again, with the bytes that were kept for it,
//! but only where no later delivery of the session was stored meanwhile: order is more than acceptance. One that was
//! overtaken is given up and told so to its sender.

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

/// A delivery and what it takes to ask for it again.
#[derive(Debug)]
pub struct Kept {
    /// Which.
    pub delivery: Delivery,
    /// Its format.
    pub message_format: u32,
    /// Its bytes.
    pub payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Asked,
    Refused,
}

/// The deliveries of one session that have no answer yet.
#[derive(Debug, Default)]
pub struct Flight {
    /// None: answered, but one before it is not.
    entries: VecDeque<Option<(Kept, State)>>,
    /// The number of the first entry.
    first: u64,
    asked_count: usize,
    refused_count: usize,
}

impl Flight {
    /// A delivery was handed to the engine; the number that its answer goes by.
    pub fn push(&mut self, kept: Kept) -> u64 {
        self.entries.push_back(Some((kept, State::Asked)));
        self.asked_count += 1;
        self.first + self.entries.len() as u64 - 1
    }

    /// The engine is full: the delivery waits to be asked again.
    pub fn refuse(&mut self, number: u64) {
        if let Some(Some((_, state))) = self.entry(number)
            && *state == State::Asked
        {
            *state = State::Refused;
            self.asked_count -= 1;
            self.refused_count += 1;
        }
    }

    /// The delivery has its answer and leaves.
    pub fn take(&mut self, number: u64) -> Option<Kept> {
        let (kept, state) = self.entry(number)?.take()?;
        match state {
            State::Asked => self.asked_count -= 1,
            State::Refused => self.refused_count -= 1,
        }
        while matches!(self.entries.front(), Some(None)) {
            self.entries.pop_front();
            self.first += 1;
        }
        Some(kept)
    }

    /// The next refused delivery before `number`, which was stored: it was overtaken. It leaves.
    pub fn take_overtaken(&mut self, number: u64) -> Option<Kept> {
        self.take_refused_below(number)
    }

    /// The next refused delivery. It leaves.
    pub fn take_refused(&mut self) -> Option<Kept> {
        self.take_refused_below(u64::MAX)
    }

    /// The refused deliveries in their order, once every one that was asked has its answer.
    pub fn due(&self) -> Vec<u64> {
        if self.asked_count > 0 || self.refused_count == 0 {
            return Vec::new();
        }
        let numbered = self.entries.iter().zip(self.first..);
        numbered.filter(|(entry, _)| entry.is_some()).map(|(_, number)| number).collect()
    }

    /// A refused delivery is asked again. Its bytes are lent out, until [`Flight::give_back`].
    pub fn ask_again(&mut self, number: u64) -> Option<Kept> {
        let (kept, state) = self.entry(number)?.as_mut()?;
        if *state != State::Refused {
            return None;
        }
        *state = State::Asked;
        let payload = std::mem::take(&mut kept.payload);
        let lent = Kept { delivery: kept.delivery, message_format: kept.message_format, payload };
        self.refused_count -= 1;
        self.asked_count += 1;
        Some(lent)
    }

    /// The bytes that [`Flight::ask_again`] lent.
    pub fn give_back(&mut self, number: u64, payload: Vec<u8>) {
        if let Some(Some((kept, _))) = self.entry(number) {
            kept.payload = payload;
        }
    }

    /// How many wait to be asked again.
    pub fn refused_count(&self) -> usize {
        self.refused_count
    }

    /// Bytes of all that is kept.
    pub fn bytes(&self) -> usize {
        self.entries.iter().flatten().map(|(kept, _)| kept.payload.len()).sum()
    }

    fn take_refused_below(&mut self, number: u64) -> Option<Kept> {
        if self.refused_count == 0 {
            return None;
        }
        let is_refused = |entry: &Option<(Kept, State)>| matches!(entry, Some((_, State::Refused)));
        let index = self.entries.iter().position(is_refused)? as u64;
        let found = self.first + index;
        if found < number { self.take(found) } else { None }
    }

    fn entry(&mut self, number: u64) -> Option<&mut Option<(Kept, State)>> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(delivery_id: u32) -> Kept {
        let link = crate::binding::amqp::tests::wire::any_link();
        let delivery = Delivery { link, delivery_id, settled: false };
        Kept { delivery, message_format: 0, payload: vec![7; 3] }
    }

    fn ids(kept: impl IntoIterator<Item = Kept>) -> Vec<u32> {
        kept.into_iter().map(|kept| kept.delivery.delivery_id).collect()
    }

    #[test]
    fn a_refused_run_is_asked_again_in_its_order() {
        let mut flight = Flight::default();
        let numbers: Vec<u64> = (1..=4).map(|id| flight.push(kept(id))).collect();
        assert_eq!(ids(flight.take(numbers[0])), [1]);
        for number in &numbers[1..] {
            assert!(flight.due().is_empty(), "one is still asked");
            flight.refuse(*number);
        }
        assert_eq!(flight.due(), numbers[1..]);
        let lent = flight.ask_again(numbers[1]).unwrap();
        assert_eq!((lent.delivery.delivery_id, lent.payload.len()), (2, 3));
        flight.give_back(numbers[1], lent.payload);
        assert_eq!((flight.bytes(), flight.refused_count()), (9, 2));
        assert_eq!(ids(flight.take(numbers[1])), [2]);
        assert!(flight.take_overtaken(numbers[1]).is_none());
        assert_eq!(flight.due(), numbers[2..]);
    }

    #[test]
    fn what_was_overtaken_is_given_up() {
        let mut flight = Flight::default();
        let numbers: Vec<u64> = (1..=4).map(|id| flight.push(kept(id))).collect();
        for index in [0, 1, 3] {
            flight.refuse(numbers[index]);
        }
        assert_eq!(ids(flight.take(numbers[2])), [3]);
        assert_eq!(ids(std::iter::from_fn(|| flight.take_overtaken(numbers[2]))), [1, 2]);
        assert_eq!(flight.due(), [numbers[3]]);
        assert_eq!(ids(std::iter::from_fn(|| flight.take_refused())), [4]);
        assert_eq!((flight.bytes(), flight.refused_count()), (0, 0));
        assert!(flight.take(numbers[3]).is_none());
    }
}
