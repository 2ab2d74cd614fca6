#!/usr/bin/env python3
"""Tests the chat example: each of two clients receives the lines of the other client.

usage: chat.py HOST:PORT
"""

import socket
import sys


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    with join(host, port, "Ada") as ada:
        with join(host, port, "Bob") as bob:
            assert read_line(ada) == "Bob is here"
            bob.sendall(b"hel")
            bob.sendall(b"lo\nhow are you?\r\n")
            assert read_line(ada) == "Bob: hello"
            assert read_line(ada) == "Bob: how are you?"
            ada.sendall(b"fine\n")
            assert read_line(bob) == "Ada: fine"
        assert read_line(ada) == "Bob has left"
    print("ok: two clients received each other's lines")


def join(host, port, name):
    stream = socket.create_connection((host, int(port)), timeout=30)
    assert read_line(stream) == "what is your name?"
    stream.sendall(name.encode() + b"\n")
    return stream


def read_line(stream):
    line = b""
    while not line.endswith(b"\n"):
        byte = stream.recv(1)
        if not byte:
            raise EOFError("the server closed the connection")
        line += byte
    return line[:-1].decode()


if __name__ == "__main__":
    main()
