#!/usr/bin/env python3
"""Tests the chat example: rooms, nicknames and the rate limit.

usage: chat.py HOST:PORT
"""

import socket
import sys
import time


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    with join(host, port, "Ada") as ada:
        with join(host, port, "Bob") as bob:
            assert read_line(ada) == "* Bob is here"
            bob.sendall(b"hel")
            bob.sendall(b"lo\nhow are you?\r\n")
            assert read_line(ada) == "Bob: hello"
            assert read_line(ada) == "Bob: how are you?"
            ada.sendall(b"fine\n/who\n")
            assert read_line(bob) == "Ada: fine"
            assert read_line(ada) == "* lobby: Ada, Bob"
            bob.sendall(b"/join games\n")
            assert read_line(bob) == "* you are in games"
            assert read_line(ada) == "* Bob has left"
            ada.sendall(b"/nick Bob\n/nick Eve\n")
            assert read_line(ada) == "* Bob is in use: choose another nickname"
            assert read_line(ada) == "* you are Eve"
            bob.sendall(b"/quit\n")
            assert read_line(bob) == "* goodbye"
            # The nickname is free, although Bob's client has not closed its side.
            with join(host, port, "Bob"):
                assert read_line(ada) == "* Bob is here"
            assert read_line(ada) == "* Bob has left"
        check_rate_limit(host, port)
        check_hangup(host, port)
    print("ok: rooms, nicknames, the rate limit and hang-ups of the chat")


def check_rate_limit(host, port):
    """Sends 25 lines at once: 9 pass (the nickname was the first), then 5 each second."""
    with join(host, port, "Flood") as flood:
        with join(host, port, "Reader") as reader:
            assert read_line(flood) == "* Reader is here"
            begun = time.monotonic()
            flood.sendall(b"".join(b"%d\n" % number for number in range(25)))
            for number in range(25):
                line = read_line(reader)
                while line.startswith("*"):
                    line = read_line(reader)
                assert line == f"Flood: {number}", line
            took = time.monotonic() - begun
            assert took > 2, f"the lines came within {took} s"


def check_hangup(host, port):
    """If a client leaves while its lines wait for credit, the server drops these lines."""
    with join(host, port, "Witness") as witness:
        flood = join(host, port, "Hasty")
        assert read_line(witness) == "* Hasty is here"
        flood.sendall(b"line\n" * 200)
        flood.close()
        lines = 0
        while (line := read_line(witness)) != "* Hasty has left":
            assert line == "Hasty: line", line
            lines += 1
        assert lines < 100, f"{lines} lines were delivered after the client left"


def join(host, port, name):
    stream = socket.create_connection((host, int(port)), timeout=30)
    assert read_line(stream) == "what is your name?"
    stream.sendall(name.encode() + b"\n")
    assert read_line(stream) == f"* welcome, {name}: you are in lobby"
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
