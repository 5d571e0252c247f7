"""PHP and CoMoE, tiny: models with drawn weights, batches, and folders as the released code writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tbps_cli import methods
from tbps_cli.methods.base import Method
from tbps_cli.nn.precision import to_half
from tbps_cli.nn.sizes import Tower
from tbps_cli.types import Batch, Task
from tbps_cli.weights.foreign import OfficialFiles

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = Tower(width=64, layers=1, patch=16, embed=32, text_width=64, text_layers=1, context=12, vocabulary=60)
TASK = Task((48, 32), 5)
SMALL: dict[str, Any] = {"moe_layers": 2, "moe_heads": 4, "reduction": 4, "cross_layers": 1}
YAML = """{options}
batch_size: 64
dataset_name: ICFG-PEDES
img_size: !!python/tuple
- {height}
- {width}
milestones: !!python/tuple
- 20
- 50
name: php
output_dir: logs/ICFG-PEDES/sdm+itc+aux_cnum9
test_batch_size: 64
"""


def drawn(name: str, seed: int = 0, *, lively: bool = True, **more: Any) -> Method:
    """A model with drawn weights, in eval mode. lively: experts do something (they start as identities)."""
    kind = methods.find(name)
    method = kind(kind.Config(name=name, tower=TINY, **SMALL | more), TASK)
    draws = torch.Generator().manual_seed(seed)
    method.initialise(draws)
    for key, value in method.named_parameters():
        if lively and ".up." in key:
            torch.nn.init.normal_(value, std=0.5, generator=draws)
    return method.eval()


def batch(rows: int = 6) -> Batch:
    draws = torch.Generator().manual_seed(1)
    text = torch.randint(1, 50, (rows, 12), generator=draws)
    for row in range(rows):
        text[row, 0], text[row, 3 + row], text[row, 4 + row :] = 58, 59, 0
    masked, label = text.clone(), torch.zeros_like(text)
    masked[:, 2], label[:, 2] = 57, text[:, 2]
    images = torch.randn(rows, 3, 48, 32, generator=draws)
    person = torch.tensor([0, 1, 1, 4, 0, 2])[:rows]
    return Batch({"image": images}, {"text": text, "masked": masked, "label": label}, person, person, person)


def embeddings(method: Method, data: Batch) -> Tensor:
    """[B, 2E]: image and caption side by side."""
    with torch.no_grad():
        image, text = method.encode_images(data.images["image"]), method.encode_texts(data.tokens["text"])
    return torch.cat([image, text], 1)


def apart(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def released(name: str) -> dict[str, Tensor]:
    """The golden weights under the released names."""
    return load_file(GOLDEN / name / "weights.safetensors")


def released_folder(folder: Path, name: str, state: dict[str, Tensor], *, half: bool = True, prefix: str = "") -> Path:
    """best.pth and configs.yaml as the released code writes them, layers half where it keeps them half."""
    model = json.loads((GOLDEN / name / "config.json").read_text())["model"]
    height, width = model["image_size"]
    options = {
        "moe_heads": model["moe_heads"],
        "topk": model["topk"],
        "stride_size": model["stride_size"],
        "loss_names": "sdm+itc+aux",
        "aux_factor": 0.5,
        "temperature": model["temperature"],
    }
    folder.mkdir(parents=True)
    if half:
        types = half_types(name)
        state = {key: value.half() if key in types else value for key, value in state.items()}
    checkpoint = {
        "model": {f"{prefix}{key}": value for key, value in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 3e-6}]},
        "scheduler": {"last_epoch": 4},
        "num_epoch": 60,
        "iteration": 0,
        "epoch": 41,
    }
    torch.save(checkpoint, folder / "best.pth")
    lines = "\n".join(f"{key}: {value}" for key, value in options.items())
    (folder / "configs.yaml").write_text(YAML.format(options=lines, height=height, width=width))
    return folder


def half_types(name: str) -> set[str]:
    """Released names of what pure half precision converts."""
    kind = methods.find(name)
    found = kind.recognise(OfficialFiles(released(name), {"img_size": [64, 32], "moe_heads": 4}, "golden"))
    assert found is not None
    with torch.device("meta"):
        method = to_half(kind(found, Task((64, 32))))
    return {
        method.official.foreign(key) or key
        for key, value in method.state_dict().items()
        if value.dtype == torch.float16
    }
