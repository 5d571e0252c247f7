"""What methods share whose towers LoRA can adapt: `method.lora = {rank = 4, where = "qkvo+mlp"}`.

CLIP's own tensors are frozen then, and the thin matrices take the rate of the group `lora`; what else a method
trains (heads, prompts) it trains as ever. A run keeps weights and matrices apart, so that training can go on;
whoever opens it for inference gets the products folded into the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tbps_cli.methods.base import Method
from tbps_cli.methods.config import Lora, LoraConfig, MethodConfig
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.lora import add_lora, fold_lora, is_lora, with_products
from tbps_cli.types import Group


class LoraMethod(Method):
    """A method on CLIP's towers that LoRA can adapt."""

    Config = LoraConfig
    config: LoraConfig

    frozen_names: frozenset[str] = frozenset()
    """CLIP's own tensors under LoRA; what a method's blocks have beside them (adapters) is trained as ever."""

    def adapted(self, clip: Clip) -> Clip:
        """The towers, with LoRA's matrices where the recipe wants them."""
        if lora := self.config.lora:
            self.frozen_names = frozenset(f"clip.{name}" for name in clip.plain_names())
            add_lora(clip, rank=lora.rank, scale=lora.scale, where=lora.where)
        return clip

    def lora_group(self, name: str) -> Group | None:
        """How LoRA's matrices and CLIP's own tensors are trained under it; None for all others, and without LoRA."""
        if self.config.lora is None:
            return None
        if is_lora(name):
            return Group("lora")
        return Group("frozen") if name in self.frozen_names else None

    def fold(self) -> None:
        if self.config.lora is not None:
            fold_lora(self.clip)
            self.config = self.config.model_copy(update={"lora": None})

    @classmethod
    def state_for(cls, config: Any, state: Mapping[str, Tensor], other: MethodConfig) -> Mapping[str, Tensor]:
        """Matrices go on as matrices under the same settings; else the products are in the weights."""
        lora: Lora | None = config.lora
        if lora is None or lora.fits(other.lora if isinstance(other, LoraConfig) else None):
            return state
        return {name: value for name, value in with_products(state, lora.scale).items() if not is_lora(name)}
