//! Requests on their way to the engine, and what their answers are about: what met a full engine is asked again, in order.

use std::collections::VecDeque;

use engine::request::{Caller, Request};

use super::limits::RETRY_MS;
use crate::binding::Context;

/// Requests that met a full engine, and when to ask again.
#[derive(Debug, Default)]
pub struct Requests {
    unsent: VecDeque<(u64, Request)>,
    retry_at_ms: Option<u64>,
}

impl Requests {
    /// Ask the engine, now or as soon as there is room.
    pub fn ask(&mut self, about: About, number: u64, request: Request, hub: &mut Context<'_>) {
        let token = about.token(number);
        let caller = Caller { connection: hub.connection, token };
        if self.unsent.is_empty() && hub.door.ask(caller, request.clone()).is_ok() {
            return;
        }
        self.unsent.push_back((token, request));
        self.retry_soon(hub);
    }

    /// Something met a full engine: look again in a moment.
    pub fn retry_soon(&mut self, hub: &Context<'_>) {
        self.retry_at_ms = Some(hub.now.mono_ms + RETRY_MS);
    }

    /// When to look again, on the monotonic clock.
    pub fn retry_at_ms(&self) -> Option<u64> {
        self.retry_at_ms
    }

    /// Ask again, until the engine is full once more. Whether there was anything to look for.
    pub fn retry(&mut self, hub: &mut Context<'_>) -> bool {
        if self.retry_at_ms.take().is_none() {
            return false;
        }
        while let Some((token, request)) = self.unsent.front() {
            let caller = Caller { connection: hub.connection, token: *token };
            if hub.door.ask(caller, request.clone()).is_err() {
                self.retry_soon(hub);
                break;
            }
            self.unsent.pop_front();
        }
        true
    }

    /// Nothing is to be asked any more.
    pub fn clear(&mut self) {
        self.unsent.clear();
    }

    /// Give back what an idle device does not need.
    pub fn trim(&mut self) {
        if self.unsent.is_empty() {
            self.unsent = VecDeque::new();
        }
    }
}

/// What an answer of the engine is about; in the low bits of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    Authenticate,
    OpenSession,
    Append,
    OpenReceiver,
    Receive,
    Settle,
    Own,
    Nothing,
}

impl About {
    const ALL: [Self; 8] = [
        Self::Authenticate,
        Self::OpenSession,
        Self::Append,
        Self::OpenReceiver,
        Self::Receive,
        Self::Settle,
        Self::Own,
        Self::Nothing,
    ];

    /// The token of a request, with a number of its own kind.
    pub fn token(self, number: u64) -> u64 {
        number << 3 | self as u64
    }

    /// What the answer with this token is about, and the number.
    pub fn of(token: u64) -> Option<(Self, u64)> {
        Self::ALL.get((token & 7) as usize).map(|about| (*about, token >> 3))
    }
}
