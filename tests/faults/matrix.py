#!/usr/bin/env python3
"""Makes each system call of the `echo` example fail with each error that its manual names.

Usage: tests/faults/matrix.py ECHO [--short]

strace(1) injects the errors. At run time, a call fails once, every third time, or every time, while
clients use the server. When the errors have ended, a new client must be served within two seconds,
no descriptor may be lost, and the server must be idle. A call of the start-up fails once: the
server must end with an error message, or start to listen.

The output is a table with one row for each call. A row lists the errors after which the server
served new clients, and the errors with which the server ended. Calls that the server did not make
are left out.
"""

import contextlib
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

# Errors of calls at run time: those of the manual pages, section "ERRORS", on Linux.
NETWORK = "ENETDOWN EPROTO ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH EOPNOTSUPP ENETUNREACH"
RECEIVE = (
    "EAGAIN EBADF ECONNREFUSED EFAULT EINTR EINVAL ENOMEM ENOTCONN ENOTSOCK ECONNRESET ETIMEDOUT"
)
SEND = (
    "EACCES EAGAIN EALREADY EBADF ECONNRESET EDESTADDRREQ EFAULT EINTR EINVAL EISCONN EMSGSIZE "
    "ENOBUFS ENOMEM ENOTCONN ENOTSOCK EOPNOTSUPP EPIPE EPERM ENETDOWN ENETUNREACH EHOSTUNREACH"
)
RUN_TIME = {
    "epoll_wait": "EBADF EFAULT EINTR EINVAL",
    "accept4": "EAGAIN EBADF ECONNABORTED EFAULT EINTR EINVAL EMFILE ENFILE ENOBUFS ENOMEM "
    "ENOTSOCK EPERM ENOSR ESOCKTNOSUPPORT EPROTONOSUPPORT ETIMEDOUT ENOSYS " + NETWORK,
    "epoll_ctl": "EBADF EEXIST EINVAL ELOOP ENOENT ENOMEM ENOSPC EPERM",
    "setsockopt": "EBADF EFAULT EINVAL ENOPROTOOPT ENOTSOCK ENOMEM",
    "getsockopt": "EBADF EFAULT EINVAL ENOPROTOOPT ENOTSOCK",
    "recvfrom": RECEIVE,
    "sendto": SEND,
    "sendmsg": SEND,
    "recvmmsg": RECEIVE + " ENOSYS",
    "sendmmsg": SEND + " ENOSYS",
    "shutdown": "EBADF EINVAL ENOTCONN ENOTSOCK",
    "close": "EBADF EINTR EIO ENOSPC EDQUOT",
}
# Errors of calls at the start. `epoll_ctl`, `setsockopt` and `fcntl` are called several times.
START_UP = {
    "epoll_create1": "EINVAL EMFILE ENFILE ENOMEM",
    "eventfd2": "EINVAL EMFILE ENFILE ENODEV ENOMEM",
    "epoll_ctl": "EBADF EEXIST EINVAL ELOOP ENOENT ENOMEM ENOSPC EPERM",
    "socketpair": "EAFNOSUPPORT EFAULT EMFILE ENFILE EOPNOTSUPP EPROTONOSUPPORT",
    "rt_sigaction": "EFAULT EINVAL",
    "socket": "EACCES EAFNOSUPPORT EINVAL EMFILE ENFILE ENOBUFS ENOMEM EPROTONOSUPPORT",
    "bind": "EACCES EADDRINUSE EBADF EINVAL ENOTSOCK EADDRNOTAVAIL EFAULT ENOMEM",
    "listen": "EADDRINUSE EBADF ENOTSOCK EOPNOTSUPP",
    "getsockname": "EBADF EFAULT EINVAL ENOBUFS ENOTSOCK",
    "getpeername": "EBADF EFAULT EINVAL ENOBUFS ENOTSOCK",
    "setsockopt": "EBADF EFAULT EINVAL ENOPROTOOPT ENOTSOCK ENOMEM",
    "fcntl": "EACCES EAGAIN EBADF EINTR EINVAL",
}
# Number of calls that the C library and the dynamic loader make before the program.
SKIPPED_AT_START = {"rt_sigaction": 5}
# Errors that say that the loop itself is broken. The server may end with a message.
MAY_END = {("epoll_wait", error) for error in ("EBADF", "EFAULT", "EINVAL")}
SPECS = {"first": "1", "some": "2+3", "every": "1+"}
LOAD_S = 0.4
IDLE_S = 0.25
SERVED_WITHIN_S = 2
# A closed client frees its descriptor at the latest when `close_deadline` (10 s) is over.
FREED_WITHIN_S = 15
# After a false EAGAIN, no event reports that a client has closed its connection. Then only
# `read_idle_timeout` (60 s) frees the descriptor.
ALL_FREED_WITHIN_S = 75
CPU_MAX = 0.05
IDLE_CALLS_MAX = 60


class Failed(Exception):
    """The reason why a cell fails."""


class Server:
    def __init__(self, echo):
        self.output = tempfile.TemporaryFile("w+")
        args = [echo, "--tcp", "127.0.0.1:0", "--udp", "127.0.0.1:0"]
        self.process = subprocess.Popen(args, stdout=self.output, stderr=subprocess.STDOUT)
        self.wait_for(lambda: self.addrs() is not None, 5, "the server does not start")
        self.tcp, self.udp = self.addrs()
        check_served(self)
        time.sleep(0.1)
        self.descriptors = self.first_descriptors = self.count_descriptors()

    def text(self):
        self.output.seek(0)
        return self.output.read()

    def addrs(self):
        text = self.text()
        ports = re.findall(r"listening (?:tcp|udp) 127\.0\.0\.1:(\d+)", text)
        if len(ports) < 2:
            return None
        return tuple(("127.0.0.1", int(port)) for port in ports)

    def wait_for(self, condition, within, reason):
        end = time.monotonic() + within
        while not condition():
            if time.monotonic() > end:
                raise Failed(reason)
            time.sleep(0.005)

    def is_alive(self):
        return self.process.poll() is None

    def count_descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu_time(self):
        with open(f"/proc/{self.process.pid}/schedstat") as stat:
            return int(stat.read().split()[0]) / 1e9

    def is_traced(self):
        if not self.is_alive():
            return True
        with open(f"/proc/{self.process.pid}/status") as status:
            return "TracerPid:\t0\n" not in status.read()

    def end(self):
        if self.is_alive():
            self.process.terminate()
        self.process.wait(10)


def check_served(server):
    """Makes one round trip over TCP and one over UDP."""
    deadline = time.monotonic() + SERVED_WITHIN_S
    with socket.create_connection(server.tcp, SERVED_WITHIN_S) as client:
        frame = struct.pack(">I", 5) + b"fresh"
        client.sendall(frame)
        received = b""
        while len(received) < len(frame):
            part = client.recv(100)
            if not part:
                raise Failed("a new client was disconnected")
            received += part
        if received != frame:
            raise Failed(f"a new client received {received}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(SERVED_WITHIN_S)
        client.sendto(b"fresh", server.udp)
        if client.recv(100) != b"fresh":
            raise Failed("a datagram has a wrong echo")
    if time.monotonic() > deadline:
        raise Failed("a new client was served too late")


def use(server, seconds):
    """Uses the server in several ways: short and long frames, a client that reads late, half-closes,
    resets, malformed frames and bursts of datagrams. Errors of the clients are expected."""
    end = time.monotonic() + seconds
    numbers = random.Random(1)
    while time.monotonic() < end:
        clients = [socket.socket() for _ in range(6)]
        for way, client in enumerate(clients):
            client.settimeout(0.05)
            with contextlib.suppress(OSError):
                use_connection(server, client, way, numbers)
        for client in clients:
            client.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(0.02)
            with contextlib.suppress(OSError):
                for _ in range(40):
                    sender.sendto(bytes(100), server.udp)
                for _ in range(40):
                    sender.recv(100)


def use_connection(server, client, way, numbers):
    length = numbers.choice([0, 10, 3000, 90_000])
    if way == 4:
        # The server queues output for this client, which reads late or never.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        length = 90_000
    client.connect(server.tcp)
    client.send((struct.pack(">I", length) + bytes(length)) * (1 + way))
    if way == 1:
        client.shutdown(socket.SHUT_WR)
    elif way == 2:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif way == 3:
        client.send(b"\xff\xff\xff\xff")
    if way == 4:
        read_late(client, length, is_complete=numbers.random() < 0.5)
    else:
        client.recv(1 << 20)


def read_late(client, length, is_complete):
    """Sends frames until the server stops reading. Then reads all echoes, or leaves them unread."""
    frames = struct.pack(">I", length) + bytes(length)
    try:
        for _ in range(100):
            client.send(frames)
    except TimeoutError:
        pass
    while is_complete and client.recv(1 << 20):
        pass


def inject(server, call, error, spec, trace):
    """Injects an error while clients use the server, and then while nothing happens. Returns
    false if the server did not make the call."""
    strace = subprocess.Popen(
        ["strace", "-qq", "-f", "-p", str(server.process.pid), "-o", trace, "-e", f"trace={call}"]
        + ["-e", f"inject={call}:error={error}:when={spec}"],
        stderr=subprocess.DEVNULL,
    )
    try:
        server.wait_for(server.is_traced, 5, "strace does not attach")
        use(server, LOAD_S)
        time.sleep(0.1)
        before = os.path.getsize(trace)
        time.sleep(IDLE_S)
        idle = trace_lines(trace, before)
    finally:
        strace.send_signal(signal.SIGINT)
        strace.wait(10)
    with open(trace) as lines:
        is_reached = "(INJECTED)" in lines.read()
    if server.is_alive() and idle > IDLE_CALLS_MAX:
        raise Failed(f"busy loop: {idle} calls in {IDLE_S} s without clients")
    return is_reached


def trace_lines(trace, offset):
    with open(trace, "rb") as lines:
        lines.seek(offset)
        return lines.read().count(b"\n")


def check_after(server, call, error):
    """Checks the server when the errors have ended."""
    try:
        check_served(server)
    except OSError as error:
        raise Failed(f"a new client is not served: {error}") from error
    if call == "close" or error == "EAGAIN":
        # strace does not perform a close that it makes fail, so the descriptor stays open. After a
        # false EAGAIN, `run_final_cell` checks the descriptors.
        server.descriptors = server.count_descriptors()
    freed = lambda: server.count_descriptors() <= server.descriptors
    server.wait_for(freed, FREED_WITHIN_S, "descriptors are lost")
    began, before = time.monotonic(), server.cpu_time()
    time.sleep(IDLE_S)
    share = (server.cpu_time() - before) / (time.monotonic() - began)
    if share > CPU_MAX:
        raise Failed(f"{share:.0%} CPU without clients")


def check_end(process, text):
    """Checks that a program has ended with an error message and without a panic."""
    if "panicked" in text or process.returncode not in (1, 2):
        raise Failed(f"ended with status {process.returncode}: {text[-300:]}")
    if not re.search(r"^echo: .+", text, re.M):
        raise Failed(f"ended without a message: {text[-300:]}")


def run_cell(server, call, error, spec, trace):
    is_reached = inject(server, call, error, spec, trace)
    if "panicked" in server.text():
        raise Failed("panic")
    if not server.is_alive():
        if (call, error) not in MAY_END:
            raise Failed(f"ended: {server.text()[-300:]}")
        check_end(server.process, server.text())
        return "end"
    check_after(server, call, error)
    return "ok" if is_reached else "not called"


def run_start_cell(echo, call, error, number, trace):
    """Starts the server with an error in one call of its start: the call with this number."""
    number += SKIPPED_AT_START.get(call, 0)
    command = ["strace", "-qq", "-f", "-o", trace, "-e", f"trace={call}"]
    command += ["-e", f"inject={call}:error={error}:when={number}"]
    command += [echo, "--tcp", "127.0.0.1:0", "--udp", "127.0.0.1:0"]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

        def text():
            output.seek(0)
            return output.read()

        end = time.monotonic() + 5
        while process.poll() is None and len(re.findall("listening", text())) < 2:
            if time.monotonic() > end:
                process.kill()
                raise Failed("the start takes longer than five seconds")
            time.sleep(0.005)
        if process.poll() is None:
            subprocess.run(["pkill", "-TERM", "-P", str(process.pid)], check=False)
            process.wait(10)
            if "panicked" in text():
                raise Failed("panic")
            with open(trace) as lines:
                return "ok" if "(INJECTED)" in lines.read() else "not called"
        check_end(process, text())
        return "end"


def run_final_cell(server):
    """Checks that timeouts have freed all descriptors."""
    freed = lambda: server.count_descriptors() <= server.first_descriptors
    server.wait_for(freed, ALL_FREED_WITHIN_S, "descriptors are lost")
    return "ok"


def cells(short):
    """Returns all cells of the run time. In the short form, returns one cell for each call and each
    of SPECS. The cells that leave descriptors open for a while come last."""
    later = []
    for call, errors in RUN_TIME.items():
        for spec in SPECS:
            # In reality no call is interrupted every time: each interruption needs a signal.
            chosen = [it for it in errors.split() if (spec, it) != ("every", "EINTR")]
            if short:
                chosen = [chosen[sum((call + spec).encode()) % len(chosen)]]
            for error in chosen:
                cell = (call, spec, error)
                if call == "close" or error == "EAGAIN":
                    later.append(cell)
                else:
                    yield cell
    yield from sorted(later, key=lambda cell: cell[0] == "close")


def main():
    args = [arg for arg in sys.argv[1:] if not arg.startswith("--")]
    if len(args) != 1:
        sys.exit(__doc__)
    echo, short = os.path.abspath(args[0]), "--short" in sys.argv
    trace = tempfile.NamedTemporaryFile().name
    rows, count, failures = {}, 0, []

    def record(row, error, run):
        nonlocal count
        try:
            outcome = run()
            count += outcome != "not called"
        except (Failed, OSError) as reason:
            outcome = "FAIL"
            count += 1
            failures.append(f"{' '.join(row)}, {error}: {reason}")
            print(failures[-1], file=sys.stderr, flush=True)
        rows.setdefault(row, []).append((error, outcome))
        return outcome

    server = Server(echo)
    is_final = False
    for call, spec, error in cells(short):
        if call == "close" and not is_final:
            is_final = True
            record(("all calls", "above"), "descriptors", lambda: run_final_cell(server))
        run = lambda: run_cell(server, call, error, SPECS[spec], trace)
        if record((call, spec), error, run) in ("end", "FAIL"):
            server.end()
            server = Server(echo)
    server.end()
    for call, errors in START_UP.items():
        for error in errors.split()[: 1 if short else None]:
            run = lambda: run_start_cell(echo, call, error, 1, trace)
            record((call, "at the start"), error, run)
    if os.path.exists(trace):
        os.remove(trace)
    print_table(rows)
    print(f"\n{count} cells, {len(failures)} failed")
    sys.exit(1 if failures else 0)


def print_table(rows):
    print("| call | fails | served | ended with a message | not called | failed |")
    print("|---|---|---|---|---|---|")
    for (call, spec), outcomes in rows.items():
        cell = lambda wanted: " ".join(error for error, outcome in outcomes if outcome == wanted)
        columns = " | ".join(cell(outcome) for outcome in ("ok", "end", "not called", "FAIL"))
        print(f"| `{call}` | {spec} | {columns} |")


if __name__ == "__main__":
    main()
