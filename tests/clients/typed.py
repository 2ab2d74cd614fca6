#!/usr/bin/env python3
"""Tests the typed example: messages as lines of JSON, and invalid ones.

usage: typed.py HOST:PORT
"""

import json
import socket
import sys


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    stream = socket.create_connection((host, int(port)), timeout=60)
    replies = stream.makefile("r", encoding="utf-8", newline="\n")

    def ask(line):
        stream.sendall(line + b"\n")
        return json.loads(replies.readline())

    def request(**fields):
        return ask(json.dumps(fields, ensure_ascii=False).encode())

    assert request(type="query", sensor="roof") == {"type": "unknown"}
    for count, celsius in enumerate([21.5, -3.25, 1e300], 1):
        reply = request(type="report", sensor="Dach \u00e4\n", celsius=celsius)
        assert reply == {"type": "stored", "reports": count}, reply
    reply = request(type="query", sensor="Dach \u00e4\n")
    assert reply == {"type": "reading", "celsius": 1e300, "reports": 3}, reply

    # Many messages in one write, of which the last one arrives in two parts.
    line = b'{"type":"report","sensor":"a","celsius":1}\n'
    stream.sendall(line * 99 + line[:10])
    for count in range(1, 100):
        assert json.loads(replies.readline())["reports"] == count
    stream.sendall(line[10:])
    assert json.loads(replies.readline())["reports"] == 100

    # Invalid messages get a reply, and the connection stays open.
    for line, reason in [
        (b"", "EOF while parsing"),
        (b"{", "EOF while parsing"),
        (b"\xff", "expected value"),
        (b'{"type":"report","sensor":"a"}', "missing field `celsius`"),
        (b'{"type":"report","sensor":"a","celsius":"hot"}', "invalid type: string"),
        (b'{"type":"reset"}', "unknown variant `reset`"),
        (b'{"type":"query","sensor":"a","more":1}', "unknown field `more`"),
        (b"[" * 4000, "invalid type: sequence"),
        (b'{"sensor":' + b"[" * 4000, "recursion limit exceeded"),
    ]:
        reply = ask(line)
        assert reply["type"] == "invalid" and reason in reply["reason"], (line[:50], reply)
    assert request(type="query", sensor="a")["reports"] == 100

    # A line that is too long gets a reply too, but ends the connection.
    reply = ask(b"x" * 5000)
    assert reply["type"] == "invalid" and "exceeds the limit of 4096" in reply["reason"], reply
    assert replies.readline() == ""
    print("ok: typed messages")


if __name__ == "__main__":
    main()
