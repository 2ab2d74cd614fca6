#!/usr/bin/env python3
"""Tests the chat example: each of two clients receives the lines of the other.

usage: chat.py HOST:PORT
"""

import socket
import sys


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    with join(host, port, "Ada") as ada:
        with join(host, port, "Bob") as bob:
            assert hear(ada) == "Bob is here"
            bob.sendall(b"hel")
            bob.sendall(b"lo\nhow are you?\r\n")
            assert hear(ada) == "Bob: hello"
            assert hear(ada) == "Bob: how are you?"
            ada.sendall(b"fine\n")
            assert hear(bob) == "Ada: fine"
        assert hear(ada) == "Bob has left"
    print("ok: two clients received each other's lines")


def join(host, port, name):
    stream = socket.create_connection((host, int(port)), timeout=30)
    assert hear(stream) == "what is your name?"
    stream.sendall(name.encode() + b"\n")
    return stream


def hear(stream):
    line = b""
    while not line.endswith(b"\n"):
        byte = stream.recv(1)
        if not byte:
            raise EOFError("the server closed the connection")
        line += byte
    return line[:-1].decode()


if __name__ == "__main__":
    main()
