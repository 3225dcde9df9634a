"""An HTTP/1.1 client on `http.client`, one keep-alive connection per object, over TCP, TLS or a unix socket.

It counts the bytes it moves, from the outside of the system calls, so that the harness can say where a request
was. It must never read ahead of a response.
"""

import http.client
import io
import socket
import ssl


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
    """`target` is `host:port` or `unix:/path`; `secure` if it is asked over TLS, with whatever certificate it has."""

    def __init__(self, target, log=None, secure=False):
        self._unix = target[5:] if target.startswith("unix:") else None
        host, _, port = ("localhost", "", "80") if self._unix else target.rpartition(":")
        super().__init__(host, int(port), timeout=30)
        self.sent = self.received = 0
        # Where its bytes lie on the wire is not known from outside of TLS.
        self._log = None if secure else log
        self._context = ssl._create_unverified_context() if secure else None
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
        if self._context:
            self.sock = self._context.wrap_socket(self.sock)

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
