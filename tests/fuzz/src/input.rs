//! The front of an input: how the rest is cut, and what the caller of a machine decides.

/// Choices that an input makes, the same ones in every run over it.
#[derive(Clone, Debug)]
pub struct Choices(u64);

impl Choices {
    /// From a number.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below a bound.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Once in so many times.
    pub fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// The first two bytes of an input, and the stream behind them.
pub struct Stream<'a> {
    cuts: u8,
    whims: u8,
    /// The stream.
    pub bytes: &'a [u8],
}

impl<'a> Stream<'a> {
    /// Take an input apart; none: it is too short.
    pub fn of(input: &'a [u8]) -> Option<Self> {
        let [cuts, whims, bytes @ ..] = input else { return None };
        Some(Self { cuts: *cuts, whims: *whims, bytes })
    }

    /// What the caller of the machine decides. 0 makes it a patient one.
    pub fn whims(&self) -> Choices {
        Choices::new(self.whims.into())
    }

    /// The stream as it arrives: in pieces of a byte, of a few, or of many.
    pub fn pieces(&self) -> Vec<&'a [u8]> {
        let size_max = [1, 2, 7, 64, 1000][usize::from(self.cuts) % 5];
        let mut choices = Choices::new(self.cuts.into());
        let mut rest = self.bytes;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at((1 + choices.below(size_max)).min(rest.len()));
            pieces.push(piece);
            rest = tail;
        }
        pieces
    }
}

/// The same twice, or a message that shows where the two part.
#[track_caller]
pub fn assert_same<T: PartialEq + std::fmt::Debug>(whole: &[T], cut: &[T], what: &str) {
    if whole != cut {
        let at = whole.iter().zip(cut).take_while(|(one, other)| one == other).count();
        panic!(
            "{what} part at {at} of {} and {}: in one piece {:?}, in many {:?}",
            whole.len(),
            cut.len(),
            whole.get(at),
            cut.get(at)
        );
    }
}
