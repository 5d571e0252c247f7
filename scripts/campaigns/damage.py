"""Damaged caches and checkpoints: refused in one line or read as they were; never a hang, a crash or a wrong answer.

Every file is read in a fork of its own batch, with a limit on the processor time that one file may take.
"""

from __future__ import annotations

import json
import logging
import mmap
import random
import shutil
import signal
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.damage import damaged
from support.runs import tiny_recipe, tiny_run

from campaigns.trials import Result, Trial, isolated
from campaigns.workshop import Workshop
from tbps_cli.engine import state
from tbps_cli.engine.state import State, TrainingProgress
from tbps_cli.errors import RecipeError, TbpsError
from tbps_cli.features import footer
from tbps_cli.features.rows import Row
from tbps_cli.features.store import FeatureFile
from tbps_cli.loading import image_store as stores
from tbps_cli.models.run import Run
from tbps_cli.models.summary import summaries
from tbps_cli.prepare.decode import RESAMPLE, build_store
from tbps_cli.searching.gallery import Skipped
from tbps_cli.searching.scan import FoundFiles
from tbps_cli.searching.skipped import SkippedList
from tbps_cli.weights.weights_file import read_metadata, read_safetensors, read_tensors

BATCH = 250
CPU_SECONDS = 5.0
"""That reading one file may take."""
Check = Callable[[bytes], str | None]
"""Reads a damaged file; says in a word what came of it (refused, read as it was, ...), or raises."""


class Wrong(AssertionError):
    """A damaged file was read, and gives something that was never written."""


def trials(place: Workshop, short: bool) -> list[Trial]:
    found = []
    for name, (make, count) in KINDS.items():
        size = 20 if short else BATCH
        for number in range(1 if short else count // BATCH):
            run: Callable[[random.Random], Result] = partial(batch, place, make, number * size, size)
            found.append(Trial("damage", name, number, run))
    return found


def batch(place: Workshop, make: Kind, start: int, count: int, draw: random.Random) -> Result:
    """Damage one file in so many ways and read each; a file that ends the reader is a fault, and the rest goes on."""
    result, done = Result(), 0
    offset = draw.randrange(1 << 20)
    with place.bench() as bench:
        while done < count:
            reached = mmap.mmap(-1, 8)
            part = isolated(partial(_read, make, place, bench, range(done, count), offset, reached), 900)
            ended_at = struct.unpack("q", reached[:8])[0]
            died = bool(part.faults) and part.faults[-1].startswith(("crashed", "hung"))
            if died:
                result.add(f"seed {start + ended_at + offset}: {part.faults.pop()}")
                done = ended_at + 1
            else:
                done = count
            result.count += part.count
            result.faults += part.faults
            result.seen += part.seen
            for path in bench.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return result


def _read(make: Kind, place: Workshop, bench: Path, numbers: range, offset: int, reached: mmap.mmap) -> Result:
    logging.disable()  # every store that is not used would say so
    result = Result()
    content, check = make(place, bench)
    for number in numbers:
        reached[:8] = struct.pack("q", number)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # ends the process, whatever it is in
        try:
            result.add(None, check(damaged(content, number + offset)) or "read as it was")
        except TbpsError as error:
            several = "\n" in error.message and not isinstance(error, RecipeError)  # which lists all that is wrong
            result.add("a message of several lines" if several else None, "refused")
        except Wrong as error:
            result.add(f"seed {number + offset}: {error}")
        except Exception as error:
            result.add(f"seed {number + offset}: {type(error).__name__}: {error}")
        signal.setitimer(signal.ITIMER_PROF, 0)
    return result


Kind = Callable[[Workshop, Path], tuple[bytes, Check]]


# Feature files --------------------------------------------------------------------------------

ROWS = [Row(f"below/{n:02d}.jpg", n, 10**18 + n, f"{n:032x}", "c1", "2024-01-02T03:04:05", n) for n in range(20)]
VECTORS = np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32)


def feature_file(place: Workshop, bench: Path) -> tuple[bytes, Check]:
    path = bench / "rows.h5"
    file = FeatureFile.open(path, "f1", about={"run": "runs/irra-0001", "folder": "/photos"})
    file.append(ROWS, VECTORS)
    file.compact()

    def check(content: bytes) -> str | None:
        path.write_bytes(content)
        found = FeatureFile.open(path, "f1")
        if not content.endswith(footer.MAGIC):
            return "read without a footer"  # then nothing tells a damaged path or time from a right one
        if list(found.known()) != ROWS:
            raise Wrong("rows that were never written")
        differ = int((np.asarray(found.matrix()) != VECTORS).any(axis=1).sum())
        return "a number of an embedding differs" if differ else None

    return path.read_bytes(), check


def older_feature_file(place: Workshop, bench: Path) -> tuple[bytes, Check]:
    whole, check = feature_file(place, bench)
    return whole[: -footer.END - int.from_bytes(whole[-footer.END :][:8], "little")], check


def skipped_list(place: Workshop, bench: Path) -> tuple[bytes, Check]:
    entries = [Skipped(f"{n}.jpg", n, 10**18 + n, "no known image format") for n in range(20)]
    there = SkippedList(bench / "rows.h5")
    there.keep(FoundFiles.of([]), entries)

    def check(content: bytes) -> str | None:
        there.path.write_bytes(content)
        found = SkippedList(bench / "rows.h5").entries
        if not found:
            return "taken for empty"
        for entry in found.values():
            if not (isinstance(entry.path, str) and type(entry.size) is type(entry.mtime) is int):
                raise Wrong(f"an entry of other types: {entry}")
        return None if list(found.values()) == entries else "an image is tried again"

    return there.path.read_bytes(), check


# Checkpoints ----------------------------------------------------------------------------------


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, torch.Tensor):
        return isinstance(found, torch.Tensor) and torch.equal(found, wanted)
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(_equal(found[key], wanted[key]) for key in wanted)
    return bool(found == wanted)


def state_file(place: Workshop, bench: Path) -> tuple[bytes, Check]:
    recipe = state.settings(tiny_recipe())
    parts = {"method": {"w": torch.randn(30, 7), "b": torch.zeros(4)}, "optimizer": {"state": {0: {"step": 3}}}}
    progress = TrainingProgress(1, 2, 6, 0.5, 1, {"R1": 0.5})
    wanted = State(progress, recipe, {"metrics.jsonl": 10}, parts, recipe, {"mark": "x"})
    state.save(bench, wanted)

    def check(content: bytes) -> str | None:
        (bench / state.FILE).write_bytes(content)
        found = state.load(bench)
        if found is None or not _equal(vars(found), vars(wanted)):
            raise Wrong("another state than was written")
        return None

    return (bench / state.FILE).read_bytes(), check


def torch_file(as_zip: bool, place: Workshop, bench: Path) -> tuple[bytes, Check]:
    wanted = {"model": {"module.a": torch.randn(20, 5), "module.b": torch.ones(3).half()}, "epoch": 41, "lr": (20, 50)}
    path = bench / "best.pth"
    torch.save(wanted, path, _use_new_zipfile_serialization=as_zip)

    def check(content: bytes) -> str | None:
        path.write_bytes(content)
        found = read_tensors(path).content
        if _equal(found, wanted):
            return None
        if as_zip:
            raise Wrong("other content than was written")
        return "a number or a name differs"  # the older stream has no checksums

    return path.read_bytes(), check


def safetensors(place: Workshop, bench: Path) -> tuple[bytes, Check]:
    run = tiny_run(bench / "run")
    keep = {name: tensor for name, tensor in list(run.weights().items())[-6:] if tensor.numel() < 5000}
    facts = {"selected_on": "val", "epoch": "3"}
    path = run.save_weights("best", keep, facts)
    shapes = {name: tensor.shape for name, tensor in keep.items()}

    def check(content: bytes) -> str | None:
        path.write_bytes(content)
        found = read_safetensors(path)
        if {name: tensor.shape for name, tensor in found.items()} != shapes:
            raise Wrong("other names or shapes than were written")
        if read_metadata(path) != facts:
            raise Wrong("other facts than were written")
        return None if _equal(found, keep) else "a number of a tensor differs"

    return path.read_bytes(), check


def run_folder(name: str, place: Workshop, bench: Path) -> tuple[bytes, Check]:
    """A text file of a run: the recipe, or the log of its scores."""
    run = Run(shutil.copytree(place.run, bench / "run"))
    path, whole = run.folder / name, run.recipe_with(())
    if name == "metrics.jsonl":
        path.write_text("".join(json.dumps({"epoch": n, "val/t2i_R1": n / 10, "loss": 2.0}) + "\n" for n in range(9)))

    def check(content: bytes) -> str | None:
        path.write_bytes(content)
        summaries(bench)
        # a recipe is a text that people edit: any other valid one is possible
        return None if run.recipe_with(()) == whole else "another setting is read"

    return path.read_bytes(), check


# The store of decoded images ------------------------------------------------------------------


def image_store(name: str, place: Workshop, bench: Path) -> tuple[bytes, Check]:
    root = bench / "CUHK-PEDES" / "imgs"
    shutil.copytree(place.data / "CUHK-PEDES" / "imgs", root)
    paths = sorted(path for path in root.rglob("*.png"))
    whole, _ = build_store(root, paths, (24, 12))
    folder = whole.folder
    path = folder / name
    pixels = np.array(whole.pixels)

    def check(content: bytes) -> str | None:
        path.write_bytes(content)
        found = stores.open_store(root, (24, 12), RESAMPLE, paths)
        if found is None:
            return "not used"
        if found.rows != whole.rows or str(found.shapes) != str(whole.shapes):
            raise Wrong("other rows or shapes than were written")
        return None if np.array_equal(found.pixels, pixels) else "a pixel differs"

    return path.read_bytes(), check


KINDS: dict[str, tuple[Kind, int]] = {
    "feature files": (feature_file, 4000),
    "feature files of earlier versions": (older_feature_file, 1000),
    "lists of images left out": (skipped_list, 250),
    "state.pt": (state_file, 1250),
    "best.pth (zip)": (partial(torch_file, True), 1000),
    "best.pth (older stream)": (partial(torch_file, False), 500),
    "weights.safetensors": (safetensors, 1000),
    "recipe.toml of a run": (partial(run_folder, "recipe.toml"), 250),
    "metrics.jsonl of a run": (partial(run_folder, "metrics.jsonl"), 250),
    "manifest.json of a store": (partial(image_store, "manifest.json"), 250),
    "pixels of a store": (partial(image_store, "pixels.u8"), 250),
}
"""Name -> how it is made, and how many are damaged: 10,000 together."""
