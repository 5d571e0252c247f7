"""Both towers of CLIP in one module, with OpenAI's flat parameter names.

`visual.*` is the image tower; the text tower's names have no prefix, so OpenAI's, LAION's and the
papers' weights load unchanged. Sizes come from `nn.sizes.Tower`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from tbps_cli.errors import WeightsError
from tbps_cli.nn.block import Block, Hooks, init_blocks
from tbps_cli.nn.draw import shapes_alone
from tbps_cli.nn.lora import LoraAttention, LoraLinear
from tbps_cli.nn.position import fit_context, resize_grid
from tbps_cli.nn.resnet import ResNet
from tbps_cli.nn.sizes import Tower
from tbps_cli.nn.text_tower import TextTower
from tbps_cli.nn.vit import VisionTransformer

MakeBlock = Callable[[int], Block]


class Clip(TextTower):
    """Image tower (`visual`) and text tower of one CLIP model.

    sizes: the towers; image_size: (height, width) in pixels; stride: of the patches, default the
    patch itself; image_block, text_block: build layer i in place of CLIP's own block;
    text_dropout: on the text tower's attention probabilities, in training only.
    """

    def __init__(
        self,
        sizes: Tower,
        image_size: tuple[int, int],
        *,
        stride: int | None = None,
        image_block: MakeBlock | None = None,
        text_block: MakeBlock | None = None,
        text_dropout: float = 0.0,
    ) -> None:
        plain = lambda _: Block(sizes.text_width, sizes.text_tower_heads, sizes.activation, text_dropout)  # noqa: E731
        super().__init__(
            context=sizes.context,
            vocabulary=sizes.vocabulary,
            width=sizes.text_width,
            layers=sizes.text_layers,
            embed=sizes.embed,
            block=text_block or plain,
        )
        self.sizes = sizes
        self.visual = image_tower(sizes, image_size, stride=stride, block=image_block)

    def image_tokens(self, image_BCHW: Tensor, hooks: Hooks | None = None) -> Tensor:
        """[B, C, H, W] -> [B, 1 + P, E] projected tokens; row 0 is the image's feature."""
        if isinstance(self.visual, ResNet):
            return self.visual.tokens(image_BCHW)
        assert isinstance(self.visual, VisionTransformer)
        return self.visual(image_BCHW, hooks)

    def image_token(self, image_BCHW: Tensor, hooks: Hooks | None = None) -> Tensor:
        """[B, C, H, W] -> [B, E], the image's feature: row 0 of `image_tokens` alone."""
        if isinstance(self.visual, VisionTransformer):
            return self.visual.first(image_BCHW, hooks)
        return self.image_tokens(image_BCHW)[:, 0]

    def initialise(self, generator: torch.Generator) -> None:
        """Draw every parameter as CLIP does before training, then what a method's blocks add. Source: OpenAI CLIP."""
        normal = nn.init.normal_
        normal(self.token_embedding.weight, std=0.02, generator=generator)
        normal(self.positional_embedding, std=0.01, generator=generator)
        normal(self.text_projection, std=self.sizes.text_width**-0.5, generator=generator)
        init_blocks(self.transformer, self.sizes.text_width, generator)
        draw_image_tower(self.visual, generator)
        for module in self.modules():
            if isinstance(module, Block | LoraAttention | LoraLinear):
                module.initialise_additions(generator)

    def start_from(self, state: Mapping[str, Tensor]) -> list[str]:
        """Copy a CLIP state dict (OpenAI's names) into the towers; returns the names that were set.

        Position tables are resized to this model's grid and context. A tensor of another shape, or
        one that is missing, is a WeightsError: nothing is left random behind a message.
        """
        return copy_in(self, self._fit(state), self.plain_names())

    def plain_names(self) -> set[str]:
        """The tensors of CLIP itself: a method's blocks may hold more, which no CLIP state has."""
        with shapes_alone():
            return set(Clip(self.sizes, self.visual.image_size).state_dict())

    def _fit(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fitted = dict(state)
        if "positional_embedding" in fitted:
            fitted["positional_embedding"] = fit_context(fitted["positional_embedding"], self.sizes.context)
        return resized_tables(fitted, self.visual.grid)


def image_tower(
    sizes: Tower,
    image_size: tuple[int, int],
    *,
    stride: int | None = None,
    last_stride: int = 2,
    block: MakeBlock | None = None,
) -> VisionTransformer | ResNet:
    """The image tower alone. stride: of a ViT's patches; last_stride: of a ResNet's last stage."""
    if not isinstance(sizes.layers, int):
        return ResNet(sizes.layers, sizes.width, sizes.embed, sizes.image_heads, image_size, last_stride)
    assert sizes.patch is not None
    return VisionTransformer(
        image_size=image_size,
        patch=sizes.patch,
        stride=stride or sizes.patch,
        width=sizes.width,
        layers=sizes.layers,
        embed=sizes.embed,
        block=block or (lambda _: Block(sizes.width, sizes.image_heads, sizes.activation)),
    )


def draw_image_tower(tower: VisionTransformer | ResNet, generator: torch.Generator) -> None:
    """Draw an image tower as CLIP does before training."""
    if isinstance(tower, ResNet):
        tower.initialise(generator)
        return
    width = len(tower.class_embedding)
    for table in (tower.class_embedding, tower.positional_embedding, tower.proj):
        nn.init.normal_(table, std=width**-0.5, generator=generator)
    nn.init.kaiming_uniform_(tower.conv1.weight, a=5**0.5, generator=generator)
    init_blocks(tower.transformer, width, generator)


def resized_tables(state: Mapping[str, Tensor], grid: tuple[int, int], prefix: str = "visual.") -> dict[str, Tensor]:
    """A state whose image position table fits a grid of (rows, columns)."""
    fitted = dict(state)
    for name in (f"{prefix}positional_embedding", f"{prefix}attnpool.positional_embedding"):
        if name in fitted:
            fitted[name] = resize_grid(fitted[name], grid)
    return fitted


def copy_in(module: nn.Module, state: Mapping[str, Tensor], wanted: Collection[str]) -> list[str]:
    """Copy the tensors of a CLIP state into a module; returns the names that were set.

    wanted: names that must be there. Raises WeightsError when one is missing, or has another shape.
    """
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    needed = own.keys() & set(wanted)
    missing = sorted(name for name in needed if name not in state and not name.endswith("num_batches_tracked"))
    if missing:
        raise WeightsError(
            f"weights: {len(missing)} of the towers' {len(needed)} tensors are missing (first: {missing[0]}).",
            "Choose the tower that the weights belong to: --set method.tower=NAME",
        )
    plain = sorted(name for name in own if name in state)
    wrong = [name for name in plain if own[name].shape != state[name].shape]
    if wrong:
        found, shape = tuple(state[wrong[0]].shape), tuple(own[wrong[0]].shape)
        raise WeightsError(
            f"weights: {wrong[0]} is {found} in the file, the tower needs {shape} ({len(wrong)} such tensors).",
            "Choose the tower that the weights belong to: --set method.tower=NAME",
        )
    with torch.no_grad():
        for name in plain:
            own[name].copy_(state[name])
    return plain
