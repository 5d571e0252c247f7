"""What NAM's authors publish, in small."""

from __future__ import annotations

import io

import torch

from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.sizes import Tower

DATASET = "datasets/TwT-6/MLLM4Text-ReID"
TOWER = Tower(width=64, layers=1, patch=16, embed=64, text_width=64, text_layers=1)


def published() -> bytes:
    """An optimizer's state, one process's wrapper, IRRA's names."""
    clip = Clip(TOWER, (384, 128))
    clip.initialise(torch.Generator().manual_seed(0))
    state = {f"module.base_model.{name}": value for name, value in clip.state_dict().items()}
    file = io.BytesIO()
    torch.save({"model": state, "optimizer": {}, "epoch": 3}, file)
    return file.getvalue()
