"""From a key that is pressed in the page of `tbps serve` until the new hits are painted, in a real browser.

scripts/bench page [--rows N] [--keys N] [--gaps MS,MS] [--tracks] [--model demo|vit] [--place DIR]

Headless Chromium types sentences, one key every so many milliseconds, over a gallery of a model of the demo's size (or
of ViT-B/16's) with random weights. Rows are random, of 1,000 persons; each has a drawn image of its own, half of them a
camera and a time, a tenth a person. --tracks makes these rows crops of frames with
tracks, so that the page shows one hit a track. A key is answered when hits are painted that were ranked for a text with
that key in it: where the next key came first, for that of a later one. The page is not changed: what measures is put
into it by the browser. --place DIR keeps model and gallery there for the next time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import _machine
from benchmarks.index import write_images, write_random, write_run
from benchmarks.serve import COLOURS, THINGS, free_port
from playwright.sync_api import Page, sync_playwright

from tbps_cli.features.rows import Row, content_hash
from tbps_cli.features.store import FeatureFile
from tbps_cli.models.checkpoint import opened
from tbps_cli.recipe.load import load
from tbps_cli.searching.index import NARROW

HERE = Path(__file__).parent
DRAWN = 500
"""Different images; each row has a file of its own."""
PERSONS, CAMERAS, DAYS = 1000, 40, 3
FIRST = "a person"
"""Typed before the clock runs."""
PARTS = ("wait", "connection", "request", "server", "render", "sentence", "ranking", "standings", "document")
"""Of the time of a key, in this order, up to `render`; then what the server spends most on. `wait`: before it is asked
for; `connection`: until one is free; `request`: between page and server, besides."""
PROBE = """
(() => {
  const keys = [], painted = new Set();
  window.probe = keys;
  performance.setResourceTimingBufferSize(1e6);
  addEventListener("keydown", (event) => keys.push({ at: event.timeStamp, key: event.key }), true);
  const usual = window.fetch;
  window.fetch = async (path, options) => {
    if (path !== "/v1/search") return usual(path, options);
    const last = keys.length - 1, asked = performance.now();
    const reply = await usual(path, options);
    const read = reply.json.bind(reply);
    reply.json = async () => {
      const found = await read();
      const came = performance.now(), sent = performance.getEntriesByName(reply.url).at(-1);
      found.probe = { last, asked, came, connection: sent.requestStart - sent.startTime, ...found.bench };
      return found;
    };
    return reply;
  };
  addEventListener("DOMContentLoaded", () => new MutationObserver(() => {
    const shown = answer?.probe;
    if (!shown || painted.has(shown)) return;
    painted.add(shown);
    requestAnimationFrame(() => requestAnimationFrame(() => {
      for (const key of keys.slice(0, shown.last + 1)) key.shown ??= { ...shown, at: performance.now() };
    }));
  }).observe(document.getElementById("hits"), { childList: true }));
})();
"""


def write_model(folder: Path, kind: str) -> Path:
    """A run with random weights, of the demo's recipe or with the towers of ViT-B/16."""
    if kind == "vit":
        return write_run(folder, 12, 768)
    return write_random(folder, load("demo"))


def write_gallery(file: Path, rows: int, run: Path, *, tracks: bool) -> None:
    """An index file, and its images below `images` beside it."""
    model, rng = opened(run), np.random.default_rng(0)
    write_images(file.parent / "drawn", DRAWN)
    bytes_D = [path.read_bytes() for path in sorted((file.parent / "drawn").iterdir())]
    person_PE = rng.standard_normal((PERSONS, model.embed), np.float32)
    made = FeatureFile.open(
        file,
        model.fingerprint,
        dtype=np.float32 if model.embed < NARROW else np.float16,
        about={"run": str(run), "folder": str(file.parent)},
    )
    for start in range(0, rows, 20_000):
        person_G = rng.integers(PERSONS, size=min(20_000, rows - start))
        listed = []
        for number, person in enumerate(person_G.tolist(), start):
            content = bytes_D[number % DRAWN] + number.to_bytes(4, "big")  # after its end: each is a file of its own
            target = file.parent / f"images/{number // 1000:03d}/{number:06d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            listed.append(_row(target, file.parent, content, number, person, rng, tracks=tracks))
        part_GE = person_PE[person_G] + rng.standard_normal((len(listed), model.embed), np.float32)
        made.append(listed, part_GE / np.linalg.norm(part_GE, axis=1, keepdims=True))
    made.compact()


def _row(
    file: Path, folder: Path, content: bytes, number: int, person: int, rng: np.random.Generator, *, tracks: bool
) -> Row:
    state, path = file.stat(), str(file.relative_to(folder))
    about: dict[str, Any] = {"size": state.st_size, "mtime": state.st_mtime_ns, "content": content_hash(content)}
    if number % 2:
        second = int(rng.integers(DAYS * 86400))
        about["time"] = f"{datetime(2026, 1, 5) + timedelta(seconds=second):%Y-%m-%dT%H:%M:%S}"
        about["camera"] = f"camera {int(rng.integers(CAMERAS)) + 1:02d}"
        if tracks:
            about |= {"source": path, "box": (10, 0, 70, 224), "track": str(number % 50)}
            path += "#1"
    return Row(path, person=person if number % 10 == 0 else None, **about)


def sentences(keys: int, seed: int) -> list[str]:
    """What is typed: at least so many keys in all, and nothing that was asked before."""
    rng, made = np.random.default_rng(seed), []
    while sum(map(len, made)) < keys:
        worn = [f"a {COLOURS[rng.integers(len(COLOURS))]} {THINGS[rng.integers(len(THINGS))]}" for _ in range(2)]
        made.append(f"{('woman', 'man')[len(made) % 2]} in {' and '.join(worn)}")
    return made


@contextmanager
def serving(gallery: Path, run: Path) -> Iterator[str]:
    """The address of a server in a process of its own."""
    port = free_port()
    words = [
        sys.executable,
        "-P",
        str(HERE / "_timed_server.py"),
        str(gallery),
        "--ckpt",
        str(run),
        "--port",
        str(port),
    ]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        child.terminate()
        child.wait(30)


def _until(page: Page, expression: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not page.evaluate(f"Boolean({expression})"):
        if time.monotonic() > end:
            raise SystemExit(f"the page did not come so far within {seconds:g} s: {expression}")
        time.sleep(0.02)


def type_keys(page: Page, texts: Sequence[str], gap: float) -> list[dict[str, Any]]:
    """What became of each key."""
    page.evaluate("probe.length = 0")
    found: list[dict[str, Any]] = []
    for text in texts:
        due = time.monotonic()
        for key in text:
            page.keyboard.down(key)
            page.keyboard.up(key)
            due += gap
            time.sleep(max(0.0, due - time.monotonic()))
        _until(page, "probe.every((key) => key.shown)", 20)
        found += page.evaluate("probe")
        page.fill("#text", "")
        time.sleep(0.5)
        page.evaluate("probe.length = 0")
    return found


def parts_of(keys: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Milliseconds of each key in all; and of those whose own text was answered, how they were spent."""
    own = [
        key["shown"] | {"pressed": key["at"]}
        for number, key in enumerate(keys)
        if _own(keys, number) and key["key"] != " "
    ]
    return {
        "all": [key["shown"]["at"] - key["at"] for key in keys if key["key"] != " "],  # which asks for nothing new
        "wait": [one["asked"] - one["pressed"] for one in own],
        "request": [one["came"] - one["asked"] - one["connection"] - one["server"] for one in own],
        **{name: [one.get(name, 0.0) for one in own] for name in PARTS if name not in ("wait", "request", "render")},
        "render": [one["at"] - one["came"] for one in own],
    }


def _own(keys: Sequence[dict[str, Any]], number: int) -> bool:
    """Whether hits were painted for the text that ended with this key."""
    return number + 1 == len(keys) or keys[number + 1]["shown"]["asked"] != keys[number]["shown"]["asked"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=120)
    parser.add_argument("--gaps", default="120,300")
    parser.add_argument("--tracks", action="store_true")
    parser.add_argument("--model", choices=("demo", "vit"), default="demo")
    parser.add_argument("--place", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args(argv)
    print(_machine.line())
    with nullcontext(options.place) if options.place else tempfile.TemporaryDirectory() as folder:
        place = Path(folder).absolute()
        run, kept = place / options.model, f"{options.model}-{options.rows}{'-tracks' if options.tracks else ''}"
        if not run.exists():
            write_model(run, options.model)
        gallery = place / kept / "gallery.h5"
        if not gallery.exists():
            gallery.parent.mkdir(parents=True, exist_ok=True)
            write_gallery(gallery, options.rows, run, tracks=options.tracks)
        print(f"{options.rows:,} rows{' with tracks' if options.tracks else ''}, {options.model}")
        print("milliseconds that 50, 95, 99 of 100 keys stayed below, and what the median of each part is")
        heads = "".join(f"{name:>11}" for name in PARTS)
        print(f"{'gap':<8}{'keys':>6}{'painted':>9}{'50':>9}{'95':>9}{'99':>9}   {heads}")
        with serving(gallery, run) as url, sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.add_init_script(PROBE)
            _come(page, url)
            page.focus("#text")
            for gap in [float(text) for text in options.gaps.split(",")]:
                type_keys(page, [FIRST], 0.3)
                print(_line(gap, type_keys(page, sentences(options.keys, int(gap)), gap / 1000)), flush=True)
            browser.close()


def _come(page: Page, url: str) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            page.goto(url)
            break
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.3)
    _until(page, "galleries[0]?.state === 'ready' && galleries[0].images")


def _line(gap: float, keys: Sequence[dict[str, Any]]) -> str:
    parts = parts_of(keys)
    shown = np.percentile(parts["all"], [50, 95, 99])
    times = "".join(f"{value:>9.1f}" for value in shown)
    halves = "".join(f"{float(np.median(parts[name])):>11.1f}" for name in PARTS)
    return f"{gap:<8g}{len(parts['all']):>6}{len(parts['server']):>9}{times}   {halves}"


if __name__ == "__main__":
    main()
