"""The sizes of CLIP's towers: the named ones, and how to read them off a state dict.

Names are open_clip's (`ViT-B-16`); the spelling of OpenAI and IRRA (`ViT-B/16`) is accepted too.
Heads are never stored in a checkpoint: they are width // 64 unless the recipe says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from pydantic import ValidationError, model_validator

from tbps_cli.errors import WeightsError
from tbps_cli.section import Count, Section

HEAD = 64
CONTEXT = 77
"""Places of a caption in every CLIP model that was published."""
_NEEDED = (
    "positional_embedding",
    "text_projection",
    "token_embedding.weight",
    "ln_final.weight",
    "visual.conv1.weight",
)


class Tower(Section):
    """Both towers of one CLIP model. A recipe may name one of `TOWERS` or state the table itself."""

    width: Count
    """Width of the image tower (ViT) or of the stem (ResNet), in channels."""
    layers: Count | tuple[Count, Count, Count, Count]
    """Blocks of the image tower; four numbers make a ResNet."""
    patch: Count | None = None
    """Side of a patch in pixels; none for a ResNet."""
    embed: Count
    """Length of the common embedding."""
    text_width: Count
    text_layers: Count
    heads: Count | None = None
    """Attention heads of the image tower; default width // 64 (ResNet: attention pool, 32 w // 64)."""
    text_heads: Count | None = None
    """Attention heads of the text tower; default text_width // 64."""
    context: Count = CONTEXT
    vocabulary: Count = 49408
    activation: Literal["quickgelu", "gelu"] = "quickgelu"

    @model_validator(mode="after")
    def _widths_divide_into_heads(self) -> Tower:
        pooled = 32 * self.width if self.is_resnet else self.width
        for key, width, heads in (
            ("heads", pooled, self.image_heads),
            ("text_heads", self.text_width, self.text_tower_heads),
        ):
            if width % heads:
                raise ValueError(f"width {width} does not divide into {heads} heads: set tower.{key}")
        return self

    @property
    def is_resnet(self) -> bool:
        return not isinstance(self.layers, int)

    @property
    def image_heads(self) -> int:
        return self.heads or max(1, (32 * self.width if self.is_resnet else self.width) // HEAD)

    @property
    def text_tower_heads(self) -> int:
        return self.text_heads or max(1, self.text_width // HEAD)

    @property
    def cross_heads(self) -> int:
        """Heads of modules that work on the common embedding."""
        return max(1, self.embed // HEAD)


def _vit(width: int, layers: int, patch: int, embed: int, text: int, text_layers: int = 12, **more: Any) -> Tower:
    return Tower(width=width, layers=layers, patch=patch, embed=embed, text_width=text, text_layers=text_layers, **more)


def _resnet(width: int, layers: tuple[int, int, int, int], embed: int, text: int) -> Tower:
    return Tower(width=width, layers=layers, embed=embed, text_width=text, text_layers=12)


TOWERS: dict[str, Tower] = {
    "ViT-B-32": _vit(768, 12, 32, 512, 512),
    "ViT-B-16": _vit(768, 12, 16, 512, 512),
    "ViT-L-14": _vit(1024, 24, 14, 768, 768),
    "ViT-L-14-336": _vit(1024, 24, 14, 768, 768),
    "ViT-H-14": _vit(1280, 32, 14, 1024, 1024, 24, heads=16, activation="gelu"),
    "RN50": _resnet(64, (3, 4, 6, 3), 1024, 512),
    "RN101": _resnet(64, (3, 4, 23, 3), 512, 512),
    "RN50x4": _resnet(80, (4, 6, 10, 6), 640, 640),
    "RN50x16": _resnet(96, (6, 8, 18, 8), 768, 768),
    "RN50x64": _resnet(128, (3, 15, 36, 10), 1024, 1024),
}


def spelled(name: str) -> str:
    """A tower's name as `TOWERS` spells it: `ViT-B/16` and `vit-b-16` become `ViT-B-16`."""
    plain = re.sub(r"[/@_]", "-", name).removesuffix("px").lower()
    for known in TOWERS:
        if known.lower() == plain:
            return known
    return name


def named(sizes: Tower) -> str | Tower:
    """The name in `TOWERS` of towers read off a checkpoint, or their sizes when no name fits.

    Heads and activation are not in a checkpoint: a named tower brings its own (ViT-H-14 has other ones).
    """
    unseen = {"heads", "text_heads", "activation"}
    for name, known in TOWERS.items():
        if known.model_dump(exclude=unseen) == sizes.model_dump(exclude=unseen):
            return name
    return sizes


class _Shaped(Protocol):
    @property
    def shape(self) -> Any: ...


def named_resnet(state: Mapping[str, _Shaped]) -> str | Tower:
    """The name in `TOWERS` of a ResNet (tensor names as below `visual.`), or its sizes when no name fits.

    A file of the image tower alone says nothing about a text tower: those sizes are placeholders. One without
    an attention pool (ImageNet's) has the name of CLIP's with the same stages.
    """
    stages = [_count(state, rf"layer{stage}\.(\d+)\..*") for stage in range(1, 5)]
    layers = stages[0], stages[1], stages[2], stages[3]
    width = int(state["layer1.0.conv1.weight"].shape[0])
    pool = state.get("attnpool.c_proj.weight")
    embed = None if pool is None else int(pool.shape[0])
    for name, known in TOWERS.items():
        if (known.width, known.layers) == (width, layers) and embed in (None, known.embed):
            return name
    if embed is None:
        return Tower(width=width, layers=layers, embed=32 * width, text_width=HEAD, text_layers=1, heads=1)
    return Tower(width=width, layers=layers, embed=embed, text_width=embed, text_layers=1)


def read_sizes(
    state: Mapping[str, _Shaped], activation: Literal["quickgelu", "gelu"] = "quickgelu", *, prefix: str = ""
) -> Tower:
    """The sizes of a state dict with OpenAI's names below `prefix`. Raises WeightsError when it is not a CLIP model.

    Sources: the rules of OpenAI's loader; heads are width // 64.
    """
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    for name in _NEEDED:
        if name not in state:
            raise WeightsError(f"this is not a CLIP state: the tensor {name} is missing.")
    text = {
        "embed": int(state["text_projection"].shape[1]),
        "context": int(state["positional_embedding"].shape[0]),
        "vocabulary": int(state["token_embedding.weight"].shape[0]),
        "text_width": int(state["ln_final.weight"].shape[0]),
        "text_layers": _count(state, r"transformer\.resblocks\.(\d+)\..*"),
    }
    if "visual.proj" in state:
        return _tower(
            width=int(state["visual.conv1.weight"].shape[0]),
            patch=int(state["visual.conv1.weight"].shape[-1]),
            layers=_count(state, r"visual\.transformer\.resblocks\.(\d+)\..*"),
            activation=activation,
            **text,
        )
    first = "visual.layer1.0.conv1.weight"
    if first not in state:
        raise WeightsError(
            f"this is not a CLIP state: both visual.proj (of a ViT) and {first} (of a ResNet) are missing."
        )
    stages = tuple(_count(state, rf"visual\.layer{stage}\.(\d+)\..*") for stage in range(1, 5))
    width = int(state[first].shape[0])
    return _tower(width=width, layers=(stages[0], stages[1], stages[2], stages[3]), activation=activation, **text)


def _tower(**sizes: Any) -> Tower:
    try:
        return Tower(**sizes)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise WeightsError(f"the sizes of this state are not those of a CLIP model: {reason}.") from None


def _count(state: Mapping[str, _Shaped], pattern: str) -> int:
    """How many blocks a state has. Raises WeightsError when their numbers have a gap, so that some are missing."""
    numbers = {match[1] for match in (re.fullmatch(pattern, name) for name in state) if match}
    missing = [str(number) for number in range(len(numbers)) if str(number) not in numbers]
    if missing:
        stack = pattern.partition("(")[0].replace("\\", "").rstrip(".")
        raise WeightsError(f"of {stack} the block {missing[0]} is missing.", "The file is incomplete: copy it again.")
    return len(numbers)
