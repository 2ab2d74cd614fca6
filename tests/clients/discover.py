#!/usr/bin/env python3
"""Tests the discover example with an instance in Python.

usage: discover.py PROGRAM
"""

import socket
import subprocess
import sys

GROUP, PORT = "239.255.77.77", 7078


def main():
    command = [sys.argv[1], "--name", "rust", "--port", str(PORT), "--interface", "127.0.0.1"]
    program = subprocess.Popen([*command, "--seconds", "8"], stdout=subprocess.PIPE, text=True)
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    receiver.bind(("", PORT))
    group = socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1")
    receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    receiver.settimeout(30)
    while receiver.recv(1000) != b"unstick-discover rust":
        pass
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    interface = socket.inet_aton("127.0.0.1")
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
    for message in [b"nonsense", b"unstick-discover bad name", b"unstick-discover python"]:
        sender.sendto(message, (GROUP, PORT))
    address = f"127.0.0.1:{sender.getsockname()[1]}"
    assert program.stdout.readline() == f"found python at {address}\n"
    # The instance in Python sends nothing more.
    assert program.stdout.readline() == f"lost python at {address}\n"
    assert program.wait(30) == 0
    print("ok: an instance in Python was found and lost")


if __name__ == "__main__":
    main()
