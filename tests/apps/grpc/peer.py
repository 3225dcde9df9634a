"""gRPC peer: grpcio (C core). What the arguments mean and what a body asks for: tests/src/grpc/calls.rs.

No generated code: bytes in, bytes out, any method name. It must never know that it is traced.
"""
import os
import queue
import sys
import threading
import time
from concurrent import futures

import grpc

OPTIONS = [
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.absolute_max_metadata_size", 1 << 20),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.so_reuseport", 0),
]
CODES = {code.value[0]: code for code in grpc.StatusCode}


def fields(text):
    pairs = (word.split("=", 1) for word in text.split(" ") if "=" in word)
    return {key: value for key, value in pairs}


def wished(body):
    return fields(body.decode("latin-1").split("\n", 1)[0])


def keys(spec, prefix):
    count, length = (int(part) for part in spec.split("x"))
    return [(f"{prefix}-{number}", chr(97 + number % 26) * length) for number in range(count)]


def answer(wish, context):
    if "h" in wish:
        context.send_initial_metadata(keys(wish["h"], "x-reply"))
    time.sleep(int(wish.get("d", 0)) / 1000)
    status = int(wish.get("s", 0))
    if status:
        context.abort(CODES[status], "no such thing")
    return b"x" * int(wish.get("z", 20))


def unary(request, context):
    return answer(wished(request), context)


def server_stream(request, context):
    wish = wished(request)
    message = b"x" * int(wish.get("z", 20))
    for _ in range(int(wish.get("n", 1))):
        if not context.is_active():
            return
        yield message
        time.sleep(int(wish.get("i", 0)) / 1000)
    answer(wish, context)


def client_stream(requests, context):
    wish = None
    for request in requests:
        wish = wish or wished(request)
    return answer(wish or {}, context)


def both_stream(requests, context):
    wish = None
    for request in requests:
        wish = wish or wished(request)
        yield b"x" * int(wish.get("z", 20))
    answer(wish or {}, context)


class Handlers(grpc.GenericRpcHandler):
    def service(self, details):
        last = details.method.rsplit("/", 1)[-1]
        if last.startswith("Server"):
            return grpc.unary_stream_rpc_method_handler(server_stream)
        if last.startswith("Client"):
            return grpc.stream_unary_rpc_method_handler(client_stream)
        if last.startswith("Both"):
            return grpc.stream_stream_rpc_method_handler(both_stream)
        return grpc.unary_unary_rpc_method_handler(unary)


def serve(arguments):
    pool = futures.ThreadPoolExecutor(max_workers=128)
    server = grpc.server(pool, handlers=[Handlers()], options=OPTIONS)
    at = "127.0.0.1:" + arguments["port"]
    if "certificate" in arguments:
        pair = (content(arguments["key"]), content(arguments["certificate"]))
        server.add_secure_port(at, grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port(at)
    server.start()
    if "stop" in arguments:
        appears(arguments["stop"])
        server.stop(30).wait()
    server.wait_for_termination()


def content(file):
    with open(file, "rb") as opened:
        return opened.read()


def appears(file):
    while not os.path.exists(file):
        time.sleep(0.005)


def metadata(wish):
    pairs = keys(wish["m"], "x-key") if "m" in wish else []
    if "b" in wish:
        pairs.append(("x-data-bin", os.urandom(40)))
    if "r" in wish:
        pairs.append(("x-request-id", os.urandom(16).hex()))
    return pairs


def requests(body, wish):
    for number in range(int(wish.get("n", 1))):
        if number and "i" in wish:
            time.sleep(int(wish["i"]) / 1000)
        yield body


def call(channel, path, kind, body, wish):
    body = body.encode()
    if "z" in wish:
        body += b"\n" + b"y" * int(wish["z"])
    shapes = {
        "unary": channel.unary_unary,
        "server": channel.unary_stream,
        "client": channel.stream_unary,
        "both": channel.stream_stream,
    }
    method = shapes[kind](path)
    timeout = int(wish["t"]) / 1000 if "t" in wish else None
    argument = requests(body, wish) if kind in ("client", "both") else body
    received = 0
    try:
        if kind in ("unary", "client"):
            future = method.future(argument, timeout=timeout, metadata=metadata(wish))
            if "c" in wish:
                threading.Timer(int(wish["c"]) / 1000, future.cancel).start()
            future.result()
            received = 1
        else:
            stream = method(argument, timeout=timeout, metadata=metadata(wish))
            if "c" in wish:
                threading.Timer(int(wish["c"]) / 1000, stream.cancel).start()
            for _ in stream:
                received += 1
        return 0, received
    except grpc.FutureCancelledError:
        return 1, received
    except grpc.RpcError as error:
        return error.code().value[0], received


def drive(arguments):
    lines = open(arguments["calls"]).read().split("\n")
    log, lock = open(arguments["log"], "w"), threading.Lock()
    idle = threading.Barrier(int(arguments.get("connections", 1)))

    def connection(number):
        if "certificate" in arguments:
            credentials = grpc.ssl_channel_credentials(content(arguments["certificate"]))
            channel = grpc.secure_channel(arguments["to"], credentials, options=OPTIONS)
        else:
            channel = grpc.insecure_channel(arguments["to"], options=OPTIONS)
        grpc.channel_ready_future(channel).result(timeout=20)
        work = queue.Queue()

        def worker():
            while True:
                index, path, kind, body, options = work.get()
                began = time.time_ns()
                status, received = call(channel, path, kind, body, fields(options))
                ended = time.time_ns()
                with lock:
                    log.write(f"{number}\t{index}\t{path}\t{began}\t{ended}\t{status}\t{received}\n")
                work.task_done()

        for _ in range(int(arguments.get("concurrency", 1))):
            threading.Thread(target=worker, daemon=True).start()
        for index, line in enumerate(lines):
            parts = line.split("\t")
            if parts[0] == "wait":
                work.join()
                idle.wait()
                if number == 0:
                    open(parts[1] + ".reached", "w").close()
                appears(parts[1])
            elif len(parts) == 4:
                work.put((index, *parts))
        work.join()
        channel.close()

    threads = [threading.Thread(target=connection, args=(n,)) for n in range(idle.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()


if __name__ == "__main__":
    given = fields(" ".join(sys.argv[2:]))
    {"server": serve, "client": drive}[sys.argv[1]](given)
