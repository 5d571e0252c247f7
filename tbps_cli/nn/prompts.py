"""Learned tokens that enter both towers at the first layers: prompts.

How they enter is the same in both released codes (`Prompts`): behind the patches and behind the start token, then
again in the same places before each later layer. Which tokens they are differs. CSKT's are bidirectional: in each
tower n of its own and n that a linear map brings from the other. ECCL's (MaPLe's) are the text tower's alone, and
the image tower gets what linear maps make of them. Parameter names are the released codes'.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tbps_cli.nn.block import Hooks
from tbps_cli.nn.draw import draw_linear_uniform

STD = 0.02


class Prompts(nn.Module):
    """`depth` levels of tokens for either tower, all levels of one number of tokens."""

    depth: int

    @property
    def tokens(self) -> int:
        """Prompt tokens of a level."""
        raise NotImplementedError

    def image_prompts(self) -> list[Tensor]:
        """Level by level [tokens, image width]."""
        raise NotImplementedError

    def text_prompts(self) -> list[Tensor]:
        """Level by level [tokens, text width]."""
        raise NotImplementedError

    def image_hooks(self) -> Hooks:
        """Append level 0 to the patches, then replace these tokens before each later block that has prompts."""
        prompts = self.image_prompts()

        def embedded(x_BPD: Tensor) -> Tensor:
            return torch.cat([x_BPD, _rows(prompts[0], x_BPD)], dim=1)

        def before_block(index: int, x_BPD: Tensor) -> Tensor:
            if not 0 < index < self.depth:
                return x_BPD
            return torch.cat([x_BPD[:, : -self.tokens], _rows(prompts[index], x_BPD)], dim=1)

        return Hooks(embedded, before_block)

    def text_hooks(self) -> Hooks:
        """Put level 0 behind the start token, then replace these tokens before each later block that has prompts."""
        prompts = self.text_prompts()

        def put(level: int, x_BTD: Tensor) -> Tensor:
            first, rest = x_BTD[:, :1], x_BTD[:, 1 + self.tokens :]
            return torch.cat([first, _rows(prompts[level], x_BTD), rest], dim=1)

        def before_block(index: int, x_BTD: Tensor) -> Tensor:
            return put(index, x_BTD) if 0 < index < self.depth else x_BTD

        return Hooks(lambda x_BTD: put(0, x_BTD), before_block)


class PromptBank(Prompts):
    """`depth` levels of 2 n tokens for the image tower and as many for the text tower.

    n: tokens learned on each side; image_width, text_width: the towers' widths.
    """

    def __init__(self, n: int, depth: int, image_width: int, text_width: int) -> None:
        super().__init__()
        self.depth = depth
        deep = depth - 1
        self.ctx = nn.Parameter(torch.empty(n, text_width))
        self.vision = nn.Parameter(torch.empty(n, image_width))
        self.tmap = nn.Linear(text_width, image_width)
        self.compound_prompts_text = nn.ParameterList(torch.empty(n, text_width) for _ in range(deep))
        self.compound_prompt_projections = nn.ModuleList(nn.Linear(text_width, image_width) for _ in range(deep))
        self.compound_prompts_vision = nn.ParameterList(torch.empty(n, image_width) for _ in range(deep))
        self.vmap = nn.Linear(image_width, text_width)
        self.compound_prompt_projections_vision = nn.ModuleList(nn.Linear(image_width, text_width) for _ in range(deep))

    @property
    def tokens(self) -> int:
        """Prompt tokens of a level, 2 n."""
        return 2 * len(self.ctx)

    def image_prompts(self) -> list[Tensor]:
        """Level by level [2 n, image width]: the projected text tokens first, the own ones last."""
        return [
            torch.cat([to_image(text.to(to_image.weight.dtype)), own.to(to_image.weight.dtype)])
            for own, text, to_image in zip(self._image(), self._text(), self._to_image(), strict=True)
        ]

    def text_prompts(self) -> list[Tensor]:
        """Level by level [2 n, text width]: the own tokens first, the projected image tokens last."""
        return [
            torch.cat([own.to(to_text.weight.dtype), to_text(image.to(to_text.weight.dtype))])
            for own, image, to_text in zip(self._text(), self._image(), self._to_text(), strict=True)
        ]

    def initialise(self, generator: torch.Generator) -> None:
        """Tokens and maps normal, biases zero."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=STD, generator=generator)

    def _text(self) -> list[Tensor]:
        return [self.ctx, *self.compound_prompts_text]

    def _image(self) -> list[Tensor]:
        return [self.vision, *self.compound_prompts_vision]

    def _to_image(self) -> list[nn.Linear]:
        return [self.tmap, *self.compound_prompt_projections]

    def _to_text(self) -> list[nn.Linear]:
        return [self.vmap, *self.compound_prompt_projections_vision]


class TextPrompts(Prompts):
    """`depth` levels of n tokens of the text tower; the image tower gets a projection of each, level by level.

    n: tokens of a level; image_width, text_width: the towers' widths.
    """

    half_parameters = ("ctx",)

    def __init__(self, n: int, depth: int, image_width: int, text_width: int) -> None:
        super().__init__()
        self.depth = depth
        self.ctx = nn.Parameter(torch.empty(n, text_width))
        self.proj = nn.Linear(text_width, image_width)
        self.compound_prompts_text = nn.ParameterList(torch.empty(n, text_width) for _ in range(depth - 1))
        self.compound_prompt_projections = nn.ModuleList(
            _WholeLinear(text_width, image_width) for _ in range(depth - 1)
        )

    @property
    def tokens(self) -> int:
        """n."""
        return len(self.ctx)

    def image_prompts(self) -> list[Tensor]:
        deep = zip(self.compound_prompt_projections, self.compound_prompts_text, strict=True)
        return [self.proj(self.ctx), *(project(text) for project, text in deep)]

    def text_prompts(self) -> list[Tensor]:
        return [self.ctx, *self.compound_prompts_text]

    def initialise(self, generator: torch.Generator) -> None:
        """Tokens normal, maps as PyTorch draws a linear layer; those behind the first are drawn once and copied."""
        for tokens in self.text_prompts():
            nn.init.normal_(tokens, std=STD, generator=generator)
        deep = [layer for layer in self.compound_prompt_projections if isinstance(layer, nn.Linear)]
        draw_linear_uniform([self.proj, *deep[:1]], generator)
        for layer in deep[1:]:
            layer.load_state_dict(deep[0].state_dict())


class _WholeLinear(nn.Linear):
    """A linear layer that stays float32 in a half-precision model, as in ECCL's released code."""

    half_parameters = ()


def _rows(prompt_KD: Tensor, x_BLD: Tensor) -> Tensor:
    return prompt_KD.to(x_BLD.dtype).expand(x_BLD.shape[0], -1, -1)


def make_room(token_BT: Tensor, places: int, placeholder_K: Tensor | None = None) -> Tensor:
    """Ids with `places` placeholders behind the start token, [B, T] as before.

    What no longer fits is cut; a caption whose end token would fall off keeps it at the last place.
    placeholder_K: their ids (default 0; their embeddings are never used, only the shift counts).
    A pure function: the released code edits the batch in place, so that a second pass shifts twice.
    """
    if placeholder_K is None:
        placeholder_K = token_BT.new_zeros(places)
    length = token_BT.shape[1]
    room_BK = placeholder_K.to(token_BT).expand(token_BT.shape[0], -1)
    shifted_BT = torch.cat([token_BT[:, :1], room_BK, token_BT[:, 1 : length - places]], dim=1)
    end_B = token_BT.argmax(dim=1)
    last_B = torch.where(end_B >= length - places, token_BT.amax(dim=1), shifted_BT[:, -1])
    return torch.cat([shifted_BT[:, :-1], last_B[:, None]], dim=1)
