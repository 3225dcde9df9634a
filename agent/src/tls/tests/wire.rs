//! A connection between two rustls ends: what went over the wire, in order, and what should come out.

use std::sync::{Arc, Mutex};

use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, KeyLog, RootCertStore, ServerConfig, ServerConnection,
    SupportedCipherSuite,
};

use super::super::testing::{moment, piece};
use super::super::{Agreed, Layer, Ledger, May, Secret, Secrets};
use crate::identity::Direction;
use crate::stream::{Content, GapCause, Piece};

/// The suites that our certificate, one with an elliptic curve, can be used with.
pub fn suites() -> Vec<SupportedCipherSuite> {
    let usable = |suite: &SupportedCipherSuite| !format!("{:?}", suite.suite()).contains("RSA");
    ring::ALL_CIPHER_SUITES.iter().copied().filter(usable).collect()
}

/// How the pieces are cut.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    Nowhere,
    /// Each piece at this byte.
    At(usize),
    /// Into pieces of this length.
    Every(usize),
    /// Of each call only the beginning is kept, once the handshake is over.
    Keep(usize),
    /// Of long calls only the header of the record, as the kernel side follows them.
    Headers,
}

#[derive(Debug, Default, Eq, PartialEq)]
pub struct Out {
    pub from_client: Vec<u8>,
    pub from_server: Vec<u8>,
    pub gaps: Vec<(GapCause, u64)>,
    /// The offset of each byte that came out of the client's direction.
    pub places: Vec<u64>,
}

impl Out {
    /// How many bytes of this long body came out.
    pub fn long_kept(&self, body: &[u8]) -> u64 {
        let starts = (0..self.from_server.len()).find(|&at| self.from_server[at..].starts_with(&body[..100]));
        let rest = &self.from_server[starts.expect("the body begins")..];
        rest.iter().zip(body).take_while(|(one, other)| one == other).count() as u64
    }
}

pub struct Wire {
    client: ClientConnection,
    server: ServerConnection,
    /// What was written in one go, by whom (seen from the server: what it receives, what it sends).
    pub pieces: Vec<(Direction, Vec<u8>)>,
    lost: Vec<usize>,
    pub handshake: usize,
    pub secrets: Secrets,
    /// Before which piece the secrets become known.
    pub secrets_after: usize,
    /// The first piece that is seen; if it is not the first, the secrets are given as those of an older session.
    pub seen_from: usize,
    /// What a session that is older than we are is tried with before.
    pub mistaken: Option<Secrets>,
    sent: (Vec<u8>, Vec<u8>),
}

#[derive(Debug, Default)]
struct Log(Mutex<Secrets>);

impl KeyLog for Log {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let mut secrets = self.0.lock().expect("nobody panics");
        match label {
            "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0" => {
                secrets.traffic.push(Secret::new(secret))
            }
            "CLIENT_RANDOM" => secrets.master.push(Secret::new(secret)),
            _ => {}
        }
    }
}

impl Wire {
    /// A finished handshake with this suite.
    pub fn new(suite: SupportedCipherSuite) -> Self {
        let provider =
            rustls::crypto::CryptoProvider { cipher_suites: vec![suite], ..ring::default_provider() };
        let provider = Arc::new(provider);
        let certificate = CertificateDer::from(include_bytes!("data/certificate.der").to_vec());
        let key = PrivateKeyDer::try_from(include_bytes!("data/key.der").to_vec()).expect("a key");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a certificate");
        let version = suite.version();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a server");
        let log = Arc::new(Log::default());
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.key_log = Arc::clone(&log) as _;
        let name = ServerName::try_from("localhost").expect("a name");
        let mut wire = Self {
            client: ClientConnection::new(Arc::new(client), name).expect("a client"),
            server: ServerConnection::new(Arc::new(server)).expect("a server"),
            pieces: Vec::new(),
            lost: Vec::new(),
            handshake: 0,
            secrets: Secrets::default(),
            secrets_after: 0,
            seen_from: 0,
            mistaken: None,
            sent: Default::default(),
        };
        while wire.flush() {}
        assert!(!wire.client.is_handshaking() && !wire.server.is_handshaking());
        wire.secrets = std::mem::take(&mut *log.0.lock().expect("nobody panics"));
        wire.handshake = wire.pieces.len();
        wire
    }

    /// Moves what both ends have to say; whether there was anything.
    fn flush(&mut self) -> bool {
        let mut moved = false;
        for direction in [Direction::Receive, Direction::Send] {
            moved |= self.carry(direction);
        }
        moved
    }

    fn carry(&mut self, direction: Direction) -> bool {
        let mut bytes = Vec::new();
        match direction {
            Direction::Receive => {
                while self.client.wants_write() {
                    self.client.write_tls(&mut bytes).expect("memory");
                }
            }
            Direction::Send => {
                while self.server.wants_write() {
                    self.server.write_tls(&mut bytes).expect("memory");
                }
            }
        }
        if bytes.is_empty() {
            return false;
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let mut sunk = Vec::new();
            match direction {
                Direction::Receive => {
                    self.server.read_tls(&mut rest).expect("memory");
                    self.server.process_new_packets().expect("TLS");
                    let _ = std::io::Read::read_to_end(&mut self.server.reader(), &mut sunk);
                }
                Direction::Send => {
                    self.client.read_tls(&mut rest).expect("memory");
                    self.client.process_new_packets().expect("TLS");
                    let _ = std::io::Read::read_to_end(&mut self.client.reader(), &mut sunk);
                }
            }
        }
        self.pieces.push((direction, bytes));
        true
    }

    /// The client sends this; the place of its piece.
    pub fn client(&mut self, bytes: &[u8]) -> usize {
        std::io::Write::write_all(&mut self.client.writer(), bytes).expect("memory");
        self.sent.0.extend(bytes);
        self.flush();
        self.pieces.len() - 1
    }

    /// The server sends this; the place of its piece.
    pub fn server(&mut self, bytes: &[u8]) -> usize {
        std::io::Write::write_all(&mut self.server.writer(), bytes).expect("memory");
        self.sent.1.extend(bytes);
        self.flush();
        self.pieces.len() - 1
    }

    pub fn update_keys(&mut self) {
        self.client.refresh_traffic_keys().expect("TLS 1.3");
        self.server.refresh_traffic_keys().expect("TLS 1.3");
        self.flush();
    }

    pub fn lose(&mut self, place: usize) {
        self.lost.push(place);
    }

    pub fn spoil(&mut self, place: usize) {
        let last = self.pieces[place].1.last_mut().expect("bytes");
        *last ^= 1;
    }

    pub fn longest(&self) -> usize {
        self.pieces.iter().map(|(_, bytes)| bytes.len()).max().unwrap_or(0)
    }

    pub fn agreed(&self) -> Agreed {
        let mut layer = Layer::default();
        self.feed(&mut layer, Cut::Nowhere, &mut |_, _| {});
        layer.agreed().expect("TLS")
    }

    /// The layer of an end that has seen all of it, and knows no secret.
    pub fn waiting(&mut self) -> (Layer, Secrets) {
        let secrets = std::mem::take(&mut self.secrets);
        let mut layer = Layer::default();
        self.feed(&mut layer, Cut::Nowhere, &mut |_, _| {});
        (layer, secrets)
    }

    fn feed(&self, layer: &mut Layer, cut: Cut, out: &mut dyn FnMut(Direction, Piece<'_>)) {
        let mut offsets = [0u64; 2];
        if self.seen_from > 0 {
            layer.late(self.mistaken.as_ref().unwrap_or(&self.secrets), out);
        }
        for (number, (direction, bytes)) in self.pieces.iter().enumerate() {
            if number < self.seen_from {
                offsets[usize::from(*direction == Direction::Send)] += bytes.len() as u64;
                continue;
            }
            if number == self.secrets_after && self.mistaken.is_some() {
                assert!(layer.late(&self.secrets, out));
            } else if number == self.secrets_after {
                layer.secrets(&self.secrets, out);
                // Those that came before the hello are given again when it is read.
            }
            let moment = moment(number as u64);
            let offset = &mut offsets[usize::from(*direction == Direction::Send)];
            let mut give = |offset: u64, content: Content<'_>, starts_call| {
                let piece = Piece { starts_call, ..piece(offset, content, &moment) };
                layer.piece(*direction, &piece, May::Begin, out);
                let ledger = layer.ledger();
                assert!(ledger.balances(), "{ledger:?}");
            };
            if self.lost.contains(&number) {
                give(*offset, Content::Gap { length: bytes.len() as u64, cause: GapCause::Lost }, true);
                *offset += bytes.len() as u64;
                continue;
            }
            let kept = match cut {
                Cut::Keep(kept) if number >= self.handshake => kept.min(bytes.len()),
                Cut::Headers if number >= self.handshake && bytes.len() > 512 => 5,
                _ => bytes.len(),
            };
            let size = match cut {
                Cut::Every(size) => size,
                Cut::At(at) if at > 0 && at < bytes.len() => at,
                _ => kept.max(1),
            };
            let (first, rest) = bytes[..kept].split_at(size.min(kept));
            let rest_size = if matches!(cut, Cut::Every(_)) { size } else { rest.len().max(1) };
            for (index, part) in std::iter::once(first).chain(rest.chunks(rest_size)).enumerate() {
                give(*offset, Content::Bytes(part), index == 0);
                *offset += part.len() as u64;
            }
            if kept < bytes.len() {
                let length = (bytes.len() - kept) as u64;
                give(*offset, Content::Gap { length, cause: GapCause::Limit }, false);
                *offset += length;
            }
        }
        layer.secrets(&self.secrets, out);
    }

    pub fn run(&self, cut: Cut) -> (Out, Ledger) {
        let (mut layer, mut result, mut reached) = (Layer::default(), Out::default(), [0u64; 2]);
        self.feed(&mut layer, cut, &mut |direction, piece| {
            let reached = &mut reached[usize::from(direction == Direction::Send)];
            assert!(piece.offset >= *reached);
            match piece.content {
                Content::Bytes(bytes) => {
                    *reached = piece.offset + bytes.len() as u64;
                    match direction {
                        Direction::Receive => {
                            result.places.extend(piece.offset..*reached);
                            result.from_client.extend(bytes);
                        }
                        Direction::Send => result.from_server.extend(bytes),
                    }
                }
                // It reaches to where the next plaintext begins.
                Content::Gap { length, cause: GapCause::Framing } => *reached = piece.offset + length,
                Content::Gap { length, cause } => {
                    *reached = piece.offset + length;
                    result.gaps.push((cause, length));
                }
            }
        });
        layer.close();
        let ledger = layer.ledger();
        assert!(ledger.balances() && ledger.held == 0, "{ledger:?}");
        (result, ledger)
    }
}

/// Everything that was sent comes out, and nothing else.
#[track_caller]
pub fn check(wire: &Wire, cut: Cut) -> (Out, Ledger) {
    let (out, ledger) = wire.run(cut);
    assert_eq!(out.from_client, wire.sent.0, "from the client, {cut:?}: {ledger:?}");
    assert_eq!(out.from_server, wire.sent.1, "from the server, {cut:?}: {ledger:?}");
    assert_eq!(out.gaps, [], "{cut:?}");
    assert_eq!(ledger.sessions_opened, 1);
    (out, ledger)
}
