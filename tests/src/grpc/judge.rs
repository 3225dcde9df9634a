//! Spans of gRPC calls against what their clients saw. Every word counts apart: seen, name, status, duration, parent.
//!
//! It must never forgive a wrong name or status. What is *unknown* (no method, no status) is neither right nor wrong and is
//! counted as such; only a late join may have any.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::grpc::calls::{Call, Ends, Seen, status_name};
use crate::otlp::{Kind, SeenSpan};

/// How far the clocks of a program and of the agent's records may be apart, and what a program does around its calls.
const TOLERANCE_NS: u64 = 20_000_000;
const EXAMPLES: usize = 6;
const UNKNOWN_EXAMPLES: usize = 2;

/// What came of the calls of a row, both ends together unless it says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Ends of calls: two each.
    pub ends: usize,
    /// Ends with exactly one span.
    pub seen: usize,
    /// Ends without one.
    pub missing: usize,
    /// Ends with more than one, or spans of no call.
    pub surplus: usize,
    /// Seen ends whose name and method are right.
    pub named: usize,
    /// Seen ends whose method is not known.
    pub nameless: usize,
    /// Another method than the call's.
    pub wrong_name: usize,
    /// Seen ends whose status is right.
    pub status: usize,
    /// Without a status.
    pub statusless: usize,
    /// Another status than the program saw.
    pub wrong_status: usize,
    /// Seen ends whose times are right.
    pub duration: usize,
    /// Message counts that are right, and wrong ones.
    pub messages: usize,
    /// Counts that say "at least", and are not more.
    pub at_least: usize,
    /// Another number of messages.
    pub wrong_messages: usize,
    /// Server spans whose parent is the client span of the same call.
    pub joined: usize,
    /// Server spans without a parent.
    pub orphan: usize,
    /// Server spans with another parent.
    pub wrong_parent: usize,
    /// Server spans of which the judge cannot say which connection they are of. A claim of nothing wrong needs none.
    pub untold: usize,
    /// The first few of what is not right.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Calls.
    pub fn calls(&self) -> usize {
        self.ends / 2
    }

    /// What may never be: a wrong name, status, count or parent, a span of no call, or one that cannot be judged.
    pub fn wrong(&self) -> usize {
        self.wrong_name
            + self.wrong_status
            + self.wrong_parent
            + self.wrong_messages
            + self.surplus
            + self.untold
    }

    /// Calls with both ends, joined, of a hundred.
    pub fn joined_percent(&self) -> f64 {
        100.0 * self.joined as f64 / self.calls().max(1) as f64
    }

    /// Of a hundred ends.
    pub fn percent(&self, of: usize) -> f64 {
        100.0 * of as f64 / self.ends.max(1) as f64
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(text());
        }
    }

    /// One of what is unknown: it leaves room for what is wrong.
    fn unknown_example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < UNKNOWN_EXAMPLES {
            self.examples.push(text());
        }
    }

    /// Adds what came of other calls.
    pub fn add(&mut self, other: &Self) {
        let Self {
            ends,
            seen,
            missing,
            surplus,
            named,
            nameless,
            wrong_name,
            status,
            statusless,
            wrong_status,
            duration,
            messages,
            at_least,
            wrong_messages,
            joined,
            orphan,
            wrong_parent,
            untold,
            examples,
        } = other;
        self.ends += ends;
        self.seen += seen;
        self.missing += missing;
        self.surplus += surplus;
        self.named += named;
        self.nameless += nameless;
        self.wrong_name += wrong_name;
        self.status += status;
        self.statusless += statusless;
        self.wrong_status += wrong_status;
        self.duration += duration;
        self.messages += messages;
        self.at_least += at_least;
        self.wrong_messages += wrong_messages;
        self.joined += joined;
        self.orphan += orphan;
        self.wrong_parent += wrong_parent;
        self.untold += untold;
        self.examples.extend(examples.iter().take(EXAMPLES.saturating_sub(self.examples.len())).cloned());
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} calls; of {} ends: {} seen, {} named, {} status, {} duration; {} joined, {} orphan; wrong: {} name, {} status, {} messages, {} parent, {} surplus, {} cannot be told",
            self.calls(),
            self.ends,
            self.seen,
            self.named,
            self.status,
            self.duration,
            self.joined,
            self.orphan,
            self.wrong_name,
            self.wrong_status,
            self.wrong_messages,
            self.wrong_parent,
            self.surplus,
            self.untold
        )?;
        for example in &self.examples {
            write!(f, "\n    {example}")?;
        }
        Ok(())
    }
}

/// The method that a span names; empty if it is not known.
pub fn method(span: &SeenSpan) -> &str {
    let method = span.attribute("rpc.method");
    if method.is_empty() || method == "_OTHER" { span.attribute("rpc.method_original") } else { method }
}

/// Judges calls whose methods are all different.
pub fn judge(calls: &[Call], seen: &[Seen], spans: &[SeenSpan]) -> Verdict {
    let mut index: HashMap<(&str, Kind), Vec<&SeenSpan>> = HashMap::new();
    for span in spans {
        index.entry((method(span), span.kind)).or_default().push(span);
    }
    let mut verdict = Verdict::default();
    for log in seen {
        let Some(call) = calls.get(log.index) else { continue };
        let mut pair = [None, None];
        for (at, kind) in [Kind::Client, Kind::Server].into_iter().enumerate() {
            verdict.ends += 1;
            match index.get(&(call.method(), kind)).map(Vec::as_slice) {
                None | Some([]) => {
                    verdict.missing += 1;
                    verdict.example(|| format!("missing: {kind:?} {}", call.path));
                }
                Some([span]) => {
                    pair[at] = Some(*span);
                    end(&mut verdict, call, log, span);
                }
                Some(more) => {
                    verdict.surplus += more.len() - 1;
                    verdict.example(|| format!("{} times: {kind:?} {}", more.len(), call.path));
                }
            }
        }
        if let [client, Some(server)] = pair {
            parent(&mut verdict, call, client, server);
        }
    }
    verdict
}

fn parent(verdict: &mut Verdict, call: &Call, client: Option<&SeenSpan>, server: &SeenSpan) {
    match (&server.parent, client) {
        (None, _) => verdict.orphan += 1,
        (Some(is), Some(client)) if *is == client.id && server.trace == client.trace => verdict.joined += 1,
        (Some(is), _) => {
            verdict.wrong_parent += 1;
            verdict.example(|| format!("wrong: the server span of {} has parent {is}", call.path));
        }
    }
}

/// Judges one end of a call.
fn end(verdict: &mut Verdict, call: &Call, log: &Seen, span: &SeenSpan) {
    verdict.seen += 1;
    let (kind, path) = (span.kind, &call.path);
    if method(span).is_empty() {
        verdict.nameless += 1;
    } else if method(span) == call.method() && (span.name == call.method() || span.name == "grpc") {
        verdict.named += 1;
    } else {
        verdict.wrong_name += 1;
        verdict.example(|| format!("wrong: {kind:?} {path} is called {:?} ({})", span.name, method(span)));
    }
    let status = span.attribute("rpc.response.status_code");
    let right = match call.ends {
        Ends::Served => status == status_name(log.status) && log.status == call.status,
        // The end that did not decide may have said something else before it heard of it; and a client that drops
        // the call at its deadline tells its program what it likes.
        Ends::Deadline => matches!(status, "DEADLINE_EXCEEDED" | "CANCELLED"),
        Ends::Cancelled => status == "CANCELLED",
    };
    if status.is_empty() {
        verdict.statusless += 1;
        verdict.unknown_example(|| {
            format!("no status: {kind:?} {path}, the program saw {}", status_name(log.status))
        });
    } else if right {
        verdict.status += 1;
    } else {
        verdict.wrong_status += 1;
        verdict.example(|| {
            format!("wrong: {kind:?} {path} has status {status}, the program saw {}", status_name(log.status))
        });
    }
    let within = span.start + TOLERANCE_NS >= log.began && span.end <= log.ended + TOLERANCE_NS;
    // A server that is told of the end late, or not at all, goes on.
    let within = within || call.ends != Ends::Served;
    // Where the client keeps the time, it begins with the program's call: on a busy machine the first request is written later
    // than that, and a server may read it when the client has written others, or is on its way to cancel.
    let paced = call.ends != Ends::Served || call.requests > 1;
    let (from, least) = match kind {
        Kind::Client if paced => (log.began.min(span.start), call.least_ms),
        _ if paced => (span.start, 0),
        _ => (span.start, call.least_ms),
    };
    let lasted = span.end.saturating_sub(from);
    if lasted + 2_000_000 >= least * 1_000_000 && within {
        verdict.duration += 1;
    } else {
        verdict.example(|| {
            let (early, late) = (log.began as i64 - span.start as i64, span.end as i64 - log.ended as i64);
            format!(
                "{kind:?} {path} lasted {lasted} ns; began {early} ns too early, ended {late} ns too late"
            )
        });
    }
    if call.ends == Ends::Served {
        let counts =
            [("request", call.requests), ("response", if log.status == 0 { call.responses } else { 0 })];
        for (which, want) in counts {
            let is = span.attribute(&format!("spandrel.rpc.{which}.messages"));
            // A failing call may end before its messages; then the wire alone knows.
            if !is.is_empty() && log.status == 0 {
                // Where several messages share a DATA frame of which only the beginning is sent, it says "at least".
                let at_least = span.attribute(&format!("spandrel.rpc.{which}.messages_at_least")) == "true";
                if is == want.to_string() {
                    verdict.messages += 1;
                } else if at_least && is.parse::<u64>().is_ok_and(|is| is < want) {
                    verdict.at_least += 1;
                } else {
                    verdict.wrong_messages += 1;
                    verdict
                        .example(|| format!("wrong: {kind:?} {path} has {is} {which} messages, not {want}"));
                }
            }
        }
    }
}

/// Judges the calls of late joined connections, whose methods repeat: on one connection they follow each other, and a
/// span belongs to the call that encloses it. The client's port tells connections apart, but a program does not say
/// which of its connections has which: that is the one whose calls enclose the spans, all but one in a hundred, while no
/// other's do. On a busy machine a call of *some* connection is under way at any moment, so a span's middle proves nothing.
pub fn judge_serial(calls: &[Call], seen: &[Seen], spans: &[SeenSpan]) -> Verdict {
    let mut verdict = Verdict::default();
    let clients: HashMap<&str, &SeenSpan> =
        spans.iter().filter(|s| s.kind == Kind::Client).map(|s| (s.id.as_str(), s)).collect();
    let connections = seen.iter().map(|log| log.connection).max().map_or(0, |most| most + 1);
    let mut by_connection: Vec<Vec<&Seen>> = vec![Vec::new(); connections];
    for log in seen {
        by_connection[log.connection].push(log);
    }
    for logs in &mut by_connection {
        logs.sort_by_key(|log| log.began);
    }
    // Server spans by the client's port, each with its client span.
    let mut groups: HashMap<&str, Vec<&SeenSpan>> = HashMap::new();
    for span in spans.iter().filter(|span| span.kind == Kind::Server) {
        groups.entry(span.attribute("network.peer.port")).or_default().push(span);
    }
    verdict.ends = seen.len() * 2;
    let mut owned: Vec<bool> = vec![false; connections];
    for (port, group) in &groups {
        let mut scores: Vec<(usize, usize)> =
            by_connection.iter().enumerate().map(|(at, logs)| (distinct(logs, group), at)).collect();
        scores.sort_unstable_by(|a, b| b.cmp(a));
        let (most, owner) = scores.first().copied().unwrap_or_default();
        let next = scores.get(1).map_or(0, |(score, _)| *score);
        if most == next || owned[owner] {
            verdict.untold += group.len();
            verdict.example(|| {
                let length = group.len();
                format!("port {port}: {length} spans, calls of several connections enclose {most} and {next}")
            });
            continue;
        }
        owned[owner] = true;
        let logs = &by_connection[owner];
        let mut taken: HashMap<usize, usize> = HashMap::new();
        for server in group {
            let Some(log) = during(logs, server) else {
                verdict.surplus += 1;
                verdict.example(|| {
                    format!(
                        "a server span {:?} of no call, port {port}, {} of {} are ({next} with another connection)",
                        server.name,
                        most,
                        group.len()
                    )
                });
                continue;
            };
            let Some(call) = calls.get(log.index) else { continue };
            let times = taken.entry(log.index).or_default();
            *times += 1;
            if *times > 1 {
                verdict.surplus += 1;
                verdict.example(|| format!("two server spans within one call of {}, port {port}", call.path));
                continue;
            }
            end(&mut verdict, call, log, server);
            let client = server.parent.as_deref().and_then(|parent| clients.get(parent)).copied();
            parent(&mut verdict, call, client, server);
            if let Some(client) = client {
                end(&mut verdict, call, log, client);
            }
        }
    }
    verdict.missing = verdict.ends.saturating_sub(verdict.seen + 2 * verdict.untold);
    verdict
}

/// How many calls of a connection enclose one of these spans.
fn distinct(logs: &[&Seen], group: &[&SeenSpan]) -> usize {
    let within: HashSet<usize> =
        group.iter().filter_map(|span| during(logs, span)).map(|log| log.index).collect();
    within.len()
}

/// How far the program's clock and the agent's may be apart where they are compared to the call.
const CLOCKS_NS: u64 = 1_000_000;

/// The call that encloses the span.
fn during<'a>(logs: &[&'a Seen], span: &SeenSpan) -> Option<&'a Seen> {
    let middle = span.start + span.end.saturating_sub(span.start) / 2;
    let at = logs.partition_point(|log| log.began <= middle).checked_sub(1)?;
    let encloses = |log: &&Seen| log.began <= span.start + CLOCKS_NS && span.end <= log.ended + CLOCKS_NS;
    logs.get(at).copied().filter(encloses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn span(kind: Kind, id: &str, parent: Option<&str>, method: &str, status: &str) -> SeenSpan {
        let attributes = [("rpc.method", method), ("rpc.response.status_code", status)];
        SeenSpan {
            trace: "t".into(),
            id: id.into(),
            parent: parent.map(Into::into),
            kind,
            name: method.into(),
            start: 1_000_000_000,
            end: 1_010_000_000,
            flags: 0,
            trace_state: String::new(),
            status: 0,
            attributes: attributes.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            events: Vec::new(),
            resource: BTreeMap::new(),
        }
    }

    fn seen() -> Seen {
        Seen { connection: 0, index: 0, began: 999_000_000, ended: 1_011_000_000, status: 0, messages: 1 }
    }

    fn both(status: &str, parent: &str) -> Verdict {
        let calls = [Call::unary("M1", "d=5", "")];
        let spans = [
            span(Kind::Client, "a", None, "bench.Echo/M1", status),
            span(Kind::Server, "b", Some(parent), "bench.Echo/M1", status),
        ];
        judge(&calls, &[seen()], &spans)
    }

    #[test]
    fn a_call_with_both_ends_is_all_right() {
        let verdict = both("OK", "a");
        assert_eq!(
            (verdict.named, verdict.status, verdict.duration, verdict.joined),
            (2, 2, 2, 1),
            "{verdict}"
        );
        assert_eq!(verdict.wrong(), 0);
    }

    #[test]
    fn another_status_or_parent_is_wrong() {
        assert_eq!(both("NOT_FOUND", "a").wrong_status, 2);
        assert_eq!(both("OK", "c").wrong_parent, 1);
    }

    #[test]
    fn a_span_without_a_method_is_missing_where_methods_are_tokens() {
        let calls = [Call::unary("M1", "", "")];
        let verdict = judge(&calls, &[seen()], &[span(Kind::Client, "a", None, "", "OK")]);
        assert_eq!((verdict.missing, verdict.wrong()), (2, 0));
    }

    #[test]
    fn after_a_late_join_a_call_is_found_by_its_time_and_may_be_nameless_but_not_misnamed() {
        let calls = [Call::unary("Method1", "", "")];
        let judge =
            |method: &str| judge_serial(&calls, &[seen()], &[span(Kind::Server, "b", None, method, "OK")]);
        assert_eq!((judge("").nameless, judge("").wrong()), (1, 0));
        assert_eq!(judge("bench.Echo/Method2").wrong_name, 1);
        assert_eq!(judge("bench.Echo/Method1").named, 1);
    }

    /// Calls of two connections that are never idle, a millisecond out of step, and a server span within each of the first's.
    fn two_busy_connections(ports: [&str; 2]) -> (Vec<Call>, Vec<Seen>, Vec<SeenSpan>) {
        const MS: u64 = 1_000_000;
        let calls = (0..40).map(|at| Call::unary(&format!("M{at}"), "", "")).collect();
        let (mut seen, mut spans) = (Vec::new(), Vec::new());
        for index in 0..40 {
            for (connection, port) in ports.iter().enumerate() {
                let began = 1_000 * MS + (index as u64 * 20 + connection as u64 * 8) * MS;
                seen.push(Seen { connection, index, began, ended: began + 19 * MS, status: 0, messages: 1 });
                let method = format!("bench.Echo/M{index}");
                let mut span = span(Kind::Server, &format!("{connection}-{index}"), None, &method, "OK");
                (span.start, span.end) = (began + 2 * MS, began + 17 * MS);
                span.attributes.insert("network.peer.port".into(), (*port).into());
                spans.push(span);
            }
        }
        (calls, seen, spans)
    }

    #[test]
    fn a_busy_connection_is_known_by_calls_that_enclose_all_its_spans() {
        for ports in [["1", "2"], ["2", "1"]] {
            let (calls, seen, spans) = two_busy_connections(ports);
            let verdict = judge_serial(&calls, &seen, &spans);
            assert_eq!((verdict.named, verdict.wrong(), verdict.untold), (80, 0, 0), "{verdict}");
        }
    }

    #[test]
    fn a_name_of_the_call_before_is_wrong_on_a_busy_connection_too() {
        let (calls, seen, mut spans) = two_busy_connections(["1", "2"]);
        spans[10].attributes.insert("rpc.method".into(), "bench.Echo/M4".into());
        assert_eq!(judge_serial(&calls, &seen, &spans).wrong_name, 1);
    }

    #[test]
    fn spans_that_fit_two_connections_are_of_neither() {
        let (calls, mut seen, spans) = two_busy_connections(["1", "2"]);
        for log in &mut seen {
            (log.began, log.ended) = (0, 10_000_000_000);
        }
        let verdict = judge_serial(&calls, &seen, &spans);
        assert_eq!((verdict.untold, verdict.wrong()), (80, 80), "{verdict}");
    }
}
