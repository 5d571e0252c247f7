"""What one process of the race in `searching/test_concurrent.py` does: index or search a folder again and again.

    python -m support.race write|pile|read|open FOLDER CONTENTS SECONDS [INDEX]

`pile` indexes as if the index were a large one: it leaves its parts beside it, joined now and then, merged seldom.
CONTENTS holds every image that the folder may ever show. Each gallery is compared with the oracle: the embedding
of an image is that of its content. Says when it is ready, and at the end how many galleries it saw; ends with
status 1 and a line about the first that is wrong.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from support.encoder import FakeEncoder

from tbps_cli.errors import CacheError
from tbps_cli.features import row_sink, store
from tbps_cli.features.rows import content_hash
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.index import index
from tbps_cli.searching.index_file import open_index
from tbps_cli.searching.search import search

Oracle = dict[str, np.ndarray]


def oracle_of(contents: Path) -> Oracle:
    """Content -> its embedding."""
    files = sorted(contents.iterdir())
    return dict(zip(map(content_hash, files), FakeEncoder().encode_images(files), strict=True))


def wrong(gallery: Gallery, oracle: Oracle) -> str:
    """What is wrong with a gallery; empty when nothing is."""
    rows, vectors = list(gallery.rows), np.asarray(gallery.vector_GE)
    if len(rows) != len(vectors):
        return f"{len(rows)} rows and {len(vectors)} vectors"
    if len({row.path for row in rows}) != len(rows):
        return "a path comes twice"
    for row, vector_E in zip(rows, vectors, strict=True):
        if row.content not in oracle:
            return f"{row.path} has a content that never was"
        if not np.allclose(oracle[row.content], vector_E, atol=1e-3):  # galleries are in half precision
            return f"{row.path} has the embedding of another image"
    return ""


def wrong_hit(gallery: Gallery, oracle: Oracle, contents: Path) -> str:
    """What is wrong with the first hit for an image that the gallery shows."""
    content = gallery.rows[len(gallery) // 2].content
    file = next(path for path in contents.iterdir() if content_hash(path) == content)
    hit = search(FakeEncoder(), gallery, image=file, top=1)[0]
    found = next(row for row in gallery.rows if row.path == hit.path)
    return "" if found.content == content else f"a search by {file.name} finds {hit.path}"


def main(role: str, folder: Path, contents: Path, seconds: float, path: Path | None) -> None:
    row_sink.FLUSH_ROWS = 1 if role in ("write", "pile") else 4
    if role != "write":
        store.FEW, store.SHARE, store.PARTS = 0, 1, 5
    oracle, model = oracle_of(contents), FakeEncoder()
    print("ready", flush=True)
    began, seen = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        if role == "open":
            assert path is not None
            try:
                gallery = open_index(model, path)
            except CacheError:
                if seen:
                    raise
                time.sleep(0.05)  # nobody has made it yet
                continue
        else:
            gallery = index(model, folder, path, batch=2, workers=2)
        trouble = wrong(gallery, oracle) or wrong_hit(gallery, oracle, contents)
        if trouble:
            sys.exit(f"gallery {seen}: {trouble}")
        seen += 1
    print(seen)


if __name__ == "__main__":
    role, folder, contents, seconds, *rest = sys.argv[1:]
    main(role, Path(folder), Path(contents), float(seconds), Path(rest[0]) if rest else None)
