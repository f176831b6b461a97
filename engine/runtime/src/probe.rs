//! Whether this machine lets the hub use io_uring, asked before glommio is, because glommio panics where it is missing.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// Memory that a process must be allowed to lock, bytes: what glommio asks for.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;

/// Why io_uring cannot be used. The text is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The kernel does not know io_uring, or something answers in its place.
    #[error(
        "io_uring is not available ({0}): the hub needs Linux 5.8 or newer, and in a container a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Missing(io::Error),
    /// It is forbidden.
    #[error(
        "io_uring is forbidden ({0}): set kernel.io_uring_disabled=0 (sysctl), and in a container use a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Forbidden(io::Error),
    /// It exists, but lacks what newer kernels have.
    #[error("this kernel's io_uring lacks {0}: the hub needs Linux 5.8 or newer")]
    TooOld(&'static str),
    /// The limit of locked memory is too low.
    #[error(
        "the limit of locked memory is {memlock_bytes} bytes: io_uring needs {memlock_bytes_min} or more (ulimit -l, or LimitMEMLOCK= in the service's unit)"
    )]
    Memlock {
        /// The limit.
        memlock_bytes: u64,
        /// What is needed.
        memlock_bytes_min: u64,
    },
    /// Anything else that the kernel said.
    #[error("io_uring cannot be set up: {0}")]
    Other(io::Error),
}

/// Set up a ring and ask what it can do. Nothing of it is kept.
///
/// # Errors
///
/// [`ProbeError`], whose text is meant for whoever starts the hub.
pub fn check_io_uring() -> Result<(), ProbeError> {
    if let Some(memlock_bytes) = rustix::process::getrlimit(rustix::process::Resource::Memlock).current
        && memlock_bytes < MEMLOCK_BYTES_MIN
    {
        return Err(ProbeError::Memlock { memlock_bytes, memlock_bytes_min: MEMLOCK_BYTES_MIN });
    }
    let ring = IoUring::new(2).map_err(classify)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(classify)?;
    let needed = [
        ("IORING_OP_READ_FIXED", opcode::ReadFixed::CODE),
        ("IORING_OP_WRITE", opcode::Write::CODE),
        ("IORING_OP_FSYNC", opcode::Fsync::CODE),
        ("IORING_OP_POLL_ADD", opcode::PollAdd::CODE),
        ("IORING_OP_TIMEOUT", opcode::Timeout::CODE),
        ("IORING_OP_ASYNC_CANCEL", opcode::AsyncCancel::CODE),
        ("IORING_OP_OPENAT", opcode::OpenAt::CODE),
        ("IORING_OP_STATX", opcode::Statx::CODE),
        ("IORING_OP_CLOSE", opcode::Close::CODE),
    ];
    for (name, code) in needed {
        if !probe.is_supported(code) {
            return Err(ProbeError::TooOld(name));
        }
    }
    Ok(())
}

fn classify(error: io::Error) -> ProbeError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ProbeError::Forbidden(error),
        io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput => ProbeError::Missing(error),
        _ => ProbeError::Other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(errno: i32) -> String {
        classify(io::Error::from_raw_os_error(errno)).to_string()
    }

    #[test]
    fn this_machine_passes() {
        check_io_uring().expect("the tests need io_uring");
    }

    #[test]
    fn refusals_say_what_to_enable() {
        let (eperm, enosys) = (1, 38);
        assert!(sentence(eperm).contains("kernel.io_uring_disabled=0"));
        assert!(sentence(eperm).contains("seccomp"));
        assert!(sentence(enosys).contains("Linux 5.8"));
        assert!(sentence(enosys).contains("seccomp"));
        assert!(!sentence(12).contains('\n'));
    }
}
