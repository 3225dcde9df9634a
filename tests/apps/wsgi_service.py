"""A WSGI application for Gunicorn's sync workers; settings from the environment, as WSGI applications get them.

    ROUTES=FILE NEXT=HOST:PORT gunicorn -w 4 -b 127.0.0.1:N wsgi_service:application
"""

import os
import time

import client
import common

table = common.routes(os.environ.get("ROUTES"))
connection = None


def application(environ, start_response):
    global connection
    route = table.get(environ["PATH_INFO"], common.NOTHING)
    time.sleep(route.delay)
    for path in route.calls:
        if connection is None:
            log = os.environ.get("CALL_LOG")
            connection = client.Connection(os.environ["NEXT"], common.CallLog(log and "%s.%d" % (log, os.getpid())))
        connection.call(path)
    data = common.body(route)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))])
    return [data]
