//! OTLP/JSON lines in (one TracesData a line), spans out.
//!
//! The reader is written against the OTLP 1.11 JSON mapping (hex ids, 64-bit integers as strings, enums as
//! numbers), not against the agent's types. It must never repair anything: a field that is not as the
//! mapping says is an error that names it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// `SPAN_KIND_SERVER` and `SPAN_KIND_CLIENT`; any other kind is an error here.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[allow(missing_docs)]
pub enum Kind {
    Server,
    Client,
}

/// An event of a span.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SeenEvent {
    /// Its name.
    pub name: String,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Its attributes, values as text.
    pub attributes: BTreeMap<String, String>,
}

/// A span as it arrived. Attribute values are text, integers in decimal.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SeenSpan {
    /// 32 hex digits.
    pub trace: String,
    /// 16 hex digits.
    pub id: String,
    /// 16 hex digits; none for a root.
    pub parent: Option<String>,
    /// Server or client.
    pub kind: Kind,
    /// The span's name.
    pub name: String,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// `Span.flags`.
    pub flags: u32,
    /// `Span.trace_state`.
    pub trace_state: String,
    /// `Status.code`: 0 unset, 2 error.
    pub status: i64,
    /// The span's attributes.
    pub attributes: BTreeMap<String, String>,
    /// Its events.
    pub events: Vec<SeenEvent>,
    /// The attributes of its resource.
    pub resource: BTreeMap<String, String>,
}

impl SeenSpan {
    /// `service.name`, empty if there is none.
    pub fn service(&self) -> &str {
        self.resource.get("service.name").map_or("", String::as_str)
    }

    /// An attribute, empty if there is none.
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }

    /// The request's path, without the query: `url.path` of a server span, the path in a client span's `url.full`.
    pub fn path(&self) -> &str {
        if let Some(path) = self.attributes.get("url.path") {
            return path;
        }
        let full = self.attribute("url.full");
        let rest = full.split_once("://").map_or(full, |(_, rest)| rest);
        let path = rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("");
        path.split(['?', '#']).next().unwrap_or("")
    }

    /// How the parent was found: `spandrel.link.method`.
    pub fn method(&self) -> &str {
        self.attribute("spandrel.link.method")
    }
}

/// All spans of a file of OTLP/JSON lines. A last line without its newline is still being written and left out.
pub fn read(path: &Path) -> Result<Vec<SeenSpan>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut spans = Vec::new();
    for (number, line) in whole.lines().enumerate() {
        spans.extend(parse(line).with_context(|| format!("{} line {}", path.display(), number + 1))?);
    }
    Ok(spans)
}

/// The spans of one TracesData.
pub fn parse(line: &str) -> Result<Vec<SeenSpan>> {
    let data: Value = serde_json::from_str(line).context("not JSON")?;
    let mut spans = Vec::new();
    for resource_spans in list(&data, "resourceSpans") {
        let resource = attributes(&resource_spans["resource"])?;
        for scope_spans in list(resource_spans, "scopeSpans") {
            for span in list(scope_spans, "spans") {
                spans.push(one(span, &resource).with_context(|| format!("in span {span}"))?);
            }
        }
    }
    Ok(spans)
}

fn one(span: &Value, resource: &BTreeMap<String, String>) -> Result<SeenSpan> {
    let parent = span["parentSpanId"].as_str().unwrap_or("");
    let mut events = Vec::new();
    for event in list(span, "events") {
        events.push(SeenEvent {
            name: text(event, "name")?,
            time: number(&event["timeUnixNano"], "timeUnixNano")?,
            attributes: attributes(event)?,
        });
    }
    Ok(SeenSpan {
        trace: hex(span, "traceId", 32)?,
        id: hex(span, "spanId", 16)?,
        parent: if parent.is_empty() { None } else { Some(hex(span, "parentSpanId", 16)?) },
        kind: match &span["kind"] {
            Value::Number(n) if n.as_u64() == Some(2) => Kind::Server,
            Value::Number(n) if n.as_u64() == Some(3) => Kind::Client,
            other => bail!("kind is {other}, not 2 (server) or 3 (client)"),
        },
        name: text(span, "name")?,
        start: number(&span["startTimeUnixNano"], "startTimeUnixNano")?,
        end: number(&span["endTimeUnixNano"], "endTimeUnixNano")?,
        flags: span["flags"].as_u64().unwrap_or(0) as u32,
        trace_state: span["traceState"].as_str().unwrap_or("").to_owned(),
        status: span["status"]["code"].as_i64().unwrap_or(0),
        attributes: attributes(span)?,
        events,
        resource: resource.clone(),
    })
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value, key: &str) -> Result<String> {
    value[key].as_str().map(str::to_owned).with_context(|| format!("{key} is not a text"))
}

fn hex(value: &Value, key: &str, digits: usize) -> Result<String> {
    let id = text(value, key)?;
    let right =
        id.len() == digits && id.bytes().all(|b| b.is_ascii_hexdigit()) && id.bytes().any(|b| b != b'0');
    if !right {
        bail!("{key} {id:?} is not {digits} hex digits that are not all 0");
    }
    Ok(id.to_ascii_lowercase())
}

/// A 64-bit integer: a decimal string by the mapping, a number where a writer is lax.
fn number(value: &Value, key: &str) -> Result<u64> {
    match value {
        Value::String(digits) => digits.parse().with_context(|| format!("{key} is {digits:?}")),
        Value::Number(n) => n.as_u64().with_context(|| format!("{key} is {n}")),
        other => bail!("{key} is {other}"),
    }
}

fn attributes(owner: &Value) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for attribute in list(owner, "attributes") {
        let key = text(attribute, "key")?;
        let value = plain(&attribute["value"]).with_context(|| format!("attribute {key}"))?;
        if all.insert(key.clone(), value).is_some() {
            bail!("attribute {key} is there twice");
        }
    }
    Ok(all)
}

fn plain(value: &Value) -> Result<String> {
    let (kind, inner) = value.as_object().and_then(|o| o.iter().next()).context("has no value")?;
    Ok(match (kind.as_str(), inner) {
        ("stringValue", Value::String(text)) => text.clone(),
        ("intValue", Value::String(digits)) => digits.parse::<i64>()?.to_string(),
        ("intValue", Value::Number(n)) => n.to_string(),
        ("boolValue", Value::Bool(b)) => b.to_string(),
        ("doubleValue", n) => n.to_string(),
        ("arrayValue", array) => {
            let parts: Result<Vec<_>> = list(array, "values").iter().map(plain).collect();
            format!("[{}]", parts?.join(","))
        }
        (kind, other) => bail!("{kind} {other} is not in the mapping"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},
        "scopeSpans":[{"spans":[{"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"00f067aa0ba902b7","parentSpanId":"",
        "kind":3,"name":"GET","startTimeUnixNano":"17","endTimeUnixNano":"19","flags":257,"status":{},
        "attributes":[{"key":"url.full","value":{"stringValue":"http://a:1/2/tok?x=REDACTED"}},
                      {"key":"http.response.status_code","value":{"intValue":"200"}}]}]}]}]}"#;

    #[test]
    fn a_span_is_read_with_its_resource() {
        let spans = parse(&LINE.replace('\n', "")).unwrap();
        assert_eq!(spans.len(), 1);
        let span = &spans[0];
        assert_eq!((span.service(), span.path(), span.parent.as_deref()), ("shop", "/2/tok", None));
        assert_eq!((span.start, span.end, span.attribute("http.response.status_code")), (17, 19, "200"));
    }

    #[test]
    fn an_id_of_zeros_is_refused() {
        assert!(parse(&LINE.replace("00f067aa0ba902b7", "0000000000000000")).is_err());
    }

    #[test]
    fn an_attribute_that_is_there_twice_is_refused() {
        assert!(parse(&LINE.replace("http.response.status_code", "url.full")).is_err());
    }
}
