//! Takes each record of the kernel to the station that it is for.
//!
//! It decides nothing but whether a process is traced at all. It must never keep a record: what the ring lends is
//! copied by the station that wants it.

use spandrel_proto::record::{self, Data, FLAG_FIRST, FLAG_SEND, Record};
use spandrel_proto::tls::LIBRARY;

use super::{FRESH, Pipeline, plaintext};
use crate::discover::runtimes::{Hit, Seen};
use crate::discover::select::Verdict;
use crate::discover::table::ExecFacts;
use crate::identity::{ConnectionId, Direction, Monotonic, ProcessKey, ThreadId};
use crate::stitch::Input;
use crate::stream;

impl Pipeline {
    /// Takes at most so many records; how many there were.
    pub(super) fn drain(&mut self, most: usize) -> usize {
        let Self { kernel, readers, words, stitcher, streams, behind, exits, drop_one_in, sessions, .. } =
            self;
        kernel.drain(most, &mut |record| match record {
            Record::Data { data, words: found, bytes } => {
                let dropped = drop_one_in.is_some_and(|every| rand::random_ratio(1, every.get()));
                match behind.admits(&data) {
                    _ if dropped => {}
                    Verdict::Selected => {
                        let process = stream::process(&data.header);
                        let first = data.header.flags & FLAG_FIRST != 0;
                        let evidence = if first && readers.knows(process) {
                            words.clear();
                            words.extend(record::words(found));
                            let facts = readers.read(process, &seen(&data, words, bytes));
                            stitcher.note(facts)
                        } else {
                            None
                        };
                        streams.data(&data, evidence, bytes, &mut |event| behind.event(event));
                    }
                    Verdict::IfItServes => {}
                    Verdict::No => {
                        let (connection, time) = (data.socket.connection, data.header.time);
                        streams.leave_out(ConnectionId(connection), Monotonic(time), &mut |event| {
                            behind.event(event);
                        });
                    }
                }
            }
            Record::Opened { opened, path } => {
                streams.opened(&opened, path, &mut |event| behind.event(event))
            }
            Record::Connecting { connecting, words: found } => {
                let process = stream::process(&connecting.header);
                if behind.admits_process(process) != Verdict::Selected {
                    return;
                }
                let evidence = readers.knows(process).then(|| {
                    words.clear();
                    words.extend(record::words(found));
                    let seen = Seen {
                        tag: connecting.walk,
                        words,
                        time: Monotonic(connecting.header.time),
                        thread: ThreadId(connecting.header.thread),
                        connection: ConnectionId(connecting.socket.connection),
                        direction: Direction::Send,
                        bytes: &[],
                    };
                    readers.read(process, &seen)
                });
                let evidence = evidence.and_then(|facts| stitcher.note(facts));
                streams.connecting(&connecting, evidence, &mut |event| behind.event(event));
            }
            Record::State(state) => streams.state(&state, &mut |event| behind.event(event)),
            Record::Exec { header, cgroup, filename, arguments } => {
                let key = stream::process(&header);
                behind.verdicts.remove(&key);
                readers.began(key);
                if let Some(exec) = key.exec.checked_sub(1) {
                    readers.ended(ProcessKey { exec, ..key });
                }
                if behind.fresh.len() < FRESH {
                    behind.fresh.push(key);
                }
                behind.table.exec(ExecFacts {
                    key,
                    filename: filename.to_vec(),
                    argv: arguments.to_vec(),
                    cgroup_id: cgroup,
                    time: Monotonic(header.time),
                });
            }
            Record::Fork(fork) => {
                let child = ProcessKey { pid: fork.pid, exec: fork.exec, started: fork.started };
                behind.table.fork(stream::process(&fork.header), child, Monotonic(fork.header.time));
            }
            Record::Observed { observed, words: found } => {
                let process = stream::process(&observed.header);
                words.clear();
                words.extend(record::words(found));
                let hit = Hit {
                    address: observed.address,
                    tag: observed.walk,
                    words,
                    time: Monotonic(observed.header.time),
                    thread: ThreadId(observed.header.thread),
                };
                for birth in readers.observed(process, &hit) {
                    behind.inputs.push(Input::Born { process, birth });
                }
            }
            Record::Plain { plain, bytes } => {
                let process = stream::process(&plain.header);
                if behind.admits_process(process) == Verdict::Selected {
                    let since = sessions
                        .as_ref()
                        .and_then(|sessions| sessions.since(process.pid, plain.party & LIBRARY));
                    behind.plain(plaintext::clear(&plain, bytes, since));
                }
            }
            Record::Exit(header) => {
                let (process, time) = (stream::process(&header), Monotonic(header.time));
                streams.process_exited(process, time, &mut |event| behind.event(event));
                behind.table.exit(process, time);
                readers.ended(process);
                behind.verdicts.remove(&process);
                exits.push_back((time, process));
            }
        })
    }
}

/// A call, as the readers of runtimes see it.
fn seen<'a>(data: &Data, words: &'a [u64], bytes: &'a [u8]) -> Seen<'a> {
    Seen {
        tag: data.walk,
        words,
        time: Monotonic(data.header.time),
        thread: ThreadId(data.header.thread),
        connection: ConnectionId(data.socket.connection),
        direction: if data.header.flags & FLAG_SEND != 0 { Direction::Send } else { Direction::Receive },
        bytes,
    }
}
