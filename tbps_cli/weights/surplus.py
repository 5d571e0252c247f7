"""Tensors of a published file that a method has no place for: which may be left out, and why.

Most codes of the field grew from IRRA's or RDE's: the same towers, further heads for further losses. Such a file
is read as the method whose inference it has, without those heads, and every tensor left out is named. What could
take part in inference (an adapter, a prompt, a gate, a module of another method) is left out only when the user
names the method, and nothing inside a tower ever is. The table below was found by replacing each group of tensors in
the published codes by random values and comparing the features bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tbps_cli.errors import WeightsError

TOWERS = "base_model."
"""How the names of both towers begin in IRRA's family."""

_PERSONS = "a classifier of the training persons"
_WORDS = "the prediction of masked words, which only training does"
_LPNC = "a loss of LPNC, which only training has"
TRAINING: dict[str, str] = {
    "classifier": _PERSONS,
    **dict.fromkeys(("cross_attn", "cross_modal_transformer", "ln_pre_t", "ln_pre_i", "ln_post", "mlm_head"), _WORDS),
    **dict.fromkeys(("classifier_bge", "classifier_tse", "classifier_id_bge", "classifier_id_tse"), _LPNC),
    **dict.fromkeys(("W", "mlp_bge", "mlp_tse", "classifier_proj", "bottleneck_proj", "img2text"), _LPNC),
    "text_encoder": "LPNC's frozen copy of CLIP's text tower, which only training asks",
    "prompt_learner.token_prefix": "how LPNC's prompts begin in training",
    "prompt_learner.token_suffix": "how LPNC's prompts end in training",
    "mask_token": "what TPR-UET's training puts in place of hidden parts",
}
"""A module or tensor outside the towers -> what it does in training; the features are the same without it."""

SCALARS = "logit_scale", "logit_bias", "input_resolution", "context_length", "vocab_size"
"""Single numbers that OpenAI's archives carry along; no cosine depends on them."""

TWINS = {"prompt_learner.token_.weight": f"{TOWERS}token_embedding.weight"}
"""A second name that a tensor was saved under -> its first; both have to be equal."""

SWITCHED = "prompt_learning_embedding"
"""UATTA's prompt, which inference reads unless the option `prompt_learning` is false."""

_INFERENCE = re.compile(r"(^|[._])(adapters?|prompts?|lora|gates?|experts?|moe)\d*([._]|$)|selection([._]|$)", re.I)
"""Words in names of modules that change embeddings wherever a published code has them."""

Role = Literal["training", "unknown", "inference"]


@dataclass(frozen=True)
class Extra:
    """One tensor of a file for which a method has no place."""

    name: str
    """As in the file."""
    shape: tuple[int, ...]
    role: Role
    """training: embeddings do not need it; inference: some code's embeddings do; unknown: nothing here knows it."""
    why: str
    twin: str | None = None
    """The tensor of the file that it has to be equal to."""

    @property
    def module(self) -> str:
        """The first part of its name."""
        return self.name.partition(".")[0]

    def document(self) -> dict[str, object]:
        """As `tbps convert --json` shows it."""
        return {"name": self.name, "shape": list(self.shape), "why": self.why}


def judge(name: str, tensor: Tensor, options: Mapping[str, Any], readers: Mapping[str, bool]) -> Extra:
    """What a tensor is that some method's key table does not know.

    options: of the file. readers: the other methods whose table knows the name -> whether their inference reads it.
    """
    role, why = _role(name, options, readers)
    return Extra(name, tuple(tensor.shape), role, why, TWINS.get(name))


def _role(name: str, options: Mapping[str, Any], readers: Mapping[str, bool]) -> tuple[Role, str]:
    plain = name.removeprefix(TOWERS)
    if plain in SCALARS:
        return "training", "a number of CLIP's archive, which no cosine depends on"
    if name.startswith(TOWERS):
        return "inference", "it stands inside the towers"
    listed = next((why for part, why in TRAINING.items() if name == part or name.startswith(f"{part}.")), None)
    if listed is not None:
        return "training", listed
    if name in TWINS:
        return "training", f"{TWINS[name]} under a second name"
    if name == SWITCHED:
        off = options.get("prompt_learning") is False
        return ("training", "prompt learning is off") if off else ("inference", "UATTA's prompt, unless it is off")
    reading = [method for method, inference in readers.items() if inference]
    if reading:
        return "inference", f"inference of {' and '.join(reading)} reads it"
    if readers:
        return "training", f"only training of {' and '.join(readers)} reads it"
    if _INFERENCE.search(name):
        return "inference", "modules of this name change embeddings"
    return "unknown", "it stands outside the towers, and no method of tbps knows it"


def check_twins(extras: Iterable[Extra], tensors: Mapping[str, Tensor], file: str) -> None:
    """Raises WeightsError when a tensor left out as a second name of another is not equal to it."""
    for extra in extras:
        if extra.twin is None:
            continue
        first = tensors.get(extra.twin)
        if first is None or not torch.equal(first, tensors[extra.name]):
            raise WeightsError(
                f"{file}: {extra.name} and {extra.twin} should be equal but differ.", "The file is damaged or edited."
            )
