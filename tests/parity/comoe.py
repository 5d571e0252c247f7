"""CoMoE's golden folder: two variants, both attention axes, chunks, losses, gradients, four steps."""

from __future__ import annotations

from typing import Any

from parity import parsing, tools
from parity.check import Golden

from tbps_cli.methods.comoe import CoMoE
from tbps_cli.types import Task

VARIANTS = {"base": (), "whole": ("coa",)}


def check(golden: Golden) -> None:
    data, whole = parsing.batch(golden.inputs), {}
    for axis, prefix in (("batch", ""), ("token", "token_axis.")):
        models = {name: _variant(golden, parts, axis) for name, parts in VARIANTS.items()}
        whole[axis] = models["whole"]
        parsing.features(golden.outputs, prefix, models, data)
        parsing.losses(golden.outputs, prefix, models["whole"], data)
    parsing.chunks(golden.outputs, whole["batch"], data)
    parsing.similarity(golden.outputs, whole["batch"], data)
    parsing.activations(golden.outputs, whole["batch"], "parts.parser.both", data)
    parsing.position_table(golden, whole["batch"])
    parsing.files(golden, lambda: _variant(golden, VARIANTS["whole"], "batch"), data)


def _variant(golden: Golden, parts: tuple[str, ...], axis: str) -> CoMoE:
    """The model with or without its parser, from the weights that it has."""
    weights = {name: value for name, value in golden.weights.items() if parts or not name.startswith("STransformer")}
    config = CoMoE.recognise(tools.official_files(golden.weights, parsing.options(golden)))
    assert config is not None, "the golden weights are not recognised as CoMoE's"
    update: dict[str, Any] = {"parts": parts, "attention_axis": axis} | parsing.PLAIN
    model = golden.config["model"]
    config = tools.with_heads(config.model_copy(update=update), model)
    return tools.load(CoMoE, config, Task(tuple(model["image_size"]), model["num_classes"]), weights)
