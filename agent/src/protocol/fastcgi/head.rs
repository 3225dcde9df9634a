//! What a request's parameters and the beginning of a response's output say, as heads of HTTP.
//!
//! Parameters are those of CGI (RFC 3875 §4.1): the fields of the request that came to the web server are `HTTP_` and their names. Output
//! begins with a head of its own (§6), of which the status is a field. Pure; it must never keep a value that the field
//! names of `protocol` do not list.

use super::Ledger;
use crate::protocol::{FieldName, Fields, RequestHead, ResponseHead, Version};

/// The longest value that is kept, in bytes, as in HTTP/1.
const MAX_VALUE: usize = crate::protocol::http1::MAX_VALUE;

/// The longest line of an output's head that is looked at, in bytes.
const MAX_LINE: usize = MAX_VALUE + 64;

/// The request that these parameters describe (§3.4: names and values, each behind its length).
pub(super) fn request(mut params: &[u8], ledger: &mut Ledger) -> RequestHead {
    let (mut method, mut target, mut script, mut info, mut query) =
        <(Bytes, Bytes, Bytes, Bytes, Bytes)>::default();
    let mut fields = Vec::new();
    while let Some((name, value)) = pair(&mut params) {
        match name {
            b"REQUEST_METHOD" => method = value.into(),
            b"REQUEST_URI" => target = value.into(),
            b"SCRIPT_NAME" => script = value.into(),
            b"PATH_INFO" => info = value.into(),
            b"QUERY_STRING" => query = value.into(),
            b"REQUEST_SCHEME" => keep(&mut fields, FieldName::Scheme, value, ledger),
            b"CONTENT_TYPE" if !value.is_empty() => keep(&mut fields, FieldName::ContentType, value, ledger),
            _ => {
                if let Some(field) = name.strip_prefix(b"HTTP_").and_then(field)
                    && field != FieldName::ContentType
                {
                    keep(&mut fields, field, value, ledger);
                }
            }
        }
    }
    if target.is_empty() {
        // RFC 3875 knows no REQUEST_URI, but all servers send it.
        let question: &[u8] = if query.is_empty() { b"" } else { b"?" };
        target = [&script, &info, question, &query].concat().into();
    }
    RequestHead { method, target, version: Version::FastCgi, fields: Fields(fields) }
}

type Bytes = Box<[u8]>;

/// The kept field whose name stands behind `HTTP_` so.
fn field(name: &[u8]) -> Option<FieldName> {
    let name: Vec<u8> = name.iter().map(|&byte| if byte == b'_' { b'-' } else { byte }).collect();
    FieldName::kept(&name)
}

fn keep(fields: &mut Vec<(FieldName, Box<[u8]>)>, name: FieldName, value: &[u8], ledger: &mut Ledger) {
    // A parameter comes once; whoever sends thousands gains nothing.
    if fields.iter().any(|(known, _)| *known == name) {
        return;
    }
    let cut = value.get(..MAX_VALUE).unwrap_or(value);
    ledger.fields_cut += u64::from(cut.len() < value.len());
    fields.push((name, cut.into()));
}

/// The next name and its value, if both are complete.
fn pair<'a>(params: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let mut rest = *params;
    let (name, value) = (length(&mut rest)?, length(&mut rest)?);
    let (name, after) = rest.split_at_checked(name)?;
    let (value, after) = after.split_at_checked(value)?;
    *params = after;
    Some((name, value))
}

/// One byte, or four with the highest bit set.
fn length(bytes: &mut &[u8]) -> Option<usize> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        *bytes = rest;
        return Some(first.into());
    }
    let (four, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    usize::try_from(u32::from_be_bytes(*four) & 0x7fff_ffff).ok()
}

/// The head of a response's output, line by line as it comes.
#[derive(Debug, Default)]
pub(super) struct Output {
    line: Vec<u8>,
    status: Option<u16>,
    content_type: Option<Box<[u8]>>,
    over: bool,
}

impl Output {
    /// Takes output; how much of it was head, and the head, once it is complete.
    pub fn bytes(&mut self, bytes: &[u8]) -> (usize, Option<ResponseHead>) {
        if self.over {
            return (0, None);
        }
        for (at, &byte) in bytes.iter().enumerate() {
            if byte != b'\n' {
                if self.line.len() < MAX_LINE {
                    self.line.push(byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            if line.is_empty() {
                return (at + 1, Some(self.end(self.status.unwrap_or(200))));
            }
            self.field(line);
        }
        (bytes.len(), None)
    }

    /// True if the head is complete, or will not be.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Some of it is missing: what has not been read will not be known.
    pub fn gap(&mut self) -> Option<ResponseHead> {
        let status = self.status.unwrap_or_default();
        (!self.over).then(|| self.end(status))
    }

    fn end(&mut self, status: u16) -> ResponseHead {
        self.over = true;
        let content_type = self.content_type.take().map(|value| (FieldName::ContentType, value));
        ResponseHead { status, version: Version::FastCgi, fields: Fields(content_type.into_iter().collect()) }
    }

    fn field(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { return };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"Status") {
            // RFC 3875 §6.3.3: three digits, and perhaps a reason.
            let digits = value.get(..3).and_then(|digits| str::from_utf8(digits).ok());
            self.status = digits.and_then(|digits| digits.parse().ok()).filter(|status| *status >= 100);
        } else if name.eq_ignore_ascii_case(b"Content-Type") {
            self.content_type = Some(value.get(..MAX_VALUE).unwrap_or(value).into());
        }
    }
}
