"""Controls a headless Chromium over its debugging pipe, with Python's standard library only.

The Chrome DevTools protocol (https://chromedevtools.github.io/devtools-protocol/) uses JSON
messages, each followed by a NUL byte, on the browser's descriptors 3 (input) and 4 (output).
"""

import base64
import json
import os
import select
import subprocess
import tempfile
import time

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--remote-debugging-pipe",
]
DEADLINE = 60


class Page:
    """One page in its own browser process."""

    def __init__(self, binary="chromium"):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self.out = os.pipe()
        self.inp, theirs_out = os.pipe()

        def descriptors():
            # One of the pipes may already have number 3 or 4, so both are duplicated first.
            inp = os.dup(theirs_in)
            out = os.dup(theirs_out)
            os.dup2(inp, 3)
            os.dup2(out, 4)

        self.process = subprocess.Popen(
            [binary, *FLAGS, f"--user-data-dir={self.profile.name}", "about:blank"],
            preexec_fn=descriptors, close_fds=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.number = 0
        self.rest = b""
        self.session = None
        self.errors = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ["Page", "Runtime", "Log"]:
            self.call(f"{domain}.enable")

    def close(self):
        self.process.terminate()
        self.process.wait()
        os.close(self.inp)
        os.close(self.out)
        self.profile.cleanup()

    def call(self, method, **params):
        """Calls a method of the DevTools protocol and returns its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def receive(self):
        """Returns the next message; stores errors that the page reports in `errors`."""
        end = time.monotonic() + DEADLINE
        while b"\0" not in self.rest:
            if not select.select([self.inp], [], [], max(end - time.monotonic(), 0))[0]:
                raise TimeoutError("the browser sent no message before the deadline")
            piece = os.read(self.inp, 1 << 16)
            if not piece:
                raise EOFError("the browser closed its pipe")
            self.rest += piece
        text, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(text)
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(json.dumps(params["args"]))
        if method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(json.dumps(params["entry"]))
        return message

    def set_window(self, width, height=900, dark=False):
        """Sets the window size and the colour scheme, and turns animations off."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": scheme},
                            {"name": "prefers-reduced-motion", "value": "reduce"}])

    def go(self, url):
        """Opens a URL and waits until the page is loaded."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def js(self, expression):
        """Evaluates a JavaScript expression in the page and returns its value."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"]))
        return result["result"].get("value")

    def wait(self, condition):
        """Waits until the JavaScript expression `condition` is true."""
        end = time.monotonic() + DEADLINE
        while not self.js(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"the condition is still false at the deadline: {condition}")
            time.sleep(0.02)

    def press(self, key):
        """Presses and releases a key."""
        for kind in ["keyDown", "keyUp"]:
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def shot(self, path, full=True):
        """Writes a screenshot to a PNG file: the full page, or only the visible part."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=full)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))
