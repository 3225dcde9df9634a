//! OTLP over gRPC: one unary call per message, with or without gzip and TLS.
//!
//! Messages come encoded, so that a retry costs no second encoding and both transports send the very
//! same bytes; hence the codec of its own. What an answer means is decided in `answer`.
//! It must never take a status that this side made up (a broken connection) for the server's word.

use std::error::Error as _;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use super::answer::{self, Answer, Reply};
use super::settings::{Compression, OtlpSettings, Signal};
use super::{StartError, USER_AGENT, read_pem};

/// A destination that speaks OTLP over gRPC.
#[derive(Debug)]
pub struct GrpcTransport {
    endpoint: Endpoint,
    /// None until the first call, and after one that timed out: a connection that no longer answers must
    /// not be used again.
    channel: Option<Channel>,
    path: PathAndQuery,
    headers: MetadataMap,
    compression: Compression,
    timeout: Duration,
}

impl GrpcTransport {
    /// Prepares to send; connects to nothing yet. Fails if a certificate or key cannot be read or used.
    pub fn new(settings: &OtlpSettings) -> Result<Self, StartError> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let unusable = |error: tonic::transport::Error| StartError::Unusable {
            endpoint: settings.shown_endpoint(),
            reason: answer::root_cause(&error),
        };
        let mut endpoint = Endpoint::from_shared(settings.shown_endpoint())
            .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
            .map_err(unusable)?
            .connect_timeout(settings.timeout)
            .tcp_keepalive(Some(TCP_KEEP_ALIVE));
        if settings.endpoint.scheme() == "https" {
            let mut tls = ClientTlsConfig::new();
            tls = match &settings.certificate {
                Some(path) => {
                    let pem = read_pem(path)?;
                    if !contains(&pem, b"-----BEGIN CERTIFICATE-----") {
                        return Err(StartError::no_pem(path, "certificate"));
                    }
                    tls.ca_certificate(Certificate::from_pem(pem))
                }
                None => tls.with_native_roots(),
            };
            if let (Some(certificate), Some(key)) = (&settings.client_certificate, &settings.client_key) {
                tls = tls.identity(Identity::from_pem(read_pem(certificate)?, read_pem(key)?));
            }
            endpoint = endpoint.tls_config(tls).map_err(unusable)?;
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers.0 {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
            {
                headers.append(name, value);
            }
        }
        Ok(Self {
            endpoint,
            channel: None,
            path: PathAndQuery::from_static(match settings.signal {
                Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
                Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            }),
            headers: MetadataMap::from_headers(headers),
            compression: settings.compression,
            timeout: settings.timeout,
        })
    }

    /// One attempt. Must be called within a tokio runtime.
    pub async fn send(&mut self, message: Bytes) -> Answer {
        let channel = self.channel.get_or_insert_with(|| self.endpoint.connect_lazy()).clone();
        let mut client = Grpc::new(channel).accept_compressed(CompressionEncoding::Gzip);
        if self.compression == Compression::Gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        let call = async {
            client.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
            client.unary(request, self.path.clone(), Encoded).await
        };
        match tokio::time::timeout(self.timeout, call).await {
            Err(_elapsed) => {
                self.channel = None;
                Answer::unreached(format!("no answer within {:?}", self.timeout))
            }
            Ok(Ok(reply)) => Answer::accepted(Reply::from_message(reply.into_inner())),
            Ok(Err(status)) => match status.source() {
                // Made up on this side: the connection could not be made, or broke.
                Some(source) => Answer::unreached(answer::root_cause(source)),
                None => answer::grpc_failure(status.code(), status.message(), status.details()),
            },
        }
    }
}

/// Requests that are encoded already; replies as messages.
#[derive(Clone, Copy, Debug)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = ExportTraceServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        match ExportTraceServiceResponse::decode(from) {
            Ok(reply) => Ok(Some(reply)),
            Err(error) => Err(Status::new(Code::Internal, format!("the reply cannot be read: {error}"))),
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

/// So that a connection whose peer is gone is noticed; the kernel's default is two hours.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(30);
