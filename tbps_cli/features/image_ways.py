"""How an encoder can embed images: exactly, in float32, and in ways that are quicker and nearly the same.

Embeddings of two ways are never in one file: what a way's fingerprint ends in names it. Sentences are always embedded
in float32; a quick way is taken only where its image vectors stand in for those of float32 (`features.fastest_way`).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import UsageError
from tbps_cli.features.encoder import Embeddings, Encoder, ImageWay

if TYPE_CHECKING:
    from tbps_cli.augment.transform import EvalTransform

ON_CPU = 8
"""Images at a time on a CPU. Measured with ViT-B/16 on two cores: 1.1 times as fast as 64 at a time, in less memory."""
PRECISIONS = "auto", "fp32", "bf16", "int8"


SUFFIXES = "", "-bf16", "-openvinobf16"
"""Of the fingerprints of all ways, also of those that this machine does not have: an index may come from another."""


class ImagesBy:
    """The images of an encoder embedded in one of its ways: an `ImageEncoder`, whose fingerprint names the way."""

    def __init__(self, encoder: Encoder, way: ImageWay) -> None:
        self.encoder, self.way = encoder, way
        self.fingerprint = encoder.fingerprint + way.suffix

    @property
    def path(self) -> Path:
        return self.encoder.path

    @property
    def batch_dependent(self) -> str | None:
        return self.encoder.batch_dependent

    @property
    def max_pixels(self) -> int:
        return self.encoder.max_pixels

    @property
    def transform(self) -> EvalTransform:
        return self.encoder.transform

    def image_arrays(self, image_BCHW: NDArray[np.float32]) -> Embeddings:
        """As `ImageEncoder` says."""
        return self.way.embed(image_BCHW)


def own_way(encoder: Encoder) -> ImageWay:
    """The encoder as it is, which every encoder has."""
    return ImageWay(encoder.precision, encoder.precision, "", encoder.image_arrays, encoder.batch)


def asked_way(encoder: Encoder, precision: str) -> ImageWay:
    """The way of a precision that somebody asked for by name. Raises UsageError where the encoder has none."""
    for way in reversed(encoder.image_ways()):
        if way.precision == precision:
            return way
    hints = {
        "int8": f"Export it: tbps export --ckpt {encoder.path} --quantize int8 --out FOLDER",
        "bf16": "This processor has no arithmetic for it (avx512_bf16 or amx_bf16), or the export no runtime.",
        "fp32": f"{encoder.path} is an export in {encoder.precision}: give the run that it was made from.",
    }
    if precision not in hints:
        raise UsageError(f"--precision {precision}: there is none such.", f"One of {', '.join(PRECISIONS)}.")
    raise UsageError(f"--precision {precision}: {encoder.path} cannot embed images so here.", hints[precision])


@lru_cache(maxsize=1)
def processor() -> tuple[str, frozenset[str]]:
    """The model and the features of this processor, where the system says them (Linux)."""
    name, flags = "", frozenset[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return name, flags
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        if key.strip() == "flags":
            return name, frozenset(value.split())
    return name, flags


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 itself; elsewhere it is slower than float32."""
    return bool({"avx512_bf16", "amx_bf16"} & processor()[1])
