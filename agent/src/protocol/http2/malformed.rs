//! Why bytes were not HTTP/2, as a small enum: wrong bytes are data here, not errors.
//!
//! One variant per rule, each with the name that its counter carries. No variant may ever hold bytes of
//! the traffic.

use super::MAX_BLOCK;

/// Why bytes were not HTTP/2: one variant per rule, each a value of the label `cause` of
/// `spandrel_protocol_http2_unparsed_bytes_total`. None carries bytes of the traffic.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// The connection was joined late, and no chain of frames is proven yet.
    #[error("the stream was joined late")]
    Joined,
    /// Bytes were missing where a frame's header had to be.
    #[error("bytes were missing where a frame had to begin")]
    Gap,
    /// RFC 9113 §3.4.
    #[error("what had to be the connection preface is none")]
    Preface,
    /// RFC 9113 §4.2 and §6: a frame whose length its type forbids.
    #[error("a frame has a length that its type forbids")]
    FrameLength,
    /// RFC 9113 §6: a frame on a stream that its type forbids.
    #[error("a frame of this type belongs to no such stream")]
    StreamId,
    /// RFC 9113 §6.10.
    #[error("a header block is not continued, or nothing had to be")]
    Continuation,
    /// RFC 9113 §6.1.
    #[error("a frame has more padding than it is long")]
    Padding,
    /// Only while alignment is not proven: a type, flag or reserved bit that nobody sends.
    #[error("a frame is one that no known program sends")]
    Unlikely,
    /// RFC 7541 §2.3.3.
    #[error("a header block names an entry that does not exist")]
    Index,
    /// RFC 7541 §5.1.
    #[error("a header block has an integer that is too large")]
    Integer,
    /// RFC 7541 §5.2.
    #[error("a header block has a string that is not Huffman-coded as it should be")]
    Huffman,
    /// RFC 7541 §4.2.
    #[error("a header block changes the table's size in its middle")]
    SizeUpdate,
    /// RFC 9113 §4.3.
    #[error("a header block ends inside a field")]
    BlockCut,
    /// Our bound, not the RFC's: [`MAX_BLOCK`].
    #[error("a header block is longer than {MAX_BLOCK} bytes")]
    BlockTooLong,
    /// Bytes came for a direction that had ended.
    #[error("bytes came after the end of the direction")]
    AfterEnd,
}

impl Malformed {
    /// All, in the order of the enum.
    pub const ALL: [Self; 15] = [
        Self::Joined,
        Self::Gap,
        Self::Preface,
        Self::FrameLength,
        Self::StreamId,
        Self::Continuation,
        Self::Padding,
        Self::Unlikely,
        Self::Index,
        Self::Integer,
        Self::Huffman,
        Self::SizeUpdate,
        Self::BlockCut,
        Self::BlockTooLong,
        Self::AfterEnd,
    ];

    /// The value of the label `cause`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Gap => "gap",
            Self::Preface => "preface",
            Self::FrameLength => "frame_length",
            Self::StreamId => "stream_id",
            Self::Continuation => "continuation",
            Self::Padding => "padding",
            Self::Unlikely => "unlikely",
            Self::Index => "index",
            Self::Integer => "integer",
            Self::Huffman => "huffman",
            Self::SizeUpdate => "size_update",
            Self::BlockCut => "block_cut",
            Self::BlockTooLong => "block_too_long",
            Self::AfterEnd => "after_end",
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
