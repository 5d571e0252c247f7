"""Clocks that jump, and files from before the epoch or after the year 2262: no answer may depend on what time it is."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from support import kill_campaign

from campaigns.children import tbps
from campaigns.trials import Result, Trial
from campaigns.workshop import Workshop, copy

YEAR = 365.25 * 86400
JUMPS: dict[str, Callable[[], Iterator[float]]] = {
    "50 years back": lambda: _constant(-50 * YEAR),
    "before 1970": lambda: _constant(-60 * YEAR),
    "20 years ahead": lambda: _constant(20 * YEAR),
    "after 2262": lambda: _constant(300 * YEAR),
    "an hour back each time": lambda: _drift(-3600.0),
    "a day ahead each time": lambda: _drift(86400.0),
    "to and fro": lambda: _alternate(10 * YEAR),
}
"""What is added to the time each time that somebody asks for it."""
TIMES = {
    "1970": 0,
    "before 1970": -(10**18),
    "year 1": -62_135_596_800 * 10**9,
    "tomorrow": None,
    "2038": 2**31 * 10**9,
    "2106": 2**32 * 10**9,
    "2262": 9_223_372_036 * 10**9,
    "2446": 15_032_385_535 * 10**9,
}
"""Times of change of files, in nanoseconds."""


def _constant(seconds: float) -> Iterator[float]:
    while True:
        yield seconds


def _drift(seconds: float) -> Iterator[float]:
    now = 0.0
    while True:
        now += seconds
        yield now


def _alternate(seconds: float) -> Iterator[float]:
    while True:
        yield seconds
        yield -seconds


def trials(place: Workshop, short: bool) -> list[Trial]:
    found = []
    for number, name in enumerate(["to and fro"] if short else JUMPS):
        found.append(Trial("clock", "system time", number, partial(jumping, place, name)))
    for number, name in enumerate(["2262"] if short else TIMES):
        found.append(Trial("clock", "times of files", number, partial(stamped, place, name)))
    return found


def _patch(name: str) -> None:
    """Let the clock of this process jump; the monotonic one does not, as in the kernel."""
    jumps, real, real_ns = JUMPS[name](), time.time, time.time_ns
    time.time = lambda: real() + next(jumps)
    time.time_ns = lambda: real_ns() + int(next(jumps) * 1e9)


def jumping(place: Workshop, name: str, draw: random.Random) -> Result:
    """Every command that looks at the clock, compared with what it gives under a steady one."""
    result = Result()
    with place.bench() as steady, place.bench() as jumpy:
        for before, bench in ((None, steady), (partial(_patch, name), jumpy)):
            for words in _commands(place, bench):
                ended = tbps(words, bench, before=before)
                fault = ended.fault()
                if before is None and fault:
                    return Result(faults=[f"undisturbed: {fault}"])
                if before is not None:
                    result.add(fault and f"{name}: {fault}")
                (bench / f"{words[0]}.out").write_text(ended.out)
        if different := kill_campaign.difference(steady / "run", jumpy / "run"):
            result.faults.append(f"{name}: the run differs: {different}")
        hits = [json.loads((bench / "search.out").read_text())["hits"] for bench in (steady, jumpy)]
        if [hit["path"] for hit in hits[0]] != [hit["path"] for hit in hits[1]]:
            result.faults.append(f"{name}: other hits")
    return result


def _commands(place: Workshop, bench: Path) -> list[list[object]]:
    where = ["--data-root", place.data]
    return [
        ["train", place.recipe, *where, "--out", bench / "run", "--device", "cpu", "--set", "train.save_every=0.05"],
        ["runs", bench],
        ["index", place.photos, "--ckpt", place.run],
        ["search", "a man in red", "--in", place.photos, "--ckpt", place.run, "--json"],
        ["cache", "--json"],
        ["cache", "--clean", "features", "--older-than", "1"],
        ["eval", "--ckpt", bench / "run", "--data", "cuhk-pedes", *where, "--json"],
        ["prepare-data", "synthetic", "--identities", "4", "--data-root", bench / "data"],
        ["export", "--ckpt", bench / "run", "--out", bench / "exported", "--format", "safetensors"],
    ]


def stamped(place: Workshop, name: str, draw: random.Random) -> Result:
    """Images, an index, a run and an annotation whose times are what no clock should say."""
    result, nanoseconds = Result(), TIMES[name]
    moment = int((time.time() + 86400) * 1e9) if nanoseconds is None else nanoseconds
    with place.bench() as bench:
        photos, data = copy(place.photos, bench / "photos"), copy(place.data, bench / "data")
        run = copy(place.run, bench / "runs" / "a")
        for folder in (photos, data, run):
            for path in [folder, *folder.rglob("*")]:
                try:
                    os.utime(path, ns=(moment, moment))
                except (OSError, OverflowError):
                    result.seen["the file system has no such time"] += 1
        where = ["--data-root", data]
        for words in (
            ["index", photos, "--ckpt", run, "--json"],
            ["index", photos, "--ckpt", run, "--json"],
            ["search", "a man in red", "--in", photos, "--ckpt", run, "--json", "--where", 'time > "0"'],
            ["runs", bench / "runs"],
            ["eval", "--ckpt", run, "--data", "cuhk-pedes", *where, "--html", bench / "a.html"],
            ["prepare-data", "cuhk-pedes", *where, "--decode", "96x48"],
            ["train", place.recipe, *where, "--out", bench / "run", "--device", "cpu"],
            ["search", "a man", "--in", photos, "--ckpt", run, "--html", bench / "b.html", "--copy-to", bench / "hits"],
        ):
            ended = tbps(words, bench)
            fault = ended.fault()
            if not fault and words[0] == "index" and json.loads(ended.out)["size"] != 59:
                fault = f"{json.loads(ended.out)['size']} of 59 images are indexed"
            result.add(fault and f"{name}: {fault}")
        shutil.rmtree(bench / "data")
    return result
