"""What an index costs as it grows: to open, to ask, to add to, to compare with its folder, and how much memory.

scripts/bench growth [--rows N ...] [--rounds N] [--svg FILE]

For each number of rows there is a folder of so many small images (hard links to a few files), an index of it of 512
numbers in half precision, and an exported model of tiny towers, so that what is timed is the index and not the model.

* open: the file, its rows and vectors, in a process that has imported everything.
* query: the ten best of a vector; filter: the same among the 5 % of one camera with the filter itself, each for the
  second time.
* add: 1,000 rows more, kept on the disk, and the newest state taken; what that wrote, beside the size of the file.
* vanish: 1,000 rows that are gone, likewise. merge: all of that merged by the thread of `tbps index`; the longest that
  a look at the clock each millisecond waited meanwhile.
* memory: what a process has for itself when every row was asked for once, over the size of the float16 vectors.
* list: `index` over the folder with nothing new; beside it the walk over folders and states of files alone, which
  nothing that looks at each file can do without.
* search: `tbps search SENTENCE --in FILE --where "camera == 'cam03'"` as a process of its own, and the most memory
  that it had for itself (Anonymous in /proc/PID/smaps_rollup: pages of the file that are only read do not count, since
  the system takes them back when it needs them). The smallest index shows what Python and the model take.

Times are processor time, of all threads, so that a busy machine changes them little; the quickest round counts. Of
the listing, which waits for the system, the seconds on the clock stand beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# at the end: a benchmark here bears the name of a standard module
from benchmarks import _curves, _machine
from benchmarks.index import write_run
from benchmarks.scaling import table
from PIL import Image

from tbps_cli.exporting.exporter import export
from tbps_cli.features.rows import Row, Rows
from tbps_cli.features.store import FeatureFile
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.parse import parse
from tbps_cli.models.checkpoint import opened
from tbps_cli.retrieval.rank import topk
from tbps_cli.searching.gallery import Gallery, Roots
from tbps_cli.searching.index import index
from tbps_cli.searching.sources import find_sources

WIDTH = 512
CAMERAS = 20
ADDED = 1000
LINKS = 50_000
"""Of one file: a file system allows 65,000."""
WHERE = "camera == 'cam03'"
Array = Any


def write_folder(folder: Path, count: int) -> None:
    """So many images in folders of a thousand."""
    for number in range(count):
        camera, inside = number % CAMERAS, number // CAMERAS
        place = folder / f"cam{camera:02}" / f"{inside // 1000:03}"
        source = folder.with_name("images") / f"{camera}-{inside // LINKS}.jpg"
        if not inside % 1000:
            place.mkdir(parents=True)
        if not inside % LINKS:
            source.parent.mkdir(exist_ok=True)
            Image.new("RGB", (16, 32), (camera * 12, inside % 251, 90)).save(source)
        os.link(source, place / f"{inside:07}.jpg")


def write_index(folder: Path, file: Path, fingerprint: str, run: str) -> None:
    """The index of a folder, with random vectors."""
    found = find_sources([folder]).list().items.found  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    made = FeatureFile.open(file, fingerprint, dtype=np.float16, about={"run": run, "folder": str(folder.resolve())})
    for start in range(0, len(found), 65_536):
        some = found.take(np.arange(start, min(start + 65_536, len(found))))
        count = len(some)
        vector_NE = rng.standard_normal((count, WIDTH), dtype=np.float32)
        vector_NE /= np.linalg.norm(vector_NE, axis=1, keepdims=True)
        columns = {
            "path": some.name_N,
            "size": some.size_N,
            "mtime": some.mtime_N,
            "content": np.array([b"%032x" % (start + number) for number in range(count)]),
            "camera": some.name_N.astype("S5"),
            "time": np.array([b"2026-01-%02dT%02d:%02d:00" % (1 + n % 28, n % 24, n % 60) for n in range(count)]),
            "person": np.full(count, b"null"),
        }
        made.append(Rows(columns), vector_NE)
    made.compact()


def quickest(rounds: int, work: Callable[[], object]) -> float:
    """Processor seconds of the quickest round."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def inside(file: Path, fingerprint: str, rounds: int) -> dict[str, float]:
    """Opening and asking, in this process."""

    def gallery_of() -> Gallery:
        there = FeatureFile.open(file, fingerprint)
        return Gallery("", Roots(file.parent), there.known(), there.matrix())

    def opened_afresh() -> None:
        os.utime(file)  # this process does not check the same file twice
        gallery_of()

    took = {"open": quickest(rounds, opened_afresh)}
    gallery = gallery_of()
    query_QE = np.asarray(gallery.vector_GE[:1], np.float32)
    tree = parse(WHERE).tree

    def filtered() -> None:
        topk(query_QE, gallery.vector_GE[np.flatnonzero(mask(tree, gallery.columns))], 10)

    topk(query_QE, gallery.vector_GE, 10)
    filtered()
    took["query"] = quickest(rounds, lambda: topk(query_QE, gallery.vector_GE, 10))
    took["filter"] = quickest(rounds, filtered)
    return took


def adding(file: Path, fingerprint: str) -> dict[str, float]:
    """A thousand rows more."""
    new = [Row(f"new/{number}.jpg", 1, 2, f"{number:x}".rjust(32, "f"), "cam03") for number in range(ADDED)]
    vector_NE = np.full((ADDED, WIDTH), WIDTH**-0.5, np.float32)
    there = FeatureFile.open(file, fingerprint)
    before = file.stat()

    def add() -> None:
        there.append(new, vector_NE)
        there.settle()

    seconds = quickest(1, add)
    took = {"add": seconds, "bytes": written(file, before), "size": before.st_size}
    opened = time.perf_counter()
    there.matrix()
    took["first look"] = time.perf_counter() - opened
    gone_G = np.zeros(len(there), bool)
    gone_G[:: len(there) // ADDED] = True
    before, parts = file.stat(), written(file, file.stat())
    took["vanish"] = quickest(1, lambda: there.drop(gone_G))
    took["vanish bytes"] = written(file, before) - parts
    there.matrix()
    took["touched"] = touched(there)
    return took | merging(file, fingerprint)


def written(file: Path, before: os.stat_result) -> int:
    """Bytes of the parts of an index, and of the file where it was written again."""
    parts = sum(part.stat().st_size for part in file.with_name(file.name + ".parts").glob("*.h5"))
    again = file.stat()
    return parts + (again.st_size if again.st_ino != before.st_ino else 0)


def touched(there: FeatureFile) -> float:
    """Memory of this process's own after all rows and columns were read, over that of the vectors."""
    matrix, total = there.matrix(), 0.0
    for start in range(0, len(matrix), 8192):
        total += float(matrix[start : start + 8192].sum(dtype=np.float32))
    columns = there.known().columns
    kept = [columns[name] for name in columns]
    assert np.isfinite(total) and kept
    return anonymous(os.getpid()) / max(1, matrix.nbytes)


def merging(file: Path, fingerprint: str) -> dict[str, float]:
    """A merge in the background, however few rows there are to merge, and how it holds up what goes on beside it."""
    there = FeatureFile.open(file, fingerprint)
    began, busy, longest = time.perf_counter(), time.process_time(), 0.0
    there.merge_meanwhile(share=10**9)
    before = time.perf_counter()
    while there.merging:
        time.sleep(0.001)
        longest, before = max(longest, time.perf_counter() - before), time.perf_counter()
    took = {"merge": time.perf_counter() - began, "merge cpu": time.process_time() - busy, "held up": longest}
    there.settle()
    return took


def listing(model: Path, folder: Path, file: Path, rounds: int) -> dict[str, float]:
    """The folder compared with its index, and the walk alone."""
    encoder = opened(model)
    took: dict[str, list[float]] = {"list": [], "list cpu": [], "walk": [], "walk cpu": []}
    for _ in range(rounds):
        for name, work in (("walk", lambda: walk(folder)), ("list", lambda: index(encoder, folder, file))):
            began, busy = time.perf_counter(), time.process_time()
            work()
            took[name].append(time.perf_counter() - began)
            took[f"{name} cpu"].append(time.process_time() - busy)
    return {name: min(times) for name, times in took.items()}


def walk(folder: Path) -> int:
    """How many bytes the files of a folder have: each is looked at once, and nothing else is done."""
    total = 0
    for where, _, _ in os.walk(folder):
        with os.scandir(where) as entries:
            total += sum(entry.stat().st_size for entry in entries if entry.is_file())
    return total


def searching(model: Path, file: Path, rounds: int) -> dict[str, float]:
    """A whole search, and the most memory of its own."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "tbps_cli",
        "search",
        "a man in red",
        "--in",
        str(file),
        "--ckpt",
        str(model),
    ]
    seconds, most = [], 0.0
    for _ in range(rounds):
        process = subprocess.Popen([*command, "--where", WHERE, "--json"], stdout=subprocess.PIPE)
        assert process.stdout
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        while not ended:
            most = max(most, anonymous(process.pid))
            time.sleep(0.003)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        said, process.returncode = process.stdout.read(), os.waitstatus_to_exitcode(status)
        seconds.append(usage.ru_utime + usage.ru_stime)
        if process.returncode or not json.loads(said):
            raise SystemExit("a search failed")
    return {"search": min(seconds), "memory": most}


def anonymous(process: int) -> float:
    """Bytes of memory of its own that a process has."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return 0.0
    return sum(1024.0 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def measured(count: int, place: Path, model: Path, rounds: int) -> dict[str, float]:
    """All figures of one size, each part in a process of its own."""
    folder, file = place / "photos", place / "photos.h5"
    write_folder(folder, count)
    fingerprint = opened(model).fingerprint
    write_index(folder, file, fingerprint, str(model))
    figures: dict[str, float] = {}
    for part in ("inside", "listing", "searching", "adding"):
        words = [part, str(file), fingerprint, str(model), str(folder), str(rounds)]
        done = subprocess.run([sys.executable, "-P", "-m", "benchmarks.growth", "--part", *words], capture_output=True)
        if done.returncode:
            raise SystemExit(done.stderr.decode())
        figures |= json.loads(done.stdout.splitlines()[-1])
    return figures


def part(name: str, file: str, fingerprint: str, model: str, folder: str, rounds: str) -> dict[str, float]:
    """One part of the figures; see `measured`."""
    if name == "inside":
        return inside(Path(file), fingerprint, int(rounds))
    if name == "listing":
        return listing(Path(model), Path(folder), Path(file), int(rounds))
    if name == "searching":
        return searching(Path(model), Path(file), int(rounds))
    return adding(Path(file), fingerprint)


def show(found: dict[int, dict[str, float]]) -> None:
    """The tables."""
    rows = []
    for count, one in found.items():
        ms = [f"{1e3 * one[name]:.1f}" for name in ("open", "query", "filter", "add")]
        share = f"{one['bytes'] / 1e6:.1f} of {one['size'] / 1e6:,.1f}"
        rows.append([f"{count:,}", *ms, share, f"{one['search']:.2f}", f"{one['memory'] / 1e6:.0f}"])
    head = [
        "rows",
        "open, ms",
        "query, ms",
        "5 % of them, ms",
        f"add {ADDED:,}, ms",
        "MB written",
        "tbps search, s",
        "MB",
    ]
    table(head, rows)
    print()
    rows = [
        [
            f"{count:,}",
            f"{1e3 * one['vanish']:.0f}",
            f"{one['vanish bytes'] / 1e6:.2f}",
            f"{1e3 * one['first look']:.0f}",
            f"{one['merge']:.1f}",
            f"{one['merge cpu']:.1f}",
            f"{1e3 * one['held up']:.0f}",
            f"{one['touched']:.2f}",
        ]
        for count, one in found.items()
    ]
    head = [
        "rows",
        f"{ADDED:,} vanish, ms",
        "MB written",
        "vectors as one array, ms",
        "merge, s on the clock",
        "merge, s",
        "held up, ms",
        "memory, all touched",
    ]
    table(head, rows)
    print()
    names = ("walk cpu", "list cpu", "walk", "list")
    rows = [[f"{count:,}", *(f"{one[name]:.2f}" for name in names), f"{one['list cpu'] / one['walk cpu']:.2f}"]
            for count, one in found.items()]  # fmt: skip
    table(
        ["files", "walk alone, s", "nothing new, s", "walk, on the clock", "nothing new, on the clock", "ratio"], rows
    )


CURVES = {
    "list cpu": "folder compared, nothing new",
    "search": "tbps search, whole process",
    "open": "open the index",
    "query": "one query",
    "filter": "one query, 5 % of the rows",
    "add": "add 1,000 rows",
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--part", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.part:
        print(json.dumps(part(*options.part)))
        return
    print(_machine.line("cpu") + "\n")
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TBPS_CACHE_DIR"] = str(Path(folder) / "cache")
        model = Path(folder) / "model"
        export(write_run(Path(folder) / "run", 1, 64), model, formats=("onnx",))
        for count in options.rows:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                found[count] = measured(count, Path(place), model, options.rounds)
    show(found)
    if options.svg:
        curves = {said: [(float(rows), one[name]) for rows, one in found.items()] for name, said in CURVES.items()}
        options.svg.write_text(_curves.plot(curves, across="rows of the index"), encoding="utf-8")


if __name__ == "__main__":
    main()
