"""A service on gevent: its own WSGI server, calls by `http.client` through patched sockets.

    gevent_service.py port=N routes=FILE style=STYLE [next=HOST:PORT] [background=FILE every=MS]

STYLE: inline, gather (greenlets that are joined).
"""

from gevent import monkey

monkey.patch_all()

import sys
import time

import gevent
from gevent.pywsgi import WSGIServer

import client
import common

settings = common.Settings(sys.argv[1:])
table = common.routes(settings.routes)
idle = []


def call(path):
    connection = idle.pop() if idle else client.Connection(settings.next)
    connection.call(path)
    idle.append(connection)


def application(environ, start_response):
    route = table.get(environ["PATH_INFO"], common.NOTHING)
    time.sleep(route.delay)
    if settings.style == "gather":
        gevent.joinall([gevent.spawn(call, path) for path in route.calls])
    else:
        for path in route.calls:
            call(path)
    data = common.body(route)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))])
    return [data]


def timer():
    for path in common.background(settings.background):
        time.sleep(int(settings.every or "20") / 1000)
        call(path)


gevent.spawn(timer)
WSGIServer(("127.0.0.1", int(settings.port)), application, log=None, backlog=128).serve_forever()
