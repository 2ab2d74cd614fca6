#!/usr/bin/env python3
"""Checks the manifests of the page on deployment, with the tools of their systems.

Usage: page.py PATH_OF_HANDOVER

* systemd-analyze(1) verifies the units. A unit with a warning fails.
* kubernetes-validate (PyPI) compares the manifest with the schemas of Kubernetes.
* The shutdown times of the container must fit into the grace period of the manifest, and into the
  stop time of the unit.

A tool that is missing is skipped with a message. balancers.py also calls `block`.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

PAGE = pathlib.Path(__file__).resolve().parents[2] / "src/guide/deployment.md"


def block(first_line):
    """Returns the only code block of the page that begins with this line."""
    blocks = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    [found] = [it for it in blocks if it.splitlines()[0] == first_line]
    return found


def has(tool):
    if shutil.which(tool):
        return True
    print(f"SKIPPED: {tool} is missing", file=sys.stderr)
    return False


def check_units(handover, folder):
    parts = re.split(r"^# (echo\.\w+)$", block("# echo.socket"), flags=re.MULTILINE)
    units = dict(zip(parts[1::2], parts[2::2]))
    assert sorted(units) == ["echo.service", "echo.socket"], units.keys()
    for name, text in units.items():
        # The program must exist.
        text = text.replace("/usr/bin/handover", str(pathlib.Path(handover).resolve()))
        (folder / name).write_text(text)
    if has("systemd-analyze"):
        paths = [str(folder / name) for name in units]
        result = subprocess.run(["systemd-analyze", "verify", "--man=no", *paths],
                                capture_output=True, text=True, timeout=60)
        warnings = [line for line in result.stderr.splitlines() if str(folder) in line]
        assert result.returncode == 0 and not warnings, result.stderr
        print("systemd accepts the units of the page")
    return int(re.search(r"^TimeoutStopSec=(\d+)$", units["echo.service"], re.MULTILINE)[1])


def check_manifest(folder):
    text = block("apiVersion: apps/v1")
    (folder / "manifest.yaml").write_text(text)
    if has("kubernetes-validate"):
        command = ["kubernetes-validate", "--strict", str(folder / "manifest.yaml")]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr
        print("kubernetes-validate accepts the manifest of the page")
    return int(re.search(r"terminationGracePeriodSeconds: (\d+)", text)[1])


def main(handover):
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        stop_seconds = check_units(handover, folder)
        grace_seconds = check_manifest(folder)
    container = block("FROM rust:1 AS build")
    phases = re.findall(r'"--(?:unready|drain|close)", "(\d+)"', container)
    assert len(phases) == 3, container
    total = sum(map(int, phases)) / 1000
    assert total < grace_seconds, f"{total} s of phases exceed the grace of {grace_seconds} s"
    # The phases of `handover`: 20 s to drain, 5 s to close.
    assert 25 < stop_seconds, f"the phases exceed TimeoutStopSec={stop_seconds}"


if __name__ == "__main__":
    main(sys.argv[1])
