//! Properties of streams, over simulated connections with the truth at hand.
//!
//! Each byte is a function of its direction and its place, so that a byte that is passed on at another place
//! is noticed. Seeds are fixed: what fails once fails again.

use spandrel_proto::policy::{self, Decision, decide};
use spandrel_proto::record::{FLAG_FIRST, FLAG_LAST, REST_NOTHING, tcp_state};

use super::Limits;
use super::testing::{Bench, Kernel, MS, Random, Receive, Record, Send, Socket, pair, unix_pair};
use crate::exchange::Policy;
use crate::identity::{ConnectionId, Direction};

/// The byte at an absolute place of what `active` or the other end sends.
fn truth(active: bool, place: u64) -> u8 {
    ((place * 2 + u64::from(active)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn bytes(socket: &Socket, direction: Direction, from: u64, length: u64) -> Vec<u8> {
    let active = socket.active == (direction == Send);
    (from..from + length).map(|place| truth(active, place)).collect()
}

/// Asserts that the pieces of each direction follow each other without holes and hold the truth, and returns
/// where each direction began and ended, and how many of its bytes came.
#[track_caller]
fn check(bench: &Bench, socket: &Socket, direction: Direction, shift: u64, seed: u64) -> (u64, u64, u64) {
    let active = socket.active == (direction == Send);
    let mut range = None;
    let mut came = 0;
    for piece in bench.pieces.iter().filter(|p| p.connection == socket.id && p.direction == direction) {
        let (_, next) = range.get_or_insert((piece.offset, piece.offset));
        assert_eq!(piece.offset, *next, "seed {seed}: pieces follow each other");
        assert!(piece.length > 0, "seed {seed}: no piece is empty");
        *next += piece.length;
        for (place, &byte) in (piece.offset - shift..).zip(piece.bytes.iter().flatten()) {
            assert_eq!(byte, truth(active, place), "seed {seed}: {direction:?} of {} at {place}", socket.id);
            came += 1;
        }
    }
    let (from, to) = range.unwrap_or_default();
    (from, to, came)
}

/// What can go wrong in a simulated connection.
#[derive(Clone, Copy, Default)]
struct Trouble {
    /// Of 100 records, so many are lost, and counted by the kernel.
    lost: u64,
    /// A record can be overtaken by so many later ones.
    overtaken: u64,
    /// Of 100 calls, before so many a policy is wished for.
    wishes: u64,
    /// So many bytes were moved each way before the agent came.
    before: u64,
    /// Records have several pieces.
    pieces: bool,
}

/// Both ends of one connection, calling at random.
struct World {
    random: Random,
    kernel: Kernel,
    bench: Bench,
    sockets: [Socket; 2],
    words: [[policy::Policy; 2]; 2],
    announced: [bool; 2],
    ring: Vec<Record>,
    trouble: Trouble,
    captured: u64,
}

impl World {
    fn new(seed: u64, unix: bool, trouble: Trouble) -> Self {
        let mut random = Random(seed * 2 + 1);
        let (a, b) = (random.below(1 << 32) as u32, random.below(1 << 32) as u32);
        // Half of them wrap soon.
        let near = |random: &mut Random, number: u32| {
            if random.below(2) == 0 { u32::MAX - number % 2000 } else { number }
        };
        let first = (near(&mut random, a), near(&mut random, b));
        let (mut client, mut server) = if unix { unix_pair() } else { pair(first) };
        for socket in [&mut client, &mut server] {
            socket.moves(Send, trouble.before);
            socket.moves(Receive, trouble.before);
        }
        Self {
            random,
            kernel: Kernel { time: 0 },
            bench: Bench::new(Limits::default(), &[]),
            sockets: [client, server],
            words: [[policy::Policy::Heads; 2]; 2],
            announced: [false; 2],
            ring: Vec::new(),
            trouble,
            captured: 0,
        }
    }

    fn open(&mut self) {
        for end in 0..2 {
            let record = self.kernel.opened(&self.sockets[end], false);
            self.announced[end] = true;
            self.bench.give([record]);
        }
    }

    fn step(&mut self) {
        let end = self.random.below(2) as usize;
        let direction = if self.random.below(2) == 0 { Send } else { Receive };
        let way = usize::from(direction == Receive);
        if self.random.below(100) < self.trouble.wishes {
            self.wish(end, direction);
        }
        let peer_sent = self.sockets[1 - end].written;
        let socket = &mut self.sockets[end];
        let from = if direction == Send { socket.written } else { socket.read };
        let most = if direction == Send { 300 } else { (peer_sent - socket.read).min(300) };
        if most == 0 {
            return;
        }
        let total = 1 + self.random.below(most);
        if direction == Receive {
            socket.came = socket.came.max(peer_sent);
        }
        socket.moves(direction, total);
        let bytes = bytes(socket, direction, from, total);
        let tcp = socket.tcp();
        let unix = socket.transport != spandrel_proto::record::TRANSPORT_TCP;
        let position = match direction {
            _ if unix => from as u32,
            Send => tcp.sent_at(total as u32),
            Receive => tcp.received_at(total as u32, socket.shutdown),
        };
        let limit = 1 + self.random.below(400) as u32;
        let lost = socket.lost;
        if !self.announced[end] {
            self.announced[end] = true;
            let record = self.kernel.opened(socket, true);
            self.ring.push(record);
        }
        let socket = &mut self.sockets[end];
        match decide(self.words[end][way], position, total as u32, limit) {
            Decision::Silent => {
                let counted = if direction == Send { &mut socket.counted.0 } else { &mut socket.counted.1 };
                *counted += total;
            }
            Decision::Record { skip, take, .. } => {
                socket.lost = 0;
                let record = self.kernel.hook(socket, direction, &bytes, (skip, skip + take));
                self.write(end, record, lost);
            }
        }
        self.deliver(self.trouble.overtaken as usize);
    }

    /// Puts the pieces of a call's record into the ring, if there is room.
    fn write(&mut self, end: usize, record: Record, mut lost: u32) {
        let Record::Data(whole, bytes) = record else { return };
        let mut from = 0;
        while from < bytes.len() || (from == 0 && bytes.is_empty()) {
            let left = bytes.len() - from;
            let length =
                if self.trouble.pieces { left.min(1 + self.random.below(64) as usize) } else { left };
            let mut piece = whole;
            piece.skip = whole.skip + from as u32;
            piece.captured = length as u32;
            piece.rest = REST_NOTHING;
            piece.header.flags &= !(FLAG_FIRST | FLAG_LAST);
            piece.header.flags |= if from == 0 { FLAG_FIRST } else { 0 };
            piece.header.flags |= if length == left { FLAG_LAST } else { 0 };
            piece.header.lost = lost;
            if self.random.below(100) < self.trouble.lost {
                lost += 1;
            } else {
                lost = 0;
                self.captured += length as u64;
                self.ring.push(Record::Data(piece, bytes[from..from + length].to_vec()));
            }
            from += length;
            if length == 0 {
                break;
            }
        }
        self.sockets[end].lost = lost;
    }

    fn wish(&mut self, end: usize, direction: Direction) {
        let id = ConnectionId(self.sockets[end].id);
        let ahead = self.random.below(2000);
        let next = self.bench.pieces.iter().rev().find(|p| p.connection == id.0 && p.direction == direction);
        let offset = next.map_or(0, |piece| piece.offset + piece.length) + ahead;
        let policy = match self.random.below(6) {
            0 => Policy::Heads,
            1 => Policy::FirstBlock,
            2 => Policy::Everything,
            3 => Policy::Nothing,
            _ => Policy::From { offset },
        };
        if let Some(word) = self.bench.streams.policy(id, direction, policy) {
            self.words[end][usize::from(direction == Receive)] = word;
        }
    }

    /// Reads the ring down to `keep` records, in any order among the first.
    fn deliver(&mut self, keep: usize) {
        while self.ring.len() > keep {
            let which = self.random.below((keep as u64 + 1).min(self.ring.len() as u64)) as usize;
            let record = self.ring.remove(which);
            self.bench.give([record]);
        }
        if self.random.below(20) == 0 {
            self.bench.poll(self.kernel.time);
        }
    }

    fn close(&mut self) {
        self.deliver(0);
        for end in 0..2 {
            let socket = self.sockets[end].clone();
            let record = self.kernel.state(&socket, tcp_state::ESTABLISHED, tcp_state::CLOSE, 0);
            self.bench.give([record]);
        }
        assert_eq!(self.bench.streams.size(), (0, 0));
    }
}

/// Runs connections from their first byte to their last, and checks that every byte is told of.
#[track_caller]
fn whole(seeds: std::ops::Range<u64>, trouble: Trouble) {
    for seed in seeds {
        let mut world = World::new(seed, false, trouble);
        world.open();
        for _ in 0..200 {
            world.step();
        }
        world.close();
        let mut came = 0;
        for socket in &world.sockets {
            for (direction, moved) in [(Send, socket.written), (Receive, socket.read)] {
                let (from, to, bytes) = check(&world.bench, socket, direction, 0, seed);
                assert_eq!((from, to), (0, moved), "seed {seed}: {direction:?} of {}", socket.id);
                came += bytes;
            }
        }
        let books = world.bench.streams.ledger();
        assert_eq!(books.captured, world.captured, "seed {seed}");
        assert_eq!(books.passed, came, "seed {seed}");
        let all: u64 = world.sockets.iter().map(|socket| socket.written + socket.read).sum();
        assert_eq!(books.passed + books.gaps.iter().sum::<u64>(), all, "seed {seed}");
        assert_eq!(world.bench.joined.iter().map(|join| (join.2, join.3)).collect::<Vec<_>>(), [(0, 0)]);
        if trouble.overtaken == 0 {
            assert_eq!(books.discarded, 0, "seed {seed}: without overtaking nothing is uncertain");
        }
        if trouble.lost + trouble.overtaken == 0 {
            assert_eq!(books.gaps[3] + books.gaps[4], 0, "seed {seed}: nothing was lost");
        }
    }
}

#[test]
fn every_byte_of_a_connection_is_passed_on_or_a_gap() {
    whole(0..100, Trouble::default());
}

#[test]
fn lost_records_are_gaps_of_their_length() {
    whole(100..250, Trouble { lost: 20, pieces: true, ..Trouble::default() });
}

#[test]
fn silenced_calls_are_gaps_of_their_length() {
    whole(250..400, Trouble { wishes: 20, ..Trouble::default() });
}

#[test]
fn silence_and_loss_together_leave_no_byte_untold() {
    whole(400..550, Trouble { wishes: 10, lost: 10, pieces: true, ..Trouble::default() });
}

#[test]
fn records_in_another_order_lose_nothing() {
    for seed in 0..100 {
        let mut world = World::new(seed, false, Trouble { overtaken: 6, ..Trouble::default() });
        world.open();
        for _ in 0..200 {
            world.step();
        }
        world.close();
        assert_eq!(world.bench.streams.ledger().discarded, 0, "seed {seed}");
        whole(seed..seed + 1, Trouble { overtaken: 6, pieces: true, ..Trouble::default() });
    }
}

#[test]
fn all_trouble_at_once_moves_no_byte_to_another_place() {
    whole(600..900, Trouble { wishes: 5, lost: 10, overtaken: 5, pieces: true, ..Trouble::default() });
}

#[test]
fn a_late_attach_maps_both_ends_onto_each_other() {
    for seed in 0..50 {
        for before in [1, 1000, 0xffff_fffe, 5 << 30] {
            let mut world = World::new(seed, false, Trouble { before, lost: 5, ..Trouble::default() });
            for _ in 0..100 {
                world.step();
            }
            world.deliver(0);
            let [(a, b, a_to_b, b_to_a)] = world.bench.joined[..] else {
                panic!("seed {seed}: {:?}", world.bench.joined)
            };
            // The active end's own offsets are one too high.
            assert_eq!((a_to_b, b_to_a), if a == 1 { (-1, 0) } else { (0, -1) }, "seed {seed}");
            assert_ne!(a, b);
            for socket in &world.sockets {
                for direction in [Send, Receive] {
                    let shift = u64::from(socket.active && direction == Send);
                    check(&world.bench, socket, direction, shift, seed);
                }
            }
        }
    }
}

#[test]
fn unix_streams_keep_their_places_without_sequence_numbers() {
    for seed in 0..100 {
        let trouble = Trouble { lost: 10, wishes: 5, pieces: true, ..Trouble::default() };
        let mut world = World::new(seed, true, trouble);
        for _ in 0..200 {
            world.step();
        }
        world.deliver(0);
        assert_eq!(world.bench.joined.iter().map(|join| (join.2, join.3)).collect::<Vec<_>>(), [(0, 0)]);
        for socket in &world.sockets {
            check(&world.bench, socket, Send, 0, seed);
            check(&world.bench, socket, Receive, 0, seed);
        }
    }
}

/// A thread that writes into a socket that others write into as well, and how far its call is.
#[derive(Clone, Copy)]
enum Writer {
    Idle {
        until: u64,
    },
    /// Its bytes are in the socket.
    Wrote {
        at: u64,
        length: u64,
        until: u64,
    },
    /// The hook has counted them.
    Counted {
        at: u64,
        length: u64,
        moved: u64,
        until: u64,
    },
}

/// Threads write at once without a lock, and are preempted between any two steps of a call.
fn unsynchronised(seed: u64, lengths: u64, longest: u64) -> (u64, u64) {
    let mut random = Random(seed * 2 + 1);
    let mut kernel = Kernel { time: 0 };
    let (mut client, server) = pair((random.below(1 << 32) as u32, 77));
    let mut bench = Bench::default();
    bench.give([kernel.opened(&client, false), kernel.opened(&server, false)]);
    let mut writers = [Writer::Idle { until: 0 }; 4];
    let mut now = 0;
    let mut polled = 0;
    for _ in 0..2000 {
        // Whoever is ready first goes on; the time to its next step is short, or a preemption.
        let pause = |random: &mut Random| match random.below(50) {
            0 => random.below(longest),
            _ => random.below(3000),
        };
        let ready = |writer: &Writer| match *writer {
            Writer::Idle { until } | Writer::Wrote { until, .. } | Writer::Counted { until, .. } => until,
        };
        let Some(which) = (0..writers.len()).min_by_key(|&index| ready(&writers[index])) else {
            return (0, 0);
        };
        now = now.max(ready(&writers[which]));
        kernel.time = now;
        if now - polled > 50 * MS {
            polled = now;
            bench.poll(now);
        }
        let until = now + pause(&mut random);
        writers[which] = match writers[which] {
            Writer::Idle { .. } => {
                let (at, length) = (client.written, 1 + random.below(lengths));
                client.moves(Send, length);
                Writer::Wrote { at, length, until }
            }
            Writer::Wrote { at, length, .. } => {
                client.counted.0 += length;
                Writer::Counted { at, length, moved: client.counted.0, until }
            }
            Writer::Counted { at, length, moved, .. } => {
                let own = bytes(&client, Send, at, length);
                let mut seen = client.clone();
                seen.counted.0 = moved - length;
                seen.thread += which as u32;
                bench.give([kernel.hook(&mut seen, Send, &own, (0, length as u32))]);
                Writer::Idle { until: now + random.below(20_000) }
            }
        };
    }
    bench.poll(now + 1000 * MS);
    let (_, to, came) = check(&bench, &client, Send, 0, seed);
    (to, came)
}

#[test]
fn no_byte_of_unsynchronised_writers_is_believed_at_another_place() {
    let mut sum = (0, 0);
    for seed in 0..80 {
        for (lengths, longest) in [(1, 10_000), (1, 300 * MS), (4, 100 * MS), (500, 2000 * MS)] {
            let (to, came) = unsynchronised(seed, lengths, longest);
            sum = (sum.0 + to, sum.1 + came);
        }
    }
    // It would be easy to believe nobody.
    assert!(sum.1 * 10 > sum.0, "{sum:?}");
}
