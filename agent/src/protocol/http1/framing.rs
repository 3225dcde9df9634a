//! How long a message's body is: RFC 9112 §6.3, rule by rule, as a pure function of what the heads say.
//!
//! It must never look at a body, and never prefer what a sender probably meant to what the RFC says the
//! receiver understands: both ends frame by these rules, so the tracer does, too.

use super::{Answers, Malformed};

/// What a head says about its body, as far as its fields alone can tell.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Told {
    pub length: Length,
    pub coding: Coding,
    /// There is an `Upgrade` field. (`Connection: upgrade` is not asked for: whether the server took it
    /// as a wish is what 101 says.)
    pub upgrade: bool,
}

/// What all `Content-Length` fields say together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Length {
    #[default]
    None,
    Is(u64),
    Broken,
}

/// The last one of all transfer codings.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Coding {
    #[default]
    None,
    Chunked,
    Other,
}

/// How the body is delimited.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Framing {
    /// So many bytes; 0 if there is no body.
    Length(u64),
    Chunked,
    /// Everything until the connection ends.
    Close,
    /// No body, and what follows is another protocol.
    Switch,
}

impl Told {
    /// A request is framed by its fields alone. `Expect: 100-continue` changes nothing: a body that was
    /// announced is sent, or the connection is closed (RFC 9110 §10.1.1).
    pub fn request(self) -> Result<Framing, Malformed> {
        match (self.coding, self.length) {
            (Coding::Chunked, _) => Ok(Framing::Chunked),
            (Coding::Other, _) => Err(Malformed::TransferEncoding),
            (Coding::None, Length::Is(length)) => Ok(Framing::Length(length)),
            (Coding::None, Length::Broken) => Err(Malformed::ContentLength),
            (Coding::None, Length::None) => Ok(Framing::Length(0)),
        }
    }

    /// A final response, or 101. What interim responses say of a body means nothing.
    pub fn response(self, status: u16, answers: Answers) -> Result<Framing, Malformed> {
        match (status, answers) {
            (101, Answers::Upgrade | Answers::Unknown) => return Ok(Framing::Switch),
            (100..=199 | 204 | 304, _) | (_, Answers::Head) => return Ok(Framing::Length(0)),
            (200..=299, Answers::Connect) => return Ok(Framing::Switch),
            (_, Answers::Ordinary | Answers::Connect | Answers::Upgrade | Answers::Unknown) => {}
        }
        match (self.coding, self.length) {
            (Coding::Chunked, _) => Ok(Framing::Chunked),
            (Coding::Other, _) | (Coding::None, Length::None) => Ok(Framing::Close),
            (Coding::None, Length::Is(length)) => Ok(Framing::Length(length)),
            (Coding::None, Length::Broken) => Err(Malformed::ContentLength),
        }
    }

    /// How the response to a request with this method has to be framed.
    pub fn answers(self, method: &[u8]) -> Answers {
        match method {
            b"HEAD" => Answers::Head,
            b"CONNECT" => Answers::Connect,
            _ if self.upgrade => Answers::Upgrade,
            _ => Answers::Ordinary,
        }
    }

    /// One more `Content-Length` field. A list of equal numbers is one number (RFC 9110 §8.6).
    pub fn add_content_length(&mut self, value: &[u8]) {
        for element in value.split(|&byte| byte == b',') {
            self.length = match (self.length, decimal(element.trim_ascii())) {
                (Length::None, Some(length)) => Length::Is(length),
                (Length::Is(before), Some(length)) if before == length => Length::Is(length),
                _ => Length::Broken,
            };
        }
    }

    /// One more `Transfer-Encoding` field. `identity` was a coding in RFC 2616 and is none now; some
    /// servers still say it when they mean nothing, and the clients that matter read it so.
    pub fn add_transfer_encoding(&mut self, value: &[u8]) {
        for element in value.split(|&byte| byte == b',') {
            let name = element.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
            if name.is_empty() || name.eq_ignore_ascii_case(b"identity") {
                continue;
            }
            self.coding = match name.eq_ignore_ascii_case(b"chunked") {
                true => Coding::Chunked,
                false => Coding::Other,
            };
        }
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lengths: &[&str], codings: &[&str]) -> Told {
        let mut told = Told::default();
        lengths.iter().for_each(|value| told.add_content_length(value.as_bytes()));
        codings.iter().for_each(|value| told.add_transfer_encoding(value.as_bytes()));
        told
    }

    #[test]
    fn equal_lengths_are_one_length_and_different_ones_are_none() {
        assert_eq!(told(&["5"], &[]).request(), Ok(Framing::Length(5)));
        assert_eq!(told(&["5", "5"], &[]).request(), Ok(Framing::Length(5)));
        assert_eq!(told(&["5, 5 ,5"], &[]).request(), Ok(Framing::Length(5)));
        for broken in [&["5", "6"][..], &["5,6"], &["-5"], &["+5"], &["0x5"], &[""], &["5,"], &["5 5"]] {
            assert_eq!(told(broken, &[]).request(), Err(Malformed::ContentLength), "{broken:?}");
        }
    }

    #[test]
    fn a_length_of_64_bits_is_one_and_a_longer_one_is_none() {
        assert_eq!(told(&["18446744073709551615"], &[]).request(), Ok(Framing::Length(u64::MAX)));
        assert_eq!(told(&["18446744073709551616"], &[]).request(), Err(Malformed::ContentLength));
    }

    #[test]
    fn the_transfer_coding_beats_the_length_even_a_broken_one() {
        assert_eq!(told(&["5"], &["chunked"]).request(), Ok(Framing::Chunked));
        assert_eq!(told(&["x"], &["Chunked"]).response(200, Answers::Ordinary), Ok(Framing::Chunked));
    }

    #[test]
    fn only_the_last_transfer_coding_frames() {
        assert_eq!(told(&[], &["gzip, chunked"]).request(), Ok(Framing::Chunked));
        assert_eq!(told(&[], &["gzip", "chunked"]).request(), Ok(Framing::Chunked));
        assert_eq!(told(&[], &["chunked, gzip"]).request(), Err(Malformed::TransferEncoding));
        assert_eq!(told(&["5"], &["gzip"]).response(200, Answers::Ordinary), Ok(Framing::Close));
        assert_eq!(told(&["5"], &["identity"]).response(200, Answers::Ordinary), Ok(Framing::Length(5)));
    }

    #[test]
    fn responses_that_cannot_have_a_body_have_none_whatever_they_say() {
        for (status, answers) in [
            (200, Answers::Head),
            (404, Answers::Head),
            (204, Answers::Ordinary),
            (304, Answers::Unknown),
            (101, Answers::Ordinary),
        ] {
            for said in [told(&["5"], &[]), told(&["x"], &[]), told(&[], &["chunked"]), told(&[], &[])] {
                assert_eq!(said.response(status, answers), Ok(Framing::Length(0)), "{status} {answers:?}");
            }
        }
    }

    #[test]
    fn only_an_asked_for_101_and_a_2xx_to_connect_switch() {
        assert_eq!(told(&[], &[]).response(101, Answers::Upgrade), Ok(Framing::Switch));
        assert_eq!(told(&[], &[]).response(101, Answers::Unknown), Ok(Framing::Switch));
        assert_eq!(told(&["5"], &[]).response(200, Answers::Connect), Ok(Framing::Switch));
        assert_eq!(told(&["5"], &[]).response(407, Answers::Connect), Ok(Framing::Length(5)));
        assert_eq!(told(&["5"], &[]).response(200, Answers::Upgrade), Ok(Framing::Length(5)));
    }
}
