"""Low-rank adaptation (LoRA): beside a frozen weight matrix W a product B A of two thin ones, which is trained.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685. Any method on
CLIP's towers can take it: `add_lora` changes the blocks of a tower in place, `fold_lora` makes them plain again
with B A in W. Matrices are named as in ECCL's released code, but for the output projection's
(`attn.out_proj.lora_A`, there `attn.lora_A_o`). B starts at 0, so that an adapted tower starts as it was.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbps_cli.nn.block import PACKED, Attention, Block, Transformer
from tbps_cli.nn.draw import shapes_alone


class LoraLinear(nn.Linear):
    """W x + b + scale * B A x, with A [rank, inputs] and B [outputs, rank]."""

    half_parameters = ("weight", "bias", "lora_A", "lora_B")

    def __init__(self, plain: nn.Linear, rank: int, scale: float) -> None:
        super().__init__(plain.in_features, plain.out_features)
        self.weight, self.bias = plain.weight, plain.bias
        self.scale = scale
        self.lora_A = nn.Parameter(torch.zeros(rank, plain.in_features))
        self.lora_B = nn.Parameter(torch.zeros(plain.out_features, rank))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + F.linear(self.scale * F.linear(input, self.lora_A), self.lora_B)

    def initialise_additions(self, generator: torch.Generator) -> None:
        """A uniform within 1 / sqrt(inputs), B 0."""
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5, generator=generator)
        nn.init.zeros_(self.lora_B)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """The plain layer with B A in its weights."""
        plain = nn.Linear(self.in_features, self.out_features, device="meta")
        merged = self.weight + _product(self.lora_A, self.lora_B, self.scale).to(self.weight.dtype)
        plain.weight = nn.Parameter(merged, self.weight.requires_grad)
        plain.bias = self.bias
        return plain.train(self.training)


class LoraAttention(Attention):
    """Attention whose packed projections have a `LoraLinear`'s addition each.

    parts: which of q, k and v.
    """

    def __init__(self, plain: Attention, parts: str, rank: int, scale: float) -> None:
        width = plain.out_proj.in_features
        super().__init__(width, plain.heads, plain.dropout)
        self.in_proj_weight, self.in_proj_bias, self.out_proj = plain.in_proj_weight, plain.in_proj_bias, plain.out_proj
        self.parts, self.scale = parts, scale
        for part in parts:
            self.register_parameter(f"lora_A_{part}", nn.Parameter(torch.zeros(rank, width)))
            self.register_parameter(f"lora_B_{part}", nn.Parameter(torch.zeros(width, rank)))
        self.half_parameters = (*Attention.half_parameters, *(f"lora_{one}_{part}" for part in parts for one in "AB"))

    def project(self, x: Tensor, parts: str) -> Tensor:
        plain = super().project(x, parts)
        adapted = [part for part in parts if part in self.parts]
        if not adapted:
            return plain
        # one product with every A, so that the tokens are read once
        low = self.scale * F.linear(x, torch.cat([self.get_parameter(f"lora_A_{part}") for part in adapted]))
        added = {
            part: F.linear(piece, self.get_parameter(f"lora_B_{part}"))
            for part, piece in zip(adapted, low.chunk(len(adapted), dim=-1), strict=True)
        }
        nothing = x.new_zeros(()).expand(x.shape)
        return plain + torch.cat([added.get(part, nothing) for part in parts], dim=-1)

    def initialise_additions(self, generator: torch.Generator) -> None:
        """Every A uniform within 1 / sqrt(inputs), every B 0."""
        for part in self.parts:
            nn.init.kaiming_uniform_(self.get_parameter(f"lora_A_{part}"), a=5**0.5, generator=generator)
            nn.init.zeros_(self.get_parameter(f"lora_B_{part}"))

    @torch.no_grad()
    def folded(self) -> Attention:
        """The plain attention with every B A in its packed weights."""
        with shapes_alone():
            plain = Attention(self.out_proj.in_features, self.heads, self.dropout)
        packed = self.in_proj_weight.clone()
        for part in self.parts:
            product = _product(self.get_parameter(f"lora_A_{part}"), self.get_parameter(f"lora_B_{part}"), self.scale)
            _rows_of(packed, part).add_(product.to(packed.dtype))
        plain.in_proj_weight = nn.Parameter(packed, self.in_proj_weight.requires_grad)
        plain.in_proj_bias, plain.out_proj = self.in_proj_bias, self.out_proj
        return plain.train(self.training)


def add_lora(tower: nn.Module, *, rank: int, scale: float, where: str = "qkvo+mlp") -> None:
    """Adapt every transformer block of a tower in place; the weights themselves stay what they are.

    scale: what B A is multiplied by. where: letters of attention's projections (query, key, value, output),
    then "+mlp" for both layers of the MLP, or "mlp" alone. Raises ValueError when the rank exceeds the width.
    """
    letters, mlp = where.removesuffix("mlp"), where.endswith("mlp")
    parts = "".join(part for part in PACKED if part in letters)
    for block in _blocks(tower):
        width = block.attn.out_proj.in_features
        if rank > width:
            raise ValueError(f"a LoRA rank of {rank} is more than the width of {width}")
        if "o" in letters:
            block.attn.out_proj = LoraLinear(block.attn.out_proj, rank, scale)
        if parts:
            block.attn = LoraAttention(block.attn, parts, rank, scale)
        if mlp:
            block.mlp.c_fc = LoraLinear(block.mlp.c_fc, rank, scale)
            block.mlp.c_proj = LoraLinear(block.mlp.c_proj, rank, scale)


def fold_lora(tower: nn.Module) -> None:
    """Undo `add_lora` in place, with every B A in its weight: the same features, at the cost of plain CLIP."""
    for block in _blocks(tower):
        if isinstance(block.attn, LoraAttention):
            block.attn = block.attn.folded()
        for owner, name in ((block.attn, "out_proj"), (block.mlp, "c_fc"), (block.mlp, "c_proj")):
            layer = owner.get_submodule(name)
            if isinstance(layer, LoraLinear):
                setattr(owner, name, layer.folded())


def _blocks(tower: nn.Module) -> list[Block]:
    return [block for module in tower.modules() if isinstance(module, Transformer) for block in module.blocks]


def is_lora(name: str) -> bool:
    """Whether a parameter is one of the thin matrices."""
    return "lora_A" in name or "lora_B" in name


def with_products(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """A state with scale * B A added to every adapted weight, which becomes float32; A and B stay in it.

    A negative scale undoes it, for files whose weights hold the product already.
    """
    changed = dict(state)
    for name, a in state.items():
        if "lora_A" not in name:
            continue
        module, _, part = name.partition("lora_A")
        product = _product(a, state[name.replace("lora_A", "lora_B")], scale)
        if not part:
            changed[f"{module}weight"] = changed[f"{module}weight"].float() + product
            continue
        packed = f"{module}in_proj_weight"
        if changed[packed] is state[packed]:
            changed[packed] = state[packed].float().clone()
        _rows_of(changed[packed], part.removeprefix("_")).add_(product)
    return changed


def _product(a_RI: Tensor, b_OR: Tensor, scale: float) -> Tensor:
    """scale * B A, [outputs, inputs] in float32."""
    return scale * b_OR.float() @ a_RI.float()


def _rows_of(packed: Tensor, part: str) -> Tensor:
    """The rows of one of q, k and v in packed weights, as a view."""
    return packed.chunk(len(PACKED))[PACKED.index(part)]
