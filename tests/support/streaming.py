"""A camera on this machine: a server that sends a video bit by bit, as often as somebody asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PACKET = 188
"""Bytes of a packet of an MPEG transport stream."""


@contextmanager
def served(content: bytes, *, pause: float = 0.02) -> Iterator[str]:
    """The address of a stream with this content, without a stated length."""

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            with suppress(OSError):  # whoever listened has gone
                for start in range(0, len(content), 20 * PACKET):
                    self.wfile.write(content[start : start + 20 * PACKET])
                    self.wfile.flush()
                    time.sleep(pause)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/cam/live.ts"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
