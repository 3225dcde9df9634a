//! Spans against the plan: what is complete, right, orphan, missing, wrong. A span is found by its path and its
//! kind, and by nothing else.
//!
//! | word | said of | when |
//! |---|---|---|
//! | complete | a request of the driver | all its spans are there, every parent that can be proved is right, none is wrong |
//! | right | a span | its parent is the one of the plan (or it has none, as planned), in the same trace |
//! | orphan | a span | it has no parent, though the plan has one |
//! | missing | a span | it did not arrive |
//! | wrong | a span | it has another parent than the plan's, is in another trace than its parent, or was made twice |
//!
//! It must never take part in the traffic, and never forgive: what the plan does not know is counted too.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use crate::gaps::{GapIndex, Place};
use crate::otlp::{Kind, SeenSpan};
use crate::plan::{Call, Plan};

/// Which parents a row can ask for. The link between a client span and the server span at the other end of its
/// connection is always asked for.
#[derive(Clone, Copy, Debug)]
pub struct Provable {
    /// Bit n: the service that answers edge n lets prove on whose behalf it calls.
    services: u16,
}

impl Provable {
    /// Every service does.
    pub const ALL: Self = Self { services: u16::MAX };
    /// None does.
    pub const NONE: Self = Self { services: 0 };
    /// Every service but the one that answers this edge.
    pub const fn but(edge: u8) -> Self {
        Self { services: !(1 << edge) }
    }

    fn at(self, edge: u8) -> bool {
        self.services & (1 << edge) != 0
    }
}

/// What came of a batch of requests.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Requests of the driver.
    pub requests: usize,
    /// Of these, complete ones.
    pub complete: usize,
    /// Spans that were planned and asked for.
    pub spans: usize,
    /// Spans whose parent is right.
    pub right: usize,
    /// Spans without a parent that had one.
    pub orphan: usize,
    /// Of these, ones whose parent could have been proved.
    pub orphan_provable: usize,
    /// Spans that did not arrive.
    pub missing: usize,
    /// Of these, ones that overlap no gap that was reported.
    pub unexplained: usize,
    /// Of these, ones of a program that does not note where its calls are, while some gap was reported: which of the two it is cannot
    /// be told.
    pub unplaced: usize,
    /// Spans with a wrong parent, and spans made twice.
    pub wrong: usize,
    /// Spans that start before their parent or end after it, though they are on the same connection.
    pub acausal: usize,
    /// Calls that belong to no request: seen spans of theirs.
    pub background: usize,
    /// How parents were found, and how often.
    pub methods: BTreeMap<String, usize>,
    /// The first few of what is not as planned, in words.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Complete requests, of a hundred.
    pub fn complete_percent(&self) -> f64 {
        100.0 * self.complete as f64 / self.requests.max(1) as f64
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(text());
        }
    }

    /// Adds another batch of the same row.
    pub fn add(&mut self, other: &Self) {
        let Self {
            requests,
            complete,
            spans,
            right,
            orphan,
            orphan_provable,
            missing,
            unexplained,
            unplaced,
            wrong,
            acausal,
            background,
            methods,
            examples,
        } = other;
        self.requests += requests;
        self.complete += complete;
        self.spans += spans;
        self.right += right;
        self.orphan += orphan;
        self.orphan_provable += orphan_provable;
        self.missing += missing;
        self.unexplained += unexplained;
        self.unplaced += unplaced;
        self.wrong += wrong;
        self.acausal += acausal;
        self.background += background;
        for (method, count) in methods {
            *self.methods.entry(method.clone()).or_default() += count;
        }
        self.examples.extend(examples.iter().take(EXAMPLES.saturating_sub(self.examples.len())).cloned());
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} requests complete; {} spans: {} right, {} orphan ({} provable), {} missing ({} unexplained, {} unplaced), {} wrong, {} acausal",
            self.complete,
            self.requests,
            self.spans,
            self.right,
            self.orphan,
            self.orphan_provable,
            self.missing,
            self.unexplained,
            self.unplaced,
            self.wrong,
            self.acausal
        )?;
        for example in &self.examples {
            write!(f, "\n    {example}")?;
        }
        Ok(())
    }
}

/// Judges the requests `roots` of a plan by the spans that came out.
pub fn judge(
    plan: &Plan,
    roots: &[usize],
    provable: Provable,
    spans: &[SeenSpan],
    places: &HashMap<String, Place>,
    gaps: &GapIndex,
) -> Verdict {
    let mut judge = Judge {
        plan,
        provable,
        seen: index(spans),
        ids: ids(spans),
        places,
        gaps,
        verdict: Verdict::default(),
    };
    for &root in roots {
        let complete = judge.call(root);
        judge.verdict.requests += 1;
        judge.verdict.complete += usize::from(complete);
    }
    judge.verdict
}

/// Judges the calls that belong to no request. They may be missing (how many were made is not known), never wrong.
pub fn judge_background(plan: &Plan, spans: &[SeenSpan]) -> Verdict {
    let (places, gaps) = (HashMap::new(), GapIndex::default());
    let mut judge = Judge {
        plan,
        provable: Provable::ALL,
        seen: index(spans),
        ids: ids(spans),
        places: &places,
        gaps: &gaps,
        verdict: Verdict::default(),
    };
    for &call in &plan.background {
        let path = &plan.calls[call].path;
        for kind in [Kind::Client, Kind::Server] {
            if judge.seen.contains_key(&(path.as_str(), kind)) {
                judge.span(call, kind);
                judge.verdict.background += 1;
            }
        }
    }
    judge.verdict
}

/// Whether all spans of all requests have arrived, whatever their parents. Calls that belong to no request are not waited
/// for: how many were made is not known.
pub fn all_there(plan: &Plan, spans: &[SeenSpan]) -> bool {
    let background: HashSet<usize> = plan.background.iter().copied().collect();
    let seen: HashSet<_> = spans.iter().map(|span| (span.path(), span.kind)).collect();
    let requests = plan.calls.iter().enumerate().filter(|(index, _)| !background.contains(index));
    requests
        .map(|(_, call)| call.path.as_str())
        .all(|path| [Kind::Client, Kind::Server].into_iter().all(|kind| seen.contains(&(path, kind))))
}

type Index<'a> = HashMap<(&'a str, Kind), Vec<&'a SeenSpan>>;

fn index(spans: &[SeenSpan]) -> Index<'_> {
    let mut index: Index<'_> = HashMap::new();
    for span in spans {
        index.entry((span.path(), span.kind)).or_default().push(span);
    }
    index
}

fn ids(spans: &[SeenSpan]) -> HashSet<&str> {
    spans.iter().map(|span| span.id.as_str()).collect()
}

struct Judge<'a> {
    plan: &'a Plan,
    provable: Provable,
    seen: Index<'a>,
    ids: HashSet<&'a str>,
    places: &'a HashMap<String, Place>,
    gaps: &'a GapIndex,
    verdict: Verdict,
}

/// What the plan says about a span's parent.
enum Planned<'a> {
    None,
    Outside(&'a str, &'a str),
    Span(usize, Kind),
}

impl<'a> Judge<'a> {
    /// Whether this call and all that it caused is complete.
    fn call(&mut self, index: usize) -> bool {
        let mut complete = self.span(index, Kind::Client);
        complete &= self.span(index, Kind::Server);
        let children = &self.plan.calls[index].calls;
        for &child in children {
            complete &= self.call(child);
        }
        complete
    }

    fn planned(&self, index: usize, kind: Kind) -> (Planned<'a>, bool) {
        let call: &Call = &self.plan.calls[index];
        match (kind, call.parent, &call.carried) {
            (Kind::Server, _, _) => (Planned::Span(index, Kind::Client), true),
            (Kind::Client, Some(parent), _) => {
                (Planned::Span(parent, Kind::Server), self.provable.at(self.plan.calls[parent].edge))
            }
            (Kind::Client, None, Some(carried)) => (Planned::Outside(&carried.trace, &carried.span), true),
            (Kind::Client, None, None) => (Planned::None, true),
        }
    }

    /// Judges one span; whether it is as a complete request needs it.
    fn span(&mut self, index: usize, kind: Kind) -> bool {
        let plan = self.plan;
        let path = &plan.calls[index].path;
        if plan.calls[index].optional && !self.seen.contains_key(&(path.as_str(), kind)) {
            return true;
        }
        self.verdict.spans += 1;
        let Some(found) = self.seen.get(&(path.as_str(), kind)) else {
            self.verdict.missing += 1;
            match self.places.get(path) {
                Some(place) if place.meets(kind, self.gaps) => {}
                None if self.gaps.any() => self.verdict.unplaced += 1,
                _ => {
                    self.verdict.unexplained += 1;
                    self.verdict.example(|| format!("missing: {kind:?} {path}, no gap reported there"));
                }
            }
            return false;
        };
        let span: &SeenSpan = found[0];
        if found.len() > 1 {
            let n = found.len();
            self.verdict.wrong += 1;
            self.verdict.example(|| format!("wrong: {kind:?} {path} is there {n} times"));
            return false;
        }
        let (planned, provable) = self.planned(index, kind);
        let provable = provable && !plan.calls[index].optional;
        let parent = match planned {
            Planned::None => None,
            Planned::Outside(trace, id) => Some((trace, id, None)),
            Planned::Span(cause, kind) => {
                // A parent that is missing itself has no id to compare with; then only an orphan is honest.
                let key = (plan.calls[cause].path.as_str(), kind);
                match self.seen.get(&key).map(|found| found[0]) {
                    Some(parent) => Some((parent.trace.as_str(), parent.id.as_str(), Some(parent))),
                    None => Some(("", "", None)),
                }
            }
        };
        match (parent, &span.parent) {
            (None, None) => {
                self.verdict.right += 1;
                true
            }
            (Some((trace, id, cause)), Some(is)) if is == id && span.trace == trace => {
                self.verdict.right += 1;
                *self.verdict.methods.entry(span.method().to_owned()).or_default() += 1;
                if let Some(cause) = cause
                    && kind == Kind::Server
                    && !gave_up(cause)
                    && (span.start < cause.start || span.end > cause.end)
                {
                    self.verdict.acausal += 1;
                    let (early, late) =
                        (cause.start.saturating_sub(span.start), span.end.saturating_sub(cause.end));
                    self.verdict.example(|| {
                        format!("acausal: server {path}: {early} ns too early, {late} ns too late")
                    });
                }
                true
            }
            (Some(_), None) => {
                self.verdict.orphan += 1;
                if provable {
                    self.verdict.orphan_provable += 1;
                    self.verdict.example(|| format!("orphan: {kind:?} {path} of {}", span.service()));
                }
                !provable
            }
            // Its cause was lost on the way, and so it cannot be shown that the parent is another one.
            (Some((_, "", None)), Some(_)) if self.names_nothing_seen(span) => {
                self.verdict.right += 1;
                true
            }
            (want, Some(is)) => {
                self.verdict.wrong += 1;
                let want = want.map_or("none".to_owned(), |(trace, id, _)| format!("{id} of {trace}"));
                self.verdict.example(|| {
                    let (method, trace) = (span.method(), &span.trace);
                    format!(
                        "wrong: {kind:?} {path} has parent {is} of {trace} by {method:?}, should have {want}"
                    )
                });
                false
            }
        }
    }

    /// Whether the span's parent is a span that never arrived (as its planned one did not).
    fn names_nothing_seen(&self, span: &SeenSpan) -> bool {
        span.parent.as_deref().is_some_and(|parent| !self.ids.contains(parent))
    }
}

/// Whether the caller ended before it had the whole answer: then its server may well end after it.
fn gave_up(client: &SeenSpan) -> bool {
    client.events.iter().any(|event| event.name == "exchange.cancelled")
        || !client.attribute("error.type").is_empty()
}

const EXAMPLES: usize = 8;

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
