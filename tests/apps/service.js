// A Node service: `http` in and out, the default keep-alive agent.
//
//     node service.js port=N routes=FILE [next=HOST:PORT] [copy=1] [background=FILE every=MS]
'use strict';
const http = require('http');
const fs = require('fs');

const settings = Object.fromEntries(process.argv.slice(2).map((a) => [a.slice(0, a.indexOf('=')), a.slice(a.indexOf('=') + 1)]));
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

function call(path, headers) {
  return new Promise((resolve, reject) => {
    const request = http.get({ host, port, path, headers }, (response) => {
      response.resume();
      response.on('end', resolve);
    });
    request.on('error', reject);
  });
}

const server = http.createServer(async (request, response) => {
  const route = table.get(request.url) || nothing;
  const headers = {};
  if (settings.copy) {
    for (const name of ['traceparent', 'tracestate']) if (request.headers[name]) headers[name] = request.headers[name];
  }
  if (route.delay) await new Promise((resolve) => setTimeout(resolve, route.delay));
  for (const path of route.calls) await call(path, headers);
  const data = filler.subarray(0, route.size);
  response.writeHead(200, { 'Content-Length': data.length });
  response.end(data);
});
server.keepAliveTimeout = 60000;
server.listen(Number(settings.port), '127.0.0.1', 128);

async function timer(paths) {
  for (const path of paths) {
    await new Promise((resolve) => setTimeout(resolve, Number(settings.every || 20)));
    await call(path, {});
  }
}
if (settings.background) timer(fs.readFileSync(settings.background, 'utf8').split('\n').filter(Boolean));
