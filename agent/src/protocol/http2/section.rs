//! A header block as what it says: the pseudo-fields, the fields that may be kept, and how much of it is unknown.
//!
//! It must never let out the value of a field that may not be kept, nor more than [`MAX_FIELDS`] fields and
//! [`MAX_LIST`] bytes, however much a block of references stands for. What grammar alone proves about unknown
//! names it says ([`Unknown`]); it must never guess.

use super::hpack::{Field, Line, Text, is_short_number};
use super::{Ledger, MAX_FIELDS, MAX_LIST, MAX_VALUE};
use crate::protocol::{FieldName, Fields};

/// A header section (RFC 9113 §8.1): of a request, a response or trailers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Section {
    /// `:method`.
    pub method: Option<Box<[u8]>>,
    /// `:path`.
    pub path: Option<Box<[u8]>>,
    /// `:status`; none also if it is no number of three digits.
    pub status: Option<u16>,
    /// The kept fields in the order they came; `:authority` as `Host`, `:scheme` as [`FieldName::Scheme`].
    pub fields: Fields,
    /// What kind of section it is.
    pub kind: Kind,
    /// What is not known of it.
    pub unknown: Unknown,
}

/// Which kind of section the known pseudo-fields make it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Kind {
    /// It has a pseudo-field of requests.
    Request,
    /// It has `:status`.
    Response,
    /// It has none that is known.
    #[default]
    Bare,
}

/// What is not known of a section, after a late join.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Unknown {
    /// Lines of which neither name nor value is known.
    pub lines: u16,
    /// Lines of which only the value is known.
    pub names: u16,
    /// The numbers of those lines, at most [`MAX_ENTRIES`].
    pub entries: Vec<i64>,
    /// Of lines of which only the value is known, those that are numbers of at most two digits, as `grpc-status` is: the entry with
    /// the name, and the number. At most [`MAX_ENTRIES`].
    pub numbers: Vec<(i64, Box<[u8]>)>,
    /// The value of the only line whose name is unknown, if it is a number of at most two digits: in the trailers of a
    /// gRPC call, which must have a `grpc-status`, it is that.
    pub number: Option<Box<[u8]>>,
    /// Fields that were left out because there were too many of them, or they were too long in all.
    pub dropped: u16,
}

impl Unknown {
    /// True if all is known.
    pub fn is_nothing(&self) -> bool {
        (self.lines, self.names, self.dropped) == (0, 0, 0)
    }
}

/// How many unknown lines of a section are told apart; real ones have a handful.
const MAX_ENTRIES: usize = 32;

/// A section in the making.
#[derive(Debug, Default)]
pub struct Builder {
    section: Section,
    bytes: usize,
    cut: u64,
}

impl Builder {
    /// Takes the next line.
    pub fn line(&mut self, line: Line<'_>) {
        let unknown = &mut self.section.unknown;
        match (line.field, line.value) {
            (Field::Old(entry), Text::Old(_)) => {
                if unknown.entries.len() < MAX_ENTRIES {
                    unknown.entries.push(entry);
                }
                unknown.lines = unknown.lines.saturating_add(1);
            }
            (Field::Old(entry), Text::Known(value)) => {
                let number = is_short_number(value);
                if number && unknown.numbers.len() < MAX_ENTRIES {
                    unknown.numbers.push((entry, value.into()));
                }
                unknown.number = (unknown.names == 0 && number).then(|| value.into());
                unknown.names = unknown.names.saturating_add(1);
            }
            (Field::Old(_), Text::Unkept) => unknown.names = unknown.names.saturating_add(1),
            (field, Text::Known(value)) => self.known(field, value),
            // Its table was read in a form that does not show its text, or it may not be kept.
            (Field::Method | Field::Scheme | Field::Authority | Field::Path | Field::Status, _) => {
                unknown.lines = unknown.lines.saturating_add(1);
            }
            (Field::Kept(_) | Field::Other, Text::Unkept | Text::Old(_)) => {}
        }
    }

    fn known(&mut self, field: Field, value: &[u8]) {
        match field {
            Field::Method | Field::Path | Field::Authority | Field::Scheme => {
                self.section.kind = Kind::Request;
            }
            Field::Status => self.section.kind = Kind::Response,
            Field::Kept(_) => {}
            Field::Other | Field::Old(_) => return,
        }
        self.bytes = self.bytes.saturating_add(value.len());
        if self.bytes > MAX_LIST || self.section.fields.0.len() >= MAX_FIELDS {
            self.section.unknown.dropped = self.section.unknown.dropped.saturating_add(1);
            return;
        }
        let kept = value.get(..MAX_VALUE).unwrap_or(value);
        self.cut += u64::from(kept.len() < value.len());
        let name = match field {
            Field::Method => return self.section.method = Some(kept.into()),
            Field::Path => return self.section.path = Some(kept.into()),
            Field::Status => return self.section.status = status(kept),
            Field::Authority => FieldName::Host,
            Field::Scheme => FieldName::Scheme,
            Field::Kept(name) => name,
            Field::Other | Field::Old(_) => return,
        };
        self.section.fields.0.push((name, kept.into()));
    }

    /// The section, counted.
    pub fn finish(self, ledger: &mut Ledger) -> Section {
        let Self { section, bytes: _, cut } = self;
        ledger.fields_cut += cut;
        ledger.fields_dropped += u64::from(section.unknown.dropped);
        ledger.fields_unknown += u64::from(section.unknown.lines) + u64::from(section.unknown.names);
        section
    }
}

fn status(value: &[u8]) -> Option<u16> {
    match value {
        [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9'] => {
            Some(value.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0')))
        }
        _ => None,
    }
}
