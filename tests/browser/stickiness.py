"""Drives the page of the example `stickiness` in a headless Chromium.

usage: stickiness.py URL [FILE]: the page as it is served, and as it was written to a file.
"""

import os
import sys

from chromium import Page

BARS = "document.querySelectorAll('[data-transport=%s] .bar[data-name=%s]').length"
DONE = "document.getElementById('notice').textContent === 'done'"


def bars(page, transport, name):
    return page.js(BARS % (transport, name))


def run(page, **knobs):
    """Sets knobs, presses run, and waits for both outcomes."""
    for name, value in knobs.items():
        name = name.replace("_", "-")
        page.js(f"""(() => {{
            const input = document.getElementById('knob-{name}');
            if (input.type === 'checkbox') input.checked = {str(value is True).lower()};
            else input.value = {value!r};
        }})()""")
    page.js("document.getElementById('notice').textContent = ''")
    page.js("document.querySelector('button.run').click()")
    page.wait(f"{DONE} || document.querySelector('.notice.bad') !== null")


def served(page, url):
    page.look(1280)
    page.go(url)
    page.wait(DONE)
    assert page.js("document.querySelectorAll('.result').length") == 2, "TCP and UDP"
    above = page.js("document.querySelector('[data-transport=tcp]').getBoundingClientRect().top"
                    " < document.querySelector('[data-transport=udp]').getBoundingClientRect().top")
    assert above, "TCP above UDP"

    # A late reader: ten sends, fewer reads, ten frames; over UDP ten of ten.
    assert bars(page, "tcp", "send") == 10
    glued = bars(page, "tcp", "read")
    assert 1 <= glued < 10, glued
    assert bars(page, "tcp", "frame") == 10
    assert bars(page, "udp", "received") == 10

    # A knob makes a difference: small reads cut.
    run(page, read=35)
    cut = bars(page, "tcp", "read")
    assert cut > 10 > glued, (cut, glued)
    assert bars(page, "tcp", "frame") == 10

    # Bars are drawn to scale: together, the frames are as wide as the row.
    widths = page.js("""[...document.querySelectorAll('[data-transport=tcp] .bar[data-name=frame]')]
        .map((bar) => bar.getBoundingClientRect().width)""")
    row = page.js("document.querySelector('[data-transport=tcp] .row').getBoundingClientRect().width")
    assert max(widths) - min(widths) < 2 and abs(sum(widths) - row) < 2 * len(widths), (widths, row)

    # A link reproduces the run.
    link = page.js("location.href")
    assert "read=35" in link, link
    page.go(link)
    page.wait(DONE)
    assert bars(page, "tcp", "read") == cut
    assert page.js("document.getElementById('knob-read').value") == "35"

    # The keyboard reaches each bar, and tells of it.
    page.js("document.querySelector('[data-transport=tcp] .row').focus()")
    page.press("ArrowRight")
    page.press("ArrowRight")
    tip = page.js("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
    assert "send 1: bytes 66 to 132 (66)" in tip, tip
    page.press("Escape")
    assert page.js("document.getElementById('tip').hidden")

    # So does the pointer.
    page.js("""document.querySelector('[data-transport=tcp] .bar[data-name=read]')
        .dispatchEvent(new PointerEvent('pointerenter', { clientX: 400 }))""")
    assert "read 0: bytes 0 to 35" in page.js("document.getElementById('tip').textContent")

    # By time, the same bars.
    page.js("document.querySelector('[data-view=time]').click()")
    assert bars(page, "tcp", "read") == cut

    # Datagrams that were lost are drawn as lost.
    run(page, count=40, size=1000, receive_buffer=8192, delay=20, read=262144)
    page.js("document.querySelector('[data-view=bytes]').click()")
    lost = 40 - bars(page, "udp", "received")
    assert lost > 0 and page.js("document.querySelectorAll('.lost').length") == lost, lost

    # Too much is refused, with a word.
    errors = len(page.errors)
    run(page, count=200, size=1048576)
    notice = page.js("document.getElementById('notice').textContent")
    assert "at most" in notice, notice
    # The browser itself logs the status of a refusal.
    refused = page.errors[errors:]
    assert all("400" in error for error in refused), refused
    del page.errors[errors:]


def at_widths(page):
    """Nothing is wider than its window, in either colour scheme."""
    for width in [360, 390, 768, 1280, 1720]:
        for dark in [False, True]:
            page.look(width, dark=dark)
            page.wait("document.querySelectorAll('.bar').length > 0")
            over = page.js("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, f"{over} pixels too wide at {width}"
            shades = page.js("""(() => {
                const style = getComputedStyle(document.body);
                const light = (colour) => colour.match(/\\d+/g).slice(0, 3)
                    .reduce((sum, part) => sum + Number(part), 0);
                return [light(style.color), light(style.backgroundColor)];
            })()""")
            assert abs(shades[0] - shades[1]) > 400, shades
            assert (shades[1] < shades[0]) == dark, shades


def written(page, path):
    page.go("file://" + os.path.abspath(path))
    page.wait("document.querySelectorAll('.bar').length > 0")
    experiments = page.js("document.querySelectorAll('#experiments button').length")
    assert experiments > 10, experiments
    for index in range(experiments):
        page.js(f"document.querySelectorAll('#experiments button')[{index}].click()")
        assert page.js("document.querySelectorAll('.bar').length") > 1, index


def main():
    page = Page()
    try:
        served(page, sys.argv[1])
        page.go(sys.argv[1])
        page.wait(DONE)
        at_widths(page)
        if len(sys.argv) > 2:
            written(page, sys.argv[2])
            at_widths(page)
        assert not page.errors, "\n".join(page.errors)
    finally:
        page.close()
    print("the page was driven: bars, knobs, links, keyboard, widths, colours")


if __name__ == "__main__":
    main()
