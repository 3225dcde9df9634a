"""A service on one event loop, in the servers and the ways to call out that Python programs use.

    async_service.py port=N routes=FILE server=SERVER style=STYLE [next=HOST:PORT] [background=FILE every=MS]

SERVER: streams (asyncio alone), uvloop (the same on uvloop), aiohttp, uvicorn (asyncio and h11), uvicorn-uvloop
(uvloop and httptools), fastapi (an async endpoint), fastapi-sync (an endpoint that runs in a worker thread).
STYLE: inline, gather, tasks (a task in a task), thread (`to_thread`), executor (bare `run_in_executor`), late (the
last call is made by a task after the response), shared (all requests' calls go through one queue to one task).
"""

import asyncio
import contextvars
import random
import sys
import threading

import client
import common

settings = common.Settings(sys.argv[1:])
table = common.routes(settings.routes)
style = settings.style or "inline"
server = settings.server or "streams"
mine = threading.local()
kept = set()


class Raw:
    """A pool of keep-alive connections on asyncio's own streams; the most recently used first."""

    def __init__(self):
        self.idle = []

    async def call(self, path):
        host, _, port = settings.next.rpartition(":")
        reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection(host, int(port))
        writer.write(("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path, settings.next)).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                await reader.readexactly(int(line.split(b":")[1]))
        self.idle.append((reader, writer))


class Session:
    """An aiohttp client session, made when the loop runs."""

    def __init__(self):
        self.session = None

    async def call(self, path):
        import aiohttp

        if self.session is None:
            self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        async with self.session.get("http://%s%s" % (settings.next, path)) as response:
            await response.read()


outbound = Raw() if server in ("streams", "uvloop") else Session()


def blocking(path):
    if getattr(mine, "connection", None) is None:
        mine.connection = client.Connection(settings.next)
    mine.connection.call(path)


async def to_thread(path):
    """`asyncio.to_thread`, which came with 3.9."""
    context = contextvars.copy_context()
    await asyncio.get_running_loop().run_in_executor(None, lambda: context.run(blocking, path))


async def late(path):
    await asyncio.sleep(random.random() * 0.02)
    await outbound.call(path)


def keep(coroutine):
    task = asyncio.ensure_future(coroutine)
    kept.add(task)
    task.add_done_callback(kept.discard)
    return task


jobs = None


async def worker():
    """One task that makes everybody's calls."""
    while True:
        path, done = await jobs.get()
        await outbound.call(path)
        done.set_result(None)


async def calls(route):
    """What a request asks for, in the style of this service."""
    global jobs
    await asyncio.sleep(route.delay)
    if style == "gather":
        await asyncio.gather(*[outbound.call(path) for path in route.calls])
        return
    for index, path in enumerate(route.calls):
        if style == "tasks":

            async def middle(path=path):
                await asyncio.ensure_future(outbound.call(path))

            await asyncio.ensure_future(middle())
        elif style == "thread":
            await getattr(asyncio, "to_thread", lambda _, path: to_thread(path))(blocking, path)
        elif style == "executor":
            await asyncio.get_running_loop().run_in_executor(None, blocking, path)
        elif style == "late" and index == len(route.calls) - 1:
            keep(late(path))
        elif style == "shared":
            if jobs is None:
                jobs = asyncio.Queue()
                keep(worker())
            done = asyncio.get_running_loop().create_future()
            jobs.put_nowait((path, done))
            await done
        else:
            await outbound.call(path)


async def timer():
    for path in common.background(settings.background):
        await asyncio.sleep(int(settings.every or "20") / 1000)
        await outbound.call(path)


async def connection(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            route = table.get(head.split(" ", 2)[1], common.NOTHING)
            await calls(route)
            data = common.body(route)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def streams():
    listening = await asyncio.start_server(connection, "127.0.0.1", int(settings.port), backlog=128)
    keep(timer())
    async with listening:
        await listening.serve_forever()


async def aiohttp_server():
    from aiohttp import web

    async def handler(request):
        route = table.get(request.path, common.NOTHING)
        await calls(route)
        return web.Response(body=common.body(route))

    application = web.Application()
    application.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(settings.port), backlog=128).start()
    keep(timer())
    await asyncio.Event().wait()


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        keep(timer())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return
    route = table.get(scope["path"], common.NOTHING)
    await calls(route)
    data = common.body(route)
    headers = [(b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def fastapi():
    from fastapi import FastAPI, Response

    application = FastAPI()

    def sync(path: str):
        import time

        route = table.get("/" + path, common.NOTHING)
        time.sleep(route.delay)
        for call in route.calls:
            blocking(call)
        return Response(common.body(route))

    async def endpoint(path: str):
        route = table.get("/" + path, common.NOTHING)
        await calls(route)
        return Response(common.body(route))

    application.get("/{path:path}")(sync if server == "fastapi-sync" else endpoint)
    return application


def main():
    if server in ("streams", "aiohttp", "uvloop"):
        if server == "uvloop":
            import uvloop

            uvloop.install()
        asyncio.run(aiohttp_server() if server == "aiohttp" else streams())
        return
    import uvicorn

    fast = server == "uvicorn-uvloop"
    uvicorn.run(
        fastapi() if server.startswith("fastapi") else asgi,
        host="127.0.0.1",
        port=int(settings.port),
        loop="uvloop" if fast else "asyncio",
        http="httptools" if fast else "h11",
        log_level="error",
        timeout_keep_alive=60,
        backlog=128,
    )


main()
