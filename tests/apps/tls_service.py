"""HTTP/1.1 over TLS with OpenSSL, and its client. Nothing here knows that it is traced.

    tls_service.py threads|asyncio PORT CERTIFICATE KEY [1.2]    serves 200 bytes at any path
    tls_service.py client PORT PREFIX COUNT CONCURRENCY PER_CONNECTION    GETs PREFIX-0, PREFIX-1, …
    tls_service.py slow-client …    the same, with a pause after each request
    tls_service.py asyncio-client|uvloop-client PORT PREFIX COUNT CONCURRENCY PER_CONNECTION
"""

import asyncio
import http.client
import http.server
import os
import socketserver
import ssl
import sys
import threading
import time

BODY = b"x" * 200


def server_context(certificate, key, versions):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if "1.2" in versions:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def client_context():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_):
        pass


class Threads(socketserver.ThreadingMixIn, http.server.HTTPServer):
    request_queue_size = 256
    daemon_threads = True


def threads(port, certificate, key, *versions):
    server = Threads(("127.0.0.1", int(port)), Handler)
    context = server_context(certificate, key, versions)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


async def answer(reader, writer):
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        pass
    finally:
        writer.close()


async def serve(port, certificate, key, *versions):
    context = server_context(certificate, key, versions)
    server = await asyncio.start_server(answer, "127.0.0.1", int(port), ssl=context, backlog=256)
    await server.serve_forever()


async def app(scope, receive, send):
    """For uvicorn."""
    if scope["type"] != "http":
        return
    head = [(b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": BODY})


def application(environ, start_response):
    """For gunicorn."""
    start_response("200 OK", [("Content-Length", str(len(BODY)))])
    return [BODY]


def client(port, prefix, count, concurrency, per_connection, pause=0):
    numbers, lock, context = iter(range(int(count))), threading.Lock(), client_context()
    # Where to log when each request was made.
    times = open(os.environ["TIMES"], "w", buffering=1) if "TIMES" in os.environ else None

    def run():
        connection, used = None, 0
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            if connection is None or used >= int(per_connection):
                if connection:
                    connection.close()
                connection, used = http.client.HTTPSConnection("127.0.0.1", int(port), context=context), 0
            if times:
                times.write(f"{number} {time.monotonic_ns()}\n")
            connection.request("GET", f"{prefix}-{number}")
            response = connection.getresponse()
            response.read()
            assert response.status == 200
            used += 1
            time.sleep(pause)
        if connection:
            connection.close()

    workers = [threading.Thread(target=run) for _ in range(int(concurrency))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


async def asyncio_client(port, prefix, count, concurrency, per_connection):
    numbers, context = iter(range(int(count))), client_context()

    async def run():
        reader = writer = None
        used = 0
        for number in numbers:
            if writer is None or used >= int(per_connection):
                if writer:
                    writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", int(port), ssl=context)
                used = 0
            writer.write(f"GET {prefix}-{number} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(length[0].split(b":")[1]))
            used += 1
        if writer:
            writer.close()

    await asyncio.gather(*(run() for _ in range(int(concurrency))))


if __name__ == "__main__":
    style, arguments = sys.argv[1], sys.argv[2:]
    if style == "threads":
        threads(*arguments)
    elif style == "asyncio":
        asyncio.run(serve(*arguments))
    elif style == "client":
        client(*arguments)
    elif style == "slow-client":
        client(*arguments, pause=0.05)
    elif style == "uvloop-client":
        import uvloop

        uvloop.run(asyncio_client(*arguments))
    else:
        asyncio.run(asyncio_client(*arguments))
