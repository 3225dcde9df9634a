"""A service with a thread per connection: `http.server.ThreadingHTTPServer`, `http.client`, a connection per thread.

    threaded.py port=N|unix=PATH routes=FILE [next=HOST:PORT|unix:PATH] [log=FILE] [copy=1] [background=FILE every=MS]
"""

import http.server
import socket
import socketserver
import sys
import threading
import time

import client
import common

settings = common.Settings(sys.argv[1:])
table = common.routes(settings.routes)
log = common.CallLog(settings.log)
mine = threading.local()


def call(path, headers):
    if getattr(mine, "connection", None) is None:
        mine.connection = client.Connection(settings.next, log)
    mine.connection.call(path, headers)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = settings.unix is None

    def do_GET(self):
        route = table.get(self.path, common.NOTHING)
        headers = {}
        if settings.copy:
            headers = {k: self.headers[k] for k in ("traceparent", "tracestate") if k in self.headers}
        time.sleep(route.delay)
        for path in route.calls:
            call(path, headers)
        data = common.body(route)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def address_string(self):
        return "-"

    def log_message(self, *_):
        pass


class UnixServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    address_family = socket.AF_UNIX
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 0


class TcpServer(http.server.ThreadingHTTPServer):
    request_queue_size = 128


def timer(paths):
    """Calls that belong to no request, from a thread that serves none."""
    connection = client.Connection(settings.next, log)
    for path in paths:
        time.sleep(int(settings.every or "20") / 1000)
        connection.call(path)


paths = common.background(settings.background)
if paths:
    threading.Thread(target=timer, args=(paths,), daemon=True).start()
server = UnixServer(settings.unix, Handler) if settings.unix else TcpServer(("127.0.0.1", int(settings.port)), Handler)
server.serve_forever()
