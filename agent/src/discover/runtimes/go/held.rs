//! Who waits for what a goroutine holds: the steps of a walk that look through the frame of the function that it began with.
//!
//! ```text
//!   base of the stack ─▶ a word ─▶ a channel    ─▶ the only one that receives from it (and points back at the channel)
//!                               └▶ a WaitGroup  ─▶ runtime.semtable ─▶ the only one that waits for it, if that is the maker
//! ```
//! What a goroutine was made with, and the job that it works at, lie in the frame of its first function, at the base of its
//! stack: a channel for the results, the WaitGroup of those that were made together (`errgroup` begins with a function and has
//! one behind it). The walk keeps each of these with the number of the goroutine that waits for it, and decides nothing: a word may be
//! what is left of an earlier job, and a channel may be everybody's. It must never keep anything that does not point back, or
//! that several wait for.

use spandrel_proto::walk::Step;

use super::layout::{Layout, STACK_HI};

/// Registers: those of the other steps of the walk, and what only these use.
const PARENT: u8 = super::walks::PARENT;
const A: u8 = super::walks::A;
const B: u8 = super::walks::B;
const G: u8 = super::walks::G;
/// The base of the stack of who waits for the answer; 0 while nobody does.
const BASE: u8 = 11;
/// What that goroutine began with.
const BEGAN: u8 = 12;
const LOWEST: u8 = 0;
const AT: u8 = 1;
const LEFT: u8 = 2;
const WORD: u8 = 3;
const TRIES: u8 = 13;
const LOOK_UPS: u8 = 5;
const WAITER: u8 = 8;
const T: u8 = 7;

/// How much of a stack is looked through, and how far below its base that ends: the return to `goexit` is the first word.
const SEARCHED: u64 = 192;
const ABOVE: u64 = 40;
/// The heap is one range of addresses: this far on either side of the stack, which is part of it.
const HEAP_BITS: u32 = 35;
/// `semTabSize` (runtime/sema.go), and the size of its elements, one cache line.
const TABLE: u64 = 251;
const LINE: u64 = 64;
/// `semaRoot.treap`.
const TREE: u64 = 8;
/// `sudog.next`, `.prev`, `.elem`.
const NEXT: u64 = 8;
const PREVIOUS: u64 = 16;
const ELEMENT: u64 = 24;
/// `WaitGroup.sema`, behind the 64 bits of its state.
const SEMAPHORE: u64 = 8;
/// How deep a tree of the semaphores is followed: 251 of them share those that wait.
const DEEPEST: u64 = 5;
/// WaitGroups that are looked up in the table, so that the longest search ends in time.
const GROUPS: u64 = 6;
/// The most that a WaitGroup is believed to wait for.
const MOST: u32 = 1 << 20;

/// Notes of the goroutine in the block, which waits for the answer, what the search needs.
pub(super) fn remember(layout: &Layout) -> [Step; 2] {
    [Step::field8(BASE, STACK_HI), Step::field8(BEGAN, layout.startpc)]
}

/// Keeps a 0, and then what the goroutine holds and somebody waits for, each followed by who that is. It ends the walk, with what was kept until then.
pub(super) fn steps(layout: &Layout, server: Option<u64>, semaphores: Option<u64>) -> Vec<Step> {
    let mut walk = Labels::default();
    walk.push(Step::keep_value(0), End);
    walk.push(Step::not_zero(BASE), End);
    // The goroutine of a connection serves a request itself.
    walk.push(Step::not_equal(BEGAN, server.unwrap_or(0)), End);
    walk.push(Step::block(BASE, (SEARCHED + ABOVE).wrapping_neg(), SEARCHED as u32), End);
    walk.push(Step::add(LOWEST, BASE, (1u64 << HEAP_BITS).wrapping_neg()), End);
    walk.push(Step::set(AT, 0), End);
    walk.push(Step::set(LEFT, SEARCHED / 8), End);
    walk.push(Step::set(LOOK_UPS, GROUPS), End);

    walk.label(Loop);
    walk.push(Step::field_at(WORD, AT), Next);
    walk.in_heap(WORD, Next);
    walk.push(Step::read8(WAITER, WORD, layout.recvq), Group);
    walk.in_heap(WAITER, Group);
    walk.push(Step::read8(T, WAITER, layout.sudog_c), Group);
    walk.push(Step::equal_register(T, WORD), Group);
    walk.push(Step::read8(T, WAITER, NEXT), Next);
    walk.push(Step::equal(T, 0), Next);
    walk.jump(Found);

    walk.label(Group);
    if let Some(table) = semaphores {
        walk.push(Step::set(TRIES, 2), Next);
        walk.label(Try);
        // One waits, for some.
        walk.push(Step::read8(T, WORD, 0), Next);
        walk.push(Step::bits(T, 0x7fff_ffff, 1), Again);
        walk.push(Step::shift_right(T, T, 32), Again);
        walk.push(Step::in_range(T, 1, MOST), Again);
        walk.push(Step::not_zero(LOOK_UPS), Next);
        walk.push(Step::add(LOOK_UPS, LOOK_UPS, 1u64.wrapping_neg()), Next);
        walk.push(Step::add(B, WORD, SEMAPHORE), Again);
        // The remainder of a division by 251: 2¹⁶ leaves 25, and for what is small then a multiplication will do.
        walk.push(Step::shift_right(T, B, 3), Again);
        walk.push(Step::set(A, 3), Again);
        walk.label(Reduce);
        walk.push(Step::and(G, T, 0xffff), Again);
        walk.push(Step::shift_right(T, T, 16), Again);
        walk.push(Step::multiply(T, T, (1 << 16) % TABLE), Again);
        walk.push(Step::add_register(T, T, G), Again);
        walk.repeat(A, Reduce);
        walk.push(Step::multiply(G, T, (1u64 << 24).div_ceil(TABLE)), Again);
        walk.push(Step::shift_right(G, G, 24), Again);
        walk.push(Step::multiply(G, G, TABLE), Again);
        walk.push(Step::subtract(T, T, G), Again);
        walk.push(Step::multiply(T, T, LINE), Again);
        walk.push(Step::read8(WAITER, T, table.wrapping_add(TREE)), Again);
        walk.push(Step::set(A, DEEPEST), Again);
        walk.label(Descend);
        walk.push(Step::read8(T, WAITER, ELEMENT), Again);
        walk.push(Step::equal_register(T, B), Deeper);
        walk.push(Step::read8(G, WAITER, 0), Again);
        walk.push(Step::read8(G, G, layout.goid), Again);
        walk.push(Step::equal_register(G, PARENT), Again);
        walk.jump(Found);
        walk.label(Deeper);
        walk.push(Step::below_register(B, T), Right);
        walk.push(Step::read8(WAITER, WAITER, PREVIOUS), Again);
        walk.jump(Below);
        walk.label(Right);
        walk.push(Step::read8(WAITER, WAITER, NEXT), Again);
        walk.label(Below);
        walk.repeat(A, Descend);
        walk.label(Again);
        walk.push(Step::add(WORD, WORD, 8), Next);
        walk.repeat(TRIES, Try);
    } else {
        walk.label(Again);
    }
    walk.jump(Next);

    walk.label(Found);
    walk.push(Step::read8(G, WAITER, 0), Next);
    walk.push(Step::read8(G, G, layout.goid), Next);
    walk.push(Step::keep(WORD), End);
    walk.push(Step::keep(G), End);
    walk.label(Next);
    walk.push(Step::add(AT, AT, 8), End);
    walk.repeat(LEFT, Loop);
    walk.label(End);
    walk.push(Step::end(), End);
    walk.done()
}

/// Places in these steps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Label {
    Loop,
    Group,
    Try,
    Reduce,
    Descend,
    Deeper,
    Right,
    Below,
    Again,
    Found,
    Next,
    End,
}
use Label::{Again, Below, Deeper, Descend, End, Found, Group, Loop, Next, Reduce, Right, Try};

/// Steps whose jumps name a label.
#[derive(Default)]
struct Labels {
    steps: Vec<(Step, To)>,
    places: Vec<(Label, usize)>,
}

#[derive(Clone, Copy)]
enum To {
    /// Where it goes on if it fails.
    Failed(Label),
    /// Where it goes on.
    Jump(Label),
    /// Where it goes back to.
    Back(Label),
}

impl Labels {
    fn push(&mut self, step: Step, failed: Label) {
        self.steps.push((step, To::Failed(failed)));
    }

    fn jump(&mut self, to: Label) {
        self.steps.push((Step::jump(0), To::Jump(to)));
    }

    fn repeat(&mut self, counter: u8, to: Label) {
        self.steps.push((Step::repeat(counter, 0), To::Back(to)));
    }

    fn label(&mut self, label: Label) {
        self.places.push((label, self.steps.len()));
    }

    /// The register must be an address near the stack.
    fn in_heap(&mut self, register: u8, failed: Label) {
        self.push(Step::subtract(T, register, LOWEST), failed);
        self.push(Step::shift_right(T, T, HEAP_BITS + 1), failed);
        self.push(Step::equal(T, 0), failed);
    }

    fn done(self) -> Vec<Step> {
        let Self { steps, places } = self;
        let place = |label| places.iter().find(|(known, _)| *known == label).map_or(0, |(_, at)| *at);
        let resolve = |(at, (step, to)): (usize, (Step, To))| match to {
            // A jump of 0 from a step that fails would end the walk: none here stands right before its target.
            To::Failed(label) => step.or(u8::try_from(place(label).saturating_sub(at + 1)).unwrap_or(0)),
            To::Jump(label) => Step { value: place(label).saturating_sub(at + 1) as u64, ..step },
            To::Back(label) => Step { value: at.saturating_sub(place(label)) as u64, ..step },
        };
        steps.into_iter().enumerate().map(resolve).collect()
    }
}
