//! The walks of a Go program's calls: from the goroutine that makes a call to the one that waits for its answer.
//!
//! Every pointer that is followed is checked: the goroutine by its thread (`g.m.curg` points back), the channel by what
//! it holds, the waiter by the channel that it waits on. Who waits for what the waiter holds is looked for in `held`.

use spandrel_proto::walk::{Step, saved};

use super::held;
use super::layout::{DATAQSIZ, DERIVED_FROM, ELEMSIZE, Layout, M, REQUEST, SERVED, STACK_HI};
use crate::discover::runtimes::{Walk, Walks};

/// Words: the goroutine of a server's connection; then the gate, if there is one.
pub(super) const KIND_SERVER: u64 = 1;
/// Words: the goroutine that waits for the answer, its maker; then the contexts of the call, if it is sent; a 0; then what
/// that goroutine holds, each followed by who waits for it.
pub(super) const KIND_CLIENT: u64 = 2;
/// A client's connection on which nobody waits. Words: the contexts of the call; a 0.
pub(super) const KIND_UNANSWERED: u64 = 3;
/// Words: the calling goroutine, its maker.
pub(super) const KIND_CALLER: u64 = 4;
/// Words: the goroutine of a server's connection, its maker, the context of the request that it serves.
pub(super) const KIND_ANSWER: u64 = 5;
/// Contexts that are followed from a call to what they are derived from.
const MAX_CONTEXTS: u64 = 12;

/// Where things are in the process.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    pub writer: Option<u64>,
    pub reader: Option<u64>,
    pub server: Option<u64>,
    pub background: Option<u64>,
    /// `runtime.semtable`.
    pub semaphores: Option<u64>,
    pub gate: Option<GatePlaces>,
}

/// Where goroutine numbers come from.
#[derive(Clone, Debug, Default)]
pub(super) struct GatePlaces {
    /// The count of numbers given out in batches.
    pub count: u64,
    /// The list of processors: its header, and what stands in it.
    pub header: u64,
    pub list: u64,
    /// How many they are.
    pub processors: u64,
}

/// Registers of the walks. One is never set, and so is 0: what addresses that are known are read from.
pub(super) const G: u8 = 4;
const NUMBER: u8 = 5;
pub(super) const PARENT: u8 = 6;
const START: u8 = 7;
const STACK: u8 = 8;
pub(super) const A: u8 = 9;
pub(super) const B: u8 = 10;
const ZERO: u8 = 14;

pub(super) fn walks(layout: &Layout, places: &Places) -> Walks {
    let mut send = head(layout);
    if let Some(writer) = places.writer {
        let mut branch = vec![
            Step::read8(A, STACK, layout.reply_channel.wrapping_neg()),
            Step::not_zero(A),
            Step::remember(A),
        ];
        branch.extend(waiter(layout));
        branch.extend(contexts(layout));
        branch.extend(held::steps(layout, places.server, places.semaphores));
        on(&mut send, writer, branch);
    }
    if let Some(server) = places.server {
        on(&mut send, server, answering(layout));
    }
    send.extend(caller());

    let mut receive = head(layout);
    if let Some(reader) = places.reader {
        let mut branch = vec![Step::remembered(A)];
        branch.extend(waiter(layout));
        branch.extend(held::steps(layout, places.server, places.semaphores));
        on(&mut receive, reader, branch);
    }
    if let Some(background) = places.background
        && layout.parent.is_some()
    {
        // Then its maker is the connection's goroutine; it goes on as that.
        receive.push(Step::equal(START, background).or(2));
        receive.push(Step::add(NUMBER, PARENT, 0));
        receive.push(Step::set(START, places.server.unwrap_or(0)));
    }
    if let Some(server) = places.server {
        on(&mut receive, server, serving(layout, places.gate.as_ref()));
    }
    receive.extend(caller());
    Walks {
        send: Some(Walk { tag: 1, steps: send }),
        receive: Some(Walk { tag: 2, steps: receive }),
        ..Walks::default()
    }
}

/// Appends a branch that is taken if the goroutine started here; it must end the walk.
fn on(walk: &mut Vec<Step>, start: u64, branch: Vec<Step>) {
    walk.push(Step::equal(START, start).or(branch.len() as u8));
    walk.extend(branch);
}

/// The goroutine of the call: register 14 holds it (Go's internal ABI), and its thread must agree.
fn head(layout: &Layout) -> Vec<Step> {
    let mut steps = vec![
        Step::register(G, saved::R14),
        Step::block(G, 0, (layout.startpc + 8) as u32),
        Step::field8(A, M),
        Step::not_zero(A),
        Step::read8(B, A, layout.curg),
        Step::equal_register(B, G),
        Step::field8(STACK, STACK_HI),
        Step::field8(NUMBER, layout.goid),
        Step::field8(START, layout.startpc),
    ];
    if let Some(parent) = layout.parent {
        steps.push(Step::field8(PARENT, parent));
    }
    steps
}

/// From the channel of an answer in `A` to who waits on it; what follows comes after either.
fn waiter(layout: &Layout) -> Vec<Step> {
    let mut steps = vec![
        Step::block(A, 0, (layout.recvq + 8) as u32),
        // A channel of one answer, which is two words long.
        Step::field8(B, DATAQSIZ),
        Step::equal(B, 1),
        Step::field2(B, ELEMSIZE),
        Step::equal(B, 16),
        Step::field8(B, layout.recvq),
        Step::not_zero(B).or(13 + u8::from(layout.parent.is_some())),
        Step::block(B, 0, (layout.sudog_c + 8) as u32),
        Step::field8(B, layout.sudog_c),
        Step::equal_register(B, A),
        Step::field8(G, 0),
        Step::block(G, 0, (layout.startpc + 8) as u32),
        Step::field8(NUMBER, layout.goid),
    ];
    steps.extend(held::remember(layout));
    steps.push(Step::set(PARENT, 0));
    if let Some(parent) = layout.parent {
        steps.push(Step::field8(PARENT, parent));
    }
    steps.extend([
        Step::keep_value(KIND_CLIENT),
        Step::keep(NUMBER),
        Step::keep(PARENT),
        Step::jump(1),
        // Nobody waits.
        Step::keep_value(KIND_UNANSWERED),
    ]);
    steps
}

/// The context of the call that a writer was given, and what it is derived from: beside the channel stands the
/// `transportRequest`, which begins with the `http.Request`.
fn contexts(layout: &Layout) -> Vec<Step> {
    let mut steps = vec![
        Step::read8(A, STACK, (layout.reply_channel + 8).wrapping_neg()),
        Step::read8(A, A, 0),
        Step::read8(A, A, layout.context),
        Step::not_zero(A),
        Step::keep(A),
        Step::set(B, MAX_CONTEXTS - 1),
        Step::read8(A, A, DERIVED_FROM),
        Step::not_zero(A),
        Step::keep(A),
        Step::repeat(B, 3),
    ];
    // The last one does not fail.
    let all = steps.len();
    for (index, step) in steps.iter_mut().enumerate() {
        step.or = (all - index - 1) as u8;
    }
    steps
}

/// The goroutine of a server's connection writes: the context of the request that it serves, if it serves one.
fn answering(layout: &Layout) -> Vec<Step> {
    let mut steps = vec![
        Step::keep_value(KIND_ANSWER),
        Step::keep(NUMBER),
        Step::keep(PARENT),
        Step::read8(A, STACK, SERVED.wrapping_neg()),
        Step::read8(B, A, layout.current),
        Step::not_zero(B),
        // A response points back to its connection.
        Step::read8(START, B, 0),
        Step::equal_register(START, A),
        Step::read8(A, B, REQUEST),
        Step::read8(A, A, layout.context),
        Step::not_zero(A),
        Step::keep(A),
    ];
    end_at_failure(&mut steps);
    steps
}

/// Appends the end, and makes whatever fails before it go there: what was kept by then holds.
fn end_at_failure(steps: &mut Vec<Step>) {
    let all = steps.len();
    for (index, step) in steps.iter_mut().enumerate() {
        step.or = (all - index - 1) as u8;
    }
    steps.push(Step::end());
}

fn serving(layout: &Layout, gate: Option<&GatePlaces>) -> Vec<Step> {
    let mut steps = vec![Step::keep_value(KIND_SERVER), Step::keep(NUMBER)];
    if let Some(gate) = gate {
        let mut read = vec![
            Step::block(ZERO, gate.header, 16),
            Step::field8(A, 0),
            Step::field8(B, 8),
            // Processors came or went: what is known of them does not hold.
            Step::equal(A, gate.list),
            Step::equal(B, gate.processors),
            Step::read8(A, ZERO, gate.count),
            Step::keep(A),
            Step::set(A, gate.list),
            Step::set(B, gate.processors),
            // One that cannot be read leaves no evidence: a batch that is not known would be taken for one that was not there.
            Step::read8(START, A, 0),
            Step::block(START, layout.goidcache.0, 16),
            Step::field8(STACK, 0),
            Step::keep(STACK),
            Step::field8(STACK, 8),
            Step::keep(STACK),
            Step::add(A, A, 8),
            Step::repeat(B, 7),
        ];
        // Whatever fails before leaves the owner without a gate.
        let all = read.len();
        for (index, step) in read.iter_mut().enumerate().take(5) {
            step.or = (all - index - 1) as u8;
        }
        steps.extend(read);
    }
    steps.push(Step::end());
    steps
}

fn caller() -> Vec<Step> {
    vec![Step::keep_value(KIND_CALLER), Step::keep(NUMBER), Step::keep(PARENT), Step::end()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use spandrel_proto::walk::{BLOCK_ROOM, SAVED_ROOM, State, World, run};

    use super::super::layout::of_minor;
    use super::*;

    /// Memory of a program, word by word; what was not put there reads as 0 within its pages.
    #[derive(Default)]
    struct Image(BTreeMap<u64, u64>);

    impl World for Image {
        fn read(&self, address: u64, _: u32) -> Option<u64> {
            (address >= 0x1000).then(|| self.0.get(&address).copied().unwrap_or(0))
        }
        fn block(&self, address: u64, bytes: u32, to: &mut [u64; BLOCK_ROOM]) -> bool {
            for (word, n) in to.iter_mut().zip(0..u64::from(bytes) / 8) {
                *word = self.0.get(&(address + n * 8)).copied().unwrap_or(0);
            }
            address >= 0x1000
        }
        fn thread_pointer(&self) -> Option<u64> {
            None
        }
        fn epoll_word(&self) -> Option<u64> {
            None
        }
        fn socket(&self) -> Option<u64> {
            None
        }
        fn way(&self) -> u64 {
            0
        }
        fn time(&self) -> u64 {
            0
        }
        fn thread(&self) -> u64 {
            0
        }
        fn expected(&self, _: u64) -> bool {
            false
        }
    }

    const WRITER: u64 = 0x40_1000;
    const READER: u64 = 0x40_2000;
    const SERVER: u64 = 0x40_3000;
    const BACKGROUND: u64 = 0x40_4000;
    const SEMAPHORES: u64 = 0x50_0000;

    struct Program {
        layout: Layout,
        image: Image,
        walks: Walks,
    }

    impl Program {
        fn new(minor: u32) -> Self {
            let layout = of_minor(minor).unwrap();
            let gate = layout.parent.map(|_| GatePlaces {
                count: 0x5000,
                header: 0x5100,
                list: 0x5200,
                processors: 2,
            });
            let places = Places {
                writer: Some(WRITER),
                reader: Some(READER),
                server: Some(SERVER),
                background: Some(BACKGROUND),
                semaphores: Some(SEMAPHORES),
                gate,
            };
            let mut image = Image::default();
            image.0.extend([(0x5000, 48), (0x5100, 0x5200), (0x5108, 2), (0x5200, 0x6000), (0x5208, 0x7000)]);
            let (from, to) = layout.goidcache;
            image.0.extend([(0x6000 + from, 35), (0x6000 + to, 49), (0x7000 + from, 20), (0x7000 + to, 33)]);
            let walks = walks(&layout, &places);
            Self { layout, image, walks }
        }

        /// A goroutine at `at`, run by a thread of its own.
        fn goroutine(&mut self, at: u64, number: u64, parent: u64, start: u64) {
            let layout = self.layout;
            let m = at + 0x800;
            self.image.0.extend([
                (at + STACK_HI, at + 0x4000),
                (at + M, m),
                (m + layout.curg, at),
                (at + layout.goid, number),
                (at + layout.startpc, start),
            ]);
            if let Some(offset) = layout.parent {
                self.image.0.insert(at + offset, parent);
            }
        }

        /// The channel of an answer at `at`, which the writer at `writer` knows of and `waiter` waits on.
        fn channel(&mut self, at: u64, writer: u64, waiter: u64) {
            let layout = self.layout;
            let sudog = if waiter == 0 { 0 } else { at + 0x100 };
            self.image.0.extend([
                (writer + 0x4000 - layout.reply_channel, at),
                (at + DATAQSIZ, 1),
                (at + ELEMSIZE, 16),
                (at + layout.recvq, sudog),
                (sudog, waiter),
                (sudog + layout.sudog_c, at),
            ]);
        }

        #[track_caller]
        fn check(&self, walk: &Option<Walk>, goroutine: u64, remembered: u64, want: Option<&[u64]>) -> u64 {
            let mut saved = [0; SAVED_ROOM];
            saved[saved::R14 as usize] = goroutine;
            let mut state = Box::new(State::new([0; 4], saved));
            state.call[3] = remembered;
            let walk = walk.as_ref().unwrap();
            let ok = run(&mut state, &walk.steps, &self.image);
            let words = ok.then(|| state.words[..state.kept as usize].to_vec());
            assert_eq!(words.as_deref(), want, "{walk}");
            state.call[3]
        }
    }

    const G: u64 = 0x10_0000;
    const W: u64 = 0x20_0000;
    const CHANNEL: u64 = 0x30_0000;

    #[test]
    fn the_writer_of_a_connection_names_who_waits_for_the_answer() {
        for minor in [19, 21, 22, 23, 24, 25, 26, 27] {
            let mut program = Program::new(minor);
            program.goroutine(G, 7, 1, WRITER);
            program.goroutine(W, 40, 39, 0x40_9000);
            program.channel(CHANNEL, G, W);
            let parent = if program.layout.parent.is_some() { 39 } else { 0 };
            let want = [KIND_CLIENT, 40, parent, 0];
            let remembered = program.check(&program.walks.send, G, 0, Some(&want));
            // The context that the call was given, and what that was derived from.
            let layout = program.layout;
            let (call, request) = (G + 0x5000, G + 0x5100);
            program.image.0.extend([
                (G + 0x4000 - layout.reply_channel - 8, call),
                (call, request),
                (request + layout.context, 0x9000),
                (0x9000 + DERIVED_FROM, 0x9100),
                (0x9100 + DERIVED_FROM, 0x9200),
            ]);
            let all = [KIND_CLIENT, 40, parent, 0x9000, 0x9100, 0x9200, 0];
            program.check(&program.walks.send, G, 0, Some(&all));
            assert_eq!(remembered, CHANNEL);
            // The reader of the connection finds it by what was remembered.
            program.goroutine(G, 8, 1, READER);
            program.check(&program.walks.receive, G, remembered, Some(&want));
            program.check(&program.walks.receive, G, 0, None);
        }
    }

    #[test]
    fn a_channel_on_which_nobody_waits_is_said_to_be_one() {
        let mut program = Program::new(24);
        program.goroutine(G, 7, 1, WRITER);
        program.channel(CHANNEL, G, 0);
        program.check(&program.walks.send, G, 0, Some(&[KIND_UNANSWERED, 0]));
        let mut program = Program::new(19);
        program.goroutine(G, 7, 1, WRITER);
        program.channel(CHANNEL, G, 0);
        program.check(&program.walks.send, G, 0, Some(&[KIND_UNANSWERED, 0]));
    }

    /// A goroutine that made the waiting one, and what it waits for, which the other holds in a word of its first frame.
    fn held(minor: u32, channel: bool, behind: u64) -> Program {
        const MAKER: u64 = 0x40_0000;
        const HELD: u64 = 0x40_8000;
        const SUDOG: u64 = 0x40_9000;
        let mut program = Program::new(minor);
        program.goroutine(G, 7, 1, WRITER);
        program.goroutine(W, 40, 39, 0x40_9000);
        program.goroutine(MAKER, 39, 1, SERVER);
        program.channel(CHANNEL, G, W);
        let layout = program.layout;
        program.image.0.extend([(W + 0x4000 - 64, HELD), (SUDOG, MAKER)]);
        if channel {
            program.image.0.extend([(HELD + layout.recvq, SUDOG), (SUDOG + layout.sudog_c, HELD)]);
            return program;
        }
        // One waits for two; it is found behind another one in the tree.
        let semaphore = HELD + behind + 8;
        let root = SEMAPHORES + (semaphore >> 3) % 251 * 64;
        program.image.0.extend([
            (HELD + behind, 2 << 32 | 1),
            (root + 8, SUDOG - 0x100),
            (SUDOG - 0x100 + 24, semaphore + 251 * 8),
            (SUDOG - 0x100 + 16, SUDOG),
            (SUDOG + 24, semaphore),
        ]);
        program
    }

    #[test]
    fn who_waits_for_what_the_waiter_holds_is_named() {
        for minor in [21, 22, 24, 27] {
            for (channel, behind) in [(true, 0), (false, 0), (false, 8)] {
                let mut program = held(minor, channel, behind);
                let want = [KIND_CLIENT, 40, 39, 0, 0x40_8000 + behind, 39];
                program.check(&program.walks.send, G, 0, Some(&want));
                program.goroutine(G, 8, 1, READER);
                program.check(&program.walks.receive, G, CHANNEL, Some(&want));
            }
        }
    }

    #[test]
    fn who_does_not_wait_alone_or_for_another_thing_is_not_named() {
        let nobody = [KIND_CLIENT, 40, 39, 0];
        let layout = of_minor(24).unwrap();
        let semaphore = 0x40_8008_u64;
        for (channel, address, value) in [
            // Another waits too; the channel is another one; it is too far from the base.
            (true, 0x40_9008, 0x40_a000),
            (true, 0x40_9000 + layout.sudog_c, 0x40_8008),
            (true, W + 0x4000 - 64, 0x40_8008),
            // Two wait; none is waited for; the tree has another one; it is not the maker.
            (false, 0x40_8000, 2 << 32 | 2),
            (false, 0x40_8000, 1),
            (false, 0x40_9000 + 24, semaphore + 8),
            (false, 0x40_0000 + layout.goid, 38),
        ] {
            let mut program = held(24, channel, 0);
            program.image.0.insert(address, value);
            program.check(&program.walks.send, G, 0, Some(&nobody));
        }
        // What serves a request itself needs nobody.
        let mut program = held(24, true, 0);
        program.goroutine(W, 40, 39, SERVER);
        program.check(&program.walks.send, G, 0, Some(&nobody));
    }

    #[test]
    fn the_longest_search_ends_in_time() {
        // Every word is a WaitGroup that somebody else waits for, at the end of a long branch.
        let mut program = held(24, false, 8);
        for word in 6..30 {
            program.image.0.insert(W + 0x4000 - word * 8, 0x40_8000);
        }
        program.image.0.extend([(0x40_8000, 2 << 32 | 1), (0x40_0000 + program.layout.goid, 38)]);
        // And the context of the call has all the parents that are followed.
        let (call, layout) = (G + 0x5000, program.layout);
        program.image.0.extend([
            (G + 0x4000 - layout.reply_channel - 8, call),
            (call, call),
            (call + layout.context, 0x9000),
            (0x9000 + DERIVED_FROM, 0x9000),
        ]);
        let mut want = vec![KIND_CLIENT, 40, 39];
        want.extend([0x9000; MAX_CONTEXTS as usize]);
        want.push(0);
        program.check(&program.walks.send, G, 0, Some(&want));
    }

    #[test]
    fn whatever_does_not_point_back_is_no_evidence() {
        let mut program = Program::new(24);
        program.goroutine(G, 7, 1, WRITER);
        program.goroutine(W, 40, 39, 0x40_9000);
        program.channel(CHANNEL, G, W);
        let layout = program.layout;
        for (address, value) in [
            (G + 0x800 + layout.curg, W),
            (CHANNEL + DATAQSIZ, 0),
            (CHANNEL + ELEMSIZE, 8),
            (CHANNEL + 0x100 + layout.sudog_c, CHANNEL + 8),
        ] {
            let before = program.image.0.insert(address, value);
            program.check(&program.walks.send, G, 0, None);
            program.image.0.insert(address, before.unwrap());
        }
    }

    #[test]
    fn the_goroutine_of_a_connection_owns_the_request_and_a_gate_says_what_was_not_born() {
        let mut program = Program::new(24);
        program.goroutine(G, 12, 1, SERVER);
        program.check(&program.walks.receive, G, 0, Some(&[KIND_SERVER, 12, 48, 35, 49, 20, 33]));
        // One byte is read by another goroutine, which the connection's made.
        program.goroutine(G, 13, 12, BACKGROUND);
        program.check(&program.walks.receive, G, 0, Some(&[KIND_SERVER, 12, 48, 35, 49, 20, 33]));
        // A processor more than there were: the owner is known, the gate is not.
        program.image.0.insert(0x5108, 3);
        program.check(&program.walks.receive, G, 0, Some(&[KIND_SERVER, 12]));
    }

    #[test]
    fn a_chain_of_contexts_that_does_not_end_is_cut() {
        let mut program = Program::new(24);
        program.goroutine(G, 7, 1, WRITER);
        program.channel(CHANNEL, G, 0);
        let (call, layout) = (G + 0x5000, program.layout);
        program.image.0.extend([
            (G + 0x4000 - layout.reply_channel - 8, call),
            (call, call),
            (call + layout.context, 0x9000),
            (0x9000 + DERIVED_FROM, 0x9000),
        ]);
        let mut want = vec![KIND_UNANSWERED];
        want.resize(1 + MAX_CONTEXTS as usize, 0x9000);
        want.push(0);
        program.check(&program.walks.send, G, 0, Some(&want));
    }

    #[test]
    fn whoever_answers_names_the_context_of_the_request_that_his_connection_serves() {
        for minor in [19, 21, 24, 27] {
            let mut program = Program::new(minor);
            program.goroutine(G, 12, 1, SERVER);
            let layout = program.layout;
            let (served, response, request) = (G + 0x5000, G + 0x5200, G + 0x5400);
            let parent = if layout.parent.is_some() { 1 } else { 0 };
            program.check(&program.walks.send, G, 0, Some(&[KIND_ANSWER, 12, parent]));
            program.image.0.extend([
                (G + 0x4000 - SERVED, served),
                (served + layout.current, response),
                (response, served),
                (response + REQUEST, request),
                (request + layout.context, 0x9000),
            ]);
            program.check(&program.walks.send, G, 0, Some(&[KIND_ANSWER, 12, parent, 0x9000]));
            program.image.0.insert(response, served + 8);
            program.check(&program.walks.send, G, 0, Some(&[KIND_ANSWER, 12, parent]));
        }
    }

    #[test]
    fn whoever_calls_by_himself_is_named() {
        let mut program = Program::new(27);
        program.goroutine(G, 12, 3, 0x40_9000);
        program.check(&program.walks.send, G, 0, Some(&[KIND_CALLER, 12, 3]));
        program.check(&program.walks.receive, G, 0, Some(&[KIND_CALLER, 12, 3]));
    }

    #[test]
    fn a_walk_of_the_most_processors_is_not_too_long() {
        let layout = of_minor(24).unwrap();
        let gate = GatePlaces { processors: super::super::MAX_PROCESSORS, ..GatePlaces::default() };
        let places = Places {
            writer: Some(1),
            reader: Some(2),
            server: Some(3),
            background: Some(4),
            semaphores: Some(5),
            gate: Some(gate),
        };
        let walks = walks(&layout, &places);
        assert!(walks.send.unwrap().steps.len() <= spandrel_proto::walk::MAX_STEPS);
        let longest = walks.receive.unwrap().steps.len();
        assert!(longest <= spandrel_proto::walk::MAX_STEPS, "{longest}");
    }
}
