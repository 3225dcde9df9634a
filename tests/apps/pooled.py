"""A thread per connection that hands its calls to a pool of threads and waits.

    pooled.py port=N routes=FILE style=STYLE [next=HOST:PORT] [background=FILE every=MS]

STYLE: executor (`ThreadPoolExecutor.submit`), queue (`queue.Queue` and an event).
"""

import concurrent.futures
import http.server
import queue
import sys
import threading
import time

import client
import common

settings = common.Settings(sys.argv[1:])
table = common.routes(settings.routes)
mine = threading.local()
jobs = queue.Queue()
executor = concurrent.futures.ThreadPoolExecutor(8)


def call(path):
    if getattr(mine, "connection", None) is None:
        mine.connection = client.Connection(settings.next)
    mine.connection.call(path)


def worker():
    while True:
        path, done = jobs.get()
        call(path)
        done.set()


def hand_over(path):
    if settings.style == "executor":
        executor.submit(call, path).result()
    else:
        done = threading.Event()
        jobs.put((path, done))
        done.wait()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        route = table.get(self.path, common.NOTHING)
        time.sleep(route.delay)
        for path in route.calls:
            hand_over(path)
        data = common.body(route)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


def timer():
    for path in common.background(settings.background):
        time.sleep(int(settings.every or "20") / 1000)
        hand_over(path)


for _ in range(8):
    threading.Thread(target=worker, daemon=True).start()
threading.Thread(target=timer, daemon=True).start()
Server(("127.0.0.1", int(settings.port)), Handler).serve_forever()
