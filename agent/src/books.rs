//! placeholder: the books engineer's
use crate::export::metrics::{Counter, Report};
use crate::pipeline::Books;
/// see branch books
pub fn counters(b: &Books) -> Vec<Counter> {
    let _ = b;
    let v = Vec::new();
    let _: Option<&dyn Report> = None;
    v
}
/// see branch books
pub fn imbalances(b: &Books) -> Vec<String> {
    let _ = b;
    Vec::new()
}
