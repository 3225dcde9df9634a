// Node's own `http` that answers every request with 1 KiB: what an SDK's auto-instrumentation is compared on.
//     http_service.js PORT
'use strict';

const body = 'x'.repeat(1024);
require('http')
  .createServer((request, response) => response.end(body))
  .listen(Number(process.argv[2]), '127.0.0.1');
