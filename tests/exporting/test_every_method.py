"""Both graphs of every method give the method's own rows, for other batches than the traced one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tbps_cli import methods
from tbps_cli.exporting import graphs
from tbps_cli.methods.base import Method
from tbps_cli.nn.sizes import Tower
from tbps_cli.types import Task

SIZES = {"embed": 32, "text_width": 64, "text_layers": 2, "text_heads": 2}
VIT = Tower(width=64, layers=2, patch=16, heads=2, **SIZES)
WORDS = {"tower": Tower(width=8, layers=(1, 1, 1, 1), heads=4, **SIZES), "vocabulary": 50, "hidden": 8}
IMAGENET = {"image_network": "imagenet", "word_vectors": "trained", "head": "simple"}
OWN = {"textreid": WORDS, "textreid-imagenet": WORDS | IMAGENET}
"""What a method needs beyond the sizes that all share; METHOD-FORM is a further form of one."""


def tiny(name: str) -> Method:
    cls = methods.find(name.partition("-")[0])
    config = cls.Config(**{"name": name.partition("-")[0], "tower": VIT, "weights": "random", **OWN.get(name, {})})
    method = cls(config, Task((64, 32), 0))
    method.initialise(torch.Generator().manual_seed(0))
    return method.eval()


def captions() -> np.ndarray:
    """Ids of three captions of different lengths, the end token the highest, zeros behind it."""
    token_BT = np.zeros((3, 77), np.int64)
    for row, length in enumerate((3, 9, 20)):
        token_BT[row, :length] = np.arange(1, length + 1) + row
        token_BT[row, length - 1] = 49
    return token_BT


def difference(path: Path, name: str, given: np.ndarray, expected: torch.Tensor) -> float:
    row_BE = onnxruntime.InferenceSession(str(path)).run(None, {name: given})[0]
    return float(np.abs(row_BE - expected.numpy()).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*methods.names(), "textreid-imagenet"])
def test_both_graphs_give_the_methods_own_rows(name: str, tmp_path: Path) -> None:
    method = tiny(name)
    image_BCHW = torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    token_BT = captions()
    graphs.write_graphs(method, tmp_path, image_BCHW[:2], torch.from_numpy(token_BT[:2]), {})
    with torch.no_grad():
        image_BE, text_BE = method.encode_images(image_BCHW), method.encode_texts(torch.from_numpy(token_BT))
    assert difference(tmp_path / "image.onnx", "image", image_BCHW.numpy(), image_BE) <= 1e-5
    assert difference(tmp_path / "text.onnx", "tokens", token_BT, text_BE) <= 1e-5
