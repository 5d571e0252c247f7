"""A damaged feature file is refused or read right: it never hangs, never crashes and never gives wrong rows."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.damage import damaged

from tbps_cli.errors import CacheError
from tbps_cli.features import footer, separate
from tbps_cli.features.footer import END, MAGIC
from tbps_cli.features.rows import COLUMNS, Row
from tbps_cli.features.snapshot import read_about
from tbps_cli.features.store import FeatureFile

ROWS = [Row(f"below/{n:02d}.jpg", n, 10**18 + n, f"{n:032x}", "c1", "2024-01-02T03:04:05", n) for n in range(20)]
VECTORS = np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32)
LONGEST = 5.0
"""Seconds of computing that any of them may take, in this process and in one that it starts."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file as we write it."""
    path = tmp_path_factory.mktemp("whole") / "whole.h5"
    file = FeatureFile.open(path, "f1", about={"run": "runs/irra-0001", "folder": "/photos"})
    file.append(ROWS, VECTORS)
    file.compact()
    return path.read_bytes()


@pytest.fixture(scope="module")
def older(whole: bytes) -> bytes:
    """The same as earlier versions wrote it: without a footer."""
    return whole[: -END - int.from_bytes(whole[-END:][:8], "little")]


def opened(path: Path, content: bytes) -> FeatureFile | None:
    """The file, or None when it is refused with one line; in time."""
    path.write_bytes(content)
    began = sum(os.times()[:4])
    try:
        return FeatureFile.open(path, "f1")
    except CacheError as error:
        assert "\n" not in error.message and error.hint
        return None
    finally:
        assert sum(os.times()[:4]) - began < LONGEST


def check(whole: bytes, seeds: range, path: Path) -> int:
    """How many damaged files were read all the same; their rows are the right ones."""
    accepted = 0
    for seed in seeds:
        content = damaged(whole, seed)
        file = opened(path, content)
        # without a footer nothing tells a damaged path or time from a right one
        if file is not None and content.endswith(MAGIC):
            accepted += 1
            assert list(file.known()) == ROWS, f"seed {seed}: rows that were never written"
            differing = np.flatnonzero((np.asarray(file.matrix()) != VECTORS).any(axis=1))
            assert 0 < len(differing) <= 10, f"seed {seed}: only a damaged vector goes by unseen"
    return accepted


def test_damaged_files_are_refused_or_read_right(whole, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(separate, "describe", refuse)
    accepted = check(whole, range(600), tmp_path / "damaged.h5")
    assert 0 < accepted < 200


def refuse(file: object) -> None:
    raise footer.DamagedFile("it has no footer")


def test_damaged_files_without_a_footer_end_too(whole, older, tmp_path) -> None:
    for seed in range(12):
        opened(tmp_path / "damaged.h5", damaged(older, seed))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_damaged_files_neither_hang_nor_crash(whole, older, tmp_path) -> None:
    check(whole, range(1000, 10_000), tmp_path / "damaged.h5")
    for seed in range(1000):
        opened(tmp_path / "older.h5", damaged(older, seed))


def test_a_file_that_ends_early_is_refused_without_asking_libhdf5(older, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(separate, "_server", refuse)
    for length in (10, 100, len(older) // 2, len(older) - 1):
        (tmp_path / "older.h5").write_bytes(older[:length])
        with pytest.raises(CacheError, match=r"it ends early|superblock is damaged"):
            FeatureFile.open(tmp_path / "older.h5", "f1")


def test_the_process_that_reads_files_is_started_again_when_it_was_killed(older, tmp_path) -> None:
    (tmp_path / "older.h5").write_bytes(older)
    for _ in range(2):
        assert len(FeatureFile.open(tmp_path / "older.h5", "f1")) == 20
        server = separate._server()
        os.kill(server._process.pid, signal.SIGKILL)
        server._process.wait()
    assert len(FeatureFile.open(tmp_path / "older.h5", "f1")) == 20


def test_a_fork_has_a_reading_process_of_its_own_and_leaves_its_parents_alone(older, tmp_path) -> None:
    (tmp_path / "older.h5").write_bytes(older)
    code = """if True:
        import os, sys
        from pathlib import Path
        from tbps_cli.features import separate
        from tbps_cli.features.store import FeatureFile
        path = Path(sys.argv[1])
        FeatureFile.open(path, "f1")
        ours = separate._server()
        if os.fork() == 0:
            assert separate._server() is not ours and len(FeatureFile.open(path, "f1")) == 20
            sys.exit()  # what was registered for the end of the process runs here too
        print(os.waitstatus_to_exitcode(os.wait()[1]), separate._server() is ours, len(FeatureFile.open(path, "f1")))
        """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "older.h5")], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0 True 20\n", "")


def test_a_whole_file_is_read_without_libhdf5(whole, tmp_path) -> None:
    (tmp_path / "whole.h5").write_bytes(whole)
    code = "import sys; from pathlib import Path; from tbps_cli.features.snapshot import load"
    code += "; print(len(load(Path(sys.argv[1]), 'f1')[0].rows), 'h5py' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "whole.h5")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "20 False\n"


def test_a_file_of_an_earlier_version_is_read_and_gets_a_footer_when_it_is_written_again(older, tmp_path) -> None:
    path = tmp_path / "older.h5"
    path.write_bytes(older)
    assert read_about(path) == {"run": "runs/irra-0001", "folder": "/photos"}
    file = FeatureFile.open(path, "f1")
    assert (list(file.known()), file.matrix().tolist()) == (ROWS, VECTORS.tolist())
    file.append([Row("new.jpg")], VECTORS[:1])
    file.compact()
    assert path.read_bytes().endswith(MAGIC)


def test_other_readers_of_hdf5_see_the_same_as_before(whole, tmp_path) -> None:
    (tmp_path / "whole.h5").write_bytes(whole)
    with h5py.File(tmp_path / "whole.h5", "r") as file:
        assert set(file) == {"vectors", *COLUMNS}
        assert file["vectors"][:].tolist() == VECTORS.tolist()
        assert file["path"][3] == b"below/03.jpg"


def test_a_file_on_which_libhdf5_never_ends_is_refused(older, tmp_path, caplog) -> None:
    """One length 0 in the heap of variable-length texts, where attributes lie, and HDF5 goes round for ever."""
    content = bytearray(older)
    place = content.index(b"GCOL") + 16
    while struct.unpack_from("<H", content, place)[0]:
        place += 16 + (struct.unpack_from("<Q", content, place + 8)[0] + 7) // 8 * 8
    struct.pack_into("<Q", content, place + 8, 0)
    path = tmp_path / "older.h5"
    path.write_bytes(content)
    with pytest.raises(CacheError, match="HDF5 does not come to an end"):
        FeatureFile.open(path, "f1")
    with pytest.raises(CacheError, match="HDF5 does not come to an end"):
        read_about(path)
    assert len(FeatureFile.open(path, "f1", rebuild=True)) == 0
    assert caplog.text.count("Rebuilding it") == 1


@pytest.mark.parametrize("kind", ["external", "chunked", "text"])
def test_a_foreign_file_is_refused_and_leads_nowhere(kind: str, older, tmp_path) -> None:
    path = tmp_path / "foreign.h5"
    path.write_bytes(older)
    with h5py.File(path, "r+") as file:
        del file["vectors"]
        if kind == "external":
            file["vectors"] = h5py.ExternalLink("/dev/stdin", "vectors")
        elif kind == "chunked":
            file.create_dataset("vectors", data=VECTORS, chunks=(4, 4))
        else:
            file["vectors"] = ["a text"] * len(ROWS)
    with pytest.raises(CacheError, match="cannot be read as a feature file"):
        FeatureFile.open(path, "f1")
