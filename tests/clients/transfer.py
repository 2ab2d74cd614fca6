#!/usr/bin/env python3
"""Tests the transfer example: as a sender against its receiver, and as a receiver against its
sender. Both cut the connection in the middle of a file.

usage: transfer.py PROGRAM
"""

import hashlib
import os
import pathlib
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

DATA = random.Random(7).randbytes(3_000_017)
BODY_LEN_MAX = 64 * 1024


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        check_receiver(program, pathlib.Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        check_sender(program, pathlib.Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        check_both(program, pathlib.Path(folder))
    print("ok: files of the transfer example, with cuts, wrong digests and wrong names")


def check_receiver(program, folder):
    with Receiver(program, folder) as addr:
        # The first connection is reset, after the receiver has stored a part of the file.
        stream = Stream(socket.create_connection(addr, timeout=60))
        stream.send(b"O", offer("a.bin", DATA))
        assert stream.receive() == (b"R", struct.pack(">Q", 0))
        stream.send_data(DATA[:1_000_000])
        partial = folder / f".a.bin.{hashlib.sha256(DATA).hexdigest()}.part"
        deadline = time.monotonic() + 60
        while partial.stat().st_size < 500_000:
            assert time.monotonic() < deadline, "the receiver stores nothing"
            os.sched_yield()
        stream.reset()

        # The second connection stays open, as if the receiver had not noticed the loss. The third
        # connection replaces it.
        silent = Stream(socket.create_connection(addr, timeout=60))
        silent.send(b"O", offer("a.bin", DATA))
        kind, body = silent.receive()
        assert kind == b"R" and struct.unpack(">Q", body)[0] >= 500_000, (kind, body)
        stream = Stream(socket.create_connection(addr, timeout=60))
        stream.send(b"O", offer("a.bin", DATA))
        kind, body = stream.receive()
        offset = struct.unpack(">Q", body)[0]
        assert kind == b"R" and 500_000 <= offset <= 1_000_000, (kind, offset)
        assert silent.ends()
        stream.send_data(DATA[offset:])
        assert stream.receive() == (b"S", b"")
        assert (folder / "a.bin").read_bytes() == DATA
        assert not partial.exists()

        # The same file again: nothing is sent. Then an empty file, on the same connection.
        stream.send(b"O", offer("a.bin", DATA))
        assert stream.receive() == (b"S", b"")
        stream.send(b"O", offer("empty", b""))
        assert stream.receive() == (b"S", b"")
        assert (folder / "empty").read_bytes() == b""

        refused(addr, "a.bin", b"other", b"another file of this name exists")
        for name in ["../a", "/a", ".a", "", "a\0b", "a\\b", "x" * 181, ".."]:
            refused(addr, name, b"hello", b"file name")
        refused(addr, "long", bytes(5_000_001), b"5000001 bytes exceed the limit of 5000000")

        # Bytes that do not have the digest of the offer are removed.
        stream = Stream(socket.create_connection(addr, timeout=60))
        stream.send(b"O", offer("b.bin", b"12345"))
        assert stream.receive()[0] == b"R"
        stream.send_data(b"12346")
        assert stream.receive() == (b"E", b"the digest of the received bytes differs")
        assert stream.ends()

        # More bytes than were offered, and messages at the wrong time.
        stream = Stream(socket.create_connection(addr, timeout=60))
        stream.send(b"O", offer("c.bin", b"12345"))
        assert stream.receive()[0] == b"R"
        stream.send_data(b"123456")
        assert stream.receive() == (b"E", b"more bytes than were offered")
        for kind, body in [(b"D", b"12345"), (b"S", b""), (b"R", bytes(8))]:
            stream = Stream(socket.create_connection(addr, timeout=60))
            stream.send(kind, body)
            assert stream.receive() == (b"E", b"this message is not expected now")
        for kind, body in [(b"X", b""), (b"O", b"short"), (b"R", b"1234567")]:
            stream = Stream(socket.create_connection(addr, timeout=60))
            stream.send(kind, body)
            assert stream.receive()[0] == b"E"
        stream = Stream(socket.create_connection(addr, timeout=60))
        stream.socket.sendall(b"D" + struct.pack(">I", BODY_LEN_MAX + 1))
        assert stream.ends()
        names = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
        assert names == ["a.bin", "empty"], names


def refused(addr, name, data, reason):
    stream = Stream(socket.create_connection(addr, timeout=60))
    stream.send(b"O", offer(name, data))
    kind, body = stream.receive()
    assert kind == b"E" and reason in body, (name, kind, body)
    assert stream.ends()


def check_sender(program, folder):
    (folder / "a.bin").write_bytes(DATA)
    (folder / "b.txt").write_bytes(b"hello")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(60)
    addr = "%s:%d" % listener.getsockname()
    sender = subprocess.Popen(
        [program, addr, folder / "a.bin", folder / "b.txt"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # The first connection is reset in the middle, and the second one ends with a FIN.
    received = b""
    for cut in ["reset", "fin"]:
        stream = Stream(listener.accept()[0])
        assert stream.receive() == (b"O", offer("a.bin", DATA))
        stream.send(b"R", struct.pack(">Q", len(received)))
        enough = len(received) + 900_000
        while len(received) < enough:
            kind, body = stream.receive()
            assert kind == b"D" and 0 < len(body) <= BODY_LEN_MAX, (kind, len(body))
            received += body
        stream.reset() if cut == "reset" else stream.socket.close()
    stream = Stream(listener.accept()[0])
    assert stream.receive() == (b"O", offer("a.bin", DATA))
    stream.send(b"R", struct.pack(">Q", len(received)))
    while len(received) < len(DATA):
        kind, body = stream.receive()
        assert kind == b"D", kind
        received += body
    assert received == DATA
    stream.send(b"S", b"")
    assert stream.receive() == (b"O", offer("b.txt", b"hello"))
    stream.send(b"S", b"")
    assert stream.ends()
    stream.socket.close()
    out, errors = sender.communicate(timeout=60)
    assert sender.returncode == 0, errors
    assert out == f"stored a.bin: {len(DATA)} bytes\nstored b.txt: 5 bytes\n", out
    assert errors.count("connecting again in") == 2, errors
    assert errors.count("resuming a.bin at") == 2, errors


def check_both(program, folder):
    (folder / "out").mkdir()
    (folder / "a.bin").write_bytes(DATA)
    with Receiver(program, folder / "out") as (host, port):
        send = [program, f"{host}:{port}", folder / "a.bin"]
        assert subprocess.run(send, timeout=60, check=True, stdout=subprocess.DEVNULL)
        assert (folder / "out" / "a.bin").read_bytes() == DATA
        (folder / "a.bin").write_bytes(b"other")
        failed = subprocess.run(send, timeout=60, capture_output=True, text=True)
        reason = "a.bin was refused: another file of this name exists\n"
        assert failed.returncode == 1 and failed.stderr.endswith(reason), failed
        assert failed.stderr.count("\n") == 1, failed


class Receiver:
    def __init__(self, program, folder):
        self.process = subprocess.Popen(
            [program, "--receive", folder, "--listen", "127.0.0.1:0", "--len-max", "5000000"],
            stdout=subprocess.PIPE,
            env={**os.environ, "RUST_LOG": "off"},
            text=True,
        )

    def __enter__(self):
        host, port = self.process.stdout.readline().split()[-1].rsplit(":", 1)
        return host, int(port)

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0


def offer(name, data):
    return struct.pack(">Q", len(data)) + hashlib.sha256(data).digest() + name.encode()


class Stream:
    def __init__(self, connection):
        self.socket = connection
        connection.settimeout(60)

    def send(self, kind, body):
        self.socket.sendall(kind + struct.pack(">I", len(body)) + body)

    def send_data(self, data):
        for begin in range(0, len(data), BODY_LEN_MAX):
            self.send(b"D", data[begin : begin + BODY_LEN_MAX])

    def receive(self):
        header = self.read(5)
        return header[:1], self.read(struct.unpack(">I", header[1:])[0])

    def read(self, length):
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise EOFError("the peer closed the connection")
            data += piece
        return data

    def ends(self):
        """Returns true if the peer ends the connection, and sends nothing before."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


if __name__ == "__main__":
    main()
