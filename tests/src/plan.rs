//! The truth: who calls whom, decided before any traffic.
//!
//! Each call has a path `/EDGE/TOKEN`; tokens are random and no two calls share one, so nothing that travels tells
//! which call caused which. Services learn from files that are written before they start: a routing table, for proxies
//! a map, and lists of calls that belong to no request. It must never put anything into a request that its cause had.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The trace context that a request carries from outside.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Carried {
    /// 32 hex digits.
    pub trace: String,
    /// 16 hex digits.
    pub span: String,
    /// Trace flags: bit 0 is *sampled*.
    pub flags: u8,
}

impl Carried {
    /// The value of `traceparent`.
    pub fn header(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// One request on one hop.
#[derive(Clone, Debug)]
pub struct Call {
    /// `/EDGE/TOKEN`: EDGE is the number of the hop, from 1.
    pub path: String,
    /// From 1; [`BACKGROUND`] for calls that belong to no request.
    pub edge: u8,
    /// The call whose server makes this one.
    pub parent: Option<usize>,
    /// How long its server waits before it calls on or answers.
    pub delay_ms: u32,
    /// Bytes of its response's body.
    pub size: u32,
    /// What its server calls, one after the other.
    pub calls: Vec<usize>,
    /// What it carries (first hop only).
    pub carried: Option<Carried>,
    /// Its caller may give it up, so that it and what it causes may be missing or nobody's, but not wrong.
    pub optional: bool,
    /// What it has besides its head (first hop only).
    pub body: Body,
}

/// What a request has besides its head.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Body {
    /// Nothing: it is a GET.
    #[default]
    None,
    /// 9 kB in three pieces with a moment between them: it is a POST.
    InPieces,
}

/// The edge number of calls that belong to no request.
pub const BACKGROUND: u8 = 9;

/// What a row's traffic looks like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Hop by hop after the first: how many calls its server makes (a random number of these).
    pub fan_out: Vec<RangeInclusive<u32>>,
    /// Of several calls of one server, the first may be given up.
    pub gives_up: bool,
    /// Random delay of a server that makes calls, and of the last one, in milliseconds.
    pub delay_ms: RangeInclusive<u32>,
    /// Give each first request a trace context with these flags.
    pub carried_flags: Option<u8>,
    /// Calls that belong to no request, at most.
    pub background: usize,
    /// What the first requests have besides their heads.
    pub body: Body,
}

/// All calls, requests of the driver first and in order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Every call; indices are stable.
    pub calls: Vec<Call>,
    /// The driver's requests.
    pub roots: Vec<usize>,
    /// Calls that belong to no request.
    pub background: Vec<usize>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            fan_out: Vec::new(),
            gives_up: false,
            delay_ms: 0..=0,
            carried_flags: None,
            background: 0,
            body: Body::None,
        }
    }
}

impl Plan {
    /// A plan for so many requests. The same seed gives the same calls with the same delays; tokens are new each time,
    /// so that two runs on one machine cannot be taken for one another.
    pub fn new(shape: &Shape, requests: usize, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut plan = Self::default();
        for _ in 0..requests {
            let root = plan.grow(shape, 1, None, &mut random);
            if let Some(flags) = shape.carried_flags {
                plan.calls[root].carried = Some(Carried {
                    trace: format!(
                        "{:016x}{:016x}",
                        random.random::<u64>(),
                        random.random_range(1..u64::MAX)
                    ),
                    span: format!("{:016x}", rand::random_range(1..u64::MAX)),
                    flags,
                });
            }
            plan.roots.push(root);
        }
        for _ in 0..shape.background {
            let leaf = Shape { fan_out: Vec::new(), ..shape.clone() };
            let call = plan.grow(&leaf, BACKGROUND, None, &mut random);
            plan.background.push(call);
        }
        plan
    }

    fn grow(&mut self, shape: &Shape, edge: u8, parent: Option<usize>, random: &mut StdRng) -> usize {
        let index = self.calls.len();
        self.calls.push(Call {
            path: format!("/{edge}/{:016x}", rand::random::<u64>()),
            edge,
            parent,
            delay_ms: random.random_range(shape.delay_ms.clone()),
            size: random.random_range(2..3000),
            calls: Vec::new(),
            carried: None,
            body: if edge == 1 { shape.body } else { Body::None },
            optional: parent.is_some_and(|parent| self.calls[parent].optional),
        });
        if let Some(count) = shape.fan_out.get(edge as usize - 1) {
            let count = random.random_range(count.clone());
            for number in 0..count {
                let child = self.grow(shape, edge + 1, Some(index), random);
                self.calls[index].calls.push(child);
                if shape.gives_up && number == 0 && count > 1 {
                    self.give_up(child);
                }
            }
        }
        index
    }

    fn give_up(&mut self, call: usize) {
        self.calls[call].optional = true;
        for child in self.calls[call].calls.clone() {
            self.give_up(child);
        }
    }

    /// The routing table for services: `path TAB delay TAB size TAB call TAB call ...` a line.
    pub fn write_routes(&self, file: &Path) -> Result<()> {
        let mut text = String::new();
        for call in &self.calls {
            let _ = write!(text, "{}\t{}\t{}", call.path, call.delay_ms, call.size);
            for &child in &call.calls {
                let _ = write!(text, "\t{}", self.calls[child].path);
            }
            text.push('\n');
        }
        std::fs::write(file, text).with_context(|| format!("writing the routes to {}", file.display()))
    }

    /// A map for a proxy at the end of hop `edge`: `path SPACE path of its call number nth`, each line ended by `end`.
    pub fn write_map(&self, edge: u8, nth: usize, end: &str, file: &Path) -> Result<()> {
        let mut text = String::new();
        for call in self.calls.iter().filter(|call| call.edge == edge) {
            if let Some(&child) = call.calls.get(nth) {
                let _ = writeln!(text, "{} {}{end}", call.path, self.calls[child].path);
            }
        }
        std::fs::write(file, text).with_context(|| format!("writing the map to {}", file.display()))
    }

    /// The paths of the calls that belong to no request, one a line.
    pub fn write_background(&self, file: &Path) -> Result<()> {
        let text: String =
            self.background.iter().map(|&call| format!("{}\n", self.calls[call].path)).collect();
        std::fs::write(file, text)
            .with_context(|| format!("writing the background calls to {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn shape() -> Shape {
        Shape {
            fan_out: vec![1..=2, 1..=1],
            delay_ms: 0..=3,
            carried_flags: Some(1),
            background: 5,
            ..Shape::default()
        }
    }

    #[test]
    fn no_two_calls_share_a_token() {
        let plan = Plan::new(&shape(), 500, 7);
        let tokens: HashSet<_> =
            plan.calls.iter().map(|call| call.path.rsplit('/').next().unwrap()).collect();
        assert_eq!(tokens.len(), plan.calls.len());
    }

    #[test]
    fn every_call_knows_its_cause_and_the_cause_knows_it() {
        let plan = Plan::new(&shape(), 100, 7);
        for (index, call) in plan.calls.iter().enumerate() {
            match call.parent {
                Some(parent) => assert!(plan.calls[parent].calls.contains(&index)),
                None => assert!(plan.roots.contains(&index) || plan.background.contains(&index)),
            }
        }
        assert_eq!((plan.roots.len(), plan.background.len()), (100, 5));
    }

    #[test]
    fn of_two_calls_the_first_may_be_given_up_with_all_that_it_causes() {
        let plan = Plan::new(&Shape { gives_up: true, ..shape() }, 100, 7);
        for call in &plan.calls {
            let optional: Vec<bool> = call.calls.iter().map(|&child| plan.calls[child].optional).collect();
            match call.edge {
                1 => assert!(matches!(optional[..], [false] | [true, false])),
                _ => assert!(optional.iter().all(|&optional| optional == call.optional)),
            }
        }
    }

    #[test]
    fn one_seed_is_one_shape_and_tokens_are_new_each_time() {
        let plan = |seed| Plan::new(&shape(), 20, seed).calls;
        let shape =
            |seed| plan(seed).iter().map(|c| (c.delay_ms, c.size, c.calls.clone())).collect::<Vec<_>>();
        assert_eq!(shape(1), shape(1));
        assert_ne!(shape(1), shape(2));
        assert_ne!(plan(1)[0].path, plan(1)[0].path);
    }
}
