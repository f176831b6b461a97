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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const CHILD: &str = "ENGINE_RUNTIME_FATAL_TEST_CHILD";

    /// Runs itself again in a process that panics where a shard would, below a caller that catches panics.
    #[test]
    fn a_panic_ends_the_process_although_it_is_caught_above() {
        if std::env::var_os(CHILD).is_some() {
            let caught = std::panic::catch_unwind(|| {
                let _fatal = FatalOnPanic::new("test");
                panic!("on purpose");
            });
            unreachable!("the process goes on: {caught:?}");
        }
        let program = std::env::current_exe().expect("this program's path");
        let name = "fatal::tests::a_panic_ends_the_process_although_it_is_caught_above";
        let output = Command::new(program).args([name, "--exact", "--nocapture"]).env(CHILD, "1").output();
        let output = output.expect("a child process");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.status.code().is_none(), "{:?}: {text}", output.status);
        assert!(text.contains("on purpose") && !text.contains("the process goes on"), "{text}");
    }

    #[test]
    fn without_a_panic_nothing_happens() {
        drop(FatalOnPanic::new("test"));
    }
}
