"""A WSGI application for Gunicorn; settings from the environment, as WSGI applications get them.

    ROUTES=FILE NEXT=HOST:PORT gunicorn -w 4 -b 127.0.0.1:N wsgi_service:application
"""

import os
import threading
import time

import client
import common

table = common.routes(os.environ.get("ROUTES"))
mine = threading.local()


def application(environ, start_response):
    route = table.get(environ["PATH_INFO"], common.NOTHING)
    time.sleep(route.delay)
    for path in route.calls:
        if getattr(mine, "connection", None) is None:
            log = os.environ.get("CALL_LOG")
            log = log and "%s.%d.%d" % (log, os.getpid(), threading.get_ident())
            mine.connection = client.Connection(os.environ["NEXT"], common.CallLog(log))
        mine.connection.call(path)
    data = common.body(route)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))])
    return [data]
