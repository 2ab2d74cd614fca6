"""Tests the page of the `stickiness` example in a headless Chromium.

usage: stickiness.py URL [FILE]        (URL of the server, and FILE written by --html)
"""

import os
import sys

from chromium import Page

BARS = "document.querySelectorAll('[data-transport=%s] .bar[data-name=%s]').length"
DONE = "document.getElementById('notice').textContent === 'done'"


def bars(page, transport, name):
    return page.js(BARS % (transport, name))


def run(page, **knobs):
    """Sets the knobs, clicks the run button, and waits for both results or an error notice."""
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


def check_served_page(page, url):
    page.set_window(1280)
    page.go(url)
    page.wait(DONE)
    assert page.js("document.querySelectorAll('.result').length") == 2, "the page does not show two results"
    above = page.js("document.querySelector('[data-transport=tcp]').getBoundingClientRect().top"
                    " < document.querySelector('[data-transport=udp]').getBoundingClientRect().top")
    assert above, "the result of TCP is not above the result of UDP"

    # The reader is late, so TCP has ten sends, fewer reads, and ten frames. UDP receives all ten
    # datagrams.
    assert bars(page, "tcp", "send") == 10
    glued = bars(page, "tcp", "read")
    assert 1 <= glued < 10, glued
    assert bars(page, "tcp", "frame") == 10
    assert bars(page, "udp", "received") == 10

    # A small read size splits the frames into more reads.
    run(page, read=35)
    cut = bars(page, "tcp", "read")
    assert cut > 10 > glued, (cut, glued)
    assert bars(page, "tcp", "frame") == 10

    # Bars are drawn to scale: all frames together are as wide as the row.
    widths = page.js("""[...document.querySelectorAll('[data-transport=tcp] .bar[data-name=frame]')]
        .map((bar) => bar.getBoundingClientRect().width)""")
    row = page.js("document.querySelector('[data-transport=tcp] .row').getBoundingClientRect().width")
    assert max(widths) - min(widths) < 2 and abs(sum(widths) - row) < 2 * len(widths), (widths, row)

    # The link contains the settings, so it reproduces the run.
    link = page.js("location.href")
    assert "read=35" in link, link
    page.go(link)
    page.wait(DONE)
    assert bars(page, "tcp", "read") == cut
    assert page.js("document.getElementById('knob-read').value") == "35"

    # The keyboard selects each bar and shows its tooltip.
    page.js("document.querySelector('[data-transport=tcp] .row').focus()")
    page.press("ArrowRight")
    page.press("ArrowRight")
    tip = page.js("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
    assert "send 1: bytes 66 to 132 (66)" in tip, tip
    page.press("Escape")
    assert page.js("document.getElementById('tip').hidden")

    # The pointer shows the tooltip of a bar.
    page.js("""document.querySelector('[data-transport=tcp] .bar[data-name=read]')
        .dispatchEvent(new PointerEvent('pointerenter', { clientX: 400 }))""")
    assert "read 0: bytes 0 to 35" in page.js("document.getElementById('tip').textContent")

    # The view by time has the same bars.
    page.js("document.querySelector('[data-view=time]').click()")
    assert bars(page, "tcp", "read") == cut

    # With TLS, the records of both ends have rows, and the writes and reads show their plaintext.
    page.js("document.querySelector('[data-view=bytes]').click()")
    run(page, tls=True, count=4, size=20000, read=10000, framing="u32")
    assert bars(page, "tcp", "record") == 16, bars(page, "tcp", "record")
    assert bars(page, "tcp", "frame") == 4
    assert bars(page, "udp", "record") == 0
    names = page.js("[...document.querySelectorAll('[data-transport=tcp] .name')]"
                    ".map((name) => name.textContent).join(' ')")
    assert names == "sends records writes reads records frames", names
    page.js("""document.querySelector('[data-transport=tcp] .bar[data-name=record]')
        .dispatchEvent(new PointerEvent('pointerenter', { clientX: 400 }))""")
    tip = page.js("document.getElementById('tip').textContent")
    assert "record 0: bytes 0 to 16384" in tip and "(16406)" in tip, tip

    # Each lost datagram has its own mark.
    run(page, tls=False, framing="u16", count=40, size=1000, receive_buffer=8192, delay=20, read=262144)
    page.js("document.querySelector('[data-view=bytes]').click()")
    lost = 40 - bars(page, "udp", "received")
    assert lost > 0 and page.js("document.querySelectorAll('.lost').length") == lost, lost

    # Settings over the limit are rejected with a notice.
    errors = len(page.errors)
    run(page, count=200, size=1048576)
    notice = page.js("document.getElementById('notice').textContent")
    assert "at most" in notice, notice
    # The server rejects the settings with status 400, and the browser logs this status.
    refused = page.errors[errors:]
    assert all("400" in error for error in refused), refused
    del page.errors[errors:]


def check_widths(page):
    """Checks at several widths that the page fits its window, and that colours have contrast."""
    for width in [360, 390, 768, 1280, 1720]:
        for dark in [False, True]:
            page.set_window(width, dark=dark)
            page.wait("document.querySelectorAll('.bar').length > 0")
            over = page.js("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, f"the page is {over} pixels wider than the window of {width}"
            shades = page.js("""(() => {
                const style = getComputedStyle(document.body);
                const light = (colour) => colour.match(/\\d+/g).slice(0, 3)
                    .reduce((sum, part) => sum + Number(part), 0);
                return [light(style.color), light(style.backgroundColor)];
            })()""")
            assert abs(shades[0] - shades[1]) > 400, shades
            assert (shades[1] < shades[0]) == dark, shades


def check_written_page(page, path):
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
        check_served_page(page, sys.argv[1])
        page.go(sys.argv[1])
        page.wait(DONE)
        check_widths(page)
        if len(sys.argv) > 2:
            check_written_page(page, sys.argv[2])
            check_widths(page)
        assert not page.errors, "\n".join(page.errors)
    finally:
        page.close()
    print("ok: bars, knobs, links, keyboard, widths and colours of the page")


if __name__ == "__main__":
    main()
