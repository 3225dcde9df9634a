//! What the tests of this folder share: sample spans, and a place that collects log sentences.
//!
//! Compiled for tests only.

use std::sync::{Arc, Mutex};

use super::Say;
use crate::discover::{Resource, ResourceValue};
use crate::identity::{Monotonic, ProcessKey};
use crate::stitch::span::{Kind, Span, SpanId, TraceId, Value};

/// A service's resource.
pub fn service(name: &str, pid: i64) -> Arc<Resource> {
    Arc::new(Resource {
        service: name.to_owned(),
        attributes: vec![
            ("service.name".to_owned(), ResourceValue::Text(name.to_owned())),
            ("process.pid".to_owned(), ResourceValue::Integer(pid)),
        ],
    })
}

/// Makes spans that differ by their number.
pub struct Sample;

impl Sample {
    /// A root of a service `shop`.
    pub fn server(number: u64) -> Span {
        let mut trace = [0; 16];
        trace[8..].copy_from_slice(&number.to_be_bytes());
        Span {
            trace: TraceId(trace),
            id: SpanId(number.to_be_bytes()),
            parent: None,
            flags: 3,
            trace_state: Some("vendor=1".to_owned()),
            kind: Kind::Server,
            name: "GET".into(),
            start: Monotonic(1_000_000_000),
            end: Monotonic(1_500_000_000),
            wall_offset: 1_700_000_000_000_000_000,
            attributes: vec![
                ("http.request.method", Value::Text("GET".into())),
                ("http.response.status_code", Value::Integer(200)),
                ("url.path", Value::Text(format!("/item/{number}").into())),
            ],
            events: Vec::new(),
            error: None,
            process: ProcessKey { pid: 10, exec: 1, started: 5 },
            resource: service("shop", 10),
        }
    }

    /// The same, as a client span.
    pub fn client(number: u64) -> Span {
        Span { kind: Kind::Client, ..Self::server(number) }
    }
}

/// Log sentences, collected.
#[derive(Clone, Default)]
pub struct Said(Arc<Mutex<Vec<String>>>);

impl Said {
    /// Where to send sentences.
    pub fn say(&self) -> Say {
        let to = Arc::clone(&self.0);
        Arc::new(move |line| to.lock().unwrap().push(line.to_owned()))
    }

    /// What was said so far.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}
