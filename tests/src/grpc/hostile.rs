//! Connections that want to make the agent wrong, slow or large: HTTP/2 inside DATA, header blocks that stand for megabytes, floods
//! of small frames, absurd settings, streams that never end, and records that are lost.
//!
//! Both ends are written by hand (`wire`), in this very process, so what was sent is known to the byte. Of each case the same four
//! things are asked: nothing wrong was told, the agent did not grow, what is missing was counted, and its books balance. It must
//! never take a call for lost that no counter names.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::agent::{Agent, Outcome};
use crate::grpc::calls::status_name;
use crate::grpc::judge::method;
use crate::grpc::rows::{How, token};
use crate::grpc::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Encoder, HEADERS, PING, PREFACE, SETTINGS, Side, Wire,
    frame, integer, literal,
};
use crate::load;
use crate::otlp::{Kind, SeenSpan};
use crate::process::Scratch;

/// One line of the table.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// What was done.
    pub case: &'static str,
    /// Ends of calls: two each.
    pub ends: usize,
    /// Those with a span.
    pub seen: usize,
    /// Those with the right name and status.
    pub right: usize,
    /// Those whose call cannot be told: no name, and others were under way.
    pub unknown: usize,
    /// Server spans below the client span of the same call.
    pub joined: usize,
    /// Another name, status or parent; a span of nothing that was sent; one too many.
    pub wrong: Vec<String>,
    /// How much the agent's anonymous memory grew at most, in MiB, and how much it may.
    pub grown: f64,
    /// What is allowed of that.
    pub allowed: f64,
    /// CPU that the agent used.
    pub cpu: Duration,
    /// Losses by their counters.
    pub losses: Vec<(String, u64)>,
    /// Books that do not balance.
    pub books: Vec<String>,
}

impl Line {
    /// Nothing wrong, nothing grown, nothing missing without a counter.
    pub fn is_right(&self) -> bool {
        let named = self.seen == self.ends || !self.losses.is_empty();
        self.wrong.is_empty() && self.books.is_empty() && self.grown <= self.allowed && named
    }
}

/// How much the agent may grow by connections that are few, in MiB: the bounds of one are some hundred KiB.
const MOST: f64 = 24.0;

/// How much it may by calls that all end at once, in MiB: the bound of what waits in `stitch`, and the exporter's queue.
const MOST_SPANS: f64 = 128.0;

/// All cases.
pub fn run(how: &How) -> Result<Vec<Line>> {
    Ok(vec![
        case("tunnel", how, &[], None, tunnel)?,
        case("tunnel, joined late", how, &[], Some(tunnel_begins), tunnel)?,
        case("HPACK bomb", how, &[], None, bomb)?,
        case("HPACK tables", how, &[], None, tables)?,
        case("300 PINGs a call", how, &[], None, pings)?,
        case("CONTINUATION", how, &[], None, continuation)?,
        case("SETTINGS", how, &[], None, settings)?,
        case("garbage", how, &[], None, garbage)?,
        case("never ended", how, &[], None, never_ended)?,
        case("1 of 5 dropped", how, &[("SPANDREL_TEST_DROP_ONE_IN", "5")], None, lossy)?,
        case("1 of 40 dropped", how, &[("SPANDREL_TEST_DROP_ONE_IN", "40")], None, lossy)?,
        case("ring of 64 KiB", how, &[("SPANDREL_RING_BYTES", "65536")], None, overrun)?,
    ])
}

/// What is done before the agent comes, and goes on then.
type Before = fn(&mut Stage) -> Result<()>;

fn case(
    name: &'static str,
    how: &How,
    variables: &[(&str, &str)],
    before: Option<Before>,
    act: fn(&mut Stage) -> Result<()>,
) -> Result<Line> {
    let scratch = Scratch::new("hostile")?;
    let mut stage = Stage::default();
    if let Some(before) = before {
        before(&mut stage)?;
    }
    let mut options = how.options(&scratch).arguments(["--pid", &std::process::id().to_string()]);
    options.environment.extend(variables.iter().map(|(key, value)| ((*key).into(), (*value).into())));
    let agent = Agent::start(&options)?;
    // As after any start: what is under way is met by its next bytes.
    std::thread::sleep(Duration::from_millis(100));
    let watch = Watch::start(agent.pid())?;
    act(&mut stage).with_context(|| format!("case {name}"))?;
    stage.talks.clear();
    // A connection's end, and what is still in the ring.
    std::thread::sleep(Duration::from_millis(500));
    let cpu = load::Usage::of(agent.pid())?.cpu;
    let grown = watch.stop()?;
    let outcome = agent.stop()?;
    let allowed = if stage.sent.len() > 20_000 { MOST_SPANS } else { MOST };
    let mut line = Line { case: name, ends: 2 * stage.sent.len(), grown, allowed, cpu, ..Line::default() };
    line.losses = losses(&outcome);
    // What is dropped in silence for the test's sake cannot be in the books.
    if !variables.iter().any(|(key, _)| key.contains("DROP")) {
        line.books = outcome.stderr.iter().filter(|line| line.contains("do not balance")).cloned().collect();
    }
    stage.judge(&mut line, &outcome.spans);
    Ok(line)
}

/// Counters of what was lost or left out; not those of bytes that nobody asked for.
fn losses(outcome: &Outcome) -> Vec<(String, u64)> {
    const WORDS: [&str; 9] = [
        "lost",
        "dropped",
        "overflow",
        "expired",
        "refused",
        "unproven",
        "unread",
        "incomplete",
        "without_request",
    ];
    let mut all: Vec<(String, u64)> = Vec::new();
    for (name, value) in outcome.counters.matching(&[]) {
        if value > 0 && WORDS.iter().any(|word| name.contains(word)) {
            all.push((name.to_owned(), value));
        }
    }
    all
}

/// The agent's memory, looked at again and again.
struct Watch {
    over: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    first: u64,
    thread: JoinHandle<()>,
}

impl Watch {
    fn start(pid: u32) -> Result<Self> {
        let first = load::anonymous(pid)?;
        let (over, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(first)));
        let (ends, highest) = (Arc::clone(&over), Arc::clone(&most));
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                if let Ok(now) = load::anonymous(pid) {
                    highest.fetch_max(now, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Ok(Self { over, most, first, thread })
    }

    /// By how many MiB it grew.
    fn stop(self) -> Result<f64> {
        self.over.store(true, Ordering::Relaxed);
        ensure!(self.thread.join().is_ok(), "the thread that looks at the agent's memory died");
        Ok((self.most.load(Ordering::Relaxed) - self.first) as f64 / (1024.0 * 1024.0))
    }
}

/// A call that was made.
#[derive(Clone, Debug)]
struct Sent {
    /// Its path without the slash.
    method: String,
    /// Statuses that are right: gRPC's, or HTTP's from 100 on.
    statuses: Vec<u32>,
    /// From before its first byte to after its last, if no other was under way meanwhile, in nanoseconds since 1970.
    alone: Option<(u64, u64)>,
}

/// What goes on in a case.
#[derive(Default)]
struct Stage {
    talks: Vec<Talk>,
    sent: Vec<Sent>,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// A connection that speaks HTTP/2.
#[derive(Debug)]
struct Talk {
    wire: Wire,
    client: Encoder,
    server: Encoder,
    next: u32,
}

impl Talk {
    fn begin() -> Result<Self> {
        Self::begin_with(&[], &[])
    }

    /// With these SETTINGS of the client and of the server.
    fn begin_with(client: &[u8], server: &[u8]) -> Result<Self> {
        let wire = Wire::connect()?;
        wire.send(Side::Client, [PREFACE, &frame(SETTINGS, 0, 0, client)].concat())?;
        wire.send(Side::Server, [frame(SETTINGS, 0, 0, server), frame(SETTINGS, 1, 0, &[])].concat())?;
        wire.send(Side::Client, frame(SETTINGS, 1, 0, &[]))?;
        Ok(Self { wire, client: Encoder::default(), server: Encoder::default(), next: 1 })
    }

    fn stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// A request's head and message.
    fn request(&mut self, stream: u32, method: &str) -> Vec<u8> {
        request(&mut self.client, stream, method)
    }

    fn response(&mut self, stream: u32, status: u32) -> Vec<u8> {
        response(&mut self.server, stream, status)
    }

    /// A call from its first byte to its last.
    fn call(&mut self, method: &str, status: u32, sent: &mut Vec<Sent>) -> Result<()> {
        let (began, stream) = (now(), self.stream());
        let request = self.request(stream, method);
        self.wire.send(Side::Client, request)?;
        let response = self.response(stream, status);
        self.wire.send(Side::Server, response)?;
        let alone = Some((began, now()));
        sent.push(Sent { method: method.to_owned(), statuses: vec![status], alone });
        Ok(())
    }
}

/// The least that a gRPC call begins with.
fn head(path: &str) -> [(&'static str, &str); 4] {
    [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")]
}

fn request(encoder: &mut Encoder, stream: u32, method: &str) -> Vec<u8> {
    let block = encoder.block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &format!("/{method}")),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]);
    [frame(HEADERS, END_HEADERS, stream, &block), frame(DATA, END_STREAM, stream, MESSAGE)].concat()
}

fn response(encoder: &mut Encoder, stream: u32, status: u32) -> Vec<u8> {
    let head = encoder.block(&[(":status", "200"), ("content-type", "application/grpc")]);
    let trailers = encoder.block(&[("grpc-status", &status.to_string())]);
    [
        frame(HEADERS, END_HEADERS, stream, &head),
        frame(DATA, 0, stream, MESSAGE),
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &trailers),
    ]
    .concat()
}

/// A gRPC message.
const MESSAGE: &[u8] = b"\0\0\0\0\x0bhow are you";

/// One in so many calls fails, with a status of its own.
fn status(number: usize) -> u32 {
    if number % 7 == 3 { (number % 15) as u32 + 1 } else { 0 }
}

fn named(kind: &str) -> String {
    format!("hostile.Echo/{kind}{}", token())
}

impl Stage {
    /// So many calls one after the other on the last connection, each with a method of its own.
    fn calls(&mut self, count: usize, kind: &str) -> Result<()> {
        let talk = self.talks.last_mut().context("no connection")?;
        for number in 0..count {
            talk.call(&named(kind), status(number), &mut self.sent)?;
        }
        Ok(())
    }

    fn talk(&mut self) -> Result<&mut Talk> {
        self.talks.last_mut().context("no connection")
    }

    /// What was sent, when it is known when.
    fn by_time(&self) -> Vec<(u64, u64, usize)> {
        let mut all: Vec<(u64, u64, usize)> = (0..)
            .zip(&self.sent)
            .filter_map(|(index, sent)| sent.alone.map(|(began, ended)| (began, ended, index)))
            .collect();
        all.sort_unstable();
        all
    }

    fn judge(&self, line: &mut Line, spans: &[SeenSpan]) {
        let mut by_method: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, sent) in self.sent.iter().enumerate() {
            by_method.entry(&sent.method).or_default().push(index);
        }
        let by_time = self.by_time();
        let mut of: HashMap<&str, usize> = HashMap::new();
        let mut told = HashSet::new();
        for span in spans {
            let name = name(span);
            // The last call that had begun when the span did.
            let after = by_time.partition_point(|(began, _, _)| *began <= span.start + CLOCKS);
            let then = after.checked_sub(1).and_then(|at| by_time.get(at));
            let then = then.filter(|(_, ended, _)| span.start <= ended + CLOCKS).map(|(_, _, index)| *index);
            let index = match by_method.get(name).map(Vec::as_slice) {
                Some(&[index]) => Some(index),
                _ => then,
            };
            if name.is_empty() && by_time.len() < self.sent.len() {
                (line.seen, line.unknown) = (line.seen + 1, line.unknown + 1);
                let status = span_status(span);
                if !status.is_empty()
                    && !self.sent.iter().any(|sent| sent.statuses.iter().any(|right| text(*right) == status))
                {
                    line.wrong.push(format!("a status that was not sent: {:?} {}", span.kind, about(span)));
                }
                continue;
            }
            let Some((index, sent)) = index.and_then(|index| Some((index, self.sent.get(index)?))) else {
                line.wrong.push(format!("a span of nothing that was sent: {:?} {}", span.kind, about(span)));
                continue;
            };
            of.insert(&span.id, index);
            if !told.insert((index, span.kind)) {
                line.wrong.push(format!("told twice: {:?} {} as {}", span.kind, sent.method, about(span)));
            }
            line.seen += 1;
            let status = span_status(span);
            let right = sent.statuses.iter().any(|right| text(*right) == status);
            // Where it is hidden that this is gRPC, it is a request of HTTP, which was answered with 200.
            let plain = method(span).is_empty() && status == "200";
            if !name.is_empty() && name != sent.method {
                line.wrong.push(format!(
                    "{:?} {} has the name of another: {}",
                    span.kind,
                    sent.method,
                    about(span)
                ));
            } else if !status.is_empty() && !right && !plain {
                line.wrong.push(format!(
                    "{:?} {} has another status than {:?}: {}",
                    span.kind,
                    sent.method,
                    sent.statuses,
                    about(span)
                ));
            } else if !name.is_empty() && right {
                line.right += 1;
            }
        }
        if line.seen > line.ends {
            line.wrong.push(format!("{} spans of {} ends", line.seen, line.ends));
        }
        for span in spans {
            let (Some(parent), Some(index)) = (&span.parent, of.get(span.id.as_str())) else { continue };
            match of.get(parent.as_str()) {
                Some(of) if of == index && span.kind == Kind::Server => line.joined += 1,
                None if line.losses.iter().any(|(name, _)| name.contains("dropped_spans")) => {}
                _ => line.wrong.push(format!("{:?} {} has the parent {parent}", span.kind, about(span))),
            }
        }
    }
}

/// How far apart the clock of the records and that of this process may be, in nanoseconds. Calls are told apart by their times only
/// where nothing else happened for longer.
const CLOCKS: u64 = 300_000;

/// The method or the path; empty if neither is known.
fn name(span: &SeenSpan) -> &str {
    match method(span) {
        "" => span.path().trim_start_matches('/'),
        method => method,
    }
}

fn about(span: &SeenSpan) -> String {
    format!("{:?} {:?} {:?} {:?}", span.name, name(span), span_status(span), span.attributes)
}

fn span_status(span: &SeenSpan) -> &str {
    match span.attribute("rpc.response.status_code") {
        "" if method(span).is_empty() => span.attribute("http.response.status_code"),
        status => status,
    }
}

fn text(status: u32) -> String {
    if status < 100 { status_name(status).to_owned() } else { status.to_string() }
}

/// A stream whose DATA is another connection, and calls beside it.
fn tunnel_begins(stage: &mut Stage) -> Result<()> {
    let mut talk = Talk::begin()?;
    let stream = talk.stream();
    let fields =
        [(":method", "POST"), (":scheme", "http"), (":path", "/tunnel"), (":authority", "localhost")];
    let head = frame(HEADERS, END_HEADERS, stream, &talk.client.block(&fields));
    talk.wire.send(Side::Client, head)?;
    let head = frame(HEADERS, END_HEADERS, stream, &talk.server.block(&[(":status", "200")]));
    talk.wire.send(Side::Server, head)?;
    let inner = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    talk.wire.send(Side::Client, frame(DATA, 0, stream, &inner))?;
    talk.wire.send(Side::Server, frame(DATA, 0, stream, &frame(SETTINGS, 0, 0, &[])))?;
    stage.talks.push(talk);
    carry(stage, 40)
}

/// How inner bytes get into outer frames, and those into calls.
fn carry(stage: &mut Stage, rounds: usize) -> Result<()> {
    let (mut client, mut server) = (Encoder::default(), Encoder::default());
    let mut random = StdRng::seed_from_u64(4);
    let talk = stage.talk()?;
    // Its numbers are near those of the calls outside.
    let mut stream = talk.next + 2;
    for round in 0..rounds {
        let many = [1, 1, 8, 40][round % 4];
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        for number in 0..many {
            asked.extend(request(&mut client, stream, &format!("inner.Echo/I{}", number % 20)));
            answered.extend(response(&mut server, stream, 3));
            stream += 2;
        }
        for (side, inner) in [(Side::Client, asked), (Side::Server, answered)] {
            match round % 5 {
                // Frames as they are written inside.
                0 => talk.wire.send(side, frame(DATA, 0, 1, &inner))?,
                // The outer header in a call of its own.
                1 => {
                    let outer = frame(DATA, 0, 1, &inner);
                    let (head, payload) = outer.split_at(9);
                    talk.wire.send(side, head.to_vec())?;
                    talk.wire.send(side, payload.to_vec())?;
                }
                // Cut anywhere, a call for each.
                2 => {
                    let mut rest = &inner[..];
                    while !rest.is_empty() {
                        let (now, later) = rest.split_at(random.random_range(1..=rest.len()));
                        talk.wire.send(side, frame(DATA, 0, 1, now))?;
                        rest = later;
                    }
                }
                // Small frames in one call.
                3 => {
                    let outer: Vec<Vec<u8>> = inner.chunks(50).map(|part| frame(DATA, 0, 1, part)).collect();
                    talk.wire.send(side, outer.concat())?;
                }
                // Among a message's bytes.
                _ => {
                    let body = frame(DATA, 0, stream + 1_000, &vec![b'x'; 12_000]);
                    talk.wire.send(side, frame(DATA, 0, 1, &[&inner[..], &body].concat()))?;
                }
            }
        }
    }
    Ok(())
}

fn tunnel(stage: &mut Stage) -> Result<()> {
    if stage.talks.is_empty() {
        tunnel_begins(stage)?;
        // Of one that was there before the agent, nothing may be told: its request was not seen.
        stage.sent.push(Sent { method: "tunnel".into(), statuses: vec![200], alone: None });
    }
    for _ in 0..12 {
        carry(stage, 20)?;
        stage.calls(5, "Beside")?;
    }
    // Nothing but the inner connection, for longer than one frame.
    carry(stage, 200)?;
    stage.calls(40, "Beside")?;
    let talk = stage.talk()?;
    talk.wire.send(Side::Client, frame(DATA, END_STREAM, 1, &[]))?;
    talk.wire.send(Side::Server, frame(DATA, END_STREAM, 1, &[]))
}

/// Blocks of 16 KB that stand for 60 MB of a field that is kept, and of one that is not.
fn bomb(stage: &mut Stage) -> Result<()> {
    for field in ["user-agent", "x-bomb"] {
        stage.talks.push(Talk::begin()?);
        stage.calls(3, "Before")?;
        for number in 0..30 {
            let (stage_sent, talk) = (&mut stage.sent, stage.talks.last_mut().context("no connection")?);
            let (stream, name) = (talk.stream(), named("Bomb"));
            let mut block = talk.client.block(&head(&format!("/{name}")));
            block.extend(talk.client.block(&[(field, &"b".repeat(3_900))]));
            // The entry that was inserted last, or is there: it fills the table, so it is the newest.
            block.extend([0xbe; 16_000 - 4_100]);
            let bytes =
                [frame(HEADERS, END_HEADERS, stream, &block), frame(DATA, END_STREAM, stream, MESSAGE)];
            talk.wire.send(Side::Client, bytes.concat())?;
            let response = talk.response(stream, status(number));
            talk.wire.send(Side::Server, response)?;
            stage_sent.push(Sent { method: name, statuses: vec![status(number)], alone: None });
        }
        stage.calls(10, "After")?;
    }
    Ok(())
}

/// Tables that are said to be of 4 GiB, and are filled.
fn tables(stage: &mut Stage) -> Result<()> {
    let huge = [0, 1, 0xff, 0xff, 0xff, 0xff];
    for _ in 0..4 {
        stage.talks.push(Talk::begin_with(&huge, &huge)?);
        for round in 0..25 {
            let (sent, talk) = (&mut stage.sent, stage.talks.last_mut().context("no connection")?);
            let (stream, name) = (talk.stream(), named("Table"));
            // A size update to 256 MiB, and back to the encoder's own.
            let mut block = integer(0x20, 5, (1 << 28) - 1);
            for (key, value) in head(&format!("/{name}")) {
                block.extend(literal(key, value));
            }
            for number in 0..150 {
                // Inserted, by a name of its own, and of a kind that is kept.
                let value = format!("{round}-{number}-{}", "v".repeat(60));
                let key =
                    if number % 2 == 0 { "user-agent".to_owned() } else { format!("x-{round}-{number}") };
                let line = literal(&key, &value);
                block.push(0x40);
                block.extend(line.get(1..).unwrap_or_default());
            }
            let (first, second) = block.split_at(block.len() / 2);
            let bytes = [
                frame(HEADERS, 0, stream, first),
                frame(CONTINUATION, END_HEADERS, stream, second),
                frame(DATA, END_STREAM, stream, MESSAGE),
            ];
            talk.wire.send(Side::Client, bytes.concat())?;
            let response = talk.response(stream, 0);
            talk.wire.send(Side::Server, response)?;
            sent.push(Sent { method: name, statuses: vec![0], alone: None });
        }
    }
    Ok(())
}

fn pings(stage: &mut Stage) -> Result<()> {
    stage.talks.push(Talk::begin()?);
    for _ in 0..20 {
        stage.calls(5, "Ping")?;
        let talk = stage.talk()?;
        for side in [Side::Client, Side::Server] {
            let flood: Vec<Vec<u8>> = (0..300).map(|_| frame(PING, 0, 0, &[7; 8])).collect();
            talk.wire.send(side, flood.concat())?;
        }
        // With a call among them.
        let (stream, name) = (talk.stream(), named("Among"));
        let flood = |from: u8| (0..150).flat_map(|_| frame(PING, 1, 0, &[from; 8])).collect::<Vec<u8>>();
        let request = talk.request(stream, &name);
        talk.wire.send(Side::Client, [flood(1), request, flood(2)].concat())?;
        let response = talk.response(stream, 0);
        talk.wire.send(Side::Server, [flood(3), response, flood(4)].concat())?;
        stage.sent.push(Sent { method: name, statuses: vec![0], alone: None });
    }
    // More than a call's bounds.
    let flood: Vec<Vec<u8>> = (0..20_000).map(|_| frame(PING, 0, 0, &[7; 8])).collect();
    stage.talk()?.wire.send(Side::Client, flood.concat())?;
    stage.calls(60, "Flooded")
}

/// A header block of 64 MiB, and one of a hundred thousand empty frames.
fn continuation(stage: &mut Stage) -> Result<()> {
    stage.talks.push(Talk::begin()?);
    stage.calls(5, "Before")?;
    for (frames, size) in [(4_096, 16_384), (100_000, 0)] {
        let talk = stage.talk()?;
        let stream = talk.stream();
        let name = named("Flood");
        let block = [(":method", "POST"), (":scheme", "http"), (":path", &*format!("/{name}"))];
        let block: Vec<u8> = block.iter().flat_map(|(name, value)| literal(name, value)).collect();
        talk.wire.send(Side::Client, frame(HEADERS, END_STREAM, stream, &block))?;
        // Fields of 16,384 bytes each that are not inserted.
        let field = literal("x-flood", &"f".repeat(if size > 0 { size - 12 } else { 0 }));
        let payload = if size > 0 { &field[..] } else { &[] };
        let more = frame(CONTINUATION, 0, stream, payload);
        for chunk in 0..frames / 64 {
            let _ = chunk;
            talk.wire.send(Side::Client, more.repeat(64))?;
        }
        talk.wire.send(Side::Client, frame(CONTINUATION, END_HEADERS, stream, &[]))?;
        let response = talk.response(stream, 0);
        talk.wire.send(Side::Server, response)?;
        stage.sent.push(Sent { method: name, statuses: vec![0], alone: None });
        stage.calls(20, "After")?;
    }
    Ok(())
}

fn settings(stage: &mut Stage) -> Result<()> {
    let each = |key: u16, value: u32| [&key.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let absurd: [Vec<u8>; 4] = [
        (1..=6).flat_map(|key| each(key, u32::MAX)).collect(),
        (1..=6).flat_map(|key| each(key, 0)).collect(),
        (0..2_700_u32).flat_map(|number| each(number as u16, number.wrapping_mul(0x9e37_79b9))).collect(),
        // A list that is no multiple of six.
        vec![0xff; 17],
    ];
    for list in &absurd {
        stage.talks.push(Talk::begin_with(list, list)?);
        stage.calls(6, "Settings")?;
        // In the middle too.
        let talk = stage.talk()?;
        talk.wire.send(Side::Client, frame(SETTINGS, 0, 0, list))?;
        talk.wire.send(Side::Server, frame(SETTINGS, 0, 0, list))?;
        stage.calls(12, "Settings")?;
    }
    Ok(())
}

/// Frames that nobody may send: afterwards the place is lost, and found again.
fn garbage(stage: &mut Stage) -> Result<()> {
    let mut random = StdRng::seed_from_u64(9);
    let noise: Vec<u8> = (0..3_000).map(|_| random.random()).collect();
    let broken: [Vec<u8>; 7] = [
        // A block whose integer never ends, one that names entry 0, one that names what is not there.
        frame(HEADERS, END_HEADERS | END_STREAM, 1_001, &[0xff; 12]),
        frame(HEADERS, END_HEADERS | END_STREAM, 1_003, &[0x80]),
        frame(HEADERS, END_HEADERS | END_STREAM, 1_005, &[0xff, 0xff, 0x01]),
        // Padding that is longer than the frame.
        frame(DATA, 8, 1, &[200, 1, 2, 3]),
        // CONTINUATION of nothing, DATA of stream 0.
        frame(CONTINUATION, END_HEADERS, 3, b"abc"),
        frame(DATA, 0, 0, b"abc"),
        noise,
    ];
    for bytes in &broken {
        for side in [Side::Client, Side::Server] {
            stage.talks.push(Talk::begin()?);
            apart(stage, 4)?;
            stage.talk()?.wire.send(side, bytes.clone())?;
            // What follows is a correct connection's.
            apart(stage, 20)?;
        }
    }
    // A connection that begins as HTTP/2 and is none.
    let wire = Wire::connect()?;
    wire.send(Side::Client, PREFACE.to_vec())?;
    for _ in 0..50 {
        let some: Vec<u8> = (0..random.random_range(1..2_000)).map(|_| random.random()).collect();
        wire.send(Side::Client, some.clone())?;
        wire.send(Side::Server, some)?;
    }
    Ok(())
}

/// So many calls of a few methods, told apart by when they are.
fn apart(stage: &mut Stage, count: usize) -> Result<()> {
    for number in 0..count {
        let talk = stage.talks.last_mut().context("no connection")?;
        let made = stage.sent.len();
        talk.call(&format!("hostile.Echo/M{}", (made * 7 + number) % 23), status(made), &mut stage.sent)?;
        std::thread::sleep(Duration::from_nanos(3 * CLOCKS));
    }
    Ok(())
}

/// Requests without an end and without an answer: more than may be followed on one connection, and on fifty.
fn never_ended(stage: &mut Stage) -> Result<()> {
    for streams in std::iter::once(5_000).chain(std::iter::repeat_n(400, 50)) {
        let mut talk = Talk::begin()?;
        let mut bytes = Vec::new();
        for _ in 0..streams {
            let (stream, name) = (talk.stream(), named("Open"));
            let block = talk.client.block(&head(&format!("/{name}")));
            bytes.extend(frame(HEADERS, END_HEADERS, stream, &block));
            // The connection ends before they do, by its client.
            stage.sent.push(Sent { method: name, statuses: vec![1, 14], alone: None });
        }
        for part in bytes.chunks(32 * 1024) {
            talk.wire.send(Side::Client, part.to_vec())?;
        }
        stage.talks.push(talk);
    }
    Ok(())
}

/// Calls of which records are lost.
fn lossy(stage: &mut Stage) -> Result<()> {
    for _ in 0..4 {
        stage.talks.push(Talk::begin()?);
        apart(stage, 250)?;
    }
    Ok(())
}

/// A connection, and what was called on it.
type Called = (Talk, Vec<Sent>);

/// As many calls as two processors can make, on eight connections.
fn overrun(stage: &mut Stage) -> Result<()> {
    let threads: Vec<JoinHandle<Result<Called>>> = (0..8)
        .map(|_| {
            std::thread::spawn(|| {
                let (mut talk, mut sent) = (Talk::begin()?, Vec::new());
                for number in 0..400 {
                    talk.call(&named("Load"), status(number), &mut sent)?;
                }
                Ok((talk, sent))
            })
        })
        .collect();
    for thread in threads {
        let joined = thread.join().ok().context("a thread that calls died")?;
        let (talk, mut sent) = joined?;
        // Others were under way.
        sent.iter_mut().for_each(|sent| sent.alone = None);
        stage.talks.push(talk);
        stage.sent.extend(sent);
    }
    Ok(())
}
