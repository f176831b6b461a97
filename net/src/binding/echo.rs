//! A binding for tests of what is around bindings.

use engine::request::{Notice, Reply};

use super::{Binding, Closing, Context};

/// Echoes what it gets, byte by byte; `!` makes it want nothing until a reply comes, `.` ends it, `?` is a fault.
#[derive(Default)]
pub struct Echo {
    is_blocked: bool,
    is_finished: bool,
    timeout_ms: Option<u64>,
}

impl Binding for Echo {
    fn handle_bytes(
        &mut self,
        input: &mut &[u8],
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) -> Result<(), Closing> {
        self.timeout_ms = Some(hub.now.mono_ms + 1000);
        while let [byte, rest @ ..] = *input {
            if self.is_blocked || self.is_finished {
                return Ok(());
            }
            *input = rest;
            output.push(*byte);
            match byte {
                b'!' => self.is_blocked = true,
                b'.' => self.is_finished = true,
                b'?' => return Err(Closing::fault("a question")),
                _ => {}
            }
        }
        Ok(())
    }

    fn handle_reply(&mut self, token: u64, _reply: Reply, output: &mut Vec<u8>, _hub: &mut Context<'_>) {
        self.is_blocked = false;
        output.extend_from_slice(format!("[{token}]").as_bytes());
    }

    fn handle_notice(&mut self, _notice: Notice, _output: &mut Vec<u8>, _hub: &mut Context<'_>) {}

    fn handle_timeout(&mut self, output: &mut Vec<u8>, _hub: &mut Context<'_>) {
        self.timeout_ms = None;
        output.extend_from_slice(b"tick");
    }

    fn next_timeout_ms(&self) -> Option<u64> {
        self.timeout_ms
    }

    fn handle_output_drained(&mut self, _output: &mut Vec<u8>, _hub: &mut Context<'_>) {}

    fn handle_turn_end(&mut self, output: &mut Vec<u8>, _hub: &mut Context<'_>) {
        if !output.is_empty() {
            output.push(b'\n');
        }
    }

    fn wants_input(&self) -> bool {
        !self.is_blocked && !self.is_finished
    }

    fn begin_stop(&mut self, output: &mut Vec<u8>, _hub: &mut Context<'_>) {
        output.extend_from_slice(b"stop");
        self.is_finished = true;
    }

    fn is_finished(&self) -> bool {
        self.is_finished
    }
}
