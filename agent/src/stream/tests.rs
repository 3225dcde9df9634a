//! What records do to streams, rule by rule: records in, what was said as text out.

use spandrel_proto::record::{FLAG_FIRST, FLAG_LAST, Loss, REST_UNREADABLE, REST_UNSEEN, tcp_state};

use super::step::{Certainty, First, Step};
use super::testing::{Bench, Kernel, MS, Record, Socket, finish, pair, unix_pair};
use super::testing::{Receive, Send};
use super::track::{HELD_BYTES, HELD_PIECES};
use super::{Limits, Streams};
use crate::exchange::Policy;
use crate::identity::{ConnectionId, Monotonic};

/// A connection that was seen from its beginning, and what was said of that taken.
fn born() -> (Kernel, Bench, Socket, Socket) {
    let mut kernel = Kernel { time: 0 };
    let (client, server) = pair((1001, 5001));
    let mut bench = Bench::default();
    bench.give([kernel.opened(&client, false), kernel.opened(&server, false)]);
    bench.take();
    (kernel, bench, client, server)
}

fn edit(record: Record, change: impl FnOnce(&mut spandrel_proto::record::Data)) -> Record {
    match record {
        Record::Data(mut data, bytes) => {
            change(&mut data);
            Record::Data(data, bytes)
        }
        other => other,
    }
}

fn wish(streams: &mut Streams, id: u64, direction: crate::identity::Direction, policy: Policy) {
    assert!(streams.policy(ConnectionId(id), direction, policy).is_some());
}

#[test]
fn both_ends_of_a_connection_are_joined_when_the_second_opens() {
    let mut kernel = Kernel { time: 0 };
    let (client, server) = pair((1001, 5001));
    let mut bench = Bench::default();
    bench.give([kernel.opened(&client, false), kernel.opened(&server, false)]).says(&[
        "client came about",
        "client opened 127.0.0.1:40000 to 127.0.0.1:80 born here",
        "server opened 127.0.0.1:80 to 127.0.0.1:40000 born here",
        "server = client +0 +0",
    ]);
}

#[test]
fn calls_become_pieces_at_their_offsets() {
    let (mut kernel, mut bench, mut client, mut server) = born();
    bench.give([kernel.call(&mut client, Send, b"GET / "), kernel.call(&mut client, Send, b"HTTP/1.1")]);
    bench
        .give([kernel.call(&mut server, Receive, b"GET / HTTP/1.1"), kernel.call(&mut server, Send, b"200")]);
    bench.give([kernel.call(&mut client, Receive, b"200")]).says(&[
        "client sent 0: |GET / ",
        "client sent 6: |HTTP/1.1",
        "server got 0: |GET / HTTP/1.1",
        "server sent 0: |200",
        "client got 0: |200",
    ]);
}

#[test]
fn a_read_that_takes_the_fin_along_is_placed_as_if_it_had_not() {
    let (mut kernel, mut bench, mut client, _) = born();
    bench.give([kernel.call(&mut client, Receive, b"abc")]);
    finish(&mut client);
    bench
        .give([kernel.call(&mut client, Receive, b"def")])
        .says(&["client got 0: |abc", "client got 3: |def"]);
}

#[test]
fn sequence_numbers_wrap_and_offsets_do_not() {
    let mut kernel = Kernel { time: 0 };
    let (mut client, server) = pair((u32::MAX - 1, 3));
    let mut bench = Bench::default();
    bench.give([kernel.opened(&client, false), kernel.opened(&server, false)]);
    bench.take();
    bench.give([kernel.call(&mut client, Send, b"abcd"), kernel.call(&mut client, Send, b"e")]);
    bench.says(&["client sent 0: |abcd", "client sent 4: |e"]);
}

#[test]
fn five_silent_gibibytes_are_one_gap_of_that_length() {
    let (mut kernel, mut bench, mut client, _) = born();
    bench.give([kernel.call(&mut client, Send, b"a")]);
    wish(&mut bench.streams, 1, Send, Policy::Nothing);
    client.moves(Send, 5 << 30);
    client.counted.0 += 5 << 30;
    bench.give([kernel.call(&mut client, Send, b"b")]);
    bench.says(&["client sent 0: |a", "client sent 1: 5368709120 silent", "client sent 5368709121: |b"]);
}

#[test]
fn the_pieces_of_one_call_follow_each_other_and_the_rest_is_a_gap() {
    let (mut kernel, mut bench, mut client, _) = born();
    client.moves(Send, 10);
    let whole = kernel.hook(&mut client, Send, b"abcdefghij", (0, 10));
    let part = |from: usize, to: usize, flags: u16| match &whole {
        Record::Data(data, bytes) => {
            let mut data = *data;
            data.header.flags = data.header.flags & !(FLAG_FIRST | FLAG_LAST) | flags;
            (data.skip, data.captured) = (from as u32, (to - from) as u32);
            Record::Data(data, bytes[from..to].to_vec())
        }
        _ => unreachable!(),
    };
    bench.give([part(0, 4, FLAG_FIRST), part(4, 6, 0), part(6, 8, FLAG_LAST)]);
    bench.says(&["client sent 0: |abcd", "client sent 4: ef", "client sent 6: gh", "client sent 8: 2 limit"]);
}

#[test]
fn what_a_call_does_not_show_is_a_gap_with_its_cause() {
    let (mut kernel, mut bench, mut client, _) = born();
    for (rest, want) in [(REST_UNSEEN, "5 unseen"), (REST_UNREADABLE, "5 lost")] {
        client.moves(Send, 5);
        let record = kernel.hook(&mut client, Send, b"abcde", (0, 0));
        bench.give([edit(record, |data| data.rest = rest)]);
        let said = bench.take();
        assert!(said.last().is_some_and(|said| said.ends_with(want)), "{said:?}");
    }
}

#[test]
fn a_silence_ends_inside_a_call_and_what_it_skipped_is_a_gap() {
    let (mut kernel, mut bench, mut client, _) = born();
    wish(&mut bench.streams, 1, Send, Policy::From { offset: 12 });
    client.moves(Send, 10);
    client.counted.0 += 10;
    client.moves(Send, 5);
    bench.give([kernel.hook(&mut client, Send, b"xxabc", (2, 5))]);
    bench.says(&["client sent 0: 10 silent", "client sent 10: |2 silent", "client sent 12: abc"]);
}

#[test]
fn a_silence_is_remembered_when_its_policy_is_replaced() {
    let (mut kernel, mut bench, mut client, _) = born();
    wish(&mut bench.streams, 1, Send, Policy::From { offset: 1000 });
    client.moves(Send, 10);
    client.counted.0 += 10;
    wish(&mut bench.streams, 1, Send, Policy::Heads);
    bench.give([kernel.call(&mut client, Send, b"abc"), kernel.call(&mut client, Send, b"d")]);
    bench.says(&["client sent 0: 10 silent", "client sent 10: |abc", "client sent 13: |d"]);
}

#[test]
fn a_silence_reaches_at_most_so_far_ahead() {
    let (_, mut bench, ..) = born();
    let word = bench.streams.policy(ConnectionId(1), Send, Policy::From { offset: u64::MAX });
    assert_eq!(word, Some(spandrel_proto::policy::Policy::From(1001 + (1 << 30))));
    assert_eq!(bench.streams.policy(ConnectionId(9), Send, Policy::Heads), None);
}

#[test]
fn a_hole_is_a_loss_if_the_kernel_says_that_records_were_lost() {
    let (mut kernel, mut bench, mut client, _) = born();
    let _lost = kernel.call(&mut client, Send, b"abc");
    client.lost = 1;
    bench.give([kernel.call(&mut client, Send, b"def")]);
    bench.says(&["client misses 3 sending at 1001", "client sent 0: 3 lost", "client sent 3: |def"]);
}

#[test]
fn a_loss_that_the_other_direction_tells_explains_the_hole() {
    let (mut kernel, mut bench, mut client, _) = born();
    let _lost = kernel.call(&mut client, Send, b"abc");
    client.lost = 1;
    bench.give([kernel.call(&mut client, Receive, b"x"), kernel.call(&mut client, Send, b"def")]);
    bench.says(&[
        "client got 0: |x",
        "client misses 3 sending at 1001",
        "client sent 0: 3 lost",
        "client sent 3: |def",
    ]);
}

#[test]
fn records_that_overtake_each_other_are_put_in_order() {
    let (mut kernel, mut bench, mut client, _) = born();
    let a = kernel.call(&mut client, Send, b"abc");
    let b = kernel.call(&mut client, Send, b"def");
    let c = kernel.call(&mut client, Send, b"ghi");
    bench.give([c, b]).says(&[]);
    assert_eq!(bench.streams.ledger().held, 6);
    bench.give([a]).says(&["client sent 0: |abc", "client sent 3: |def", "client sent 6: |ghi"]);
}

#[test]
fn a_hole_that_nothing_explains_is_given_up_with_what_is_not_proven_behind_it() {
    let (mut kernel, mut bench, mut client, _) = born();
    let _vanished = kernel.call(&mut client, Send, b"abc");
    let unproven = kernel.call(&mut client, Send, b"def");
    let proven = kernel.call(&mut client, Send, b"ghi");
    bench.give([unproven, proven]).poll(kernel.time).says(&[]);
    bench.poll(kernel.time + 60 * MS).says(&[
        "client misses 6 sending at 1001",
        "client sent 0: 6 uncertain",
        "client sent 6: |ghi",
    ]);
    assert_eq!(bench.streams.ledger().discarded, 3);
}

#[test]
fn two_calls_that_claim_one_place_are_both_not_believed() {
    let (mut kernel, mut bench, mut client, _) = born();
    client.moves(Send, 3);
    client.moves(Send, 3);
    // Both hooks run after both calls: both see the end of the second.
    let first = kernel.hook(&mut client, Send, b"abc", (0, 3));
    let second = kernel.hook(&mut client, Send, b"def", (0, 3));
    bench.give([first, second]).poll(kernel.time + 60 * MS);
    bench.says(&["client misses 6 sending at 1001", "client sent 0: 6 uncertain"]);
    // The next call is alone again, and proven so.
    bench.give([kernel.call(&mut client, Send, b"ghi")]);
    let said = bench.take();
    assert_eq!(said, ["client sent 6: |ghi"]);
}

#[test]
fn a_call_seen_late_is_not_believed_even_after_its_hole_is_given_up() {
    let (mut kernel, mut bench, mut client, _) = born();
    // A thread writes and is preempted before its hook; others go on, and its hole is given up.
    client.moves(Send, 3);
    bench.give([kernel.call(&mut client, Send, b"def")]).poll(kernel.time + 60 * MS);
    bench.take();
    // Another writes; now the first thread's hook runs, and claims those bytes.
    client.moves(Send, 3);
    let late = kernel.hook(&mut client, Send, b"abc", (0, 3));
    let own = kernel.hook(&mut client, Send, b"ghi", (0, 3));
    bench.give([late, own]).poll(kernel.time + 200 * MS);
    assert!(bench.take().iter().all(|said| !said.contains("abc")));
    assert!(bench.pieces.iter().all(|piece| piece.bytes.is_none()));
}

#[test]
fn bytes_that_no_hook_counts_cost_ten_seconds_of_certainty_and_no_more() {
    let (mut kernel, mut bench, mut client, _) = born();
    // splice(2) out of a socket.
    client.moves(Receive, 100);
    bench.give([kernel.call(&mut client, Receive, b"abc")]);
    kernel.time += 10_100 * MS;
    bench.poll(kernel.time);
    bench.give([kernel.call(&mut client, Receive, b"def")]);
    bench.give([kernel.call(&mut client, Receive, b"ghi"), kernel.call(&mut client, Receive, b"jkl")]);
    assert_eq!(bench.take().last().map(String::as_str), Some("client got 109: |jkl"));
}

#[test]
fn what_waits_behind_a_hole_is_bounded_in_bytes_and_in_pieces() {
    let (mut kernel, mut bench, mut client, _) = born();
    let _vanished = kernel.call(&mut client, Send, b"abc");
    let block = vec![b'x'; 4096];
    for _ in 0..=HELD_BYTES / block.len() {
        bench.give([kernel.call(&mut client, Send, &block)]);
        assert!(bench.streams.ledger().held <= HELD_BYTES as u64);
    }
    assert!(bench.take().contains(&"client sent 0: 4099 uncertain".to_owned()));
    let (mut kernel, mut bench, mut client, _) = born();
    let _vanished = kernel.call(&mut client, Send, b"abc");
    for _ in 0..=HELD_PIECES {
        bench.give([kernel.call(&mut client, Send, b"x")]);
    }
    assert_eq!(bench.streams.ledger().held, 0);
}

#[test]
fn a_late_end_begins_where_it_was_met() {
    let mut kernel = Kernel { time: 0 };
    let (mut client, mut server) = pair((1001, 5001));
    let mut bench = Bench::default();
    client.moves(Send, 1000);
    server.moves(Receive, 1000);
    let first = kernel.call(&mut client, Send, b"abc");
    let opened = kernel.opened(&client, true);
    bench.give([opened, first]);
    let first = kernel.call(&mut server, Receive, b"abc");
    let opened = kernel.opened(&server, true);
    bench.give([opened, first]);
    // The client's role is not known, so its sent offsets are one too high, and the join says so.
    bench.says(&[
        "client opened 127.0.0.1:40000 to 127.0.0.1:80",
        "client sent 1001: |abc",
        "server opened 127.0.0.1:80 to 127.0.0.1:40000",
        "server = client +0 -1",
        "server got 1000: |abc",
    ]);
}

#[test]
fn a_late_end_is_joined_with_one_that_was_seen_from_the_beginning() {
    let mut kernel = Kernel { time: 0 };
    let (mut client, server) = pair((1001, 5001));
    let mut bench = Bench::default();
    bench.give([kernel.opened(&server, false), kernel.call(&mut client, Send, b"abc")]);
    assert_eq!(bench.joined, [(1, 2, -1, 0)]);
}

#[test]
fn an_end_whose_opening_was_lost_gets_its_addresses_later() {
    let mut kernel = Kernel { time: 0 };
    let (mut client, _) = pair((1001, 5001));
    let mut bench = Bench::default();
    bench.give([kernel.call(&mut client, Send, b"abc"), kernel.opened(&client, true)]);
    bench.give([kernel.opened(&client, true)]).says(&[
        "client opened 0.0.0.0:0 to 0.0.0.0:0",
        "client sent 1: |abc",
        "client opened 127.0.0.1:40000 to 127.0.0.1:80",
    ]);
}

#[test]
fn a_torn_snapshot_joins_nobody_and_the_next_does() {
    let mut kernel = Kernel { time: 0 };
    let (mut client, server) = pair((1001, 5001));
    let mut bench = Bench::default();
    bench.give([kernel.opened(&server, false)]);
    let torn = edit(kernel.call(&mut client, Send, b"abc"), |data| data.socket.place[2] -= 2);
    bench.give([torn]);
    assert!(bench.joined.is_empty());
    bench.give([kernel.call(&mut client, Send, b"def")]);
    let [(1, 2, shift, 0)] = bench.joined[..] else { panic!("{:?}", bench.joined) };
    let last = bench.pieces.last().map(|piece| piece.offset.checked_add_signed(shift));
    assert_eq!(last, Some(Some(3)));
}

#[test]
fn a_name_is_registered_once_however_many_records_come() {
    let (mut kernel, mut bench, mut client, _) = born();
    let before = bench.streams.size();
    for _ in 0..100 {
        bench.give([kernel.call(&mut client, Send, b"x")]);
    }
    assert_eq!(bench.streams.size(), before);
}

#[test]
fn the_last_bytes_before_a_fin_are_a_gap_if_no_record_of_them_came() {
    let (mut kernel, mut bench, mut client, _) = born();
    bench.give([kernel.call(&mut client, Send, b"abc")]);
    let _lost = kernel.call(&mut client, Send, b"defg");
    bench.give([kernel.state(&client, tcp_state::ESTABLISHED, tcp_state::FIN_WAIT1, 0)]);
    client.fin_sent = true;
    finish(&mut client);
    client.fin_read = true;
    bench.give([kernel.state(&client, tcp_state::FIN_WAIT2, tcp_state::CLOSE, 0)]).says(&[
        "client sent 0: |abc",
        "client misses 4 sending at 1004",
        "client sent 3: 4 lost",
        "client closed peer-finished finished-first",
    ]);
    assert_eq!(bench.streams.size().0, 1);
}

#[test]
fn a_close_whose_fin_was_not_told_knows_that_the_fin_is_counted() {
    let (mut kernel, mut bench, mut client, _) = born();
    bench.give([kernel.call(&mut client, Send, b"abc")]);
    client.fin_sent = true;
    bench.give([kernel.state(&client, tcp_state::FIN_WAIT2, tcp_state::CLOSE, 0)]);
    bench.says(&["client sent 0: |abc", "client closed"]);
}

#[test]
fn whoever_answers_a_fin_has_not_finished_first() {
    let (mut kernel, mut bench, mut client, _) = born();
    finish(&mut client);
    client.fin_read = true;
    bench.give([kernel.state(&client, tcp_state::CLOSE_WAIT, tcp_state::LAST_ACK, 0)]);
    client.fin_sent = true;
    bench.give([kernel.state(&client, tcp_state::LAST_ACK, tcp_state::CLOSE, 0)]);
    bench.says(&["client closed peer-finished"]);
}

#[test]
fn the_end_of_what_was_read_is_a_gap_if_no_record_of_it_came() {
    let (mut kernel, mut bench, mut client, _) = born();
    let _lost = kernel.call(&mut client, Receive, b"abc");
    client.came += 5;
    bench.give([kernel.state(&client, tcp_state::ESTABLISHED, tcp_state::CLOSE, 0)]);
    bench.says(&["client misses 3 getting at 5001", "client got 0: 3 lost", "client closed"]);
    assert_eq!(bench.streams.ledger().unread, 5);
}

#[test]
fn a_silent_end_is_a_silent_gap() {
    let (mut kernel, mut bench, mut client, _) = born();
    wish(&mut bench.streams, 1, Send, Policy::Nothing);
    client.moves(Send, 6 << 30);
    bench.give([kernel.state(&client, tcp_state::ESTABLISHED, tcp_state::CLOSE, 0)]);
    bench.says(&["client sent 0: 6442450944 silent", "client closed"]);
}

#[test]
fn a_connection_that_was_reset_can_still_be_read() {
    let (mut kernel, mut bench, mut client, _) = born();
    client.came = 6;
    bench.give([kernel.state(&client, tcp_state::ESTABLISHED, tcp_state::CLOSE, 104)]);
    bench.poll(kernel.time + 500 * MS).says(&[]);
    bench.give([kernel.call(&mut client, Receive, b"abc"), kernel.call(&mut client, Receive, b"def")]);
    bench.poll(kernel.time + 500 * MS).says(&[
        "client got 0: |abc",
        "client got 3: |def",
        "client closed errno 104",
    ]);
    assert_eq!(bench.streams.ledger().unread, 0);
}

#[test]
fn what_nobody_reads_after_a_reset_is_counted_as_unread() {
    let (mut kernel, mut bench, mut client, _) = born();
    client.came = 6;
    bench.give([kernel.state(&client, tcp_state::ESTABLISHED, tcp_state::CLOSE, 104)]);
    bench.give([kernel.call(&mut client, Receive, b"ab")]);
    bench.poll(kernel.time + 2000 * MS).says(&["client got 0: |ab", "client closed errno 104"]);
    assert_eq!(bench.streams.ledger().unread, 4);
}

#[test]
fn a_reset_that_overtakes_the_record_of_a_call_loses_nothing() {
    let (mut kernel, mut bench, mut client, _) = born();
    let request = kernel.call(&mut client, Send, b"GET");
    bench.give([kernel.state(&client, tcp_state::ESTABLISHED, tcp_state::CLOSE, 104)]);
    bench
        .give([request])
        .poll(kernel.time + 30 * MS)
        .says(&["client sent 0: |GET", "client closed errno 104"]);
}

#[test]
fn a_close_that_overtakes_the_record_of_what_was_read_loses_nothing() {
    // This end was done first, so the peer's FIN closes it: in a softirq, while its reader is on the way out of the call.
    let (mut kernel, mut bench, mut client, _) = born();
    bench.give([kernel.state(&client, tcp_state::ESTABLISHED, tcp_state::FIN_WAIT1, 0)]);
    client.fin_sent = true;
    let response = kernel.call(&mut client, Receive, b"200");
    bench.give([kernel.state(&client, tcp_state::FIN_WAIT2, tcp_state::CLOSE, 0)]).says(&[]);
    bench
        .give([response])
        .poll(kernel.time + 30 * MS)
        .says(&["client got 0: |200", "client closed finished-first"]);
}

#[test]
fn a_record_that_comes_after_the_close_does_not_revive_the_end() {
    let (mut kernel, mut bench, mut client, _) = born();
    let late = kernel.call(&mut client, Send, b"GET");
    client.fin_sent = true;
    bench.give([kernel.state(&client, tcp_state::FIN_WAIT2, tcp_state::CLOSE, 0)]);
    bench.take();
    bench.give([late]).says(&[]);
    assert_eq!((bench.streams.size().0, bench.streams.ledger().discarded), (1, 3));
}

#[test]
fn a_close_tells_whether_the_process_was_gone() {
    for (exits_before, want) in
        [(true, "client closed finished-first process-exited"), (false, "client closed finished-first")]
    {
        let (mut kernel, mut bench, mut client, _) = born();
        bench.give([kernel.call(&mut client, Send, b"GET")]);
        let process = client.process;
        let exit = |bench: &mut Bench, time| {
            bench.with(|streams, out| streams.process_exited(process, Monotonic(time), out));
        };
        if exits_before {
            exit(&mut bench, kernel.time);
        }
        bench.give([kernel.state(&client, tcp_state::ESTABLISHED, tcp_state::FIN_WAIT1, 0)]);
        client.fin_sent = true;
        if !exits_before {
            exit(&mut bench, kernel.time);
        }
        bench.give([kernel.state(&client, tcp_state::FIN_WAIT1, tcp_state::CLOSE, 0)]);
        assert_eq!(bench.take().last().map(String::as_str), Some(want));
    }
}

#[test]
fn too_many_ends_make_the_oldest_give_way() {
    let limits = Limits { ends: 32, ..Limits::default() };
    let mut bench = Bench::new(limits, &[]);
    let mut kernel = Kernel { time: 0 };
    for id in 10..1000 {
        let (mut client, _) = pair((id * 1000, id * 7));
        client.id = id.into();
        bench.give([kernel.opened(&client, false), kernel.call(&mut client, Send, b"x")]);
        assert!(bench.streams.size().0 <= 32);
    }
    let said = bench.take();
    assert!(said.contains(&"10 abandoned".to_owned()));
    assert!(!said.contains(&"999 abandoned".to_owned()));
    assert!(bench.streams.size().1 <= 32);
}

#[test]
fn what_the_ring_was_too_full_for_is_told_with_its_place() {
    let mut bench = Bench::default();
    let loss = Loss { sent: 30, sent_span: [u32::MAX, 49], received: 0, ..Loss::default() };
    bench.with(|streams, out| streams.lost(ConnectionId(1), &loss, out));
    bench.says(&["client misses 50 sending at 4294967295"]);
}

#[test]
fn unix_ends_that_were_seen_from_birth_are_joined_at_the_first_read() {
    let mut kernel = Kernel { time: 0 };
    let (mut client, mut server) = unix_pair();
    let mut bench = Bench::default();
    bench.give([kernel.opened(&client, true), kernel.call(&mut client, Send, b"GET")]);
    bench.give([kernel.opened(&server, true), kernel.call(&mut server, Receive, b"GET")]).says(&[
        "client opened unix: to unix: born here",
        "client sent 0: |GET",
        "server opened unix: to unix: born here",
        "server = client +0 +0",
        "server got 0: |GET",
    ]);
}

#[test]
fn a_unix_end_that_was_quiet_is_joined_only_when_it_speaks_again() {
    let mut kernel = Kernel { time: 0 };
    let (mut client, mut server) = unix_pair();
    let mut bench = Bench::default();
    bench.give([kernel.opened(&client, true), kernel.call(&mut client, Send, b"GET")]);
    kernel.time += 5000 * MS;
    bench.give([kernel.opened(&server, true), kernel.call(&mut server, Receive, b"GET")]);
    assert!(bench.joined.is_empty());
    bench.give([kernel.call(&mut server, Send, b"200"), kernel.call(&mut client, Receive, b"200")]);
    assert_eq!(bench.joined, [(1, 2, 0, 0)]);
}

#[test]
fn a_reused_address_of_a_unix_socket_does_not_join_the_dead() {
    let mut kernel = Kernel { time: 0 };
    let (mut client, _) = unix_pair();
    let mut bench = Bench::default();
    bench.give([kernel.opened(&client, true), kernel.call(&mut client, Send, b"GET")]);
    // Both sockets are freed, and the next two get their addresses.
    let (mut next, mut server) = unix_pair();
    (next.id, server.id, next.unix.inode, server.unix.inode) = (11, 12, 7011, 7012);
    bench.give([kernel.opened(&next, true), kernel.call(&mut next, Send, b"GET")]);
    bench.give([kernel.opened(&server, true), kernel.call(&mut server, Receive, b"GET")]);
    assert_eq!(bench.joined, [(12, 11, 0, 0)]);
    assert!(bench.take().contains(&"client abandoned".to_owned()));
}

/// A request and its answer, over unix sockets that were there before us.
fn exchange(
    kernel: &mut Kernel,
    bench: &mut Bench,
    client: &mut Socket,
    server: &mut Socket,
    request: &[u8],
    answer: &[u8],
) {
    (client.unix.drained, server.unix.drained) = (false, false);
    bench.give([kernel.call(client, Send, request)]);
    server.unix.drained = true;
    bench.give([kernel.call(server, Receive, request), kernel.call(server, Send, answer)]);
    client.unix.drained = true;
    bench.give([kernel.call(client, Receive, answer)]);
}

#[test]
fn old_unix_ends_are_joined_when_their_queues_were_empty_twice() {
    let mut kernel = Kernel { time: 0 };
    let (mut client, mut server) = unix_pair();
    let mut bench = Bench::new(Limits::default(), &[7001, 7002]);
    // The server was met in the middle of a request: its count is 10 ahead of the client's.
    bench.give([kernel.call(&mut server, Receive, b"0123456789")]);
    exchange(&mut kernel, &mut bench, &mut client, &mut server, b"GET /a", b"200 OK");
    exchange(&mut kernel, &mut bench, &mut client, &mut server, b"GET /bc", b"204");
    assert!(bench.joined.is_empty());
    exchange(&mut kernel, &mut bench, &mut client, &mut server, b"GET /", b"200 OK");
    assert_eq!(bench.joined, [(2, 1, 0, 10)]);
}

#[test]
fn old_unix_ends_are_not_joined_while_one_of_them_is_silenced() {
    let mut kernel = Kernel { time: 0 };
    let (mut client, mut server) = unix_pair();
    let mut bench = Bench::new(Limits::default(), &[7001, 7002]);
    exchange(&mut kernel, &mut bench, &mut client, &mut server, b"a", b"b");
    wish(&mut bench.streams, 2, Receive, Policy::Nothing);
    for _ in 0..5 {
        exchange(&mut kernel, &mut bench, &mut client, &mut server, b"abc", b"defg");
    }
    assert!(bench.joined.is_empty());
}

#[test]
fn a_unix_pair_closes_when_one_end_reads_that_the_other_is_closed() {
    let mut kernel = Kernel { time: 0 };
    let (mut client, mut server) = unix_pair();
    let mut bench = Bench::default();
    exchange(&mut kernel, &mut bench, &mut client, &mut server, b"GET", b"200");
    bench.take();
    client.shutdown = 3;
    bench.give([kernel.call(&mut client, Receive, b"")]);
    bench.says(&["client closed peer-finished", "server closed finished-first"]);
    assert_eq!(bench.streams.size(), (0, 0));
}

#[test]
fn a_unix_end_that_reads_the_end_of_a_half_closed_stream_can_still_write() {
    let mut kernel = Kernel { time: 0 };
    let (mut client, mut server) = unix_pair();
    let mut bench = Bench::default();
    exchange(&mut kernel, &mut bench, &mut client, &mut server, b"GET", b"200");
    bench.take();
    server.shutdown = 1;
    bench.give([kernel.call(&mut server, Receive, b""), kernel.call(&mut server, Receive, b"")]);
    bench.give([kernel.call(&mut server, Send, b"204")]).says(&["server read all", "server sent 3: |204"]);
}

#[test]
fn what_a_unix_reader_was_not_seen_to_read_is_a_gap_at_its_end() {
    let mut kernel = Kernel { time: 0 };
    let (_, mut server) = unix_pair();
    let mut bench = Bench::default();
    bench.give([kernel.opened(&server, true), kernel.call(&mut server, Receive, b"abc")]);
    let _lost = kernel.call(&mut server, Receive, b"def");
    bench.take();
    server.shutdown = 1;
    bench.give([kernel.call(&mut server, Receive, b"")]);
    bench.says(&["server misses 3 getting at 3", "server got 3: 3 lost", "server read all"]);
}

#[test]
fn the_unix_ends_of_a_process_close_with_it() {
    let mut kernel = Kernel { time: 0 };
    let (mut client, mut server) = unix_pair();
    let mut bench = Bench::default();
    exchange(&mut kernel, &mut bench, &mut client, &mut server, b"GET", b"200");
    bench.take();
    bench.with(|streams, out| streams.process_exited(server.process, Monotonic(kernel.time), out));
    bench.says(&["server closed process-exited"]);
}

#[test]
fn a_unix_end_belongs_to_the_process_that_used_it_last() {
    let mut kernel = Kernel { time: 0 };
    let (_, mut server) = unix_pair();
    let mut bench = Bench::default();
    bench.give([kernel.opened(&server, true), kernel.call(&mut server, Receive, b"abc")]);
    let parent = server.process;
    server.process.pid += 1;
    bench.give([kernel.call(&mut server, Receive, b"def")]);
    bench.take();
    bench.with(|streams, out| streams.process_exited(parent, Monotonic(kernel.time), out));
    bench.says(&[]);
    bench.with(|streams, out| streams.process_exited(server.process, Monotonic(kernel.time), out));
    bench.says(&["server closed process-exited"]);
}

#[test]
fn a_unix_end_that_is_silent_too_long_is_given_up_and_goes_on_where_it_was() {
    let mut kernel = Kernel { time: 0 };
    let (mut client, _) = unix_pair();
    let mut bench = Bench::default();
    bench.give([kernel.opened(&client, true), kernel.call(&mut client, Send, b"abc")]);
    bench.take();
    kernel.time += 700_000 * MS;
    bench.poll(kernel.time).says(&["client abandoned"]);
    bench.give([kernel.call(&mut client, Send, b"def")]);
    bench.says(&["client opened 0.0.0.0:0 to 0.0.0.0:0 born here", "client sent 3: |def"]);
    assert_eq!(bench.streams.ledger().aged, 1);
}

#[test]
fn a_call_of_several_records_is_judged_once() {
    let mut step = Step::from_birth();
    let mut judge = |first| step.judge(10, 10, 10, Monotonic(1), first);
    assert_eq!([judge(First::Yes), judge(First::No), judge(First::No)], [Certainty::Proven; 3]);
}

#[test]
fn a_skew_that_was_learnt_while_a_call_was_under_way_is_corrected() {
    // Met late, at offset 1000, when another call had moved 50 bytes that no hook had counted yet.
    let mut step = Step::default();
    let mut judge = |end, moved, total| step.judge(end, moved, total, Monotonic(1), First::Yes);
    assert_eq!(judge(1060, 10, 10), Certainty::Likely);
    // The other's hook runs: nothing is under way, and the skew is lower.
    assert_eq!(judge(1060, 60, 50), Certainty::No);
    assert_eq!(judge(1070, 70, 10), Certainty::Proven);
}

#[test]
fn a_direction_once_caught_is_not_given_the_benefit_of_the_doubt_again() {
    let mut step = Step::from_birth();
    step.caught();
    // A hole before it, of calls that were counted: lost or silenced, or swapped with this one.
    assert_eq!(step.judge(30, 30, 10, Monotonic(1), First::Yes), Certainty::No);
    assert_eq!(step.judge(40, 40, 10, Monotonic(1), First::Yes), Certainty::Proven);
}
