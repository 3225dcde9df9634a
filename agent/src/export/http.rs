//! OTLP over HTTP: one `POST` per message, protobuf or JSON, with or without gzip and TLS.
//!
//! It sends and reads; what an answer means is decided in `answer`. It must never follow a redirect (the
//! headers hold credentials), never use a proxy that was not asked for, and never read more of an answer
//! than [`MAX_ANSWER`].

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flate2::Compression as Level;
use flate2::write::GzEncoder;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Identity, Response, Url, redirect};

use super::answer::{self, Answer, IsJson, Reply};
use super::encode::Encoding;
use super::settings::{Compression, OtlpSettings, Protocol};
use super::{StartError, USER_AGENT, read_pem};

/// A destination that speaks OTLP over HTTP.
#[derive(Debug)]
pub struct HttpTransport {
    client: Client,
    url: Url,
    headers: HeaderMap,
    compression: Compression,
    timeout: Duration,
    encoding: Encoding,
}

impl HttpTransport {
    /// Prepares to send; connects to nothing yet. Fails if a certificate or key cannot be read or used.
    pub fn new(settings: &OtlpSettings) -> Result<Self, StartError> {
        // Fails only if another one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let unusable = |error: reqwest::Error| StartError::Unusable {
            endpoint: settings.shown_endpoint(),
            reason: answer::root_cause(&error),
        };
        let encoding = match settings.protocol {
            Protocol::HttpJson => Encoding::Json,
            Protocol::HttpProtobuf | Protocol::Grpc => Encoding::Protobuf,
        };
        let mut client = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(settings.timeout)
            // One call at a time, so one connection is enough.
            .pool_max_idle_per_host(1);
        if settings.endpoint.scheme() == "https" {
            if let Some(path) = &settings.certificate {
                let pem = read_pem(path)?;
                let trusted = Certificate::from_pem_bundle(&pem)
                    .map_err(|error| StartError::not_pem(path, "certificate", &error))?;
                if trusted.is_empty() {
                    return Err(StartError::no_pem(path, "certificate"));
                }
                client = client.tls_certs_only(trusted);
            }
            if let (Some(certificate), Some(key)) = (&settings.client_certificate, &settings.client_key) {
                let mut pem = read_pem(certificate)?;
                pem.push(b'\n');
                pem.extend(read_pem(key)?);
                let identity = Identity::from_pem(&pem).map_err(|error| {
                    StartError::not_pem(certificate, "client certificate with its key", &error)
                })?;
                client = client.identity(identity);
            }
        } else {
            // Without this, a machine that has no system certificates could not even speak plain HTTP.
            client = client.tls_certs_only([]);
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers.0 {
            if let (Ok(name), Ok(mut value)) =
                (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
            {
                value.set_sensitive(true);
                headers.append(name, value);
            }
        }
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(match encoding {
                Encoding::Protobuf => "application/x-protobuf",
                Encoding::Json => "application/json",
            }),
        );
        if settings.compression == Compression::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(Self {
            client: client.build().map_err(unusable)?,
            url: settings.endpoint.clone(),
            headers,
            compression: settings.compression,
            timeout: settings.timeout,
            encoding,
        })
    }

    /// How messages must be written.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// What goes over the wire for a message; the same for each attempt.
    pub fn prepare(&self, message: Bytes) -> Bytes {
        match self.compression {
            Compression::None => message,
            Compression::Gzip => gzip(&message),
        }
    }

    /// One attempt.
    pub async fn send(&self, body: Bytes) -> Answer {
        let request = self
            .client
            .post(self.url.clone())
            .headers(self.headers.clone())
            .timeout(self.timeout)
            .body(body)
            .send();
        let mut response = match request.await {
            Ok(response) => response,
            Err(error) => return self.unreached(&error),
        };
        let status = response.status();
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let json = match response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes) {
            Some(value) if value.starts_with(b"application/json") => IsJson::Yes,
            _ => IsJson::No,
        };
        let body = match read_some(&mut response).await {
            Ok(body) => body,
            // The status is there, and decides, whatever became of the body.
            Err(_) if !status.is_success() => Vec::new(),
            // "Success" without the body that says how much of it was one: not known, so try again.
            Err(error) => return self.unreached(&error),
        };
        if status.is_success() {
            return Answer::accepted(Reply::from_body(&body, json));
        }
        let phrase = status.canonical_reason().unwrap_or_default();
        answer::http_failure(status.as_u16(), phrase, retry_after.as_deref(), &body, json, SystemTime::now())
    }

    fn unreached(&self, error: &reqwest::Error) -> Answer {
        if error.is_timeout() {
            Answer::unreached(format!("no answer within {:?}", self.timeout))
        } else if error.is_builder() {
            Answer::Refused { reason: answer::root_cause(error) }
        } else {
            Answer::unreached(answer::root_cause(error))
        }
    }
}

async fn read_some(response: &mut Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = MAX_ANSWER.saturating_sub(body.len());
        body.extend_from_slice(chunk.get(..room.min(chunk.len())).unwrap_or_default());
        if body.len() >= MAX_ANSWER {
            break;
        }
    }
    Ok(body)
}

fn gzip(message: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(message.len() / 4 + 64), Level::fast());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(message);
    encoder.finish().unwrap_or_default().into()
}

/// An answer is a few bytes; the specification allows a server 4 MiB, of which only a message is of use.
const MAX_ANSWER: usize = 64 << 10;
