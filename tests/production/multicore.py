#!/usr/bin/env python3
"""Measures the example `multicore` with one reactor and with two, under the example `load`.

Usage: multicore.py PATH_OF_MULTICORE PATH_OF_LOAD [ROUNDS [SECONDS]]

    one core:   reactor and load generator share the first core
    two cores:  a reactor and a load generator on each of the first two cores

Each core has the same work in both cases. So the ratio of the throughputs is the speed-up by a
second core, with the clients on the same cores as the server. Two ways to share the connections are
measured: SO_REUSEPORT, and one acceptor that hands them out. The cases alternate in each round, and
the medians are printed.

Two facts do not depend on the other programs of the machine, so the script checks them:

* each frame that a client counted was answered by one of the reactors;
* the numbers of connections of two reactors behind one acceptor differ by at most one.

The CPU time of a frame is the time that the kernel accounts to the threads of the reactors
(/proc/PID/task/TID/schedstat). On a busy machine it grows a little, because caches are shared.
"""

import os
import re
import statistics
import subprocess
import sys

CONNECTIONS = 100
TIMEOUT = 60


class Run:
    """One run of a server and its load generators."""

    def __init__(self, programs, share, cores, seconds):
        multicore, load = programs
        pinned = ",".join(map(str, cores))
        server = subprocess.Popen(
            ["taskset", "-c", pinned, multicore, "--share", share, "--listen", "127.0.0.1:0",
             "--threads", str(len(cores))], stdout=subprocess.PIPE, text=True)
        addr = server.stdout.readline().split()[1]
        before = cpu_seconds(server.pid)
        clients = [subprocess.Popen(
            ["taskset", "-c", str(core), load, addr, "--connections", str(CONNECTIONS),
             "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True) for core in cores]
        outputs = [client.communicate(timeout=seconds + TIMEOUT)[0] for client in clients]
        assert not any(client.returncode for client in clients), outputs
        cpu = cpu_seconds(server.pid) - before
        server.terminate()
        output = server.communicate(timeout=TIMEOUT)[0]
        assert server.returncode == 0, output
        reactors = re.findall(r"reactor \d+: (\d+) connections, (\d+) frames", output)
        assert len(reactors) == len(cores), output
        self.connections = [int(connections) for connections, _ in reactors]
        frames = [int(frames) for _, frames in reactors]
        assert sum(self.connections) == CONNECTIONS * len(cores), output
        rates = [int(re.search(r"(\d+) messages per second", it)[1]) for it in outputs]
        self.rate = sum(rates)
        # The generators count only after a warm-up, so the server has answered more frames.
        assert sum(frames) >= self.rate * seconds, f"{frames} frames, {self.rate} a second"
        self.micros_per_frame = cpu / sum(frames) * 1e6
        # Excess of the frames of the busiest reactor over an equal share, relative to that share.
        self.excess = max(frames) * len(frames) / sum(frames) - 1


def cpu_seconds(pid):
    """Returns the CPU time of all threads of a process."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            total += int(file.read().split()[0])
    return total / 1e9


def main(multicore, load, rounds=5, seconds=3):
    cores = sorted(os.sched_getaffinity(0))[:2]
    assert len(cores) == 2, "this machine has one core"
    cases = {
        "one reactor": ("reuseport", cores[:1]),
        "two reactors, SO_REUSEPORT": ("reuseport", cores),
        "two reactors, one acceptor": ("handout", cores),
    }
    runs = {name: [] for name in cases}
    for _ in range(int(rounds)):
        for name, (share, pinned) in cases.items():
            runs[name].append(Run((multicore, load), share, pinned, int(seconds)))
    for run in runs["two reactors, one acceptor"]:
        assert max(run.connections) - min(run.connections) <= 1, run.connections
    one = statistics.median(run.rate for run in runs["one reactor"])
    cost = statistics.median(run.micros_per_frame for run in runs["one reactor"])
    print("case                        | frames/s | of one | server us/frame | of one "
          "| connections of the reactors | busiest reactor")
    for name, its in runs.items():
        rate = statistics.median(run.rate for run in its)
        micros = statistics.median(run.micros_per_frame for run in its)
        excess = statistics.median(run.excess for run in its)
        connections = ", ".join("/".join(map(str, run.connections)) for run in its[:3])
        print(f"{name:27} | {rate:8.0f} | {rate / one:6.2f} | {micros:15.2f} "
              f"| {micros / cost:6.2f} | {connections:27} | +{excess:.0%} frames")


main(*sys.argv[1:])
