//! Which processes there are, what they are called, and which of them to trace.
//!
//! (contract; see the helper task)

/// What a traced service says of itself: one OTLP resource per program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resource {
    /// `service.name`.
    pub service: String,
    /// All attributes, `service.name` among them; each key once, in a fixed order.
    pub attributes: Vec<(String, ResourceValue)>,
}

/// A resource attribute's value.
#[derive(Clone, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum ResourceValue {
    Text(String),
    Integer(i64),
}
