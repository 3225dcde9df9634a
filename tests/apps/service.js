// A Node service: `http` in; what it calls with is its style.
//
//     node service.js port=N routes=FILE [next=HOST:PORT] [style=STYLE] [copy=1] [background=FILE every=MS]
//
//   await     async/await around http.get (the default)   callback  callbacks and timers
//   fresh     the same, a connection per call             phases    setImmediate, nextTick, queueMicrotask by turns
//   files     fs.readFile and dns.lookup, callbacks       fetch     async/await and fetch (undici)
//   all       Promise.all of fetches                      then      .then chains, fetch and http.get by turns
//   limited   await, an agent with 5 sockets              batch     a timer that one request sets calls for all
//   churn     await, while V8 collects, deoptimises, and threads come and go
//   workers   the calls are made by two worker threads, in turns
//   cluster   await, in two processes of the cluster module; restarts: each is replaced every few seconds
'use strict';
const http = require('http');
const fs = require('fs');
const dns = require('dns');

const cluster = require('cluster');
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');

const settings = workerData || Object.fromEntries(process.argv.slice(2).map((a) => [a.slice(0, a.indexOf('=')), a.slice(a.indexOf('=') + 1)]));
const style = settings.style || 'await';
const filler = Buffer.alloc(4096, '.');
const table = new Map();
if (settings.routes) {
  for (const line of fs.readFileSync(settings.routes, 'utf8').split('\n')) {
    const [path, delay, size, ...calls] = line.split('\t');
    if (path) table.set(path, { delay: Number(delay), size: Number(size), calls: calls.filter(Boolean) });
  }
}
const nothing = { delay: 0, size: 2, calls: [] };
const [host, port] = (settings.next || ':').split(':');
const agent = style === 'fresh' ? new http.Agent({ keepAlive: false })
  : style === 'limited' ? new http.Agent({ keepAlive: true, maxSockets: 5 })
    : new http.Agent({ keepAlive: true });

function get(path, headers, done) {
  const request = http.get({ host, port, path, headers, agent }, (response) => {
    response.resume();
    response.on('end', done);
  });
  request.on('error', (error) => { console.error(error); done(); });
}
const call = (path, headers) => new Promise((resolve) => get(path, headers, resolve));
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const fetched = async (path, headers) => (await fetch(`http://${host}:${port}${path}`, { headers })).text();

// Calls one path after the other, with `between` before each, in callbacks.
function each(paths, headers, between, done) {
  if (!paths.length) return done();
  between(() => get(paths[0], headers, () => each(paths.slice(1), headers, between, done)), turn++);
}
let turn = 0;

// Whoever comes first sets the timer; whoever comes until it goes off is called for by it, too.
const waiting = [];
function batched(path, headers, done) {
  if (waiting.push([path, headers, done]) > 1) return;
  setTimeout(() => { for (const job of waiting.splice(0)) get(...job); }, 3);
}

const STYLES = {
  async await(route, headers) {
    if (route.delay) await sleep(route.delay);
    for (const path of route.calls) await call(path, headers);
  },
  async fetch(route, headers) {
    if (route.delay) await sleep(route.delay);
    for (const path of route.calls) await fetched(path, headers);
  },
  async all(route, headers) {
    if (route.delay) await sleep(route.delay);
    await Promise.all(route.calls.map((path) => fetched(path, headers)));
  },
  then(route, headers) {
    return route.calls.reduce(
      (before, path, n) => before.then(() => (n % 2 ? call(path, headers) : fetched(path, headers))),
      sleep(route.delay));
  },
};
STYLES.limited = STYLES.cluster = STYLES.restarts = STYLES.await;
const jobs = new Map();
const pool = [];
let last = 0;
STYLES.workers = (route, headers) => new Promise((resolve) => {
  jobs.set(++last, resolve);
  pool[last % pool.length].postMessage({ job: last, route, headers });
});
STYLES.churn = STYLES.await;
if (style === 'churn') churn();

function churn() {
  require('v8').setFlagsFromString('--expose-gc');
  const collect = require('vm').runInNewContext('gc');
  setInterval(() => collect({ type: 'minor' }), 300);
  setInterval(() => collect(), 2000);
  // A function that is hot with numbers and then meets other things.
  setInterval(() => {
    const add = new Function('a', 'b', 'return a.x + b.x');
    for (let n = 0; n < 20000; n++) add({ x: n }, { x: 1 });
    add({ y: 1, x: 'text' }, { x: 1.5 });
  }, 500);
  setInterval(() => new Worker('Promise.all([1, 2, 3].map(async (n) => { await n; }))', { eval: true }), 1000);
}
const CALLBACKS = {
  callback: (route) => (go) => setTimeout(go, route.delay),
  phases: () => (go, n) => [setImmediate, process.nextTick, queueMicrotask][n % 3](go),
  files: () => (go) => fs.readFile(__filename, () => dns.lookup('localhost', go)),
};
CALLBACKS.fresh = CALLBACKS.callback;

if (!isMainThread) {
  parentPort.on('message', ({ job, route, headers }) => STYLES.await(route, headers).then(() => parentPort.postMessage(job)));
} else if (cluster.isPrimary && (style === 'cluster' || style === 'restarts')) {
  cluster.fork();
  cluster.fork();
  // The one that has served longest is told to go, and another is there before it went.
  if (style === 'restarts') {
    setInterval(() => {
      const [oldest] = Object.values(cluster.workers).sort((one, other) => one.id - other.id);
      cluster.fork().once('listening', () => oldest.isConnected() && oldest.send('go'));
    }, 4000);
  }
} else {
  serve();
}

function serve() {
  if (style === 'workers') {
    for (let n = 0; n < 2; n++) {
      pool.push(new Worker(__filename, { workerData: settings }));
      pool[n].on('message', (job) => { jobs.get(job)(); jobs.delete(job); });
    }
  }
  // Who is told to go asks its clients to come back elsewhere, and ends when the last one went.
  let going = false;
  let open = 0;
  process.on('message', (message) => {
    if (message !== 'go') return;
    going = true;
    const none = setInterval(() => {
      if (open) return;
      clearInterval(none);
      server.close(() => process.exit());
    }, 5);
  });
  const server = http.createServer((request, response) => {
    const route = table.get(request.url) || nothing;
    const headers = {};
    if (settings.copy) {
      for (const name of ['traceparent', 'tracestate']) if (request.headers[name]) headers[name] = request.headers[name];
    }
    const answer = () => {
      const data = filler.subarray(0, route.size);
      if (going) response.setHeader('Connection', 'close');
      response.writeHead(200, { 'Content-Length': data.length });
      response.end(data);
    };
    if (style === 'batch') {
      const next = (paths) => (paths.length ? batched(paths[0], headers, () => next(paths.slice(1))) : answer());
      next(route.calls);
    } else if (CALLBACKS[style]) each(route.calls, headers, CALLBACKS[style](route), answer);
    else STYLES[style](route, headers).then(answer, (error) => { console.error(error); response.destroy(); });
  });
  server.keepAliveTimeout = 60000;
  server.on('connection', (socket) => { open++; socket.on('close', () => { open--; }); });
  server.listen(Number(settings.port), '127.0.0.1', 128);
  if (settings.background) timer(fs.readFileSync(settings.background, 'utf8').split('\n').filter(Boolean));
}

async function timer(paths) {
  for (const path of paths) {
    await sleep(Number(settings.every || 20));
    await call(path, {});
  }
}
