"""Captions per second through CLIP's text tower: eager attention over 77 places beside ours, in one run.

scripts/bench text [--device cpu|cuda] [--batch N] [--layers N] [--captions N] [--rounds N]

The usual way is the papers': every caption is 77 tokens long, attention is a product, a mask, a softmax and a
product, in float32. Ours packs the captions without their padding, computes the end token alone in the last
block, and attends through the fused kernel. Both have the same weights and give the
same features (checked here). Captions have the lengths of CUHK-PEDES: 23.5 words on average, 12 to 96.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

# at the end: a benchmark here bears the name of a standard module
from benchmarks import _machine, _usual
from torch import Tensor

from tbps_cli.nn.clip_features import text_feature
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.sizes import TOWERS

START, END = 49406, 49407


def lengths(count: int, seed: int = 0) -> np.ndarray:
    """Tokens of captions, start and end included: log-normal words, 1.18 tokens a word with the punctuation."""
    spread, rng = 0.33, np.random.default_rng(seed)
    words = np.clip(np.rint(rng.lognormal(np.log(23.5) - spread**2 / 2, spread, count)), 12, 96)
    return np.minimum(np.rint(1.18 * words) + 2, 77).astype(np.int64)


def captions(count: int) -> Tensor:
    """[count, 77] ids with zeros behind the end."""
    rng, token_BT = np.random.default_rng(1), np.zeros((count, 77), np.int64)
    for row, length in zip(token_BT, lengths(count), strict=True):
        row[:length] = [START, *rng.integers(300, 40000, length - 2), END]
    return torch.from_numpy(token_BT)


def usual(clip: Clip, token_BT: Tensor) -> Tensor:
    """The feature of every caption, as CLIP's code and its descendants compute it."""
    with _usual.written_out():
        return text_feature(clip, token_BT)


def forward(way: Callable[[Clip, Tensor], Tensor], clip: Clip, token_BT: Tensor) -> None:
    with torch.no_grad():
        way(clip, token_BT)


def both_passes(way: Callable[[Clip, Tensor], Tensor], clip: Clip, token_BT: Tensor) -> None:
    way(clip, token_BT).square().sum().backward()
    clip.zero_grad(set_to_none=True)


def seconds(work: Callable[..., None], way: Callable[[Clip, Tensor], Tensor], clip: Clip, parts: list[Tensor]) -> float:
    started = time.perf_counter()
    for token_BT in parts:
        work(way, clip, token_BT)
    if parts[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def difference(clip: Clip, token_BT: Tensor) -> float:
    """Between the two ways, relative to the largest entry."""
    with torch.no_grad():
        expected = usual(clip, token_BT)
        return float((text_feature(clip, token_BT) - expected).abs().max() / expected.abs().max())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("batch", 64), ("layers", 12), ("captions", 128), ("rounds", 2), ("width", 512)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args(argv)
    sizes = TOWERS["ViT-B-16"].model_copy(
        update={"layers": 1, "text_layers": options.layers, "text_width": options.width, "text_heads": None}
    )
    clip = Clip(sizes, (32, 16))
    clip.initialise(torch.Generator().manual_seed(0))
    clip.to(options.device)
    token_BT = captions(options.captions).to(options.device)
    parts = list(token_BT.split(options.batch))
    by_length = list(token_BT[token_BT.argmax(-1).argsort()].split(options.batch))
    worst = max(difference(clip, part) for part in parts)
    assert worst < 1e-4, f"the two ways differ by {worst}"
    print(_machine.line(options.device))
    mean = float(token_BT.argmax(-1).float().mean()) + 1
    print(f"{options.captions} captions of {mean:.1f} tokens, batches of {options.batch}, {options.layers} layers")
    print(f"largest relative difference of a feature: {worst:.1e}")
    print(f"{'':28}{'usual/s':>10}{'ours/s':>10}{'ratio':>8}")
    for name, work, ours in (
        ("forward and backward", both_passes, parts),
        ("forward", forward, parts),
        ("evaluation, by length", forward, by_length),
    ):
        pairs = [
            (seconds(work, usual, clip, parts), seconds(work, text_feature, clip, ours)) for _ in range(options.rounds)
        ]
        slow, fast = (options.captions / statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name:28}{slow:10,.0f}{fast:10,.0f}{fast / slow:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
