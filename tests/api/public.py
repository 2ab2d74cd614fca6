#!/usr/bin/env python3
"""Compares the public names of the crate with the list in public.txt.

usage: public.py [--write]

Reads the pages that `cargo doc --no-deps --all-features` has made. A name that is added or removed
is a change of the interface: run this script with --write, and add a line to CHANGELOG.md.
"""

import difflib
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = ROOT / "target/doc/unstick"
LIST = pathlib.Path(__file__).with_name("public.txt")
# Sections of a page that show traits of other crates, which have their own names.
TRAITS = re.compile(r'id="(?:trait-implementations|synthetic-implementations|implementors)')
MEMBER = re.compile(
    r'id="(?:method|tymethod|structfield|variant|associatedtype|associatedconstant)\.([\w.]+)"'
)


def names():
    for page in sorted(PAGES.rglob("*.html")):
        kind, _, name = page.stem.rpartition(".")
        folder = page.parent.relative_to(PAGES)
        if not kind or "guide" in folder.parts:
            continue
        path = "::".join([*folder.parts, name])
        yield f"{kind} {path}"
        text = TRAITS.split(page.read_text())[0]
        for member in MEMBER.findall(text):
            yield f"{kind} {path}::{member.replace('.field.', '.')}"


def main():
    found = sorted(set(names()))
    if not found:
        sys.exit("no pages: run `cargo doc --no-deps --all-features` first")
    text = "\n".join(found) + "\n"
    if sys.argv[1:] == ["--write"]:
        LIST.write_text(text)
        return
    listed = LIST.read_text().splitlines()
    diff = list(difflib.unified_diff(listed, found, "listed", "found", n=0, lineterm=""))
    if diff:
        sys.exit("\n".join([*diff, "The public names have changed: see tests/api/public.py."]))
    print(f"ok: {len(found)} public names")


if __name__ == "__main__":
    main()
