#!/usr/bin/env python3
"""Tests echo servers with Twisted's Int8, Int16, Int32, Netstring and Line receivers.

usage: twisted_peer.py NAME=HOST:PORT...        (NAME is the framing of the echo server)
"""

import sys

from twisted.internet import defer, endpoints, protocol, task
from twisted.protocols import basic


class Line(basic.LineReceiver):
    delimiter = b"\n"


RECEIVERS = {
    "u8": basic.Int8StringReceiver,
    "u16": basic.Int16StringReceiver,
    "u32": basic.Int32StringReceiver,
    "netstring": basic.NetstringReceiver,
    "line": Line,
}


def peer(name):
    """Returns a protocol that sends payloads; its `done` fires with True if the echo is equal."""
    kind = RECEIVERS[name]

    class Peer(kind):
        def connectionMade(self):
            self.done = defer.Deferred()
            longest = {"u8": 255, "line": 16_000}.get(name, 50_000)
            self.sent = [bytes(97 + b % 26 for b in range(n % 97)) for n in range(1000)]
            self.sent.append(b"x" * longest)
            self.received = []
            for payload in self.sent:
                (self.sendLine if kind is Line else self.sendString)(payload)

        def stringReceived(self, payload):
            self.received.append(payload)
            if len(self.received) == len(self.sent):
                self.done.callback(self.received == self.sent)

        lineReceived = stringReceived

        def connectionLost(self, reason=protocol.connectionDone):
            if not self.done.called:
                self.done.errback(reason)

    return Peer


@defer.inlineCallbacks
def main(reactor, *args):
    for arg in args:
        name, addr = arg.split("=")
        if name not in RECEIVERS:
            continue
        point = endpoints.clientFromString(reactor, "tcp:" + addr)
        client = yield endpoints.connectProtocol(point, peer(name)())
        same = yield client.done
        assert same, f"{name}: the echo differs from the payloads"
        client.transport.loseConnection()
        print(f"ok: {RECEIVERS[name].__name__} with {name}, {len(client.sent)} frames")


task.react(main, sys.argv[1:])
