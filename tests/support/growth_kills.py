"""Two processes add to a large feature file, drop rows and merge it in the background while a third reads it; the two
are killed again and again in the middle. For `features/test_growth_kills.py` and `scripts/campaign`."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

from tbps_cli.features.parts import locked, part_paths, unfinished_paths
from tbps_cli.features.store import FeatureFile

WRITER = """
    import sys
    import numpy as np
    from pathlib import Path
    from tbps_cli.features import store
    from tbps_cli.features.rows import Row
    store.FEW, store.SHARE, store.PARTS = 0, 3, 4
    path, name, version = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    file = store.FeatureFile.open(path, "f1")
    while True:
        version += 1
        if "meanwhile" in sys.argv[4]:  # as one tbps index after another
            file = store.FeatureFile.open(path, "f1")
            file.merge_meanwhile(3)
        numbers = [(version * step) % 200 for step in (1, 7, 11)]  # mostly of paths that are there already
        rows = {f"{name}/{number}": Row(f"{name}/{number}", 0, version, f"{name}{version}") for number in numbers}
        file.append(list(rows.values()), np.full((len(rows), 8), version, np.float32))
        print(version, *rows, flush=True)
        if "drop" in sys.argv[4]:
            gone = [f"{name}/{(version * step) % 200}" for step in (3, 5)]
            print(version, *(f"?{path}" for path in gone), flush=True)
            mask = np.isin(file.known().columns["path"], np.array(gone, "S"))
            file.keep(~mask) if version % 7 == 0 else file.drop(mask)
            print(version, *(f"-{path}" for path in gone), flush=True)
        file.settle()
"""
READER = """
    import sys
    from pathlib import Path
    from tbps_cli.features.store import FeatureFile
    seen = 0
    print("ready", flush=True)
    while not Path(sys.argv[2]).exists():
        file = FeatureFile.open(Path(sys.argv[1]), "f1")
        paths = file.known().paths
        assert len(set(paths)) == len(paths), "a path comes twice"
        vectors = file.matrix()[:, 0].tolist() if paths else []  # nobody has written yet
        assert vectors == file.known().columns["mtime"].tolist(), "a vector of another row"
        seen += 1
    print(seen)
"""
WAYS = "meanwhile drop", "meanwhile", "drop", ""
"""What writers do besides appending: merge in the background (else at once), and drop rows."""


@dataclass
class GrowthKills:
    """What came of it."""

    kills: int = 0
    in_parts: int = 0
    """After how many kills there were parts beside the file."""
    in_merges: int = 0
    """After how many a merge in the background was unfinished."""
    galleries: int = 0
    """How often the file was read meanwhile."""
    fault: str | None = None


@dataclass
class _Told:
    """What one writer was told to be safe or gone, and what it has begun to drop."""

    kept: dict[str, int] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)
    version: int = 0


def kill_writers(folder: Path, how: str, kills: int, seed: int = 0) -> GrowthKills:
    """Let two writers and a reader work on one file in an empty folder, and kill the writers so many times."""
    path, over, draw, done = folder / "gallery.h5", folder / "over", random.Random(seed), GrowthKills()
    told = {name: _Told() for name in ("one", "two")}
    said = {name: folder / f"{name}.said" for name in (*told, "reader")}
    reader = _start(READER, said["reader"], path, over)
    writers = {name: _start(WRITER, said[name], path, name, 0, how) for name in told}
    try:
        while done.kills < kills and done.fault is None:
            name, other = draw.sample(list(writers), 2)
            merging = path if "meanwhile" in how and draw.random() < 0.5 else None
            done.fault = _killed(writers[name], said[name], draw.uniform(0, 0.3), merging)
            done.kills += 1
            done.in_parts += len(part_paths(path)) > 0
            done.in_merges += len(unfinished_paths(path)) > 0
            _listen(told[name], said[name])
            fault = _wrong(path, told, said[other])
            done.fault = done.fault or (fault and f"kill {done.kills}: {fault}")
            writers[name] = _start(WRITER, said[name], path, name, told[name].version + 1, how)
        over.touch()
    finally:
        for writer in writers.values():
            writer.kill()
            writer.communicate()
        if not over.exists():
            reader.kill()
    _, err = reader.communicate(timeout=60)
    if reader.returncode:
        done.fault = done.fault or f"the reader: {err.strip().splitlines()[-1]}"
    done.galleries = int(said["reader"].read_text().split()[-1]) if not reader.returncode else 0
    done.fault = done.fault or _wrong_at_the_end(path)
    return done


def _start(code: str, said: Path, *words: object) -> subprocess.Popen[str]:
    """said: where its output goes; a pipe would lose what was read ahead when its reader is done."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, words)]
    with said.open("w") as out:
        return subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)


def _killed(victim: subprocess.Popen[str], said: Path, seconds: float, merging: Path | None) -> str | None:
    """Kill a writer so many seconds after it has begun to write; what went wrong before.

    merging: a file whose next merge in the background is waited for then, since one takes milliseconds only.
    """
    while not said.stat().st_size and victim.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    end = time.monotonic() + 1.0
    while merging is not None and not unfinished_paths(merging) and time.monotonic() < end:
        pass
    victim.send_signal(signal.SIGKILL)
    _, err = victim.communicate(timeout=60)
    return None if victim.returncode == -signal.SIGKILL else f"a writer ended by itself: {err.strip()[-500:]}"


def _listen(told: _Told, said: Path) -> None:
    """Take what a writer said. `?PATH`: it is about to drop that row; `-PATH`: it has."""
    for line in said.read_text().splitlines():
        version, *paths = line.split()
        told.version = max(told.version, int(version))
        for one in paths:
            if one.startswith("?"):
                told.kept.pop(one[1:], None)
            elif one.startswith("-"):
                told.gone[one[1:]] = int(version)
            else:
                told.kept[one] = int(version)


def _wrong(path: Path, told: dict[str, _Told], other: Path) -> str | None:
    """What is wrong with the file right after a kill. other: what the writer says that goes on meanwhile."""
    file = FeatureFile.open(path, "f1")
    found = {row.path: row.mtime for row in file.known()}
    going = {one[1:] for one in other.read_text().split() if one.startswith("?")}
    for writer in told.values():
        lost = {row: at for row, at in writer.kept.items() if row not in going and found.get(row, 0) < at}
        back = {row: at for row, at in writer.gone.items() if 0 < found.get(row, 0) <= at}
        if lost or back:
            return f"acknowledged rows are lost: {lost}" if lost else f"dropped rows are back: {back}"
    return _unlike(file)


def _unlike(file: FeatureFile) -> str | None:
    rows = file.known()
    if len({row.path for row in rows}) != len(rows):
        return "a path comes twice"
    return None if file.matrix()[:, 0].tolist() == [row.mtime for row in rows] else "a vector of another row"


def _wrong_at_the_end(path: Path) -> str | None:
    """What is wrong once nobody writes any more, and when it is merged then."""
    file = FeatureFile.open(path, "f1")
    before = {row.path: row.mtime for row in file.known()}
    file.compact()
    with locked(path, alone=True):  # whoever holds it removes what killed ones left
        pass
    if {row.path: row.mtime for row in FeatureFile.open(path, "f1").known()} != before:
        return "merged at the end, it has other rows"
    left = [place.name for place in path.parent.iterdir() if place.suffix not in (".h5", "", ".said")]
    return _unlike(file) or (f"it leaves {', '.join(left)}" if left else None)
