//! From the peer's dispositions to the engine, and back once they are durable.

use engine::door::Busy;
use engine::request::{EngineError, Holder, Reply, Request};
use net_amqp::{DeliveryState, LinkId};

use super::{Outlet, Outlets};
use crate::binding::amqp::commands::sent::{Due, Verdict};
use crate::binding::amqp::sessions::refusal;
use crate::binding::amqp::turn::{Pending, Turn};
use crate::binding::status::Status;

impl Outlets {
    /// The peer's word about deliveries.
    pub fn handle_settled(
        &mut self,
        turn: &mut Turn<'_, '_>,
        link: LinkId,
        (first, last): (u32, u32),
        state: Option<&DeliveryState<'_>>,
        settled: bool,
    ) {
        let Some(outlet) = self.links.get_mut(&link) else { return };
        outlet.sent.decide(first, last, Verdict::of(state, settled), settled);
        self.pump(turn, link);
        // A session has a bound on unsettled deliveries too, which its links share.
        if settled {
            self.pump_stalled(turn);
        }
    }

    /// The engine's answer to a settlement.
    pub fn handle_kept(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, delivery_id: u32, answer: Reply) {
        let Some(outlet) = self.links.get_mut(&link) else { return };
        if matches!(answer, Reply::Failed(EngineError::Busy)) {
            outlet.sent.handle_not_asked(delivery_id);
            turn.shared.must_retry = true;
            self.stalled.insert(link);
            return;
        }
        if let Some(verdict) = outlet.sent.take_answered(delivery_id) {
            let state = match answer {
                Reply::Done => verdict.state(),
                answer => DeliveryState::Rejected(Some(turn.error(&Status::of(&refusal(answer))))),
            };
            turn.connection.settle(link, delivery_id, delivery_id, &state, true, turn.output);
        }
        self.pump(turn, link);
    }

    /// Whether a settlement waits for its answer.
    pub fn is_waiting(&self) -> bool {
        self.links.values().any(|outlet| outlet.sent.is_settling())
    }
}

impl Outlet {
    /// Hand to the engine what the peer has decided.
    pub(super) fn ask_settlements(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) -> Result<(), Busy> {
        while let Some(due) = self.sent.poll_due() {
            let pending = Pending::Settle(link, due.delivery_id);
            if turn.ask(pending, request(&due)).is_err() {
                self.sent.handle_not_asked(due.delivery_id);
                return Err(Busy);
            }
        }
        Ok(())
    }

    /// The link is gone: what its peer has decided is told without anybody to hear the answer.
    pub(super) fn tell_settlements(&mut self, turn: &mut Turn<'_, '_>) {
        while let Some(due) = self.sent.poll_due() {
            turn.tell(request(&due));
        }
    }
}

fn request(due: &Due) -> Request {
    let Due { receiver, token, settlement, .. } = *due;
    Request::Settle { holder: Holder::Receiver(receiver), token, settlement }
}
