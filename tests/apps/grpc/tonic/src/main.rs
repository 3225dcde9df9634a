//! gRPC peer: tonic. What the arguments mean and what a body asks for: tests/src/grpc/calls.rs.
//! No generated code: bytes in, bytes out, any method name. It must never know that it is traced.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Write;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut, Bytes};
use tokio::sync::Semaphore;
use tokio_stream::{Stream, StreamExt};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{AsciiMetadataKey, BinaryMetadataValue, MetadataMap};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

type Wish = HashMap<String, String>;
type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

#[derive(Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        *self
    }
    fn decoder(&mut self) -> Self {
        *self
    }
}
impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}
impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}

fn fields(text: &str) -> Wish {
    text.split(' ').filter_map(|word| word.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn wished(body: &[u8]) -> Wish {
    fields(String::from_utf8_lossy(body).split('\n').next().unwrap_or(""))
}

fn number(wish: &Wish, key: &str, otherwise: u64) -> u64 {
    wish.get(key).and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

async fn pause(wish: &Wish, key: &str) {
    let ms = number(wish, key, 0);
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

fn keys(metadata: &mut MetadataMap, spec: &str, prefix: &str) {
    let (count, length) = spec.split_once('x').unwrap();
    for n in 0..count.parse::<u32>().unwrap() {
        let value = char::from(b'a' + (n % 26) as u8).to_string().repeat(length.parse().unwrap());
        metadata.insert(AsciiMetadataKey::from_bytes(format!("{prefix}-{n}").as_bytes()).unwrap(), value.parse().unwrap());
    }
}

fn message(wish: &Wish) -> Bytes {
    Bytes::from(vec![b'x'; number(wish, "z", 20) as usize])
}

fn failure(wish: &Wish) -> Result<(), Status> {
    match number(wish, "s", 0) {
        0 => Ok(()),
        code => Err(Status::new(tonic::Code::from(code as i32), "no such thing")),
    }
}

fn reply<T>(wish: &Wish, body: T) -> Response<T> {
    let mut response = Response::new(body);
    if let Some(spec) = wish.get("h") {
        keys(response.metadata_mut(), spec, "x-reply");
    }
    response
}

/// Answers a request or a stream of them with one message.
#[derive(Clone, Copy)]
struct One;

impl tower_service::Service<Request<Bytes>> for One {
    type Response = Response<Bytes>;
    type Error = Status;
    type Future = Pin<Box<dyn std::future::Future<Output = Result<Response<Bytes>, Status>> + Send>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        Box::pin(async move {
            let wish = wished(request.get_ref());
            pause(&wish, "d").await;
            failure(&wish)?;
            Ok(reply(&wish, message(&wish)))
        })
    }
}

impl tower_service::Service<Request<Streaming<Bytes>>> for One {
    type Response = Response<Bytes>;
    type Error = Status;
    type Future = Pin<Box<dyn std::future::Future<Output = Result<Response<Bytes>, Status>> + Send>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        Box::pin(async move {
            let (mut wish, mut stream) = (None, request.into_inner());
            while let Some(next) = stream.message().await? {
                wish.get_or_insert_with(|| wished(&next));
            }
            let wish = wish.unwrap_or_default();
            pause(&wish, "d").await;
            failure(&wish)?;
            Ok(reply(&wish, message(&wish)))
        })
    }
}

/// Answers with many.
#[derive(Clone, Copy)]
struct Many;

impl tower_service::Service<Request<Bytes>> for Many {
    type Response = Response<Messages>;
    type Error = Status;
    type Future = Pin<Box<dyn std::future::Future<Output = Result<Response<Messages>, Status>> + Send>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        Box::pin(async move {
            let wish = wished(request.get_ref());
            let (to, from) = tokio::sync::mpsc::channel(4);
            let asked = wish.clone();
            tokio::spawn(async move {
                for _ in 0..number(&asked, "n", 1) {
                    if to.send(Ok(message(&asked))).await.is_err() {
                        return;
                    }
                    pause(&asked, "i").await;
                }
                pause(&asked, "d").await;
                if let Err(status) = failure(&asked) {
                    let _ = to.send(Err(status)).await;
                }
            });
            let stream: Messages = Box::pin(tokio_stream::wrappers::ReceiverStream::new(from));
            Ok(reply(&wish, stream))
        })
    }
}

impl tower_service::Service<Request<Streaming<Bytes>>> for Many {
    type Response = Response<Messages>;
    type Error = Status;
    type Future = Pin<Box<dyn std::future::Future<Output = Result<Response<Messages>, Status>> + Send>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        Box::pin(async move {
            let mut stream = request.into_inner();
            let (to, from) = tokio::sync::mpsc::channel(4);
            tokio::spawn(async move {
                let mut wish = None;
                while let Ok(Some(next)) = stream.message().await {
                    let wish = wish.get_or_insert_with(|| wished(&next));
                    if to.send(Ok(message(wish))).await.is_err() {
                        return;
                    }
                }
                let wish = wish.unwrap_or_default();
                pause(&wish, "d").await;
                if let Err(status) = failure(&wish) {
                    let _ = to.send(Err(status)).await;
                }
            });
            let stream: Messages = Box::pin(tokio_stream::wrappers::ReceiverStream::new(from));
            Ok(Response::new(stream))
        })
    }
}

/// All paths of the service.
#[derive(Clone)]
struct Echo;

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn std::future::Future<Output = Result<Self::Response, Infallible>> + Send>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let last = request.uri().path().rsplit('/').next().unwrap_or("").to_owned();
            let mut grpc = tonic::server::Grpc::new(Plain).apply_max_message_size_config(Some(1 << 30), None);
            Ok(if last.starts_with("Server") {
                grpc.server_streaming(Many, request).await
            } else if last.starts_with("Client") {
                grpc.client_streaming(One, request).await
            } else if last.starts_with("Both") {
                grpc.streaming(Many, request).await
            } else {
                grpc.unary(One, request).await
            })
        })
    }
}

async fn serve(given: Wish) {
    let stop = async {
        match given.get("stop") {
            Some(file) => appears(file).await,
            None => std::future::pending().await,
        }
    };
    let mut server = Server::builder();
    if let Some(file) = given.get("certificate") {
        let identity = Identity::from_pem(std::fs::read(file).unwrap(), std::fs::read(&given["key"]).unwrap());
        server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
    }
    server
        .http2_max_header_list_size(1 << 20)
        .add_service(Echo)
        .serve_with_shutdown(format!("127.0.0.1:{}", given["port"]).parse().unwrap(), stop)
        .await
        .unwrap();
}

/// Waits until the file is there.
async fn appears(file: &str) {
    while !std::path::Path::new(file).exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn random() -> Vec<u8> {
    use std::hash::{BuildHasher, Hasher};
    (0..5).flat_map(|_| std::collections::hash_map::RandomState::new().build_hasher().finish().to_le_bytes()).collect()
}

fn metadata(wish: &Wish, all: &mut MetadataMap) {
    if let Some(spec) = wish.get("m") {
        keys(all, spec, "x-key");
    }
    if wish.contains_key("b") {
        all.insert_bin("x-data-bin", BinaryMetadataValue::from_bytes(&random()));
    }
    if wish.contains_key("r") {
        let id: String = random().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        all.insert("x-request-id", id.parse().unwrap());
    }
}

async fn one(channel: Channel, path: &str, kind: &str, text: &str, wish: &Wish) -> (i32, usize) {
    let body = match wish.get("z") {
        Some(size) => Bytes::from(format!("{text}\n{}", "y".repeat(size.parse().unwrap()))),
        None => Bytes::from(text.to_owned()),
    };
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(1 << 30);
    let path: http::uri::PathAndQuery = path.parse().unwrap();
    let received = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&received);
    let run = async move {
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (n, gap) = (number(wish, "n", 1), number(wish, "i", 0));
        let asked = body.clone();
        let requests = tokio_stream::iter(0..n).then(move |at| {
            let body = asked.clone();
            async move {
                if at > 0 && gap > 0 {
                    tokio::time::sleep(Duration::from_millis(gap)).await;
                }
                body
            }
        });
        let single = |body: Bytes| {
            let mut request = Request::new(body);
            metadata(wish, request.metadata_mut());
            if wish.contains_key("t") {
                request.set_timeout(Duration::from_millis(number(wish, "t", 0)));
            }
            request
        };
        let mut many = Request::new(Box::pin(requests));
        metadata(wish, many.metadata_mut());
        let mut stream = match kind {
            "unary" => {
                grpc.unary::<Bytes, Bytes, _>(single(body), path, Plain).await?;
                count.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            "client" => {
                grpc.client_streaming::<_, Bytes, Bytes, _>(many, path, Plain).await?;
                count.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            "server" => grpc.server_streaming::<Bytes, Bytes, _>(single(body), path, Plain).await?,
            _ => grpc.streaming::<_, Bytes, Bytes, _>(many, path, Plain).await?,
        }
        .into_inner();
        while stream.message().await?.is_some() {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok::<(), Status>(())
    };
    let result = match wish.get("c") {
        // Dropping the call is how tonic cancels.
        Some(ms) => tokio::time::timeout(Duration::from_millis(ms.parse().unwrap()), run)
            .await
            .unwrap_or_else(|_| Err(Status::cancelled("cancelled"))),
        None => run.await,
    };
    (result.err().map_or(0, |status| status.code() as i32), received.load(Ordering::Relaxed))
}

fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos()
}

async fn drive(given: Wish) {
    let lines: Arc<Vec<String>> =
        Arc::new(std::fs::read_to_string(&given["calls"]).unwrap().lines().map(str::to_owned).collect());
    let log = Arc::new(Mutex::new(std::io::BufWriter::new(std::fs::File::create(&given["log"]).unwrap())));
    let (connections, reached) = (number(&given, "connections", 1) as usize, Arc::new(AtomicUsize::new(0)));
    let mut tasks = Vec::new();
    for id in 0..connections {
        let (lines, log, given, reached) = (Arc::clone(&lines), Arc::clone(&log), given.clone(), Arc::clone(&reached));
        tasks.push(tokio::spawn(async move {
            let scheme = if given.contains_key("certificate") { "https" } else { "http" };
            let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", given["to"])).unwrap();
            if let Some(file) = given.get("certificate") {
                let root = Certificate::from_pem(std::fs::read(file).unwrap());
                let tls = ClientTlsConfig::new().ca_certificate(root).domain_name("localhost");
                endpoint = endpoint.tls_config(tls).unwrap();
            }
            let channel = endpoint
                .http2_max_header_list_size(1 << 20)
                .connect()
                .await
                .unwrap();
            let concurrency = number(&given, "concurrency", 1) as u32;
            let free = Arc::new(Semaphore::new(concurrency as usize));
            for index in 0..lines.len() {
                let parts: Vec<&str> = lines[index].split('\t').collect();
                if parts[0] == "wait" {
                    drop(free.acquire_many(concurrency).await.unwrap());
                    if (reached.fetch_add(1, Ordering::SeqCst) + 1) % connections == 0 {
                        std::fs::write(format!("{}.reached", parts[1]), "").unwrap();
                    }
                    appears(parts[1]).await;
                } else if parts.len() == 4 {
                    let permit = Arc::clone(&free).acquire_owned().await.unwrap();
                    let (lines, log, channel) = (Arc::clone(&lines), Arc::clone(&log), channel.clone());
                    tokio::spawn(async move {
                        let parts: Vec<&str> = lines[index].split('\t').collect();
                        let began = now();
                        let (status, received) = one(channel, parts[0], parts[1], parts[2], &fields(parts[3])).await;
                        let line = format!("{id}\t{index}\t{}\t{began}\t{}\t{status}\t{received}\n", parts[0], now());
                        log.lock().unwrap().write_all(line.as_bytes()).unwrap();
                        drop(permit);
                    });
                }
            }
            drop(free.acquire_many(concurrency).await.unwrap());
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    log.lock().unwrap().flush().unwrap();
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = fields(&arguments[1..].join(" "));
    if arguments[0] == "server" {
        serve(given).await;
    } else {
        drive(given).await;
    }
}
