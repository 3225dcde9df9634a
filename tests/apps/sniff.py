"""The first sequence number of each direction of each new TCP connection of the loopback, one a line:

    source port, destination port, sequence number of the first byte

It sees packets with SYN only (a packet filter in the kernel), so that it costs the traffic nothing. It must never send.
"""

import ctypes
import socket
import struct
import sys

# ethertype IPv4, protocol TCP, flag SYN; offsets from the start of the Ethernet header.
PROGRAM = [
    (0x28, 0, 0, 12),
    (0x15, 0, 6, 0x0800),
    (0x30, 0, 0, 23),
    (0x15, 0, 4, 6),
    (0xB1, 0, 0, 14),
    (0x50, 0, 0, 27),
    (0x45, 0, 1, 0x02),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
]
SO_ATTACH_FILTER = 26
ETH_P_IP = 0x0800

code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in PROGRAM))
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(PROGRAM), ctypes.addressof(code)))
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
sock.bind(("lo", ETH_P_IP))
out = open(sys.argv[1], "w", buffering=1)
print("sniffing", flush=True)
while True:
    packet = sock.recv(128)
    at = 14 + (packet[14] & 15) * 4
    source, destination, sequence = struct.unpack_from("!HHI", packet, at)
    out.write("%d %d %d\n" % (source, destination, (sequence + 1) & 0xFFFFFFFF))
