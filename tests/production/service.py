#!/usr/bin/env python3
"""Runs the example `handover` as a service manager does, and lets it crash.

Usage: service.py PATH_OF_HANDOVER

This script is the service manager: it receives the reports of sd_notify(3), keeps the sockets that
the server stores (FDSTORE=1), and passes them to the next process (LISTEN_FDS, sd_listen_fds(3)).
Connects and datagrams that arrive between a crash and the next start must be answered.
"""

import array
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile

TIMEOUT = 20
WATCHDOG_SECONDS = 0.2
# Runs a program with inherited sockets: sys.argv is the program, its arguments, `--` and the
# sockets. The first inherited descriptor is 3.
LAUNCH = """
import os, sys
at = sys.argv.index("--")
for place, fd in enumerate(sys.argv[at + 1:]):
    os.dup2(int(fd), 3 + place)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[1], sys.argv[1:at])
"""


class Manager:
    def __init__(self, program, folder):
        self.program = program
        self.folder = folder
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(f"{folder}/notify")
        self.notify.settimeout(TIMEOUT)
        self.stored = {}

    def start(self):
        """Starts a process with the stored sockets."""
        env = {**os.environ, "NOTIFY_SOCKET": f"{self.folder}/notify",
               "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6))}
        # Numbers from 10 on, so that no descriptor is overwritten before it is passed.
        fds = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in self.stored.values()]
        if fds:
            env["LISTEN_FDS"] = str(len(fds))
            env["LISTEN_FDNAMES"] = ":".join(self.stored)
        command = [self.program, "--listen", "127.0.0.1:0", "--udp", "127.0.0.1:0",
                   "--control", f"{self.folder}/control"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *command, "--", *map(str, fds)],
            env=env, pass_fds=fds, stdout=subprocess.PIPE, text=True)
        for fd in fds:
            os.close(fd)
        addrs = []
        while not (line := self.process.stdout.readline()).startswith("ready"):
            assert line, f"the server ended with {self.process.wait()}"
            host, port = line.split()[-1].rsplit(":", 1)
            addrs.append((host, int(port)))
        return addrs

    def report(self):
        """Receives one report, and stores the socket that comes with it."""
        data, control, _, _ = self.notify.recvmsg(1024, socket.CMSG_SPACE(4))
        lines = dict(line.split("=", 1) for line in data.decode().splitlines())
        if "FDSTORE" in lines:
            [(level, kind, fds)] = control
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            [fd] = array.array("i", fds)
            former = self.stored.get(lines["FDNAME"])
            if former is not None:
                os.close(former)
            self.stored[lines["FDNAME"]] = fd
        return lines

    def until(self, name):
        """Receives reports until one has this name. Returns the names of all received reports."""
        names = []
        while name not in names:
            names += self.report()
        return names

    def end(self, number):
        self.process.send_signal(number)
        status = self.process.wait(TIMEOUT)
        self.process.stdout.close()
        return status


def connect(addr):
    stream = socket.create_connection(addr, TIMEOUT)
    stream.settimeout(TIMEOUT)
    return stream


def frame(payload):
    return struct.pack(">I", len(payload)) + payload


def expect(stream, payload):
    received = b""
    while len(received) < len(frame(payload)):
        part = stream.recv(1024)
        assert part, "the connection has ended"
        received += part
    assert received == frame(payload), received


def check(program, folder):
    manager = Manager(program, folder)
    addrs = manager.start()
    tcp, udp = addrs
    names = manager.until("READY")
    assert names.count("FDSTORE") == 2, names
    assert sorted(manager.stored) == ["service", "udp"], manager.stored
    with connect(tcp) as client:
        client.sendall(frame(b"before"))
        expect(client, b"before")
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.settimeout(TIMEOUT)
    datagrams.connect(udp)
    datagrams.send(b"before")
    assert datagrams.recv(100) == b"before"
    manager.until("WATCHDOG")
    manager.until("WATCHDOG")

    status = manager.end(signal.SIGKILL)
    assert status == -signal.SIGKILL, status
    waiting = [connect(tcp) for _ in range(20)]
    for number, client in enumerate(waiting):
        client.sendall(frame(b"while down %d" % number))
        datagrams.send(b"while down %d" % number)
    restarted = manager.start()
    assert restarted == addrs, f"the server moved from {addrs} to {restarted}"
    for number, client in enumerate(waiting):
        expect(client, b"while down %d" % number)
        assert datagrams.recv(100) == b"while down %d" % number
        client.close()
    manager.until("READY")

    status = manager.end(signal.SIGTERM)
    assert status == 0, status
    manager.until("STOPPING")
    print(f"service: {len(waiting)} connects and datagrams waited during a crash, all answered")


with tempfile.TemporaryDirectory() as temporary:
    check(sys.argv[1], temporary)
