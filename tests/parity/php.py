"""PHP's golden folders: four variants, both attention axes, chunks, losses, gradients, four steps under two rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from parity import parsing, tools
from parity.check import Golden
from torch import Tensor

from tbps_cli.methods.php import PHP, Part
from tbps_cli.types import Batch, Task

VARIANTS: dict[str, tuple[Part, ...]] = {"base": (), "crfm": ("crfm",), "efp": ("efp",), "whole": ("crfm", "efp")}
FOREIGN = {"crfm": "safl", "efp": "shared_transformer"}


def check(golden: Golden) -> None:
    data, whole = parsing.batch(golden.inputs), {}
    for axis, prefix in (("batch", ""), ("token", "token_axis.")):
        models = {name: _variant(golden, parts, axis) for name, parts in VARIANTS.items()}
        whole[axis] = models["whole"]
        parsing.features(golden.outputs, prefix, models, data)
        parsing.losses(golden.outputs, prefix, models["whole"], data)
    parsing.chunks(golden.outputs, whole["batch"], data)
    parsing.similarity(golden.outputs, whole["batch"], data)
    _pooled(golden, whole["batch"], data)
    parsing.activations(golden.outputs, whole["batch"], "parts.parser.both", data)
    parsing.position_table(golden, whole["batch"])
    parsing.files(golden, lambda: _variant(golden, VARIANTS["whole"], "batch"), data)


def _variant(golden: Golden, parts: tuple[Part, ...], axis: str) -> PHP:
    """The model with some of the parts, from the weights that they have."""
    absent = tuple(name for part, name in FOREIGN.items() if part not in parts)
    weights: Mapping[str, Tensor] = {
        name: value for name, value in golden.weights.items() if not absent or not name.startswith(absent)
    }
    config = PHP.recognise(tools.official_files(golden.weights, parsing.options(golden)))
    assert config is not None, "the golden weights are not recognised as PHP's"
    update: dict[str, Any] = {"parts": parts, "attention_axis": axis} | parsing.PLAIN | {"part_dropout": 0.0}
    model = golden.config["model"]
    assert config.part_tokens == model["cnum"], "part_tokens"
    config = tools.with_heads(config.model_copy(update=update), model)
    return tools.load(PHP, config, Task(tuple(model["image_size"]), model["num_classes"]), weights)


@torch.no_grad()
def _pooled(golden: Golden, method: PHP, data: Batch) -> None:
    assert method.parts.pool is not None
    pool = method.parts.pool["both"]
    image_BPE, text_BTE = parsing.tokens(golden.outputs, method, data)
    golden.outputs.check("act.crfm.image", pool(image_BPE[:, 1:]))
    golden.outputs.check("act.crfm.text", pool(text_BTE))
