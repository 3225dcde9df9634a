//! gRPC's message framing in a stream's DATA: a flag, a length of four bytes, that many bytes, and again.
//!
//! In: the payload of DATA frames of one direction of one stream, as bytes and gaps. Out: how many messages, and how long
//! ([`Messages`]). A length that lies in a gap ends the count: from there on it is "at least". It must never keep
//! a byte of a message.

/// How long the prefix of a message is.
const PREFIX: usize = 5;

/// The messages of one direction of a call.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Messages {
    /// How many began.
    pub count: u64,
    /// Their length on the wire, without prefixes.
    pub bytes: u64,
    /// How many of them were compressed.
    pub compressed: u64,
    /// There may be more: not every prefix was seen.
    pub at_least: bool,
}

/// Follows the framing of one direction of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Framing {
    messages: Messages,
    /// Bytes of the message under way that are still to come.
    left: u64,
    prefix: [u8; PREFIX],
    have: usize,
    /// It is no such framing.
    broken: bool,
}

impl Framing {
    /// The next bytes.
    pub fn bytes(&mut self, mut bytes: &[u8]) {
        if self.broken || self.messages.at_least {
            return;
        }
        while !bytes.is_empty() {
            let inside = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= inside as u64;
            bytes = bytes.get(inside..).unwrap_or_default();
            let Some((&byte, rest)) = bytes.split_first() else { return };
            if let Some(to) = self.prefix.get_mut(self.have) {
                *to = byte;
            }
            (self.have, bytes) = (self.have + 1, rest);
            if self.have == PREFIX {
                self.begin();
                if self.broken {
                    return;
                }
            }
        }
    }

    /// So many bytes are not here.
    pub fn gap(&mut self, length: u64) {
        match self.left >= length && self.have == 0 {
            true => self.left -= length,
            false => self.lose(),
        }
    }

    /// Some of the direction was not seen.
    pub fn lose(&mut self) {
        self.messages.at_least = true;
    }

    /// What was found.
    pub fn messages(&self) -> Messages {
        self.messages
    }

    /// True if the direction, which has ended, was nothing but whole messages, at least one. By chance one in 2³⁸ is.
    pub fn is_exact(&self) -> bool {
        !self.broken && !self.messages.at_least && self.messages.count > 0 && (self.left, self.have) == (0, 0)
    }

    fn begin(&mut self) {
        let [flag, length @ ..] = self.prefix;
        self.have = 0;
        if flag > 1 {
            self.broken = true;
            self.messages.at_least = true;
            return;
        }
        self.left = u64::from(u32::from_be_bytes(length));
        self.messages.count += 1;
        self.messages.bytes = self.messages.bytes.saturating_add(self.left);
        self.messages.compressed += u64::from(flag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes, or a gap of a length.
    enum In<'a> {
        Bytes(&'a [u8]),
        Gap(u64),
    }
    use In::{Bytes, Gap};

    #[track_caller]
    fn check(parts: &[In<'_>], count: u64, bytes: u64, at_least: bool, exact: bool) {
        let mut framing = Framing::default();
        for part in parts {
            match part {
                Bytes(bytes) => bytes.chunks(1).for_each(|byte| framing.bytes(byte)),
                Gap(length) => framing.gap(*length),
            }
        }
        let messages = framing.messages();
        assert_eq!(
            (messages.count, messages.bytes, messages.at_least, framing.is_exact()),
            (count, bytes, at_least, exact)
        );
    }

    #[test]
    fn messages_are_counted_wherever_frames_cut_them() {
        check(&[Bytes(b"\0\0\0\0\x02hi\x01\0\0\0\x01x\0\0\0\0\0")], 3, 3, false, true);
        check(&[Bytes(b"\0\0\0\0\x09hi")], 1, 9, false, false);
        check(&[Bytes(b"\0\0\0")], 0, 0, false, false);
        check(&[], 0, 0, false, false);
    }

    #[test]
    fn a_gap_inside_a_message_costs_nothing() {
        check(&[Bytes(b"\0\0\0\x01\0ab"), Gap(254), Bytes(b"\0\0\0\0\0")], 2, 256, false, true);
    }

    #[test]
    fn a_gap_over_a_prefix_makes_the_count_a_lower_bound() {
        check(&[Bytes(b"\0\0\0\0\x02h"), Gap(9), Bytes(b"\0\0\0\0\0")], 1, 2, true, false);
        check(&[Bytes(b"\0\0"), Gap(3), Bytes(b"\0\0\0\0\0")], 0, 0, true, false);
    }

    #[test]
    fn what_is_no_framing_is_not_taken_for_one() {
        check(&[Bytes(b"{\"json\": true}")], 0, 0, true, false);
    }
}
