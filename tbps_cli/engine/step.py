"""One optimiser step: features in pieces, joined over pieces and ranks, then losses and backward.

The seam is the method's own: `features` looks at each pair alone, `losses` at the whole batch. So
the batch may be cut anywhere between the two. Cut over devices, the features are gathered with
gradient (`distributed`). Cut into chunks, they are first computed without a graph; the losses give
the gradient of every feature, and each chunk is then computed again and takes its part of that
gradient backwards: the large batch's exact gradient with one chunk's memory (GradCache, arXiv
2101.06983). Dropout is drawn from the position alone (`nn.dropout`), so the second pass draws what the
first drew, pieces and ranks what the whole batch would have, and a resumed run what the killed one did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tbps_cli import distributed
from tbps_cli.engine import optim as groups
from tbps_cli.errors import RecipeError
from tbps_cli.methods.base import Method
from tbps_cli.nn.dropout import start_at
from tbps_cli.nn.norm import Joined
from tbps_cli.recipe.schema import TrainSection
from tbps_cli.types import Batch, Features, Step

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Outcome:
    """What one step has shown; tensors stay on the device so that nobody waits for them."""

    losses: dict[str, Tensor]
    """Name -> detached scalar, the mean over the step's micro-batches."""
    sample_B: Tensor
    """The training captions of the step, over all ranks."""
    metrics: dict[str, float] = field(default_factory=dict)


class Piece(NamedTuple):
    """Rows that are embedded at a time."""

    batch: Batch
    start: int
    """Of its first row among this rank's."""
    place: int
    """Of its first row among those of all ranks."""


class Stepper:
    """Takes optimiser steps; holds what they need and no state but the gradient scaler's.

    train: says the precision (fp32; bf16 or fp16: autocast over float32 weights, fp16 with a gradient
    scaler; fp16-pure: the weights are half already), the chunk (pairs embedded at a time on each
    device) and the seed. clip_norm: longest allowed gradient over all parameters.
    """

    def __init__(
        self,
        method: Method,
        optimizer: Optimizer,
        *,
        train: TrainSection,
        clip_norm: float | None = None,
    ) -> None:
        self.method, self.optimizer, self.clip_norm = method, optimizer, clip_norm
        self.precision, self.chunk, self.seed = train.precision, train.chunk, train.seed
        self.parameters = groups.trained(method)
        self.device = self.parameters[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=train.precision == "fp16")
        refuse_cuts(method, train.chunk, distributed.current().world)

    def __call__(self, micro: Sequence[Batch], at: Step, *, measure: bool = False) -> Outcome:
        """Take one step over the micro-batches (this rank's slices), whose losses are averaged.

        measure: also ask the method for its further figures.
        """
        self.method.before_step()
        outcomes = [self.backward(batch, at, number, len(micro), measure) for number, batch in enumerate(micro)]
        self._update()
        self.method.after_step()
        return _joined(outcomes)

    def backward(self, batch: Batch, at: Step, number: int = 0, of: int = 1, measure: bool = False) -> Outcome:
        """Add the gradient of one micro-batch, `number` of `of`, to the parameters."""
        with distributed.local_only(batch.whole):
            return self._backward(batch.to(self.device), at, number, of, measure)

    def _backward(self, batch: Batch, at: Step, number: int, of: int, measure: bool) -> Outcome:
        counts, seed = distributed.row_counts(len(batch)), _seed(self.seed, at.epoch, at.iteration, number, 0)
        pieces = self._pieces(batch, sum(counts[: distributed.current().rank]))
        local = self._features(pieces[0], seed) if len(pieces) == 1 else self._cached(pieces, seed)
        features = {name: distributed.gather(value, counts) for name, value in local.items()}
        whole = self._whole(batch, counts)
        self._draw_from(_seed(self.seed, at.epoch, at.iteration, number, -1))
        losses = self._losses(features, whole, at)
        self.scaler.scale(torch.stack(list(losses.values())).sum() / of).backward()
        if len(pieces) > 1:
            self._backward_pieces(pieces, seed, local)
        figures = self._measured(features, whole) if measure else {}
        return Outcome({name: value.detach() for name, value in losses.items()}, whole.sample_B, figures)

    def look(self, batch: Batch) -> tuple[Features, Batch]:
        """Features of a whole batch without gradient, and the batch itself, the rows of all ranks joined."""
        batch = batch.to(self.device)
        with distributed.local_only(batch.whole):
            counts = distributed.row_counts(len(batch))
            features = self._cached(self._pieces(batch, 0), 0)
            joined = {name: distributed.gather(value.detach(), counts) for name, value in features.items()}
            return joined, self._whole(batch, counts)

    def _pieces(self, batch: Batch, first: int) -> list[Piece]:
        """What is embedded at a time; `first` is the batch's own place among the rows of all ranks."""
        size = self.chunk or len(batch)
        if len(batch) <= size:
            return [Piece(batch, 0, first)]
        return [Piece(batch.rows(start, start + size), start, first + start) for start in range(0, len(batch), size)]

    def _features(self, piece: Piece, seed: int) -> Features:
        """Features of some rows, in float32 unless the weights are half themselves."""
        self._draw_from(seed)
        start_at(piece.place)
        with self._autocast():
            features = self.method.features(piece.batch)
        return {name: _float(value) for name, value in features.items()} if self.half else features

    def _draw_from(self, seed: int) -> None:
        """Seed the generators that the method draws from."""
        if self.device.type == "cpu":
            # torch.manual_seed also notes a call, with its traceback, for each kind of device that is not there; nobody
            # ever takes them off, so that memory would grow with every step.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def _cached(self, pieces: Sequence[Piece], seed: int) -> Features:
        """Features of all pieces without a graph, as leaves that collect the losses' gradient."""
        with torch.no_grad():
            parts = [self._features(piece, seed) for piece in pieces]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return {name: value.requires_grad_(value.is_floating_point()) for name, value in joined.items()}

    def _backward_pieces(self, pieces: Sequence[Piece], seed: int, leaves: Features) -> None:
        """Compute each piece again, and take its rows of the leaves' gradient backwards."""
        for piece in pieces:
            again = self._features(piece, seed)
            pairs = [
                (value, gradient[piece.start : piece.start + len(piece.batch)])
                for name, value in again.items()
                if value.requires_grad and (gradient := leaves[name].grad) is not None
            ]
            torch.autograd.backward([value for value, _ in pairs], [gradient for _, gradient in pairs])

    def _losses(self, features: Features, whole: Batch, at: Step) -> dict[str, Tensor]:
        """The method's losses, outside autocast: a softmax at 1/0.02 saturates in half precision."""
        with torch.autocast(self.device.type, enabled=False):
            return self.method.losses(features, whole, at)

    def _measured(self, features: Features, whole: Batch) -> dict[str, float]:
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return self.method.metrics({name: value.detach() for name, value in features.items()}, whole)

    def _whole(self, batch: Batch, counts: Sequence[int]) -> Batch:
        """The batch of all ranks without its images, which no loss looks at and nobody wants to send."""
        return Batch({}, batch.tokens, batch.person_B, batch.image_B, batch.sample_B).map(
            lambda tensor: distributed.gather(tensor, counts)
        )

    def _update(self) -> None:
        """Average over ranks, clip, step, clear."""
        distributed.average_gradients(self.parameters)
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def half(self) -> bool:
        """Whether autocast makes the features, so that they come in half precision."""
        return self.precision in _AUTOCAST

    def _autocast(self) -> AbstractContextManager[object]:
        if not self.half:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_AUTOCAST[self.precision])


def refuse_cuts(method: Method, chunk: int | None, world: int) -> None:
    """Refuse to cut the batch of a method whose features look at several pairs at once, with the reason.

    Batch normalisation is exact over ranks, which reduce its statistics together, but not over chunks:
    the statistics are known when the last chunk is embedded, and the first one needed them.
    """
    if chunk is None and world == 1:
        return
    reason = method.batch_dependent(method.config)
    hint = "Train it on one device and without train.chunk (train.accumulate saves memory too, with other losses)."
    norms = [module for module in method.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if chunk is None:
        norms = [norm for norm in norms if not isinstance(norm, Joined)]
    if reason is None and any(norm.training for norm in norms):
        reason = "batch normalisation takes its statistics from the whole batch"
        if chunk is not None:
            hint = "Train it without train.chunk; more devices (--nproc) save memory and change no result."
    if reason is not None:
        how = f"train.chunk = {chunk}" if chunk is not None else f"--nproc {world}"
        raise RecipeError(f"{how}: the batch of {method.config.name} cannot be cut: {reason}", hint)


def _seed(*numbers: int) -> int:
    """A seed of 63 bits that the numbers determine."""
    digest = hashlib.blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    """The mean of the micro-batches' figures, and all their samples."""
    names = outcomes[0].losses
    return Outcome(
        {name: torch.stack([outcome.losses[name] for outcome in outcomes]).mean() for name in names},
        torch.cat([outcome.sample_B for outcome in outcomes]),
        mean_of([outcome.metrics for outcome in outcomes]),
    )


def mean_of(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Name -> mean over the dictionaries that have it."""
    values: dict[str, list[float]] = {}
    for one in figures:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}
