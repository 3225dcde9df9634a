// HTTP/1.1 over TLS with the OpenSSL that is linked into Node, and its client.
//
//   tls_service.js serve PORT CERTIFICATE KEY [TLSv1.2]
//   tls_service.js client PORT PREFIX COUNT CONCURRENCY PER_CONNECTION
'use strict';
const fs = require('fs');
const https = require('https');

const [style, port, ...rest] = process.argv.slice(2);
if (style === 'serve') {
  const [cert, key] = rest.slice(0, 2).map((path) => fs.readFileSync(path));
  const body = 'x'.repeat(200);
  https.createServer({ cert, key, maxVersion: rest[2] }, (request, response) => {
    response.setHeader('Content-Length', body.length);
    response.end(body);
  }).listen(Number(port), '127.0.0.1', 256);
} else {
  const [prefix, count, concurrency, perConnection] = rest;
  const agent = new https.Agent({ keepAlive: true, maxSockets: Number(concurrency) });
  const used = new WeakMap();
  let sent = 0;
  let answered = 0;
  const next = () => {
    if (sent >= Number(count)) return;
    const path = `${prefix}-${sent++}`;
    const options = { host: '127.0.0.1', port: Number(port), path, agent, rejectUnauthorized: false };
    https.get(options, (response) => {
      if (response.statusCode !== 200) process.exit(1);
      // The server is asked for nothing more over a connection that has been used so often.
      const socket = response.socket;
      used.set(socket, (used.get(socket) || 0) + 1);
      response.on('end', () => used.get(socket) >= Number(perConnection) && socket.destroy());
      response.resume();
      response.on('end', () => (++answered === Number(count) ? agent.destroy() : next()));
    }).on('error', (error) => { console.error(error); process.exit(1); });
  };
  for (let i = 0; i < Number(concurrency); i++) next();
}
