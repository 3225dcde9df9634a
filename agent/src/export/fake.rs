//! Backends that do as a script says, in this process and on loopback: OTLP over gRPC with tonic's server
//! side, OTLP over HTTP with a few lines of HTTP/1.1.
//!
//! Compiled for tests only. Each runs in a thread of its own, and keeps what it took.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};

const CA: &[u8] = include_bytes!("testdata/tls/ca.pem");
const SERVER: &[u8] = include_bytes!("testdata/tls/server.pem");
const SERVER_KEY: &[u8] = include_bytes!("testdata/tls/server.key");

/// What a backend does with one message. When the script is over, it takes everything.
#[derive(Clone, Debug)]
pub enum Act {
    /// Takes it.
    Take,
    /// Takes it once this gate is open.
    TakeWhenOpen(Gate),
    /// Takes all but so many.
    Reject(i64, &'static str),
    /// HTTP: a status, and a header line or nothing.
    Http(u16, &'static str),
    /// gRPC: a code, and seconds of `RetryInfo`.
    Grpc(Code, Option<i64>),
    /// Reads the message and never answers.
    Hang,
    /// Reads the message and closes the connection.
    Cut,
}

/// What a backend can be made to wait for. It opens by itself after a time that no test takes.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everything through from now on.
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout_while(open, Duration::from_secs(60), |open| !*open).unwrap());
    }
}

/// What a backend saw.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    script: VecDeque<Act>,
    taken: Vec<ExportTraceServiceRequest>,
    metrics: Vec<ExportMetricsServiceRequest>,
    heads: Vec<String>,
    attempts: usize,
}

impl Seen {
    /// A script.
    pub fn acts(acts: impl IntoIterator<Item = Act>) -> Self {
        let seen = Self::default();
        seen.0.lock().unwrap().script.extend(acts);
        seen
    }

    /// Messages taken.
    pub fn taken(&self) -> Vec<ExportTraceServiceRequest> {
        self.0.lock().unwrap().taken.clone()
    }

    /// Metrics taken.
    pub fn metrics(&self) -> Vec<ExportMetricsServiceRequest> {
        self.0.lock().unwrap().metrics.clone()
    }

    /// Spans taken.
    pub fn spans(&self) -> u64 {
        self.taken().iter().map(count).sum()
    }

    /// Calls made.
    pub fn attempts(&self) -> usize {
        self.0.lock().unwrap().attempts
    }

    /// Heads of the requests, lower-case, as lines.
    pub fn heads(&self) -> Vec<String> {
        self.0.lock().unwrap().heads.clone()
    }

    fn next(&self, head: String) -> Act {
        let mut state = self.0.lock().unwrap();
        state.attempts += 1;
        state.heads.push(head);
        state.script.pop_front().unwrap_or(Act::Take)
    }

    fn take(&self, message: ExportTraceServiceRequest) {
        self.0.lock().unwrap().taken.push(message);
    }
}

/// Spans in a message.
pub fn count(message: &ExportTraceServiceRequest) -> u64 {
    let scopes = message.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    scopes.map(|scope| scope.spans.len() as u64).sum()
}

/// A port of loopback that is free, and refuses connections until someone listens. Below the range that the
/// kernel takes ports of outgoing connections from: one of those could take it, or even connect to itself.
pub fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let number = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) + std::process::id() * 37;
        let port = 20_000 + u16::try_from(number % 12_000).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Serves OTLP over HTTP at this address.
pub fn serve_http(address: SocketAddr, seen: Seen) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = seen.clone();
            std::thread::spawn(move || converse(stream, &seen));
        }
    });
}

/// Serves OTLP over HTTP with TLS at this address, to clients whose certificate the test CA signed.
pub fn serve_https(address: SocketAddr, seen: Seen) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CA).unwrap()).unwrap();
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(SERVER).unwrap()],
            PrivateKeyDer::from_pem_slice(SERVER_KEY).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (seen, config) = (seen.clone(), Arc::clone(&config));
            std::thread::spawn(move || {
                converse(StreamOwned::new(ServerConnection::new(config).unwrap(), stream), &seen)
            });
        }
    });
}

fn converse(stream: impl Read + Write, seen: &Seen) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let head = head.to_ascii_lowercase();
        let field = |name: &str| {
            head.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).map(str::to_owned)
        };
        let mut body = vec![0; field("content-length")?.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        if field("content-encoding").as_deref() == Some("gzip") {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&*body).read_to_end(&mut plain).ok()?;
            body = plain;
        }
        let json = field("content-type")? == "application/json";
        let metrics = head.starts_with("post /v1/metrics ");
        let mut reply = ExportTraceServiceResponse::default();
        match seen.next(head.clone()) {
            Act::Hang => std::thread::sleep(Duration::from_secs(60)),
            Act::Cut => return None,
            Act::Http(status, line) => {
                let newline = if line.is_empty() { "" } else { "\r\n" };
                let answer = format!("HTTP/1.1 {status} Fake\r\n{line}{newline}content-length: 0\r\n\r\n");
                reader.get_mut().write_all(answer.as_bytes()).ok()?;
                continue;
            }
            Act::Grpc(..) => panic!("not over HTTP"),
            Act::Take => {}
            Act::TakeWhenOpen(gate) => gate.wait(),
            Act::Reject(rejected_spans, message) => {
                reply.partial_success =
                    Some(ExportTracePartialSuccess { rejected_spans, error_message: message.to_owned() });
            }
        }
        if metrics {
            let message = ExportMetricsServiceRequest::decode(&*body).unwrap();
            seen.0.lock().unwrap().metrics.push(message);
        } else if json {
            seen.take(serde_json::from_slice(&body).unwrap());
        } else {
            seen.take(ExportTraceServiceRequest::decode(&*body).unwrap());
        }
        let (kind, reply) = match json {
            true => ("application/json", serde_json::to_vec(&reply).unwrap()),
            false => ("application/x-protobuf", reply.encode_to_vec()),
        };
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", reply.len());
        reader.get_mut().write_all(head.as_bytes()).ok()?;
        reader.get_mut().write_all(&reply).ok()?;
        reader.get_mut().flush().ok()?;
    }
}

/// Whether a backend speaks TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tls {
    /// In the clear.
    No,
    /// With a certificate of the test CA, to clients that have one too.
    Mutual,
}

/// Serves OTLP over gRPC at this address.
pub fn serve_grpc(address: SocketAddr, seen: Seen, tls: Tls) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut server = Server::builder();
            if tls == Tls::Mutual {
                let config = ServerTlsConfig::new()
                    .identity(Identity::from_pem(SERVER, SERVER_KEY))
                    .client_ca_root(Certificate::from_pem(CA));
                server = server.tls_config(config).unwrap();
            }
            let traces = TraceServiceServer::new(seen.clone()).accept_compressed(CompressionEncoding::Gzip);
            let metrics = MetricsServiceServer::new(seen).accept_compressed(CompressionEncoding::Gzip);
            server.add_service(traces).add_service(metrics).serve(address).await.unwrap();
        });
    });
    while TcpStream::connect(address).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn head(metadata: &MetadataMap) -> String {
    format!("{:?}", metadata.clone().into_headers()).to_ascii_lowercase()
}

#[tonic::async_trait]
impl TraceService for Seen {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut reply = ExportTraceServiceResponse::default();
        match self.next(head(request.metadata())) {
            Act::Take => {}
            Act::Hang => std::future::pending().await,
            Act::Reject(rejected_spans, message) => {
                reply.partial_success =
                    Some(ExportTracePartialSuccess { rejected_spans, error_message: message.to_owned() });
            }
            Act::Grpc(code, seconds) => {
                use super::answer::{RetryInfo, RpcAny, RpcDuration, RpcStatus};
                let details = seconds.map(|seconds| {
                    let info = RetryInfo { retry_delay: Some(RpcDuration { seconds, nanos: 0 }) };
                    RpcStatus {
                        code: code as i32,
                        message: String::new(),
                        details: vec![RpcAny {
                            type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
                            value: info.encode_to_vec(),
                        }],
                    }
                    .encode_to_vec()
                });
                return Err(Status::with_details(code, "scripted", details.unwrap_or_default().into()));
            }
            Act::Http(..) | Act::Cut | Act::TakeWhenOpen(_) => panic!("not over gRPC"),
        }
        self.take(request.into_inner());
        Ok(Response::new(reply))
    }
}

#[tonic::async_trait]
impl MetricsService for Seen {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        if let Act::Grpc(code, _) = self.next(head(request.metadata())) {
            return Err(Status::new(code, "scripted"));
        }
        self.0.lock().unwrap().metrics.push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
