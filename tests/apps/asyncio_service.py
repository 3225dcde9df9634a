"""A service on one asyncio loop: raw streams in, a shared pool of keep-alive connections out.

    asyncio_service.py port=N routes=FILE [next=HOST:PORT] [copy=1] [background=FILE every=MS]
"""

import asyncio
import sys

import common

settings = common.Settings(sys.argv[1:])
table = common.routes(settings.routes)
idle = []


async def exchange(path, headers):
    """One call over the most recently used connection of the pool, or a new one."""
    host, _, port = settings.next.rpartition(":")
    reader, writer = idle.pop() if idle else await asyncio.open_connection(host, int(port))
    extra = "".join("%s: %s\r\n" % pair for pair in headers)
    writer.write(("GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n" % (path, settings.next, extra)).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            await reader.readexactly(int(line.split(b":")[1]))
    idle.append((reader, writer))


async def serve(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            path = head[0].split(" ")[1]
            route = table.get(path, common.NOTHING)
            copied = []
            if settings.copy:
                copied = [h.split(": ", 1) for h in head if h.lower().startswith(("traceparent", "tracestate"))]
                copied = [tuple(pair) for pair in copied]
            await asyncio.sleep(route.delay)
            for call in route.calls:
                await exchange(call, copied)
            data = common.body(route)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def timer():
    for path in common.background(settings.background):
        await asyncio.sleep(int(settings.every or "20") / 1000)
        await exchange(path, [])


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(settings.port), backlog=128)
    kept = asyncio.ensure_future(timer())
    async with server:
        await server.serve_forever()
    kept.cancel()


asyncio.run(main())
