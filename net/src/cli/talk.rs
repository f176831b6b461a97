//! A conversation with the running hub over AMQP: a machine of the command's own, the stream, and the clock.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use net_amqp::Error;

use super::https::Hub;
use super::{CommandError, OrFail};

/// Longest wait for bytes before the machine's clock is looked at.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a conversation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It does.
    GoesOn,
    /// All is said.
    Done,
}

/// The client's side of a conversation. Its errors are texts for whoever gave the command; once there is one, the
/// conversation is over.
pub(super) trait Talk {
    /// Take what came from the hub, and append what to say.
    fn handle(&mut self, input: &[u8], output: &mut Vec<u8>, now_ms: u64) -> Result<Step, String>;

    /// When to call [`handle_timeout`](Talk::handle_timeout).
    fn next_timeout_ms(&self) -> Option<u64>;

    /// Time has passed.
    fn handle_timeout(&mut self, now_ms: u64, output: &mut Vec<u8>) -> Result<Step, String>;
}

/// Hold a conversation to its end. `start` makes its machine and appends what it says first.
///
/// # Errors
///
/// The machine's, or the hub is gone.
pub(super) fn talk<T: Talk>(
    hub: &Hub,
    start: impl FnOnce(u64, &mut Vec<u8>) -> T,
) -> Result<T, CommandError> {
    let mut stream = hub.connect(&hub.info.amqps)?;
    let started = Instant::now();
    let now_ms = || started.elapsed().as_millis() as u64;
    let mut output = Vec::new();
    let mut machine = start(now_ms(), &mut output);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        stream.write_all(&output).and_then(|()| stream.flush()).or_fail()?;
        output.clear();
        let timeout_ms = machine.next_timeout_ms().map_or(u64::MAX, |at_ms| at_ms.saturating_sub(now_ms()));
        let timeout = Duration::from_millis(timeout_ms.max(1)).min(READ_TIMEOUT);
        stream.socket().set_read_timeout(Some(timeout)).or_fail()?;
        let step = match stream.read(&mut buffer) {
            Ok(0) => return Err(CommandError::new("the hub hung up")),
            Ok(count) => machine.handle(&buffer[..count], &mut output, now_ms()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(Step::GoesOn)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Step::GoesOn),
            Err(error) => return Err(CommandError::new(format!("the hub hung up: {error}"))),
        };
        let step = match step {
            Ok(Step::GoesOn) if machine.next_timeout_ms().is_some_and(|at_ms| at_ms <= now_ms()) => {
                machine.handle_timeout(now_ms(), &mut output)
            }
            step => step,
        };
        match step {
            Ok(Step::GoesOn) => {}
            Ok(Step::Done) => {
                stream.write_all(&output).and_then(|()| stream.flush()).or_fail()?;
                return Ok(machine);
            }
            Err(text) => {
                // The goodbye that answers the hub's; it may be gone already.
                let _ = stream.write_all(&output);
                return Err(CommandError::new(text));
            }
        }
    }
}

/// An error of the hub as people read it. IoT Hub's descriptions are JSON with a message in it.
pub(super) fn words(error: &Error<'_>) -> String {
    let Some(text) = &error.description else { return error.condition.to_string() };
    let json: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let message = json.as_ref().and_then(|json| json.get("message")).and_then(serde_json::Value::as_str);
    format!("{} ({})", message.unwrap_or(text), error.condition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_both_kinds_of_descriptions() {
        let json = r#"{"errorCode":404001,"message":"device not found","info":null}"#;
        assert_eq!(words(&Error::new("amqp:not-found", json)), "device not found (amqp:not-found)");
        assert_eq!(words(&Error::new("amqp:link:stolen", "taken")), "taken (amqp:link:stolen)");
    }
}
