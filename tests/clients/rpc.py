#!/usr/bin/env python3
"""Tests the rpc example: pipelined requests, responses in another order, and a silent server.

usage: rpc.py HOST:PORT PATH-OF-RPC
"""

import socket
import struct
import subprocess
import sys


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    stream = socket.create_connection((host, int(port)), timeout=30)
    texts = ["sleep 200", "add 1 2", "add 1", "nothing", "echo a b"]
    stream.sendall(b"".join(request(7 * index, text) for index, text in enumerate(texts)))
    responses = [read_response(stream) for _ in texts]
    assert responses == [
        (7, 0, "3"),
        (14, 1, "add needs two numbers"),
        (21, 1, "unknown request"),
        (28, 0, "a b"),
        (0, 0, "slept"),
    ], responses
    stream.sendall(struct.pack(">I", 3) + b"abc")
    try:
        assert stream.recv(1) == b"", "a request without an id was answered"
    except ConnectionResetError:
        pass
    check_silent_server(sys.argv[2])
    print("ok: five pipelined requests of the RPC server, and a server that never answers")


def check_silent_server(program):
    """After the timeout, the client ends at once: it resets the connection. A close would wait for
    the server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        addr = "%s:%d" % server.getsockname()
        command = [program, "--timeout", "100", addr, "echo hello"]
        client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        stream, _ = server.accept()
        stream.settimeout(30)
        try:
            while stream.recv(100):
                pass
            raise AssertionError("the client closed the connection, and waits for the server")
        except ConnectionResetError:
            pass
        output, errors = client.communicate(timeout=30)
        assert output == "echo hello: error: no response in time\n", output
        assert (errors, client.returncode) == ("rpc: a request failed\n", 1), errors


def request(number, text):
    payload = struct.pack(">Q", number) + text.encode()
    return struct.pack(">I", len(payload)) + payload


def read_response(stream):
    (length,) = struct.unpack(">I", read(stream, 4))
    payload = read(stream, length)
    number, status = struct.unpack(">QB", payload[:9])
    return number, status, payload[9:].decode()


def read(stream, length):
    data = b""
    while len(data) < length:
        piece = stream.recv(length - len(data))
        if not piece:
            raise EOFError("the server closed the connection")
        data += piece
    return data


if __name__ == "__main__":
    main()
