"""What the Python services share: settings from `key=value` arguments, the routing table, the log of calls.

A service learns from a file, before any traffic, what each opaque token asks for; nothing that arrives with a
request says anything about the calls it causes. It must never know that it is traced.
"""

import signal
import sys

FILLER = b"#" + b"." * 4095  # one "#" a body, so that a reader of many can count them


class Settings:
    """`key=value` arguments; anything missing is None."""

    def __init__(self, arguments):
        self._values = dict(argument.split("=", 1) for argument in arguments)

    def __getattr__(self, name):
        return self._values.get(name)


class Route:
    """What one token asks for: a delay in seconds, paths to call one after the other, bytes of body."""

    __slots__ = ("delay", "calls", "size")

    def __init__(self, line):
        token, delay, size, *calls = line.split("\t")
        self.delay = int(delay) / 1000
        self.size = int(size)
        self.calls = [call for call in calls if call]


def routes(path):
    """The table: `path TAB delay in ms TAB bytes TAB path of a call TAB ...` a line."""
    table = {}
    if path:
        with open(path) as lines:
            for line in lines:
                line = line.rstrip("\n")
                table[line.split("\t", 1)[0]] = Route(line)
    return table


NOTHING = Route("\t0\t2")


def body(route):
    """The bytes of a response."""
    return FILLER[: route.size]


class CallLog:
    """Which bytes of which connection were which request: for the harness, that asks about missing ones."""

    def __init__(self, path):
        self._file = open(path, "w", buffering=1) if path else None

    def add(self, path, local, peer, sent, received):
        if self._file:
            self._file.write("%s\t%d\t%d\t%d\t%d\t%d\t%d\n" % (path, local, peer, *sent, *received))


def background(path):
    """Paths of calls that belong to no request."""
    if not path:
        return []
    with open(path) as lines:
        return [line.strip() for line in lines if line.strip()]


def leave(*_):
    sys.exit(0)


signal.signal(signal.SIGTERM, leave)
