//! How the books of many become those of all: each count is added to its like.
//!
//! A ledger names its counts once more in [`sums!`], and one that is left out does not compile. Adding must never wrap or
//! panic: a count that is too large for its type stands still.

/// What can be added up.
pub trait Sum {
    /// Adds another one's to these.
    fn add(&mut self, other: &Self);
}

impl Sum for u64 {
    fn add(&mut self, other: &Self) {
        *self = self.saturating_add(*other);
    }
}

impl<const CAUSES: usize> Sum for [u64; CAUSES] {
    fn add(&mut self, other: &Self) {
        self.iter_mut().zip(other).for_each(|(mine, other)| mine.add(other));
    }
}

/// `sums!(Ledger { bytes, gap })`: all the fields of a struct are added up.
macro_rules! sums {
    ($ledger:ty { $($count:ident),+ $(,)? }) => {
        impl $crate::sum::Sum for $ledger {
            fn add(&mut self, other: &Self) {
                let Self { $($count),+ } = other;
                $($crate::sum::Sum::add(&mut self.$count, $count);)+
            }
        }
    };
}
pub(crate) use sums;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Books {
        all: u64,
        by_cause: [u64; 2],
    }
    sums!(Books { all, by_cause });

    #[test]
    fn counts_are_added_to_their_like_and_stand_still_at_the_end() {
        let mut books = Books { all: 1, by_cause: [2, u64::MAX] };
        books.add(&Books { all: 10, by_cause: [20, 1] });
        assert_eq!(books, Books { all: 11, by_cause: [22, u64::MAX] });
    }
}
