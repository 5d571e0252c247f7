"""IRRA's multimodal interaction encoder: text tokens attend to an image, then to each other.

Jiang and Ye, CVPR 2023, arXiv 2303.12501. Used in training only. Parameter names are those of the
released code, which PHP shares.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tbps_cli.nn.block import Attention, Block, LayerNorm, Transformer, init_blocks


class CrossModal(nn.Module):
    """One cross-attention without a residual around it, `layers` blocks of CLIP, a layer norm.

    width: the common embedding E; heads must divide it.
    """

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.cross_attn = Attention(width, heads)
        self.cross_modal_transformer = Transformer(layers, lambda _: Block(width, heads))
        self.ln_pre_t = LayerNorm(width)
        self.ln_pre_i = LayerNorm(width)
        self.ln_post = LayerNorm(width)

    def forward(self, text_BTE: Tensor, image_BPE: Tensor) -> Tensor:
        """Projected tokens of both towers -> text tokens that have seen the image, [B, T, E].

        No padding mask: in the released code padding takes part, and its weights were trained so.
        """
        return self.ln_post(self.cross_modal_transformer(self.attend(text_BTE, image_BPE)))

    def attend(self, text_BTE: Tensor, image_BPE: Tensor) -> Tensor:
        """The cross-attention alone, [B, T, E]."""
        return self.cross_attn(self.ln_pre_t(text_BTE), context=self.ln_pre_i(image_BPE))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw as the released code does: CLIP's rule with the embedding as width."""
        width = self.ln_post.weight.shape[0]
        shrink = (2 * len(self.cross_modal_transformer.resblocks)) ** -0.5
        nn.init.normal_(self.cross_attn.in_proj_weight, std=width**-0.5, generator=generator)
        nn.init.normal_(self.cross_attn.out_proj.weight, std=width**-0.5 * shrink, generator=generator)
        nn.init.zeros_(self.cross_attn.in_proj_bias)
        nn.init.zeros_(self.cross_attn.out_proj.bias)
        init_blocks(self.cross_modal_transformer, width, generator)
