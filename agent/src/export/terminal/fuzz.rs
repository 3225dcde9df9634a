//! Fuzz bodies: any text as what a trace says, and any order of what happens to traces.

use std::sync::Arc;

use super::style::{harmless, shorten, width};
use super::{AGE, Color, Limits, Style, Terminal, tree};
use crate::discover::Resource;
use crate::identity::{Monotonic, ProcessKey};
use crate::stitch::http::is_harmful;
use crate::stitch::span::{Kind, LinkMethod, Parent, Span, SpanId, TraceId, Value};

/// Escapes any text, and draws a trace that is made of it.
pub fn fuzz_escape(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let shown = harmless(&text);
    assert!(!shown.contains(is_harmful), "{shown:?}");
    assert_eq!(harmless(&shown), shown);
    for columns in [0, 1, 2, 7, 80] {
        let short = shorten(&shown, columns);
        assert!(width(&short) <= columns, "{short:?} is wider than {columns}");
    }
    let size = |index: usize| usize::from(data.get(index).copied().unwrap_or(100));
    let span = Arc::new(span(0, 1, None, &text));
    for terminal in [None, Some(size(0)), Some(80)] {
        let style = Style { color: Color::Off, width: terminal };
        let spans = [span.clone(), span.clone()];
        for drawn in [tree::draw(&spans, 0, style), tree::late(&span, Some(&tree::name(&span)), style)] {
            let harmful = |line: &str| line.contains(is_harmful);
            assert!(!drawn.lines().any(harmful), "{drawn:?}");
            assert!(drawn.ends_with('\n') && !drawn.contains(" \n"), "{drawn:?}");
        }
        let drawn = tree::draw(&spans, 0, style);
        assert_eq!(drawn.lines().count(), 4, "{drawn}");
        if let Some(terminal) = terminal.filter(|&terminal| terminal >= 100) {
            assert!(drawn.lines().skip(1).all(|line| width(line) <= terminal), "{drawn}");
        }
    }
}

/// Lets any sequence of things happen to a terminal with small bounds: two bytes each, what and to whom.
pub fn fuzz_terminal(data: &[u8]) {
    let limits = Limits { traces: 3, spans: 8, bytes: 4_000, names: 6 };
    let mut terminal = Terminal::new(Style::default(), limits);
    let (mut now, mut written) = (Monotonic(1), Vec::new());
    for pair in data.chunks_exact(2) {
        let &[what, whom] = pair else { continue };
        let (trace, id) = (TraceId([1 + whom % 5; 16]), SpanId([1 + whom / 5 % 9; 8]));
        let mut full = Full;
        let result = match what % 8 {
            0 if what & 0x40 != 0 => {
                terminal.abandoned(trace, id, now);
                Ok(())
            }
            0 | 1 => {
                terminal.bound(trace, id, now);
                Ok(())
            }
            2..=4 => {
                let parent = (what & 0x80 != 0).then_some(1 + what / 8 % 9);
                let span = Arc::new(span(whom % 5, 1 + whom / 5 % 9, parent, "x"));
                if what & 0x40 == 0 {
                    terminal.ended(span, now, &mut written)
                } else {
                    terminal.ended(span, now, &mut full)
                }
            }
            5 => terminal.poll(now, &mut written),
            6 => {
                now.0 += u64::from(whom) * 20_000_000;
                terminal.poll(now, &mut written)
            }
            _ => {
                now.0 += if whom == 255 { AGE } else { 1 };
                terminal.poll(now, &mut full)
            }
        };
        let _ = result;
        check(&terminal, &limits);
    }
    let _ = terminal.finish(now, &mut written);
    check(&terminal, &limits);
    assert_eq!((terminal.ledger.held, terminal.spans, terminal.bytes), (0, 0, 0));
    now.0 += AGE;
    let _ = terminal.poll(now, &mut written);
    assert_eq!((terminal.names, terminal.printed.len(), terminal.order.len()), (0, 0, 0));
    let lines = written.iter().filter(|&&byte| byte == b'\n').count() as u64;
    let ledger = terminal.ledger;
    // A tree has its spans, a header, and an empty line; one that was not written has none of them.
    assert!(lines >= ledger.in_tree + ledger.late + ledger.over_bound);
}

/// The books balance, and no bound is broken.
fn check(terminal: &Terminal, limits: &Limits) {
    let ledger = terminal.ledger;
    let out = ledger.in_tree + ledger.late + ledger.over_bound + ledger.unwritten;
    assert_eq!(ledger.ended, out + ledger.held, "{ledger:?}");
    let spans: usize = terminal.traces.values().map(|held| held.open.len() + held.ended.len()).sum();
    let names: usize = terminal.printed.values().map(|printed| printed.names.len()).sum();
    assert_eq!((terminal.spans, terminal.names), (spans, names));
    assert!(terminal.traces.len() <= limits.traces && spans <= limits.spans);
    assert!(terminal.bytes <= limits.bytes && names <= limits.names);
    assert_eq!(terminal.printed.len(), terminal.order.len());
    assert!(terminal.printed.len() <= limits.traces);
}

/// A writer that takes nothing.
struct Full;

impl std::io::Write for Full {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn span(trace: u8, id: u8, parent: Option<u8>, text: &str) -> Span {
    Span {
        trace: TraceId([1 + trace; 16]),
        id: SpanId([id; 8]),
        parent: parent.map(|id| Parent {
            span: SpanId([id; 8]),
            method: LinkMethod::Header,
            remote: id.is_multiple_of(2),
        }),
        flags: 3,
        trace_state: None,
        kind: if id.is_multiple_of(2) { Kind::Server } else { Kind::Client },
        name: text.into(),
        start: Monotonic(u64::from(id) * 1_000),
        end: Monotonic(100_000),
        wall_offset: 0,
        attributes: vec![("url.full", Value::Text(format!("http://{text}/{text}?{text}").into()))],
        events: Vec::new(),
        error: Some(text.into()),
        process: ProcessKey { pid: 1, exec: 1, started: 1 },
        resource: Arc::new(Resource { service: text.to_owned(), attributes: Vec::new() }),
    }
}
