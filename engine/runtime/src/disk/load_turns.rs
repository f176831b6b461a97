//! Loads give way to commits: while a core commits, what its readers need comes from the disk in small pieces, one after another.
//!
//! A disk works off what lies in its queue, and a commit that comes behind the loads of every partition waits for all of them:
//! megabytes for kilobytes. See docs/decisions/0018.

use std::rc::Rc;

use glommio::GlommioError;
use glommio::io::DmaFile;
use glommio::sync::{Permit, Semaphore};
use segment_log::storage::Buffer;

use crate::buffer::DmaBlock;
use crate::commit_round::CommitRound;

/// Loads of a core that may be at the disk at a time when there are no commits to wait for them.
const LOADS_MAX: u64 = 64;

/// What a commit may find before it at the disk, in bytes: a fraction of a millisecond.
const PIECE_BYTES_MAX: usize = 128 << 10;

/// Whose turn it is. One for the logs of a core; clones are the same. First come, first served.
#[derive(Clone)]
pub(crate) struct LoadTurns {
    commit_round: Rc<CommitRound>,
    places: Rc<Semaphore>,
}

/// A place at the disk, until it is dropped.
pub(super) struct LoadTurn<'a> {
    _permit: Permit<'a>,
    bytes_max: usize,
}

impl LoadTurn<'_> {
    /// How much may be loaded in this turn, in bytes, a multiple of a block: as much as one likes, unless the core commits.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }
}

impl LoadTurns {
    pub(crate) fn new(commit_round: Rc<CommitRound>) -> Self {
        Self { commit_round, places: Rc::new(Semaphore::new(LOADS_MAX)) }
    }

    /// Wait for a place at the disk: all of them while the core commits.
    pub(super) async fn take(&self) -> LoadTurn<'_> {
        let (count, bytes_max) = match self.commit_round.is_committing() {
            true => (LOADS_MAX, PIECE_BYTES_MAX),
            false => (1, usize::MAX),
        };
        let permit = self.places.acquire_permit(count).await.expect("nobody closes it");
        LoadTurn { _permit: permit, bytes_max }
    }

    /// Read `bytes` bytes from `position` on, fewer where the file ends. Both are multiples of a block. What was read, and how
    /// many bytes of it count.
    ///
    /// # Errors
    ///
    /// Those of the reads.
    pub(super) async fn read(
        &self,
        file: &DmaFile,
        position: u64,
        bytes: usize,
    ) -> Result<(DmaBlock, usize), GlommioError<()>> {
        let turn = self.take().await;
        let piece = bytes.min(turn.bytes_max);
        let first = file.read_at_aligned(position, piece).await?;
        drop(turn);
        let mut filled = first.len().min(piece);
        if filled == bytes || filled < piece {
            return Ok((DmaBlock::from_read(first), filled));
        }
        let mut whole = DmaBlock::allocate(bytes);
        whole.bytes_mut()[..filled].copy_from_slice(&first[..filled]);
        drop(first);
        while filled < bytes {
            let turn = self.take().await;
            let piece = (bytes - filled).min(turn.bytes_max);
            let next = file.read_at_aligned(position + filled as u64, piece).await?;
            let count = next.len().min(piece);
            whole.bytes_mut()[filled..filled + count].copy_from_slice(&next[..count]);
            filled += count;
            if count < piece {
                break;
            }
        }
        Ok((whole, filled))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;
    use crate::disk::tests::on_core;

    /// How many loads get a place at once.
    async fn places(turns: &LoadTurns) -> usize {
        let mut taken = Vec::new();
        for _ in 0..2 * LOADS_MAX {
            let mut take = pin!(turns.take());
            match poll_fn(|context| Poll::Ready(take.as_mut().poll(context))).await {
                Poll::Ready(turn) => taken.push(turn),
                Poll::Pending => break,
            }
        }
        taken.len()
    }

    #[test]
    fn loads_go_one_by_one_while_the_core_commits() {
        on_core(|| async {
            let commit_round = Rc::new(CommitRound::default());
            let turns = LoadTurns::new(Rc::clone(&commit_round));
            assert_eq!(places(&turns).await, LOADS_MAX as usize);
            assert_eq!(turns.take().await.bytes_max(), usize::MAX);
            commit_round.begin();
            assert_eq!(places(&turns).await, 1);
            let first = turns.take().await;
            assert_eq!(first.bytes_max(), PIECE_BYTES_MAX);
            let mut second = pin!(turns.take());
            assert!(poll_fn(|context| Poll::Ready(second.as_mut().poll(context).is_pending())).await);
            drop(first);
            drop(second.await);
        });
    }
}
