//! An encoder of HTTP/2 for tests: frames, header blocks, Huffman. It shares nothing with the decoder but the code's lengths.

use crate::protocol::http2::hpack::{STATIC, codes};

/// A string in the Huffman code, padded.
pub(crate) fn huffman(text: &[u8]) -> Vec<u8> {
    let codes = codes();
    let (mut out, mut bits, mut held) = (Vec::new(), 0u64, 0u32);
    for byte in text {
        let (code, length) = codes[usize::from(*byte)];
        bits = bits << length | u64::from(code);
        held += u32::from(length);
        while held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    if held > 0 {
        out.push((bits << (8 - held)) as u8 | 0xff >> held);
    }
    out
}

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// How an encoder writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Strings are Huffman-coded.
    pub huffman: bool,
    /// The table's size.
    pub table: usize,
    /// Fields that are never inserted.
    pub literal: &'static [&'static str],
}

impl Default for Style {
    fn default() -> Self {
        Self { huffman: true, table: 4096, literal: &[] }
    }
}

/// A correct encoder with a table of its own, newest entry first, with evictions.
#[derive(Debug)]
pub(crate) struct Encoder {
    style: Style,
    table: Vec<(String, String)>,
    update: Option<usize>,
}

impl Encoder {
    pub fn new(style: Style) -> Self {
        Self { style, table: Vec::new(), update: None }
    }

    /// What is in the table, the newest entry first.
    pub fn table(&self) -> &[(String, String)] {
        &self.table
    }

    /// Changes the table's size; the next block says so.
    pub fn resize(&mut self, table: usize) {
        self.style.table = table;
        self.update = Some(table);
        self.evict();
    }

    pub fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(size) = self.update.take() {
            integer(size, 5, 0x20, &mut out);
        }
        for &(name, value) in fields {
            self.field(name, value, &mut out);
        }
        out
    }

    fn field(&mut self, name: &str, value: &str, out: &mut Vec<u8>) {
        let fixed: Vec<(&str, &str)> = STATIC.to_vec();
        let all = || fixed.iter().copied().chain(self.table.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        if let Some(at) = all().position(|entry| entry == (name, value)) {
            return integer(at + 1, 7, 0x80, out);
        }
        let named = all().position(|(n, _)| n == name).map_or(0, |at| at + 1);
        let insert = !self.style.literal.contains(&name);
        match insert {
            true => integer(named, 6, 0x40, out),
            false => integer(named, 4, 0, out),
        }
        if named == 0 {
            self.string(name, out);
        }
        self.string(value, out);
        if insert {
            self.table.insert(0, (name.to_owned(), value.to_owned()));
            self.evict();
        }
    }

    fn string(&self, text: &str, out: &mut Vec<u8>) {
        let coded = if self.style.huffman { huffman(text.as_bytes()) } else { text.as_bytes().to_vec() };
        integer(coded.len(), 7, if self.style.huffman { 0x80 } else { 0 }, out);
        out.extend(coded);
    }

    /// A literal that is inserted, with a literal name, uncoded.
    pub fn literal(name: &str, value: &str) -> Vec<u8> {
        let mut out = vec![0x40];
        for text in [name, value] {
            integer(text.len(), 7, 0, &mut out);
            out.extend(text.as_bytes());
        }
        out
    }

    fn evict(&mut self) {
        let size =
            |table: &[(String, String)]| table.iter().map(|(n, v)| 32 + n.len() + v.len()).sum::<usize>();
        while size(&self.table) > self.style.table {
            self.table.pop();
        }
    }
}

fn integer(value: usize, prefix: u32, first: u8, out: &mut Vec<u8>) {
    let most = (1 << prefix) - 1;
    if value < most {
        return out.push(first | value as u8);
    }
    out.push(first | most as u8);
    let mut rest = value - most;
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
