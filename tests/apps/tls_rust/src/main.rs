//! HTTP/1.1 over TLS with rustls on tokio, and its client; stripped. Nothing here knows that it is traced.
//!
//!     tls_rust serve PORT CERTIFICATE KEY [1.2]
//!     tls_rust client PORT PREFIX COUNT CONCURRENCY PER_CONNECTION

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Reads up to the end of a head, and as many bytes as it says; the head.
async fn message(stream: &mut (impl AsyncRead + Unpin), held: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = held.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&held[..end + 4]).to_ascii_lowercase();
            let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |text| text.trim().parse().unwrap());
            if held.len() >= end + 4 + length {
                held.drain(..end + 4 + length);
                return Some(head);
            }
        }
        if stream.read_buf(held).await.ok()? == 0 {
            return None;
        }
    }
}

async fn serve(port: u16, certificate: &str, key: &str, version: Option<&str>) {
    let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let versions = match version {
        Some("1.2") => vec![&TLS12],
        _ => vec![&TLS12, &TLS13],
    };
    let config = ServerConfig::builder_with_protocol_versions(&versions).with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{}", "x".repeat(200));
    let answer: Arc<str> = answer.into();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
        tokio::spawn(async move {
            let Ok(mut stream) = acceptor.accept(socket).await else { return };
            let mut held = Vec::new();
            while message(&mut stream, &mut held).await.is_some() {
                if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
        });
    }
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

async fn client(port: u16, prefix: String, count: usize, concurrency: usize, per_connection: usize) {
    let config = ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(Anybody));
    let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..concurrency {
        let (connector, next, prefix) = (connector.clone(), Arc::clone(&next), prefix.clone());
        tasks.push(tokio::spawn(async move {
            let mut number = next.fetch_add(1, Ordering::Relaxed);
            while number < count {
                let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let name = ServerName::try_from("localhost").unwrap();
                let mut stream = connector.connect(name, socket).await.unwrap();
                let mut held = Vec::new();
                for _ in 0..per_connection {
                    let request = format!("GET {prefix}-{number} HTTP/1.1\r\nHost: localhost\r\n\r\n");
                    stream.write_all(request.as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                    let head = message(&mut stream, &mut held).await.unwrap();
                    assert!(head.starts_with("http/1.1 200"), "{head}");
                    number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                }
                stream.shutdown().await.ok();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments[at].parse().unwrap();
    let port = arguments[1].parse().unwrap();
    if arguments[0] == "serve" {
        serve(port, &arguments[2], &arguments[3], arguments.get(4).map(String::as_str)).await;
    } else {
        client(port, arguments[2].clone(), number(3), number(4), number(5)).await;
    }
}
