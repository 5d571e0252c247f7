"""TextReID's two heads: the plain one, and momentum contrast with its key towers and queues.

Han et al., BMVC 2021, after MoCo (He et al., CVPR 2020). Parameter names are those of the released code.
Keys, queues and classifier are for training only and are not built for a model that is not trained.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbps_cli.errors import WeightsError
from tbps_cli.nn.draw import draw_linear_normal, linear_layers

KEYS = ("v_encoder_k.", "t_encoder_k.", "v_fc_k.", "t_fc_k.")
"""Parts of a `MomentumHead` that follow the queries; no gradient moves them."""
TRAINING = (*KEYS, "loss_evaluator.", "v_fc_q.", "t_fc_q.", "v_queue", "t_queue", "id_queue", "queue_ptr")
"""How the names of what only training needs begin, in both heads."""


class Projection(nn.Module):
    """[B, E] features -> [B, N] scores of N identities: products with unit columns, no bias."""

    def __init__(self, width: int, identities: int) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.empty(width, identities))

    def forward(self, x_BE: Tensor) -> Tensor:
        return x_BE.float() @ F.normalize(self.projection.float(), dim=0)

    def initialise(self, generator: torch.Generator) -> None:
        """Xavier, uniform."""
        nn.init.xavier_uniform_(self.projection, generator=generator)


class PlainHead(nn.Module):
    """A linear layer for each modality into the common space, and the identity classifier."""

    def __init__(self, image_width: int, text_width: int, embed: int, identities: int) -> None:
        super().__init__()
        self.visual_embed_layer = nn.Linear(image_width, embed)
        self.textual_embed_layer = nn.Linear(text_width, embed)
        self.loss_evaluator = Projection(embed, identities) if identities else None

    def image(self, x_BD: Tensor) -> Tensor:
        """Of the image tower -> [B, E], not normalised."""
        return self.visual_embed_layer(x_BD)

    def text(self, x_BD: Tensor) -> Tensor:
        """Of the text tower -> [B, E], not normalised."""
        return self.textual_embed_layer(x_BD)

    def initialise(self, generator: torch.Generator) -> None:
        draw_linear_normal(linear_layers(self), generator)
        if self.loss_evaluator is not None:
            self.loss_evaluator.initialise(generator)


class MomentumHead(nn.Module):
    """The same with momentum copies of both towers, whose keys fill two queues.

    visual, textual: the query towers, to be copied. queue: keys that are kept (K). mlp: two more layers
    before the contrast, with momentum copies of their own; without them the keys go through the query's
    embedding layers, which have no copy.
    """

    v_queue: Tensor
    t_queue: Tensor
    id_queue: Tensor
    queue_ptr: Tensor

    def __init__(
        self,
        visual: nn.Module,
        textual: nn.Module,
        *,
        image_width: int,
        text_width: int,
        embed: int,
        identities: int,
        queue: int,
        mlp: bool = False,
    ) -> None:
        super().__init__()
        self.v_embed_layer = nn.Linear(image_width, embed)
        self.t_embed_layer = nn.Linear(text_width, embed)
        self.v_fc_q: nn.Sequential | None = None
        self.t_fc_q: nn.Sequential | None = None
        self.loss_evaluator: Projection | None = None
        if not identities:
            return
        if mlp:
            self.v_fc_q, self.t_fc_q = _mlp(image_width, embed), _mlp(text_width, embed)
            self.v_fc_k, self.t_fc_k = frozen_copy(self.v_fc_q), frozen_copy(self.t_fc_q)
        self.v_encoder_k, self.t_encoder_k = frozen_copy(visual), frozen_copy(textual)
        self.register_buffer("v_queue", torch.zeros(embed, queue))
        self.register_buffer("t_queue", torch.zeros(embed, queue))
        self.register_buffer("id_queue", torch.full((1, queue), -1))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.int64))
        self.loss_evaluator = Projection(embed, identities)

    def image(self, x_BD: Tensor) -> Tensor:
        """Of the image tower -> [B, E], not normalised."""
        return self.v_embed_layer(x_BD)

    def text(self, x_BD: Tensor) -> Tensor:
        """Of the text tower -> [B, E], not normalised."""
        return self.t_embed_layer(x_BD)

    def queries(self, image_BD: Tensor, text_BD: Tensor) -> tuple[Tensor, Tensor]:
        """What is compared with the keys, from both query towers' outputs; [B, E] each, not normalised."""
        if self.v_fc_q is None or self.t_fc_q is None:
            return self.image(image_BD), self.text(text_BD)
        return self.v_fc_q(image_BD), self.t_fc_q(text_BD)

    @torch.no_grad()
    def keys(self, image_BD: Tensor, text_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys from both key towers' outputs, unit rows [B, E] float32."""
        if self.v_fc_q is None:
            image_BE, text_BE = self.image(image_BD), self.text(text_BD)
        else:
            image_BE, text_BE = self.v_fc_k(image_BD), self.t_fc_k(text_BD)
        return F.normalize(image_BE.float(), dim=1), F.normalize(text_BE.float(), dim=1)

    def follow(self, visual: nn.Module, textual: nn.Module, momentum: float) -> None:
        """Move every copy a little towards its query."""
        follow(self.v_encoder_k, visual, momentum)
        follow(self.t_encoder_k, textual, momentum)
        if self.v_fc_q is not None and self.t_fc_q is not None:
            follow(self.v_fc_k, self.v_fc_q, momentum)
            follow(self.t_fc_k, self.t_fc_q, momentum)

    @torch.no_grad()
    def enqueue(self, image_BE: Tensor, text_BE: Tensor, person_B: Tensor) -> None:
        """Overwrite the oldest keys. Of more keys than the queue has places the last ones are kept."""
        size = self.v_queue.shape[1]
        last = slice(max(0, len(person_B) - size), None)
        place = (self.queue_ptr + torch.arange(len(person_B), device=person_B.device)[last]) % size
        # replaced, not written into: the graph of this step still holds the old columns
        self.v_queue = self.v_queue.index_copy(1, place, image_BE[last].T.to(self.v_queue.dtype))
        self.t_queue = self.t_queue.index_copy(1, place, text_BE[last].T.to(self.t_queue.dtype))
        self.id_queue = self.id_queue.index_copy(1, place, person_B[last][None])
        self.queue_ptr = (self.queue_ptr + len(person_B)) % size

    def initialise(self, visual: nn.Module, textual: nn.Module, generator: torch.Generator) -> None:
        """Key towers as their queries, queues of random unit columns with identity -1, and the linear layers."""
        draw_linear_normal([self.v_embed_layer, self.t_embed_layer], generator)
        if self.loss_evaluator is None:
            return
        self.v_encoder_k.load_state_dict(visual.state_dict())
        self.t_encoder_k.load_state_dict(textual.state_dict())
        for mlp in (self.v_fc_q, self.t_fc_q):
            if mlp is not None:
                draw_linear_normal(linear_layers(mlp), generator)
        if self.v_fc_q is not None and self.t_fc_q is not None:
            # the released code draws query and copy apart
            draw_linear_normal(linear_layers(self.v_fc_k, self.t_fc_k), generator)
        for queue in (self.v_queue, self.t_queue):
            queue.copy_(F.normalize(torch.rand(queue.shape, generator=generator), dim=0))
        self.id_queue.fill_(-1)
        self.queue_ptr.zero_()
        self.loss_evaluator.initialise(generator)


def read_head(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """What the tensors of a head below `prefix` say, under the names of the recipes' keys.

    Raises WeightsError when they are of neither head.
    """
    queue, moco = tensors.get(f"{prefix}v_queue"), f"{prefix}v_embed_layer.weight" in tensors
    layer = tensors.get(f"{prefix}{'v_embed_layer' if moco else 'visual_embed_layer'}.weight")
    if layer is None:
        raise WeightsError(
            "the embedding layer of TextReID's head is missing.", "The file is incomplete: copy it again."
        )
    return {
        "head": "moco" if moco else "simple",
        "embed": len(layer),
        "contrast_mlp": f"{prefix}v_fc_q.0.weight" in tensors,
        **({} if queue is None else {"queue": queue.shape[1]}),
    }


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches."""
    return copy.deepcopy(module).requires_grad_(requires_grad=False)


@torch.no_grad()
def follow(key: nn.Module, query: nn.Module, momentum: float) -> None:
    """key <- momentum * key + (1 - momentum) * query, parameter by parameter.

    Statistics of batch norms are not averaged: the copy gathers its own. Source: TextReID's released code.
    """
    for copied, source in zip(key.parameters(), query.parameters(), strict=True):
        copied.mul_(momentum).add_(source, alpha=1 - momentum)


def _mlp(width: int, embed: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, embed), nn.ReLU(), nn.Linear(embed, embed))
