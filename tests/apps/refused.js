// A service that asks for a connection that nobody accepts: refused.js PORT. As refused.py has it: /N asks for
// 127.1.H.L, port 9, and is answered with 502; /none-N asks for nothing. Nothing here knows that it is traced.
const http = require("http");

http
  .createServer((request, response) => {
    const answer = () => response.writeHead(502, { "Content-Length": 0 }).end();
    setTimeout(() => {
      if (request.url.startsWith("/none")) return setTimeout(answer, 2);
      const number = Number(request.url.slice(1));
      const host = `127.1.${number >> 8}.${number & 255}`;
      http.get({ host, port: 9, path: "/never" }).on("error", () => setTimeout(answer, 2));
    }, 2);
  })
  .listen(Number(process.argv[2]), "127.0.0.1", 256);
