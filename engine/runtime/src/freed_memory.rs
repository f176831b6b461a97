//! What the C library does with memory that was given back: by default it returns more than a few MiB of it to the system at
//! once, and takes it anew, page by page, a moment later.
#![allow(unsafe_code)]

use std::ffi::c_int;

/// So much lies ready for each thread that allocates, once it was in use: what loads of one log's old events hold at most.
const KEPT_BYTES: c_int = 32 << 20;

/// Allocations from here on are the system's own: larger than any range or commit in ordinary use.
const MAPPED_FROM_BYTES: c_int = 16 << 20;

/// A thread's memory grows by so much at least, not by a page at a time.
const GROWTH_BYTES: c_int = 256 << 10;

/// Keep memory that was given back ready for the next who wants some. For the whole process, at its start; for programs whose
/// own memory is mostly the hub's; best before there are other threads. Another C library than glibc is left as it is.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (what, bytes) in [
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
        (libc::M_TOP_PAD, GROWTH_BYTES),
    ] {
        // SAFETY: it takes two integers and changes, under the allocator's lock, how memory is kept: nothing that anybody holds.
        let is_set = unsafe { libc::mallopt(what, bytes) } == 1;
        if !is_set {
            tracing::warn!("the C library keeps to its own limits of freed memory");
        }
    }
}

#[cfg(test)]
#[cfg(target_env = "gnu")]
mod tests {
    use super::*;

    const RANGE_BYTES: usize = 1 << 20;
    const PAGE_BYTES: usize = 4096;

    /// Pages that this thread has touched for the first time.
    fn fault_count() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let behind_name = stat.rsplit_once(')').unwrap().1;
        behind_name.split_whitespace().nth(7).unwrap().parse().unwrap()
    }

    fn touch_and_free() {
        let ranges: Vec<Vec<u8>> = (0..8).map(|_| vec![0x5a; RANGE_BYTES]).collect();
        std::hint::black_box(&ranges);
    }

    #[test]
    fn memory_that_was_freed_is_there_when_it_is_wanted_again() {
        keep_freed_memory();
        touch_and_free();
        let before = fault_count();
        (0..20).for_each(|_| touch_and_free());
        let once = (8 * RANGE_BYTES / PAGE_BYTES) as u64;
        let faults = fault_count() - before;
        assert!(faults < once, "{faults} pages in twenty turns of {once} each");
    }
}
