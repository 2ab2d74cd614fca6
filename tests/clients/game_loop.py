#!/usr/bin/env python3
"""Tests the game_loop example: the places of two players, twenty times a second.

usage: game_loop.py HOST:PORT
"""

import socket
import sys


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as one:
        with socket.create_connection((host, int(port)), timeout=30) as two:
            lines = one.makefile()
            one.sendall(b"right\nnonsense\n")
            while len(read(lines)[1]) < 2:
                pass
            two.sendall(b"up\n")
            step, places = read(lines)
            while places[1] == (0, 0):
                step, places = read(lines)
            later, moved = read(lines)
            assert later == step + 1, (step, later)
            assert moved[0] == ((places[0][0] + 1) % 100, 0), (places, moved)
            assert moved[1] == (0, (places[1][1] - 1) % 100), (places, moved)
    print("ok: two players of the game loop")


def read(lines):
    step, *places = lines.readline().split()
    return int(step), [tuple(int(part) for part in place.split(",")) for place in places]


if __name__ == "__main__":
    main()
