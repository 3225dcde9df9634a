//! The spans of one trace as lines: a tree on the left, a picture of time on the right.
//!
//! A parent that is not among the spans makes a span a top; spans that are their own ancestors (which only
//! a forged context could make) are tops too, each once.
//!
//! It must never recurse (a traced program chooses how deep a trace is), print a span twice or leave one
//! out.

use std::collections::HashMap;
use std::sync::Arc;

use super::style::{
    BOLD, DIM, ERROR, GOOD, Line, PLAIN, Paint, SERVICES, Style, WARNING, duration, harmless, shorten, width,
};
use crate::stitch::span::{Kind, LinkMethod, Span, SpanId, Value};

/// A span in the order in which it is printed.
struct Node {
    /// Its place in the list of spans.
    index: usize,
    /// How many ancestors it has, and for each of them and itself whether it is the last of its siblings;
    /// only the innermost [`DEEPEST`].
    depth: usize,
    lasts: Vec<bool>,
    /// None of its children is a server span: nobody here answered it.
    unanswered: bool,
}

/// How many levels are drawn; deeper ones lose their outer levels.
const DEEPEST: usize = 24;

/// The text of a whole trace. `open` is how many spans of it are known not to have ended.
pub fn draw(spans: &[Arc<Span>], open: usize, style: Style) -> String {
    let Some(first) = spans.first() else { return String::new() };
    let start = spans.iter().map(|span| span.start).min().unwrap_or(first.start);
    let end = spans.iter().map(|span| span.end).max().unwrap_or(first.end);
    let total = end.since(start);
    let nodes = order(spans);
    let services = services(spans, &nodes);

    let mut text = header(first, total, spans.len(), services.len(), open, style);
    let rows: Vec<Row> = nodes
        .iter()
        .filter_map(|node| {
            spans.get(node.index).map(|span| Row::new(span, node, &services, spans, style.width))
        })
        .collect();
    let columns = Columns::fit(&rows, style.width);
    for row in &rows {
        text.push_str(&row.draw(&columns, start.0, total, style));
    }
    text.push('\n');
    text
}

/// `trace 4bf9… · 12.3 ms · 4 spans · 2 services`
fn header(span: &Span, total: u64, spans: usize, services: usize, open: usize, style: Style) -> String {
    let count = |number: usize, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
    let mut parts = vec![duration(total), count(spans, "span"), count(services, "service")];
    if open > 0 {
        parts.push(format!("{open} not ended yet"));
    }
    let mut line = Line::new(style.color);
    line.push("trace ", DIM);
    line.push(&hex(&span.trace.0), BOLD);
    for part in parts {
        line.push(" · ", DIM);
        line.push(&part, PLAIN);
    }
    line.finish()
}

/// Depth first, siblings by start.
fn order(spans: &[Arc<Span>]) -> Vec<Node> {
    let mut places = HashMap::with_capacity(spans.len());
    for (index, span) in spans.iter().enumerate() {
        places.entry(span.id).or_insert(index);
    }
    let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut tops = Vec::new();
    for (index, span) in spans.iter().enumerate() {
        match span.parent.and_then(|parent| places.get(&parent.span)) {
            Some(&parent) if parent != index => children.entry(parent).or_default().push(index),
            _ => tops.push(index),
        }
    }
    let key = |index: &usize| spans.get(*index).map(|span| (span.start, span.kind == Kind::Server, span.id));
    tops.sort_by_key(key);
    for siblings in children.values_mut() {
        siblings.sort_by_key(key);
    }

    let mut nodes = Vec::with_capacity(spans.len());
    let mut seen = vec![false; spans.len()];
    // Whatever no top leads to is in a circle: each is tried as a top, in order of start.
    let mut circles: Vec<usize> = (0..spans.len()).collect();
    circles.sort_by_key(key);
    for top in tops.into_iter().chain(circles) {
        let mut stack = vec![(top, 0, Vec::new())];
        while let Some((index, depth, lasts)) = stack.pop() {
            if seen.get(index).copied().unwrap_or(true) {
                continue;
            }
            if let Some(seen) = seen.get_mut(index) {
                *seen = true;
            }
            let below = children.get(&index).map(Vec::as_slice).unwrap_or_default();
            for (place, &child) in below.iter().enumerate().rev() {
                let mut lasts: Vec<bool> = lasts.clone();
                if lasts.len() == DEEPEST {
                    lasts.remove(0);
                }
                lasts.push(place + 1 == below.len());
                stack.push((child, depth + 1, lasts));
            }
            let served = |&child: &usize| spans.get(child).is_some_and(|span| span.kind == Kind::Server);
            let unanswered = !below.iter().any(served);
            nodes.push(Node { index, depth, lasts, unanswered });
        }
    }
    nodes
}

/// The colour of each service, by order of appearance.
fn services<'a>(spans: &'a [Arc<Span>], nodes: &[Node]) -> HashMap<&'a str, Paint> {
    let mut services = HashMap::new();
    for span in nodes.iter().filter_map(|node| spans.get(node.index)) {
        let next = SERVICES.get(services.len() % SERVICES.len()).copied().unwrap_or(PLAIN);
        services.entry(span.resource.service.as_str()).or_insert(next);
    }
    services
}

/// A span as text, before it is known how wide the columns are.
struct Row<'a> {
    span: &'a Span,
    branch: String,
    parts: Vec<(String, Paint)>,
    status: (String, Paint),
    duration: String,
    link: String,
    paint: Paint,
}

impl<'a> Row<'a> {
    fn new(
        span: &'a Span,
        node: &Node,
        services: &HashMap<&str, Paint>,
        spans: &[Arc<Span>],
        terminal: Option<usize>,
    ) -> Self {
        let paint = services.get(span.resource.service.as_str()).copied().unwrap_or(PLAIN);
        let roomy = terminal.is_none_or(|width| width >= 80);
        let link = match span.parent {
            // A header may name a span that somebody else keeps.
            Some(parent) if parent.method == LinkMethod::Header && node.depth == 0 && roomy => {
                let held = spans.iter().any(|other| other.id == parent.span);
                let from = if held { String::new() } else { format!(" from {}", id(parent.span)) };
                format!("via {}{from}", parent.method.name())
            }
            Some(parent) => format!("via {}", parent.method.name()),
            None => String::new(),
        };
        let (status, status_paint) = status(span);
        let limit = terminal.map_or(usize::MAX, |width| width / 5);
        let status = (shorten(&status, limit).into_owned(), status_paint);
        Self {
            span,
            branch: branch(node, terminal),
            parts: label(span, node.unanswered, paint),
            status,
            duration: duration(span.end.since(span.start)),
            link,
            paint,
        }
    }

    fn label_width(&self) -> usize {
        width(&self.branch) + self.parts.iter().map(|(text, _)| width(text)).sum::<usize>()
    }

    fn draw(&self, columns: &Columns, start: u64, total: u64, style: Style) -> String {
        let mut line = Line::new(style.color);
        line.push(&self.branch, DIM);
        for (text, paint) in &self.parts {
            let left = columns.label_limit.saturating_sub(line.width());
            line.push(&shorten(text, left), *paint);
        }
        line.pad(columns.label + 2);
        if columns.marked && self.span.error.is_none() {
            line.push("  ", PLAIN);
        }
        let (status, paint) = &self.status;
        line.push(status, *paint);
        let right = columns.label + 2 + columns.status + 2 + columns.duration;
        line.pad(right.saturating_sub(width(&self.duration)));
        line.push(&self.duration, PLAIN);
        if columns.bar > 0 {
            let (blank, filled) = bar(self.span, start, total, columns.bar);
            line.push("  ", PLAIN);
            line.push(&" ".repeat(blank), PLAIN);
            line.push(&filled, if self.span.error.is_some() { ERROR } else { self.paint });
        }
        if !self.link.is_empty() {
            let bar = if columns.bar > 0 { columns.bar + 2 } else { 0 };
            line.pad(line.width().max(right + bar + 2));
            line.push(&self.link, DIM);
        }
        line.finish()
    }
}

/// How wide the columns of one trace are.
struct Columns {
    /// Where the label's column ends.
    label: usize,
    /// Where a label is cut.
    label_limit: usize,
    status: usize,
    /// Some status has a mark before it, so the others get blanks there.
    marked: bool,
    duration: usize,
    bar: usize,
}

impl Columns {
    /// On a terminal everything fits into its width as long as that is not below 60; elsewhere labels are
    /// never cut, and only the usual ones are aligned.
    fn fit(rows: &[Row<'_>], terminal: Option<usize>) -> Self {
        let most = |of: &dyn Fn(&Row<'_>) -> usize| rows.iter().map(of).max().unwrap_or_default();
        let (label, link) = (most(&|row| row.label_width()), most(&|row| width(&row.link)));
        let marked = rows.iter().any(|row| row.span.error.is_some());
        let blanks = |row: &Row<'_>| if marked && row.span.error.is_none() { 2 } else { 0 };
        let status = most(&|row| width(&row.status.0) + blanks(row));
        let duration = most(&|row| width(&row.duration));
        let Some(terminal) = terminal else {
            return Self { label: label.min(72), label_limit: usize::MAX, status, marked, duration, bar: 20 };
        };
        let gap = |width: usize| if width > 0 { width + 2 } else { 0 };
        let rest = terminal.saturating_sub(gap(status) + gap(duration) + gap(link));
        // The label has what it needs, the bar what is left; below 12 columns a bar says nothing, and it
        // takes them only where the label keeps 32.
        let bar = match rest.saturating_sub(label + 2) {
            12.. => (rest - label - 2).min(40),
            _ if rest >= 32 + 2 + 12 => 12,
            _ => 0,
        };
        let label = label.min(rest.saturating_sub(gap(bar))).max(16);
        Self { label, label_limit: label, status, marked, duration, bar }
    }
}

/// The lines that lead to a span.
fn branch(node: &Node, terminal: Option<usize>) -> String {
    // On a terminal at most a third of it, or there would be no place for what they lead to.
    let levels = terminal.map_or(DEEPEST, |width| width / 10).clamp(1, DEEPEST);
    let skipped = node.lasts.len().saturating_sub(levels);
    let lasts = node.lasts.get(skipped..).unwrap_or_default();
    let mut text = String::new();
    if node.depth > lasts.len() {
        text.push_str("⋯ ");
    }
    if let Some((own, outer)) = lasts.split_last() {
        for &last in outer {
            text.push_str(if last { "   " } else { "│  " });
        }
        text.push_str(if *own { "└─ " } else { "├─ " });
    }
    text
}

/// Service, direction, name, and where to: the path, with the host in front where nobody here answered.
fn label(span: &Span, unanswered: bool, paint: Paint) -> Vec<(String, Paint)> {
    let mut parts = vec![(harmless(&span.resource.service).into_owned(), paint)];
    parts.push((if span.kind == Kind::Client { " → " } else { " " }.to_owned(), DIM));
    parts.push((harmless(&span.name).into_owned(), BOLD));
    let (host, path) = place(span);
    let host = if span.kind == Kind::Client && (unanswered || path.is_empty()) { host } else { "" };
    if !(host.is_empty() && path.is_empty()) {
        parts.push((format!(" {}{}", harmless(host), harmless(path)), PLAIN));
    }
    parts
}

/// The host (with port) and the path that a span is about, as its attributes have them.
fn place(span: &Span) -> (&str, &str) {
    let text = |key: &str| match attribute(span, key) {
        Some(Value::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    if let Some(path) = text("url.path") {
        return ("", path);
    }
    let full = text("url.full").unwrap_or_default();
    let rest = full.split_once("://").map_or(full, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    rest.find('/').and_then(|slash| rest.split_at_checked(slash)).unwrap_or((rest, ""))
}

fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a Value> {
    span.attributes.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
}

/// The status code, or what went wrong instead; an error has a mark that needs no colour.
fn status(span: &Span) -> (String, Paint) {
    let code = match attribute(span, "http.response.status_code") {
        Some(Value::Integer(code)) => Some(*code),
        _ => None,
    };
    let shown = code.map(|code| code.to_string());
    match (&span.error, shown) {
        (Some(error), Some(code)) if *error == code => (format!("✗ {code}"), ERROR),
        (Some(error), Some(code)) => (format!("✗ {code} {}", harmless(error)), ERROR),
        (Some(error), None) => (format!("✗ {}", harmless(error)), ERROR),
        (None, Some(text)) => (text, if code.is_some_and(|code| code >= 400) { WARNING } else { GOOD }),
        (None, None) => ("-".to_owned(), DIM),
    }
}

/// Where in the trace a span lies, on so many columns: blanks, then the bar. It is never empty, and never
/// reaches beyond the columns.
fn bar(span: &Span, start: u64, total: u64, columns: usize) -> (usize, String) {
    let total = u128::from(total.max(1));
    // In eighths of a column: there are blocks for every right end, but for the left one only for the half.
    let eighths = |time: u64| {
        let scaled = u128::from(time.saturating_sub(start)) * columns as u128 * 8 / total;
        usize::try_from(scaled).unwrap_or(usize::MAX).min(columns * 8)
    };
    let (from, to) = (eighths(span.start.0), eighths(span.end.0.max(span.start.0)));
    let blank = (from / 8).min(columns.saturating_sub(1));
    let length = to.saturating_sub(blank * 8).max(1);
    let mut filled = String::new();
    let whole = if from % 8 >= 4 && length >= 8 {
        filled.push('▐');
        length - 8
    } else {
        length
    };
    filled.extend(std::iter::repeat_n('█', whole / 8));
    let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    filled.push_str(part.get(whole % 8).copied().unwrap_or_default());
    (blank, filled)
}

/// A span that comes by itself: `late 4bf92f35  shop → GET /stock › stock GET /stock  200  3.10 ms  via stream`.
pub fn late(span: &Span, parent: Option<&str>, style: Style) -> String {
    let mut line = Line::new(style.color);
    line.push("late ", WARNING);
    line.push(hex(&span.trace.0).get(..8).unwrap_or_default(), BOLD);
    line.push("  ", PLAIN);
    match (parent, span.parent) {
        (Some(name), _) => line.push(name, DIM),
        (None, Some(parent)) => line.push(&id(parent.span), DIM),
        (None, None) => line.push("root", DIM),
    }
    line.push(" › ", DIM);
    let (status, status_paint) = status(span);
    // The rest of the line takes about 40 columns.
    let limit = style.width.map_or(usize::MAX, |width| width.saturating_sub(40).max(line.width() + 24));
    for (text, paint) in label(span, false, PLAIN) {
        line.push(&shorten(&text, limit.saturating_sub(line.width())), paint);
    }
    line.push("  ", PLAIN);
    line.push(&status, status_paint);
    line.push("  ", PLAIN);
    line.push(&duration(span.end.since(span.start)), PLAIN);
    if let Some(parent) = span.parent {
        line.push("  via ", DIM);
        line.push(parent.method.name(), DIM);
    }
    line.finish()
}

/// What a span is called where another one mentions it.
pub fn name(span: &Span) -> Box<str> {
    let text: String = label(span, false, PLAIN).into_iter().map(|(text, _)| text).collect();
    shorten(&text, 60).into()
}

/// The first half of a span id.
fn id(span: SpanId) -> String {
    hex(&span.0).get(..8).unwrap_or_default().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
