//! Carries out what the stations ask for: what to capture, which processes to read from inside or to leave alone, whose
//! header tables to search for.
//!
//! It must never decide what is wished: a wish that cannot be carried out goes back to who made it.

use std::sync::Arc;

use spandrel_proto::record;

use super::{Pipeline, plaintext};
use crate::discover::hpack;
use crate::discover::runtimes::readers::Order;
use crate::discover::tables::{self, Answer, Ask};
use crate::exchange::{self, Want};
use crate::identity::{Direction, Monotonic};
use crate::stitch::Input;
use crate::{clock, log, tls};

impl Pipeline {
    /// Carries out wishes and reports gaps.
    pub(super) fn carry_out(&mut self) {
        for (process, _, claims) in self.stitcher.take_unowned() {
            self.readers.orphaned(process, &claims);
        }
        self.readers.collect();
        let (mut attached, mut failed) = (Vec::new(), Vec::new());
        for order in self.readers.orders() {
            match order {
                Order::Walk(process, walks) => self.kernel.walks().walk(process, &walks),
                Order::Stop(process) => self.kernel.forget(process),
                Order::Observe(process, mut set) => {
                    if let Some(budget) = self.probe_hits {
                        set.budget = budget;
                    }
                    match self.kernel.observe(process, &set) {
                        Ok(()) => {
                            attached.push((process, set.name, clock::monotonic()));
                            log::info(format_args!(
                                "process {}: {} is watched, {} probes attached",
                                process.pid,
                                set.name,
                                set.points.len()
                            ));
                        }
                        Err(error) => {
                            log::warn(format_args!(
                                "process {}: {} cannot be watched: {error:#}",
                                process.pid, set.name
                            ));
                            failed.push((process, set.name));
                        }
                    }
                }
                Order::Unobserve(process, name) => self.kernel.unobserve(process, name),
                Order::Doubt(process) => {
                    log::info(format_args!(
                        "process {}: what one request set going answered another: no link is inferred any more",
                        process.pid
                    ));
                    self.behind.inputs.push(Input::Doubted { process });
                }
            }
        }
        for (process, name, at) in attached {
            self.readers.attached(process, name, at);
        }
        for (process, name) in failed {
            self.readers.unobserved(process, name);
        }
        for (connection, Want { direction, policy }) in self.behind.wishes.drain(..) {
            if let Some(policy) = self.streams.policy(connection, direction, policy) {
                self.kernel.set_policy(connection, direction, policy);
            }
        }
        self.recall();
        for (session, pid, party) in self.behind.tls.over.drain(..) {
            let party = match party {
                tls::clear::Party::Client => record::PARTY_CLIENT,
                tls::clear::Party::Server => record::PARTY_SERVER,
            };
            self.kernel.forget_clear(&plaintext::name(&session), pid, party);
        }
        for process in self.behind.ignore.drain(..) {
            self.kernel.set_ignored(process.pid, Some(process.started));
        }
        for gap in self.behind.gaps.drain(..) {
            if let Some(report) = &mut self.sinks.gaps {
                report.write(&gap);
            }
        }
    }

    /// Searches for tables, and hands over those that were found.
    fn recall(&mut self) {
        let Some(searcher) = &mut self.searcher else { return };
        let behind = &mut self.behind;
        for connection in std::mem::take(&mut behind.recalls) {
            let processes = behind
                .processes(connection)
                .map(|process| process.filter(|process| behind.may_look_into(*process)));
            let not_before = Monotonic(clock::monotonic().0 + exchange::QUIET);
            searcher.ask(Ask { connection, processes, not_before });
            if !behind.awaiting.contains(&connection) {
                behind.awaiting.push(connection);
            }
        }
        while let Some(answer) = searcher.answer() {
            let Answer { asks, began, ended, processes, incomplete } = answer;
            let found: Vec<_> = processes.iter().map(|found| (found, tables_of(found))).collect();
            for Ask { connection, processes, not_before: _ } in asks {
                let Some(end) = behind.connections.get_mut(&connection) else { continue };
                let mut searched = Vec::new();
                for (process, receives) in processes.into_iter().zip([Direction::Receive, Direction::Send]) {
                    let of_process = found.iter().filter(|(found, _)| Some(found.process) == process);
                    searched.extend(of_process.map(|(found, tables)| exchange::Searched {
                        of: found.receives_only.then_some(receives),
                        grpc_only: found.grpc_only,
                        tables: tables.clone(),
                    }));
                }
                let tables = exchange::Tables { began, ended, processes: searched, incomplete };
                end.exchanges.tables(&Arc::new(tables));
            }
        }
    }
}

/// A process's tables as `exchange` takes them.
fn tables_of(found: &tables::Process) -> Vec<exchange::Table> {
    let entry = |entry: &hpack::Entry| {
        let hpack::Entry { name, value, size } = entry;
        exchange::TableEntry { name: name.clone(), value: value.clone(), size: *size as usize }
    };
    let table = |(entries, limit): &(Arc<[hpack::Entry]>, u64)| exchange::Table {
        entries: entries.iter().map(entry).collect(),
        limit: *limit as usize,
    };
    found.tables.iter().map(table).collect()
}
