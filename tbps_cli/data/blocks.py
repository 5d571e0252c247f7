"""Records of sets with millions of images, held as a few blocks of bytes and numbers.

A Python object an image and one a caption would take more memory than the texts themselves, many times over once
worker processes have copies. Here texts stand in one block of UTF-8, and everything else is an array; what is asked
for is made on access, so that `PackedImages` (in `types`) can stand wherever a list of `ImageRecord` can. Taking a
split of them copies positions, never texts.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

T_co = TypeVar("T_co", covariant=True)
Places = NDArray[np.int64]


class Lazy(Sequence[T_co], Generic[T_co]):
    """A sequence whose entries are made when they are asked for; a slice of it is a list."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def at(self, place: int) -> T_co:
        """The entry at a place between 0 and the length."""

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> list[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | list[T_co]:
        if isinstance(index, slice):
            return [self.at(place) for place in range(*index.indices(len(self)))]
        place = int(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"{place} is outside of {len(self)} entries")
        return self.at(place % len(self))

    def __iter__(self) -> Iterator[T_co]:
        return map(self.at, range(len(self)))


class TextBlock(Lazy[str]):
    """Many texts in one block of UTF-8: text i is the bytes from start[i] to stop[i]."""

    def __init__(self, raw: bytes | bytearray, start: Places, stop: Places) -> None:
        self.raw, self.start, self.stop = raw, start, stop

    def __len__(self) -> int:
        return len(self.start)

    def at(self, place: int) -> str:
        return self.bytes_at(place).decode("utf-8", "surrogateescape")

    def bytes_at(self, place: int) -> bytes:
        """One text as it is kept; in the order of these bytes texts are in the order of their characters."""
        return bytes(self.raw[self.start[place] : self.stop[place]])

    def take(self, places: Places) -> TextBlock:
        """Some of the texts, over the same bytes."""
        return TextBlock(self.raw, self.start[places], self.stop[places])


class TextPacker:
    """Collects texts for a `TextBlock`."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self._stop = array("q")

    def __len__(self) -> int:
        return len(self._stop)

    def add(self, text: str) -> None:
        self._raw += text.encode("utf-8", "surrogateescape")
        self._stop.append(len(self._raw))

    def packed(self) -> TextBlock:
        """The block of all texts; the packer must not be used after it."""
        stop = np.frombuffer(self._stop, dtype=np.int64)
        return TextBlock(self._raw, np.concatenate(([0], stop[:-1])).astype(np.int64)[: len(stop)], stop)


class PathBlock(Lazy[Path]):
    """The paths of images below one folder."""

    def __init__(self, root: Path, names: TextBlock) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def at(self, place: int) -> Path:
        return self.root / self.names.at(place)


class Chosen(Lazy[T_co]):
    """Entries of another sequence, by their places in it; a place may be there many times."""

    def __init__(self, entries: Sequence[T_co], places: Places) -> None:
        self.entries, self.places = entries, places

    def __len__(self) -> int:
        return len(self.places)

    def at(self, place: int) -> T_co:
        return self.entries[int(self.places[place])]


class Repeated(Lazy[T_co]):
    """One entry, many times."""

    def __init__(self, entry: T_co, times: int) -> None:
        self.entry, self.times = entry, times

    def __len__(self) -> int:
        return self.times

    def at(self, place: int) -> T_co:
        return self.entry


class Applied(Lazy[T_co]):
    """What a function makes of each entry of another sequence."""

    def __init__(self, function: Callable[[Any], T_co], entries: Sequence[Any]) -> None:
        self.function, self.entries = function, entries

    def __len__(self) -> int:
        return len(self.entries)

    def at(self, place: int) -> T_co:
        return self.function(self.entries[place])
