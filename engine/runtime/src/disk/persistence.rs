//! How a write that ended halfway goes on: a short one behind its last whole block, an interrupted one again, and either only so
//! often.

use std::io;

use segment_log::storage::{BLOCK_BYTES, Cause, Operation, StorageError};

/// Answers without any progress that one write takes before it fails. A signal interrupts once; a file system that
/// answers so again and again would otherwise keep its log waiting for ever.
const FRUITLESS_MAX: u32 = 100;

/// One write's course.
#[derive(Debug)]
pub(super) struct Persistence {
    done: usize,
    bytes: usize,
    fruitless_count: u32,
}

impl Persistence {
    /// A write of so many bytes, whole blocks.
    pub(super) fn write(bytes: usize) -> Self {
        Self { done: 0, bytes, fruitless_count: 0 }
    }

    /// Bytes that need not be written again: whole blocks.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// So much was taken. True: all of it is written.
    ///
    /// # Errors
    ///
    /// [`Cause::NoSpace`] where nothing was taken, [`Cause::Short`] where less than a block was, too often; any failure of the
    /// operating system but an interruption.
    pub(super) fn wrote(&mut self, count: usize) -> Result<bool, StorageError> {
        if count == 0 {
            return Err(failed(Cause::NoSpace));
        }
        let end = self.done + count;
        let whole = if end >= self.bytes { self.bytes } else { end - end % BLOCK_BYTES };
        match whole > self.done {
            true => self.fruitless_count = 0,
            false => self.count_fruitless(Cause::Short)?,
        }
        self.done = whole;
        Ok(self.done == self.bytes)
    }

    /// The operating system refused. Ok: ask again.
    ///
    /// # Errors
    ///
    /// As [`wrote`](Self::wrote).
    pub(super) fn refused(&mut self, error: &io::Error) -> Result<(), StorageError> {
        let refusal = StorageError::from_io(Operation::Write, error);
        match error.kind() {
            io::ErrorKind::Interrupted => self.count_fruitless(refusal.cause),
            _ => Err(refusal),
        }
    }

    fn count_fruitless(&mut self, cause: Cause) -> Result<(), StorageError> {
        self.fruitless_count += 1;
        if self.fruitless_count > FRUITLESS_MAX { Err(failed(cause)) } else { Ok(()) }
    }
}

fn failed(cause: Cause) -> StorageError {
    StorageError { operation: Operation::Write, cause }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERRUPTED: i32 = 4;
    const IO: i32 = 5;

    fn cause(result: Result<impl Sized, StorageError>) -> Option<Cause> {
        result.err().map(|error| error.cause)
    }

    #[test]
    fn a_short_write_goes_on_behind_its_last_whole_block() {
        let mut write = Persistence::write(4 * BLOCK_BYTES);
        assert_eq!(write.wrote(BLOCK_BYTES + 17), Ok(false));
        assert_eq!(write.done(), BLOCK_BYTES);
        assert_eq!(write.wrote(2 * BLOCK_BYTES + BLOCK_BYTES - 1), Ok(false));
        assert_eq!(write.done(), 3 * BLOCK_BYTES);
        assert_eq!(write.wrote(BLOCK_BYTES), Ok(true));
    }

    #[test]
    fn less_than_a_block_again_and_again_is_an_error() {
        let mut write = Persistence::write(BLOCK_BYTES);
        for _ in 0..FRUITLESS_MAX {
            assert_eq!(write.wrote(BLOCK_BYTES - 1), Ok(false));
        }
        assert_eq!(cause(write.wrote(BLOCK_BYTES - 1)), Some(Cause::Short));
        assert_eq!(cause(Persistence::write(BLOCK_BYTES).wrote(0)), Some(Cause::NoSpace));
    }

    #[test]
    fn what_was_interrupted_is_asked_again_and_every_other_failure_counts() {
        let interrupted = io::Error::from_raw_os_error(INTERRUPTED);
        let mut write = Persistence::write(BLOCK_BYTES);
        for _ in 0..FRUITLESS_MAX {
            assert_eq!(write.refused(&interrupted), Ok(()));
        }
        assert_eq!(cause(write.refused(&interrupted)), Some(Cause::Os(INTERRUPTED)));
        let refused = Persistence::write(BLOCK_BYTES).refused(&io::Error::from_raw_os_error(IO));
        assert_eq!(refused, Err(failed(Cause::Os(IO))));
    }

    proptest! {
        /// Whatever the ring answers, what is reported as written was written, in whole blocks, and it ends.
        #[test]
        fn every_course_ends(blocks in 1_usize..20, answers in prop::collection::vec(0_usize..30_000, 1..400)) {
            let bytes = blocks * BLOCK_BYTES;
            let mut write = Persistence::write(bytes);
            let mut fruitless_count = 0;
            for answer in answers {
                let before = write.done();
                let taken = answer.min(bytes - before);
                match write.wrote(taken) {
                    Err(error) => {
                        prop_assert!(taken == 0 || (error.cause == Cause::Short && fruitless_count == FRUITLESS_MAX));
                        return Ok(());
                    }
                    Ok(is_all) => {
                        prop_assert!(write.done() <= before + taken && write.done().is_multiple_of(BLOCK_BYTES));
                        prop_assert!(before + taken < write.done() + BLOCK_BYTES);
                        fruitless_count = if write.done() > before { 0 } else { fruitless_count + 1 };
                        prop_assert_eq!(is_all, write.done() == bytes);
                        if is_all {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}
