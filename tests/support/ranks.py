"""Several gloo processes in a test, and every method so small that three steps of it take a moment."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, multiprocessing

from tbps_cli import distributed, methods
from tbps_cli.engine import optim
from tbps_cli.engine.step import Stepper
from tbps_cli.loading.samplers import share_of
from tbps_cli.nn.sizes import Tower
from tbps_cli.recipe.resolve import Precision
from tbps_cli.recipe.schema import OptimSection, TrainSection
from tbps_cli.types import Batch, Step, Task

TOWER = Tower(
    width=32,
    layers=1,
    patch=16,
    embed=64,
    text_width=32,
    text_layers=2,
    context=20,
    vocabulary=60,
    heads=2,
    text_heads=2,
)
RESNET = Tower(width=4, layers=(1, 1, 1, 1), embed=16, text_width=64, text_layers=1, vocabulary=60, heads=2)
TASK = Task((64, 32), 5, 64, tuple(image % 5 for image in range(64)))
EXPERTS = {"moe_layers": 1, "moe_heads": 4, "reduction": 4, "cross_layers": 1}
WORDS = {"vocabulary": 60, "word_width": 6, "gru_input": 5, "hidden": 4, "embed": 8, "queue": 24, "temperature": 0.5}
KEYS: dict[str, dict[str, Any]] = {
    "irra": {"cross_layers": 1, "itc": 1.0},
    "tbps_clip": {"cross_layers": 1, "identity": 1.0, "masked": 1.0, "text_dropout": 0.2, "simclr_embed": 16},
    "textreid": {"tower": RESNET, **WORDS},
    "textreid-imagenet": {
        "tower": RESNET,
        "image_network": "imagenet",
        "weights": "imagenet",
        "word_vectors": "trained",
        "head": "simple",
        **WORDS,
    },
    "cskt": {"itc": 1.0, "identity": 1.0, "depth": 2, "n_ctx": 2},
    "dm_adapter": {"itc": 1.0, "identity": 1.0},
    "eccl": {"lora": {"rank": 2}, "num_context": 2, "prompt_depth": 2, "temp": 0.3, "temp_instance": 0.15},
    "ga_dms": {"cross_layers": 1, "identity": 1.0},
    "php": {**EXPERTS, "identity": 1.0, "masked": 1.0},
    "comoe": {**EXPERTS, "identity": 1.0, "masked": 1.0},
    "rde": {"tse_bn_train": True, "tse_dim": 16},
}
"""What differs from a method's defaults: small sizes, and losses that its published recipe leaves out."""
FORMS = ("textreid-imagenet",)
"""Further forms of methods, as METHOD-FORM, that have bricks of their own."""
STEEP = {"textreid": 1e-4, "textreid-imagenet": 1e-4, "ga_dms": 1e-5}
"""Rates of methods that amplify rounding in a few larger steps (images changed by 1e-7 show the same)."""
ROWS = (12, 11, 12)
"""Pairs of the steps: shared evenly and unevenly."""


# forkserver: torch is imported once, and the children of a process that never computed are safe to fork
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tbps_cli.engine.train", "support.ranks", "torch._dynamo", "sklearn.mixture"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def enter(rank: int, world: int, port: int, work: Any, group: bool, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    os.chdir(folder)
    if group:
        distributed.start()
    torch.save(work(rank), f"{folder}/{rank}.pt")
    distributed.stop()


def in_processes(work: Any, folder: Path, world: int = 2, *, group: bool = True) -> list[Any]:
    """What `work(rank)` returned in each of `world` processes, between which a group stands."""
    arguments = (world, free_port(), work, group, str(folder))
    multiprocessing.start_processes(enter, arguments, nprocs=world, start_method="forkserver")
    return [torch.load(f"{folder}/{rank}.pt", weights_only=False) for rank in range(world)]


# Every method ---------------------------------------------------------------------------------


def pairs(rows: int, seed: int) -> Batch:
    """Pairs of noise with every view that a method may ask for; captions of different lengths."""
    draw = torch.Generator().manual_seed(seed)
    text = torch.randint(1, 56, (rows, 20), generator=draw)
    for row in range(rows):
        end = 4 + (5 * row + seed) % 15
        text[row, 0], text[row, end], text[row, end + 1 :] = 58, 59, 0
    masked, label = text.clone(), torch.zeros_like(text)
    label[:, 2], masked[:, 2] = text[:, 2], 57
    views = ("image", "second", "contrast_a", "contrast_b")
    images = {name: torch.randn(rows, 3, 64, 32, generator=draw) for name in views}
    sample_B = torch.randperm(64, generator=draw)[:rows]
    return Batch(images, {"text": text, "masked": masked, "label": label}, torch.arange(rows) % 5, sample_B, sample_B)


def shared(batch: Batch) -> Batch:
    """What the loader would give this rank of a batch."""
    ranks = distributed.current()
    if len(batch) < ranks.world:
        batch.whole = True
        return batch
    mine = share_of(torch.arange(len(batch)).numpy(), ranks.rank, ranks.world)
    return batch.rows(mine.start, mine.stop)


def stepper(name: str, *, chunk: int | None = None, precision: Precision = "fp32") -> Stepper:
    """A stepper with stochastic gradient descent over a freshly drawn tiny method."""
    kind = methods.find(name.partition("-")[0])
    method = kind(kind.Config(**{"name": name.partition("-")[0], "tower": TOWER, **KEYS.get(name, {})}), TASK)
    draws = torch.Generator().manual_seed(3)
    method.initialise(draws)
    with torch.no_grad():
        for key, value in [*method.named_parameters(), *method.named_buffers()]:
            if ".up." in key or key == "word_table" or key.endswith("bn3.weight"):
                value.copy_(0.3 * torch.randn(value.shape, generator=draws))
        if name == "rde":
            method.get_buffer("trusted")[::3] = False
    section = OptimSection(kind="sgd", lr=STEEP.get(name, 1e-3), momentum=0.9)
    train = TrainSection(batch=ROWS[0], precision=precision, chunk=chunk)
    return Stepper(method.train(), optim.build(method, section), train=train)


def trace(
    name: str, rows: tuple[int, ...] = ROWS, *, chunk: int | None = None, precision: Precision = "fp32"
) -> dict[str, dict[str, Tensor]]:
    """Losses and gradients of the first batch, losses of each step, and what the steps have made of the method."""
    made = stepper(name, chunk=chunk, precision=precision)
    made.method.before_step()
    buffers = {key: value.clone() for key, value in made.method.named_buffers()}
    losses = made.backward(shared(pairs(rows[0], 0)), Step(1, 0, 4, 9)).losses
    distributed.average_gradients(made.parameters)
    gradients = {key: value.grad.clone() for key, value in made.method.named_parameters() if value.grad is not None}
    made.optimizer.zero_grad()
    with torch.no_grad():
        for key, value in made.method.named_buffers():
            value.copy_(buffers[key])
    for number, count in enumerate(rows):
        outcome = made([shared(pairs(count, number))], Step(1, number, 4, 9), measure=True)
        losses |= {f"{number} {key}": value for key, value in outcome.losses.items()}
    state = {key: value.clone() for key, value in made.method.state_dict().items()}
    return {"losses": losses, "gradients": gradients, "state": state}


def traces(rank: int) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Every method's trace in this rank."""
    return {name: trace(name) for name in methods.names()}


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[float, str]:
    """The largest difference of two sets of tensors, relative to each tensor's largest entry, and where.

    A gradient that is nothing but rounding (a bias in front of a softmax has none) has no size of its
    own: entries below a ten thousandth of the largest of all count as that.
    """
    assert one.keys() == other.keys()
    one, other = ({key: value.double() for key, value in tensors.items()} for tensors in (one, other))
    largest = max(value.abs().max().item() for value in one.values())
    found = {
        key: (value - other[key]).abs().max().item() / max(value.abs().max().item(), 1e-4 * largest)
        for key, value in one.items()
    }
    worst = max(found, key=found.__getitem__)
    return found[worst], worst
