//! How a read or write goes on that ended halfway: a short one behind its last whole unit, an interrupted one again, and that only
//! so often.

use rustix::io::Errno;

/// Interruptions in a row that one transfer takes. A signal interrupts once; what answers so for ever would otherwise keep its log
/// waiting for ever.
const INTERRUPTION_COUNT_MAX: u32 = 100;

/// One transfer's course, whoever makes the calls.
#[derive(Debug)]
pub struct Transfer {
    done: usize,
    total: usize,
    unit: usize,
    interruption_count: u32,
    is_over: bool,
}

impl Transfer {
    /// A transfer of `total` bytes by calls that must begin at a multiple of `unit`.
    pub fn new(total: usize, unit: usize) -> Self {
        Self { done: 0, total, unit, interruption_count: 0, is_over: total == 0 }
    }

    /// Bytes transferred that need not be transferred again: where the next call begins.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Whether all is transferred, or a call has transferred nothing.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Take a call's answer. Ok: if it is not over, call again.
    ///
    /// # Errors
    ///
    /// The call's own; `INVAL` where it came no whole unit further, which direct I/O cannot continue; `INTR` where one was
    /// interrupted too often.
    pub fn take(&mut self, answer: Result<usize, Errno>) -> Result<(), Errno> {
        match answer {
            Ok(0) => self.is_over = true,
            Ok(count) if self.done + count >= self.total => (self.done, self.is_over) = (self.total, true),
            Ok(count) if count < self.unit => return Err(Errno::INVAL),
            Ok(count) => self.done += count - count % self.unit,
            Err(Errno::INTR) if self.interruption_count < INTERRUPTION_COUNT_MAX => {
                self.interruption_count += 1;
                return Ok(());
            }
            Err(errno) => return Err(errno),
        }
        self.interruption_count = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A transfer of 10 000 bytes against a script; the places that calls began at, and how much was transferred.
    fn check(unit: usize, script: &[Result<usize, Errno>]) -> (Vec<usize>, Result<usize, Errno>) {
        let mut places = Vec::new();
        let mut script = script.iter();
        let mut transfer = Transfer::new(10_000, unit);
        while !transfer.is_over() {
            places.push(transfer.done());
            if let Err(errno) = transfer.take(*script.next().expect("no call beyond the script")) {
                return (places, Err(errno));
            }
        }
        (places, Ok(transfer.done()))
    }

    #[test]
    fn short_transfers_are_continued_and_interruptions_repeated() {
        assert_eq!(check(1, &[Ok(10_000)]), (vec![0], Ok(10_000)));
        assert_eq!(check(1, &[Ok(1), Err(Errno::INTR), Ok(9_999)]), (vec![0, 1, 1], Ok(10_000)));
        assert_eq!(check(4096, &[Ok(4_500), Ok(5_904)]), (vec![0, 4096], Ok(10_000)));
        assert!(Transfer::new(0, 4096).is_over());
    }

    #[test]
    fn the_end_and_errors_are_told() {
        assert_eq!(check(1, &[Ok(7_000), Ok(0)]), (vec![0, 7_000], Ok(7_000)));
        assert_eq!(check(1, &[Ok(7_000), Err(Errno::NOSPC)]), (vec![0, 7_000], Err(Errno::NOSPC)));
        // Less than a block of direct I/O cannot be continued directly.
        assert_eq!(check(4096, &[Ok(4_096), Ok(512)]), (vec![0, 4_096], Err(Errno::INVAL)));
    }

    #[test]
    fn interruptions_without_end_are_an_error() {
        let mut script = vec![Err(Errno::INTR); INTERRUPTION_COUNT_MAX as usize];
        script.push(Ok(1));
        script.extend([Err(Errno::INTR); INTERRUPTION_COUNT_MAX as usize + 1]);
        assert_eq!(check(1, &script).1, Err(Errno::INTR));
    }

    proptest! {
        /// Whatever calls answer, what counts as done was transferred, in whole units, and it ends.
        #[test]
        fn every_course_ends(
            units in 1_usize..20,
            answers in prop::collection::vec(prop_oneof![(0_usize..30_000).prop_map(Ok), Just(Err(Errno::INTR))], 1..400),
        ) {
            const UNIT: usize = 4096;
            let total = units * UNIT;
            let mut transfer = Transfer::new(total, UNIT);
            let mut transferred = 0;
            for answer in answers {
                let before = transfer.done();
                let answer = answer.map(|count| count.min(total - before));
                let result = transfer.take(answer);
                transferred = transferred.max(before + answer.unwrap_or(0));
                prop_assert!(transfer.done() <= transferred && transfer.done().is_multiple_of(UNIT));
                match result {
                    Err(Errno::INVAL) => prop_assert!(answer.is_ok_and(|count| count < UNIT)),
                    Err(errno) => prop_assert_eq!(Err(errno), answer),
                    Ok(()) => prop_assert_eq!(
                        transfer.is_over(),
                        answer == Ok(0) || transfer.done() == total
                    ),
                }
                if result.is_err() || transfer.is_over() {
                    break;
                }
            }
        }
    }
}
