"""A service with a thread per connection: `http.server.ThreadingHTTPServer`, `http.client`, a connection per thread.

    threaded.py port=N|unix=PATH routes=FILE [next=HOST:PORT|unix:PATH] [log=FILE] [copy=1] [background=FILE every=MS]
                [serve=tls] [call=tls]
"""

import http.server
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
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
        mine.connection = client.Connection(settings.next, log, settings.call == "tls")
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


class TlsServer(TcpServer):
    """With a certificate made for the occasion; the handshake is the handler's thread's."""

    def __init__(self, *arguments):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            key, shown = folder + "/key", folder + "/certificate"
            made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            made += ["-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out", shown]
            subprocess.run(made, check=True, stderr=subprocess.DEVNULL)
            self.context.load_cert_chain(shown, key)
        super().__init__(*arguments)

    def get_request(self):
        sock, address = super().get_request()
        return self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), address


def timer(paths):
    """Calls that belong to no request, from a thread that serves none."""
    connection = client.Connection(settings.next, log, settings.call == "tls")
    for path in paths:
        time.sleep(int(settings.every or "20") / 1000)
        connection.call(path)


paths = common.background(settings.background)
if paths:
    threading.Thread(target=timer, args=(paths,), daemon=True).start()
Server = TlsServer if settings.serve == "tls" else TcpServer
server = UnixServer(settings.unix, Handler) if settings.unix else Server(("127.0.0.1", int(settings.port)), Handler)
server.serve_forever()
