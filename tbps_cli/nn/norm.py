"""Batch normalisation over the batch of all ranks.

With one process these are PyTorch's own layers, in evaluation too. In training on several, mean and
variance are those of all rows together, with the gradient that flows through them, so N processes
normalise as one with the same global batch. PyTorch's SyncBatchNorm does the same, but only on CUDA; this
one is made of collectives that every backend has, and its parameters keep their names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbps_cli import distributed


class Joined(nn.modules.batchnorm._BatchNorm):
    """A batch norm whose statistics are those of all ranks."""

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and distributed.sharing()):
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        out, mean_C, variance_C, count = _Normalise.apply(input, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        self._follow(mean_C, variance_C, count)
        return out

    @torch.no_grad()
    def _follow(self, mean_C: Tensor, variance_C: Tensor, count: Tensor) -> None:
        """Move the running statistics as PyTorch does: towards the mean and the unbiased variance."""
        if self.num_batches_tracked is None or self.running_mean is None or self.running_var is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        unbiased_C = variance_C * (count / (count - 1).clamp(min=1))
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased_C.to(self.running_var.dtype), share)


class BatchNorm1d(Joined, nn.BatchNorm1d):
    """[N, C] or [N, C, L], over the rows of all ranks."""


class BatchNorm2d(Joined, nn.BatchNorm2d):
    """[N, C, H, W], over the images of all ranks."""


def statistics(x_NC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of each channel over the rows of all ranks, and how many entries these are.

    Each rank sends its own mean, sum of squared deviations and count, which are put together in
    float64: nothing is lost where the mean is large beside the deviation.
    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979.
    """
    axes = _others(x_NC)
    count = x_NC.numel() // x_NC.shape[1]
    variance_C, mean_C = torch.var_mean(x_NC, axes, correction=0)
    own = torch.cat([mean_C.double(), variance_C.double() * count, mean_C.new_tensor([count]).double()])
    mean_RC, deviation_RC, count_R1 = distributed.all_gather(own).split([len(mean_C), len(mean_C), 1], 1)
    total = count_R1.sum()
    mean_C = (mean_RC * count_R1).sum(0) / total
    deviation_C = (deviation_RC + count_R1 * (mean_RC - mean_C) ** 2).sum(0)
    return mean_C, deviation_C / total, total


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        float_NC = x.float()
        mean_C, variance_C, count = statistics(float_NC)
        ctx.save_for_backward(x, weight_C, mean_C.float(), (variance_C + epsilon).rsqrt().float(), count)
        ctx.mark_non_differentiable(mean_C, variance_C, count)
        weight_C, bias_C = (None if part is None else part.float() for part in (weight_C, bias_C))
        out = F.batch_norm(float_NC, mean_C.float(), variance_C.float(), weight_C, bias_C, eps=epsilon)
        return out.to(x.dtype), mean_C, variance_C, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight_C, mean_C, inverse_C, count = ctx.saved_tensors
        shape, axes = [1, -1, *[1] * (x.dim() - 2)], _others(x)
        wide_NC = (x.float() - mean_C.view(shape)) * inverse_C.view(shape)
        gradient_NC = gradients[0].float()
        own_2C = torch.stack([gradient_NC.sum(axes), (gradient_NC * wide_NC).sum(axes)])
        bias_C, slope_C = (distributed.summed(own_2C.double()) / count).float()
        inner_NC = gradient_NC - bias_C.view(shape) - wide_NC * slope_C.view(shape)
        scale_C = inverse_C if weight_C is None else inverse_C * weight_C.float()
        if weight_C is None:
            return (inner_NC * scale_C.view(shape)).to(x.dtype), None, None, None
        own_2C = own_2C.to(weight_C.dtype)
        return (inner_NC * scale_C.view(shape)).to(x.dtype), own_2C[1], own_2C[0], None


def _others(x_NC: Tensor) -> list[int]:
    """Every axis but the channels'."""
    return [axis for axis in range(x_NC.dim()) if axis != 1]
