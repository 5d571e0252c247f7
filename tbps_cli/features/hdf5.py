"""All that h5py does: feature files are written as HDF5, with our footer behind, and those without one are described.

The vectors are written past libhdf5, into the place that it keeps free for them: they are nearly all of the file and
lie in one piece, so that a merge copies them from one file into the other without holding Python up.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from tbps_cli.features import footer
from tbps_cli.features.footer import VECTORS, Contents, DamagedFile
from tbps_cli.features.lookup import Lookup
from tbps_cli.features.rows import COLUMNS, CROP_COLUMNS, Array, Rows
from tbps_cli.features.snapshot import GONE, LOOKUPS, gone_name, lookup_names

if TYPE_CHECKING:
    import h5py

FACTS = "format", "fingerprint", "about", "merged"


def fill(
    path: Path,
    rows: Rows,
    blocks: Iterable[Array],
    shape: tuple[int, int],
    dtype: DTypeLike,
    facts: Mapping[str, str],
    *,
    indexed: bool = False,
    gone: Mapping[str, Array] | None = None,
) -> None:
    """Write all of a feature file under a name that is of no use to anybody yet; whoever calls syncs and renames it.

    blocks: the vectors, [.., E] each, `shape` together. indexed: with what finds its rows. gone: the columns `GONE` of
    rows that have gone. Raises OSError and RuntimeError (as h5py does) where the disk is full.
    """
    import h5py  # of no use to those who only read: a tenth of a second

    columns = {name: rows.columns[name] for name in rows.stored}
    for column in LOOKUPS if indexed else ():
        lookup = Lookup.of(columns[column])
        columns.update(zip(lookup_names(column), (lookup.hash_N, lookup.order_N), strict=True))
    columns |= {gone_name(name): column for name, column in (gone or {}).items()}
    kind = np.dtype(dtype)
    size = shape[0] * shape[1] * kind.itemsize + sum(column.nbytes for column in columns.values())
    _reserve(path, size + 65536)
    with h5py.File(path, "w", locking=False) as file:
        file.attrs.update(facts)
        _keep_free(file, shape, kind)
        for name, content in columns.items():
            file.create_dataset(name, data=content)
        file.flush()
        contents = contents_of(file)
    with path.open("r+b") as finished:
        finished.seek(contents.datasets[VECTORS].offset)
        for block in blocks:
            finished.write(np.ascontiguousarray(block, kind).reshape(-1).view(np.uint8).data)
        footer.write(finished, contents)


def _keep_free(file: h5py.File, shape: tuple[int, int], kind: np.dtype[np.generic]) -> None:
    """A dataset that has its place in the file, and no content yet."""
    import h5py

    wanted = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    wanted.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    wanted.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space, stored = h5py.h5s.create_simple(shape), h5py.h5t.py_create(kind)
    h5py.h5d.create(file.id, VECTORS.encode(), stored, space, wanted)


def contents_of(file: h5py.File) -> Contents:
    """The attributes of a file that we know, and where its datasets lie."""
    import h5py

    facts = {name: str(file.attrs[name]) for name in FACTS if name in file.attrs}
    lookups = (name for column in LOOKUPS for name in lookup_names(column))
    datasets = {}
    for name in (VECTORS, *COLUMNS, *CROP_COLUMNS, *lookups, *map(gone_name, GONE)):
        # other kinds of links lead out of the file
        if isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(file[name], h5py.Dataset):
            datasets[name] = _place_of(file[name])
    return Contents(facts, datasets)


def _place_of(dataset: h5py.Dataset) -> footer.StoredBlock:
    offset = dataset.id.get_offset()
    if offset is None and dataset.size:
        raise DamagedFile(f"{dataset.name} does not lie in one piece")
    return footer.StoredBlock(offset or 0, dataset.dtype.str, dataset.shape)


def _reserve(path: Path, size: int) -> None:
    """Fail now rather than in the middle: HDF5 does not recover well from a full disk."""
    with path.open("r+b" if path.exists() else "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


# Read, in a process of its own ---------------------------------------------------------------------

CPU_SECONDS = 0.25
"""More than enough to find the datasets of a file that is whole, however large they are."""
MEMORY = 8 << 30


def serve() -> None:
    """Describe every file that `features.separate.Server` sends, each in a fork, until it closes the socket."""
    import h5py  # noqa: F401  (once, for all forks)

    with socket.socket(fileno=os.dup(0)) as asked:
        while True:
            _, handles, _, _ = socket.recv_fds(asked, 1, 1)
            if not handles:
                return
            answer, theirs = os.pipe()
            child = os.fork()
            if child == 0:
                os.dup2(handles[0], 0)
                os.dup2(theirs, 1)
                os.dup2(theirs, 2)
                os.closerange(3, 64)
                describe_stdin()
                os._exit(0)
            os.close(theirs)
            os.close(handles[0])
            with os.fdopen(answer, "rb") as pipe:
                text = pipe.read().decode("utf-8", "replace")
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            asked.sendall(json.dumps([status, text]).encode() + b"\n")


def describe_stdin() -> None:
    """Print what the HDF5 file on standard input holds; ends soon, well or badly."""
    import h5py  # before the limits

    with suppress(ImportError, ValueError, OSError, AttributeError):  # Windows has no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        with os.fdopen(0, "rb", buffering=0, closefd=False) as raw, h5py.File(raw, "r") as file:
            found = contents_of(file).to_json()
    except BaseException as error:  # h5py raises whatever libhdf5's message makes it think of
        os.write(2, (str(error).splitlines()[0] if str(error) else type(error).__name__).encode())
        os._exit(1)
    os.write(1, found)
