//! How the rings of the cores are set up: so that what is done never interrupts the thread that asked for it.
//!
//! Each socket that becomes ready and each write that ends is work that the kernel does on the core's own thread. Unless a ring
//! says otherwise (`IORING_SETUP_COOP_TASKRUN`), it interrupts the thread for it, at once and each time, where the thread's next
//! system call would have been soon enough: a core in full work makes thousands a second. glommio 0.9 sets up its rings
//! without a flag and takes none, so programs are linked with `--wrap=__sys_io_uring_setup` (the build scripts of those who
//! link this crate), and its call comes here. A program that is not linked so works as well, and slower.
//! See docs/decisions/0015.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io_uring::{IoringSetupFlags, io_uring_params};

/// Whether a ring was set up so.
static IS_COOPERATIVE: AtomicBool = AtomicBool::new(false);

/// Whether the rings made so far interrupt nobody. Otherwise the kernel is older than Linux 5.19, or the program was not linked
/// as this module says.
pub(crate) fn is_cooperative() -> bool {
    IS_COOPERATIVE.load(Ordering::Relaxed)
}

/// `io_uring_setup(2)`, in the place of liburing's function of this name: a descriptor, or -1 with the reason in `errno`.
///
/// # Safety
///
/// `params` points to what the system call wants there, and nobody else uses it meanwhile.
// SAFETY: the linker gives this name to calls of `__sys_io_uring_setup` alone, whose signature this is.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap___sys_io_uring_setup(entries: c_uint, params: *mut io_uring_params) -> c_int {
    let set_up = || {
        // SAFETY: the caller's promise; the call reads and writes `params` and no other memory. A descriptor fits an int.
        unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, params) as c_int }
    };
    // SAFETY: the caller's promise. The reference ends before the call.
    unsafe { (*params).flags |= IoringSetupFlags::COOP_TASKRUN };
    let ring = set_up();
    if ring >= 0 {
        IS_COOPERATIVE.store(true, Ordering::Relaxed);
        return ring;
    }
    // A kernel that does not know the flag. Any other reason is there again without it.
    // SAFETY: as above.
    unsafe { (*params).flags -= IoringSetupFlags::COOP_TASKRUN };
    set_up()
}

#[cfg(test)]
mod tests {
    use glommio::LocalExecutor;
    use io_uring::squeue::Entry;
    use io_uring::{IoUring, cqueue};

    use super::*;

    #[test]
    fn glommio_makes_cooperative_rings_where_the_kernel_can() {
        let kernel_can = IoUring::<Entry, cqueue::Entry>::builder().setup_coop_taskrun().build(2).is_ok();
        LocalExecutor::default().run(async {});
        assert_eq!(is_cooperative(), kernel_can);
    }
}
