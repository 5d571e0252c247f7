"""The keys of `[method]` that every method has; each method's own `Config` adds to them.

Apart from `methods.base`, so that a recipe can be read and most of it checked without importing torch.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from tbps_cli.nn.sizes import TOWERS, Tower, spelled
from tbps_cli.section import Count, Positive, Section

LONGEST_CONTEXT = 4096
"""Tokens of a caption; more is a slip of the keyboard, since attention costs the square of it."""


class MethodConfig(Section):
    """Keys of `[method]` that every method has."""

    takes_context: ClassVar[bool] = True
    """Whether captions go through a tower with a table of positions, so that `context` means something."""

    name: str
    """Chooses the file in tbps_cli/methods."""
    tower: str | Tower = "ViT-B-16"
    """A name of `nn.sizes.TOWERS`, or the table of sizes itself."""
    weights: str = "openai"
    """Where the towers start: a tag of open_clip's catalogue, a path, hf-hub:OWNER/REPO:FILE, or "random"."""
    context: Annotated[int, Field(ge=3, le=LONGEST_CONTEXT)] | None = None
    """Tokens of a caption, start and end included; left out, what the weights were made for (77). A longer table of
    positions is made from theirs, linearly, and has to be trained."""
    long_captions: Literal["cut", "chunk"] = "cut"
    """What happens to captions and queries longer than the context: cut, as all papers do, or embedded in pieces
    whose vectors are averaged. May be set after training."""

    @field_validator("tower")
    @classmethod
    def _known_tower(cls, value: str | Tower) -> str | Tower:
        if isinstance(value, Tower):
            return value
        name = spelled(value)
        if name not in TOWERS:
            raise ValueError(f"must be one of {', '.join(TOWERS)}, or a table of sizes")
        return name

    @field_validator("context")
    @classmethod
    def _has_positions(cls, value: int | None) -> int | None:
        if value is not None and not cls.takes_context:
            raise ValueError("this method has no table of text positions: leave context out")
        return value

    @property
    def sizes(self) -> Tower:
        """The towers' sizes, whether named or stated, with the context that is asked for."""
        sizes = self.tower if isinstance(self.tower, Tower) else TOWERS[self.tower]
        return sizes if self.context is None else sizes.model_copy(update={"context": self.context})

    @property
    def states_context(self) -> bool:
        """Whether the context is set, here or in a table of sizes, so that it does not follow the weights."""
        in_table = isinstance(self.tower, Tower) and "context" in self.tower.model_fields_set
        return self.context is not None or in_table

    def need_vit(self) -> Tower:
        """The sizes, for a method that changes or reads a transformer's blocks. Raises ValueError for a ResNet."""
        if self.sizes.is_resnet:
            raise ValueError(f"tower: {self.name} needs a vision transformer (ViT-B-32, ViT-B-16, ViT-L-14, ...)")
        return self.sizes

    def check_batch(self, pairs: int) -> None:
        """Raises RecipeError when training cannot take batches of so many pairs (queues)."""


class Lora(Section):
    """`[method.lora]`: CLIP's own tensors are frozen, and beside some of them a product of two thin ones is trained."""

    rank: Count = 4
    """Rows of A and columns of B: the product B A has as many numbers as its weight, but few that are trained."""
    alpha: Positive | None = None
    """The product counts alpha / rank times; once when left out."""
    where: str = "qkvo+mlp"
    """Which matrices of every block: letters of attention's projections (query, key, value, output), then "+mlp" for
    both layers of the MLP; or "mlp" alone."""

    @field_validator("where")
    @classmethod
    def _known_places(cls, value: str) -> str:
        if not re.fullmatch(r"mlp|(?=[qkvo])q?k?v?o?(\+mlp)?", value):
            raise ValueError('must name places among q, k, v, o and mlp in this order, as in "qkvo+mlp", "qv" or "mlp"')
        return value

    @property
    def scale(self) -> float:
        """What the products are multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def fits(self, other: Lora | None) -> bool:
        """Whether matrices that were trained under the other settings mean the same under these."""
        return other is not None and (self.rank, self.scale, self.where) == (other.rank, other.scale, other.where)


class LoraConfig(MethodConfig):
    """The keys of a method whose towers can be adapted by LoRA."""

    lora: Lora | None = None
    """Left out, the towers themselves are trained as the method says."""

    @field_validator("lora")
    @classmethod
    def _adaptable(cls, value: Lora | None, info: ValidationInfo) -> Lora | None:
        tower = info.data.get("tower")
        if value is None or tower is None:  # no tower: its own mistake is told
            return value
        sizes = tower if isinstance(tower, Tower) else TOWERS[tower]
        if sizes.is_resnet:
            raise ValueError("adapts a vision transformer, which the tower has to be (ViT-B-32, ViT-B-16, ...)")
        narrow = min(sizes.width, sizes.text_width)
        if value.rank > narrow:
            raise ValueError(f"has a rank of {value.rank}, more than the narrower tower's width of {narrow}")
        return value
