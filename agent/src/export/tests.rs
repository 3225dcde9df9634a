//! The station as a whole, against backends that fail in every way the protocol knows: the books balance
//! to the unit, and what the log says is what happened.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span as OtlpSpan, TracesData};
use tonic::Code;

use super::answer::BackOff;
use super::fake::{Act, Gate, Seen, Tls, free_port, serve_grpc, serve_http, serve_https};
use super::metrics::agent_resource;
use super::queue::estimate;
use super::settings::{Protocol, Signal};
use super::testing::{Said, Sample, service};
use super::{Counter, Destination, Exporter, Ledger, Limits, MetricsDestination, OtlpSettings};

/// An exporter whose waits are short, and where it sends.
struct Rig {
    exporter: Exporter,
    said: Said,
    offered: u64,
}

const QUICK: BackOff = BackOff { first: Duration::from_millis(20), longest: Duration::from_millis(40) };

fn limits() -> Limits {
    Limits { back_off: QUICK, ..Limits::default() }
}

fn settings(signal: Signal, endpoint: &str, variables: &'static str) -> OtlpSettings {
    let env = move |key: &str| {
        ["OTEL_BSP_SCHEDULE_DELAY=10"]
            .into_iter()
            .chain(variables.split_whitespace())
            .filter_map(|pair| pair.split_once('='))
            .filter(|(name, _)| *name == key)
            .map(|(_, value)| value.to_owned())
            .next_back()
    };
    OtlpSettings::for_signal(signal, Some(endpoint), &env).unwrap()
}

fn http(address: SocketAddr, variables: &'static str) -> Destination {
    Destination::Otlp(Box::new(settings(Signal::Traces, &format!("http://{address}"), variables)))
}

fn grpc(address: SocketAddr, variables: &'static str) -> Destination {
    let mut settings = settings(Signal::Traces, &format!("http://{address}"), variables);
    settings.protocol = Protocol::Grpc;
    settings.endpoint.set_path("");
    Destination::Otlp(Box::new(settings))
}

impl Rig {
    fn new(destinations: &[Destination], limits: Limits) -> Self {
        let said = Said::default();
        let exporter = Exporter::start(destinations, None, limits, said.say()).unwrap();
        Self { exporter, said, offered: 0 }
    }

    fn offer(&mut self, count: u64) -> &mut Self {
        for _ in 0..count {
            self.offered += 1;
            self.exporter.offer(Arc::new(Sample::server(self.offered)));
        }
        self
    }

    /// Waits until nothing waits any more; the books must balance at every look.
    #[track_caller]
    fn settle(&self) -> Ledger {
        let start = Instant::now();
        loop {
            let ledger = self.exporter.ledger();
            assert!(ledger.balances(), "{ledger:?}");
            if ledger.waiting == 0 {
                return ledger;
            }
            assert!(start.elapsed() < PATIENCE, "{ledger:?} {:?}", self.said.lines());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[track_caller]
    fn stop(self, within: Duration) -> (Ledger, Vec<String>) {
        let ledger = self.exporter.flush_and_stop(within);
        assert!(ledger.balances(), "{ledger:?}");
        assert_eq!(ledger.waiting, 0);
        (ledger, self.said.lines())
    }
}

/// A backend over HTTP that does so, and an exporter that sends to it.
fn against(acts: impl IntoIterator<Item = Act>, variables: &'static str) -> (Seen, Rig) {
    let (seen, address) = (Seen::acts(acts), free_port());
    serve_http(address, seen.clone());
    (seen, Rig::new(&[http(address, variables)], limits()))
}

fn against_grpc(acts: impl IntoIterator<Item = Act>, variables: &'static str) -> (Seen, Rig) {
    let (seen, address) = (Seen::acts(acts), free_port());
    serve_grpc(address, seen.clone(), Tls::No);
    (seen, Rig::new(&[grpc(address, variables)], limits()))
}

/// Longer than anything here takes on the slowest machine. No verdict depends on being faster than that.
const PATIENCE: Duration = Duration::from_secs(30);

/// Long enough to flush; a flush ends as soon as nothing waits.
const SOON: Duration = PATIENCE;

/// Waits for what must come.
#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_same_spans_reach_all_encodings_with_the_same_content() {
    let path = temporary("same-content");
    let acts = || Seen::acts([]);
    let (by_grpc, by_http, by_json) = (acts(), acts(), acts());
    let (a, b, c) = (free_port(), free_port(), free_port());
    serve_grpc(a, by_grpc.clone(), Tls::No);
    serve_http(b, by_http.clone());
    serve_http(c, by_json.clone());
    let mut rig = Rig::new(
        &[
            grpc(a, "OTEL_EXPORTER_OTLP_COMPRESSION=gzip"),
            http(b, "OTEL_EXPORTER_OTLP_COMPRESSION=gzip"),
            http(c, "OTEL_EXPORTER_OTLP_PROTOCOL=http/json"),
            Destination::File(path.clone()),
        ],
        limits(),
    );
    for number in 1..=50 {
        let mut span = Sample::server(number);
        span.resource = service(if number % 2 == 0 { "shop" } else { "cart" }, 10);
        if number % 7 == 0 {
            span.error = Some("connection_reset".into());
            span.name = "\u{1b}[2J \u{fffd} \0".into();
        }
        rig.exporter.offer(Arc::new(span));
        rig.offered += 1;
    }
    rig.offer(50);
    let (ledger, said) = rig.stop(SOON);
    assert_eq!((ledger.offered, ledger.exported), (400, 400), "{said:?}");
    assert_eq!(said, [""; 0], "nothing to say when all goes well");

    let lines = std::fs::read_to_string(&path).unwrap();
    let in_file: Vec<ResourceSpans> = lines
        .lines()
        .flat_map(|line| serde_json::from_str::<TracesData>(line).unwrap().resource_spans)
        .collect();
    let want = sorted(in_file);
    assert_eq!(want.len(), 100);
    for seen in [by_grpc, by_http, by_json] {
        let got = seen.taken().into_iter().flat_map(|message| message.resource_spans).collect();
        assert_eq!(sorted(got), want);
    }
    std::fs::remove_file(path).unwrap();
}

/// Each span with its service, however they were batched.
fn sorted(resource_spans: Vec<ResourceSpans>) -> Vec<(String, OtlpSpan)> {
    let mut spans: Vec<(String, OtlpSpan)> = resource_spans
        .into_iter()
        .flat_map(|resource| {
            let about = format!(
                "{:?} {} {:?}",
                resource.resource,
                resource.schema_url,
                resource.scope_spans.iter().map(|s| (&s.scope, &s.schema_url)).collect::<Vec<_>>()
            );
            resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans)
                .map(move |span| (about.clone(), span))
        })
        .collect();
    spans.sort_by(|a, b| a.1.span_id.cmp(&b.1.span_id));
    spans
}

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("spandrel-export-{name}-{}.jsonl", std::process::id()))
}

#[test]
fn a_file_shows_its_lines_while_the_agent_runs() {
    let path = temporary("lines");
    let mut rig = Rig::new(&[Destination::File(path.clone())], Limits::default());
    rig.offer(3);
    until("a line", || std::fs::read_to_string(&path).unwrap().contains('\n'));
    rig.settle();
    rig.offer(3).settle();
    rig.stop(SOON);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.lines().count() >= 2, "{text}");
    let mut spans = 0;
    for line in text.lines() {
        assert!(line.starts_with(r#"{"resourceSpans":["#), "{line}");
        let data = serde_json::from_str::<TracesData>(line).unwrap();
        let scopes = data.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        spans += scopes.map(|scope| scope.spans.len()).sum::<usize>();
    }
    assert_eq!(spans, 6);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_partial_success_is_counted_and_never_sent_again() {
    for over in ["http", "grpc"] {
        let acts = [Act::Reject(3, "too old")];
        let (seen, mut rig) = if over == "http" { against(acts, "") } else { against_grpc(acts, "") };
        let ledger = rig.offer(10).settle();
        assert_eq!((ledger.exported, ledger.rejected, seen.attempts()), (7, 3, 1));
        let (_, said) = rig.stop(SOON);
        assert_eq!(said.len(), 1);
        assert!(said[0].ends_with("rejected 3 spans: too old"), "{said:?}");
    }
}

#[test]
fn a_server_that_rejects_more_than_it_got_cannot_unbalance_the_books() {
    let (_, mut rig) = against([Act::Reject(1_000, ""), Act::Reject(-5, "")], "");
    rig.offer(10).settle();
    let ledger = rig.offer(10).settle();
    assert_eq!((ledger.exported, ledger.rejected), (10, 10));
}

#[test]
fn retry_after_is_waited_for() {
    let (seen, mut rig) = against([Act::Http(429, "Retry-After: 1")], "");
    let start = Instant::now();
    let ledger = rig.offer(10).settle();
    assert!(start.elapsed() >= Duration::from_millis(990), "{:?}", start.elapsed());
    assert_eq!((ledger.exported, ledger.failed_calls, seen.attempts()), (10, 1, 2));
}

#[test]
fn retry_info_is_waited_for_and_without_it_exhausted_means_refused() {
    let acts =
        [Act::Grpc(Code::ResourceExhausted, Some(1)), Act::Take, Act::Grpc(Code::ResourceExhausted, None)];
    let (seen, mut rig) = against_grpc(acts, "");
    let start = Instant::now();
    rig.offer(10).settle();
    assert!(start.elapsed() >= Duration::from_millis(990), "{:?}", start.elapsed());
    let ledger = rig.offer(5).settle();
    assert_eq!((ledger.exported, ledger.refused, seen.attempts()), (10, 5, 3));
}

#[test]
fn an_unavailable_server_gets_the_same_spans_again() {
    let acts = [Act::Http(503, ""), Act::Http(502, ""), Act::Http(504, ""), Act::Cut];
    let (seen, mut rig) = against(acts, "");
    let ledger = rig.offer(10).settle();
    assert_eq!((ledger.exported, ledger.calls, ledger.failed_calls), (10, 5, 4));
    assert_eq!((seen.spans(), seen.attempts()), (10, 5));
    let (_, said) = rig.stop(SOON);
    assert_eq!(said.len(), 2, "one sentence when it begins, one when it is over: {said:?}");
    assert!(said[0].contains("does not take spans now: 503"), "{said:?}");
    assert!(said[1].contains("takes spans again after"), "{said:?}");

    let acts = [Act::Grpc(Code::Unavailable, None), Act::Grpc(Code::Aborted, None)];
    let (seen, mut rig) = against_grpc(acts, "");
    assert_eq!(rig.offer(10).settle().exported, 10);
    assert_eq!(seen.attempts(), 3);
}

#[test]
fn what_is_refused_is_counted_and_never_sent_again() {
    let (seen, mut rig) = against([Act::Http(400, ""), Act::Http(301, "Location: http://127.0.0.1:1/")], "");
    rig.offer(10).settle();
    rig.offer(10).settle();
    let ledger = rig.offer(10).settle();
    assert_eq!((ledger.exported, ledger.refused, seen.attempts()), (10, 20, 3));
    let (_, said) = rig.stop(SOON);
    assert_eq!(said.len(), 1, "at most one such sentence a minute: {said:?}");

    let (seen, mut rig) = against_grpc([Act::Grpc(Code::InvalidArgument, None)], "");
    let ledger = rig.offer(10).settle();
    assert_eq!((ledger.refused, seen.attempts()), (10, 1));
    let (_, said) = rig.stop(SOON);
    assert!(said[0].ends_with("refused 10 spans: INVALID_ARGUMENT: scripted"), "{said:?}");
}

#[test]
fn a_server_that_never_answers_is_given_up_on_after_the_timeout_and_tried_again() {
    let timeout = "OTEL_EXPORTER_OTLP_TIMEOUT=4000";
    for (seen, mut rig) in [against([Act::Hang], timeout), against_grpc([Act::Hang], timeout)] {
        let ledger = rig.offer(10).settle();
        assert_eq!((ledger.exported, ledger.failed_calls, seen.spans()), (10, 1, 10));
        let (_, said) = rig.stop(SOON);
        assert!(said[0].contains("no answer within 4s; retrying, 10 spans waiting"), "{said:?}");
    }
}

#[test]
fn a_backend_that_is_away_and_comes_back_gets_everything() {
    for over in ["http", "grpc"] {
        let (seen, address) = (Seen::default(), free_port());
        // The ten are one batch, however long it takes to offer them.
        let whole = "OTEL_BSP_SCHEDULE_DELAY=3000 OTEL_BSP_MAX_EXPORT_BATCH_SIZE=10";
        let destination = if over == "http" { http(address, whole) } else { grpc(address, whole) };
        let mut rig = Rig::new(&[destination], limits());
        rig.offer(10);
        until("the first failure", || !rig.said.lines().is_empty());
        rig.offer(10);
        assert_eq!(rig.exporter.ledger().waiting, 20);
        match over {
            "http" => serve_http(address, seen.clone()),
            _ => serve_grpc(address, seen.clone(), Tls::No),
        }
        assert_eq!(rig.settle().exported, 20);
        let (_, said) = rig.stop(SOON);
        assert_eq!(said.len(), 2, "{said:?}");
        let want = format!("cannot reach http://{address}");
        assert!(said[0].starts_with(&want), "{said:?}");
        assert!(said[0].ends_with(": connection refused; retrying, 10 spans waiting"), "{said:?}");
    }
}

#[test]
fn a_slow_backend_fills_the_queue_and_never_the_callers_time() {
    let gate = Gate::default();
    let (seen, address) = (Seen::acts([Act::TakeWhenOpen(gate.clone())]), free_port());
    serve_http(address, seen.clone());
    let size = estimate(&Sample::server(1));
    let limits = Limits { queue_bytes: 100 * size, ..limits() };
    let variables = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=20 OTEL_EXPORTER_OTLP_TIMEOUT=120000";
    let mut rig = Rig::new(&[http(address, variables)], limits);
    rig.offer(10_000);
    // Had one offer waited for the backend, the gate would have opened by itself meanwhile.
    assert_eq!(seen.spans(), 0);
    gate.open();
    let ledger = rig.settle();
    assert!(ledger.exported >= 100 && ledger.queue_full > 9_000, "{ledger:?}");
    assert_eq!(ledger.exported, seen.spans());
    let (_, said) = rig.stop(SOON);
    assert!(said.iter().any(|line| line.contains("dropped because the queue is full")), "{said:?}");
}

#[test]
fn what_is_too_old_is_given_up_while_the_backend_is_away() {
    let address = free_port();
    let mut rig = Rig::new(&[http(address, "OTEL_BSP_EXPORT_TIMEOUT=200")], limits());
    rig.offer(700);
    std::thread::sleep(Duration::from_millis(100));
    let ledger = rig.offer(10).settle();
    assert_eq!((ledger.gave_up, ledger.exported), (710, 0));
    let (_, said) = rig.stop(SOON);
    assert!(said.iter().any(|line| line.contains("given up as too old")), "{said:?}");
}

#[test]
fn shutting_down_flushes_at_once_although_a_batch_is_not_due() {
    let (seen, mut rig) = against([], "OTEL_BSP_SCHEDULE_DELAY=60000");
    rig.offer(1_300);
    // Half as long as the delay after which it would be due.
    let (ledger, _) = rig.stop(SOON);
    assert_eq!((ledger.exported, ledger.shutdown, seen.spans()), (1_300, 0, 1_300));
    assert!(seen.taken().iter().all(|message| super::fake::count(message) <= 512));
}

#[test]
fn shutting_down_ends_in_time_and_counts_what_is_left() {
    let cases = [
        against([Act::Hang], ""),
        against_grpc([Act::Hang], ""),
        against([Act::Http(503, "Retry-After: 60")], ""),
    ];
    for (_, mut rig) in cases {
        rig.offer(600);
        std::thread::sleep(Duration::from_millis(50));
        let start = Instant::now();
        let (ledger, _) = rig.stop(Duration::from_millis(300));
        assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
        assert_eq!((ledger.shutdown, ledger.exported), (600, 0));
    }
    let mut rig = Rig::new(&[http(free_port(), "")], Limits::default());
    rig.offer(5);
    assert_eq!(rig.stop(Duration::from_millis(300)).0.shutdown, 5);
}

#[test]
fn a_dead_destination_takes_nothing_from_the_others() {
    let (seen, address) = (Seen::default(), free_port());
    serve_http(address, seen.clone());
    let mut rig = Rig::new(&[http(free_port(), ""), http(address, "")], limits());
    rig.offer(2_000);
    until("all spans at the living one, and booked", || rig.exporter.ledger().exported == 2_000);
    assert_eq!(seen.spans(), 2_000);
    let (ledger, _) = rig.stop(Duration::from_millis(200));
    assert_eq!((ledger.offered, ledger.exported, ledger.shutdown), (4_000, 2_000, 2_000));
}

#[test]
fn a_flaky_server_leaves_no_span_unaccounted() {
    let acts = (0..60).map(|n| match n % 6 {
        0 => Act::Http(503, ""),
        1 => Act::Reject(2, "some"),
        2 => Act::Cut,
        3 => Act::Http(400, ""),
        4 => Act::Http(429, "Retry-After: 0"),
        _ => Act::Take,
    });
    let (seen, address) = (Seen::acts(acts), free_port());
    serve_http(address, seen.clone());
    let size = estimate(&Sample::server(1));
    let limits = Limits { queue_bytes: 400 * size, ..limits() };
    let mut rig = Rig::new(&[http(address, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=16")], limits);
    for _ in 0..50 {
        rig.offer(40);
        assert!(rig.exporter.ledger().balances());
        std::thread::sleep(Duration::from_millis(2));
    }
    rig.settle();
    let (ledger, _) = rig.stop(SOON);
    assert_eq!(ledger.offered, 2_000);
    assert_eq!(ledger.exported + ledger.rejected, seen.spans(), "{ledger:?}");
    assert!(ledger.refused > 0 && ledger.rejected > 0 && ledger.failed_calls > 10, "{ledger:?}");
    assert_eq!(ledger.calls as usize, seen.attempts());
}

#[test]
fn a_span_too_large_for_a_message_is_counted_and_the_others_arrive() {
    let (seen, rig) = against([], "");
    let mut giant = Sample::server(1);
    giant.name = "x".repeat(super::worker::MAX_MESSAGE).into();
    rig.exporter.offer(Arc::new(Sample::server(2)));
    rig.exporter.offer(Arc::new(giant));
    rig.exporter.offer(Arc::new(Sample::server(3)));
    let ledger = rig.settle();
    assert_eq!((ledger.exported, ledger.encoding, seen.spans()), (2, 1, 2));
}

#[test]
fn headers_path_and_user_agent_are_as_the_settings_say() {
    let variables = "OTEL_EXPORTER_OTLP_HEADERS=x-tenant=a%20b OTEL_EXPORTER_OTLP_COMPRESSION=gzip";
    for (seen, mut rig) in [against([], variables), against_grpc([], variables)] {
        rig.offer(1).settle();
        let head = seen.heads().remove(0);
        assert!(head.contains("a b") && head.contains("x-tenant"), "{head}");
        assert!(head.contains("spandrel/") && head.contains("otel-otlp-exporter-rust/"), "{head}");
        assert!(head.contains("gzip"), "{head}");
        rig.stop(SOON);
    }
    let (seen, mut rig) = against([], "");
    rig.offer(1).settle();
    let head = seen.heads().remove(0);
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
}

#[test]
fn own_metrics_are_sent_each_interval_and_with_final_figures_at_the_end() {
    for protocol in ["http", "grpc"] {
        let (seen, address) = (Seen::default(), free_port());
        let variables = "OTEL_METRIC_EXPORT_INTERVAL=50";
        let mut metrics = settings(Signal::Metrics, &format!("http://{address}"), variables);
        let traces = match protocol {
            "http" => {
                serve_http(address, seen.clone());
                http(address, "")
            }
            _ => {
                serve_grpc(address, seen.clone(), Tls::No);
                metrics.protocol = Protocol::Grpc;
                grpc(address, "")
            }
        };
        let said = Said::default();
        let metrics = MetricsDestination { settings: metrics, agent: agent_resource(&|_| None, 7) };
        let exporter = Exporter::start(&[traces], Some(metrics), limits(), said.say()).unwrap();
        exporter.publish(vec![Counter::by("spandrel_stream_lost_bytes_total", "ring", 5)]);
        exporter.offer(Arc::new(Sample::server(1)));
        until("figures of two intervals", || seen.metrics().len() >= 2);
        exporter.offer(Arc::new(Sample::server(2)));
        exporter.publish(vec![Counter::by("spandrel_stream_lost_bytes_total", "ring", 9)]);
        exporter.flush_and_stop(SOON);
        let messages = seen.metrics();
        assert!(messages.len() >= 3, "{}", messages.len());
        let value = |name: &str| {
            let all = &messages.last().unwrap().resource_metrics[0].scope_metrics[0].metrics;
            match &all.iter().find(|metric| metric.name == name).unwrap().data {
                Some(metric::Data::Sum(sum)) => sum.data_points[0].value,
                other => panic!("{other:?}"),
            }
        };
        let int = |number| Some(number_data_point::Value::AsInt(number));
        assert_eq!(value("spandrel_export_exported_spans_total"), int(2));
        assert_eq!(value("spandrel_stream_lost_bytes_total"), int(9));
        assert_eq!(said.lines(), [""; 0]);
    }
}

#[test]
fn a_backend_without_metrics_is_asked_once_and_loses_no_span() {
    let (seen, address) = (Seen::acts(vec![Act::Http(404, ""); 1]), free_port());
    serve_http(address, seen.clone());
    let settings = settings(Signal::Metrics, &format!("http://{address}"), "OTEL_METRIC_EXPORT_INTERVAL=20");
    let metrics = MetricsDestination { settings, agent: agent_resource(&|_| None, 7) };
    let said = Said::default();
    let exporter = Exporter::start(&[http(address, "")], Some(metrics), limits(), said.say()).unwrap();
    until("the refusal", || !said.lines().is_empty());
    // Several intervals more: it is not asked again.
    std::thread::sleep(Duration::from_millis(100));
    exporter.offer(Arc::new(Sample::server(1)));
    let ledger = exporter.flush_and_stop(SOON);
    assert_eq!((ledger.exported, seen.metrics().len(), seen.attempts()), (1, 0, 2));
    assert_eq!(said.lines().len(), 1, "{:?}", said.lines());
    assert!(said.lines()[0].contains("does not take the agent's own metrics: 404"), "{:?}", said.lines());
}

#[test]
fn an_exporter_that_is_dropped_ends_its_thread() {
    let path = temporary("dropped");
    let exporter =
        Exporter::start(&[Destination::File(path.clone())], None, limits(), Said::default().say()).unwrap();
    let queue = Arc::downgrade(&exporter.queues[0]);
    drop(exporter);
    until("the thread's end", || queue.strong_count() == 0);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn without_destinations_it_starts_and_stops() {
    let exporter = Exporter::start(&[], None, limits(), Said::default().say()).unwrap();
    exporter.offer(Arc::new(Sample::server(1)));
    assert_eq!(exporter.flush_and_stop(SOON), Ledger::default());
}

fn pem(name: &str) -> Option<PathBuf> {
    Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/export/testdata/tls").join(name))
}

/// An exporter that sends over TLS to a backend that wants a certificate, both set up by `configure`.
fn over_tls(protocol: Protocol, configure: impl Fn(&mut OtlpSettings)) -> (Seen, Rig) {
    let (seen, address) = (Seen::default(), free_port());
    match protocol {
        Protocol::Grpc => serve_grpc(address, seen.clone(), Tls::Mutual),
        _ => serve_https(address, seen.clone()),
    }
    let endpoint = format!("https://localhost:{}", address.port());
    let mut settings = settings(Signal::Traces, &endpoint, "");
    settings.protocol = protocol;
    if protocol == Protocol::Grpc {
        settings.endpoint.set_path("");
    }
    configure(&mut settings);
    (seen, Rig::new(&[Destination::Otlp(Box::new(settings))], limits()))
}

#[test]
fn tls_trusts_the_given_certificate_and_shows_the_clients() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (seen, mut rig) = over_tls(protocol, |settings| {
            settings.certificate = pem("ca.pem");
            settings.client_certificate = pem("client.pem");
            settings.client_key = pem("client.key");
        });
        let ledger = rig.offer(10).settle();
        assert_eq!((ledger.exported, seen.spans()), (10, 10));
        assert_eq!(rig.stop(SOON).1, [""; 0]);
    }
}

#[test]
fn a_server_whose_certificate_is_not_trusted_gets_nothing_and_the_log_says_why() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (seen, mut rig) = over_tls(protocol, |_| {});
        rig.offer(10);
        until("a failure", || !rig.said.lines().is_empty());
        let (ledger, said) = rig.stop(Duration::from_millis(200));
        assert_eq!((ledger.exported, ledger.shutdown, seen.attempts()), (0, 10, 0));
        assert!(said[0].contains("invalid peer certificate"), "{said:?}");
    }
}

#[test]
fn a_client_without_the_certificate_that_the_server_wants_is_told() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (seen, mut rig) = over_tls(protocol, |settings| settings.certificate = pem("ca.pem"));
        rig.offer(10);
        until("a failure", || !rig.said.lines().is_empty());
        let (ledger, said) = rig.stop(Duration::from_millis(200));
        assert_eq!((ledger.exported, ledger.shutdown, seen.attempts()), (0, 10, 0));
        assert!(said[0].starts_with("cannot reach https://localhost:"), "{said:?}");
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_an_error_at_the_start_with_its_path() {
    for endpoint in ["https://localhost:4317", "https://localhost:4318"] {
        for (path, want) in [
            (PathBuf::from("/nonexistent/ca.pem"), "cannot read /nonexistent/ca.pem: "),
            (pem("README.md").unwrap(), "README.md holds no usable certificate in PEM form"),
        ] {
            let mut settings = settings(Signal::Traces, endpoint, "");
            settings.certificate = Some(path);
            let destination = Destination::Otlp(Box::new(settings));
            let result = Exporter::start(&[destination], None, limits(), Said::default().say());
            let error = result.err().unwrap().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
