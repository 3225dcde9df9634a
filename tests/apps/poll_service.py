"""A service on one hand-written `poll` loop: non-blocking sockets, a state per connection, a shared pool out.

    poll_service.py port=N routes=FILE [next=HOST:PORT] [background=FILE every=MS]
"""

import heapq
import itertools
import select
import socket
import sys
import time

import common

settings = common.Settings(sys.argv[1:])
table = common.routes(settings.routes)
poll = select.poll()
handlers = {}
timers = []
order = itertools.count()
idle = []


def after(seconds, what):
    heapq.heappush(timers, (time.monotonic() + seconds, next(order), what))


def watch(sock, handler):
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    handlers[sock.fileno()] = handler
    poll.register(sock, select.POLLIN)


class Upstream:
    """One pooled connection; `done` is called when its response is complete."""

    def __init__(self):
        host, _, port = settings.next.rpartition(":")
        self.sock = socket.create_connection((host, int(port)))
        watch(self.sock, self.readable)

    def call(self, path, done):
        self.done, self.buffer = done, b""
        self.sock.send(("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path, settings.next)).encode())

    def readable(self):
        self.buffer += self.sock.recv(65536)
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(int(l.split(b":")[1]) for l in head.split(b"\r\n") if l.lower().startswith(b"content-length"))
        if len(rest) == length:
            idle.append(self)
            self.done()


def call(path, done):
    upstream = idle.pop() if idle else Upstream()
    upstream.call(path, done)


class Downstream:
    """One inbound connection: one request at a time."""

    def __init__(self, sock):
        self.sock, self.buffer = sock, b""
        watch(sock, self.readable)

    def readable(self):
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            poll.unregister(self.sock)
            del handlers[self.sock.fileno()]
            self.sock.close()
            return
        self.buffer += data
        if self.buffer.endswith(b"\r\n\r\n"):
            path = self.buffer.split(b" ")[1].decode("latin-1")
            self.buffer = b""
            self.route = table.get(path, common.NOTHING)
            self.calls = iter(self.route.calls)
            after(self.route.delay, self.step)

    def step(self):
        path = next(self.calls, None)
        if path is not None:
            call(path, self.step)
            return
        data = common.body(self.route)
        self.sock.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)


listener = socket.create_server(("127.0.0.1", int(settings.port)), backlog=128)
listener.setblocking(False)
handlers[listener.fileno()] = lambda: Downstream(listener.accept()[0])
poll.register(listener, select.POLLIN)
remaining = iter(common.background(settings.background))


def tick():
    path = next(remaining, None)
    if path is not None:
        call(path, lambda: None)
        after(int(settings.every or "20") / 1000, tick)


tick()
while True:
    wait = max(0, (timers[0][0] - time.monotonic()) * 1000) if timers else None
    for fd, _ in poll.poll(wait):
        if fd in handlers:
            handlers[fd]()
    while timers and timers[0][0] <= time.monotonic():
        heapq.heappop(timers)[2]()
