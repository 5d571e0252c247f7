"""Which device computes, and why that one."""

from __future__ import annotations

import logging

import torch

from tbps_cli.errors import UsageError

logger = logging.getLogger("tbps")


def choose(wish: str = "auto") -> torch.device:
    """The device of a wish (auto, cpu, cuda, cuda:N, mps); the choice is logged with its reason.

    Raises UsageError when this machine does not have it.
    """
    device, reason = resolved(wish)
    logger.info("device: %s (%s)", device, reason)
    return device


def resolved(wish: str) -> tuple[torch.device, str]:
    """The device of a wish, and the reason for it; nothing is logged. Raises UsageError as `choose`."""
    wish = wish.strip().lower()
    if wish == "auto":
        return _automatic()
    kind, _, number = wish.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"--device {wish}: no such device.", "One of auto, cpu, cuda, cuda:N, mps.")
    if kind == "cuda":
        _check_cuda(wish, int(number or 0))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: this machine has no Apple GPU that torch can use.", "Try --device cpu.")
    return torch.device(wish), "as asked"


def _automatic() -> tuple[torch.device, str]:
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return torch.device("mps"), "no CUDA device, but an Apple GPU"
    return torch.device("cpu"), "no CUDA device found"


def _check_cuda(wish: str, number: int) -> None:
    if not torch.cuda.is_available():
        raise UsageError(f"--device {wish}: no CUDA device found.", "Try --device cpu; tbps doctor says more.")
    if number >= torch.cuda.device_count():
        raise UsageError(f"--device {wish}: there are {torch.cuda.device_count()} CUDA devices, counted from 0.")
