"""A folder that images arrive in over a simulated clock, and a watcher of it without a network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from support.encoder import FakeEncoder

from tbps_cli.features.encoder import Embeddings

START = 1_767_600_000.0
"""The simulated clock begins on 2026-01-05."""
DAY = 86_400.0


class Shades(FakeEncoder):
    """An image's vector turns away from every sentence's by the angle that its colours spell."""

    def image_arrays(self, image_BCHW: Embeddings) -> Embeddings:
        self.batches.append(len(image_BCHW))
        red, green, blue = np.round(image_BCHW.mean(axis=(2, 3)) * 255).astype(int).T
        score = (red * 65536 + green * 256 + blue) / 2**24
        rows = np.zeros((len(score), self.embed), np.float32)
        rows[:, 0], rows[:, 1] = score, np.sqrt(1 - score**2)
        return rows

    def encode_texts(self, texts: Sequence[str], *, batch: int | None = None, query: bool = False) -> Embeddings:
        self.texts += texts
        return np.tile(np.eye(1, self.embed, dtype=np.float32), (len(texts), 1))


def arrive(folder: Path, name: str, score: float, seconds: float) -> Path:
    """An image with this score for every query, changed so many seconds after the start."""
    code = min(2**24 - 1, max(0, round(score * 2**24)))
    folder.mkdir(parents=True, exist_ok=True)
    half = folder / f".{name}.half"
    Image.new("RGB", (8, 16), (code >> 16, code >> 8 & 255, code & 255)).save(half, "PNG")
    os.utime(half, (START + seconds, START + seconds))
    return half.rename(folder / name)


def arrive_all(folder: Path, score: Sequence[float], begin: float, end: float, prefix: str = "") -> list[Path]:
    """Images at equal distances from `begin` to `end`, in seconds after the start."""
    moments = np.linspace(begin, end, len(score), endpoint=False)
    return [
        arrive(folder, f"{prefix}{int(moment):08d}-{number:05d}.png", value, moment)
        for number, (value, moment) in enumerate(zip(score, moments, strict=True))
    ]
