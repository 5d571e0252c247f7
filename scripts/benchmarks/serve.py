"""`tbps serve` under load: requests a second and how long they take, beside a plain FastAPI server over the same files.

scripts/bench serve [--rows N] [--clients 1,10,20,50] [--seconds S] [--layers N] [--width N] [--engine onnx|torch]
                    [--requests N] [--place DIR]

Client and server run on this machine, over the loopback device. Every request is a sentence that was not asked before,
so that each goes through the model. The gallery holds random unit rows; the towers have random weights, ViT-B/16's text
tower unless --width says otherwise. --engine torch opens the run itself instead of its export. Then, unless --requests
is 0: memory before and after so many requests; what is left of clients that go in the middle of a request; and what a
server answers that is asked by four times as many clients as it lets wait. --place DIR keeps model and gallery there
for the next time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from benchmarks import _machine
from benchmarks.index import write_run

from tbps_cli.exporting.exporter import export
from tbps_cli.features.rows import Row
from tbps_cli.features.store import FeatureFile
from tbps_cli.models.exported import ExportedModel

HERE = Path(__file__).parent
COLOURS = "red", "blue", "green", "white", "black", "grey", "brown", "yellow", "orange", "pink", "purple", "beige"
THINGS = "coat", "jacket", "shirt", "dress", "skirt", "hat", "bag", "backpack", "scarf", "trousers", "shoes", "boots"
LEAVING = 1000
"""Clients that are killed."""
ENOUGH = 300
"""Clients at once that no server is meant to answer."""


def write_gallery(file: Path, rows: int, exported: Path) -> None:
    """An index file of random unit rows of two cameras, and the same rows as an array beside it."""
    model = ExportedModel(exported)
    rng = np.random.default_rng(0)
    made = FeatureFile.open(file, model.fingerprint, about={"run": str(exported), "folder": str(file.parent)})
    parts = []
    for start in range(0, rows, 20_000):
        part = rng.standard_normal((min(20_000, rows - start), model.embed), np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        listed = [
            Row(f"{start + n}.jpg", 1, 1, f"{start + n:032x}", f"c{n % 2}", f"2026-01-05T10:{n % 60:02d}:00")
            for n in range(len(part))
        ]
        made.append(listed, part)
        parts.append(part)
    made.compact()
    np.save(file.with_suffix(".npy"), np.concatenate(parts))


def sentences(seed: int) -> Iterator[str]:
    """Descriptions, hardly one of them twice."""
    draw = random.Random(seed)
    while True:
        worn = " and a ".join(f"{draw.choice(COLOURS)} {draw.choice(THINGS)}" for _ in range(4))
        yield f"a {draw.choice(('man', 'woman', 'person'))} in a {worn}"


@dataclass
class Outcome:
    """What clients saw."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    """Of each request that was answered."""
    status: Counter[int] = field(default_factory=Counter)
    retry: int = 0
    """Refusals that said when to come again."""

    def line(self) -> str:
        """Requests a second, and the times that half, 95 and 99 of 100 requests stayed below, in milliseconds."""
        times = np.array(self.times or [np.nan]) * 1000
        half, most, nearly = np.percentile(times, [50, 95, 99])
        return f"{len(self.times) / self.seconds:>9.1f}{half:>9.1f}{most:>9.1f}{nearly:>9.1f}"


async def _client(port: int, words: Iterator[str], until: float, most: int, outcome: Outcome) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(most):
        if time.perf_counter() > until:
            break
        body = json.dumps({"text": next(words), "top": 10}).encode()
        head = "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}"
        began = time.perf_counter()
        writer.write(head.encode() + b"\r\n\r\n" + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(answer.split("content-length:")[1].split("\r\n")[0])
        await reader.readexactly(length)
        status = int(answer.split()[1])
        outcome.status[status] += 1
        outcome.retry += "retry-after" in answer
        if status == 200:
            outcome.times.append(time.perf_counter() - began)
    writer.close()


async def _load(port: int, clients: int, seconds: float, requests: int) -> Outcome:
    outcome = Outcome()
    began = time.perf_counter()
    each = max(1, requests // clients)
    work = [_client(port, sentences(n + int(began)), began + seconds, each, outcome) for n in range(clients)]
    await asyncio.gather(*work)
    outcome.seconds = time.perf_counter() - began
    return outcome


def load(port: int, clients: int, *, seconds: float = 1e9, requests: int = 1 << 40) -> Outcome:
    """Ask from so many clients at once, each again when it has its answer."""
    return asyncio.run(_load(port, clients, seconds, requests))


@contextmanager
def running(words: Sequence[str], port: int) -> Iterator[int]:
    """A server process; gives its number once it answers searches."""
    child = subprocess.Popen([sys.executable, "-P", *words], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while True:
            if child.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the server did not start: {' '.join(words)}")
            try:
                if load(port, 1, requests=1).status[200]:
                    break
            except (OSError, asyncio.IncompleteReadError, IndexError):
                pass
            time.sleep(0.2)
        yield child.pid
    finally:
        child.terminate()
        child.wait(20)


async def _leave(port: int, clients: int) -> None:
    """Clients that are killed while their request is on its way, or while its answer is."""
    words = sentences(7)
    for number in range(clients):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps({"text": next(words), "top": 10}).encode()
        head = f"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        whole = head.encode() + b"Content-Type: application/json\r\n\r\n" + body
        writer.write(whole[: len(whole) - 5] if number % 2 else whole)
        await asyncio.sleep(0.002)
        writer.transport.abort()


def left_open(pid: int) -> tuple[int, int]:
    """Connections and threads of a process (Linux)."""
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found += str(entry.readlink()).startswith("socket:")
    return found, len(list(Path(f"/proc/{pid}/task").iterdir()))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def megabytes(pid: int) -> float:
    """Memory of a process that is its own (Linux)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty", "Anonymous:"))) / 2048


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--clients", default="1,10,20,50")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--engine", choices=("onnx", "torch"), default="onnx")
    parser.add_argument("--place", type=Path)
    options = parser.parse_args(argv)
    clients = [int(part) for part in options.clients.split(",")]
    print(_machine.line())
    with nullcontext(options.place) if options.place else tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        gallery = place / "gallery.h5"
        if not (gallery.with_suffix(".npy")).exists():
            run = write_run(place / "run", options.layers, options.width)
            export(run, place / "exported", formats=("onnx",))
            write_gallery(gallery, options.rows, place / "exported")
        model = str(place / ("exported" if options.engine == "onnx" else "run"))
        ports = [free_port() for _ in range(2)]
        ours = ["-m", "tbps_cli", "serve", str(gallery), "--ckpt", model, "--port", str(ports[0])]
        plain = [str(HERE / "_plain_server.py"), model, str(gallery.with_suffix(".npy")), str(ports[1])]
        print(f"{options.rows:,} rows, towers {options.layers} x {options.width}, {options.engine}")
        print("answers a second, and milliseconds that 50, 95, 99 of 100 stayed below")
        print(f"{'clients':<10}{'tbps serve':>18}{'':>18}{'plain FastAPI':>18}{'':>18}  ours / plain")
        with running(ours, ports[0]) as pid, running(plain, ports[1]):
            for count in clients:
                found = [load(port, count, seconds=options.seconds) for port in ports]
                ratio = (len(found[0].times) / found[0].seconds) / (len(found[1].times) / found[1].seconds)
                print(f"{count:<10}{found[0].line()}{found[1].line()}{ratio:>10.2f}")
            if not options.requests:
                return
            load(ports[0], 10, requests=500)
            before = megabytes(pid), left_open(pid)
            load(ports[0], 10, requests=options.requests)
            print(f"memory: {before[0]:.0f} MB before {options.requests:,} requests, {megabytes(pid):.0f} MB after")
            asyncio.run(_leave(ports[0], LEAVING))
            time.sleep(2)
            load(ports[0], 1, requests=1)
            after = megabytes(pid), left_open(pid)
            print(
                f"{LEAVING:,} clients that left in the middle of a request: {before[1][0]} connections and "
                f"{before[1][1]} threads before, {after[1][0]} and {after[1][1]} after; {after[0]:.0f} MB"
            )
            flood = load(ports[0], ENOUGH, requests=3 * ENOUGH)
            refused = flood.status[503]
            print(
                f"{ENOUGH} clients: {flood.status[200]:,} answered, {refused:,} refused with 503, "
                f"{flood.retry:,} of these with Retry-After; nothing else: {set(flood.status) <= {200, 503}}"
            )


if __name__ == "__main__":
    main()
