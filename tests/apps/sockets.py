"""Two processes that talk HTTP/1.1 through every kind of socket call there is, one case at a time.

    sockets.py CASE PREFIX [key=value ...]

The server runs in a fork of the client. Each request has the path /PREFIX-N; paths of completed exchanges are printed,
one a line, with the bytes of both bodies. It uses bare sockets only: which calls happen is the point.
"""

import array
import os
import select
import socket
import struct
import sys
import threading
import time

NAME, PREFIX = sys.argv[1], sys.argv[2]
OPTIONS = dict(argument.split("=", 1) for argument in sys.argv[3:])
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def path(number):
    return "/%s-%d" % (PREFIX, number)


def done(number, request_body=0, response_body=0):
    print(path(number), request_body, response_body, flush=True)


def request(number, body=0, method="GET", extra=""):
    length = "Content-Length: %d\r\n" % body if body else ""
    return ("%s %s HTTP/1.1\r\nHost: test\r\n%s%s\r\n" % (method, path(number), length, extra)).encode()


def response(body=0, extra=""):
    return ("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n" % (body, extra)).encode()


def until_head(sock, receive=lambda sock: sock.recv(65536)):
    """Reads to the end of a head; what came after it too."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = receive(sock)
        if not piece:
            return data
        data += piece
    return data


def length_of(head):
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


def whole(sock, receive=lambda sock: sock.recv(65536)):
    """Reads one message with a Content-Length; its body's length, or None at the end of the connection."""
    data = until_head(sock, receive)
    if not data:
        return None
    head, _, rest = data.partition(b"\r\n\r\n")
    length = length_of(head)
    have = len(rest)
    while have < length:
        have += len(receive(sock))
    return length


def tcp():
    """A listener on the loopback and how to connect to it."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()

    def connect():
        sock = socket.create_connection(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    return listener, connect


def pair(server, client, made=tcp):
    """Runs `server` with a listener in a fork, and `client` with a way to connect here."""
    listener, connect = made()
    pid = os.fork()
    if pid == 0:
        try:
            server(listener)
        finally:
            os._exit(0)
    listener.close()
    client(connect)
    os.waitpid(pid, 0)


def simple_server(count, receive=None, send=None, body=10):
    """A server of one connection: how it reads and how it writes is given."""

    def run(listener):
        conn = listener.accept()[0]
        for _ in range(count):
            if whole(conn, *([receive] if receive else [])) is None:
                break
            data = response(body) + b"x" * body
            (send or (lambda sock, data: sock.sendall(data)))(conn, data)
        conn.recv(1)
        conn.close()

    return run


def simple_client(count, send=None, body=0, answer=10):
    """A client of one connection, one request at a time."""

    def run(connect):
        sock = connect()
        for number in range(count):
            data = request(number, body, "POST" if body else "GET") + b"y" * body
            (send or (lambda sock, data: sock.sendall(data)))(sock, data)
            whole(sock)
            done(number, body, answer)
        sock.close()

    return run


@case
def plain():
    pair(simple_server(5), simple_client(5))


@case
def eagain():
    """Non-blocking on both sides; the head comes in pieces with pauses, so most reads say EAGAIN."""

    def receive(sock):
        sock.setblocking(False)
        while True:
            try:
                return sock.recv(65536)
            except BlockingIOError:
                time.sleep(0.001)

    def send(sock, data):
        for at in range(0, len(data), 9):
            sock.sendall(data[at : at + 9])
            time.sleep(0.003)

    pair(simple_server(3, receive), simple_client(3, send))


@case
def short_writes():
    """A response far larger than the send buffer, written without blocking: each call takes a part of it."""
    size = 3_000_000

    def send(sock, data):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        sock.setblocking(False)
        at = 0
        while at < len(data):
            try:
                at += sock.send(memoryview(data)[at:])
            except BlockingIOError:
                select.select([], [sock], [])
        sock.setblocking(True)

    pair(simple_server(2, send=send, body=size), simple_client(2, answer=size))


@case
def threads_one_socket():
    """Each piece of a message is written by another thread, in order; and read likewise."""

    def in_thread(function, *arguments):
        result = []
        thread = threading.Thread(target=lambda: result.append(function(*arguments)))
        thread.start()
        thread.join()
        return result[0]

    def send(sock, data):
        for at in range(0, len(data), 20):
            in_thread(sock.sendall, data[at : at + 20])

    pair(simple_server(3, lambda sock: in_thread(sock.recv, 7), send), simple_client(3, send))


@case
def duplicated():
    """Read through a duplicate, write through the original; the duplicate is closed in between."""

    def server(listener):
        conn = listener.accept()[0]
        for _ in range(3):
            other = conn.dup()
            whole(other)
            other.close()
            conn.sendall(response(10) + b"x" * 10)
        conn.recv(1)

    pair(server, simple_client(3))


@case
def forked():
    """The second request of a connection is served by a child of the process that served the first."""

    def server(listener):
        conn = listener.accept()[0]
        whole(conn)
        conn.sendall(response(10) + b"x" * 10)
        child = os.fork()
        whole_here = child == 0
        if whole_here:
            whole(conn)
            conn.sendall(response(10) + b"x" * 10)
            os._exit(0)
        os.waitpid(child, 0)
        whole(conn)
        conn.sendall(response(10) + b"x" * 10)
        conn.recv(1)

    pair(server, simple_client(3))


@case
def passed():
    """The connection goes to another process over a unix socket (SCM_RIGHTS), which serves it from then on."""

    def server(listener):
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        child = os.fork()
        if child == 0:
            here.close()
            _, fds, _, _ = socket.recv_fds(there, 1, 1)
            conn = socket.socket(fileno=fds[0])
            for _ in range(2):
                whole(conn)
                conn.sendall(response(10) + b"x" * 10)
            conn.recv(1)
            os._exit(0)
        conn = listener.accept()[0]
        whole(conn)
        conn.sendall(response(10) + b"x" * 10)
        socket.send_fds(here, [b"!"], [conn.fileno()])
        conn.close()
        os.waitpid(child, 0)

    pair(server, simple_client(3))


@case
def peeked():
    """Everything is looked at (MSG_PEEK) twice before it is read."""

    def receive(sock):
        sock.recv(65536, socket.MSG_PEEK)
        size = len(sock.recv(65536, socket.MSG_PEEK))
        return sock.recv(size)

    pair(simple_server(3, receive), simple_client(3))


@case
def vectored():
    """`writev` and `sendmsg` of a byte a piece; `recvmsg` and `readv` into odd pieces."""

    def send(sock, data):
        pieces = [data[at : at + 1] for at in range(len(data))]
        while pieces:
            taken = os.writev(sock.fileno(), pieces[:1000])
            pieces = pieces[taken:]

    def send_message(sock, data):
        pieces = [data[at : at + 3] for at in range(0, len(data), 3)]
        assert sock.sendmsg(pieces) == len(data)

    def receive(sock):
        buffers = [bytearray(1), bytearray(2), bytearray(5), bytearray(300)]
        count = os.readv(sock.fileno(), buffers)
        return b"".join(buffers)[:count]

    pair(simple_server(3, receive, send_message), simple_client(3, send))


@case
def received_by_message():
    def receive(sock):
        buffers = [bytearray(4), bytearray(400)]
        count, _, _, _ = sock.recvmsg_into(buffers)
        return b"".join(buffers)[:count]

    pair(simple_server(3, receive), simple_client(3))


@case
def single_bytes():
    """One byte a read, one byte a write."""

    def send(sock, data):
        for at in range(len(data)):
            sock.send(data[at : at + 1])

    pair(simple_server(2, lambda sock: sock.recv(1), send), simple_client(2, send))


@case
def long_head():
    """A head of almost 64 KiB in one call; the field that the span must have comes last."""

    def client(connect):
        sock = connect()
        for number in range(3):
            extra = "".join("X-%d: %s\r\n" % (n, "v" * 1000) for n in range(63))
            head = request(number, extra=extra + "User-Agent: at-the-end\r\n")
            assert 60_000 < len(head) < 65_536
            sock.sendall(head)
            whole(sock)
            done(number, 0, 10)
        sock.close()

    pair(simple_server(3, lambda sock: sock.recv(65536)), client)


@case
def long_bodies():
    """Bodies both ways that are far longer than what is copied of a call, then a request right behind them."""
    size = int(OPTIONS.get("size", 8_000_000))
    pair(simple_server(3, lambda sock: sock.recv(1 << 20), body=size), simple_client(3, body=size, answer=size))


@case
def file_bodies():
    """A response's body by `sendfile`, then another request on the connection."""
    size = int(OPTIONS.get("size", 1_000_000))

    def server(listener):
        conn = listener.accept()[0]
        file = os.memfd_create("body")
        os.ftruncate(file, size)
        for _ in range(3):
            whole(conn)
            conn.sendall(response(size))
            sent = 0
            while sent < size:
                sent += os.sendfile(conn.fileno(), file, sent, min(size - sent, 1 << 30))
        conn.recv(1)

    buffer = bytearray(1 << 20)

    def client(connect):
        sock = connect()
        for number in range(3):
            sock.sendall(request(number))
            data = until_head(sock)
            left = size - len(data.partition(b"\r\n\r\n")[2])
            while left:
                left -= sock.recv_into(buffer)
            done(number, 0, size)
        sock.close()

    pair(server, client)


@case
def spliced():
    """A request's body leaves the socket by `splice`: bytes that no hook shows. The next request is whole."""
    size = 30_000

    def server(listener):
        conn = listener.accept()[0]
        for _ in range(3):
            data = until_head(conn, lambda sock: sock.recv(1))
            left = length_of(data)
            out, into = os.pipe()
            while left:
                moved = os.splice(conn.fileno(), into, left)
                os.read(out, moved)
                left -= moved
            os.close(out), os.close(into)
            conn.sendall(response(10) + b"x" * 10)
        conn.recv(1)

    pair(server, simple_client(3, body=size))


@case
def unix():
    def made():
        name = "/tmp/spandrel-%s.sock" % PREFIX
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(name)
        listener.listen()

        def connect():
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(name)
            os.unlink(name)
            return sock

        return listener, connect

    pair(simple_server(5), simple_client(5), made)


@case
def unix_pair():
    """A socketpair made before the fork: no listener, no connect, no name."""
    left, right = socket.socketpair()

    class Listener:
        def accept(self):
            left.close()
            return right, None

        def close(self):
            right.close()

    pair(simple_server(3), simple_client(3), lambda: (Listener(), lambda: left))


@case
def mapped():
    """An IPv6 listener that serves IPv4: the server's own addresses are ::ffff:127.0.0.1."""

    def made():
        listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        port = listener.getsockname()[1]
        return listener, lambda: socket.create_connection(("127.0.0.1", port))

    pair(simple_server(3), simple_client(3), made)


@case
def ipv6():
    def made():
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        port = listener.getsockname()[1]
        return listener, lambda: socket.create_connection(("::1", port))

    pair(simple_server(3), simple_client(3), made)


@case
def pipelined():
    """Five requests in one write, five responses in one write."""

    def server(listener):
        conn = listener.accept()[0]
        data = b""
        while data.count(b"\r\n\r\n") < 5:
            data += conn.recv(65536)
        conn.sendall((response(10) + b"x" * 10) * 5)
        conn.recv(1)

    def client(connect):
        sock = connect()
        sock.sendall(b"".join(request(number) for number in range(5)))
        want = 5 * len(response(10) + b"x" * 10)
        while want:
            want -= len(sock.recv(65536))
        for number in range(5):
            done(number, 0, 10)
        sock.close()

    pair(server, client)


@case
def chunked():
    """Chunked both ways, with an extension and a trailer, cut in the middle of a chunk's size."""

    def server(listener):
        conn = listener.accept()[0]
        for _ in range(3):
            data = b""
            while not data.endswith(b"0\r\n\r\n"):
                data += conn.recv(65536)
            for piece in (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n1",
                b"0;name=value\r\n" + b"z" * 16,
                b"\r\n0\r\nX-End: 1\r\n\r\n",
            ):
                conn.sendall(piece)
                time.sleep(0.002)
        conn.recv(1)

    def client(connect):
        sock = connect()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(3):
            sock.sendall(request(number, method="POST", extra="Transfer-Encoding: chunked\r\n"))
            sock.sendall(b"5\r\nhello\r\n0\r\n\r\n")
            data = b""
            while not data.endswith(b"X-End: 1\r\n\r\n"):
                data += sock.recv(65536)
            done(number, 5, 16)
        sock.close()

    pair(server, client)


@case
def continued():
    """`Expect: 100-continue`, and a 103 before the final response."""

    def server(listener):
        conn = listener.accept()[0]
        for _ in range(3):
            until_head(conn)
            conn.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            conn.recv(65536)
            conn.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            conn.sendall(response(10) + b"x" * 10)
        conn.recv(1)

    def client(connect):
        sock = connect()
        for number in range(3):
            sock.sendall(request(number, 4, "PUT", "Expect: 100-continue\r\n"))
            until_head(sock)
            sock.sendall(b"body")
            data = b""
            while not data.endswith(b"x" * 10):
                data += sock.recv(65536)
            done(number, 4, 10)
        sock.close()

    pair(server, client)


@case
def bodiless():
    """HEAD with a Content-Length, 204, 304: no body may be waited for."""

    def server(listener):
        conn = listener.accept()[0]
        for head in (response(5000), b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"):
            until_head(conn)
            conn.sendall(head)
        conn.recv(1)

    def client(connect):
        sock = connect()
        for number, method in enumerate(("HEAD", "GET", "GET")):
            sock.sendall(request(number, method=method))
            until_head(sock)
            done(number)
        sock.close()

    pair(server, client)


@case
def until_closed():
    """HTTP/1.0: the response ends with the connection."""

    def server(listener):
        for _ in range(3):
            conn = listener.accept()[0]
            until_head(conn)
            conn.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 1000)
            conn.close()

    def client(connect):
        for number in range(3):
            sock = connect()
            sock.sendall(("GET %s HTTP/1.0\r\nHost: test\r\n\r\n" % path(number)).encode())
            while sock.recv(65536):
                pass
            sock.close()
            done(number, 0, 1000)

    pair(server, client)


@case
def half_closed(read_after=0.0):
    """The client says that it is done (shutdown) before the response comes."""

    def server(listener):
        for _ in range(3):
            conn = listener.accept()[0]
            until_head(conn)
            assert conn.recv(1) == b""
            conn.sendall(response(10) + b"x" * 10)
            conn.close()

    def client(connect):
        for number in range(3):
            sock = connect()
            sock.sendall(request(number))
            sock.shutdown(socket.SHUT_WR)
            time.sleep(read_after)
            whole(sock)
            sock.close()
            done(number, 0, 10)

    pair(server, client)


@case
def read_when_closed():
    """The same, but both directions are over, and the socket is closed in the kernel, before the response is read."""
    half_closed(0.05)


@case
def reset_unread():
    """The connection is reset when the response has come and nobody has read it; then it is read."""

    def server(listener):
        for _ in range(3):
            conn = listener.accept()[0]
            until_head(conn)
            conn.sendall(response(10) + b"x" * 10)
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            conn.close()

    def client(connect):
        for number in range(3):
            sock = connect()
            sock.sendall(request(number))
            time.sleep(0.05)
            whole(sock)
            sock.close()
            done(number, 0, 10)

    pair(server, client)


@case
def reads_no_more():
    """The client says that it will read no more (shutdown), and reads what is there already."""

    def client(connect):
        for number in range(3):
            sock = connect()
            sock.sendall(request(number))
            sock.recv(1, socket.MSG_PEEK)
            sock.shutdown(socket.SHUT_RD)
            whole(sock)
            sock.close()
            done(number, 0, 10)

    def server(listener):
        for _ in range(3):
            conn = listener.accept()[0]
            until_head(conn)
            conn.sendall(response(10) + b"x" * 10)
            conn.recv(1)
            conn.close()

    pair(server, client)


@case
def wait_all():
    """`MSG_WAITALL` of exactly the length of the message."""
    size = len(request(0))
    pair(simple_server(3, lambda sock: sock.recv(size, socket.MSG_WAITALL)), simple_client(3))


@case
def mptcp():
    """Multipath TCP: not the kernel's own TCP. Whatever is reported must not be wrong."""

    def made():
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()

        def connect():
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
            sock.connect(address)
            return sock

        return listener, connect

    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).close()
    except OSError:
        print("skip: this kernel has no MPTCP", flush=True)
        return
    pair(simple_server(3), simple_client(3), made)


@case
def garbage():
    """Bytes that are no HTTP, and then a request on another connection."""

    def server(listener):
        conn = listener.accept()[0]
        conn.recv(65536)
        conn.sendall(bytes(range(256)) * 4)
        conn.recv(1)
        conn.close()
        simple_server(2)(listener)

    def client(connect):
        sock = connect()
        sock.sendall(bytes(reversed(range(256))) * 9)
        sock.recv(65536)
        sock.close()
        simple_client(2)(connect)

    pair(server, client)


@case
def control_characters():
    """A path with bytes that would move a terminal, and bytes that are not UTF-8."""

    def client(connect):
        sock = connect()
        for number in range(3):
            evil = b"%s-\x1b[31m\x07\x9b2J\xff\xfe\x7f-" % path(number).encode()
            sock.sendall(b"GET " + evil + b" HTTP/1.1\r\nHost: t\xff\r\nUser-Agent: \x1b]0;owned\x07\xc3\r\n\r\n")
            whole(sock)
            done(number, 0, 10)
        sock.close()

    pair(simple_server(3), client)


@case
def reset():
    """The server resets the connection instead of an answer."""

    def server(listener):
        conn = listener.accept()[0]
        until_head(conn)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        conn.close()

    def client(connect):
        sock = connect()
        sock.sendall(request(0))
        try:
            sock.recv(65536)
        except ConnectionResetError:
            pass
        sock.close()
        done(0)

    pair(server, client)


@case
def died():
    """The server's process is killed while it owes an answer."""

    def server(listener):
        conn = listener.accept()[0]
        until_head(conn)
        os.kill(os.getpid(), 9)

    def client(connect):
        sock = connect()
        sock.sendall(request(0))
        try:
            sock.recv(65536)
        except ConnectionResetError:
            pass
        sock.close()
        done(0)

    pair(server, client)


def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.002)


@case
def attach_late():
    """Connections that are open before the tracer: idle ones, one in the middle of a head, one in the middle of a body.
    Says `open`, waits for the file `go`, goes on."""
    idle = int(OPTIONS.get("idle", 1))

    def server(listener):
        conns = [listener.accept()[0] for _ in range(idle + 2)]

        def one(conn):
            while True:
                if whole(conn) is None:
                    return
                conn.sendall(response(10) + b"x" * 10)

        threads = [threading.Thread(target=one, args=(conn,)) for conn in conns]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]

    def client(connect):
        socks = [connect() for _ in range(idle + 2)]
        for sock in socks:
            sock.sendall(b"GET /before HTTP/1.1\r\nHost: test\r\n\r\n")
            whole(sock)
        in_head, in_body = socks[idle], socks[idle + 1]
        in_head.sendall(b"GET /before-head HTTP/1.1\r\nHo")
        in_body.sendall(b"POST /before-body HTTP/1.1\r\nHost: test\r\nContent-Length: 5000\r\n\r\n" + b"b" * 2500)
        time.sleep(0.05)
        print("open", flush=True)
        wait_for(OPTIONS["go"])
        in_head.sendall(b"st: test\r\n\r\n")
        whole(in_head)
        in_body.sendall(b"b" * 2500)
        whole(in_body)
        for number, sock in enumerate(socks):
            sock.sendall(request(number))
            whole(sock)
            done(number, 0, 10)
        for sock in socks:
            sock.close()

    pair(server, client)


@case
def serve():
    """A server for a client elsewhere (another network namespace): `at=ADDRESS:PORT count=N`."""
    host, _, port = OPTIONS["at"].rpartition(":")
    listener = socket.create_server((host, int(port)))
    print("listening", flush=True)
    for _ in range(int(OPTIONS["count"])):
        conn = listener.accept()[0]
        while whole(conn) is not None:
            conn.sendall(response(10) + b"x" * 10)
        conn.close()


@case
def call():
    """A client of a server elsewhere: `to=ADDRESS:PORT count=N`, two requests a connection."""
    host, _, port = OPTIONS["to"].rpartition(":")
    for number in range(int(OPTIONS["count"])):
        sock = socket.create_connection((host, int(port)), timeout=10)
        for part in range(2):
            sock.sendall(request(2 * number + part))
            whole(sock)
            done(2 * number + part, 0, 10)
        sock.close()


@case
def options():
    """What a program can see of its own sockets, before, while and after they are used: it must not depend on a tracer.
    Prints FIONREAD with data waiting and a digest of all socket options that can be read."""
    import fcntl
    import hashlib
    import termios

    left, connect_ = tcp()
    sock = connect_()
    conn = left.accept()[0]
    conn.sendall(response(10) + b"x" * 10)
    time.sleep(0.02)
    waiting = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, waiting)
    seen = []
    for level in (socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP):
        for option in range(1, 80):
            if (level, option) in VOLATILE:
                continue
            try:
                seen.append((level, option, sock.getsockopt(level, option, 64)))
            except OSError as error:
                seen.append((level, option, error.errno))
    if OPTIONS.get("list"):
        print(seen)
    digest = hashlib.sha256(repr(seen).encode()).hexdigest()
    with open("/proc/self/status") as status:
        traced = next(line.split()[1] for line in status if line.startswith("TracerPid"))
    print("fionread", waiting[0], "options", digest, "tracer", traced, flush=True)
    whole(sock)


# Options whose value is the moment's: the cookie, the incoming processor, the peer's pid, NAPI, memory, TCP_INFO,
# TCP_CC_INFO, timestamps, TCP_ZEROCOPY_RECEIVE.
VOLATILE = {(0, 52), (1, 57), (1, 49), (1, 17), (1, 56), (1, 55), (1, 77), (1, 62), (6, 11), (6, 26), (6, 24), (6, 35), (6, 9)}

CASES[NAME]()
