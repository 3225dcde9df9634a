// gRPC peer: @grpc/grpc-js. What the arguments mean and what a body asks for: tests/src/grpc/calls.rs.
// No generated code: bytes in, bytes out. It must never know that it is traced.
'use strict';
const fs = require('fs');
const grpc = require('@grpc/grpc-js');

const OPTIONS = {
  'grpc.max_metadata_size': 1 << 20,
  'grpc.max_receive_message_length': -1,
  'grpc.max_send_message_length': -1,
  'grpc.use_local_subchannel_pool': 1,
};
const same = (bytes) => bytes;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const fields = (text) => Object.fromEntries(text.split(' ').filter((w) => w.includes('=')).map((w) => w.split(/=(.*)/s)));
const wished = (body) => fields(body.toString('latin1').split('\n', 1)[0]);
const number = (text, otherwise) => (text === undefined ? otherwise : Number(text));

function keys(metadata, spec, prefix) {
  const [count, length] = spec.split('x').map(Number);
  for (let n = 0; n < count; n++) metadata.set(`${prefix}-${n}`, String.fromCharCode(97 + (n % 26)).repeat(length));
  return metadata;
}

async function answer(wish, call) {
  if (wish.h) call.sendMetadata(keys(new grpc.Metadata(), wish.h, 'x-reply'));
  if (wish.d) await sleep(number(wish.d, 0));
  if (wish.s && wish.s !== '0') throw { code: number(wish.s), details: 'no such thing' };
  return Buffer.alloc(number(wish.z, 20), 'x');
}

const unary = (call, done) => answer(wished(call.request), call).then((m) => done(null, m), done);

async function serverStream(call) {
  const wish = wished(call.request);
  const message = Buffer.alloc(number(wish.z, 20), 'x');
  for (let n = 0; n < number(wish.n, 1) && !call.cancelled; n++) {
    if (!call.write(message)) await new Promise((done) => call.once('drain', done));
    if (wish.i) await sleep(number(wish.i));
  }
  answer(wish, call).then(() => call.end(), (error) => call.emit('error', error));
}

function clientStream(call, done) {
  let wish;
  call.on('data', (message) => { wish = wish || wished(message); });
  call.on('end', () => answer(wish || {}, call).then((m) => done(null, m), done));
}

function bothStream(call) {
  let wish;
  call.on('data', (message) => {
    wish = wish || wished(message);
    call.write(Buffer.alloc(number(wish.z, 20), 'x'));
  });
  call.on('end', () => answer(wish || {}, call).then(() => call.end(), (error) => call.emit('error', error)));
}

function serverCredentials(given) {
  if (!given.certificate) return grpc.ServerCredentials.createInsecure();
  const pair = { cert_chain: fs.readFileSync(given.certificate), private_key: fs.readFileSync(given.key) };
  return grpc.ServerCredentials.createSsl(null, [pair]);
}

function clientCredentials(given) {
  if (!given.certificate) return grpc.credentials.createInsecure();
  return grpc.credentials.createSsl(fs.readFileSync(given.certificate));
}

function serve(given) {
  const server = new grpc.Server(OPTIONS);
  const paths = new Set(fs.readFileSync(given.calls, 'utf8').split('\n').map((l) => l.split('\t')).filter((p) => p.length === 4).map((p) => p[0]));
  for (const path of paths) {
    const last = path.split('/').pop();
    const [handler, type] = last.startsWith('Server') ? [serverStream, 'serverStream']
      : last.startsWith('Client') ? [clientStream, 'clientStream']
      : last.startsWith('Both') ? [bothStream, 'bidi'] : [unary, 'unary'];
    server.register(path, handler, same, same, type);
  }
  server.bindAsync(`127.0.0.1:${given.port}`, serverCredentials(given), (error) => { if (error) throw error; });
  if (given.stop) appears(given.stop).then(() => server.tryShutdown(() => process.exit(0)));
}

async function appears(file) {
  while (!fs.existsSync(file)) await sleep(5);
}

function metadata(wish) {
  const all = new grpc.Metadata();
  if (wish.m) keys(all, wish.m, 'x-key');
  if (wish.b) all.set('x-data-bin', require('crypto').randomBytes(40));
  if (wish.r) all.set('x-request-id', require('crypto').randomBytes(16).toString('hex'));
  return all;
}

function one(client, path, kind, text, wish) {
  return new Promise((done) => {
    let body = Buffer.from(text);
    if (wish.z) body = Buffer.concat([body, Buffer.from('\n'), Buffer.alloc(number(wish.z), 'y')]);
    const options = wish.t ? { deadline: Date.now() + number(wish.t) } : {};
    let received = 0;
    const answered = (error) => done([error ? error.code : 0, error ? 0 : 1]);
    let call;
    if (kind === 'unary') call = client.makeUnaryRequest(path, same, same, body, metadata(wish), options, answered);
    else if (kind === 'client') call = client.makeClientStreamRequest(path, same, same, metadata(wish), options, answered);
    else {
      call = kind === 'server' ? client.makeServerStreamRequest(path, same, same, body, metadata(wish), options)
        : client.makeBidiStreamRequest(path, same, same, metadata(wish), options);
      call.on('data', () => { received++; });
      call.on('error', () => {});
      call.on('status', (status) => done([status.code, received]));
    }
    if (wish.c) setTimeout(() => call.cancel(), number(wish.c));
    if (kind === 'client' || kind === 'both') {
      (async () => {
        for (let n = 0; n < number(wish.n, 1); n++) {
          if (n && wish.i) await sleep(number(wish.i));
          call.write(body);
        }
        call.end();
      })();
    }
  });
}

async function drive(given) {
  const lines = fs.readFileSync(given.calls, 'utf8').split('\n');
  const log = [];
  const connections = number(given.connections, 1);
  let reached = 0;
  const now = () => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)) * 1000n;
  async function connection(id) {
    const client = new grpc.Client(given.to, clientCredentials(given), OPTIONS);
    await new Promise((done, fail) => client.waitForReady(Date.now() + 20000, (e) => (e ? fail(e) : done())));
    const waiting = new Set();
    for (let index = 0; index < lines.length; index++) {
      const parts = lines[index].split('\t');
      if (parts[0] === 'wait') {
        await Promise.all(waiting);
        if (++reached % connections === 0) fs.writeFileSync(parts[1] + '.reached', '');
        await appears(parts[1]);
      } else if (parts.length === 4) {
        while (waiting.size >= number(given.concurrency, 1)) await Promise.race(waiting);
        const began = now();
        const call = one(client, parts[0], parts[1], parts[2], fields(parts[3])).then(([status, received]) => {
          log.push(`${id}\t${index}\t${parts[0]}\t${began}\t${now()}\t${status}\t${received}\n`);
          waiting.delete(call);
        });
        waiting.add(call);
      }
    }
    await Promise.all(waiting);
    client.close();
  }
  await Promise.all(Array.from({ length: connections }, (_, id) => connection(id)));
  fs.writeFileSync(given.log, log.join(''));
}

// Plain HTTP/2 without TLS: any path, `d` milliseconds later, `z` bytes; both in the query.
function plain(given) {
  const server = require('http2').createServer({ settings: { headerTableSize: number(given.table, 4096) } });
  server.on('stream', async (stream, headers) => {
    stream.on('error', () => {});
    const query = new URLSearchParams((headers[':path'] || '').split('?')[1] || '');
    await sleep(number(query.get('d') || 0));
    if (stream.destroyed) return;
    stream.respond({ ':status': number(query.get('s') || 200), 'content-type': 'text/plain' });
    stream.end(Buffer.alloc(number(query.get('z') || 20), 'x'));
  });
  server.listen(number(given.port), '127.0.0.1');
}

const given = fields(process.argv.slice(3).join(' '));
({ server: serve, client: drive, plain })[process.argv[2]](given);
