"""Tiny runs and official folders, made as our code and the papers' write them; for any test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tbps_cli.models.model import build
from tbps_cli.models.run import Run
from tbps_cli.recipe import load as recipes
from tbps_cli.recipe.draft import Draft
from tbps_cli.recipe.schema import Recipe
from tbps_cli.weights.weights_file import read_safetensors

GOLDEN = Path(__file__).parents[1] / "golden" / "irra"
HALF = "attn.", "mlp.", "proj", "conv1", "classifier", "cross_attn", "dense", "fc."
"""Parts of names that the papers' code keeps in half precision."""


def tiny_recipe(name: str = "tiny", **method: object) -> Recipe:
    """Plain CLIP with towers of 32, over the real vocabulary, images of 32 x 16."""
    tower = {"width": 32, "layers": 1, "patch": 8, "embed": 16, "text_width": 32, "text_layers": 1}
    values: dict[str, object] = {
        "name": name,
        "data": {"name": "synthetic", "image_size": [32, 16]},
        "method": {"name": "clip", "weights": "random", "tower": tower | {"heads": 2, "text_heads": 2}, **method},
    }
    return recipes.build(Draft(values, {}, name))


def tiny_run(folder: Path, recipe: Recipe | None = None, seed: int = 0, **facts: object) -> Run:
    """A run of random weights."""
    recipe = recipe or tiny_recipe()
    method = build(recipe)
    method.initialise(torch.Generator().manual_seed(seed))
    run = Run.create(folder, recipe)
    run.save_weights("best", method.state_dict(), {"selected_on": "val", **facts})
    return run


def golden_state() -> dict[str, Tensor]:
    return read_safetensors(GOLDEN / "weights.safetensors")


YAML = """MLM: true
batch_size: 64
dataset_name: ICFG-PEDES
img_size: !!python/tuple
- {height}
- {width}
loss_names: sdm+mlm+id
milestones: !!python/tuple
- 20
- 50
name: iira
output_dir: /home/author/logs/ICFG-PEDES/iira
pretrain_choice: /home/author/ViT-B-16.pt
root_dir: /home/author/data
stride_size: 16
temperature: 0.02
"""


def irra_folder(folder: Path, state: dict[str, Tensor], *, half: bool = True, prefix: str = "module.") -> Path:
    """An IRRA folder as its code writes it: best.pth with half weights, and configs.yaml."""
    folder.mkdir(parents=True)
    if half:
        state = {name: tensor.half() if _is_half(name) else tensor for name, tensor in state.items()}
    checkpoint: dict[str, Any] = {
        "model": {f"{prefix}{name}": tensor for name, tensor in state.items()},
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-5}]},
        "scheduler": {"milestones": (20, 50), "last_epoch": 4},
        "num_epoch": 60,
        "iteration": 0,
        "epoch": 41,
    }
    torch.save(checkpoint, folder / "best.pth")
    height, width = json.loads((GOLDEN / "config.json").read_text())["model"]["image_size"]
    (folder / "configs.yaml").write_text(YAML.format(height=height, width=width))
    return folder


def _is_half(name: str) -> bool:
    return any(part in name for part in HALF) and ".ln" not in name
