"""What stands above CLIP's tokens in PHP and CoMoE, one for both modalities or one each.

The tokens of a side may be pooled into parts, parsed by blocks with experts, both or neither; the mean of
what results is added to CLIP's own feature of that side. Captions enter whole, padding included, as released.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tbps_cli.nn.moe import INPUT_GATE, collect_shares
from tbps_cli.nn.parsing import PartPool, TokenParser
from tbps_cli.nn.text_tower import at_end

Side = Literal["image", "text"]
BOTH = "both"
"""The module's name where one serves both sides."""


class TokenHead(nn.Module):
    """Projected tokens of CLIP's towers -> one feature an image and one a caption.

    pool, parser: make one; without either, the features are CLIP's. shared: one of each for both sides,
    false: one each. gates: side -> the parser's token gate, where it has several.
    """

    def __init__(
        self,
        *,
        shared: bool,
        pool: Callable[[], PartPool] | None = None,
        parser: Callable[[], TokenParser] | None = None,
        gates: Mapping[Side, str] | None = None,
    ) -> None:
        super().__init__()
        sides = (BOTH,) if shared else ("image", "text")
        self.shared, self.gates = shared, gates or {}
        self.pool = nn.ModuleDict({side: pool() for side in sides}) if pool else None
        self.parser = nn.ModuleDict({side: parser() for side in sides}) if parser else None

    def image_feature(self, image_BPE: Tensor) -> Tensor:
        """[B, 1 + P, E], class token first -> [B, E] float32, not normalised."""
        return image_BPE[:, 0].float() + self(image_BPE[:, 1:], "image")

    def text_feature(self, text_BTE: Tensor, token_BT: Tensor) -> Tensor:
        """[B, T, E] and the ids that it comes from -> [B, E] float32, not normalised."""
        return at_end(text_BTE, token_BT).float() + self(text_BTE, "text")

    def features(self, image_BPE: Tensor, text_BTE: Tensor, token_BT: Tensor) -> dict[str, Tensor]:
        """Both features, and under "balance" the experts' shares [B, M, 2, X], images' mixtures first."""
        with collect_shares(self) as shares:
            features = {"image": self.image_feature(image_BPE), "text": self.text_feature(text_BTE, token_BT)}
        return features | {"balance": torch.stack(shares, 1)} if shares else features

    def forward(self, x_BLE: Tensor, side: Side) -> Tensor:
        """The mean over the tokens that pooling and parser make of these, [B, E] float32; 0 without either."""
        if self.pool is None and self.parser is None:
            return x_BLE.new_zeros((), dtype=torch.float32)
        module = BOTH if self.shared else side
        if self.pool is not None:
            x_BLE = self.pool[module](x_BLE)
        if self.parser is not None:
            x_BLE = self.parser[module](x_BLE, self.gates.get(side, INPUT_GATE))
        return x_BLE.mean(1).float()

    def initialise(self, generator: torch.Generator) -> None:
        """Draw every pool, then every parser, as the released codes do."""
        for module in self.modules():
            if isinstance(module, PartPool | TokenParser):
                module.initialise(generator)


def read_token_head(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """What the shapes of the tensors below `prefix` say, under the names of the recipes' keys."""
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    sides = {name.split(".")[1] for name in own}
    shared = "image" not in sides
    side = BOTH if shared else "image"
    found: dict[str, Any] = {"share_modalities": shared}
    if f"pool.{side}.part_tokens" in own:
        found["part_tokens"] = len(own[f"pool.{side}.part_tokens"])
    blocks = f"parser.{side}.resblocks."
    gate, down = (own.get(f"{blocks}0.feed_forward.{name}.weight") for name in ("task_gate", "experts.0.down"))
    if gate is not None and down is not None:
        found["moe_layers"] = len({name.removeprefix(blocks).split(".")[0] for name in own if name.startswith(blocks)})
        found |= {"num_experts": len(gate), "reduction": down.shape[1] // len(down)}
    return found
