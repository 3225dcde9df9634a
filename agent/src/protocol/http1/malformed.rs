//! Why bytes were not HTTP/1, as a small enum: wrong bytes are data here, not errors.
//!
//! One variant per rule, each with the name that its counter carries. No variant may ever hold bytes of
//! the traffic.

use super::{MAX_CHUNK_LINE, MAX_HEAD, MAX_TRAILERS};

/// Why bytes were not HTTP/1: one variant per rule, each a value of the label `cause` of
/// `spandrel_protocol_unparsed_bytes_total`. None carries bytes of the traffic.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// Nothing was understood yet, and no call has begun.
    #[error("the stream was joined in the middle of a call")]
    Joined,
    /// Bytes were missing where a start line, a header or chunk framing had to be.
    #[error("bytes were missing where framing had to be")]
    Gap,
    /// The direction ended inside a head; while resynchronising also: another message began there.
    #[error("the head was cut")]
    HeadCut,
    /// Bytes came for a direction that had ended.
    #[error("bytes came after the end of the direction")]
    AfterEnd,
    /// Our bound, not the RFC's: [`MAX_HEAD`].
    #[error("the head is longer than {MAX_HEAD} bytes")]
    HeadTooLong,
    /// RFC 9110 §9.1, and our bound [`super::MAX_METHOD`]; while resynchronising also: a method cut by a
    /// call's end that is none of the registered ones.
    #[error("what had to be a method is no token")]
    Method,
    /// RFC 9112 §3.2. Bytes above 127 are let through: programs send them.
    #[error("the request target is empty or contains a zero byte")]
    Target,
    /// RFC 9112 §2.3: HTTP/0.9, other major versions, other protocols with similar request lines.
    #[error("the request line does not end with HTTP/1 and a minor version")]
    Version,
    /// RFC 9113 §3.4: the connection speaks HTTP/2.
    #[error("this is the connection preface of HTTP/2")]
    Http2Preface,
    /// RFC 9112 §4.
    #[error("what had to be a status line is none")]
    StatusLine,
    /// RFC 9112 §5: no colon, no name, a control character in the name; in a request also white space
    /// before the colon (§5.1).
    #[error("a header line is no field")]
    FieldLine,
    /// RFC 9110 §5.5.
    #[error("a field value contains NUL or a bare CR")]
    FieldValue,
    /// RFC 9112 §6.3, rule 5.
    #[error("Content-Length is neither one decimal number nor the same one repeated")]
    ContentLength,
    /// RFC 9112 §6.3, rule 4.
    #[error("the last transfer coding of a request is not chunked")]
    TransferEncoding,
    /// RFC 9112 §7.1.
    #[error("a chunk size is no hexadecimal number below 2^64")]
    ChunkSize,
    /// Our bound, not the RFC's: [`MAX_CHUNK_LINE`].
    #[error("a chunk's size and extensions are longer than {MAX_CHUNK_LINE} bytes")]
    ChunkLineTooLong,
    /// RFC 9112 §7.1.
    #[error("a line of chunk framing does not end where it has to")]
    ChunkEnd,
    /// Our bound, not the RFC's: [`MAX_TRAILERS`].
    #[error("the trailer section is longer than {MAX_TRAILERS} bytes")]
    TrailersTooLong,
}

impl Malformed {
    /// All, in the order of the enum.
    pub const ALL: [Self; 18] = [
        Self::Joined,
        Self::Gap,
        Self::HeadCut,
        Self::AfterEnd,
        Self::HeadTooLong,
        Self::Method,
        Self::Target,
        Self::Version,
        Self::Http2Preface,
        Self::StatusLine,
        Self::FieldLine,
        Self::FieldValue,
        Self::ContentLength,
        Self::TransferEncoding,
        Self::ChunkSize,
        Self::ChunkLineTooLong,
        Self::ChunkEnd,
        Self::TrailersTooLong,
    ];

    /// The value of the label `cause`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Gap => "gap",
            Self::HeadCut => "head_cut",
            Self::AfterEnd => "after_end",
            Self::HeadTooLong => "head_too_long",
            Self::Method => "method",
            Self::Target => "target",
            Self::Version => "version",
            Self::Http2Preface => "http2_preface",
            Self::StatusLine => "status_line",
            Self::FieldLine => "field_line",
            Self::FieldValue => "field_value",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::ChunkSize => "chunk_size",
            Self::ChunkLineTooLong => "chunk_line_too_long",
            Self::ChunkEnd => "chunk_end",
            Self::TrailersTooLong => "trailers_too_long",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Malformed;

    #[test]
    fn every_cause_stands_in_the_list_at_its_own_number_and_has_its_own_name() {
        let mut names = std::collections::HashSet::new();
        for (number, why) in Malformed::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, number, "{why:?}");
            assert!(names.insert(why.name()), "{why:?} shares its name");
        }
    }
}
