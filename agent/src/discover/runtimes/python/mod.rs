//! CPython 3.8 and later: the context (PEP 567) in which a call is made, and gevent's greenlet.
//!
//! ```text
//!   fs base ─▶ thread state ─▶ current context ─── the request whose answer is written in the same one
//!                               └─ not known: its maker, by a probe where PyContext_CopyCurrent returns (`inferred`)
//! ```
//! Every asyncio task, callback and `to_thread` call runs in a context of its own, as do trio's tasks. So a call made
//! in the context in which a request is answered is that request's; one made in a copy belongs to whom the context that
//! was copied belonged to. A context that is current but not *entered* is a thread's base context and says nothing:
//! its address is soon another's. Threads without contexts are left to the thread rule.
//!
//! Where things lie is found in the process itself (`layout`), not by version: the thread state is the one whose
//! thread is the thread that holds it, the context is what has the type `PyContext_Type`. The walk checks both again at
//! every call. It must never say anything of a build that counts references per thread (free-threaded): its objects
//! have another head.

#[doc(hidden)]
pub mod fuzz;
mod greenlet;
mod layout;
mod lineage;

use std::sync::Arc;
use std::time::Duration;

use spandrel_proto::walk::Step;

use self::greenlet::Greenlets;
use self::layout::{Binary, Layout};
use super::{Hit, Outcome, ProbeSet, Process, Proved, Reader, Runtime, Seen, Walk, Walks, Wish};
use crate::discover::elf::{self, Elf};
use crate::discover::maps::{self, Mapping};
use crate::identity::{Birth, Claim, Direction, Facts, Key, LinkMethod};

/// The runtime.
pub struct Python;

/// Kinds of keys.
mod space {
    pub const CONTEXT: u8 = 1;
    pub const GREENLET: u8 = 2;
}

/// Tags of walks.
mod tag {
    pub const CALL: u16 = 1;
    pub const COPY: u16 = 2;
}

/// A file that is mapped and belongs to Python.
struct Found {
    elf: Elf,
    binary: Option<Binary>,
}

impl Runtime for Python {
    fn name(&self) -> &'static str {
        "python"
    }

    fn prove(&self, process: &Process<'_>) -> Outcome {
        for (file, mapping) in process.maps.programs() {
            if !may_be_python(mapping) {
                continue;
            }
            let elf = match open(process, mapping) {
                Ok(elf) => elf,
                Err(why) => return Outcome::Refused(why),
            };
            let identity = elf.identity().to_vec();
            let found: Arc<Found> = process.cache.get(self.name(), &identity, || {
                let binary = Binary::of(&elf, &mapping.path);
                Found { elf, binary }
            });
            let Some(binary) = found.binary else { continue };
            let Some(bias) = elf::load_bias(&found.elf, process.maps, file) else {
                return Outcome::Refused("its mappings do not fit its file".into());
            };
            return prove(process, &found, &binary.moved(bias), bias, mapping);
        }
        Outcome::Not
    }
}

/// `python3.11`, `libpython3.11.so.1.0`, and servers that bring an interpreter of their own.
fn may_be_python(mapping: &Mapping) -> bool {
    let name = mapping.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    [&b"python"[..], b"libpython", b"uwsgi"].iter().any(|start| name.starts_with(start))
}

fn open(process: &Process<'_>, mapping: &Mapping) -> Result<Elf, String> {
    let file = maps::open(process.key.pid, mapping)
        .map_err(|error| format!("its file cannot be opened: {error}"))?;
    Elf::open(file).map_err(|error| format!("its file: {error}"))
}

fn prove(process: &Process<'_>, found: &Found, binary: &Binary, bias: u64, mapping: &Mapping) -> Outcome {
    let (layout, mut report) = match layout::find(&process.memory, binary) {
        Ok(found) => found,
        Err(layout::Missing::Yet(why)) => return Outcome::Later(SOON, why.into()),
        Err(layout::Missing::Never(why)) => return Outcome::Refused(why.into()),
    };
    let greenlets = greenlet::find(process, &layout);
    match &greenlets {
        Some(Ok(_)) => report.push("greenlets are told apart".into()),
        Some(Err(why)) => report.push(format!("greenlets are not told apart: {why}")),
        None => {}
    }
    let greenlets = greenlets.and_then(Result::ok);
    let lineage = match lineage::points(&found.elf, binary, bias) {
        _ if !process.how.infers() => {
            report.push("contexts' makers are watched only if --weakest-link is inferred".into());
            Vec::new()
        }
        Ok(points) => {
            report.push(format!("contexts' makers can be watched at {} returns", points.len()));
            points
        }
        Err(why) => {
            report.push(format!("contexts' makers cannot be watched: {why}"));
            Vec::new()
        }
    };
    let send = Walk { tag: tag::CALL, steps: call_walk(&layout, binary, greenlets.as_ref()) };
    let walk = Walk { tag: tag::COPY, steps: copy_walk(&layout, binary) };
    let points = lineage.into_iter().map(|point| point.of(mapping, &walk)).collect();
    Outcome::Proved(Box::new(Proved {
        report,
        walks: Walks { send: Some(send), receive: None, parameters: [0; 4] },
        reader: Box::new(Contexts { points }),
    }))
}

/// When a process is looked at again that has not come far enough.
const SOON: Duration = Duration::from_millis(300);

/// Registers of the walks.
const THREAD: u8 = 4;
const STATE: u8 = 5;
const CONTEXT: u8 = 6;
const SCRATCH: u8 = 7;
const CHILD: u8 = 8;

/// The current context into [`CONTEXT`]; each step may fail.
fn context_steps(layout: &Layout, binary: &Binary) -> [Step; 10] {
    [
        Step::thread_pointer(THREAD),
        Step::read8(STATE, THREAD, layout.slot),
        Step::read8(SCRATCH, STATE, layout.thread_id),
        Step::equal_register(SCRATCH, THREAD),
        Step::read8(CONTEXT, STATE, layout.context),
        Step::not_zero(CONTEXT),
        Step::read8(SCRATCH, CONTEXT, TYPE),
        Step::equal(SCRATCH, binary.context_type),
        Step::read4(SCRATCH, CONTEXT, ENTERED),
        Step::not_zero(SCRATCH),
    ]
}

/// Makes steps that fail go on `beyond` steps after the last of them.
fn or_beyond(steps: &[Step], beyond: u8) -> impl Iterator<Item = Step> + '_ {
    let last = steps.len().saturating_sub(1);
    steps
        .iter()
        .enumerate()
        .map(move |(at, step)| step.or(u8::try_from(last - at).unwrap_or(u8::MAX) + beyond))
}

/// Keeps the context and the greenlet, 0 for none.
fn call_walk(layout: &Layout, binary: &Binary, greenlets: Option<&Greenlets>) -> Vec<Step> {
    let context = context_steps(layout, binary);
    let Some(greenlets) = greenlets else {
        return context.into_iter().chain([Step::keep(CONTEXT), Step::keep_value(0), Step::end()]).collect();
    };
    let mut steps: Vec<Step> = or_beyond(&context, 2).collect();
    steps.extend([Step::keep(CONTEXT), Step::jump(1), Step::keep_value(0)]);
    steps.push(Step::thread_pointer(THREAD));
    steps.extend(greenlets.steps(THREAD, STATE, SCRATCH, CONTEXT));
    steps.extend([Step::keep(CONTEXT), Step::end()]);
    steps
}

/// Where `PyContext_CopyCurrent` returns: keeps the copy, and what is current, 0 if that is not entered.
fn copy_walk(layout: &Layout, binary: &Binary) -> Vec<Step> {
    let mut steps = vec![
        Step::register(CHILD, spandrel_proto::walk::saved::AX),
        Step::read8(SCRATCH, CHILD, TYPE),
        Step::equal(SCRATCH, binary.context_type),
        Step::keep(CHILD),
    ];
    steps.extend(or_beyond(&context_steps(layout, binary), 2));
    steps.extend([Step::keep(CONTEXT), Step::end(), Step::keep_value(0), Step::end()]);
    steps
}

/// `PyObject.ob_type`, in builds with a global lock.
const TYPE: u64 = 8;
/// `PyContext.ctx_entered` (Include/internal/pycore_context.h): the same from 3.7 to 3.15.
const ENTERED: u64 = 40;

/// Copies a second above which they are not watched any more: at 15 a request, what a few hundred requests make.
const BUDGET: u64 = 20_000;

/// Makes facts of contexts.
struct Contexts {
    /// What can be watched; taken when it is.
    points: Vec<super::ProbePoint>,
}

impl Reader for Contexts {
    fn read(&mut self, seen: &Seen<'_>, _wishes: &mut Vec<Wish>) -> Facts {
        let mut facts = Facts::default();
        if let (Direction::Send, tag::CALL, &[context, greenlet]) = (seen.direction, seen.tag, seen.words) {
            for (space, value) in [(space::CONTEXT, context), (space::GREENLET, greenlet)] {
                if value != 0 {
                    let key = Key { space, value };
                    facts.owns.push(key);
                    facts.claims.push(Claim { key, at: None, born: None, method: LinkMethod::Task });
                }
            }
        }
        facts
    }

    fn observed(&mut self, hit: &Hit<'_>, _wishes: &mut Vec<Wish>) -> Vec<Birth> {
        match (hit.tag, hit.words) {
            (tag::COPY, &[child, parent]) => {
                let key = |value| Key { space: space::CONTEXT, value };
                // A parent of 0 owns nothing; what was known of the child's address is void all the same.
                vec![Birth { child: key(child), parent: key(parent), time: hit.time }]
            }
            _ => Vec::new(),
        }
    }

    fn orphaned(&mut self, claims: &[Claim], wishes: &mut Vec<Wish>) {
        if claims.iter().any(|claim| claim.key.space == space::CONTEXT) && !self.points.is_empty() {
            let points = std::mem::take(&mut self.points);
            wishes.push(Wish::Observe(ProbeSet { name: "python contexts", points, budget: BUDGET }));
        }
    }
}

#[cfg(test)]
mod tests;
