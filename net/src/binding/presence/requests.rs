//! Requests on their way to the engine, and what their answers are about: what met a full engine is asked again, in order.

use std::collections::VecDeque;

use engine::request::{Caller, Request};

use super::limits::{REFUSED_MS_MAX, RETRY_MS};
use crate::binding::Context;

/// Requests that met a full engine, and when to ask again.
#[derive(Debug, Default)]
pub struct Requests {
    unsent: VecDeque<(u64, Request)>,
    /// What is asked again also when the engine has taken it and answers that it is full. As many as there are commands locked
    /// for the device, and one.
    insisted: Vec<Insisted>,
    retry_at_ms: Option<u64>,
}

#[derive(Debug)]
struct Insisted {
    token: u64,
    request: Request,
    /// Since when it has met nothing but a full engine.
    refused_since_ms: Option<u64>,
}

impl Requests {
    /// Ask the engine, now or as soon as there is room.
    pub fn ask(&mut self, about: About, number: u64, request: Request, hub: &mut Context<'_>) {
        let token = about.token(number);
        let caller = Caller { connection: hub.connection, token };
        if self.unsent.is_empty() && hub.door.ask(caller, request.clone()).is_ok() {
            return;
        }
        self.queue(token, request, hub);
    }

    /// The same for what must not be lost to a full journal: see [`handle_answer`](Self::handle_answer). The token of `about` and
    /// `number` must be unique.
    pub fn insist(&mut self, about: About, number: u64, request: Request, hub: &mut Context<'_>) {
        let token = about.token(number);
        self.insisted.push(Insisted { token, request: request.clone(), refused_since_ms: None });
        self.ask(about, number, request, hub);
    }

    /// An answer came. Whether nobody is to hear of it, because the request is asked again.
    pub fn handle_answer(&mut self, token: u64, is_busy: bool, hub: &mut Context<'_>) -> bool {
        let Some(place) = self.insisted.iter().position(|insisted| insisted.token == token) else {
            return false;
        };
        match is_busy {
            true => self.queue(token, self.insisted[place].request.clone(), hub),
            false => drop(self.insisted.swap_remove(place)),
        }
        is_busy
    }

    fn queue(&mut self, token: u64, request: Request, hub: &Context<'_>) {
        if let Some(insisted) = self.insisted.iter_mut().find(|insisted| insisted.token == token) {
            insisted.refused_since_ms.get_or_insert(hub.now.mono_ms);
        }
        self.unsent.push_back((token, request));
        self.retry_soon(hub);
    }

    /// Whether something waits that has met nothing but a full engine for [`REFUSED_MS_MAX`].
    pub fn is_overdue(&self, now_ms: u64) -> bool {
        let is_late = |since_ms: u64| since_ms + REFUSED_MS_MAX <= now_ms;
        let late = |insisted: &&Insisted| insisted.refused_since_ms.is_some_and(is_late);
        // What was taken in the meantime waits for the disk, which is another matter.
        let waits = |insisted: &Insisted| self.unsent.iter().any(|(token, _)| *token == insisted.token);
        self.insisted.iter().filter(late).any(waits)
    }

    /// Whether an answer is waited for that is about this, and is insisted on.
    pub fn is_insisting(&self, about: About) -> bool {
        self.insisted.iter().any(|insisted| About::of(insisted.token).is_some_and(|(is, _)| is == about))
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
        self.insisted.clear();
    }

    /// Give back what an idle device does not need.
    pub fn trim(&mut self) {
        if self.unsent.is_empty() {
            self.unsent = VecDeque::new();
        }
        if self.insisted.is_empty() {
            self.insisted = Vec::new();
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
