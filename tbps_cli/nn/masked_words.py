"""IRRA's masked-word task as one brick: the cross-modal encoder and the head over the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tbps_cli.nn.cross_modal import CrossModal
from tbps_cli.nn.heads import WordHead


class MaskedWords(nn.Module):
    """Tokens of masked captions and their images -> scores of the hidden words.

    width: the common embedding E; layers: blocks above the cross-attention; heads must divide E.
    """

    def __init__(self, width: int, vocabulary: int, layers: int, heads: int) -> None:
        super().__init__()
        self.cross = CrossModal(width, layers, heads)
        self.head = WordHead(width, vocabulary, layers)

    def forward(self, text_BTE: Tensor, image_BPE: Tensor, label_BT: Tensor) -> Tensor:
        """Scores over the vocabulary at the N places where `label` is not 0, row by row, [N, V] float32."""
        return self.head(self.cross(text_BTE, image_BPE)[label_BT != 0]).float()

    def initialise(self, generator: torch.Generator) -> None:
        """Draw both as IRRA's released code does."""
        self.cross.initialise(generator)
        self.head.initialise(generator)


def read_layers(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """`cross_layers` of the cross-modal encoder below `prefix`; nothing when there is none."""
    blocks = f"{prefix}cross_modal_transformer.resblocks."
    layers = {name.removeprefix(blocks).split(".")[0] for name in tensors if name.startswith(blocks)}
    return {"cross_layers": len(layers)} if layers else {}
