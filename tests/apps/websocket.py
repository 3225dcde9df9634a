"""A WebSocket handler that calls out for as long as the socket is open.

    websocket.py port=N next=HOST:PORT calls=FILE every=MS

A request for /ws is upgraded (RFC 6455 §4.2.2); from then on its thread makes one call every MS milliseconds, and sends
the client one text frame after each. The calls belong to no exchange: the upgrade was answered.
"""

import base64
import hashlib
import http.server
import sys
import time

import client
import common

settings = common.Settings(sys.argv[1:])
paths = common.background(settings.calls)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        key = self.headers.get("Sec-WebSocket-Key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        connection = client.Connection(settings.next)
        began = time.monotonic()
        for number, path in enumerate(paths, 1):
            connection.call(path)
            self.wfile.write(b"\x81\x02ok")
            time.sleep(max(0, began + number * int(settings.every) / 1000 - time.monotonic()))
        self.close_connection = True

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(settings.port)), Handler).serve_forever()
