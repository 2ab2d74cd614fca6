#!/usr/bin/env python3
"""Tests the echo example with an independent client.

usage: echo.py TCP-HOST:PORT UDP-HOST:PORT        (TCP with u32 framing)

Uses only Python's socket and struct. Exits with status 0 if every echo equals its payload.
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
    echoes_frames_of_several_sizes(tcp)
    echoes_glued_and_cut_frames(tcp)
    too_long_frame_closes_the_connection(tcp)
    half_closed_stream_gets_the_whole_echo(tcp)
    echoes_datagrams_of_several_sizes(udp)


def address(arg):
    host, port = arg.rsplit(":", 1)
    return host.strip("[]"), int(port)


def echoes_frames_of_several_sizes(addr):
    with connect(addr) as stream:
        for length in (0, 1, 65_536, FRAME_LEN_MAX):
            payload = os.urandom(length)
            stream.sendall(framed(payload))
            assert read_frame(stream) == payload, f"wrong echo of a frame of {length} bytes"
            print(f"ok: a frame of {length} bytes")


def echoes_glued_and_cut_frames(addr):
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
        print("ok: a frame in sends of one byte each")


def too_long_frame_closes_the_connection(addr):
    with connect(addr) as stream:
        stream.sendall(struct.pack(">I", FRAME_LEN_MAX + 1))
        assert stream.recv(1) == b"", "the server sent bytes instead of closing"
        print("ok: a frame of 1048577 bytes closes the connection")


def half_closed_stream_gets_the_whole_echo(addr):
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
        assert stream.recv(1) == b"", "the server sent more bytes than the echo"
        writer.join()
        print("ok: an echo of 10 MB after SHUT_WR")


def echoes_datagrams_of_several_sizes(addr):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(TIMEOUT_SECONDS)
        for length in (0, 1, 65_507):
            payload = os.urandom(length)
            udp.sendto(payload, addr)
            echo = udp.recvfrom(65_536)[0]
            assert echo == payload, f"wrong echo of a datagram of {length} bytes"
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
