//! The end of the process where going on would break a promise.

/// While one lives, a panic on its thread ends the process with a log line.
///
/// A shard that panicked in the middle of a change, or disk work that never answers, must not serve on: connections'
/// tasks catch panics, and would hide it. A restart recovers from the log.
#[derive(Debug)]
pub(crate) struct FatalOnPanic {
    place: &'static str,
}

impl FatalOnPanic {
    /// `place` says in the log line where it happened.
    pub(crate) fn new(place: &'static str) -> Self {
        Self { place }
    }
}

impl Drop for FatalOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            end(self.place);
        }
    }
}

fn end(place: &str) -> ! {
    let thread = std::thread::current();
    tracing::error!(
        thread = thread.name().unwrap_or("unnamed"),
        "a panic in the {place} ends the hub; nothing acknowledged is lost, restart it to recover"
    );
    // Not an exit with destructors: they would run on data that the panic left halfway.
    std::process::abort();
}
