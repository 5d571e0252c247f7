"""What one process of several does that fill one index, in `searching/test_share.py`.

    python -m support.sharing FOLDER INDEX SHARE SECONDS

SECONDS is how long each image takes. Every row is written at once, and said: whoever kills this process knows how many
there were.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from support.encoder import FakeEncoder

from tbps_cli.features import row_sink
from tbps_cli.features.encoder import Embeddings
from tbps_cli.searching.index import index
from tbps_cli.searching.share import WorkShare


class Slow(FakeEncoder):
    batch = 1

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def mixed_images(self, row_BE: Embeddings) -> Embeddings:
        time.sleep(self.seconds)
        return row_BE


def main(folder: str, path: str, share: str, seconds: str) -> None:
    row_sink.FLUSH_ROWS = 1
    gallery = index(
        Slow(float(seconds)),
        folder,
        Path(path),
        batch=1,
        workers=1,
        share=WorkShare.parse(share),
        grown=lambda so_far: print("rows", len(so_far), flush=True),
    )
    print("added", gallery.update.added, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
