//! The oracle of late joins: connections of five gRPC libraries, recorded (`cargo xtask grpc -- record` makes them anew). What is told of
//! one that was joined anywhere, or lost a byte anywhere, is what is told of it when it is read from its first byte, or less.

use std::collections::BTreeMap;

use super::upgrade::recorded;
use super::*;
use crate::exchange::{Exchange, FailureKind};
use crate::protocol::grpc::Messages;

/// A peer's connection, the calls that were served on it, and whether its `:path` is never a reference (so that a late join knows it).
const PEERS: [(&str, &[u8], &str, bool); 5] = [
    ("go", include_bytes!("recorded/go.rec"), include_str!("recorded/go.calls"), false),
    ("python", include_bytes!("recorded/python.rec"), include_str!("recorded/python.calls"), false),
    ("js", include_bytes!("recorded/js.rec"), include_str!("recorded/js.calls"), true),
    ("java", include_bytes!("recorded/java.rec"), include_str!("recorded/java.calls"), false),
    ("tonic", include_bytes!("recorded/tonic.rec"), include_str!("recorded/tonic.calls"), true),
];

/// What is told of a call.
#[derive(Clone, Debug)]
struct Told {
    path: String,
    status: String,
    http: Option<u16>,
    grpc: bool,
    request: Messages,
    response: Messages,
    failure: Option<FailureKind>,
    /// Nothing of it was missing.
    complete: bool,
}

impl Told {
    fn new(exchange: &Exchange) -> Self {
        let facts = exchange.stream.as_ref().unwrap();
        let head = exchange.response.as_ref().map(|head| &head.fields);
        let kinds = [Some(&exchange.request.fields), head].into_iter().flatten();
        let kind = kinds.filter_map(|fields| fields.first(FieldName::ContentType)).next().unwrap_or_default();
        let status = [facts.trailers.as_ref(), head].into_iter().flatten();
        let status =
            status.filter_map(|fields| fields.first(FieldName::GrpcStatus)).next().unwrap_or_default();
        Self {
            path: String::from_utf8_lossy(&exchange.request.target).into_owned(),
            status: String::from_utf8_lossy(status).into_owned(),
            http: exchange.response.as_ref().map(|head| head.status).filter(|status| *status > 0),
            grpc: facts.grpc || kind.starts_with(b"application/grpc"),
            request: facts.request_messages,
            response: facts.response_messages,
            failure: exchange.failure.map(|failure| failure.kind),
            complete: !exchange.incomplete,
        }
    }

    /// Whether all that this says is what `truth` says.
    fn agrees(&self, truth: &Self) -> bool {
        let counts =
            [(self.request, truth.request), (self.response, truth.response)].into_iter().all(|(told, is)| {
                match told.at_least || !self.complete {
                    true => told.count <= is.count && told.bytes <= is.bytes,
                    false => told.count == is.count && told.bytes == is.bytes,
                }
            });
        (self.path.is_empty() || self.path == truth.path)
            && (self.status.is_empty()
                || self.status == truth.status
                || self.is_an_answer_to_a_lost_reset(truth))
            && (self.http.is_none() || self.http == truth.http || self.is_an_answer_to_a_lost_reset(truth))
            && (!self.grpc || truth.grpc)
            && (self.failure.is_none()
                || self.failure == truth.failure
                || self.is_a_reset_without_its_code(truth))
            && counts
    }

    /// The client's reset is what is missing, and the server had answered meanwhile: what it says was said.
    fn is_an_answer_to_a_lost_reset(&self, truth: &Self) -> bool {
        truth.failure == Some(FailureKind::Reset(8)) && self.failure.is_none() && truth.status.is_empty()
    }

    /// The frame was seen, and its code is missing.
    fn is_a_reset_without_its_code(&self, truth: &Self) -> bool {
        self.failure == Some(FailureKind::Reset(u32::MAX))
            && matches!(truth.failure, Some(FailureKind::Reset(_)))
    }
}

fn told(born_here: bool, steps: &[(usize, Step, bool)]) -> BTreeMap<u32, Told> {
    let (_, events) = play(born_here, steps);
    let mut all = BTreeMap::new();
    for event in &events {
        if let Event::Closed(exchange) = event {
            let stream = exchange.stream.as_ref().unwrap().stream;
            assert!(all.insert(stream, Told::new(exchange)).is_none(), "stream {stream} is told twice");
        }
    }
    all
}

fn whole(steps: &[Step]) -> Vec<(usize, Step, bool)> {
    steps.iter().enumerate().map(|(number, step)| (number, step.clone(), true)).collect()
}

#[track_caller]
fn compare(what: &str, told: &BTreeMap<u32, Told>, truth: &BTreeMap<u32, Told>) {
    for (stream, told) in told {
        let is =
            truth.get(stream).unwrap_or_else(|| panic!("{what}: stream {stream} was never opened: {told:?}"));
        assert!(told.agrees(is), "{what}: stream {stream} is told as {told:?}, and is {is:?}");
    }
}

#[test]
fn from_the_first_byte_every_call_is_told_as_its_program_saw_it() {
    for (name, bytes, calls, _) in PEERS {
        let mut told: Vec<String> = told(true, &whole(&recorded(bytes)))
            .values()
            .filter(|told| told.failure.is_none())
            .map(|told| {
                assert!(told.complete && told.grpc && told.http == Some(200), "{name}: {told:?}");
                format!("{}\t{}\t{}\t{}", told.path, told.status, told.request.count, told.response.count)
            })
            .collect();
        let mut made: Vec<&str> = calls.lines().collect();
        told.retain(|line| !line.contains("/Late\t") && !line.contains("/ServerCut\t"));
        told.sort_unstable();
        made.sort_unstable();
        assert_eq!(told, made, "{name}");
    }
}

#[test]
fn joined_anywhere_nothing_else_is_told() {
    for (name, bytes, _, literal) in PEERS {
        let steps = recorded(bytes);
        let truth = told(true, &whole(&steps));
        assert_eq!(truth.len(), 55, "{name}");
        for from in 1..steps.len() {
            let late = told(false, &whole(&steps[from..]));
            compare(&format!("{name}, joined at call {from}"), &late, &truth);
            // Where the first byte of a stream stands is not known here, so as many are asked for as there are after most of a proof.
            let after = truth.len() * (steps.len() - from) / steps.len();
            assert!(
                late.len() + 16 >= after,
                "{name}, joined at call {from}: {} of some {after}",
                late.len()
            );
            let named = late.values().filter(|told| !told.path.is_empty()).count();
            assert!(
                !literal || named == late.len(),
                "{name}, joined at call {from}: {named} of {}",
                late.len()
            );
        }
    }
}

#[test]
fn after_a_lost_byte_nothing_else_is_told() {
    for (name, bytes, _, _) in PEERS {
        let steps = whole(&recorded(bytes));
        let truth = told(true, &steps);
        let (mut all, mut tried) = (0, 0);
        for (number, step, _) in &steps {
            let (Client(said) | Server(said)) = step else { continue };
            for at in [0, said.len() / 3, said.len() - 1] {
                let ours = matches!(step, Client(_));
                let (make, lost) = if ours {
                    (Client as fn(Vec<u8>) -> Step, Step::ClientGap(1))
                } else {
                    (Server as fn(Vec<u8>) -> Step, Step::ServerGap(1))
                };
                let parts = [
                    (*number, make(said[..at].to_vec()), true),
                    (*number, lost, at == 0),
                    (*number, make(said[at + 1..].to_vec()), false),
                ];
                let parts = parts
                    .into_iter()
                    .filter(|(_, step, _)| !matches!(step, Client(said) | Server(said) if said.is_empty()));
                let mut cut = steps.clone();
                cut.splice(number..=number, parts);
                let told = told(true, &cut);
                compare(&format!("{name}, byte {at} of call {number} is lost"), &told, &truth);
                (all, tried) = (all + told.len(), tried + 1);
            }
        }
        // A loss hides the calls that follow it until it is known again where frames begin.
        let most = tried * truth.len();
        assert!(tried > 200 && 4 * all > 3 * most, "{name}: {all} of {most}, {tried} losses");
    }
}
