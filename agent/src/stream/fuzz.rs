//! What must hold for any sequence of records, polls and policies: the body of the fuzz target.
//!
//! Records are half plausible and half nonsense, of a handful of connections, so that every rule is reached.
//! After each, pieces must follow each other in each direction, the books must balance, and memory must be
//! bounded. It must never depend on anything but its argument, so that a crash is a seed.

use std::collections::HashMap;

use spandrel_proto::position::Tcp;
use spandrel_proto::record::{
    Addresses, Data, FLAG_FIRST, FLAG_LAST, Header, Loss, Opened, Socket, State, TRANSPORT_FOREIGN,
    TRANSPORT_TCP, TRANSPORT_UNIX, Unix,
};

use super::track::HELD_BYTES;
use super::{Content, Event, Ledger, Limits, Streams};
use crate::exchange::Policy;
use crate::identity::{ConnectionId, Direction, Monotonic, ProcessKey};

/// Ends known at once.
const ENDS: usize = 7;

/// The most that one record can bring.
const BLOCK: usize = 64;

/// Plays the bytes as a sequence of records, polls and policies.
#[doc(hidden)]
pub fn fuzz_streams(data: &[u8]) {
    play(data);
}

fn play(data: &[u8]) -> Ledger {
    let mut input = Input { data };
    let limits = Limits { ends: ENDS, unread_age: 1_000_000, unix_age: 1_000_000_000 };
    let mut streams = Streams::new(limits, (0..4).collect());
    let mut watch = Watch::default();
    let mut model = [Counts::default(); 8];
    let mut time = 1u64;
    while !input.data.is_empty() {
        time = match input.byte() {
            0 => input.word(),
            1 => time.saturating_add(3_000_000_000),
            2 => time.saturating_sub(1_000_000),
            step => time.saturating_add(u64::from(step) * 100_000),
        };
        let id = input.byte() & 7;
        let counts = &mut model[usize::from(id)];
        let mut header = Header {
            flags: u16::from(input.byte()),
            time,
            pid: u32::from(id & 3),
            thread: u32::from(input.byte() & 3),
            ..Header::default()
        };
        header.lost = u32::from(input.byte() == 0);
        let out = &mut |event: Event<'_>| watch.see(&event);
        match input.byte() % 16 {
            0..=8 => {
                let total = u32::from(input.byte());
                let (socket, total) = counts.socket(id, &mut input, header.flags, total);
                let skip = if input.byte() & 7 == 0 { total.min(u32::from(input.byte())) } else { 0 };
                let bytes = [id; BLOCK];
                let captured = (total - skip).min(u32::from(input.byte()) & (BLOCK as u32 - 1));
                if input.byte() & 3 != 0 {
                    header.flags |= FLAG_FIRST | FLAG_LAST;
                }
                let rest = u32::from(input.byte() & 3);
                let data = Data { header, socket, total, skip, captured, rest, ..Data::default() };
                streams.data(&data, None, &bytes[..captured as usize], out);
            }
            9 => {
                let (socket, _) = counts.socket(id, &mut input, header.flags, 0);
                let addresses = Addresses { family: u32::from(input.byte() % 12), ..Addresses::default() };
                let record = Opened { header, socket, addresses, ..Opened::default() };
                streams.opened(&record, input.take(8), out);
            }
            10 | 11 => {
                let (socket, _) = counts.socket(id, &mut input, header.flags, 0);
                let (from, to) = (u32::from(input.byte() % 14), u32::from(input.byte() % 14));
                let error = u32::from(input.byte() & 1) * 104;
                streams.state(&State { header, socket, from, to, error, reserved: 0 }, out);
            }
            12 | 13 => {
                let direction = if header.flags & 1 == 0 { Direction::Send } else { Direction::Receive };
                let policy = match input.byte() % 6 {
                    0 => Policy::Heads,
                    1 => Policy::FirstBlock,
                    2 => Policy::Everything,
                    3 => Policy::Nothing,
                    4 => Policy::From { offset: u64::from(input.byte()) * 100 },
                    _ => Policy::From { offset: input.word() },
                };
                let _ = streams.policy(ConnectionId(u64::from(id)), direction, policy);
            }
            14 => {
                let process = ProcessKey { pid: header.pid, exec: 0, started: 0 };
                streams.process_exited(process, Monotonic(time), out);
            }
            _ if id == 0 => {
                let word = input.word();
                let span = [word as u32, (word >> 32) as u32];
                let loss = Loss {
                    sent: word & 1,
                    received: word & 2,
                    sent_span: span,
                    received_span: span,
                    ..Loss::default()
                };
                streams.lost(ConnectionId(u64::from(id)), &loss, out);
            }
            _ => streams.poll(Monotonic(time), out),
        }
        let books = streams.ledger();
        assert_eq!(books.captured, books.passed + books.discarded + books.held, "{books:?}");
        let (ends, names) = streams.size();
        assert_eq!(
            books.opened,
            books.closed + books.evicted + books.aged + books.left_out + ends as u64,
            "{books:?}"
        );
        assert!(ends <= ENDS && names <= ENDS * 5, "{ends} ends, {names} names");
        assert!(books.held <= (ENDS * 2 * (HELD_BYTES + BLOCK)) as u64, "{books:?}");
        assert_eq!(books.passed, watch.passed);
        assert_eq!(ends, watch.next.len());
    }
    streams.ledger()
}

/// What has been said: where each direction of each open end goes on.
#[derive(Default)]
struct Watch {
    next: HashMap<ConnectionId, [Option<u64>; 2]>,
    passed: u64,
}

impl Watch {
    fn see(&mut self, event: &Event<'_>) {
        let known =
            |id: &ConnectionId| assert!(self.next.contains_key(id), "{event:?} of an end that is not open");
        match event {
            Event::Opened(opened) => {
                self.next.entry(opened.connection).or_default();
            }
            Event::Piece { connection, direction, piece } => {
                known(connection);
                let length = match piece.content {
                    Content::Bytes(bytes) => {
                        self.passed += bytes.len() as u64;
                        bytes.len() as u64
                    }
                    Content::Gap { length, .. } => length,
                };
                assert!(length > 0, "{event:?} is empty");
                let ways = self.next.entry(*connection).or_default();
                let next = &mut ways[usize::from(*direction == Direction::Receive)];
                assert!(next.is_none_or(|next| next == piece.offset), "{event:?} does not begin at {next:?}");
                *next = Some(piece.offset + length);
            }
            Event::Joined { a, b, .. } => {
                known(a);
                known(b);
                assert_ne!(a, b);
            }
            Event::Finished { connection, .. } => known(connection),
            Event::Closed { connection, .. } | Event::Abandoned { connection, .. } => {
                assert!(self.next.remove(connection).is_some(), "{event:?} of an end that is not open");
            }
            Event::Connecting { .. }
            | Event::Connected { .. }
            | Event::ConnectFailed { .. }
            | Event::Gap(_) => {}
        }
    }
}

/// A plausible socket: it goes on from call to call, mostly.
#[derive(Clone, Copy, Default)]
struct Counts {
    moved: [u64; 2],
    position: [u32; 2],
}

impl Counts {
    fn socket(&mut self, id: u8, input: &mut Input<'_>, flags: u16, total: u32) -> (Socket, u32) {
        let way = usize::from(flags & 1 == 0);
        let mut total = total;
        match input.byte() {
            0 => self.position[way] = input.word() as u32,
            1 => self.moved[way] = input.word(),
            2 => total = input.word() as u32,
            3 => self.position[way] = self.position[way].wrapping_add(u32::from(input.byte())),
            _ => {}
        }
        self.moved[way] = self.moved[way].wrapping_add(total.into());
        self.position[way] = self.position[way].wrapping_add(total);
        let transport =
            [TRANSPORT_TCP, TRANSPORT_UNIX, TRANSPORT_TCP, TRANSPORT_FOREIGN][usize::from(id & 3)];
        let mut socket = Socket {
            connection: id.into(),
            transport,
            shutdown: u32::from(input.byte() & 3),
            moved: self.moved[way],
            place: [0; 4],
        };
        let [sent, received] = self.position;
        let mut tcp = Tcp {
            write_seq: sent,
            snd_una: sent,
            copied_seq: received,
            rcv_nxt: received,
            bytes_acked: self.moved[0],
            bytes_received: self.moved[1],
        };
        if input.byte() == 0 {
            let word = input.word();
            (tcp.snd_una, tcp.rcv_nxt) = (word as u32, (word >> 32) as u32);
            (tcp.bytes_acked, tcp.bytes_received) = (input.word(), input.word());
        }
        if transport == TRANSPORT_TCP {
            socket.set_tcp(&tcp);
        } else {
            let near = u64::from(input.byte() & 3);
            let unix = Unix {
                sock: id.into(),
                peer: u64::from(id ^ 4) ^ (near >> 1),
                inode: near + 2,
                drained: near == 0,
            };
            socket.set_unix(&unix);
        }
        (socket, total)
    }
}

/// The rest of the input; zeroes once it is used up.
struct Input<'a> {
    data: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.data.split_at(length.min(self.data.len()));
        self.data = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn word(&mut self) -> u64 {
        self.take(8).iter().fold(0, |word, &byte| word << 8 | u64::from(byte))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Random;
    use super::super::{GapCause, Ledger};
    use super::{fuzz_streams, play};

    #[test]
    fn no_sequence_of_records_breaks_what_must_hold() {
        let mut sum = Ledger::default();
        for seed in 0..3000 {
            let mut random = Random(seed * 2 + 1);
            let length = random.below(2000);
            // Small numbers are what the input's choices are made of; without them few are taken.
            let spread = 1 << (2 + random.below(7));
            let data: Vec<u8> = (0..length).map(|_| random.below(spread) as u8).collect();
            let Ledger {
                captured,
                passed,
                discarded,
                held,
                gaps,
                unread,
                opened,
                closed,
                evicted,
                aged,
                left_out: _,
                joined,
            } = play(&data);
            sum.captured += captured;
            sum.passed += passed;
            sum.discarded += discarded;
            sum.held += held;
            for (sum, gap) in sum.gaps.iter_mut().zip(gaps) {
                *sum = sum.saturating_add(gap);
            }
            sum.unread += unread;
            sum.opened += opened;
            sum.closed += closed;
            sum.evicted += evicted;
            sum.aged += aged;
            sum.joined += joined;
        }
        // What is not reached is not shown.
        let Ledger {
            captured,
            passed,
            discarded,
            held,
            gaps,
            unread,
            opened,
            closed,
            evicted,
            aged,
            left_out: _, // the pipeline's, which knows the selection
            joined,
        } = sum;
        for count in [captured, passed, discarded, held, unread, opened, closed, evicted, aged, joined] {
            assert!(count > 20, "{sum:?}");
        }
        assert!(GapCause::ALL.into_iter().all(|cause| gaps[cause as usize] > 100), "{sum:?}");
    }

    #[test]
    fn nothing_and_extremes_do_no_harm() {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            for length in [0, 1, 7, 100, 5000] {
                fuzz_streams(&vec![byte; length]);
            }
        }
    }
}
