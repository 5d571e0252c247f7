"""Chromium without a window, told what to do through a pipe: pages are opened, keys pressed, expressions evaluated."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CODES = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Page:
    """One page of a browser; see `opened_page`."""

    def __init__(self, read: int, write: int, width: int) -> None:
        self._read, self._write, self._rest, self._number = read, write, b"", 0
        self._session: str | None = None
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(target for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the browser's protocol, and what it answers."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                self._rest += os.read(self._read, 65536)
            one, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(one)
            if answer.get("id") == self._number:
                return dict(answer["result"])

    def value(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression)["result"].get("value")

    def until(self, expression: str, wanted: object) -> Any:
        """Evaluate until the value is the wanted one, for some seconds; returns the last."""
        end = time.monotonic() + 10
        while (value := self.value(expression)) != wanted and time.monotonic() < end:
            time.sleep(0.05)
        return value

    def press(self, key: str) -> None:
        code = {"key": key, "code": key, "windowsVirtualKeyCode": CODES[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)


@contextmanager
def opened_page(path: Path, profile: Path, *, width: int = 1200) -> Iterator[Page]:
    """The page of a file, loaded; the browser ends afterwards."""
    to_browser, write = os.pipe()
    read, from_browser = os.pipe()

    def take_pipes() -> None:
        os.dup2(to_browser, 1003)
        os.dup2(from_browser, 1004)
        os.dup2(1003, 3)
        os.dup2(1004, 4)

    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    words += [f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        words, preexec_fn=take_pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        os.close(to_browser)
        os.close(from_browser)
        page = Page(read, write, width)
        page.call("Page.navigate", url=path.absolute().as_uri())
        page.until("document.readyState + document.documentElement.className", "completejs")
        yield page
    finally:
        process.kill()
        process.wait()
        os.close(read)
        os.close(write)
