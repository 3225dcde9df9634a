"""A Flask application that answers every request with 1 KiB: what an SDK's auto-instrumentation is compared on."""

from flask import Flask

application = Flask(__name__)
BODY = "x" * 1024


@application.get("/file")
def file():
    return BODY
