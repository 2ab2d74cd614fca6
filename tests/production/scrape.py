#!/usr/bin/env python3
"""Lets Prometheus scrape the example `watched`, and compares its values with the traffic.

Usage: scrape.py PATH_OF_WATCHED

PROMETHEUS and PROMTOOL name the programs, if they are not in the path.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

CONNECTIONS = 3
FRAMES = 100
PAYLOAD = b"abc"


def listening(server, name):
    line = server.stdout.readline()
    assert line.startswith(f"listening {name} "), line
    return line.split()[2]


def send_frames(addr):
    host, port = addr.split(":")
    for _ in range(CONNECTIONS):
        with socket.create_connection((host, int(port)), timeout=20) as client:
            frame = struct.pack(">I", len(PAYLOAD)) + PAYLOAD
            for _ in range(FRAMES):
                client.sendall(frame)
                assert client.recv(len(frame), socket.MSG_WAITALL) == frame


def value(prometheus, query):
    """Returns the value of a query; None if Prometheus has none yet."""
    url = f"http://{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            result = json.load(response)["data"]["result"]
    except (urllib.error.URLError, ConnectionError):
        return None
    return float(result[0]["value"][1]) if result else None


def main(program):
    server = subprocess.Popen([program, "--echo", "127.0.0.1:0", "--http", "127.0.0.1:0"],
                              stdout=subprocess.PIPE, text=True)
    echo, http = listening(server, "echo"), listening(server, "http")
    send_frames(echo)
    # A scrape adds one connection and one frame, so it does not change the difference of the two
    # counters. Each echo client adds one connection and FRAMES frames.
    query = "unstick_received_frames_total - unstick_accepted_connections_total"
    expected = CONNECTIONS * (FRAMES - 1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        web = f"127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/prometheus.yml", "w") as file:
            file.write(f"scrape_configs: [{{job_name: echo, scrape_interval: 1s, "
                       f"static_configs: [{{targets: ['{http}']}}]}}]\n")
        prometheus = subprocess.Popen(
            [os.environ.get("PROMETHEUS", "prometheus"), f"--config.file={folder}/prometheus.yml",
             f"--storage.tsdb.path={folder}/data", f"--web.listen-address={web}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            while (counted := value(web, query)) != expected:
                assert time.monotonic() < deadline, f"{counted} and not {expected} frames"
                time.sleep(0.2)
        finally:
            prometheus.terminate()
            prometheus.wait()
    metrics = urllib.request.urlopen(f"http://{http}/metrics", timeout=5).read()
    promtool = os.environ.get("PROMTOOL", "promtool")
    checked = subprocess.run([promtool, "check", "metrics"], input=metrics, capture_output=True)
    assert checked.returncode == 0 and not checked.stdout + checked.stderr, checked
    server.terminate()
    assert server.wait(20) == 0
    print(f"prometheus: {CONNECTIONS * FRAMES} frames counted, promtool reports no problem")


main(sys.argv[1])
