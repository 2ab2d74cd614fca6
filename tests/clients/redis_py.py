#!/usr/bin/env python3
"""Tests the resp example with redis-py, in both versions of the protocol: commands, a pipeline, and
publish and subscribe.

usage: redis_py.py HOST:PORT
"""

import sys

import redis


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    for version in [2, 3]:
        check({"host": host, "port": int(port), "socket_timeout": 60, "protocol": version})
    print("ok: redis-py", redis.__version__)


def check(options):
    client = redis.Redis(**options, decode_responses=True)
    assert client.ping()
    assert client.set("py:text", "hello\r\nworld")
    assert client.get("py:text") == "hello\r\nworld"
    assert client.get("py:missing") is None
    assert client.rpush("py:list", "a", "b", "c") == 3
    assert client.lrange("py:list", 0, -1) == ["a", "b", "c"]
    assert client.lpop("py:list") == "a"
    assert client.hset("py:hash", mapping={"field": "value", "other": "1"}) == 2
    assert client.hgetall("py:hash") == {"field": "value", "other": "1"}
    assert client.incrby("py:number", 41) == 41
    try:
        client.incr("py:text")
        raise AssertionError("INCR of a text is an error")
    except redis.ResponseError as error:
        assert "not an integer" in str(error), error

    assert client.sadd("py:set", "a", "b") == 2
    assert client.smembers("py:set") == {"a", "b"}

    binary = redis.Redis(**options)
    value = bytes(range(256)) * 4096
    assert binary.set("py:binary", value)
    assert binary.get("py:binary") == value

    pipeline = client.pipeline(transaction=False)
    for number in range(1000):
        pipeline.incrby("py:sum", number)
    assert pipeline.execute()[-1] == 1000 * 999 // 2

    subscriber = client.pubsub()
    subscriber.subscribe("py:news")
    assert subscriber.get_message(timeout=60)["type"] == "subscribe"
    for number in range(100):
        assert client.publish("py:news", number) == 1
    received = [subscriber.get_message(timeout=60)["data"] for _ in range(100)]
    assert received == [str(number) for number in range(100)], received
    subscriber.close()
    assert client.delete("py:text", "py:list", "py:hash", "py:set", "py:sum", "py:number") == 6
    assert client.delete("py:binary") == 1


if __name__ == "__main__":
    main()
