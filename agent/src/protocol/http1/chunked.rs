//! The chunked transfer coding (RFC 9112 §7.1) as a machine over its bytes: it tells data from framing.
//!
//! Sizes are counted down, extensions and trailers are skipped: nothing is kept, so a size that the peer
//! announces can never reserve memory. Line ends may be bare LF, and white space may follow a size, as
//! receivers accept it.

use super::{MAX_CHUNK_LINE, MAX_TRAILERS, Malformed};

/// The place in a chunked body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Chunked {
    at: At,
    /// Bytes of the present size line, or of all trailers.
    line: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    /// Before the first digit of a size.
    Size,
    /// Behind a digit.
    Digits(u64),
    /// In white space behind the digits.
    AfterDigits(u64),
    Extension(u64),
    /// Behind the CR of a size line.
    SizeLineFeed(u64),
    /// So many bytes of data are still to come; never 0.
    Data(u64),
    /// Behind the data.
    DataEnd,
    /// Behind the CR that follows the data.
    DataLineFeed,
    /// At the beginning of a trailer line.
    Trailers,
    /// Behind a CR at the beginning of a trailer line.
    TrailersLineFeed,
    /// In a trailer.
    Trailer,
}

/// What some bytes were.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Step {
    /// Bytes of framing.
    pub framing: usize,
    /// Bytes of data.
    pub data: usize,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Outcome {
    /// All bytes were taken, and more have to come.
    #[default]
    More,
    /// The body ended with the last byte taken.
    Complete,
    /// The next byte breaks a rule.
    Broken(Malformed),
}

impl Chunked {
    pub fn new() -> Self {
        Self { at: At::Size, line: 0 }
    }

    /// How many bytes of data are still to come before more framing; `None` inside framing.
    pub fn data_left(&self) -> Option<u64> {
        match self.at {
            At::Data(left) => Some(left),
            _ => None,
        }
    }

    /// Takes bytes up to the end of the body.
    pub fn feed(&mut self, bytes: &[u8]) -> Step {
        let mut step = Step::default();
        loop {
            let rest = bytes.get(step.framing + step.data..).unwrap_or_default();
            let Some(&byte) = rest.first() else { return step };
            if let At::Data(left) = self.at {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                self.skip(taken as u64);
                step.data += taken;
                continue;
            }
            let (next, taken) = match self.framing(byte, rest) {
                Ok(Some(next)) => next,
                Ok(None) => {
                    step.framing += 1;
                    step.outcome = Outcome::Complete;
                    return step;
                }
                Err(why) => {
                    step.outcome = Outcome::Broken(why);
                    return step;
                }
            };
            // The bounds are checked for the bytes before the one that breaks them, so that the place of
            // the break does not depend on how many bytes came at once.
            let in_trailers = matches!(self.at, At::Trailers | At::TrailersLineFeed | At::Trailer);
            let (bound, why) = match in_trailers {
                true => (MAX_TRAILERS, Malformed::TrailersTooLong),
                false => (MAX_CHUNK_LINE, Malformed::ChunkLineTooLong),
            };
            let room = bound.saturating_sub(self.line);
            if taken > room {
                step.framing += room;
                step.outcome = Outcome::Broken(why);
                return step;
            }
            step.framing += taken;
            self.line = match next {
                At::Data(_) | At::Size => 0,
                At::Trailers if !in_trailers => 0,
                _ => self.line + taken,
            };
            self.at = next;
        }
    }

    /// Bytes of data that were moved but not seen.
    ///
    /// # Errors
    /// How many of them were data, if the rest would have contained framing.
    pub fn gap(&mut self, length: u64) -> Result<(), u64> {
        match self.at {
            At::Data(left) if length <= left => {
                self.skip(length);
                Ok(())
            }
            At::Data(left) => Err(left),
            _ => Err(0),
        }
    }

    fn skip(&mut self, length: u64) {
        if let At::Data(left) = self.at {
            self.at = match left.saturating_sub(length) {
                0 => At::DataEnd,
                left => At::Data(left),
            };
        }
    }

    /// Where the next byte, and as many after it as belong to the same thing, lead to; `None` at the end
    /// of the body.
    fn framing(&self, byte: u8, rest: &[u8]) -> Result<Option<(At, usize)>, Malformed> {
        let next = match (self.at, byte) {
            (At::Size, _) => At::Digits(hexadecimal(byte).ok_or(Malformed::ChunkSize)?),
            (At::Digits(size) | At::AfterDigits(size) | At::Extension(size), b'\r') => At::SizeLineFeed(size),
            (At::Digits(size) | At::AfterDigits(size) | At::Extension(size), b'\n') => after_size(size),
            (At::Digits(size) | At::AfterDigits(size), b' ' | b'\t') => At::AfterDigits(size),
            (At::Digits(size) | At::AfterDigits(size), b';') => At::Extension(size),
            (At::Digits(size), _) => {
                let digit = hexadecimal(byte).ok_or(Malformed::ChunkSize)?;
                At::Digits(size.checked_mul(16).ok_or(Malformed::ChunkSize)? + digit)
            }
            (At::AfterDigits(_), _) => return Err(Malformed::ChunkSize),
            (At::Extension(size), _) => {
                let end = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                return Ok(Some((At::Extension(size), end)));
            }
            (At::SizeLineFeed(size), b'\n') => after_size(size),
            (At::SizeLineFeed(_), _) => return Err(Malformed::ChunkEnd),
            (At::Data(left), _) => At::Data(left),
            (At::DataEnd, b'\r') => At::DataLineFeed,
            (At::DataEnd | At::DataLineFeed, b'\n') => At::Size,
            (At::DataEnd | At::DataLineFeed, _) => return Err(Malformed::ChunkEnd),
            (At::Trailers | At::TrailersLineFeed, b'\n') => return Ok(None),
            (At::Trailers, b'\r') => At::TrailersLineFeed,
            (At::Trailers | At::TrailersLineFeed | At::Trailer, _) => match memchr::memchr(b'\n', rest) {
                Some(end) => return Ok(Some((At::Trailers, end + 1))),
                None => return Ok(Some((At::Trailer, rest.len()))),
            },
        };
        Ok(Some((next, 1)))
    }
}

fn after_size(size: u64) -> At {
    match size {
        0 => At::Trailers,
        size => At::Data(size),
    }
}

fn hexadecimal(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}
