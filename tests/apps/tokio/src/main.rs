//! A tokio service: axum in, reqwest and its pool out.
//!
//! ```text
//! tokio-service port=N routes=FILE [next=HOST:PORT] [style=STYLE] [flavor=multi|current] [background=FILE every=MS]
//! ```
//! `style` says how a handler makes its calls: `inline` one after the other, `join` at once in one task, `spawn` in tasks
//! that it awaits, `detached` in a task that nobody awaits, `unordered`, `joinset`, `cancel` with the first call given up
//! after a moment, `select` against a timer, `direct` over sockets that the handler's own task reads and writes, `lazy`
//! through a task that the first request starts and that calls for all of them.
//! It must never know that it is traced.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::Uri;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;

#[derive(Clone, Default)]
struct Route {
    delay: Duration,
    size: usize,
    calls: Vec<String>,
}

struct Service {
    settings: HashMap<String, String>,
    routes: HashMap<String, Route>,
    client: reqwest::Client,
    idle: Mutex<Vec<TcpStream>>,
    served: AtomicU64,
    worker: OnceLock<mpsc::UnboundedSender<Job>>,
}

/// A path to call, and whom to tell.
type Job = (String, oneshot::Sender<()>);

fn main() {
    let settings: HashMap<String, String> = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
        .collect();
    let mut builder = match settings.get("flavor").map(String::as_str) {
        Some("current") => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(4).enable_all().build().expect("a runtime");
    runtime.block_on(run(settings));
}

async fn run(settings: HashMap<String, String>) {
    let lines = |key: &str| {
        let text = settings.get(key).map(|path| std::fs::read_to_string(path).expect("a readable file"));
        text.unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let routes = lines("routes").iter().map(|line| route(line)).collect();
    let background = lines("background");
    let port = settings.get("port").cloned().unwrap_or_default();
    let every = settings.get("every").and_then(|every| every.parse().ok()).unwrap_or(20);
    let service = Arc::new(Service {
        settings,
        routes,
        client: reqwest::Client::builder().no_proxy().build().expect("a client"),
        idle: Mutex::default(),
        served: AtomicU64::new(0),
        worker: OnceLock::new(),
    });
    let timer = Arc::clone(&service);
    tokio::spawn(async move {
        for path in background {
            tokio::time::sleep(Duration::from_millis(every)).await;
            timer.call(&path).await;
        }
    });
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("a free port");
    let app = Router::new().fallback(serve).with_state(service);
    axum::serve(listener, app).await.expect("a listener");
}

fn route(line: &str) -> (String, Route) {
    let mut fields = line.split('\t');
    let mut next = || fields.next().unwrap_or_default();
    let path = next().to_owned();
    let delay = Duration::from_millis(next().parse().unwrap_or(0));
    let size = next().parse().unwrap_or(2);
    let calls = fields.filter(|path| !path.is_empty()).map(str::to_owned).collect();
    (path, Route { delay, size, calls })
}

async fn serve(State(service): State<Arc<Service>>, uri: Uri) -> String {
    let route = service.routes.get(uri.path()).cloned().unwrap_or(Route { size: 2, ..Route::default() });
    tokio::time::sleep(route.delay).await;
    service.calls(route.calls).await;
    ".".repeat(route.size)
}

impl Service {
    async fn calls(self: &Arc<Self>, paths: Vec<String>) {
        let style = self.settings.get("style").map_or("inline", String::as_str);
        match (style, paths.as_slice()) {
            ("join", [one, two]) => {
                tokio::join!(self.call(one), self.call(two));
            }
            ("spawn", _) => {
                let tasks: Vec<_> = paths.into_iter().map(|path| self.spawned(path)).collect();
                for task in tasks {
                    task.await.expect("a task that does not panic");
                }
            }
            ("detached", _) => {
                for path in paths {
                    drop(self.spawned(path));
                }
            }
            ("unordered", _) => {
                let mut all: FuturesUnordered<_> = paths.iter().map(|path| self.call(path)).collect();
                while all.next().await.is_some() {}
            }
            ("joinset", _) => {
                let mut all = JoinSet::new();
                for path in paths {
                    let service = Arc::clone(self);
                    all.spawn(async move { service.call(&path).await });
                }
                while all.join_next().await.is_some() {}
            }
            ("cancel", [one, two]) => {
                let micros = self.served.fetch_add(137, Ordering::Relaxed) % 2500;
                let _ = tokio::time::timeout(Duration::from_micros(micros), self.call(one)).await;
                self.call(two).await;
            }
            ("select", _) => {
                for path in &paths {
                    tokio::select! {
                        () = self.call(path) => {}
                        () = tokio::time::sleep(Duration::from_secs(10)) => {}
                    }
                }
            }
            ("direct", _) => {
                for path in &paths {
                    self.direct(path).await;
                }
            }
            ("lazy", _) => {
                for path in paths {
                    let (done, finished) = oneshot::channel();
                    self.worker().send((path, done)).expect("a worker that never ends");
                    finished.await.expect("a worker that answers");
                }
            }
            _ => {
                for path in &paths {
                    self.call(path).await;
                }
            }
        }
    }

    fn spawned(self: &Arc<Self>, path: String) -> tokio::task::JoinHandle<()> {
        let service = Arc::clone(self);
        tokio::spawn(async move { service.call(&path).await })
    }

    /// The task that calls for all requests; the first one starts it.
    fn worker(self: &Arc<Self>) -> &mpsc::UnboundedSender<Job> {
        self.worker.get_or_init(|| {
            let (send, mut jobs) = mpsc::unbounded_channel::<Job>();
            let service = Arc::clone(self);
            tokio::spawn(async move {
                while let Some((path, done)) = jobs.recv().await {
                    service.call(&path).await;
                    let _ = done.send(());
                }
            });
            send
        })
    }

    fn next(&self) -> &str {
        self.settings.get("next").map_or("", String::as_str)
    }

    async fn call(&self, path: &str) {
        let url = format!("http://{}{path}", self.next());
        match self.client.get(url).send().await {
            Ok(response) => drop(response.bytes().await),
            Err(error) => eprintln!("{error}"),
        }
    }

    /// One call over the most recently used connection, or a new one; no task but the caller's touches it.
    async fn direct(&self, path: &str) {
        let pooled = self.idle.lock().await.pop();
        let mut stream = match pooled {
            Some(stream) => stream,
            None => TcpStream::connect(self.next()).await.expect("a listening upstream"),
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.next());
        stream.write_all(request.as_bytes()).await.expect("a writable upstream");
        let mut answer = Vec::new();
        loop {
            if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
                let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
                if answer.len() >= end + 4 + length {
                    break;
                }
            }
            if stream.read_buf(&mut answer).await.expect("a readable upstream") == 0 {
                return;
            }
        }
        self.idle.lock().await.push(stream);
    }
}
