"""A service that asks for a connection that nobody accepts, and its client. Nothing here knows that it is traced.

    refused.py threads|asyncio PORT    a request of /N asks for 127.1.H.L, port 9, where H and L are the bytes of N
                                       (nothing listens there), and is answered with 502; /none-N asks for nothing;
                                       /full-PORT asks for that port, where nobody accepts, and waits 0.3 s;
                                       /gone-PORT the same, until the kernel gives up (once more after a second)
    refused.py client PORT COUNT CONCURRENCY    GETs /0, /none-1, /2, …
    refused.py full                             listens, prints its port, and never accepts more than one
"""

import asyncio
import http.client
import http.server
import socket
import socketserver
import sys
import threading
import time


def address(path):
    number = int(path[1:])
    return "127.1.%d.%d" % (number >> 8, number & 255), 9


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        time.sleep(0.002)
        if not self.path.startswith("/none"):
            try:
                kind, _, port = self.path.partition("-")
                if kind == "/full":
                    socket.create_connection(("127.0.0.1", int(port)), timeout=0.3).close()
                elif kind == "/gone":
                    with socket.socket() as asking:
                        asking.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
                        asking.connect(("127.0.0.1", int(port)))
                else:
                    socket.create_connection(address(self.path)).close()
            except OSError:
                pass
        time.sleep(0.002)
        self.send_response(502)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Threads(socketserver.ThreadingMixIn, http.server.HTTPServer):
    request_queue_size = 256
    daemon_threads = True


async def answer(reader, writer):
    try:
        while True:
            path = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ")[1]
            await asyncio.sleep(0.002)
            if not path.startswith("/none"):
                try:
                    await asyncio.open_connection(*address(path))
                except OSError:
                    pass
            await asyncio.sleep(0.002)
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve(port):
    server = await asyncio.start_server(answer, "127.0.0.1", int(port), backlog=256)
    await server.serve_forever()


def client(port, count, concurrency):
    numbers, lock = iter(range(int(count))), threading.Lock()

    def run():
        connection = http.client.HTTPConnection("127.0.0.1", int(port))
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            connection.request("GET", "/%s%d" % ("none-" if number % 3 == 1 else "", number))
            response = connection.getresponse()
            response.read()
            assert response.status == 502
        connection.close()

    workers = [threading.Thread(target=run) for _ in range(int(concurrency))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def full():
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = []
    for _ in range(3):
        asking = socket.socket()
        asking.setblocking(False)
        asking.connect_ex(listener.getsockname())
        waiting.append(asking)
    print(listener.getsockname()[1], flush=True)
    time.sleep(600)


if __name__ == "__main__":
    style, arguments = sys.argv[1], sys.argv[2:]
    if style == "threads":
        Threads(("127.0.0.1", int(arguments[0])), Handler).serve_forever()
    elif style == "asyncio":
        asyncio.run(serve(*arguments))
    elif style == "full":
        full()
    else:
        client(*arguments)
