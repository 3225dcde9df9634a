//! A TLS connection as one of its ends sees it: records of both directions in, plaintext out.
//!
//! Records that need a key which is not known yet wait, in order of arrival and bounded. Keys may come
//! before, between or after the records that need them; what comes out is the same, or less, never other.
//!
//! It must never yield a byte whose place is not certain, and never keep a secret longer than the session.

use std::collections::VecDeque;

use super::cipher::{Opener, Party};
use super::handshake::{Hello, ServerHello};
use super::ledger::{Ledger, Sealed};
use super::record::{APPLICATION_DATA, CHANGE_CIPHER_SPEC, Framed, Framer, HANDSHAKE, HEADER, Record};
use super::secret::{Random, Secret, Secrets};
use super::suite::{Bulk, SUITES, Suite, Version, suite};
use super::trial::{self, Trial};
use super::way::{Epoch, Numbers, Tried, Way};
use crate::identity::{Direction, Moment};
use crate::stream::{Content, GapCause, Piece};

/// How many bytes of records may wait for a key on one connection. What waits is the end of a handshake
/// and the first requests: 64 KiB hold both of most programs. More: the bodies of further records are dropped.
pub const MAX_WAITING_BYTES: usize = 64 * 1024;

/// How many records of a session that is older than we are may be refused before it is given up.
const MAX_GUESSES: u32 = 8;

/// How often other secrets may begin that anew: a program whose sessions cannot be told apart brings one's at each call of another.
const MAX_RENEWALS: u32 = 16;

/// Records of a direction on which guesses are tried, and how long they may be: a handshake's come first, of which the client has one, or
/// with a certificate three.
const GUESSED_RECORDS: usize = 8;
const GUESSED_OF_CLIENT: usize = 4;
const MAX_GUESSED: usize = 4096;

/// How many records may wait. More: no key is waited for any longer.
pub const MAX_WAITING_RECORDS: usize = 512;

/// What the two ends have agreed on, as far as it was seen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Agreed {
    /// The version.
    pub version: Option<Version>,
    /// The cipher suite's name.
    pub cipher: Option<&'static str>,
    /// The protocol by ALPN, where it is said in clear.
    pub protocol: Option<Box<str>>,
}

/// Where plaintext goes.
pub(super) type Sink<'a> = dyn FnMut(Direction, Piece<'_>) + 'a;

/// What of a trial's guesses opens records of a session.
#[derive(Debug)]
pub enum Fits {
    /// None.
    Nothing,
    /// Those that open one direction, as guesses still: copies of secrets lie about of which one is overwritten already, and with
    /// the right one of the other direction its records would be taken for the handshake's.
    OneDirection(Secrets),
    /// Those that open it.
    Both {
        /// With all that lay beside them.
        secrets: Secrets,
        /// Of a guess that keeps the client's traffic secret before the server's, the client's.
        client: Option<Secret>,
    },
}

/// A TLS connection.
#[derive(Debug)]
pub(super) struct Session {
    send: Way,
    receive: Way,
    /// In which direction the ClientHello went.
    client: Option<Direction>,
    random: Option<Random>,
    server: Option<ServerHello>,
    secrets: Secrets,
    /// Guesses that a record has proven, until they are asked for.
    proven: Option<Secrets>,
    waiting: VecDeque<(Direction, Waiting)>,
    waiting_bytes: usize,
    /// No key is waited for any longer.
    given_up: bool,
    /// A hello was read: this is TLS.
    genuine: bool,
    /// It is older than we are: no hello was seen, and none will be.
    late: bool,
    opened_both: bool,
    /// Probes read its plaintext: nothing is to be opened.
    probed: bool,
    /// Records that no suite has opened, with what is known now.
    guesses: u32,
    renewals: u32,
}

/// What waits for a key, in order.
#[derive(Debug)]
enum Waiting {
    Record(Record),
    /// Bytes that are in no record, and are counted already.
    Lost {
        offset: u64,
        length: u64,
        moment: Moment,
    },
}

impl Waiting {
    fn moved(&self) -> u64 {
        match self {
            Self::Record(record) => record.moved(),
            Self::Lost { .. } => 0,
        }
    }
}

/// What became of one record, for the books.
enum Fate {
    Handshake,
    Opened,
    Sealed(Sealed),
    Waits(Record),
}

impl Session {
    /// One whose first record begins at this offset of this direction.
    pub fn new(direction: Direction, offset: u64, probed: bool) -> Self {
        let mut session = Self {
            send: Way::default(),
            receive: Way::default(),
            client: None,
            random: None,
            server: None,
            secrets: Secrets::default(),
            proven: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            given_up: false,
            genuine: false,
            late: false,
            opened_both: false,
            probed,
            guesses: 0,
            renewals: 0,
        };
        session.way(direction).framer = Some(Framer::aligned(offset));
        session
    }

    /// One whose handshake was not seen, with secrets that may be its own.
    pub fn late(direction: Direction, offset: u64, secrets: &Secrets) -> Self {
        let mut session = Self::new(direction, offset, false);
        session.secrets.add(&secrets.all());
        (session.late, session.genuine) = (true, true);
        session
    }

    fn of(&self, direction: Direction) -> &Way {
        match direction {
            Direction::Send => &self.send,
            Direction::Receive => &self.receive,
        }
    }

    fn way(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::Send => &mut self.send,
            Direction::Receive => &mut self.receive,
        }
    }

    /// The random bytes of the ClientHello, once it was seen.
    pub fn random(&self) -> Option<Random> {
        self.random
    }

    /// In which direction the ClientHello went, once it was seen.
    pub fn client(&self) -> Option<Direction> {
        self.client
    }

    /// True if all that follows stays sealed, since probes read its plaintext.
    pub fn is_probed(&self) -> bool {
        let sealed = |way: &Way| matches!(way.epoch, Epoch::Sealed);
        self.probed && (sealed(&self.send) || sealed(&self.receive))
    }

    /// Probes have read something of it.
    pub fn told(&mut self, ledger: &mut Ledger) {
        if !std::mem::replace(&mut self.opened_both, true) {
            ledger.sessions_opened += 1;
        }
    }

    /// True if records wait for a key.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// True if a hello was read.
    pub fn is_genuine(&self) -> bool {
        self.genuine
    }

    /// True if it turned out not to be TLS.
    pub fn is_mistaken(&self) -> bool {
        let lost = |way: &Way| way.framer.as_ref().is_some_and(Framer::is_lost);
        !self.genuine && (lost(&self.send) || lost(&self.receive))
    }

    /// True if nothing is known of it but secrets that may be another's.
    pub fn is_guessed(&self) -> bool {
        self.late && self.server.is_none()
    }

    /// True if plaintext comes out of both directions.
    pub fn is_open(&self) -> bool {
        self.send.proven && self.receive.proven
    }

    /// True if no plaintext will come any more.
    pub fn is_hopeless(&self) -> bool {
        self.given_up
            || self.unsupported()
            || matches!((&self.send.epoch, &self.receive.epoch), (Epoch::Dead, Epoch::Dead))
    }

    /// True if the headers of records tell how much plaintext this direction has.
    pub fn is_measured(&self, direction: Direction) -> bool {
        matches!(&self.of(direction).epoch, Epoch::Open(opener) if opener.length_is_exact())
    }

    /// The version that was agreed on.
    pub fn version(&self) -> Option<Version> {
        self.server.as_ref().and_then(|server| server.version)
    }

    /// What was agreed on.
    pub fn agreed(&self) -> Agreed {
        let server = self.server.as_ref();
        Agreed {
            version: server.and_then(|server| server.version),
            cipher: self.suite().map(|suite| suite.name),
            protocol: server.and_then(|server| server.protocol.clone()),
        }
    }

    /// Bytes kept now.
    pub fn held(&self) -> u64 {
        let framed = |way: &Way| way.framer.as_ref().map_or(0, Framer::held);
        let waiting: u64 = self.waiting.iter().map(|(_, waiting)| waiting.moved()).sum();
        waiting + framed(&self.send) + framed(&self.receive)
    }

    /// Takes the next piece of one direction.
    pub fn piece(
        &mut self,
        direction: Direction,
        piece: &Piece<'_>,
        ledger: &mut Ledger,
        out: &mut Sink<'_>,
    ) {
        let probed = self.probed;
        let way = self.way(direction);
        if probed && matches!(way.epoch, Epoch::Sealed) {
            let held = way.framer.take().map_or(0, |mut framer| framer.close());
            let moved = match piece.content {
                Content::Bytes(bytes) => bytes.len() as u64,
                Content::Gap { length, .. } => length,
            };
            return ledger.seal(Sealed::Probed, held + moved);
        }
        let mut framer = way.framer.take().unwrap_or_else(|| Framer::aligned(piece.offset));
        let mut refused = false;
        framer.piece(piece, &mut |framed| match framed {
            Framed::Record(record) => {
                let found = record.found;
                let taken = self.record(direction, record, ledger, out);
                refused |= found && !taken;
            }
            Framed::Lost { offset, length, moment } => {
                ledger.seal(Sealed::Lost, length);
                self.lost(direction, offset, length, &moment, ledger, out);
            }
        });
        if refused {
            let held = framer.close();
            ledger.seal(Sealed::Lost, held);
        }
        self.way(direction).framer = Some(framer);
        self.prove(ledger, out);
    }

    /// Tries guesses on what waits: those that open both directions are this session's secrets.
    fn prove(&mut self, ledger: &mut Ledger, out: &mut Sink<'_>) {
        if self.secrets.guesses.is_empty() || !self.is_provable() {
            return;
        }
        let mut trial = Trial::default();
        for traffic in &self.secrets.guesses {
            trial.add(None, traffic.clone());
        }
        match self.fits(&mut trial, 0) {
            Fits::Nothing => {}
            Fits::OneDirection(guesses) => self.secrets.renew(guesses),
            Fits::Both { secrets, .. } => {
                // What else was guessed is others'.
                self.secrets.guesses.clear();
                self.secrets.add(&secrets);
                self.proven = Some(secrets);
                self.pump(ledger, out);
            }
        }
    }

    /// Guesses that a record has proven since this was asked last.
    pub fn take_proven(&mut self) -> Option<Secrets> {
        self.proven.take()
    }

    /// Secrets that may be this session's.
    pub fn secrets(&mut self, secrets: &Secrets, ledger: &mut Ledger, out: &mut Sink<'_>) {
        let all = self.is_guessed().then(|| secrets.all());
        if self.secrets.add(all.as_ref().unwrap_or(secrets)) {
            if self.is_guessed() && self.renewals < MAX_RENEWALS {
                (self.guesses, self.given_up) = (0, false);
                self.renewals += 1;
            }
            self.send.revive();
            self.receive.revive();
            self.pump(ledger, out);
            self.prove(ledger, out);
        }
    }

    /// What of these guesses opens records that wait, as the first of their direction. In TLS 1.3 both directions must be opened, or the
    /// records of the other would be taken for the handshake's.
    pub fn fits(&self, trial: &mut Trial, number: usize) -> Fits {
        let Some(suite) = self.suite() else { return Fits::Nothing };
        let (mut fitting, mut guesses, mut client) = (Secrets::default(), Secrets::default(), None);
        let mut opened = 0;
        let client_direction = self.client.unwrap_or(Direction::Send);
        for direction in [client_direction, client_direction.opposite()] {
            // What was opened before, and goes on when the other does.
            if self.of(direction).proven && self.waiting.front().is_none_or(|(of, _)| *of != direction) {
                opened += 1;
                continue;
            }
            let is_client = self.client == Some(direction);
            // A secret is worth more than a key: of it come those of later generations. What opens nothing of the client's is not
            // tried on the server's, whose handshake may be long.
            if suite.version == Version::Tls13
                && (is_client || opened > 0)
                && let Some((traffic, which)) = trial.opening(suite, &self.guessed(direction), number)
            {
                let at = if is_client { Some(which) } else { which.checked_sub(1) };
                client = client.or_else(|| at.and_then(|at| traffic.get(at).cloned()));
                fitting.add(&Secrets { traffic: traffic.to_vec(), ..Secrets::default() });
                guesses.guesses.push(traffic.to_vec());
                opened += 1;
                continue;
            }
            if self.wants_key()
                && let Some(key) = trial.proving(suite, &self.sealed(direction))
            {
                fitting.keys.push(key);
                opened += 1;
            }
        }
        match suite.version {
            Version::Tls13 if opened < 2 && guesses.guesses.is_empty() => Fits::Nothing,
            Version::Tls13 if opened < 2 => Fits::OneDirection(guesses),
            version if fitting.is_enough(version) => Fits::Both { secrets: fitting, client },
            _ => Fits::Nothing,
        }
    }

    /// True if what waits is enough to prove guesses by, should they be right. Before, a program may not have derived what is looked for.
    /// In TLS 1.3 that is something of the client's behind its Finished, which is one record (RFC 8446 §4.4.4); in TLS 1.2, where each
    /// direction has a key of its own, something of each.
    pub fn is_provable(&self) -> bool {
        let has = |direction: Direction, number: usize| {
            let mut sealed = self.waiting.iter().filter(|(of, waiting)| {
                *of == direction
                    && matches!(waiting, Waiting::Record(record) if record.kind() != CHANGE_CIPHER_SPEC)
            });
            self.of(direction).proven || sealed.nth(number).is_some()
        };
        self.waits()
            && match (self.version(), self.client) {
                (Some(Version::Tls13), Some(client)) => has(client, 1),
                (Some(Version::Tls12), Some(_)) => has(Direction::Send, 0) && has(Direction::Receive, 0),
                _ => true,
            }
    }

    /// The records of a direction on which guesses are tried: not the first that is sealed, which is the handshake's, whose secrets lie
    /// about as those of the data do, and are of no use.
    fn guessed(&self, direction: Direction) -> Vec<&Record> {
        let way = self.of(direction);
        let sealed = usize::from(!way.proven && way.number == 0);
        let most = if self.client == Some(direction) { GUESSED_OF_CLIENT } else { GUESSED_RECORDS };
        let records = self.waiting.iter().filter(|(of, _)| *of == direction);
        let records = records.filter_map(|(_, waiting)| match waiting {
            Waiting::Record(record) => Some(record),
            Waiting::Lost { .. } => None,
        });
        let records = records.filter(|record| record.kind() == APPLICATION_DATA).skip(sealed);
        let whole = records.filter(|record| record.missing.is_none() && record.body.len() <= MAX_GUESSED);
        whole.take(most).collect()
    }

    /// True if a key of AES, without a secret, could open it.
    pub fn wants_key(&self) -> bool {
        self.suite().is_some_and(|suite| matches!(suite.bulk, Bulk::Aes128Gcm | Bulk::Aes256Gcm))
    }

    /// The sealed records of a direction that wait, from the first on, as far as their numbers are certain.
    fn sealed(&self, direction: Direction) -> Vec<trial::Sealed<'_>> {
        let (way, version) = (self.of(direction), self.suite().map(|suite| suite.version));
        let first = if matches!(way.epoch, Epoch::Sealed) { way.number } else { 0 };
        let waiting = self.waiting.iter().filter(|(of, _)| *of == direction).map(|(_, waiting)| waiting);
        let kinds = waiting.take_while(|waiting| match waiting {
            Waiting::Lost { .. } => version == Some(Version::Tls13),
            Waiting::Record(record) => version == Some(Version::Tls13) || record.kind() != CHANGE_CIPHER_SPEC,
        });
        let sealed = kinds.filter_map(|waiting| match waiting {
            Waiting::Lost { .. } => Some(None),
            Waiting::Record(record)
                if version == Some(Version::Tls13) && record.kind() != APPLICATION_DATA =>
            {
                None
            }
            Waiting::Record(record) => Some(Some(record).filter(|record| record.missing.is_none())),
        });
        sealed.zip(first..).map(|(record, number)| trial::Sealed { record, number }).collect()
    }

    /// The end: what is kept will not be opened.
    pub fn close(&mut self, ledger: &mut Ledger) {
        for way in [&mut self.send, &mut self.receive] {
            let held = way.framer.as_mut().map_or(0, Framer::close);
            ledger.seal(Sealed::Lost, held);
        }
        self.drop_waiting(ledger);
        self.secrets = Secrets::default();
    }

    fn drop_waiting(&mut self, ledger: &mut Ledger) {
        let why = if self.unsupported() { Sealed::Unsupported } else { Sealed::NoKey };
        for (_, waiting) in self.waiting.drain(..) {
            ledger.seal(why, waiting.moved());
        }
        self.waiting_bytes = 0;
        (self.send.waiting, self.receive.waiting) = (0, 0);
    }

    fn suite(&self) -> Option<&'static Suite> {
        let server = self.server.as_ref()?;
        suite(server.suite).filter(|suite| Some(suite.version) == server.version)
    }

    fn unsupported(&self) -> bool {
        self.server.is_some() && self.suite().is_none()
    }

    fn lost(
        &mut self,
        direction: Direction,
        offset: u64,
        length: u64,
        moment: &Moment,
        ledger: &mut Ledger,
        out: &mut Sink<'_>,
    ) {
        if self.way(direction).waiting > 0 {
            return self.push(direction, Waiting::Lost { offset, length, moment: *moment }, ledger);
        }
        self.lose(direction, offset, length, moment, ledger, out);
    }

    fn lose(
        &mut self,
        direction: Direction,
        offset: u64,
        length: u64,
        moment: &Moment,
        ledger: &mut Ledger,
        out: &mut Sink<'_>,
    ) {
        let way = self.way(direction);
        way.lose(length);
        if way.proven {
            tear(direction, offset, length, moment, ledger, out);
        }
    }

    /// Takes a record; false if nothing shows that it is one.
    fn record(
        &mut self,
        direction: Direction,
        record: Record,
        ledger: &mut Ledger,
        out: &mut Sink<'_>,
    ) -> bool {
        let moved = record.moved();
        // What came later in the other direction waits too, or an answer would come out before what it answers; what is in
        // clear may be what others wait for.
        let in_clear = record.kind() != APPLICATION_DATA && matches!(self.way(direction).epoch, Epoch::Clear);
        if self.way(direction).waiting > 0 || self.waits() && !in_clear {
            self.wait(direction, record, ledger);
            return true;
        }
        let fate = self.step(direction, record, ledger, out);
        let genuine = !matches!(fate, Fate::Sealed(Sealed::Refused | Sealed::Unproven | Sealed::Lost));
        match fate {
            Fate::Waits(record) => self.wait(direction, record, ledger),
            Fate::Handshake => ledger.handshake += moved,
            Fate::Opened => ledger.opened += moved,
            Fate::Sealed(why) => ledger.seal(why, moved),
        }
        // What was just read may be what others waited for.
        if !self.waiting.is_empty() && self.server.is_some() {
            self.pump(ledger, out);
        }
        genuine
    }

    fn wait(&mut self, direction: Direction, mut record: Record, ledger: &mut Ledger) {
        if self.given_up {
            return ledger.seal(Sealed::NoKey, record.moved());
        }
        if self.waiting_bytes + record.body.len() > MAX_WAITING_BYTES {
            record.body = Vec::new();
            record.missing.get_or_insert(GapCause::Limit);
            ledger.waiting_cut += 1;
        }
        self.waiting_bytes += record.body.len();
        self.push(direction, Waiting::Record(record), ledger);
    }

    fn push(&mut self, direction: Direction, waiting: Waiting, ledger: &mut Ledger) {
        self.way(direction).waiting += 1;
        self.waiting.push_back((direction, waiting));
        if self.waiting.len() > MAX_WAITING_RECORDS {
            self.given_up = true;
            self.drop_waiting(ledger);
        }
    }

    /// Takes what waits, in order, as far as it need not wait any longer.
    fn pump(&mut self, ledger: &mut Ledger, out: &mut Sink<'_>) {
        while let Some((direction, waiting)) = self.waiting.pop_front() {
            let moved = waiting.moved();
            let record = match waiting {
                Waiting::Record(record) => record,
                Waiting::Lost { offset, length, moment } => {
                    self.lose(direction, offset, length, &moment, ledger, out);
                    continue;
                }
            };
            let body = record.body.len();
            match self.step(direction, record, ledger, out) {
                Fate::Waits(record) => {
                    self.waiting.push_front((direction, Waiting::Record(record)));
                    break;
                }
                Fate::Handshake => ledger.handshake += moved,
                Fate::Opened => ledger.opened += moved,
                Fate::Sealed(why) => ledger.seal(why, moved),
            }
            self.waiting_bytes = self.waiting_bytes.saturating_sub(body);
        }
        let count = |of: Direction| self.waiting.iter().filter(|(direction, _)| *direction == of).count();
        (self.send.waiting, self.receive.waiting) = (count(Direction::Send), count(Direction::Receive));
    }

    fn step(
        &mut self,
        direction: Direction,
        record: Record,
        ledger: &mut Ledger,
        out: &mut Sink<'_>,
    ) -> Fate {
        if self.is_guessed() {
            return self.guess(direction, &record, ledger, out);
        }
        let version = self.server.as_ref().map(|server| server.version);
        let way = self.way(direction);
        if matches!(way.epoch, Epoch::Clear) {
            let sealed = match (record.kind(), version) {
                (APPLICATION_DATA, None) => return Fate::Waits(record),
                (HANDSHAKE, None) if way.changed => return Fate::Waits(record),
                (APPLICATION_DATA, _) => true,
                (HANDSHAKE, Some(Some(Version::Tls12))) => way.changed,
                _ => false,
            };
            if !sealed {
                return self.clear(direction, &record);
            }
            way.seal();
        }
        if self.probed {
            return Fate::Sealed(Sealed::Probed);
        }
        let Some(suite) = self.suite() else { return Fate::Sealed(Sealed::Unsupported) };
        if suite.version == Version::Tls13 && record.kind() != APPLICATION_DATA {
            // RFC 8446 §5: a ChangeCipherSpec for the sake of others, or an alert of one who gave up.
            return Fate::Handshake;
        }
        if matches!(self.way(direction).epoch, Epoch::Sealed) {
            // One direction's secret alone opens nothing of the other, whose records would be taken for the handshake's.
            if !self.secrets.is_enough(suite.version) {
                return if self.given_up { Fate::Sealed(Sealed::NoKey) } else { Fate::Waits(record) };
            }
            let numbers = match suite.version {
                Version::Tls12 => Numbers::Exact,
                Version::Tls13 if self.late => Numbers::Any,
                Version::Tls13 => Numbers::AfterHandshake,
            };
            let candidates = self.candidates(direction, suite);
            let tried = self.way(direction).seek(&record, candidates, numbers);
            if self.is_open() && !std::mem::replace(&mut self.opened_both, true) {
                ledger.sessions_opened += 1;
            }
            if matches!(tried, Tried::Later) {
                if !self.given_up {
                    return Fate::Waits(record);
                }
                let way = self.way(direction);
                way.number = way.number.saturating_add(1);
            }
            return self.tried(direction, &record, tried, suite, ledger, out);
        }
        if matches!(self.way(direction).epoch, Epoch::Dead) {
            let way = self.way(direction);
            way.number = way.number.saturating_add(1);
            return Fate::Sealed(Sealed::Refused);
        }
        let certain = self.way(direction).certainty();
        let (mut tried, found) = self.way(direction).open(&record, suite);
        if matches!(tried, Tried::Refused) && suite.version == Version::Tls13 && !self.way(direction).data {
            // What is open may be the handshake, whose secrets were found too; those of the data may come later.
            let candidates = self.candidates(direction, suite);
            match self.way(direction).turn(&record, candidates) {
                Some(opened) => tried = opened,
                None if record.missing.is_none() && !record.found && !self.given_up => {
                    self.way(direction).restore(certain);
                    return Fate::Waits(record);
                }
                None => {}
            }
        }
        ledger.resynchronised += u64::from(found.resynchronised);
        ledger.key_updates += u64::from(found.key_update);
        self.tried(direction, &record, tried, suite, ledger, out)
    }

    /// A record of a session of which nothing is known but secrets: one of the suites of TLS 1.3 opens it.
    fn guess(
        &mut self,
        direction: Direction,
        record: &Record,
        ledger: &mut Ledger,
        out: &mut Sink<'_>,
    ) -> Fate {
        if record.kind() != APPLICATION_DATA {
            return Fate::Handshake;
        }
        for suite in SUITES.iter().filter(|suite| suite.version == Version::Tls13) {
            let candidates = self.candidates(direction, suite);
            let way = self.way(direction);
            way.seal();
            let tried = way.seek(record, candidates, Numbers::Any);
            if matches!(tried, Tried::Opened { .. }) {
                self.server = Some(ServerHello {
                    random: [0; 32],
                    version: Some(Version::Tls13),
                    suite: suite.number,
                    encrypt_then_mac: false,
                    protocol: None,
                });
                return self.tried(direction, record, tried, suite, ledger, out);
            }
        }
        self.way(direction).epoch = Epoch::Clear;
        self.guesses += 1;
        self.given_up |= self.guesses > MAX_GUESSES;
        Fate::Sealed(Sealed::Refused)
    }

    /// A record of the handshake in clear.
    fn clear(&mut self, direction: Direction, record: &Record) -> Fate {
        match record.kind() {
            HANDSHAKE if record.missing.is_some() => self.way(direction).reader.lose(),
            HANDSHAKE => {
                let mut hellos = Vec::new();
                self.way(direction).reader.bytes(&record.body, &mut |hello| hellos.push(hello));
                for hello in hellos {
                    self.hello(direction, hello);
                }
            }
            CHANGE_CIPHER_SPEC => self.way(direction).changed = true,
            _ => {}
        }
        Fate::Handshake
    }

    fn hello(&mut self, direction: Direction, hello: Hello) {
        match hello {
            Hello::Client { random } => {
                self.genuine = true;
                (self.client, self.random) = (Some(direction), Some(random));
            }
            Hello::Server(server) => {
                self.genuine = true;
                if !server.asks_again() {
                    self.client = Some(direction.opposite());
                    self.server = Some(server);
                }
            }
            Hello::KeyUpdate | Hello::Malformed => {}
        }
    }

    fn candidates(&self, direction: Direction, suite: &Suite) -> Vec<Opener> {
        let party = match self.client {
            Some(client) if client == direction => Party::Client,
            _ => Party::Server,
        };
        let keys = self.secrets.keys.iter().rev();
        let keys = keys.filter_map(|key| Opener::of_key(suite, key.bytes()));
        match suite.version {
            Version::Tls13 => {
                let secrets = self.secrets.traffic.iter().rev();
                let secrets = secrets.filter_map(|secret| secret.prefix(suite.hash.length()));
                secrets.filter_map(|secret| Opener::of_traffic_secret(suite, secret)).chain(keys).collect()
            }
            Version::Tls12 => {
                let (Some(client), Some(server)) = (&self.random, &self.server) else {
                    return keys.collect();
                };
                let secrets = self.secrets.master.iter().rev().filter_map(|secret| secret.prefix(48));
                let randoms = (client, &server.random);
                let opener =
                    |secret| Opener::of_master(suite, party, secret, randoms, server.encrypt_then_mac);
                secrets.filter_map(opener).chain(keys).collect()
            }
        }
    }

    fn tried(
        &mut self,
        direction: Direction,
        record: &Record,
        tried: Tried,
        suite: &'static Suite,
        ledger: &mut Ledger,
        out: &mut Sink<'_>,
    ) -> Fate {
        let (kind, plaintext, missing, trusted) = match tried {
            Tried::Opened { kind, plaintext, missing, trusted } => (kind, plaintext, missing, trusted),
            Tried::Handshake => return Fate::Handshake,
            Tried::Refused | Tried::Later | Tried::Unproven => {
                if self.way(direction).proven && !record.found {
                    tear(direction, record.offset, record.moved(), &record.moment, ledger, out);
                }
                return Fate::Sealed(match tried {
                    Tried::Unproven => Sealed::Unproven,
                    _ => Sealed::Refused,
                });
            }
        };
        match kind {
            APPLICATION_DATA => {
                let way = self.way(direction);
                way.data = true;
                let (explicit, exact) = match &way.epoch {
                    Epoch::Open(opener) => (opener.explicit(), opener.length_is_exact()),
                    _ => (0, true),
                };
                let offset = record.offset + (HEADER + explicit) as u64;
                let moment = &record.moment;
                frame(direction, record.offset, offset, moment, out);
                if !plaintext.is_empty() {
                    ledger.plaintext += plaintext.len() as u64;
                    if trusted {
                        ledger.on_trust += plaintext.len() as u64;
                    }
                    let content = Content::Bytes(&plaintext);
                    out(direction, Piece { offset, content, starts_call: true, ends_call: false, moment });
                }
                let offset = offset + plaintext.len() as u64;
                if missing > 0 && exact {
                    ledger.missing += missing;
                    let cause = record.missing.unwrap_or(GapCause::Lost);
                    let content = Content::Gap { length: missing, cause };
                    out(
                        direction,
                        Piece {
                            offset,
                            content,
                            starts_call: plaintext.is_empty(),
                            ends_call: false,
                            moment,
                        },
                    );
                } else if missing > 0 {
                    tear(direction, offset, missing, moment, ledger, out);
                }
                frame(direction, offset + missing, record.offset + record.moved(), moment, out);
                Fate::Opened
            }
            HANDSHAKE => {
                frame(direction, record.offset, record.offset + record.moved(), &record.moment, out);
                let mut hellos = Vec::new();
                self.way(direction).reader.bytes(&plaintext, &mut |hello| hellos.push(hello));
                for hello in hellos {
                    match (&hello, suite.version) {
                        (Hello::KeyUpdate, Version::Tls13) => {
                            let way = self.way(direction);
                            if way.update(suite) {
                                ledger.key_updates += 1;
                            } else {
                                // Only the key was found, not what the next is made of.
                                way.epoch = Epoch::Dead;
                            }
                        }
                        // A renegotiation: the keys change with the next ChangeCipherSpec.
                        (Hello::Client { .. } | Hello::Server(_), Version::Tls12) => {
                            self.secrets = Secrets::default();
                            self.hello(direction, hello);
                        }
                        _ => {}
                    }
                }
                Fate::Handshake
            }
            CHANGE_CIPHER_SPEC if suite.version == Version::Tls12 => {
                self.way(direction).seal();
                Fate::Handshake
            }
            _ => Fate::Handshake,
        }
    }
}

/// Tells that from here to there nothing is missing.
fn frame(direction: Direction, from: u64, to: u64, moment: &Moment, out: &mut Sink<'_>) {
    if let Some(length) = to.checked_sub(from).filter(|length| *length > 0) {
        let content = Content::Gap { length, cause: GapCause::Framing };
        out(direction, Piece { offset: from, content, starts_call: false, ends_call: false, moment });
    }
}

/// Tells that an unknown number of bytes is missing: whatever is framed by a length must be found anew.
fn tear(
    direction: Direction,
    offset: u64,
    length: u64,
    moment: &Moment,
    ledger: &mut Ledger,
    out: &mut Sink<'_>,
) {
    ledger.missing += length;
    let content = Content::Gap { length, cause: GapCause::Torn };
    out(direction, Piece { offset, content, starts_call: false, ends_call: false, moment });
}
