"""Memory that worker processes share with training: images are written once, where training reads them.

A batch that travels through a queue is made in fresh memory and copied into fresh shared memory, and the system clears
each page of both first: 0.7 ms an image of 384 x 128, as much as decoding, resizing and augmenting it. Here a batch's
images go into a slot that has been used before. A slot is free again when the last tensor of its images is gone,
whoever holds it; where none is free, a batch travels the usual way.

The memory has no name: it is inherited by processes that are forked, takes nothing of /dev/shm, and nothing of it is
left when processes are killed.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Slots:
    """Room for the images of some batches: float32 [views, rows, 3, H, W] each.

    Used by the main process, which takes and gives back, and by its workers, which write where they are told to.
    """

    def __init__(self, count: int, views: Sequence[str], rows: int, size: tuple[int, int]) -> None:
        self.views, self.rows, self.size = tuple(views), rows, size
        self._memory = [mmap.mmap(-1, len(self.views) * rows * 3 * size[0] * size[1] * 4) for _ in range(count)]
        self._free = list(range(count))
        self._expected: set[int] = set()

    def take(self, rows: int) -> int | None:
        """A slot for a batch of so many rows that a worker is about to make; None where there is none."""
        if rows > self.rows or not self._free:
            return None
        slot = self._free.pop()  # the one used last, whose pages are likely to be there
        self._expected.add(slot)
        return slot

    def give_up(self) -> None:
        """No batch that was begun comes any more: the workers have ended, or have begun another epoch."""
        self._free += self._expected
        self._expected.clear()

    def images(self, slot: int, rows: int) -> dict[str, Tensor]:
        """View -> [rows, 3, H, W], the memory of the slot; for a worker to write."""
        return self._tensors(np.frombuffer(self._memory[slot], np.float32), rows)

    def received(self, slot: int, rows: int) -> dict[str, Tensor]:
        """The same for training to keep as long as it likes; the slot is free again when it has let go of all of it."""
        self._expected.remove(slot)
        memory = np.frombuffer(self._memory[slot], np.float32)  # tensors hold this very object as long as they live
        weakref.finalize(memory, self._free.append, slot).atexit = False
        return self._tensors(memory, rows)

    def _tensors(self, memory: np.ndarray[tuple[int], np.dtype[np.float32]], rows: int) -> dict[str, Tensor]:
        whole = torch.from_numpy(memory).view(len(self.views), self.rows, 3, *self.size)
        return {view: whole[place, :rows] for place, view in enumerate(self.views)}
