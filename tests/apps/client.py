"""An HTTP/1.1 client on `http.client`, one keep-alive connection per object, over TCP or a unix socket.

It counts the bytes it moves, from the outside of the system calls, so that the harness can say where a request
was. It must never read ahead of a response.
"""

import http.client
import io
import socket


class _Counting(io.RawIOBase):
    def __init__(self, owner, sock):
        self._owner = owner
        self._sock = sock

    def readable(self):
        return True

    def readinto(self, buffer):
        count = self._sock.recv_into(buffer)
        self._owner.received += count
        return count


class Connection(http.client.HTTPConnection):
    """`target` is `host:port` or `unix:/path`."""

    def __init__(self, target, log=None):
        self._unix = target[5:] if target.startswith("unix:") else None
        host, _, port = ("localhost", "", "80") if self._unix else target.rpartition(":")
        super().__init__(host, int(port), timeout=30)
        self.sent = self.received = 0
        self._log = log
        owner = self

        class Response(http.client.HTTPResponse):
            def __init__(self, sock, *args, **kwargs):
                super().__init__(sock, *args, **kwargs)
                self.fp = io.BufferedReader(_Counting(owner, sock), 65536)

        self.response_class = Response

    def connect(self):
        self.sent = self.received = 0
        if self._unix:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.connect(self._unix)
        else:
            super().connect()

    def send(self, data):
        if self.sock is None:
            self.connect()
        super().send(data)
        self.sent += len(data)

    def call(self, path, headers=None):
        """One request; its response's body."""
        if self.sock is None:
            self.connect()
        sent, received = self.sent, self.received
        self.request("GET", path, headers=headers or {})
        local = peer = 0
        if self._unix is None:
            local, peer = self.sock.getsockname()[1], self.sock.getpeername()[1]
        data = self.getresponse().read()
        if self._log:
            self._log.add(path, local, peer, (sent, self.sent), (received, self.received))
        return data
