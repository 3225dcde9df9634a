//! What stands behind the streams, a connection each: the layer of TLS, the exchanges, and what is passed on to `stitch`.
//!
//! The streams hand their pieces over while they are at work themselves, so nothing here may ask them for anything: what
//! is wished for is noted, and carried out when they are done. No connection may be forgotten without its books.

use foldhash::{HashMap, HashMapExt as _};
use spandrel_proto::record::Data;

use super::encrypted::Encrypted;
use super::plaintext::Probed;
use super::{FRESH, LOOKS, Ledger};
use crate::discover;
use crate::discover::select::{Selection, Verdict};
use crate::discover::table::ProcessTable;
use crate::discover::tls_modes::Mode;
use crate::exchange::{self, Connection, Want};
use crate::identity::{Address, ConnectionId, Direction, Moment, Monotonic, ProcessKey, Role};
use crate::stitch::{Endpoints, Input, Serving};
use crate::stream::{self, Event};
use crate::sum::Sum as _;
use crate::{log, tls};

/// Processes whose verdict is remembered; as many as the process table knows. Beyond, all are asked again.
const MAX_VERDICTS: usize = 65_536;

/// How many exchanges wait for header tables, over all connections, but for a few of each: far less than `stitch` has room for.
const MAX_RECALLING: usize = 8192;

/// The connections, and what they and their processes bring about.
pub(super) struct Behind {
    pub(super) table: ProcessTable,
    /// Which processes are traced.
    pub(super) selection: Selection,
    /// The verdict on each process that was asked about; empty without a selection.
    pub(super) verdicts: HashMap<ProcessKey, Verdict>,
    pub(super) connections: HashMap<ConnectionId, End>,
    /// For `stitch`.
    pub(super) inputs: Vec<Input>,
    /// For the kernel side: what to capture.
    pub(super) wishes: Vec<(ConnectionId, Want)>,
    /// Connections may ask for tables; those that do now; those that wait for them.
    pub(super) recall: bool,
    pub(super) recalls: Vec<ConnectionId>,
    pub(super) awaiting: Vec<ConnectionId>,
    /// For the report of gaps.
    pub(super) gaps: Vec<stream::Gap>,
    /// Processes that turned out not to be traced.
    pub(super) ignore: Vec<ProcessKey>,
    /// Programs that have just begun.
    pub(super) fresh: Vec<ProcessKey>,
    /// How many of them may still be looked at in this second.
    pub(super) looks: usize,
    /// What the exchanges of the connection at hand have brought about, until it is passed on.
    pub(super) scratch: exchange::Output,
    /// What their layers of TLS share.
    pub(super) tls: Encrypted,
    pub(super) gone: Gone,
    pub(super) ledger: Ledger,
}

/// The books of connections that are gone.
#[derive(Clone, Default)]
pub(super) struct Gone {
    pub(super) exchange: exchange::Ledger,
    pub(super) parsers: exchange::Parsers,
    pub(super) tls: tls::Ledger,
}

impl Gone {
    /// Takes over the books of these exchanges.
    pub(super) fn exchanges(&mut self, exchanges: &Connection) {
        self.exchange.add(&exchanges.ledger());
        self.parsers.add(&exchanges.parser_ledger());
    }

    /// What a connection said so far belongs to nothing that follows: its exchanges begin anew.
    pub(super) fn replace(
        &mut self,
        exchanges: &mut Connection,
        fresh: Connection,
        output: &mut exchange::Output,
    ) {
        let mut before = std::mem::replace(exchanges, fresh);
        before.abandoned(output);
        self.exchanges(&before);
    }
}

/// One end of a connection.
pub(super) struct End {
    pub(super) exchanges: Connection,
    pub(super) ends: Endpoints,
    /// The process that used it last.
    pub(super) process: Option<ProcessKey>,
    pub(super) layer: tls::Layer,
    /// Its ClientHello is known to `keys`.
    pub(super) hello: Option<tls::Random>,
    /// What was asked for last, once it is TLS: of what is received, of what is sent.
    pub(super) asked: [Option<exchange::Policy>; 2],
    /// Secrets that were found before a hello was read.
    pub(super) early: Option<tls::Secrets>,
    /// When it was opened.
    pub(super) opened: Monotonic,
    /// Its plaintext, if probes read it.
    pub(super) clear: Option<Probed>,
    /// The last calls on its socket while probes read its plaintext: that received, that sent.
    pub(super) calls: [Option<Moment>; 2],
    /// It is among those whose secrets are waited for.
    pub(super) keyless: bool,
    /// The other end, if it is here.
    pub(super) peer: Option<ConnectionId>,
}

impl End {
    /// The two ends and what lies between them.
    fn ends_of(&self) -> Endpoints {
        Endpoints { tls: self.layer.agreed(), ..self.ends.clone() }
    }
}

impl Behind {
    /// No connection is known yet, and no TLS is read.
    pub(super) fn new(table: ProcessTable, selection: Selection) -> Self {
        Self {
            table,
            selection,
            verdicts: HashMap::new(),
            connections: HashMap::new(),
            inputs: Vec::new(),
            wishes: Vec::new(),
            recall: false,
            recalls: Vec::new(),
            awaiting: Vec::new(),
            gaps: Vec::new(),
            ignore: Vec::new(),
            fresh: Vec::new(),
            looks: LOOKS,
            scratch: exchange::Output::default(),
            tls: Encrypted::default(),
            gone: Gone::default(),
            ledger: Ledger::default(),
        }
    }

    /// Whether a call's bytes are wanted: the kernel side records everything until it is told otherwise.
    pub(super) fn admits(&mut self, data: &Data) -> Verdict {
        if self.selection.is_everything() {
            return Verdict::Selected;
        }
        let process = stream::process(&data.header);
        let verdict = self.admits_process(process);
        if verdict == Verdict::IfItServes {
            let connection = ConnectionId(data.socket.connection);
            let local = self.connections.get(&connection).and_then(|end| end.ends.local.as_ref());
            if matches!(local, Some(Address::Ip(ip)) if self.selection.serves(ip.port())) {
                self.verdicts.insert(process, Verdict::Selected);
                // It was not looked into when the agent started, and may have sessions that are older.
                if self.tls.encrypting.len() < FRESH {
                    self.tls.encrypting.push(process);
                }
                return Verdict::Selected;
            }
        }
        if verdict != Verdict::Selected {
            self.ledger.not_selected_records += 1;
            self.ledger.not_selected_bytes += u64::from(data.captured);
        }
        verdict
    }

    /// Whether a process is traced.
    pub(super) fn admits_process(&mut self, process: ProcessKey) -> Verdict {
        if self.selection.is_everything() {
            return Verdict::Selected;
        }
        if let Some(verdict) = self.verdicts.get(&process) {
            return *verdict;
        }
        let verdict = self.table.verdict(process, &self.selection);
        if verdict == Verdict::No {
            self.ignore.push(process);
        }
        // Entries go with their process; this is for those whose exit record was lost.
        if self.verdicts.len() >= MAX_VERDICTS {
            self.verdicts.clear();
        }
        self.verdicts.insert(process, verdict);
        verdict
    }

    /// What the streams make of a record.
    pub(super) fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Connecting { connection, at, peer } => {
                let serving = serving(&mut self.table, at.process);
                self.inputs.push(Input::Connecting { connection, at: *at, peer, serving });
            }
            Event::Connected { connection } => self.inputs.push(Input::Connected { connection }),
            Event::ConnectFailed { connection, time, errno } => {
                self.inputs.push(Input::ConnectFailed { connection, time, errno });
            }
            Event::Opened(opened) => self.opened(opened),
            Event::Piece { connection, direction, piece } => self.piece(connection, direction, &piece),
            Event::Joined { a, b, a_to_b, b_to_a } => {
                for (one, other) in [(a, b), (b, a)] {
                    if let Some(end) = self.connections.get_mut(&one) {
                        end.peer = Some(other);
                    }
                    let secrets = self.connections.get(&one).and_then(|end| end.early.clone());
                    if let Some(secrets) = secrets {
                        self.late(other, &secrets);
                    }
                }
                self.inputs.push(Input::Joined { a, b, a_to_b, b_to_a });
            }
            // A half-closed connection can still be written to: its exchange goes on until it is closed.
            Event::Finished { .. } => {}
            Event::Closed { connection, closed } => {
                let waits = |end: &End| end.keyless && end.layer.state() == tls::State::Waiting;
                if self.connections.get(&connection).is_some_and(waits)
                    && let Some(keyless) =
                        self.tls.keyless.iter_mut().find(|other| other.connection == connection)
                {
                    // What it said may be read yet.
                    keyless.closed = Some(closed.clone());
                    return;
                }
                self.close(connection, closed);
            }
            Event::Abandoned { connection, time } => {
                self.forget(connection, time, |exchanges, output| exchanges.abandoned(output));
            }
            Event::Gap(gap) => self.gaps.push(gap.clone()),
        }
    }

    /// A connection is there.
    fn opened(&mut self, opened: &stream::Opened) {
        let known = |address: &Address| match address {
            Address::Ip(ip) if ip.port() == 0 => None,
            known => Some(known.clone()),
        };
        let ends = Endpoints {
            local: known(&opened.local),
            peer: known(&opened.peer),
            // Two TCP ends are joined when they are opened, unix ends at their first records, which
            // can come in any order.
            born_here: opened.born_here && matches!(opened.local, Address::Ip(_)),
            tls: None,
        };
        let fresh = conversation(self.recall, opened.connection, opened.born_here);
        self.connections.entry(opened.connection).and_modify(|end| end.ends = ends.clone()).or_insert_with(
            || End {
                exchanges: fresh,
                ends,
                process: None,
                layer: tls::Layer::default(),
                opened: opened.time,
                clear: None,
                calls: [None; 2],
                hello: None,
                asked: [None; 2],
                early: None,
                keyless: false,
                peer: None,
            },
        );
        self.came_early(opened);
    }

    /// A piece of a connection's bytes goes to its exchanges, through the layer of TLS if there is one.
    fn piece(&mut self, connection: ConnectionId, direction: Direction, piece: &stream::Piece<'_>) {
        let recall = self.recall;
        let Some(end) = self.connections.get(&connection) else { return };
        let may = match end.exchanges.protocol() {
            exchange::Classified::Unknown | exchange::Classified::Other(_) => {
                match self.tls_mode(piece.moment.process) {
                    Mode::Keys => tls::May::Begin,
                    Mode::Probes => tls::May::BeginProbed,
                    Mode::Off => tls::May::NotBegin,
                }
            }
            _ => tls::May::NotBegin,
        };
        let Some(end) = self.connections.get_mut(&connection) else { return };
        end.process = Some(piece.moment.process);
        if log::is_on(log::Level::Trace) {
            let (what, length) = match piece.content {
                stream::Content::Bytes(bytes) => ("bytes", bytes.len() as u64),
                stream::Content::Gap { length, cause } => (cause.name(), length),
            };
            log::trace(format_args!("{connection:?} {direction:?} {}: {length} {what}", piece.offset));
        }
        let End { exchanges, layer, .. } = end;
        let scratch = &mut self.scratch;
        if layer.begins(piece, may) && matches!(exchanges.protocol(), exchange::Classified::Other(_)) {
            // What is spoken inside is not what was seen outside.
            let fresh = conversation(recall, connection, false);
            self.gone.replace(exchanges, fresh, scratch);
        }
        layer.piece(direction, piece, may, &mut |direction, piece| {
            exchanges.piece(direction, &piece, scratch);
        });
        if layer.state() != tls::State::Plain {
            end.calls[usize::from(direction == Direction::Send)] = Some(*piece.moment);
            self.encrypted(connection, piece.moment);
        }
        self.pass_on(connection);
    }

    /// A connection is over.
    pub(super) fn close(&mut self, connection: ConnectionId, closed: &stream::Closed) {
        self.forget(connection, closed.time, |exchanges, output| exchanges.closed(closed, output));
    }

    /// Ends a connection's exchanges in this way, and keeps nothing of it but its books.
    fn forget(
        &mut self,
        connection: ConnectionId,
        time: Monotonic,
        end_exchanges: impl FnOnce(&mut Connection, &mut exchange::Output),
    ) {
        if let Some(mut end) = self.connections.remove(&connection) {
            self.end_layer(connection, &mut end);
            end_exchanges(&mut end.exchanges, &mut self.scratch);
            let ends = end.ends_of();
            self.gone.exchanges(&end.exchanges);
            self.gone.tls.add(&end.layer.ledger());
            self.pass_on_of(connection, &ends);
        }
        self.inputs.push(Input::ConnectionClosed { connection, time });
    }

    /// The processes at this end and at the other, as far as they are known.
    pub(super) fn processes(&self, connection: ConnectionId) -> [Option<ProcessKey>; 2] {
        let end = self.connections.get(&connection);
        let other = end.and_then(|end| end.peer).and_then(|peer| self.connections.get(&peer));
        [end, other].map(|end| end.and_then(|end| end.process))
    }

    /// Lets go of exchanges that have waited for tables for long enough.
    pub(super) fn let_go(&mut self, now: Monotonic) {
        let awaiting = std::mem::take(&mut self.awaiting);
        let room = MAX_RECALLING / awaiting.len().max(1);
        for connection in awaiting {
            let Some(end) = self.connections.get_mut(&connection) else { continue };
            end.exchanges.poll(now, &mut self.scratch);
            end.exchanges.set_tables_room(room);
            if end.exchanges.awaits_tables() {
                self.awaiting.push(connection);
            }
            self.pass_on(connection);
        }
    }

    /// Whether a process's sessions may be looked into: never before it is known to be selected.
    pub(super) fn may_look_into(&mut self, process: ProcessKey) -> bool {
        self.selection.is_everything() || self.table.verdict(process, &self.selection) == Verdict::Selected
    }

    /// Passes on what the exchanges of a connection have brought about.
    pub(super) fn pass_on(&mut self, connection: ConnectionId) {
        if self.scratch.events.is_empty() && self.scratch.wishes.is_empty() && !self.scratch.tables {
            return;
        }
        let ends = self.connections.get(&connection).map(End::ends_of).unwrap_or_default();
        self.pass_on_of(connection, &ends);
    }

    fn pass_on_of(&mut self, connection: ConnectionId, ends: &Endpoints) {
        let mut scratch = std::mem::take(&mut self.scratch);
        self.wishes.extend(scratch.wishes.drain(..).map(|want| (connection, want)));
        if std::mem::take(&mut scratch.tables) {
            self.recalls.push(connection);
        }
        for event in scratch.events.drain(..) {
            self.inputs.push(match event {
                exchange::Event::Opened { id, role, began, at, head, carried } => {
                    let process = began.process;
                    let serving = serving(&mut self.table, process);
                    let resource = self.table.resource(process);
                    log::trace(format_args!(
                        "{} of {} opened by thread {} on {:?}",
                        if role == Role::Server { "server exchange" } else { "client exchange" },
                        resource.service,
                        began.thread.0,
                        id
                    ));
                    Input::Opened {
                        id,
                        role,
                        began,
                        at,
                        head,
                        carried,
                        ends: ends.clone(),
                        resource,
                        serving,
                    }
                }
                exchange::Event::Responding { id, at } => Input::Responding { id, at },
                exchange::Event::Closed(exchange) => Input::Closed(exchange),
            });
        }
        self.scratch = scratch;
    }
}

/// The exchanges of a connection of which nothing is known yet.
pub(super) fn conversation(recall: bool, connection: ConnectionId, born_here: bool) -> Connection {
    let fresh = Connection::new(connection, born_here);
    if recall { fresh.recalling() } else { fresh }
}

/// How a process serves, as `stitch` says it.
fn serving(table: &mut ProcessTable, process: ProcessKey) -> Serving {
    match table.serving(process) {
        discover::Serving::Unknown => Serving::Unknown,
        discover::Serving::OneRequestPerThread => Serving::OneRequestPerThread,
        discover::Serving::OneIfBlocking => Serving::OneIfBlocking,
        discover::Serving::ManyPerThread => Serving::ManyPerThread,
    }
}
