#!/usr/bin/env python3
"""Runs the example `watched` behind HAProxy, and behind the stream module of nginx.

Usage: balancers.py PATH_OF_WATCHED haproxy|nginx

HAProxy sends PROXY headers of version 2 and checks the health of three servers. While 200
connections exchange 100,000 frames, one server is killed, one is drained and one is restarted. Only
the connections of the killed server may be lost. nginx sends headers of version 1.

The configurations are those of the page on deployment, with other addresses and times.
"""

import asyncio
import os
import re
import signal
import socket
import struct
import sys
import tempfile
import urllib.error
import urllib.request

from page import block

CONNECTIONS = 200
FRAMES = 800


class Server:
    """A process of `watched`. Its output names the client of each connection."""

    def __init__(self):
        self.clients = set()
        self.phases = []

    async def start(self, program, echo="127.0.0.1:0", http="127.0.0.1:0"):
        self.process = await asyncio.create_subprocess_exec(
            program, "--echo", echo, "--http", http, "--proxy", "127.0.0.1", "--print-clients",
            "--unready", "500", "--drain", "60000", stdout=asyncio.subprocess.PIPE)
        self.echo = await self.listening("echo")
        self.http = await self.listening("http")
        self.reader = asyncio.create_task(self.read())
        return self

    async def listening(self, name):
        line = (await asyncio.wait_for(self.process.stdout.readline(), 20)).decode()
        assert line.startswith(f"listening {name} "), line
        return line.split()[2]

    async def read(self):
        async for line in self.process.stdout:
            words = line.decode().split()
            if words[0] == "client":
                self.clients.add(words[1])
            if words[0] == "shutdown":
                self.phases.append(words[1])

    async def status(self):
        status = await asyncio.wait_for(self.process.wait(), 90)
        await self.reader
        return status


class Client:
    """A connection through the balancer."""

    async def connect(self, addr, number):
        host = f"127.0.1.{1 + number % 200}"
        self.number = number
        self.count = 0
        self.error = None
        self.reader, self.writer = await asyncio.open_connection(*addr, local_addr=(host, 0))
        self.addr = "%s:%d" % self.writer.get_extra_info("sockname")
        await self.exchange()
        return self

    async def exchange(self):
        payload = struct.pack(">II", self.number, self.count) * (1 + self.count % 20)
        frame = struct.pack(">I", len(payload)) + payload
        self.writer.write(frame)
        await self.writer.drain()
        echo = await self.reader.readexactly(len(frame))
        assert echo == frame, "a frame is damaged"
        self.count += 1

    async def run(self, totals):
        try:
            while self.count < FRAMES:
                await self.exchange()
                totals["frames"] += 1
                await asyncio.sleep(0.002)
            self.writer.close()
            await self.writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError) as error:
            self.error = error


def health(server):
    try:
        with urllib.request.urlopen(f"http://{server.http}/healthz", timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


async def until(condition, what):
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"timed out: {what}")


async def haproxy(folder, servers):
    """Starts HAProxy on an inherited socket. Returns the process and its address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    config = block("defaults").replace("bind :7000", f"bind fd@{listener.fileno()}")
    config, count = re.subn("check port 9000 inter 2s fall 3", "check inter 100 fall 2", config)
    config, places = re.subn(r"\n +server a .*\n +server b .*", "", config)
    assert (count, places) == (1, 1), "the page has another form"
    for index, server in enumerate(servers):
        port = server.http.split(":")[1]
        config += f"    server s{index} {server.echo} port {port}\n"
    with open(f"{folder}/haproxy.cfg", "w") as file:
        file.write(config)
    process = await asyncio.create_subprocess_exec(
        "haproxy", "-db", "-f", f"{folder}/haproxy.cfg", pass_fds=[listener.fileno()],
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
    return process, listener.getsockname()


async def restart(program, server):
    """Starts a process at the addresses of a server that has begun to drain."""
    for _ in range(100):
        try:
            return await Server().start(program, server.echo, server.http)
        except AssertionError:  # the server has not closed its listeners yet
            await asyncio.sleep(0.05)
    raise AssertionError("the addresses are still in use")


async def check_haproxy(program, folder):
    servers = [await Server().start(program) for _ in range(3)]
    killed, drained, restarted = servers
    balancer, addr = await haproxy(folder, servers)
    clients = [await Client().connect(addr, number) for number in range(CONNECTIONS)]
    totals = {"frames": 0}
    runs = [asyncio.create_task(client.run(totals)) for client in clients]

    def progress(part):
        return until(lambda: totals["frames"] >= part * CONNECTIONS * FRAMES, f"progress {part}")

    await progress(0.1)
    killed.process.kill()
    await progress(0.2)
    assert health(drained) == 200
    drained.process.send_signal(signal.SIGTERM)
    await until(lambda: "Unready" in drained.phases, "the server is unready")
    assert health(drained) == 503
    await progress(0.3)
    restarted.process.send_signal(signal.SIGTERM)
    await until(lambda: "Drain" in restarted.phases, "the server drains")
    successor = await restart(program, restarted)
    await asyncio.gather(*runs)
    # HAProxy finds the successor by its health checks, and then uses no other server.
    for number in range(2000):
        late = await Client().connect(addr, number)
        late.writer.close()
        await late.writer.wait_closed()
        if len(successor.clients) >= 20:
            break
    assert len(successor.clients) >= 20, "the restarted server got no connections"
    balancer.terminate()
    await balancer.wait()

    lost = {client.addr for client in clients if client.error}
    seen = killed.clients | drained.clients | restarted.clients
    assert {client.addr for client in clients} <= seen, "a server saw another client address"
    assert lost == killed.clients & {client.addr for client in clients}, "other connections lost"
    for server in (drained, restarted):
        assert await server.status() == 0
        assert server.phases == ["Unready", "Drain", "Close"], server.phases
    successor.process.send_signal(signal.SIGTERM)
    successor.process.send_signal(signal.SIGTERM)
    await successor.status()
    print(f"haproxy: {totals['frames']} frames answered, {len(lost)} connections of the killed "
          f"server lost, no other")


async def check_nginx(program, folder):
    servers = [await Server().start(program) for _ in range(2)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        addr = free.getsockname()
    modules = os.environ.get("NGINX_MODULES", "/usr/lib/nginx/modules")
    config, count = re.subn(r"server 10\.0\.2\.1:7000; server 10\.0\.2\.2:7000;",
                            "".join(f"server {server.echo};" for server in servers),
                            block("stream {"))
    config, places = re.subn("listen 7000;", f"listen 127.0.0.1:{addr[1]};", config)
    assert (count, places) == (1, 1), "the page has another form"
    with open(f"{folder}/nginx.conf", "w") as file:
        file.write(f"""
load_module {modules}/ngx_stream_module.so;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
{config}
""")
    nginx = os.environ.get("NGINX_PROGRAM", "nginx")
    balancer = await asyncio.create_subprocess_exec(
        nginx, "-p", folder, "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log")
    for _ in range(200):
        try:
            socket.create_connection(addr).close()
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
    clients = [await Client().connect(addr, number) for number in range(50)]
    totals = {"frames": 0}
    await asyncio.gather(*(client.run(totals) for client in clients))
    assert not [client.error for client in clients if client.error]
    balancer.terminate()
    await balancer.wait()
    for server in servers:
        server.process.send_signal(signal.SIGTERM)
        assert await server.status() == 0
        assert server.clients, "nginx did not use both servers"
    seen = servers[0].clients | servers[1].clients
    assert {client.addr for client in clients} <= seen, "a server saw another client address"
    print(f"nginx: {totals['frames']} frames answered")


async def main(program, balancer):
    with tempfile.TemporaryDirectory() as folder:
        check = {"haproxy": check_haproxy, "nginx": check_nginx}[balancer]
        await check(program, folder)


asyncio.run(main(sys.argv[1], sys.argv[2]))
