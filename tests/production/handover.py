#!/usr/bin/env python3
"""Restarts the example `handover` again and again under traffic.

Usage: handover.py PATH_OF_HANDOVER [RESTARTS]

Long-lived connections exchange frames all the time, new connections arrive all the time, and UDP
sockets send datagrams all the time. No connect may be refused, no connection may be reset, and each
frame and each datagram must be answered exactly once.
"""

import asyncio
import struct
import sys
import tempfile
import time

LONG_LIVED = 200
NEW_PER_SECOND = 500
# Pause between two frames of a long-lived connection, in seconds.
PAUSE = 0.05
UDP_SOCKETS = 20
# Pause between two datagrams of a UDP socket, in seconds. With this pause, all datagrams that
# arrive during a handover fit into the receive buffer of the server's socket.
UDP_PAUSE = 0.02


class Totals:
    def __init__(self):
        self.frames = 0
        self.connections = 0
        self.datagrams = 0
        self.errors = []
        self.ends = False


async def exchange(reader, writer, payload):
    frame = struct.pack(">I", len(payload)) + payload
    writer.write(frame)
    await writer.drain()
    echo = await reader.readexactly(len(frame))
    assert echo == frame, f"sent {frame!r}, received {echo!r}"


async def long_lived(addr, totals, number):
    try:
        reader, writer = await asyncio.open_connection(*addr)
        count = 0
        while not totals.ends:
            payload = struct.pack(">II", number, count) * (1 + count % 50)
            await exchange(reader, writer, payload)
            totals.frames += 1
            count += 1
            await asyncio.sleep(PAUSE)
        writer.close()
        await writer.wait_closed()
    except Exception as error:
        totals.errors.append(f"long-lived connection {number}: {error!r}")


async def one_connection(addr, totals):
    try:
        reader, writer = await asyncio.open_connection(*addr)
        await exchange(reader, writer, b"new")
        totals.frames += 1
        totals.connections += 1
        writer.close()
        await writer.wait_closed()
    except Exception as error:
        totals.errors.append(f"new connection: {error!r}")


async def new_connections(addr, totals):
    tasks = set()
    began = time.monotonic()
    opened = 0
    while not totals.ends:
        due = int((time.monotonic() - began) * NEW_PER_SECOND)
        # A limit keeps a slow machine from collecting tasks.
        while opened < due and len(tasks) < 400:
            task = asyncio.create_task(one_connection(addr, totals))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            opened += 1
        await asyncio.sleep(0.01)
    await asyncio.gather(*tasks)
    return time.monotonic() - began


class Datagrams(asyncio.DatagramProtocol):
    """The datagrams of one UDP socket that wait for their echo, in the order of sending."""

    def __init__(self, totals):
        self.totals = totals
        self.waiting = {}

    def datagram_received(self, data, addr):
        if self.waiting.pop(data, None) is None:
            self.totals.errors.append(f"datagram {data!r} is damaged or was answered twice")

    def error_received(self, error):
        self.totals.errors.append(f"UDP: {error!r}")


async def udp_socket(addr, totals, number):
    loop = asyncio.get_running_loop()
    transport, datagrams = await loop.create_datagram_endpoint(
        lambda: Datagrams(totals), remote_addr=addr)
    count = 0
    while not totals.ends:
        data = struct.pack(">II", number, count) * (1 + count % 50)
        datagrams.waiting[data] = True
        transport.sendto(data)
        count += 1
        await asyncio.sleep(UDP_PAUSE)
    for _ in range(1000):
        if not datagrams.waiting:
            break
        await asyncio.sleep(0.01)
    transport.close()
    totals.datagrams += count - len(datagrams.waiting)
    if datagrams.waiting:
        totals.errors.append(f"UDP socket {number}: {len(datagrams.waiting)} datagrams lost")


async def start(program, control):
    """Starts a server, and waits until it serves. Returns it with its two addresses."""
    server = await asyncio.create_subprocess_exec(
        program, "--listen", "127.0.0.1:0", "--udp", "127.0.0.1:0", "--control", control,
        stdout=asyncio.subprocess.PIPE)
    addrs = []
    while True:
        line = (await asyncio.wait_for(server.stdout.readline(), 20)).decode()
        assert line, f"{program} ended with {await server.wait()}"
        if line.startswith("listening "):
            host, port = line.split()[-1].rsplit(":", 1)
            addrs.append((host, int(port)))
        if line.startswith("ready"):
            return server, addrs, int(line.split()[2])


async def main(program, restarts):
    totals = Totals()
    with tempfile.TemporaryDirectory() as folder:
        control = f"{folder}/control"
        server, addrs, _ = await start(program, control)
        addr, udp = addrs
        clients = [asyncio.create_task(long_lived(addr, totals, n)) for n in range(LONG_LIVED)]
        clients += [asyncio.create_task(udp_socket(udp, totals, n)) for n in range(UDP_SOCKETS)]
        arrivals = asyncio.create_task(new_connections(addr, totals))
        moved = 0
        for _ in range(restarts):
            await asyncio.sleep(0.1)
            successor, same, taken = await start(program, control)
            assert same == addrs, f"the server moved from {addrs} to {same}"
            moved += taken
            status = await asyncio.wait_for(server.wait(), 20)
            if status != 0:
                totals.errors.append(f"a replaced server ended with status {status}")
            server = successor
        totals.ends = True
        took = await arrivals
        await asyncio.gather(*clients)
        server.terminate()
        status = await asyncio.wait_for(server.wait(), 20)
        assert status == 0, f"the last server ended with status {status}"
    print(f"{restarts} restarts, {moved} moved connections, {totals.connections} new connections "
          f"({totals.connections / took:.0f} a second), {totals.frames} frames, "
          f"{totals.datagrams} datagrams, {len(totals.errors)} errors")
    for error in totals.errors[:10]:
        print(error, file=sys.stderr)
    assert not totals.errors
    assert moved >= restarts * LONG_LIVED // 2, "the long-lived connections did not move"
    assert totals.datagrams >= restarts * UDP_SOCKETS, "few datagrams were sent"


asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 50))
