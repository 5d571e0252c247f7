"""The rivals of `scripts/bench start`, each a program of its own; nothing of this package is imported.

    PYTHON _starting.py rclip IMAGE TEXT VOCABULARY FOLDER SIZE STORE SENTENCE [rclip's options]
    PYTHON _starting.py plain TEXT STORE IDS
    PYTHON _starting.py open_clip STORE SENTENCE

rclip runs as it is, with its own command line; from outside are changed which graphs and which vocabulary it opens, the
name of the graphs' input, and the size of its images. `plain` is what rclip does, written out: the graph, then all rows
out of SQLite, then the best; its sentence is in ids already. `open_clip` is the script that its users write: a model
(ViT-B/16, random weights, so that nothing is fetched), a sentence, a product with a file of vectors.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np

TOP = 10


def rclip(image: str, text: str, vocabulary: str, folder: str, size: str, store: str, *words: str) -> None:
    os.environ["RCLIP_DATADIR"] = store
    from rclip import main, model, model_download
    from rclip.utils import preprocess

    preprocess.IMAGE_SIZE = int(size)
    model_download.ensure_downloaded = lambda: None
    model_download.download_visual_query_model = lambda *_: image
    model_download.download_textual_model = lambda *_: text
    model_download.download_tokenizer_vocab = lambda *_: vocabulary

    def run_session(self: object, session: Any, batch: Any, **_: object) -> Any:
        return np.asarray(session.run(None, {session.get_inputs()[0].name: batch})[0], np.float32)

    model.Model._run_session = run_session
    os.chdir(folder)
    sys.argv = ["rclip", "--filepath-only", *words]
    main.main()


def plain(graph: str, store: str, ids: str) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    token_BT = np.array([ids.split(",")], np.int64)
    query_E = session.run(None, {session.get_inputs()[0].name: token_BT})[0][0]
    with sqlite3.connect(Path(store) / "plain.sqlite3") as base:
        rows = base.execute("select path, vector from images").fetchall()
    score_G = np.stack([np.frombuffer(vector, np.float32) for _, vector in rows]) @ query_E
    for place in np.argsort(-score_G)[:TOP]:
        print(rows[place][0])


def open_clip(store: str, sentence: str) -> None:
    import open_clip  # type: ignore[import-untyped]
    import torch

    model = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None).eval()
    with torch.inference_mode():
        query_1E = torch.nn.functional.normalize(model.encode_text(open_clip.tokenize([sentence])))
    vector_GE = torch.from_numpy(np.load(Path(store) / "vectors.npy"))
    for place in (query_1E @ vector_GE.T)[0].topk(TOP).indices.tolist():
        print(place)


if __name__ == "__main__":
    {"rclip": rclip, "plain": plain, "open_clip": open_clip}[sys.argv[1]](*sys.argv[2:])
