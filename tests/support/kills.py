"""Trainings to be killed: every method so small that a run takes a second, saying through a pipe where it is."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from support.ranks import free_port
from support.sets import cuhk_records, write_set
from support.training import Spy, tiny_recipe

from tbps_cli import distributed, methods
from tbps_cli.engine import train as engine
from tbps_cli.errors import TbpsError
from tbps_cli.recipe.load import load
from tbps_cli.recipe.save import dump
from tbps_cli.weights import weights_file

# forkserver: torch is imported once, and the children of a process that never computed are safe to fork
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        *("tbps_cli.engine.train", "tbps_cli.retrieval.embed", "torch._dynamo", "sklearn.mixture", "prettytable"),
        *(f"tbps_cli.methods.{name}" for name in methods.names()),
    ]
)

EXPERTS = "moe_layers = 1\nmoe_heads = 2\nreduction = 4\ncross_layers = 1\nidentity = 1.0\nmasked = 1.0"
WORDS = 'word_weights = "random"\nword_width = 6\ngru_input = 6\nhidden = 4\nembed = 8\nqueue = 24\ntemperature = 0.5'
METHODS: dict[str, tuple[str, list[str]]] = {
    # the state of a gradient scaler, steps of two halves of a batch, images read ahead by another process
    "clip": ("learn_temperature = true", ["train.precision=fp16", "train.accumulate=2", "train.workers=1"]),
    "comoe": (EXPERTS, []),
    "cskt": ("n_ctx = 2\ndepth = 1\nreduction = 4\nitc = 1.0\nidentity = 1.0", ["optim.kind=adamw"]),
    "dm_adapter": ("reduction = 4\nitc = 1.0\nidentity = 1.0", []),
    "eccl": ("lora = { rank = 2 }\nnum_context = 2\nprompt_depth = 2", []),
    "ga_dms": ("cross_layers = 1\nidentity = 1.0", ["train.chunk=5"]),
    "irra": ("cross_layers = 1\nitc = 1.0", ["train.chunk=5", "train.patience=3"]),
    "php": (EXPERTS, []),
    "rde": ("tse_dim = 16\ntse_bn_train = true", ["data.noise_rate=0.25", "optim.eps=1e-3"]),
    "tbps_clip": (
        "cross_layers = 1\nidentity = 1.0\nmasked = 1.0\ntext_dropout = 0.2\nsimclr_embed = 16\nsimclr_hidden = 16",
        ["optim.schedule=cosine-per-step", "optim.lr_start=1e-5", "optim.lr_end=1e-5", "optim.unit=step"],
    ),
    "textreid": (WORDS, []),
}
"""Keys and settings with which each method has all the state that it can have.

tbps_clip has soft labels, a second view and dropout by itself, the experts dropout, textreid its momentum
head; rde divides noisy pairs before each epoch and gathers running statistics; ga_dms masks by scores of words.
"""


def write_data(root: Path) -> Path:
    """12 training persons with 47 captions, so that the last of an epoch's four batches is odd."""
    records = cuhk_records(persons=(12, 3, 3))
    records[0]["captions"].pop()
    write_set(root / "CUHK-PEDES", records)
    return root


def write_recipe(folder: Path, method: str) -> Path:
    """The recipe of a method, to be loaded by every process of a run."""
    more, sets = METHODS[method]
    path = folder / f"{method}.toml"
    path.write_text(dump(tiny_recipe(folder, method, more, sets)), encoding="utf-8")
    return path


# In the child ---------------------------------------------------------------------------------


class Word(NamedTuple):
    """Something that a child says."""

    kind: str
    """step: number of the one taken; phase: what begins; end: how it ended."""
    value: Any
    at: float
    """time.monotonic(), the same clock in all processes."""


class Teller(Spy):
    """Says which step was taken, and which phase of the work begins or is gone back to."""

    def __init__(self, pipe: connection.Connection) -> None:
        super().__init__()
        self.pipe, self.phases = pipe, ["starting"]

    def say(self, kind: str, value: object) -> None:
        self.pipe.send(Word(kind, value, time.monotonic()))

    def stepped(self, progress: Any) -> None:
        self.say("step", progress.step)

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        if phase == "finishing":
            self.phases = [phase]  # there is nothing to go back to
        self.phases.append(f"{phase} while {self.phases[-1]}" if phase.startswith("writing") else phase)
        self.say("phase", self.phases[-1])
        yield
        self.phases.pop()
        self.say("phase", self.phases[-1])

    def follow(self, owner: Any, name: str, phase: Callable[..., str]) -> None:
        """Let a function of the engine say when it begins and ends."""
        real = getattr(owner, name)

        def told(*arguments: Any, **named: Any) -> Any:
            with self.during(phase(*arguments)):
                return real(*arguments, **named)

        setattr(owner, name, told)

    def follow_all(self, method: str) -> None:
        training, kind = engine.Training, methods.find(method)
        self.follow(weights_file, "write_atomically", lambda path, _: f"writing {path.name}")
        self.follow(training, "_epoch", lambda *_: "stepping")
        self.follow(training, "_close_epoch", lambda *_: "closing an epoch")
        self.follow(training, "_finish", lambda *_: "finishing")
        if "start_epoch" in vars(kind):
            self.follow(kind, "start_epoch", lambda *_: "passing over the pairs")
        self.follow(distributed, "start", lambda *_: "meeting")


def work(
    pipe: connection.Connection,
    rank: int,
    world: int,
    port: int,
    path: Path,
    sets: list[str],
    data: Path,
    out: Path,
    room: int | None,
) -> None:
    """What every process of a run does; it may be killed at any moment. room: no file may have more bytes."""
    if room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    if world > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    multiprocessing.set_start_method("fork", force=True)  # of loader workers, as in a process of its own
    torch.set_num_threads(1)
    teller = Teller(pipe)
    teller.follow_all(path.stem)
    try:
        engine.train(load(path, sets), data_root=data, out=out, resume=True, device="cpu", observer=teller)
        teller.say("end", "done")
    except TbpsError as error:
        teller.say("end", error.message)


# In the parent --------------------------------------------------------------------------------


class Child:
    """One process, and what it has said so far."""

    def __init__(self, *arguments: object) -> None:
        self.pipe, theirs = PROCESSES.Pipe(duplex=False)
        self.process = PROCESSES.Process(target=work, args=(theirs, *arguments))
        self.said: list[Word] = []
        self.process.start()
        theirs.close()

    def hear(self, seconds: float = 0.0) -> bool:
        """Read what it says within so many seconds, one word at most; whether there was one."""
        try:
            if not self.pipe.poll(seconds):
                return False
            self.said.append(self.pipe.recv())
        except EOFError:
            return False
        return True

    def hear_all(self) -> None:
        while self.hear():
            pass

    @property
    def running(self) -> bool:
        return self.process.is_alive()

    def last(self, kind: str) -> Word | None:
        """The newest word of a kind."""
        return next((word for word in reversed(self.said) if word.kind == kind), None)

    @property
    def met(self) -> bool:
        """Whether it has found the other processes."""
        phases = [word.value for word in self.said if word.kind == "phase"]
        return "meeting" in phases[:-1]


class Run:
    """One training in `world` processes, under way."""

    def __init__(
        self,
        path: Path,
        data: Path,
        out: Path,
        world: int = 1,
        sets: tuple[str, ...] = (),
        room: int | None = None,
    ) -> None:
        port = free_port() if world > 1 else 0
        self.began = time.monotonic()
        self.children = [Child(rank, world, port, path, list(sets), data, out, room) for rank in range(world)]

    @property
    def running(self) -> bool:
        return any(child.running for child in self.children)

    def wait(self, words: int, seconds: float) -> None:
        """Until the first process has said so many words and so many seconds more have passed, or it has ended."""
        first = self.children[0]
        while len(first.said) < words and (first.hear(0.05) or first.running):
            pass
        connection.wait([child.process.sentinel for child in self.children], seconds)

    def wait_for_step(self, step: int, seconds: float = 0.0) -> None:
        """Until the first process has taken a step and so many seconds more have passed. It must not end before."""
        first = self.children[0]
        while (word := first.last("step")) is None or word.value < step:
            assert first.hear(60.0) and first.running, first.said
        time.sleep(seconds)

    def kill(self, *ranks: int) -> None:
        """Kill some processes, or all of them, and hear their last words."""
        victims = [self.children[rank] for rank in ranks] or self.children
        for child in victims:
            child.process.kill()
        for child in victims:
            child.process.join()
            child.hear_all()

    def end(self, seconds: float = 120.0) -> list[str]:
        """How each process ended: its last word, or what there is instead of one."""
        limit, ends = time.monotonic() + seconds, []
        for number, child in enumerate(self.children):
            child.process.join(max(0.0, limit - time.monotonic()))
            child.hear_all()
            word = child.last("end")
            if child.running:
                ends.append("did not end")
                self.kill(number)
            else:
                ends.append(str(word.value) if word else f"ended without a word, status {child.process.exitcode}")
        return ends
