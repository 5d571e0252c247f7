"""Training batches: which captions (samplers), which images (files or store), which draws (all stateless).

A batch depends on (seed, epoch, place in the epoch) and on nothing else: not on the number of worker
processes, on how they start, on ranks, or on whether training was interrupted. Worker processes come
from PyTorch; what goes wrong in one arrives here as the error that it was.
"""

from __future__ import annotations

import logging
import multiprocessing as mp
import os
import random
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Sampler

from tbps_cli.augment.batched import BatchAugmenter
from tbps_cli.data.image_files import MAX_PIXELS
from tbps_cli.data.images import require_images
from tbps_cli.data.types import Split
from tbps_cli.errors import DataError
from tbps_cli.loading import samplers
from tbps_cli.loading.batches import Made, Maker, PlainViews, WantedViews, Work
from tbps_cli.loading.image_store import Store
from tbps_cli.loading.samplers import Order
from tbps_cli.loading.slots import Slots
from tbps_cli.text.tokenizer import Tokenizer
from tbps_cli.types import Batch

logger = logging.getLogger("tbps")
_FOR_THE_PARENT = {signal.SIGINT, signal.SIGTERM}
"""Ctrl-C, and what `timeout`, SLURM and systemd send to every process of a group: the main process answers them."""
SamplerName = Literal["random", "identity", "identity-chunks"]


class _Plan(Sampler[Work]):
    """What the loader is to make next; read by PyTorch in the main process each time an epoch begins."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self.slots: Slots | None = None

    def __iter__(self) -> Iterator[Work]:
        """Read a few batches ahead, once the workers have ended what they did before."""
        if self.slots is None:
            yield from self.works
            return
        self.slots.give_up()
        for work in self.works:
            yield replace(work, slot=self.slots.take(len(work.captions)))

    def __len__(self) -> int:
        return len(self.works)


@dataclass
class Loader:
    """Batches of a training split, epoch by epoch.

    size: height and width in pixels. batch: pairs per step over all ranks; this rank's share is made.
    workers: processes that make batches; 0 makes them here, with equal results.
    augmenter: makes the drawn changes in batches on its device, where the images then are; the store behind it
    must hold every image. Without one, each image is changed exactly as the published code does.
    augmented: false leaves the flip alone of every view's steps.
    Raises DataError at once when images are missing.
    """

    split: Split
    views: WantedViews
    tokenizer: Tokenizer
    size: tuple[int, int]
    batch: int = field(kw_only=True)
    seed: int = field(kw_only=True)
    workers: int = field(default=0, kw_only=True)
    rank: int = field(default=0, kw_only=True)
    world: int = field(default=1, kw_only=True)
    sampler: SamplerName = field(default="random", kw_only=True)
    per_identity: int = field(default=4, kw_only=True)
    drop_last: bool = field(default=False, kw_only=True)
    augmented: bool = field(default=True, kw_only=True)
    store: Store | None = field(default=None, kw_only=True)
    augmenter: BatchAugmenter | None = field(default=None, kw_only=True)
    max_pixels: int = field(default=MAX_PIXELS, kw_only=True)
    pin: bool = field(default=False, kw_only=True)
    start_method: str | None = field(default=None, kw_only=True)
    """How worker processes start: fork, spawn or forkserver; None is the platform's way."""

    def __post_init__(self) -> None:
        require_images(self.split.paths, self.split.root, self.split.dataset)
        if self.batch < self.world:
            raise DataError(f"train.batch = {self.batch} is less than one pair for each of {self.world} devices.")
        self._drawn = self.views if self.augmented else PlainViews.of(self.views)
        self.truncated: set[int] = set()
        self._plan = _Plan()
        if self.augmenter is not None:
            self._warn_without_sizes()
        self._maker = Maker(
            self.split,
            self._drawn,
            self.tokenizer,
            self.size,
            self.seed,
            self.store,
            self.max_pixels,
            planned=self.augmenter is not None,
        )
        self._torch_loader = self._new_torch_loader()
        self._running: Generator[Batch] | None = None

    def _new_torch_loader(self) -> DataLoader[Made]:
        self._plan.slots = self._maker.slots = self._new_slots()
        return DataLoader(
            self._maker,
            batch_size=None,
            sampler=self._plan,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            persistent_workers=self.workers > 0,
            worker_init_fn=_start_worker if self.workers else None,
            multiprocessing_context=self.start_method if self.workers else None,
            pin_memory=self.pin,
            generator=torch.Generator(),  # its own, so that no global draw depends on how many epochs began
        )

    def _new_slots(self) -> Slots | None:
        """Memory shared with the workers, where processes inherit it and images need not be pinned on the way.

        A worker has at most two batches before it (PyTorch's prefetching), and training holds two for a moment.
        """
        forked = mp.get_context(self.start_method).get_start_method() == "fork"
        if not self.workers or not forked or self.pin or self.augmenter is not None:
            return None
        try:
            return Slots(2 * self.workers + 2, list(self._drawn.images), -(-self.batch // self.world), self.size)
        except OSError:  # the system promises no such memory
            return None

    def _warn_without_sizes(self) -> None:
        cut = any(how.whole is not None for how in self._drawn.images.values())
        if cut and self.store is not None and self.store.shapes is None:
            logger.warning(
                "store: %s has no original image sizes; crops assume %dx%d. "
                "Rebuild it: tbps prepare-data NAME --decode %dx%d",
                self.store.folder,
                *self.size,
                *self.size,
            )

    def __len__(self) -> int:
        """Iterations of the first epoch; of every epoch with the random sampler."""
        return self.iterations(0)

    def iterations(self, epoch: int) -> int:
        """Iterations of one epoch."""
        if self.sampler != "random":
            return len(self.batches(epoch))
        count = len(self.split)
        kept = count % self.batch > 0 and not (self.drop_last and count > self.batch)
        return count // self.batch + kept

    def batches(self, epoch: int) -> list[Order]:
        """The captions of every global batch of an epoch, in order."""
        person, drop_last = self.split.caption_class, self.drop_last
        if self.sampler == "random":
            return samplers.random_batches(len(person), self.batch, self.seed, epoch, drop_last=drop_last)
        if self.sampler == "identity":
            return samplers.identity_batches(
                person, self.batch, self.per_identity, self.seed, epoch, drop_last=drop_last
            )
        permutation = samplers.random_order(len(person), self.seed, epoch)
        rng = random.Random(f"{self.seed}/{epoch}")
        return samplers.chunk_batches(person, permutation, self.batch, self.per_identity, rng)

    def epoch(self, number: int, start: int = 0) -> Generator[Batch]:
        """The batches of one epoch from iteration `start` on, exactly as an uninterrupted epoch has them."""
        self._running = self._batches_of(number, start)
        return self._running

    def _batches_of(self, epoch: int, start: int) -> Generator[Batch]:
        self._plan.works = list(self._works(epoch))[start:]
        try:
            _ = self._maker.compiled  # here once, and not in every worker
            with _signals_held():
                batches = iter(self._torch_loader)  # the first time, this starts the workers
            for work, made in zip(self._plan.works, batches, strict=True):
                yield self._received(made, work)
        except (Exception, KeyboardInterrupt) as error:
            said = _death_of_a_worker(error) if self.workers else None
            traceback.clear_frames(error.__traceback__)  # they hold the iterator of the worker processes
            self._running = None  # it is ending by itself
            self.close()
            if said is None:
                raise
            raise DataError(
                f"an image-reading process was killed: {said}",
                "Memory is the usual reason (also /dev/shm in containers): set train.workers lower, or to 0.",
            ) from None

    def close(self) -> None:
        """End the worker processes now; the next epoch starts new ones.

        PyTorch ends them when the last reference to their iterator is gone: an unfinished epoch has one, the
        loader the other. Left to the garbage collector after an error, their queues may go first, and the main
        process then waits seconds for each of them.
        """
        if self._running is not None:
            self._running.close()
        self._running = None
        self._torch_loader = self._new_torch_loader()

    def _works(self, epoch: int) -> Iterator[Work]:
        seen: Counter[int] = Counter()
        for rows in self.batches(epoch):
            repeats = []
            for caption in rows.tolist():
                repeats.append(seen[caption])
                seen[caption] += 1
            # fewer rows than ranks: each takes all of them, since none can embed nothing
            whole = len(rows) < self.world
            mine = slice(None) if whole else samplers.share_of(rows, self.rank, self.world)
            yield Work(epoch, rows[mine].tolist(), repeats[mine], whole)

    def _received(self, made: Made, work: Work) -> Batch:
        slots, slot = self._maker.slots, made.pop("slot")
        if "error" in made:
            raise made["error"]
        if slots is not None and slot is not None:
            made["images"] = slots.received(slot, len(work.captions))
        self._count_truncated(made.pop("truncated"))
        if self.augmenter is not None:
            hows = self._drawn.images
            made["images"] = {name: self.augmenter(plan, hows[name]) for name, plan in made["images"].items()}
        return Batch(**made, whole=work.whole)

    def _count_truncated(self, images: Sequence[int]) -> None:
        fresh = [image for image in images if image not in self.truncated]
        if fresh and not self.truncated:
            path = self.split.paths[fresh[0]]
            logger.warning("data: %s is truncated; the readable part is used, as in the papers", path)
        self.truncated.update(fresh)


def _as_it_is(made: Any) -> Any:
    return made


@contextmanager
def _signals_held() -> Iterator[None]:
    """While worker processes start: they begin with these signals blocked, so that none arrives too early for them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(number: int) -> None:
    """Leave signals to the whole process group to the main process, which needs its batches until it has answered."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux; elsewhere nobody can tell who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        threading.Thread(target=_end_for_the_parent, daemon=True).start()


def _end_for_the_parent() -> None:
    """End this process when the main process asks it to, as PyTorch does at exit; nobody else can."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _death_of_a_worker(error: BaseException) -> str | None:
    """What PyTorch says of a worker that was killed; None when the error means something else.

    A pipe may end before the signal arrives that says so. PyTorch's handler of that signal raises wherever the
    main thread is, which had better be here than where the other workers are ended.
    """
    if isinstance(error, EOFError | OSError):
        try:
            time.sleep(1.0)
        except RuntimeError as signalled:
            error = signalled
    return str(error).splitlines()[0] if "DataLoader worker" in str(error) else None
