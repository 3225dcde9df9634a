"""A service on trio: raw streams in, a pool of keep-alive connections out.

    trio_service.py port=N routes=FILE style=STYLE [next=HOST:PORT] [background=FILE every=MS]

STYLE: inline, gather (a nursery), thread (`trio.to_thread`).
"""

import sys
import threading

import trio

import client
import common

settings = common.Settings(sys.argv[1:])
table = common.routes(settings.routes)
idle = []
mine = threading.local()


async def read_head(stream, buffer):
    while b"\r\n\r\n" not in buffer:
        data = await stream.receive_some(65536)
        if not data:
            return None, b""
        buffer += data
    head, _, rest = buffer.partition(b"\r\n\r\n")
    return head, rest


async def call(path):
    host, _, port = settings.next.rpartition(":")
    stream = idle.pop() if idle else await trio.open_tcp_stream(host, int(port))
    await stream.send_all(("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path, settings.next)).encode())
    head, rest = await read_head(stream, b"")
    length = next(int(l.split(b":")[1]) for l in head.split(b"\r\n") if l.lower().startswith(b"content-length"))
    while len(rest) < length:
        rest += await stream.receive_some(65536)
    idle.append(stream)


def blocking(path):
    if getattr(mine, "connection", None) is None:
        mine.connection = client.Connection(settings.next)
    mine.connection.call(path)


async def calls(route):
    await trio.sleep(route.delay)
    if settings.style == "gather":
        async with trio.open_nursery() as nursery:
            for path in route.calls:
                nursery.start_soon(call, path)
        return
    for path in route.calls:
        if settings.style == "thread":
            await trio.to_thread.run_sync(blocking, path)
        else:
            await call(path)


async def serve(stream):
    rest = b""
    try:
        while True:
            head, rest = await read_head(stream, rest)
            if head is None:
                return
            route = table.get(head.split(b" ", 2)[1].decode("latin-1"), common.NOTHING)
            await calls(route)
            data = common.body(route)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        await stream.aclose()


async def timer():
    for path in common.background(settings.background):
        await trio.sleep(int(settings.every or "20") / 1000)
        await call(path)


async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer)
        await trio.serve_tcp(serve, int(settings.port), host="127.0.0.1", backlog=128)


trio.run(main)
