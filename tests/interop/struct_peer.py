#!/usr/bin/env python3
"""Tests echo servers with length prefixes from Python's struct, in glued and cut frames.

usage: struct_peer.py NAME=HOST:PORT...        (NAME is the framing of the echo server)
"""

import socket
import struct
import sys

FORMATS = {
    "u8": ">B",
    "u16": ">H",
    "u32": ">I",
    "u64": ">Q",
    "u16-le": "<H",
    "u32-le": "<I",
    "u64-le": "<Q",
}


def payloads(longest):
    """Yields 1,000 payloads of 0 to 96 bytes, then one of `longest` bytes."""
    for index in range(1000):
        yield bytes(97 + byte % 26 for byte in range(index % 97))
    yield b"x" * longest


def receive(stream, length):
    parts = b""
    while len(parts) < length:
        part = stream.recv(length - len(parts))
        assert part, "the server closed the connection early"
        parts += part
    return parts


def check(name, addr):
    head = struct.Struct(FORMATS[name])
    sent = list(payloads(255 if name == "u8" else 50_000))
    with socket.create_connection(addr, timeout=30) as stream:
        frames = [head.pack(len(payload)) + payload for payload in sent]
        stream.sendall(b"".join(frames))
        for byte in frames[7]:
            stream.sendall(bytes([byte]))
        for payload in [*sent, sent[7]]:
            (length,) = head.unpack(receive(stream, head.size))
            assert receive(stream, length) == payload
    print(f"ok: {name}, {len(sent) + 1} frames")


for arg in sys.argv[1:]:
    name, addr = arg.split("=")
    host, port = addr.rsplit(":", 1)
    if name in FORMATS:
        check(name, (host, int(port)))
