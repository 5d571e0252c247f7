"""The rivals of `scripts/bench index`, each a program of its own: rclip itself, or what it does, written out.

    PYTHON _indexing.py rclip|plain GRAPH FOLDER SIZE STORE

Both run the same graph with onnxruntime in float32, eight images at a time, prepare images in threads (shorter side to
SIZE, bicubic, the middle cut out), and keep the vectors in SQLite below STORE. For rclip, PYTHON is that of its own
environment, and three things are changed from outside: which graph it opens, the name of the graph's input, and the
size of its images. Nothing of this package is imported here.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

BATCH = 8
MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


def prepared(path: Path, size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """An image as CLIP's own code prepares it, [3, SIZE, SIZE]."""
    image = Image.open(path).convert("RGB")
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, above = (image.width - size) // 2, (image.height - size) // 2
    pixels = np.asarray(image.crop((left, above, left + size, above + size)), np.float32) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


def batches(paths: list[Path], size: int) -> Iterator[tuple[list[Path], Any]]:
    """Eight images at a time, the next ones being prepared meanwhile."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ready = pool.map(lambda path: prepared(path, size), paths)
        for start in range(0, len(paths), BATCH):
            some = paths[start : start + BATCH]
            yield some, np.stack([next(ready) for _ in some])


def plain(graph: str, folder: Path, size: int, store: Path) -> None:
    """Every image of the folder into SQLite."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    with sqlite3.connect(store / "plain.sqlite3") as base:
        base.execute("create table images (path text primary key, size integer, mtime real, vector blob)")
        for some, images in batches(sorted(folder.rglob("*.jpg")), size):
            for path, row in zip(some, session.run(None, {name: images})[0], strict=True):
                state = path.stat()
                values = (str(path), state.st_size, state.st_mtime, row.astype(np.float32).tobytes())
                base.execute("insert into images values (?, ?, ?, ?)", values)
            base.commit()


def rclip(graph: str, folder: Path, size: int, store: Path) -> None:
    """The same by rclip."""
    os.environ["RCLIP_DATADIR"] = str(store)
    from rclip import main, model, model_download
    from rclip.utils import preprocess

    preprocess.IMAGE_SIZE = size
    model_download.ensure_downloaded = lambda: None
    model_download.download_visual_query_model = lambda *_: graph

    def run_session(self: object, session: Any, batch: Any, **_: object) -> Any:
        return np.asarray(session.run(None, {session.get_inputs()[0].name: batch})[0], np.float32)

    model.Model._run_session = run_session
    _, opened, base = main.init_rclip(str(folder), BATCH)
    opened.close()
    base.close()


if __name__ == "__main__":
    way, graph, folder, size, store = sys.argv[1:]
    {"rclip": rclip, "plain": plain}[way](graph, Path(folder), int(size), Path(store))
