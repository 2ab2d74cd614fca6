#!/usr/bin/env python3
"""Talks to the echo example as a client that knows nothing of the crate.

usage: echo.py TCP-HOST:PORT UDP-HOST:PORT        (TCP with u32 framing)

Uses only Python's socket and struct. Ends with 0 if everything came back as it went.
"""

import os
import socket
import struct
import sys
import threading

FRAME_LEN_MAX = 1 << 20
TIMEOUT_SECONDS = 30


def main():
    tcp, udp = (address(arg) for arg in sys.argv[1:3])
    frames_come_back_whole(tcp)
    glued_and_cut_frames_come_back_whole(tcp)
    an_over_long_frame_closes_its_connection(tcp)
    an_ended_stream_gets_its_whole_answer(tcp)
    datagrams_come_back_whole(udp)


def address(arg):
    host, port = arg.rsplit(":", 1)
    return host.strip("[]"), int(port)


def frames_come_back_whole(addr):
    with connect(addr) as stream:
        for length in (0, 1, 65_536, FRAME_LEN_MAX):
            payload = os.urandom(length)
            stream.sendall(framed(payload))
            assert read_frame(stream) == payload, f"a frame of {length} bytes"
            print(f"ok: a frame of {length} bytes")


def glued_and_cut_frames_come_back_whole(addr):
    with connect(addr) as stream:
        payloads = [os.urandom(n % 97) for n in range(10_000)]
        writer = threading.Thread(
            target=stream.sendall, args=(b"".join(map(framed, payloads)),)
        )
        writer.start()
        for payload in payloads:
            assert read_frame(stream) == payload
        writer.join()
        print("ok: 10000 frames in one send")
        for byte in framed(b"one frame"):
            stream.sendall(bytes([byte]))
        assert read_frame(stream) == b"one frame"
        print("ok: a frame in sends of one byte")


def an_over_long_frame_closes_its_connection(addr):
    with connect(addr) as stream:
        stream.sendall(struct.pack(">I", FRAME_LEN_MAX + 1))
        assert stream.recv(1) == b"", "the server closes, and says nothing"
        print("ok: a header of 1048577 bytes closes the connection")


def an_ended_stream_gets_its_whole_answer(addr):
    with connect(addr) as stream:
        payload = os.urandom(1_000_000)

        def write():
            for _ in range(10):
                stream.sendall(framed(payload))
            stream.shutdown(socket.SHUT_WR)

        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(10):
            assert read_frame(stream) == payload
        assert stream.recv(1) == b"", "the server ends too"
        writer.join()
        print("ok: 10 MB after SHUT_WR")


def datagrams_come_back_whole(addr):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(TIMEOUT_SECONDS)
        for length in (0, 1, 65_507):
            payload = os.urandom(length)
            udp.sendto(payload, addr)
            assert udp.recvfrom(65_536)[0] == payload, f"a datagram of {length} bytes"
            print(f"ok: a datagram of {length} bytes")


def connect(addr):
    return socket.create_connection(addr, timeout=TIMEOUT_SECONDS)


def framed(payload):
    return struct.pack(">I", len(payload)) + payload


def read_frame(stream):
    (length,) = struct.unpack(">I", read_exactly(stream, 4))
    return read_exactly(stream, length)


def read_exactly(stream, length):
    received = bytearray()
    while len(received) < length:
        piece = stream.recv(length - len(received))
        if not piece:
            raise EOFError(f"the stream ended {length - len(received)} bytes early")
        received += piece
    return bytes(received)


if __name__ == "__main__":
    main()
