"""A program that would harm who looks into it: libraries that are none, and records that are absurd.

    tls_hostile.py FOLDER    makes files in FOLDER, maps them as code, talks nonsense over sockets of its own, prints `ready`, waits

Nothing here knows that it is traced.
"""

import mmap
import os
import random
import socket
import ssl
import struct
import sys
import threading
import time


def own_libssl():
    with open("/proc/self/maps") as maps:
        return next(line.split()[5] for line in maps if "libssl" in line)


def absurd_sections(data):
    """Section headers that lie far outside, as many as there can be, each of the largest size."""
    data = bytearray(data)
    struct.pack_into("<Q", data, 0x28, 1 << 62)
    struct.pack_into("<HHH", data, 0x3A, 64, 0xFFFF, 0xFFFE)
    return bytes(data)


def many_symbols(path):
    """A file whose symbol table says a million symbols, all with one long name."""
    count, names = 1_000_000, b"\0" + b"SSL_get_client_random" * 4000 + b"\0"
    symbols = struct.pack("<IBBHQQ", 1, 0x12, 0, 1, 0x1000, 64) * count
    head = bytearray(64)
    head[:20] = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HH", 3, 62)
    struct.pack_into("<I", head, 20, 1)
    base = 4096
    sections = [
        struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        struct.pack("<IIQQQQIIQQ", 0, 11, 2, 0, base, len(symbols), 2, 1, 8, 24),
        struct.pack("<IIQQQQIIQQ", 0, 3, 2, 0, base + len(symbols), len(names), 0, 0, 1, 0),
    ]
    struct.pack_into("<Q", head, 0x28, base + len(symbols) + len(names))
    struct.pack_into("<HHHHHH", head, 0x34, 64, 56, 0, 64, len(sections), 0)
    with open(path, "wb") as file:
        file.write(head)
        file.seek(base)
        file.write(symbols + names + b"".join(sections))


def files(folder):
    real = open(own_libssl(), "rb").read()
    contents = {
        "libssl-noise.so": random.Random(7).randbytes(100_000),
        "libssl-empty.so": b"\x7fELF",
        "libssl-truncated.so": real[: len(real) // 3],
        "libssl-headless.so": real[:64],
        "libssl-absurd.so": absurd_sections(real),
        "libssl-shrinking.so": real,
        "libssl-zeroed.so": real[:4096] + bytes(len(real) - 4096),
    }
    for name, content in contents.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    many_symbols(os.path.join(folder, "libssl-million.so"))
    huge = os.path.join(folder, "libssl-huge.so")
    with open(huge, "wb") as file:
        file.write(real)
        file.truncate(2 << 30)
    return [*contents, "libssl-million.so", "libssl-huge.so"]


def shrink(path, size):
    """Cuts a file and makes it long again, all the time."""
    while True:
        os.truncate(path, 100)
        os.truncate(path, size)
        time.sleep(0.001)


def client_hello():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def talk(listener, pieces):
    """Over a connection of its own, in both directions."""
    one = socket.create_connection(listener.getsockname())
    other, _ = listener.accept()
    for piece in pieces:
        one.sendall(piece)
        other.recv(1 << 20)
        other.sendall(piece)
        one.recv(1 << 20)
    one.close()
    other.close()


def nonsense():
    hello = client_hello()
    listener = socket.create_server(("127.0.0.1", 0))
    noise = random.Random(1)
    for _ in range(50):
        # The same hello over and over, and what cannot follow it.
        talk(listener, [hello, b"\x17\x03\x03\xff\xff" + noise.randbytes(2000)])
        talk(listener, [hello, b"\x17\x03\x03\x40\x11" + noise.randbytes(0x4011)])
        talk(listener, [hello[:5], hello[5:], b"\x16\x03\x03\x00\x00" * 400])
        talk(listener, [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise.randbytes(1500)])
        talk(listener, [b"\x17\x03\x03\x00\x20" + noise.randbytes(32)] * 20)


def main(folder):
    # Only what may be executed is looked at as a library.
    held = []
    for name in files(folder):
        with open(os.path.join(folder, name), "r+b") as file:
            held.append(mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC))
    shrinking = os.path.join(folder, "libssl-shrinking.so")
    threading.Thread(target=shrink, args=(shrinking, os.path.getsize(shrinking)), daemon=True).start()
    for _ in range(4):
        nonsense()
        time.sleep(0.3)
    print("ready", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
