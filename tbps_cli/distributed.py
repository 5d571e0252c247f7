"""Several processes that train one model: the only place that knows about process groups.

How N processes come to the result of one with the same global batch. Each rank embeds its slice of
the batch; `gather` joins the slices, so every rank computes the *same* losses over the whole batch.
A parameter used inside the losses then has its whole gradient on every rank, while a parameter used
in the features has the part that flows through its rank's slice. One rule serves both: the backward
of `gather` multiplies the slice's gradient by the number of ranks, and `average_gradients` takes the
mean over ranks. The mean of N equal gradients is the gradient, the mean of N parts times N is their
sum, and a parameter used in both places is right by linearity. No communication happens in backward.

PyTorch's DistributedDataParallel takes the same mean, but wants one forward and one backward a step,
which gradient caching does not have. With one process everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tbps_cli.errors import TbpsError

BUCKET = 1 << 24
"""Entries reduced together: 64 MB of float32, large enough for the link, small enough to copy."""

_TRANSPORT = "connection closed", "connection reset", "connection refused", "broken pipe", "nccl", "gloo"

_TORCHRUN = "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"
"""What torchrun sets, and whoever starts processes like it."""

# Rank 0 alone evaluates and saves while the others wait; a dead rank is noticed by the launcher.
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Ranks:
    """Which process this is: `rank` of `world`, and its number on its own machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def own_device(self, wish: str) -> str:
        """The CUDA device of this process's number, where any will do and there are enough; else as wished."""
        free = wish in ("auto", "cuda") and torch.cuda.is_available() and self.local < torch.cuda.device_count()
        return f"cuda:{self.local}" if free else wish


def environment() -> Ranks:
    """What torchrun says about this process; one process alone when it says nothing, or not all of it.

    Only the whole set counts: many clusters set RANK, or RANK and WORLD_SIZE, for purposes of their own.
    """
    if any(name not in os.environ for name in _TORCHRUN):
        return Ranks()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    try:
        rank, world, local = (int(os.environ.get(name, "0")) for name in names)
    except ValueError:
        raise TbpsError("RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers.", "Start with torchrun.") from None
    if not 0 <= rank < world:
        raise TbpsError(f"RANK = {rank} is not below WORLD_SIZE = {world}.", "Start with torchrun.")
    return Ranks(rank, world, local)


def start(device: str = "cpu") -> Ranks:
    """Join the processes that torchrun started (nccl on CUDA, gloo elsewhere); nothing for one process."""
    ranks = environment()
    if ranks.world > 1 and not dist.is_initialized():
        cuda = device.startswith("cuda")
        if cuda:
            torch.cuda.set_device(torch.device(device))
        with _meeting(ranks):
            dist.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    return ranks


@contextmanager
def _meeting(ranks: Ranks) -> Iterator[None]:
    """Say in one line that the processes do not find each other."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = "the port is in use" if "EADDRINUSE" in str(error) else lines[0]
        raise TbpsError(
            f"the {ranks.world} processes cannot meet at {where}: {reason}",
            "Give torchrun another --master_port (tbps train --nproc finds a free one itself).",
        ) from None


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn the loss of another process into one line, instead of the transport's own words."""
    try:
        yield
    except RuntimeError as error:
        if not dist.is_initialized() or not any(word in str(error).lower() for word in _TRANSPORT):
            raise
        raise LostCompany("another process of this training has ended.", "Its own message says why.") from None


class LostCompany(TbpsError):
    """This process is well, but one of the others is gone."""


def agreed(name: str, make: Callable[[], str]) -> str:
    """What rank 0 makes, on every rank, before any group is started. `name` is used once."""
    ranks = environment()
    if ranks.world == 1:
        return make()
    with _meeting(ranks):
        found = next(dist.rendezvous("env://"))[0]  # type: ignore[attr-defined]  # public, but not in its __all__
    store = dist.PrefixStore("tbps", found)  # type: ignore[attr-defined]
    if ranks.main:
        store.set(name, make())
    return str(store.get(name).decode())


_local_only = False


@contextmanager
def local_only(yes: bool = True) -> Iterator[None]:
    """Inside, this process is one for itself: every rank holds the whole batch, and nothing is joined."""
    global _local_only
    before, _local_only = _local_only, _local_only or yes
    try:
        yield
    finally:
        _local_only = before


def sharing() -> bool:
    """Whether a batch is shared among several ranks now."""
    return dist.is_initialized() and not _local_only and dist.get_world_size() > 1


def stop() -> None:
    """Leave the group; nothing for one process."""
    if dist.is_initialized():
        dist.destroy_process_group()


def current() -> Ranks:
    """Which process this is in the group that was started; one alone when none was, or inside `local_only`."""
    if not dist.is_initialized() or _local_only:
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size(), environment().local)


def barrier() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.barrier()


def broadcast_object(value: Any) -> Any:
    """Rank 0's value, on every rank (small picklable objects between our own processes)."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on at least one rank."""
    if not dist.is_initialized():
        return flag
    told = torch.tensor([int(flag)], device=_device())
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told.item())


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Give every rank rank 0's values, in place."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def row_counts(rows: int) -> list[int]:
    """How many rows of the batch each rank holds."""
    if not sharing():
        return [rows]
    mine = torch.tensor([rows], device=_device())
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    return [int(count) for count in every]


def all_gather(tensor: Tensor) -> Tensor:
    """The tensors of all ranks, equal in shape, stacked in rank order: [ranks, ...], without gradient."""
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)


def summed(tensor: Tensor) -> Tensor:
    """The sum of all ranks' tensors, without gradient."""
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def gather(tensor: Tensor, counts: Sequence[int]) -> Tensor:
    """Join the rows of all ranks in rank order, with gradient.

    tensor: [b, ...] with b = counts[rank]; ranks may differ in b and in nothing else.
    Returns [sum(counts), ...], equal on all ranks. Its backward gives the own rows' gradient times the
    number of ranks, without communication: see the module's text for why that is exact.
    """
    if not sharing():
        return tensor
    joined: Tensor = _Gather.apply(tensor, tuple(counts))  # type: ignore[no-untyped-call]
    return joined


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, counts: tuple[int, ...]) -> Tensor:
        rank = dist.get_rank()
        ctx.first = [0, *accumulate(counts)][rank]
        ctx.rows = counts[rank]
        ctx.world = len(counts)
        # all_gather wants equal shapes: the shorter slices are filled up, and cut again below
        padded = tensor.new_zeros((max(counts), *tensor.shape[1:]))
        padded[: ctx.rows] = tensor
        every = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(every, padded)
        return torch.cat([part[:rows] for part, rows in zip(every, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.first : ctx.first + ctx.rows] * ctx.world, None


def average_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Replace every gradient by its mean over ranks; the same parameters in the same order on all.

    A parameter that one rank used and another did not (an expert without tokens) counts as zero
    there; one that no rank used keeps no gradient, as in a single process.
    """
    if not dist.is_initialized() or not parameters:
        return
    used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32, device=_device())
    dist.all_reduce(used, dist.ReduceOp.MAX)
    for bucket in _buckets([parameter for parameter, flag in zip(parameters, used.tolist(), strict=True) if flag]):
        _average(bucket)


def _average(bucket: list[torch.nn.Parameter]) -> None:
    for parameter in bucket:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _buckets(parameters: Iterable[torch.nn.Parameter]) -> list[list[torch.nn.Parameter]]:
    """Neighbours of one type and device, up to `BUCKET` entries (or one larger parameter)."""
    buckets: list[list[torch.nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        last = buckets[-1][-1] if buckets else None
        fits = last is not None and size + parameter.numel() <= BUCKET
        if last is not None and fits and (last.dtype, last.device) == (parameter.dtype, parameter.device):
            buckets[-1].append(parameter)
            size += parameter.numel()
        else:
            buckets.append([parameter])
            size = parameter.numel()
    return buckets


def _device() -> torch.device:
    """Where small messages live: nccl only moves CUDA tensors."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
